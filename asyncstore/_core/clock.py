"""A hybrid logical clock: wall time that never repeats, never goes back, and never falls behind what was read."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FOLLOWED_AHEAD", "PROCESS_CLOCK", "HybridClock"]

FOLLOWED_AHEAD = timedelta(days=1)
"""Stamps that are ahead of this machine's clock by more are mistakes."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class HybridClock:
    """
    Gives strictly increasing UTC times with microsecond resolution; safe to share between loops and threads.

    Stamps that were read from a store are given to :meth:`witness`; whatever is stamped afterwards sorts after them,
    however far this machine's clock is behind the writer's (Kulkarni et al., "Logical Physical Clocks", 2014).
    """

    def __init__(self, wall_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._wall_us = wall_us
        self._last_us = 0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return a time later than every time returned or witnessed before."""
        with self._lock:
            self._last_us = max(self._wall_us(), self._last_us + 1)
            return _EPOCH + timedelta(microseconds=self._last_us)

    def witness(self, seen: datetime) -> None:
        """Take note of a stamp that somebody else gave; one over a day ahead is a mistake, and not followed."""
        seen_us = (seen - _EPOCH) // timedelta(microseconds=1)
        if seen_us > self._wall_us() + FOLLOWED_AHEAD // timedelta(microseconds=1):
            return
        with self._lock:
            self._last_us = max(self._last_us, seen_us)


PROCESS_CLOCK = HybridClock()
"""The clock that all stores of this process share."""
