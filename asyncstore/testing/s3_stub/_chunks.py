"""Bodies in chunks: HTTP's own, and those of ``aws-chunked``, which look the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from asyncstore.testing.s3_stub._messages import S3Error

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ChunkDecoder"]

_LINE_LIMIT_BYTES = 8 * 1024


class ChunkDecoder:
    """
    Takes chunks apart as they come in, however they are cut; their signatures are not looked at.

    Args:
        take: given what the chunks hold, piece by piece.

    Attributes:
        ended: whether the last chunk and the trailers have come.
        size_bytes: how much the chunks held.
        trailers: headers that came behind the last chunk, names in lower case.
    """

    def __init__(self, take: Callable[[memoryview], object]) -> None:
        self.ended = False
        self.size_bytes = 0
        self.trailers: dict[str, str] = {}
        self._take = take
        self._left = 0
        self._line = b""
        self._expects: Literal["size", "end", "trailer"] = "size"

    def feed(self, data: memoryview) -> int:
        """
        Take what came, up to the end of the last chunk, and return how many bytes that was.

        Raises:
            S3Error: it is not made of chunks.
        """
        at = 0
        while at < len(data) and not self.ended:
            if self._left:
                piece = data[at : at + self._left]
                self._take(piece)
                self._left -= len(piece)
                self.size_bytes += len(piece)
                at += len(piece)
            else:
                at += self._feed_line(bytes(data[at : at + 256]))
        return at

    def _feed_line(self, data: bytes) -> int:
        end = data.find(b"\n") + 1
        self._line += data[:end] if end else data
        if end:
            line, self._line = self._line.strip(b"\r\n"), b""
            self._heed(line)
        elif len(self._line) > _LINE_LIMIT_BYTES:
            raise _malformed("a line has no end")
        return end or len(data)

    def _heed(self, line: bytes) -> None:
        if self._expects == "size":
            self._left = _size(line)
            self._expects = "end" if self._left else "trailer"
        elif self._expects == "trailer":
            name, _, value = line.decode("latin-1").partition(":")
            if name:
                self.trailers[name.strip().lower()] = value.strip()
            self.ended = not line
        elif line:
            raise _malformed("a chunk is longer than it says")
        else:
            self._expects = "size"


def _size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not digits or digits.strip(b"0123456789abcdefABCDEF"):
        raise _malformed("a chunk has no size")
    return int(digits, 16)


def _malformed(reason: str) -> S3Error:
    return S3Error(400, "IncompleteBody", f"The body is not made of chunks: {reason}")
