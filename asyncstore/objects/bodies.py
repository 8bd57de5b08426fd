"""Local files as the bodies of requests: read in blocks as they are sent, and never sent if they have changed."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from asyncstore._core.memory import room_for
from asyncstore.errors import AsyncStoreError, IntegrityError, UnsafePathError
from asyncstore.objects._errors import from_file_error
from asyncstore.objects.base import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["BLOCK_BYTES", "FileBody", "PathBody", "SummedBody"]


class FileBody(Protocol):
    """A file of a known size, any part of which can be read any number of times; its functions block."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        ...

    @property
    def fingerprint(self) -> str:
        """What tells its contents from all others, such as a SHA-256; empty if that is not known."""
        ...

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        """
        Yield the bytes from ``start`` up to ``end`` in blocks, each valid until the next one is asked for.

        Raises:
            IntegrityError: the file is not the one that was seen, or has changed; also after the last block.
        """
        ...


@runtime_checkable
class SummedBody(FileBody, Protocol):
    """A file that has been read before, and may know CRC32s of what it was: who compares them sees that it changed."""

    def crc32(self, start: int, end: int) -> int | None:
        """Return the CRC32 that the bytes from ``start`` up to ``end`` had, ``None`` if that is not known."""
        ...

    def unchecked_blocks(self, start: int, end: int) -> Iterator[memoryview]:
        """Yield bytes like :meth:`blocks`, but of a file whose identity and size alone are as they were."""
        ...


@dataclass(frozen=True, slots=True)
class PathBody:
    """A file that must stay as it was when :meth:`of` looked at it."""

    path: Path
    size_bytes: int
    identity: tuple[int, ...]
    """Inode, size and times, of which one at least changes with the contents."""
    fingerprint: str = ""

    @classmethod
    def of(cls, path: Path) -> Self:
        """
        Look at a file; blocks.

        Raises:
            NotFoundError: it is not there.
            UnsafePathError: it is a FIFO, a device or a folder.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise from_file_error(error, f"read {path}") from error
        if not stat.S_ISREG(status.st_mode):
            raise UnsafePathError(f"{path} is not a regular file")
        return cls(path, status.st_size, _identity(status))

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        """Yield bytes; see :meth:`FileBody.blocks`."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                self._check(descriptor)
                buffer = room_for(min(BLOCK_BYTES, end - start))
                while start < end:
                    read = os.preadv(descriptor, [buffer[: end - start]], start)
                    if not read:
                        break
                    start += read
                    yield buffer[:read]
                self._check(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            if isinstance(error, AsyncStoreError):
                raise
            raise from_file_error(error, f"read {self.path}") from error

    def _check(self, descriptor: int) -> None:
        if _identity(os.fstat(descriptor)) != self.identity:
            raise IntegrityError(f"{self.path} changed while it was read")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
