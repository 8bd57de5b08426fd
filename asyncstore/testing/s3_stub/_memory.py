"""Memory for large bodies: in huge pages, and used again, because the first touch of a page costs more than its use."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
import threading
import weakref
from bisect import bisect_left, insort
from collections import deque

__all__ = ["Arena", "allocate"]

_PAGE_BYTES = 2 * 1024 * 1024
_ARENA_BYTES = 4 * 1024**3


def allocate(size_bytes: int) -> memoryview:
    """Return writable memory, filled with anything; it is free for others when the last view of it is gone."""
    if size_bytes < _PAGE_BYTES or sys.platform != "linux":
        return memoryview(bytearray(size_bytes))
    return _ARENA.take(size_bytes)


class Arena:
    """
    One stretch of memory that bodies of all sizes are cut from, the lowest place first, so that it is touched once.

    What does not fit in it is mapped for itself, and goes back to the system after use.

    Args:
        size_bytes: how much is kept at most; nothing is taken of it before it is used.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._area: mmap.mmap | None = None
        self._free: list[tuple[int, int]] = [(0, size_bytes)]
        # Filled in the midst of anything, also of what is done here: garbage is collected whenever something is made.
        self._returned: deque[tuple[int, int]] = deque()
        # A process may have servers in several threads.
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> memoryview:
        """Return memory that nobody views."""
        whole = -(-size_bytes // _PAGE_BYTES) * _PAGE_BYTES
        with self._lock:
            self._take_back()
            place = next((number for number, (start, end) in enumerate(self._free) if end - start >= whole), None)
            if place is None:
                return memoryview(_mapped(whole))[:size_bytes]
            if self._area is None:
                self._area = _mapped(self._size_bytes)
            start, end = self._free.pop(place)
            if end - start > whole:
                self._free.insert(place, (start + whole, end))
            # Views of it hold this, and nothing else does.
            holder = (ctypes.c_char * size_bytes).from_buffer(self._area, start)
        weakref.finalize(holder, self._returned.append, (start, start + whole))
        return memoryview(holder).cast("B")

    @property
    def free_bytes(self) -> int:
        """How much nobody views."""
        with self._lock:
            self._take_back()
            return sum(end - start for start, end in self._free)

    def _take_back(self) -> None:
        while self._returned:
            start, end = self._returned.popleft()
            place = bisect_left(self._free, (start, end))
            if place < len(self._free) and self._free[place][0] == end:
                end = self._free.pop(place)[1]
            if place and self._free[place - 1][1] == start:
                start = self._free.pop(place - 1)[0]
            insort(self._free, (start, end))


def _mapped(size_bytes: int) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    area = mmap.mmap(-1, size_bytes, flags=flags)
    # A kernel may have none.
    with contextlib.suppress(OSError):
        area.madvise(mmap.MADV_HUGEPAGE)
    return area


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


_ARENA = Arena(min(_ARENA_BYTES, _memory_bytes() // 4 // _PAGE_BYTES * _PAGE_BYTES))
