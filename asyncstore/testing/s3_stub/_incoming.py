"""Bodies on their way in: received where they are to lie, gathered from chunks, or dropped."""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Protocol

from asyncstore.testing.s3_stub._content import BLOCK_BYTES, Content, Discarded
from asyncstore.testing.s3_stub._memory import allocate

if TYPE_CHECKING:
    from asyncstore.testing.s3_stub._messages import Behaviour, Request

__all__ = ["Incoming", "incoming"]

_DISCARDABLE = {"PutObject", "UploadPart"}

# Of all connections: what is received here is looked at before anything else is received.
_SCRATCH = memoryview(bytearray(BLOCK_BYTES))


class Incoming(Protocol):
    """A body that comes piece by piece."""

    def room(self) -> memoryview:
        """Return where to receive what comes next; only for bodies of known size."""
        ...

    def received(self, size_bytes: int) -> None:
        """Take note of what was received there."""
        ...

    def take(self, data: memoryview) -> None:
        """Take what was received elsewhere, and will not stay there."""
        ...

    def content(self) -> Content:
        """Return all that came."""
        ...


def incoming(request: Request, size_bytes: int | None, behaviour: Behaviour) -> Incoming:
    """Return where a request's body is to go; ``size_bytes`` is ``None`` if that is not known."""
    if behaviour.discards and request.operation in _DISCARDABLE:
        return _Dropped(request, behaviour)
    return _Gathered() if size_bytes is None else _Placed(size_bytes)


class _Placed:
    """A body of known size, in memory of that size."""

    def __init__(self, size_bytes: int) -> None:
        self._memory = allocate(size_bytes)
        self._filled = 0

    def room(self) -> memoryview:
        return self._memory[self._filled :]

    def received(self, size_bytes: int) -> None:
        self._filled += size_bytes

    def take(self, data: memoryview) -> None:
        end = self._filled + len(data)
        self._memory[self._filled : end] = data
        self._filled = end

    def content(self) -> Content:
        return Content.of(self._memory)


class _Gathered:
    """A body in chunks, or a small one."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def room(self) -> memoryview:
        raise NotImplementedError

    def received(self, size_bytes: int) -> None:
        raise NotImplementedError

    def take(self, data: memoryview) -> None:
        self._pieces.append(bytes(data))

    def content(self) -> Content:
        if len(self._pieces) == 1:
            return Content.of(self._pieces[0])
        small = sum(map(len, self._pieces)) <= BLOCK_BYTES
        pieces = [b"".join(self._pieces)] if small else self._pieces
        return Content((piece, len(piece)) for piece in pieces if piece)


class _Dropped:
    """A body of which only the size stays, and the sums that are asked for."""

    def __init__(self, request: Request, behaviour: Behaviour) -> None:
        checked = behaviour.checksums == "checked"
        hashed = behaviour.etags == "content" or (checked and "content-md5" in request.headers)
        names = f"{request.headers.get('x-amz-trailer', '')},{','.join(request.headers)}"
        self._md5 = hashlib.md5(usedforsecurity=False) if hashed else None
        self._crc32 = 0 if checked and "x-amz-checksum-crc32" in names.lower() else None
        self._size_bytes = 0

    def room(self) -> memoryview:
        return _SCRATCH

    def received(self, size_bytes: int) -> None:
        self.take(_SCRATCH[:size_bytes])

    def take(self, data: memoryview) -> None:
        self._size_bytes += len(data)
        if self._md5 is not None:
            self._md5.update(data)
        if self._crc32 is not None:
            self._crc32 = zlib.crc32(data, self._crc32)

    def content(self) -> Content:
        return Discarded(self._size_bytes, self._md5.digest() if self._md5 else None, self._crc32)
