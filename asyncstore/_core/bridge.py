"""
Blocking calls made from a pool of threads, awaited on the event loop.

A driver that lets go of the interpreter lock while it works is faster called blockingly from here than through its own
async API: its runtime's threads then never wait for the lock, and one wake-up of the loop delivers all results that
have come meanwhile (obstore, 64 tasks, beside 50 µs of Python work for each put: 1.7 times as many).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from asyncstore._core.concurrency import settle
from asyncstore.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CallPool"]

R = TypeVar("R")

CLOSE_DEADLINE_S = 0.5
"""How long closing waits for calls that are under way; those end by themselves, and what they return is lost."""

ABANDONED_FACTOR = 4
"""Most threads, in limits: with those of calls whose callers were cancelled, and that are not over."""


class CallPool:
    """
    Threads that make blocking calls for tasks of one event loop.

    A thread is started for a call that finds all others busy, up to ``limit``; further calls wait for their turn, first
    come, first served. They end with :meth:`aclose`.

    Args:
        limit: most calls at the same time.
        name: what the threads are called, in debuggers and profiles.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._waking = False
        self._threads = 0
        self._unstarted: deque[threading.Thread] = deque()
        self._abandoned = 0
        self._leaving = 0
        self._unfinished: dict[asyncio.Future[Any], asyncio.Future[None] | None] = {}
        self._ended: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"<CallPool {self._name!r}: {len(self._unfinished)} calls, {self._threads}/{self._limit} threads>"

    def call(self, function: Callable[[], R]) -> asyncio.Future[R]:
        """
        Return a future for what ``function()`` returns or raises.

        A call whose future is cancelled is not made if its turn has not come; afterwards it is made to its end, and
        what it returns is thrown away.

        Raises:
            ClosedError: the pool takes no more calls.
        """
        if self._ended is not None:
            raise ClosedError(f"{self._name} is closed")
        future: asyncio.Future[R] = self._loop.create_future()
        self._unfinished[future] = None
        self._calls.put((future, function))
        self._staff()
        return future

    def abandon(self, future: asyncio.Future[Any]) -> asyncio.Future[None] | None:
        """
        Note that a call's future was cancelled; return one for the end of the call, ``None`` if it is over.

        Its thread counts no more until then, so that calls to a server that stalls do not hold up all others.
        """
        if future not in self._unfinished:
            return None
        end = self._unfinished[future]
        if end is None:
            end = self._unfinished[future] = self._loop.create_future()
            self._abandoned += 1
            self._staff()
        return end

    def _staff(self) -> None:
        """Start a thread if calls would wait otherwise."""
        at_work = self._threads - self._abandoned
        if len(self._unfinished) - self._abandoned <= at_work or at_work >= self._limit:
            return
        if self._threads >= ABANDONED_FACTOR * self._limit:
            return
        # A daemon: a program that ends without closing must not wait for a server that stalls.
        thread = threading.Thread(target=self._work, name=f"{self._name}-{self._threads + 1}", daemon=True)
        if not self._threads:
            thread.start()
        else:
            self._unstarted.append(thread)
            # Who starts the one before it will go on with this one.
            if len(self._unstarted) == 1:
                self._loop.call_soon(self._start_next)
        self._threads += 1

    def _start_next(self) -> None:
        """
        Start the next thread, which will start the one after it.

        To start a thread is to wait until it runs, and beside others that may be long: so the loop starts one of many.
        """
        while self._unstarted:
            try:
                self._unstarted.popleft().start()
            except IndexError:
                # Another thread was faster.
                return
            except RuntimeError:
                # There are as many threads as the system allows; those that are there do the work.
                self._wake(self._leave)
            else:
                return

    async def aclose(self) -> None:
        """Take no more calls, and wait a moment for those under way; a second call does nothing."""
        if self._ended is not None:
            return
        self._ended = asyncio.Event()
        if not self._threads:
            return
        for _ in range(self._threads):
            self._calls.put(None)
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await self._ended.wait()
        except TimeoutError:
            return

    def _work(self) -> None:
        self._start_next()
        while (item := self._calls.get()) is not None:
            future, function = item
            if future.cancelled():
                outcome: tuple[asyncio.Future[Any], Any, BaseException | None] = future, None, None
            else:
                try:
                    outcome = future, function(), None
                except BaseException as error:
                    outcome = future, None, error
            self._done.append(outcome)
            # Not kept while this thread waits for the next call.
            del item, future, function, outcome
            if not self._waking:
                self._waking = True
                if not self._wake(self._settle):
                    return
        self._wake(self._leave)

    def _wake(self, callback: Callable[[], None]) -> bool:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            # The loop is closed, so nobody waits.
            return False
        return True

    def _settle(self) -> None:
        # In this order: what comes after the last look finds the flag down, and wakes the loop again.
        self._waking = False
        while self._done:
            future, result, error = self._done.popleft()
            end = self._unfinished.pop(future)
            if end is not None:
                end.set_result(None)
                self._abandoned -= 1
                if self._threads - self._abandoned > self._limit and self._ended is None:
                    self._calls.put(None)
                    self._threads -= 1
                    self._leaving += 1
            settle(future, result, error)

    def _leave(self) -> None:
        if self._leaving:
            self._leaving -= 1
        else:
            self._threads -= 1
        if self._threads == 0 and self._ended is not None:
            self._ended.set()
