"""Objects of one run into another, inside the storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore._core.concurrency import for_each
from asyncstore.catalog._paths import is_marker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.catalog._lane import Passage
    from asyncstore.catalog._paths import Place
    from asyncstore.catalog._plan import PlannedFile
    from asyncstore.catalog._tally import Tally

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
        name = self._target.full_name(file.name)
        with self._tally.failing(name):
            store = self._passage.lane.store
            await store.copy(file.source, self._target.key(file.name), transfer=self._passage.copies())
            if not is_marker(file.name):
                self.digests[file.name] = file.digest
            self._tally.done(name)
