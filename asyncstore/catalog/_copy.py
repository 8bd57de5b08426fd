"""Objects of one run into another, inside the storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore._core.concurrency import for_each

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore.catalog._lane import Lane
    from asyncstore.catalog._paths import Place
    from asyncstore.catalog._tally import Tally
    from asyncstore.objects.base import ObjectMeta

__all__ = ["Copy"]


class Copy:
    """
    Copies objects with their metadata.

    Args:
        lane: the store and its limits.
        target: where the objects go.
        existing: what is there already, by name; what is the same is not copied again.
        tally: told of each object.
    """

    def __init__(self, lane: Lane, target: Place, *, existing: Mapping[str, ObjectMeta], tally: Tally) -> None:
        self._lane = lane
        self._target = target
        self._existing = existing
        self._tally = tally
        self._digests: dict[str, str] = {}

    async def run(self, objects: Mapping[str, ObjectMeta]) -> dict[str, str]:
        """Copy all objects, by name, and return the digests of those that are in the target now."""

        async def move(name: str) -> None:
            await self._move(name, objects[name])

        await for_each(move, objects, limit=self._lane.workers)
        return self._digests

    async def _move(self, name: str, meta: ObjectMeta) -> None:
        with self._tally.failing(name):
            digest = await self._lane.digest(meta)
            there = await self._lane.holds(self._existing.get(name), meta.size_bytes, digest)
            if not there:
                await self._lane.copy(meta.key, self._target.key(name))
            self._digests[name] = digest
            (self._tally.skip if there else self._tally.done)(name)
