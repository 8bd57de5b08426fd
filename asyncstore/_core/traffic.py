"""
How much goes over the network at once: one budget for the process, a window for each storage, a rate if one is set.

The budget follows the transfer manager of AWS' Rust SDK: a request is charged the share of the line that its payload
would fill within 30 ms, so that about 2,000 tiny requests or 14 large downloads are in flight at most. The window is
TCP's: a storage that says "slow down" gets fewer requests at once, and one more for each round that goes well.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import threading
import time
from collections import deque
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = [
    "LINE_BYTES_S",
    "MIB",
    "SHRINK",
    "Budget",
    "Charge",
    "Rate",
    "Window",
    "charge_down",
    "charge_up",
    "process_budget",
]

MIB = 1024 * 1024

LINE_BYTES_S = 10e9 / 8
"""What the line of a large machine carries."""

ANSWER_S = 0.03
LEAST_BYTES_S = 5e6 / 8
MOST_DOWN_BYTES_S = 90e6
MOST_UP_BYTES_S = 20e6

SHRINK = 0.7


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request takes of the budget while it is under way."""

    line_bytes_s: float
    memory_bytes: int = 0


def charge_up(payload_bytes: int, memory_bytes: int = 0) -> Charge:
    """Return what sending ``payload_bytes`` is charged; ``memory_bytes`` are held meanwhile."""
    return Charge(min(max(payload_bytes / ANSWER_S, LEAST_BYTES_S), MOST_UP_BYTES_S), memory_bytes)


def charge_down(payload_bytes: int, memory_bytes: int = 0) -> Charge:
    """Return what receiving ``payload_bytes`` is charged; ``memory_bytes`` are held meanwhile."""
    return Charge(min(max(payload_bytes / ANSWER_S, LEAST_BYTES_S), MOST_DOWN_BYTES_S), memory_bytes)


