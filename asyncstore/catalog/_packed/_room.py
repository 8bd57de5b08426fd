"""Memory for packs and pieces of them."""

from __future__ import annotations

import mmap

__all__ = ["room_for"]


def room_for(size_bytes: int) -> memoryview:
    """
    Return memory that holds zeros and goes back to the system as soon as nobody refers to it.

    What ``malloc`` gives for megabytes comes from the heap once some such have been freed (glibc), and stays there.
    """
    return memoryview(mmap.mmap(-1, size_bytes)) if size_bytes else memoryview(b"")
