"""The bytes of objects: in pieces that are never joined or copied, and zeros of any length that take no memory."""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Piece: TypeAlias = tuple[memoryview | bytes | None, int]
    """Bytes and how many; ``None`` are zeros."""

__all__ = ["BLOCK_BYTES", "Content", "Discarded"]

BLOCK_BYTES = 1024 * 1024

_ZEROS = memoryview(bytes(BLOCK_BYTES))


class Content:
    """
    Bytes that do not change.

    Args:
        pieces: they and their sizes, ``None`` for zeros; none of them is empty.
    """

    __slots__ = ("_ends", "_pieces", "size_bytes")

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        self._pieces = pieces = tuple(pieces)
        # Most objects are in one piece, and many of them are made.
        self._ends = (pieces[0][1],) if len(pieces) == 1 else tuple(accumulate(size for _, size in pieces))
        self.size_bytes = self._ends[-1] if pieces else 0

    @classmethod
    def of(cls, data: memoryview | bytes) -> Self:
        """Return these bytes, uncopied."""
        size = len(data)
        return cls(((data, size),) if size else ())

    @classmethod
    def zeros(cls, size_bytes: int) -> Content:
        """Return that many zeros."""
        return Content([(None, size_bytes)] if size_bytes else [])

    @classmethod
    def joined(cls, contents: Iterable[Content]) -> Content:
        """Return one after another."""
        pieces: list[Piece] = []
        for content in contents:
            for data, size in content._pieces:
                if data is None and pieces and pieces[-1][0] is None:
                    pieces[-1] = (None, pieces[-1][1] + size)
                else:
                    pieces.append((data, size))
        return Content(pieces)

    def __bytes__(self) -> bytes:
        if len(self._pieces) == 1 and isinstance(only := self._pieces[0][0], bytes):
            return only
        return b"".join(self.blocks())

    def cut(self, start: int, end: int) -> Content:
        """Return what lies between two offsets, uncopied."""
        if start <= 0 and end >= self.size_bytes:
            return self
        pieces: list[Piece] = []
        first = bisect_right(self._ends, start)
        at = self._ends[first - 1] if first else 0
        for data, size in self._pieces[first:]:
            if at >= end:
                break
            low, high = max(start - at, 0), min(end - at, size)
            pieces.append((None if data is None else memoryview(data)[low:high], high - low))
            at += size
        return Content(pieces)

    def turned(self, at: int) -> Content:
        """Return the same with the lowest bit of the byte at ``at`` turned; the rest is uncopied."""
        wrong = bytes([bytes(self.cut(at, at + 1))[0] ^ 1])
        return Content.joined([self.cut(0, at), Content.of(wrong), self.cut(at + 1, self.size_bytes)])

    def blocks(self, limit_bytes: int = BLOCK_BYTES) -> Iterator[memoryview]:
        """Yield all bytes in order, in blocks of at most ``limit_bytes``, which is at most ``BLOCK_BYTES``."""
        for data, size in self._pieces:
            view = None if data is None else memoryview(data)
            for at in range(0, size, limit_bytes):
                if view is None:
                    yield _ZEROS[: min(limit_bytes, size - at)]
                else:
                    yield view[at : at + limit_bytes]

    def md5(self) -> bytes:
        """Return the MD5 of the bytes."""
        if len(self._pieces) == 1 and (only := self._pieces[0][0]) is not None:
            return hashlib.md5(only, usedforsecurity=False).digest()
        digest = hashlib.md5(usedforsecurity=False)
        for block in self.blocks():
            digest.update(block)
        return digest.digest()

    def crc32(self) -> int:
        """Return the CRC32 of the bytes."""
        value = 0
        for block in self.blocks():
            value = zlib.crc32(block, value)
        return value


class Discarded(Content):
    """
    Zeros in place of bytes that were dropped as they came.

    Args:
        size_bytes: how many there were.
        md5: the MD5 of what came; ``None`` if it was not taken, and then that of the zeros is given.
        crc32: the same of the CRC32.
    """

    __slots__ = ("_crc32", "_md5")

    def __init__(self, size_bytes: int, md5: bytes | None, crc32: int | None) -> None:
        super().__init__([(None, size_bytes)] if size_bytes else [])
        self._md5 = md5
        self._crc32 = crc32

    def md5(self) -> bytes:
        """Return the MD5 of what came."""
        return super().md5() if self._md5 is None else self._md5

    def crc32(self) -> int:
        """Return the CRC32 of what came."""
        return super().crc32() if self._crc32 is None else self._crc32
