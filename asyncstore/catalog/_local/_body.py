"""
Large files on their way into the catalog: hashed first, then sent, in blocks; what is sent is what was hashed.

S3 takes metadata only when an upload begins, so a file is read twice. In between it must stay the file that was seen,
and that is checked on every descriptor. SHA-256 is what takes longest, so all else is done beside it, in a thread of
its own. The functions here block; callers run them in threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading
import time
import zlib
from array import array
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from asyncstore._core.memory import room_for
from asyncstore.catalog._local._files import changed, opened, read_at
from asyncstore.errors import ClosedError
from asyncstore.objects._crc32 import joined
from asyncstore.objects.bodies import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from asyncstore.catalog._local._files import LocalFile

    Read = tuple[memoryview, int]
    """A block and its CRC32."""

__all__ = ["Hashed", "LocalBody", "hash_file", "is_fresh"]


FRESH_NS = 60 * 1_000_000_000
"""
How fresh a file is whose times may not tell of changes.

What is written through a mapping to a page that is dirty already does not touch the times, and pages are written back
after 35 s at most (Linux's ``dirty_expire_centisecs``).
"""


_AHEAD = 3
"""Blocks that are read while another is hashed."""

_READ_AHEAD_BYTES = 4 * BLOCK_BYTES
"""From this size on, reading beside hashing is worth a thread."""

T = TypeVar("T")


class Hashed(NamedTuple):
    """What the bytes of a file were when it was hashed."""

    digest: str
    """SHA-256 in hex."""
    sums: Sequence[int]
    """CRC32 of each block of 1 MiB, or nothing."""


@dataclass(frozen=True, slots=True)
class LocalBody:
    """A file as the body of requests; see :class:`asyncstore.objects.bodies.FileBody`."""

    file: LocalFile
    digest: str
    sums: Sequence[int] = ()
    """CRC32 of each block of 1 MiB when it was hashed, or nothing."""

    @property
    def name(self) -> str:
        """Its path."""
        return self.file.path

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        return self.file.size_bytes

    @property
    def fingerprint(self) -> str:
        """Its SHA-256."""
        return self.digest

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        """
        Yield bytes; see :meth:`FileBody.blocks`.

        Whole blocks of 1 MiB are compared with :attr:`sums` before they are yielded, where there are such.
        """
        return self._blocks(start, end, compares=bool(self.sums))

    def unchecked_blocks(self, start: int, end: int) -> Iterator[memoryview]:
        """Yield bytes; see :meth:`SummedBody.unchecked_blocks`."""
        return self._blocks(start, end, compares=False)

    def crc32(self, start: int, end: int) -> int | None:
        """Return what is known; see :meth:`SummedBody.crc32`."""
        if not self.sums or start % BLOCK_BYTES or (end % BLOCK_BYTES and end != self.size_bytes):
            return None
        starts = range(start, end, BLOCK_BYTES)
        return joined((self.sums[begin // BLOCK_BYTES], min(BLOCK_BYTES, end - begin)) for begin in starts)

    def _blocks(self, start: int, end: int, *, compares: bool) -> Iterator[memoryview]:
        with opened(self.file) as descriptor:
            # Not beyond a block's end, so that all blocks but the first are those that the sums are of.
            buffer = room_for(min(BLOCK_BYTES, max(1, end - start)))
            while start < end:
                size = min(BLOCK_BYTES - start % BLOCK_BYTES, end - start)
                block = buffer[:size]
                if read_at(descriptor, block, start) < size or (compares and not self._is_as_hashed(block, start)):
                    raise changed(self.file)
                yield block
                start += size

    def _is_as_hashed(self, block: memoryview, start: int) -> bool:
        whole = start % BLOCK_BYTES == 0 and len(block) == min(BLOCK_BYTES, self.size_bytes - start)
        return not whole or zlib.crc32(block) == self.sums[start // BLOCK_BYTES]


def is_fresh(file: LocalFile) -> bool:
    """Tell whether a file may change without its times' telling: it is hashed just before it is put, with sums."""
    return time.time_ns() - max(file.identity.mtime_ns, file.identity.ctime_ns) < FRESH_NS


def hash_file(file: LocalFile, stop: Callable[[], bool], *, summed: bool = False) -> Hashed:
    """
    Return the SHA-256 of a file of any size.

    Args:
        file: as it was seen.
        stop: asked before each block of 1 MiB whether to give up.
        summed: whether the CRC32s are wanted too.

    Raises:
        IntegrityError: the file is not the one that was seen, or has changed.
        ClosedError: ``stop`` said so.
    """
    # Four bytes for each MiB: what is kept of 5 TiB are 20 MB.
    digest, sums = hashlib.sha256(), array("I")
    with opened(file) as descriptor:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        ahead = _AHEAD if file.size_bytes >= _READ_AHEAD_BYTES else 0
        reading = _read(file, descriptor, buffers=ahead + 1, summed=summed)
        with contextlib.closing(_ahead(reading, ahead) if ahead else reading) as blocks:
            for _ in range(0, file.size_bytes, BLOCK_BYTES):
                if stop():
                    raise ClosedError(f"hashing {file.path!r} was given up")
                block, crc32 = next(blocks)
                digest.update(block)
                if summed:
                    sums.append(crc32)
    return Hashed(digest.hexdigest(), sums)


def _read(file: LocalFile, descriptor: int, *, buffers: int, summed: bool) -> Generator[Read, None, None]:
    """Yield the blocks of a file, each valid until so many more have been asked for; unsummed, CRC32s are zero."""
    size_bytes = min(BLOCK_BYTES, max(1, file.size_bytes))
    memory = itertools.cycle([room_for(size_bytes) for _ in range(buffers)])
    for start in range(0, file.size_bytes, BLOCK_BYTES):
        block = next(memory)[: file.size_bytes - start]
        if read_at(descriptor, block, start) < len(block):
            raise changed(file)
        yield block, zlib.crc32(block) if summed else 0


def _ahead(items: Iterator[T], count: int) -> Generator[T, None, None]:
    """Yield what ``items`` yields, which another thread asks for, up to ``count`` items before they are wanted."""
    wanted: SimpleQueue[bool] = SimpleQueue()
    found: SimpleQueue[T | BaseException | None] = SimpleQueue()

    def ask() -> None:
        try:
            while wanted.get():
                found.put(next(items, None))
        except BaseException as error:
            found.put(error)

    for _ in range(count):
        wanted.put(True)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        while True:
            wanted.put(True)
            item = found.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                return
            yield item
    finally:
        wanted.put(False)
        thread.join()
