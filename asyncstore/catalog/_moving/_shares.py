"""What one thread may have under way of many small requests, and for how long."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Generic, TypeVar

from asyncstore._core.traffic import LINE_BYTES_S, MIB, Charge
from asyncstore.catalog._plan import Sized

if TYPE_CHECKING:
    from collections import deque

    from asyncstore._core.traffic import Budget, Window

__all__ = ["Share", "charge_for_many", "most_at_once"]

TURN_S = 0.25
"""Afterwards others have their turn, if there are any that wait."""

LONGEST_S = 10.0
"""Afterwards everything is looked at anew."""

MOST_ITEMS = 5000
"""So many are done, and their results taken care of."""

MEMORY_SHARE = 1 / 4
"""Of what the process may hold, this much is for the requests of one thread..."""

LEAST_MEMORY_BYTES = 8 * MIB
"""... but not less than this, unless they need less; a single one may be larger."""

REQUEST_BYTES = 64 * 1024
"""What a request holds besides its payload."""

S = TypeVar("S", bound=Sized)


def most_at_once(charge: Charge) -> int:
    """Return how many requests, each so charged on the average, may use up half of the line."""
    return max(1, int(LINE_BYTES_S / 2 / charge.line_bytes_s))


def charge_for_many(charge: Charge, count: int, memory_bytes: int) -> Charge:
    """Return what many requests of one thread are charged together, where the process may hold ``memory_bytes``."""
    most = max(LEAST_MEMORY_BYTES, int(memory_bytes * MEMORY_SHARE))
    return Charge(count * charge.line_bytes_s, min(count * (charge.memory_bytes + REQUEST_BYTES), most))


class Share(Generic[S]):
    """
    A thread's share of what a storage and the process can take.

    Args:
        items: where the thread takes from what is to be done.
        granted: most requests at once.
        wanted: how many there would be, if there were room.
        memory_bytes: what they hold at most.
        window: the storage's; it may become smaller meanwhile.
        budget: the process'.
    """

    def __init__(
        self, items: deque[S], granted: int, wanted: int, memory_bytes: int, *, window: Window, budget: Budget
    ) -> None:
        self.items = items
        self._granted = granted
        self._wanted = wanted
        self._memory_bytes = memory_bytes
        self._window = window
        self._budget = budget
        self._held_bytes = 0
        self._taken = 0
        self._began_s = time.monotonic()

    def over(self) -> bool:
        """Tell whether to end, so that others have their turn, or to get a larger share."""
        passed_s = time.monotonic() - self._began_s
        if self._taken >= MOST_ITEMS:
            return True
        if passed_s < TURN_S:
            return False
        return self._granted < self._wanted or self._window.crowded or self._budget.crowded or passed_s > LONGEST_S

    def at_once(self) -> int:
        """Return how many requests may be under way now; none more if the next one had no room."""
        try:
            wanted_bytes = self.items[0].size_bytes + REQUEST_BYTES
        except IndexError:
            wanted_bytes = 0
        if self._held_bytes + wanted_bytes > self._memory_bytes:
            return 0
        return min(self._granted, self._window.limit)

    def take(self, size_bytes: int) -> None:
        """Note that a request with such a payload is under way."""
        self._held_bytes += size_bytes + REQUEST_BYTES
        self._taken += 1

    def give_back(self, size_bytes: int) -> None:
        """Note that it is over."""
        self._held_bytes -= size_bytes + REQUEST_BYTES
