"""How many threads work on local files at the same time: one, unless they are large or the disk is slow."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from asyncstore._core.threads import in_stoppable_thread
from asyncstore.catalog._plan import BULKY_BYTES, total_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from contextlib import AbstractAsyncContextManager

    from asyncstore._core.threads import Stop
    from asyncstore.catalog._plan import Sized

__all__ = ["LocalTurns", "mean_bytes"]

LOOK_S = 0.04
"""How long must have passed, to tell from it what the threads wait for."""

TICK_S = 0.1
"""How often that is looked at while threads work for long."""

DISK_SHARE = 0.5
"""Share of their time that threads spend in local files, from which on another one helps..."""

BUSY = 0.7
"""... unless the process keeps so much of a processor busy: then it is that for which they wait..."""

CONTENDED = 1.25
"""... and from so much on they hold each other up: at the interpreter, and at the folder that they write to."""

AHEAD = 2
"""What is made ready for turns, small files at a time, beyond what has one: more would only fill the memory."""

R = TypeVar("R")


class _Places:
    """Places, of which more or fewer may be had as time goes on; those that are taken stay so until they are left."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken = 0
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Have one within the block."""
        while self._taken >= self._count:
            self._changed.clear()
            await self._changed.wait()
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
            self._changed.set()

    def resize(self, count: int) -> None:
        """Let there be so many."""
        self._count = count
        self._changed.set()


class LocalTurns:
    """
    Turns of threads that read or write many files.

    Small ones are read and written by one thread at a time: they are in the page cache mostly, and there a second one
    makes nothing faster, but costs half as much processor time again, at the interpreter's lock and the folder's (tmpfs
    and ext4, Linux 6). What threads can share is waiting, so more have turns at a time while it is the disk that keeps
    them.

    Args:
        most: threads at a time, however slow the disk is.
        mean_bytes: how large the files are on the average.
    """

    def __init__(self, most: int, mean_bytes: int = 0) -> None:
        self._most = most
        self._bulky = mean_bytes >= BULKY_BYTES
        self.threads = max(1, min(most, os.cpu_count() or 1)) if self._bulky else 1
        """How many have a turn at a time."""
        self._turns = _Places(self.threads)
        self._ahead = _Places(most if self._bulky else self.threads + AHEAD)
        self._local_s = 0.0
        self._running = 0
        self._running_at_s = time.monotonic()
        self._ticking: asyncio.TimerHandle | None = None
        self._looked = (self._running_at_s, time.process_time(), 0.0)

    def __repr__(self) -> str:
        return f"<LocalTurns of {self.threads} threads, at most {self._most}>"

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Have a turn within the block."""
        return self._turns.one()

    def ahead(self) -> AbstractAsyncContextManager[None]:
        """Hold within the block what is made ready for a turn, and have that, too."""
        return self._ahead.one()

    async def run(self, work: Callable[[Stop], R]) -> R:
        """Return what ``work(stop)`` does, all of it in local files, in a thread that has a turn."""
        async with self.turn():
            self._count(+1)
            try:
                return await in_stoppable_thread(work)
            finally:
                self._count(-1)
                self.look()

    def worked(self, seconds: float) -> None:
        """Note that a thread, not one of :meth:`run`, spent so long in local files; in any thread."""
        self._local_s += seconds

    def look(self) -> None:
        """Let more have turns, or fewer, if that is worth it; on the loop."""
        self._count(0)
        then_s, cpu_s, local_s = self._looked
        now_s, now_cpu_s = time.monotonic(), time.process_time()
        passed_s = now_s - then_s
        if self._bulky or passed_s < LOOK_S:
            return
        self._looked = (now_s, now_cpu_s, self._local_s)
        if (self._local_s - local_s) / passed_s <= DISK_SHARE * self.threads:
            return
        busy = (now_cpu_s - cpu_s) / passed_s
        if busy < BUSY:
            self._resize(min(2 * self.threads, self._most))
        elif busy > CONTENDED:
            self._resize(max(1, self.threads // 2))

    def _count(self, change: int) -> None:
        """Note for how long threads of :meth:`run` have worked, and that there is one more or fewer."""
        now_s = time.monotonic()
        self._local_s += self._running * (now_s - self._running_at_s)
        self._running_at_s = now_s
        self._running += change
        if self._running and self._ticking is None:
            self._ticking = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        elif not self._running and self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def _tick(self) -> None:
        # Who works at a slow disk may take long to come back, and others wait for a turn.
        self._ticking = None
        self.look()

    def _resize(self, threads: int) -> None:
        self.threads = threads
        self._turns.resize(threads)
        self._ahead.resize(threads + AHEAD)


def mean_bytes(files: Collection[Sized]) -> int:
    """Return how large files are on the average; none are none."""
    return total_bytes(files) // max(1, len(files))
