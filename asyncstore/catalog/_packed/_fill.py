"""Packs filled from files, and sent from memory. The functions here block; callers run them in threads."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncstore._core.memory import room_for
from asyncstore.catalog._local._files import PATH, READ, is_still, read_file
from asyncstore.catalog._moving._tally import FileError
from asyncstore.catalog._moving._upload import local_file
from asyncstore.catalog._plan import total_bytes
from asyncstore.errors import AsyncStoreError, ClosedError
from asyncstore.objects.bodies import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncstore._core.threads import Stop
    from asyncstore.catalog._plan import PlannedFile

__all__ = ["Filled", "MemoryBody", "Stored", "fill"]


@dataclass(frozen=True, slots=True)
class MemoryBody:
    """Bytes in memory as the body of requests; see :class:`asyncstore.objects.bodies.FileBody`."""

    name: str
    data: memoryview
    fingerprint: str = ""

    @property
    def size_bytes(self) -> int:
        """How many bytes there are."""
        return len(self.data)

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        """Yield the bytes themselves; see :meth:`FileBody.blocks`."""
        for offset in range(start, end, BLOCK_BYTES):
            yield self.data[offset : min(offset + BLOCK_BYTES, end)]


@dataclass(frozen=True, slots=True)
class Stored:
    """Files in a pack, in columns, as there may be very many."""

    files: Sequence[PlannedFile] = ()
    offsets: Sequence[int] = ()
    """Where each begins in the pack."""
    digests: Sequence[str] = ()
    """SHA-256 in hex."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A pack in memory, and what became of each file."""

    data: memoryview
    landed: Stored
    failed: Sequence[tuple[PlannedFile, FileError]]


def fill(files: Sequence[PlannedFile], top: str, stop: Stop) -> Filled:
    """
    Read files, each once, one behind the other, and hash them.

    A file that is not as it was seen, changes, or cannot be read is left out. ``top`` comes before the names of files
    that have no other path.

    Raises:
        ClosedError: ``stop`` said so.
    """
    # One byte more than all of them, by which each shows if it has grown.
    buffer = room_for(total_bytes(files) + 1)
    landed: list[PlannedFile] = []
    offsets: list[int] = []
    digests: list[str] = []
    failed: list[tuple[PlannedFile, FileError]] = []
    offset = 0
    for file in files:
        if stop():
            raise ClosedError("filling a pack was given up")
        end = offset + file.size_bytes
        room = buffer[offset : end + 1]
        try:
            if not _read_fast(file, top, room):
                _read_again(file, top, room)
        except FileError as error:
            failed.append((file, error))
            continue
        landed.append(file)
        offsets.append(offset)
        digests.append(_sha256(room[:-1]).hexdigest())
        offset = end
    return Filled(buffer[:offset], Stored(landed, offsets, digests), failed)


def _read_fast(file: PlannedFile, top: str, room: memoryview) -> bool:
    """Read a file into ``room``, which has a byte more than it; return whether all of the very file that was seen."""
    here = file.here
    assert here is not None
    try:
        descriptor = os.open(here[PATH] or top + file.name, READ)
    except OSError:
        return False
    try:
        # At an offset, as nothing can be taken out of a FIFO so that may have come in its place.
        return os.preadv(descriptor, (room,), 0) == file.size_bytes and is_still(here, descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _read_again(file: PlannedFile, top: str, room: memoryview) -> None:
    """Do the same with less haste, and say what is wrong."""
    try:
        room[:-1], _ = read_file(local_file(file, top))
    except AsyncStoreError as error:
        raise FileError(error) from error


_sha256 = hashlib.sha256