class Budget:
    """
    Limits what is in flight over all threads and event loops of a process: first come, first served.

    A charge larger than a whole limit waits until it can have all of it.

    Args:
        line_bytes_s: what the line carries.
        memory_bytes: most bytes held, unless :meth:`allowing` says more.
    """

    def __init__(self, *, line_bytes_s: float = LINE_BYTES_S, memory_bytes: int = 16 * MIB) -> None:
        self._line = line_bytes_s
        self._memory = memory_bytes
        self._allowed: list[int] = []
        self._line_taken = 0.0
        self._memory_taken = 0
        self._waiting: deque[tuple[Charge, asyncio.Future[None]]] = deque()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return (
            f"<Budget {self._line_taken / self._line:.0%} of the line, "
            f"{self._memory_taken}/{self.memory_bytes} bytes, {len(self._waiting)} waiting>"
        )

    @property
    def memory_bytes(self) -> int:
        """Most bytes held now."""
        return max(self._allowed, default=self._memory)

    @property
    def crowded(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    @contextmanager
    def allowing(self, memory_bytes: int) -> Iterator[None]:
        """Hold up to ``memory_bytes`` within the block; where several such blocks are open, the largest counts."""
        with self._lock:
            self._allowed.append(memory_bytes)
        try:
            yield
        finally:
            with self._lock:
                self._allowed.remove(memory_bytes)

    @asynccontextmanager
    async def claim(self, charge: Charge) -> AsyncIterator[None]:
        """Hold a charge within the ``async with`` block."""
        with self._lock:
            granted = None if not self._waiting and self._fits(charge) else asyncio.get_running_loop().create_future()
            if granted is None:
                self._take(charge)
            else:
                self._waiting.append((charge, granted))
        if granted is not None:
            await self._wait(charge, granted)
        try:
            yield
        finally:
            self._release(charge)

    async def _wait(self, charge: Charge, granted: asyncio.Future[None]) -> None:
        try:
            await granted
        except asyncio.CancelledError:
            with self._lock:
                waits = (charge, granted) in self._waiting
                if waits:
                    self._waiting.remove((charge, granted))
                    self._grant()
            if not waits:
                self._release(charge)
            raise

    def _fits(self, charge: Charge) -> bool:
        line, memory = self._line_taken + charge.line_bytes_s, self._memory_taken + charge.memory_bytes
        return (line <= self._line or not self._line_taken) and (memory <= self.memory_bytes or not self._memory_taken)

    def _take(self, charge: Charge) -> None:
        self._line_taken += charge.line_bytes_s
        self._memory_taken += charge.memory_bytes

    def _release(self, charge: Charge) -> None:
        with self._lock:
            self._line_taken -= charge.line_bytes_s
            self._memory_taken -= charge.memory_bytes
            if not self._memory_taken:
                # What floats have left over.
                self._line_taken = max(self._line_taken, 0.0)
            self._grant()

    def _grant(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            charge, granted = self._waiting.popleft()
            loop = granted.get_loop()
            if loop.is_closed():
                continue
            self._take(charge)
            loop.call_soon_threadsafe(_settle, granted)


def _settle(granted: asyncio.Future[None]) -> None:
    if not granted.done():
        granted.set_result(None)


_process_budget = Budget()


def _begin_anew() -> None:
    # Nothing of what the parent has in flight is under way here.
    global _process_budget
    _process_budget = Budget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def process_budget() -> Budget:
    """Return the budget that all transfers of this process share."""
    return _process_budget


class Window:
    """
    Most requests at once to one storage: fewer after it has said that there are too many, slowly more again (AIMD).

    Whoever waits for a turn gets it in order: first come, first served.

    Args:
        limit: most requests in the best case.
    """

    def __init__(self, limit: int) -> None:
        self._limit = self._most = float(limit)
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._begun = 0
        self._shrunk_at = 0

    def __repr__(self) -> str:
        return f"<Window {self._taken}/{self._limit:.1f} requests, {len(self._waiting)} waiting>"

    @property
    def limit(self) -> int:
        """Most at once now."""
        return int(self._limit)

    @property
    def begun(self) -> int:
        """The number of the request that was begun last."""
        return self._begun

    @property
    def crowded(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    @asynccontextmanager
    async def request(self) -> AsyncIterator[int]:
        """Make a request within the ``async with`` block, when its turn has come; gives its number."""
        await self._enter()
        try:
            yield self.begin()
        finally:
            self._leave()

    @asynccontextmanager
    async def several(self, wanted: int) -> AsyncIterator[int]:
        """Make up to ``wanted`` requests at once within the block; gives how many there is room for, one at least."""
        await self._enter()
        more = max(0, min(wanted, self.limit - self._taken + 1) - 1)
        self._taken += more
        try:
            yield 1 + more
        finally:
            self._taken -= more
            self._leave()

    def begin(self) -> int:
        """Return the number of a request that begins now; any thread may."""
        self._begun = next(self._numbers)
        return self._begun

    def refused(self, number: int) -> None:
        """
        Note that the storage wants fewer requests; any thread may.

        Those begun before it was last heeded do not count. What could have been under way, but was not, is no measure.
        """
        with self._lock:
            if number > self._shrunk_at:
                self._limit = max(1.0, min(self._limit, 2.0 * self._taken) * SHRINK)
                self._shrunk_at = self._begun

    def served(self, count: int = 1) -> None:
        """Note requests that went well: one more at once for as many as there are at once."""
        with self._lock:
            if self._limit >= self._most:
                return
            self._limit = min(self._most, math.sqrt(self._limit**2 + 2 * count))
        self._let_in()

    async def _enter(self) -> None:
        if not self._waiting and self._taken < self.limit:
            self._taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
            else:
                self._leave()
            raise

    def _leave(self) -> None:
        self._taken -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._taken < self.limit:
            turn = self._waiting.popleft()
            # One that was cancelled just now is still in the queue: its task has not run yet.
            if not turn.done():
                self._taken += 1
                turn.set_result(None)


class Rate:
    """
    Spreads bytes over time.

    Args:
        bytes_s: most bytes a second, on the average; ``None`` is no limit.
    """

    def __init__(self, bytes_s: float | None) -> None:
        self._bytes_s = bytes_s
        self._free_at = 0.0

    @property
    def bytes_s(self) -> float | None:
        """Most bytes a second."""
        return self._bytes_s

    async def take(self, size_bytes: int) -> None:
        """Wait until ``size_bytes`` may go."""
        if self._bytes_s is None:
            return
        now = time.monotonic()
        start = max(now, self._free_at)
        self._free_at = start + size_bytes / self._bytes_s
        # What is sent last is waited for as well, so that the rate holds from the first byte to the last.
        await asyncio.sleep(self._free_at - now)
