"""Memory for large bodies: in huge pages, and used again, because the first touch of a page costs more than its use."""

from __future__ import annotations

import contextlib
import mmap
import sys
import threading
from collections import defaultdict, deque

__all__ = ["allocate"]

_PAGE_BYTES = 2 * 1024 * 1024
_KEPT_LIMIT_BYTES = 2 * 1024**3
_LOOK_LIMIT = 8


def allocate(size_bytes: int) -> memoryview:
    """Return writable memory, filled with anything; it is free for others when the last view of it is gone."""
    if size_bytes < _PAGE_BYTES or sys.platform != "linux":
        return memoryview(bytearray(size_bytes))
    return _POOL.take(-(-size_bytes // _PAGE_BYTES) * _PAGE_BYTES)[:size_bytes]


class _Pool:
    """Areas by size, in use or not; beyond a limit, areas go back to the system after use."""

    def __init__(self) -> None:
        self._areas: defaultdict[int, deque[mmap.mmap]] = defaultdict(deque)
        self._kept_bytes = 0
        # A process may have servers in several threads.
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> memoryview:
        """Return an area that nobody views."""
        with self._lock:
            areas = self._areas[size_bytes]
            for _ in range(min(_LOOK_LIMIT, len(areas))):
                areas.rotate(-1)
                # Each view holds a reference.
                if _references(areas) == _ALONE:
                    return memoryview(areas[0])
            area = _mapped(size_bytes)
            if self._kept_bytes + size_bytes <= _KEPT_LIMIT_BYTES:
                self._kept_bytes += size_bytes
                areas.append(area)
        return memoryview(area)


def _mapped(size_bytes: int) -> mmap.mmap:
    area = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A kernel may have none.
    with contextlib.suppress(OSError):
        area.madvise(mmap.MADV_HUGEPAGE)
    return area


def _references(areas: deque[mmap.mmap] | deque[object]) -> int:
    return sys.getrefcount(areas[0])


_ALONE = _references(deque([object()]))
_POOL = _Pool()
