"""What to move in which portions. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["BATCH_FILES", "RANGE_BYTES", "SMALL_BYTES", "batches", "ranges"]

MIB = 1024 * 1024

SMALL_BYTES = 8 * MIB
"""Files up to this size go whole, in one request."""

RANGE_BYTES = 8 * MIB
"""How much of a large object one request reads."""

BATCH_FILES = 32
BATCH_BYTES = 4 * MIB


class Sized(Protocol):
    """Something with a size."""

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        ...


S = TypeVar("S", bound=Sized)


def batches(items: Sequence[S], *, workers: int) -> Iterator[list[S]]:
    """
    Cut small files into portions that one worker moves file by file, with one hop to a thread for all of them.

    A portion is half of one worker's share of what is left, so the last ones are single files and no worker ends long
    after the others (guided self-scheduling); it holds at most 32 files or 4 MiB, but always one file.
    """
    start = 0
    while start < len(items):
        end = start + 1
        count = min(BATCH_FILES, max(1, (len(items) - start) // (2 * workers)))
        room = BATCH_BYTES - items[start].size_bytes
        while end < min(start + count, len(items)) and items[end].size_bytes <= room:
            room -= items[end].size_bytes
            end += 1
        yield list(items[start:end])
        start = end


def ranges(size_bytes: int, step: int = RANGE_BYTES) -> list[tuple[int, int]]:
    """Cut a size into ranges (start, end exclusive) of ``step`` bytes; nothing is one empty range."""
    return [(start, min(start + step, size_bytes)) for start in range(0, max(size_bytes, 1), step)]
