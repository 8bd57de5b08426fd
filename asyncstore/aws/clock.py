"""The time as AWS has it: signatures and expiries are by its clock, and this machine's may be wrong."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

__all__ = ["ServerClock", "parse_http_date"]

TOLERANCE_S = 30.0
"""What two clocks may differ by and count as the same: answers take their time, and say theirs in whole seconds."""

SIGNING_TOLERANCE_S = 240.0
"""What signatures may be off by and surely pass: S3 allows 15 minutes, and clocks go on drifting."""


class ServerClock:
    """
    Tells the time of the servers that keys are for, by this machine's clock and what their answers have said.

    One is shared by whatever uses the same keys. Any thread may use it.

    Args:
        issuers: the clock of whoever gives the keys, by which they expire; theirs is taken for the servers', too, as
            long as these have said nothing else.
    """

    def __init__(self, issuers: ServerClock | None = None) -> None:
        self.issuers = issuers
        self._skew_s: float | None = None

    @property
    def skew_s(self) -> float:
        """How far the servers' clocks are ahead of this machine's, in seconds, as far as is known."""
        if self._skew_s is not None:
            return self._skew_s
        return 0.0 if self.issuers is None else self.issuers.skew_s

    @skew_s.setter
    def skew_s(self, skew_s: float) -> None:
        self._skew_s = skew_s

    def __repr__(self) -> str:
        return f"<ServerClock {self.skew_s:+.0f} s>"

    @property
    def is_far_off(self) -> bool:
        """Whether this machine's own time is not good enough to sign with."""
        return abs(self.skew_s) > SIGNING_TOLERANCE_S

    def now_s(self) -> float:
        """Return the servers' time in seconds since the epoch."""
        return time.time() + self.skew_s

    def learn(self, server_s: float) -> bool:
        """Take over the time that a server has just said; return whether this tells anything new."""
        skew_s = server_s - time.time()
        if abs(skew_s - self.skew_s) <= TOLERANCE_S:
            return False
        self.skew_s = 0.0 if abs(skew_s) <= TOLERANCE_S else skew_s
        return True


def parse_http_date(value: str) -> float | None:
    """Return the seconds since the epoch that a ``Date`` header says, ``None`` if it says none."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
