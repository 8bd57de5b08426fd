"""
Large files on their way into the catalog: hashed first, then sent, in blocks; what is sent is what was hashed.

S3 takes metadata only when an upload begins, so a file is read twice. In between it must stay the file that was seen,
and that is checked on every descriptor. The functions here block; callers run them in threads.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from asyncstore.catalog._scan import changed, opened
from asyncstore.errors import ClosedError
from asyncstore.objects.bodies import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncstore.catalog._scan import LocalFile

__all__ = ["Hashed", "LocalBody", "hash_file", "is_fresh"]


FRESH_NS = 60 * 1_000_000_000
"""
How fresh a file is whose times may not tell of changes.

What is written through a mapping to a page that is dirty already does not touch the times, and pages are written back
after 35 s at most (Linux's ``dirty_expire_centisecs``).
"""


class Hashed(NamedTuple):
    """What the bytes of a file were when it was hashed."""

    digest: str
    """SHA-256 in hex."""
    sums: tuple[int, ...]
    """CRC32 of each block of 1 MiB, where the file's times alone would not tell that it changed since; or nothing."""


@dataclass(frozen=True, slots=True)
class LocalBody:
    """A file as the body of requests; see :class:`asyncstore.objects.bodies.FileBody`."""

    file: LocalFile
    digest: str
    sums: tuple[int, ...] = ()

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
        with opened(self.file) as descriptor:
            # Not beyond a block's end, so that all blocks but the first are those that the sums are of.
            buffer = memoryview(bytearray(min(BLOCK_BYTES, max(1, end - start))))
            while start < end:
                size = min(BLOCK_BYTES - start % BLOCK_BYTES, end - start)
                block = buffer[:size]
                if _fill(descriptor, block, start) < size or not self._is_as_hashed(block, start):
                    raise changed(self.file)
                yield block
                start += size

    def _is_as_hashed(self, block: memoryview, start: int) -> bool:
        whole = start % BLOCK_BYTES == 0 and len(block) == min(BLOCK_BYTES, self.size_bytes - start)
        return not self.sums or not whole or zlib.crc32(block) == self.sums[start // BLOCK_BYTES]


def is_fresh(file: LocalFile) -> bool:
    """Tell whether a file may change without its times' telling: it is hashed just before it is put, with sums."""
    return time.time_ns() - max(file.identity.mtime_ns, file.identity.ctime_ns) < FRESH_NS


def hash_file(file: LocalFile, stop: Callable[[], bool]) -> Hashed:
    """
    Return the SHA-256 of a file of any size.

    Args:
        file: as it was seen.
        stop: asked before each block of 1 MiB whether to give up.

    Raises:
        IntegrityError: the file is not the one that was seen, or has changed.
        ClosedError: ``stop`` said so.
    """
    digest, sums = hashlib.sha256(), []
    with opened(file) as descriptor:
        summed = is_fresh(file)
        buffer = memoryview(bytearray(min(BLOCK_BYTES, max(1, file.size_bytes))))
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        for start in range(0, file.size_bytes, BLOCK_BYTES):
            if stop():
                raise ClosedError(f"hashing {file.path!r} was given up")
            block = buffer[: file.size_bytes - start]
            if _fill(descriptor, block, start) < len(block):
                raise changed(file)
            digest.update(block)
            if summed:
                sums.append(zlib.crc32(block))
    return Hashed(digest.hexdigest(), tuple(sums))


def _fill(descriptor: int, block: memoryview, offset: int) -> int:
    """Read until a block is full or the file ends, and return how much was read."""
    filled = 0
    while filled < len(block) and (read := os.preadv(descriptor, [block[filled:]], offset + filled)):
        filled += read
    return filled
