"""Objects of the catalog into a compute data folder."""

from __future__ import annotations

import hashlib
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncstore._core.traffic import charge_down
from asyncstore.catalog._local._folders import Folders
from asyncstore.catalog._local._land import check_digest, make_folder, write_file
from asyncstore.catalog._metadata import mode_of, mtime_ns_of, stored_digest
from asyncstore.catalog._moving._arrival import LargeArrival
from asyncstore.catalog._moving._crew import SmallMoves
from asyncstore.catalog._moving._mover import Mover
from asyncstore.catalog._moving._notes import Notes
from asyncstore.catalog._moving._tally import FileError
from asyncstore.catalog._paths import folder_of, is_marker
from asyncstore.catalog._plan import SMALL_BYTES
from asyncstore.errors import AsyncStoreError
from asyncstore.objects.small import SmallGet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from asyncstore.catalog._moving._lane import Passage
    from asyncstore.catalog._moving._tally import Tally
    from asyncstore.catalog._plan import PlannedFile
    from asyncstore.objects.base import ObjectMeta
    from asyncstore.objects.small import SmallObjects

__all__ = ["Download"]


KNOWN_S = 0.1
"""How long a folder is taken to be where it was."""


@dataclass(frozen=True, slots=True)
class _Landed:
    """A small file that is here now."""

    digest: str
    meta: ObjectMeta


class Download:
    """
    Gets objects; each file appears whole and verified, or not at all.

    Args:
        passage: the way to the store.
        root: the folder they go to, a real path.
        keep_times: whether files get the modification times that they were put with.
        tally: told of each file.
    """

    def __init__(self, passage: Passage, *, root: str, keep_times: bool, tally: Tally) -> None:
        self._passage = passage
        self._root = root
        self._keep_times = keep_times
        self._tally = tally
        self.digests: dict[str, str] = {}
        """Of what is here now, by name; failures are in the tally."""
        self._notes: Notes[tuple[str, str, int, str]] = Notes(passage.lane.remember)

    async def run(self, files: Sequence[PlannedFile]) -> None:
        """Get all objects."""
        small: SmallMoves[PlannedFile, _Landed] = SmallMoves(
            hands=self._hands,
            note=lambda file, landed: self._note(file, landed.digest, landed.meta),
            name_of=lambda file: file.name,
            charge=charge_down,
        )
        await self._notes.during(lambda: Mover(self._passage, self._tally, small, self._get_large).run(files))

    @contextmanager
    def _hands(self, objects: SmallObjects) -> Iterator[_Hands]:
        with Folders(self._root) as folders:
            yield _Hands(folders, objects, self._time_of)

    async def _get_large(self, file: PlannedFile) -> None:
        # Some servers write ETags otherwise in listings, so the ranges are pinned to what HEAD says.
        meta = await self._passage.lane.head(file.source)
        arrival = LargeArrival(self._passage, self._root, file.name, meta, self._tally)
        digest = await arrival.fetch(mode_of(meta), self._time_of(meta))
        self._note(file, digest, meta)

    def _note(self, file: PlannedFile, digest: str, meta: ObjectMeta) -> None:
        if not is_marker(file.name):
            self.digests[file.name] = digest
        self._notes.add((file.source, meta.etag, meta.size_bytes, digest))
        self._tally.done(file.name)

    def _time_of(self, meta: ObjectMeta) -> int | None:
        return mtime_ns_of(meta) if self._keep_times else None


class _Hands:
    """Gets small objects in one thread; see :class:`asyncstore.catalog._moving._crew.Hands`."""

    def __init__(self, folders: Folders, objects: SmallObjects, time_of: Callable[[ObjectMeta], int | None]) -> None:
        self._folders = folders
        self._objects = objects
        self._time_of = time_of
        self._looked_up_s = time.monotonic()

    def begin(self, file: PlannedFile) -> SmallGet:
        """Ask for an object."""
        return SmallGet(file.source, SMALL_BYTES)

    def end(self, file: PlannedFile, _: SmallGet, answer: tuple[ObjectMeta, bytes | memoryview]) -> _Landed | FileError:
        """Write a file."""
        meta, data = answer
        digest = hashlib.sha256(data).hexdigest()
        with self._objects.landing():
            try:
                self._land(file, meta, data, digest)
            except AsyncStoreError as error:
                return FileError(error)
        return _Landed(digest, meta)

    def _land(self, file: PlannedFile, meta: ObjectMeta, data: bytes | memoryview, digest: str) -> None:
        folders = self._folders
        if time.monotonic() - self._looked_up_s > KNOWN_S:
            folders.forget()
            self._looked_up_s = time.monotonic()
        if is_marker(file.name):
            make_folder(folders.root, folder_of(file.name))
            return
        check_digest(file.name, digest, stored_digest(meta))
        write_file(folders, file.name, data, mode=mode_of(meta), mtime_ns=self._time_of(meta))
