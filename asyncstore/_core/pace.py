"""
Whether a commit should overlap with what its callers do meanwhile: found out by trying.

Callers who write again as soon as they are told come back all at once, in one batch; while it is committed they wait,
and while they work nothing is committed. Told in two halves, one half is committed while the other works. That is
faster where a commit takes as long as its callers' work, and slower where it takes long whatever its size: on a slow
disk, or a server that is far away. Neither can be seen from one batch.
"""

from __future__ import annotations

__all__ = ["Pace"]

LEAST_ITEMS = 8
"""Smaller batches are not worth halving."""

TRIAL_COMMITS = 16
TRIAL_ITEMS = 2000
"""A way is tried for so many commits, or for two at least and so many items."""

CROWD_CHANGES = 3
"""Where the number of callers changes so many times over, what was measured before says nothing."""

REPEATED_AFTER_TRIALS = 16
"""How many times in a row the faster way is taken until the other one is tried again."""


class Pace:
    """Measures both ways and takes the faster one, in items a second over some commits; now and then it tries again."""

    def __init__(self) -> None:
        self._overlaps = False
        self._rates: dict[bool, float] = {}
        self._trials = 0
        self._callers = 0
        self._began_s: float | None = None
        self._commits = 0
        self._items = 0

    def overlaps(self, items: int, now_s: float) -> bool:
        """
        Take note of a commit that has ended, and return whether its callers are to be told in two halves.

        Args:
            items: how many were committed.
            now_s: a monotonic time.
        """
        if items < LEAST_ITEMS:
            self.rest()
            return False
        # Half of the callers at a time, where commits overlap.
        callers = 2 * items if self._overlaps else items
        if not self._callers / CROWD_CHANGES <= callers <= self._callers * CROWD_CHANGES:
            self._callers = callers
            self._rates.clear()
            self._begin(now_s)
            return self._overlaps
        if self._began_s is None:
            self._begin(now_s)
            return self._overlaps
        self._commits += 1
        self._items += items
        if self._commits >= TRIAL_COMMITS or (self._commits > 1 and self._items >= TRIAL_ITEMS):
            self._rates[self._overlaps] = self._items / max(now_s - self._began_s, 1e-9)
            self._choose()
            self._begin(now_s)
        return self._overlaps

    def rest(self) -> None:
        """Take note that nothing is to be committed: the time that goes by now is not the commits'."""
        self._began_s = None

    def _begin(self, now_s: float) -> None:
        self._began_s, self._commits, self._items = now_s, 0, 0

    def _choose(self) -> None:
        self._trials += 1
        if len(self._rates) < 2 or self._trials >= REPEATED_AFTER_TRIALS:
            self._trials = 0
            self._overlaps = not self._overlaps
        else:
            self._overlaps = self._rates[True] > self._rates[False]
