"""Bodies in chunks: HTTP's own, and those of ``aws-chunked``, which look the same."""

from __future__ import annotations

from asyncstore.testing.s3_stub._messages import S3Error

__all__ = ["ChunkDecoder"]


class ChunkDecoder:
    """Takes chunks off a buffer as they come in; signatures and trailers are not looked at."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._ended = False

    @property
    def body(self) -> bytes:
        """What has come so far."""
        return b"".join(self._pieces)

    def feed(self, buffer: bytearray) -> bool:
        """
        Take whole chunks off the buffer and tell whether the body is complete.

        Raises:
            S3Error: it is not made of chunks.
        """
        while not self._ended:
            end = buffer.find(b"\r\n")
            if end < 0:
                return False
            size = _size(bytes(buffer[:end]))
            if size == 0:
                self._ended = True
                del buffer[: end + 2]
                break
            start = end + 2
            if len(buffer) < start + size + 2:
                return False
            self._pieces.append(bytes(memoryview(buffer)[start : start + size]))
            del buffer[: start + size + 2]
        return self._skip_trailers(buffer)

    def _skip_trailers(self, buffer: bytearray) -> bool:
        while (end := buffer.find(b"\r\n")) >= 0:
            del buffer[: end + 2]
            if end == 0:
                return True
        return False


def _size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not digits or digits.strip(b"0123456789abcdefABCDEF"):
        raise S3Error(400, "IncompleteBody", "A chunk has no size")
    return int(digits, 16)
