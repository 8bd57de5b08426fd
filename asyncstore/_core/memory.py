"""
Memory for payloads.

Memory that is new to a process costs a page fault for each 4 KiB, which on virtual machines takes longer than to hash
them. So while anything is moved, what one payload has left is given to the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
import weakref
from collections import deque
from functools import lru_cache
from typing import Any

__all__ = ["ARENA_BYTES", "ARENA_PAYLOADS", "Arena", "process_arena", "room_for"]

ARENA_PAYLOADS = range(128 * 1024, 4 * 1024 * 1024 + 1)
"""Sizes of payloads that go into an arena: smaller ones cost ``malloc`` nothing, larger ones the faults little."""

ARENA_BYTES = 64 * 1024 * 1024

_MAPPED_BYTES = 1024 * 1024 + 1
"""From this size on memory is mapped; ``malloc`` of glibc does so, too, but only at first."""

_GRAIN_BYTES = 64 * 1024


class Arena:
    """
    Memory that is given away in pieces, each of which comes back as soon as nobody refers to it; for any threads.

    Args:
        size_bytes: how much there is; it is taken from the system piece by piece, and goes back with the arena.
    """

    def __init__(self, size_bytes: int = ARENA_BYTES) -> None:
        grains = size_bytes // _GRAIN_BYTES
        self._mapping = _mapped(grains * _GRAIN_BYTES)
        self._free = (1 << grains) - 1
        """A bit for each grain that nobody has."""
        self._lent: dict[int, _Piece] = {}
        """Keeps the references by where their pieces begin: one that is gone tells nobody."""
        self._returned: deque[_Piece] = deque()
        """Pieces that nobody refers to any more; whoever lets go of one must not wait for the lock."""
        self._lock = threading.Lock()

    def room(self, size_bytes: int) -> memoryview | None:
        """Return so much memory, whatever it holds, ``None`` if there is not as much left in one piece."""
        grains = -(-size_bytes // _GRAIN_BYTES)
        with self._lock:
            while self._returned:
                self._free |= self._returned.popleft().grains
            at = _first_run(self._free, grains)
            if at < 0:
                return None
            memory = _array(grains).from_buffer(self._mapping, at * _GRAIN_BYTES)
            self._lent[at] = piece = _Piece(memory, self._returned.append)
            piece.grains = ((1 << grains) - 1) << at
            self._free &= ~piece.grains
        return memoryview(memory).cast("B")[:size_bytes]


class _Piece(weakref.ref[Any]):
    """A piece of an arena, and whether somebody refers to it."""

    __slots__ = ("grains",)
    grains: int


_process_arena: weakref.ref[Arena] | None = None


def process_arena() -> Arena:
    """Return what :func:`room_for` takes memory from for as long as anybody holds it, in all threads."""
    global _process_arena
    arena = _process_arena() if _process_arena else None
    if arena is None:
        arena = Arena()
        _process_arena = weakref.ref(arena)
    return arena


def room_for(size_bytes: int) -> memoryview:
    """
    Return memory, whatever it holds; if it is megabytes it goes back to the system when nothing is moved any more.

    What ``malloc`` gives for megabytes comes from the heap once some such have been freed (glibc), and stays there.
    """
    if size_bytes in ARENA_PAYLOADS and _process_arena and (arena := _process_arena()):
        room = arena.room(size_bytes)
        if room is not None:
            return room
    if size_bytes < _MAPPED_BYTES:
        return memoryview(bytearray(size_bytes))
    return memoryview(_mapped(size_bytes))


def _mapped(size_bytes: int) -> mmap.mmap:
    # By default it would be shared with processes that are forked meanwhile.
    mapping = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A kernel may have none; where it has, 2 MiB take 0.1 ms to be touched, and in pages of 4 KiB 0.9.
    with contextlib.suppress(OSError, AttributeError):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return mapping


def _first_run(free: int, length: int) -> int:
    """Return where so many bits are set, one beside the other, for the first time; -1 if they are not."""
    done = 1
    while done < length and free:
        step = min(done, length - done)
        free &= free >> step
        done += step
    return (free & -free).bit_length() - 1


@lru_cache(maxsize=128)
def _array(grains: int) -> type[ctypes.Array[ctypes.c_char]]:
    return ctypes.c_char * (grains * _GRAIN_BYTES)


def _begin_anew() -> None:
    """Leave a forked process none of the parent's, which another thread may just have been at."""
    global _process_arena
    _process_arena = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
