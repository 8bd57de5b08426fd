"""Files of a compute data folder into the catalog."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from asyncstore._core.threads import in_stoppable_thread, in_thread
from asyncstore._core.traffic import charge_up
from asyncstore.catalog._local._body import LocalBody, hash_file, is_fresh
from asyncstore.catalog._local._digests import HASHERS
from asyncstore.catalog._local._files import LocalFiles, read_file
from asyncstore.catalog._metadata import file_metadata
from asyncstore.catalog._moving._crew import SmallMoves
from asyncstore.catalog._moving._mover import Mover
from asyncstore.catalog._moving._notes import Notes
from asyncstore.catalog._moving._tally import FileError, of_one_file
from asyncstore.catalog._paths import is_marker
from asyncstore.errors import AsyncStoreError
from asyncstore.objects.small import SmallPut

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from asyncstore.catalog._local._files import LocalFile
    from asyncstore.catalog._moving._lane import Passage
    from asyncstore.catalog._moving._tally import Tally
    from asyncstore.catalog._paths import Place
    from asyncstore.catalog._plan import PlannedFile

__all__ = ["Upload"]

PARTS_AT_ONCE = 16

NO_METADATA: Mapping[str, str] = {}
NO_SUMS: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class _Landed:
    """A small object that is in the catalog now."""

    digest: str
    etag: str


class _OwnBody(LocalBody):
    """A file whose errors are its own, told from those of the storage that it is sent to."""

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        with of_one_file():
            yield from super().blocks(start, end)

    def unchecked_blocks(self, start: int, end: int) -> Iterator[memoryview]:
        with of_one_file():
            yield from super().unchecked_blocks(start, end)


class Upload:
    """
    Puts files; each is in the catalog whole, with the digest of exactly these bytes, or not at all.

    Args:
        passage: the way to the store.
        place: where the files go.
        tally: told of each file.
        top: what comes before the names of local files in their paths.
    """

    def __init__(self, passage: Passage, place: Place, tally: Tally, *, top: str) -> None:
        self._passage = passage
        self._place = place
        self._tally = tally
        self._top = top
        self._hashing = asyncio.Semaphore(HASHERS)
        self.digests: dict[str, str] = {}
        """Of what is in the catalog now, by name; failures are in the tally."""
        self._notes: Notes[tuple[PlannedFile, str, str]] = Notes(self._remember)

    async def run(self, files: Sequence[PlannedFile]) -> None:
        """Put all files."""
        small: SmallMoves[PlannedFile, _Landed] = SmallMoves(
            hands=lambda _: nullcontext(self),
            note=lambda file, landed: self._note(file, landed.digest, landed.etag),
            name_of=lambda file: file.name,
            charge=charge_up,
            key_written=lambda file: self._place.key(file.name),
        )
        await self._notes.during(lambda: Mover(self._passage, self._tally, small, self._put_large).run(files))

    def begin(self, file: PlannedFile) -> SmallPut | FileError:
        """Read a small file; see :class:`Hands`."""
        key = self._place.key(file.name)
        if is_marker(file.name):
            return SmallPut(key, b"", NO_METADATA)
        try:
            data, digest = read_file(local_file(file, self._top))
        except AsyncStoreError as error:
            return FileError(error)
        return SmallPut(key, data, file_metadata(file, digest), digest)

    def end(self, file: PlannedFile, put: SmallPut, etag: str) -> _Landed:
        """Say what is in the catalog now; see :class:`Hands`."""
        return _Landed(put.digest, etag)

    async def _put_large(self, file: PlannedFile) -> None:
        local, store = local_file(file, self._top), self._passage.lane.store
        digest, sums = file.digest, NO_SUMS
        fresh = is_fresh(local)
        if not digest or fresh:
            summed = fresh or (await store.capabilities()).checksums
            async with self._hashing:
                with of_one_file():
                    digest, sums = await in_stoppable_thread(partial(hash_file, local, summed=summed))
        advanced = partial(self._tally.advance, file.name)
        etag = await store.put_file(
            self._place.key(file.name),
            _OwnBody(local, digest, sums),
            metadata=file_metadata(file, digest),
            transfer=self._passage.uploads(advanced, limit=PARTS_AT_ONCE),
        )
        self._note(file, digest, etag)

    def _note(self, file: PlannedFile, digest: str, etag: str) -> None:
        if not is_marker(file.name):
            self.digests[file.name] = digest
            self._notes.add((file, digest, etag))
        self._tally.done(file.name)

    async def _remember(self, landed: Sequence[tuple[PlannedFile, str, str]]) -> None:
        lane, place = self._passage.lane, self._place
        if lane.known is not None:
            await in_thread(lane.known.remember_files, [(file.here, digest) for file, digest, _ in landed if file.here])
            await lane.remember((place.key(file.name), etag, file.size_bytes, digest) for file, digest, etag in landed)


def local_file(file: PlannedFile, top: str) -> LocalFile:
    """Return the file that a plan means; ``top`` comes before its name where it has no other path."""
    assert file.here is not None
    return LocalFiles(top, {file.name: file.here})[file.name]
