"""What takes the body of an answer as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from asyncstore._core.memory import room_for
from asyncstore.objects._http._parsing import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Blocks", "Collected", "Sink", "TooLongError"]

_PIECE_BYTES = 64 * 1024


class TooLongError(MalformedError):
    """A body is longer than it may be."""


class Sink(Protocol):
    """Takes a body, piece by piece."""

    def room(self) -> memoryview:
        """Return where the next bytes go, one at least."""
        ...

    def add(self, count: int) -> None:
        """Take note that so many bytes stand there now."""
        ...

    def end(self) -> None:
        """Take note that no more will come."""
        ...


class Collected:
    """
    Keeps a body in memory.

    Args:
        size_bytes: of the body, -1 if that is not known.
        most_bytes: more is not kept.

    Raises:
        TooLongError: there is more; of a body of unknown size, some more than that may be kept all the same.
    """

    def __init__(self, size_bytes: int, most_bytes: int) -> None:
        if size_bytes > most_bytes:
            raise TooLongError(f"the answer has a body of {size_bytes} bytes")
        self._whole = room_for(_PIECE_BYTES if size_bytes < 0 else size_bytes)
        self._filled = 0
        self._most_bytes = most_bytes

    def room(self) -> memoryview:
        """Return where the next bytes go; see :class:`Sink`."""
        if self._filled == len(self._whole):
            if self._filled >= self._most_bytes:
                raise TooLongError("the answer has a body without end")
            larger = room_for(2 * max(len(self._whole), _PIECE_BYTES))
            larger[: self._filled] = self._whole
            self._whole = larger
        return self._whole[self._filled :]

    def add(self, count: int) -> None:
        """Take note of bytes; see :class:`Sink`."""
        self._filled += count

    def end(self) -> None:
        """Do nothing."""

    @property
    def body(self) -> memoryview:
        """What has come."""
        return self._whole[: self._filled]


class Blocks:
    """
    Hands a body on in blocks, each valid during the call.

    Args:
        take: given each block.
        block_bytes: how large all are but the last one.
    """

    def __init__(self, take: Callable[[memoryview], None], block_bytes: int) -> None:
        self._take = take
        self._block = room_for(max(1, block_bytes))
        self._filled = 0

    def room(self) -> memoryview:
        """Return where the next bytes go; see :class:`Sink`."""
        return self._block[self._filled :]

    def add(self, count: int) -> None:
        """Take note of bytes; see :class:`Sink`."""
        self._filled += count
        if self._filled == len(self._block):
            self.end()

    def end(self) -> None:
        """Hand on what is left."""
        if self._filled:
            filled, self._filled = self._filled, 0
            self._take(self._block[:filled])
