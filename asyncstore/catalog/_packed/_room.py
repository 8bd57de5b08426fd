"""Memory for packs and pieces of them."""

from __future__ import annotations

import mmap

__all__ = ["room_for"]


def room_for(size_bytes: int) -> memoryview:
    """
    Return memory that holds zeros and goes back to the system as soon as nobody refers to it.

    What ``malloc`` gives for megabytes comes from the heap once some such have been freed (glibc), and stays there.
    """
    if not size_bytes:
        return memoryview(b"")
    # By default it would be shared with processes that are forked meanwhile.
    return memoryview(mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
