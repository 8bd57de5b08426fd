"""Objects of one run into another, inside the storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore._core.concurrency import for_each
from asyncstore.catalog._paths import is_marker
from asyncstore.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.catalog._moving._lane import Passage
    from asyncstore.catalog._moving._tally import Tally
    from asyncstore.catalog._paths import Place
    from asyncstore.catalog._plan import PlannedFile
    from asyncstore.objects.base import ObjectMeta

__all__ = ["Copy"]


class Copy:
    """
    Copies objects with their metadata.

    Args:
        passage: the way to the store.
        target: where the objects go.
        tally: told of each object.
    """

    def __init__(self, passage: Passage, target: Place, tally: Tally) -> None:
        self._passage = passage
        self._target = target
        self._tally = tally
        self.digests: dict[str, str] = {}
        """Of what is in the target now, by name; failures are in the tally."""

    async def run(self, files: Sequence[PlannedFile]) -> None:
        """Copy all objects."""
        workers = self._passage.lane.workers
        await for_each(self._move, files, limit=max(1, min(workers, len(files))))

    async def _move(self, file: PlannedFile) -> None:
        with self._tally.failing(file.name):
            lane, key = self._passage.lane, self._target.key(file.name)
            await lane.store.copy(file.source, key, transfer=self._passage.copies())
            if not is_marker(file.name):
                # Not every storage copies on a condition, and others may write to the source at any time.
                await self._check(file, await lane.head(key))
                self.digests[file.name] = file.digest
            self._tally.done(file.name)

    async def _check(self, file: PlannedFile, copied: ObjectMeta) -> None:
        digests = await self._passage.lane.digests([copied]) if file.digest else {}
        if digests.get(copied.key, file.digest) != file.digest or copied.size_bytes != file.size_bytes:
            raise ConflictError(f"{file.source} was replaced while it was copied: copy it again")
