"""Packed files into a compute data folder."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from asyncstore._core.threads import in_thread
from asyncstore.catalog._local._disk import LocalTurns, mean_bytes
from asyncstore.catalog._local._land import Folders, check_digest, make_folder, write_file
from asyncstore.catalog._moving._tally import FileError
from asyncstore.catalog._packed._read import PIECES_AT_ONCE, bytes_of, digest_of, piece_read
from asyncstore.catalog._packed._shares import pieces
from asyncstore.catalog._packed._turns import all_of, fail_all, portions
from asyncstore.catalog._paths import folder_of, is_marker
from asyncstore.errors import AsyncStoreError, ClosedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore._core.threads import Stop
    from asyncstore.catalog._moving._lane import Passage
    from asyncstore.catalog._moving._tally import Tally
    from asyncstore.catalog._packed._shares import Piece
    from asyncstore.catalog._plan import PlannedFile

__all__ = ["PackedGet"]

_EMPTY_AT_ONCE = 1000
"""Files without bytes that are made in one hop to a thread."""


class PackedGet:
    """
    Gets packed files: only the pieces of packs where they lie; each appears whole and verified, or not at all.

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

    async def run(self, files: Sequence[PlannedFile]) -> None:
        """Get all files."""
        empty = [file for file in files if not file.size_bytes]
        empties = [empty[start : start + _EMPTY_AT_ONCE] for start in range(0, len(empty), _EMPTY_AT_ONCE)]
        filled = await in_thread(pieces, [file for file in files if file.size_bytes])
        turns = LocalTurns(PIECES_AT_ONCE, mean_bytes(files))
        work = [partial(self._make_empty, turns, portion) for portion in empties]
        await all_of([*work, *(partial(self._move, turns, piece) for piece in filled)], limit=PIECES_AT_ONCE)

    async def _move(self, turns: LocalTurns, piece: Piece[PlannedFile]) -> None:
        try:
            async with turns.ahead(), piece_read(self._passage, piece) as (buffer, _):
                outcomes = await turns.run(partial(self._land_all, piece, buffer))
        except AsyncStoreError as error:
            fail_all(self._tally, [file.name for file in piece.files], error)
        else:
            await self._settle(piece.files, outcomes)

    async def _make_empty(self, turns: LocalTurns, files: Sequence[PlannedFile]) -> None:
        await self._settle(files, await turns.run(partial(self._make_all, files)))

    async def _settle(self, files: Sequence[PlannedFile], outcomes: Sequence[FileError | None]) -> None:
        async for portion in portions(list(zip(files, outcomes, strict=True))):
            for file, failure in portion:
                if failure is not None:
                    with self._tally.failing(file.name):
                        raise failure
            landed = [file for file, failure in portion if failure is None]
            self.digests.update((file.name, file.digest) for file in landed if not is_marker(file.name))
            self._tally.done_all([file.name for file in landed])

    def _land_all(self, piece: Piece[PlannedFile], buffer: memoryview, stop: Stop) -> list[FileError | None]:
        with Folders(self._root) as folders:
            return [self._land(file, bytes_of(file, piece, buffer), folders, stop) for file in piece.files]

    def _make_all(self, files: Sequence[PlannedFile], stop: Stop) -> list[FileError | None]:
        with Folders(self._root) as folders:
            return [self._land(file, memoryview(b""), folders, stop) for file in files]

    def _land(self, file: PlannedFile, data: memoryview, folders: Folders, stop: Stop) -> FileError | None:
        if stop():
            raise ClosedError("writing files was given up")
        try:
            if is_marker(file.name):
                make_folder(self._root, folder_of(file.name))
            else:
                check_digest(file.name, digest_of(data), file.digest)
                mtime_ns = file.mtime_ns if self._keep_times else None
                write_file(folders, file.name, data, mode=file.mode, mtime_ns=mtime_ns)
        except AsyncStoreError as error:
            return FileError(error)
        return None
