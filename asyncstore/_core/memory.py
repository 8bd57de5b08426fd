"""Memory for payloads."""

from __future__ import annotations

import contextlib
import mmap

__all__ = ["MAPPED_BYTES", "room_for"]

MAPPED_BYTES = 1024 * 1024 + 1
"""From this size on memory is mapped; ``malloc`` of glibc does so, too, but only at first."""


def room_for(size_bytes: int) -> memoryview:
    """
    Return memory that holds zeros; if it is megabytes it goes back to the system as soon as nobody refers to it.

    What ``malloc`` gives for megabytes comes from the heap once some such have been freed (glibc), and stays there.
    """
    if size_bytes < MAPPED_BYTES:
        return memoryview(bytearray(size_bytes))
    # By default it would be shared with processes that are forked meanwhile.
    mapping = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A kernel may have none; where it has, 2 MiB take 0.1 ms to be touched, and in pages of 4 KiB 0.9.
    with contextlib.suppress(OSError, AttributeError):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapping)
