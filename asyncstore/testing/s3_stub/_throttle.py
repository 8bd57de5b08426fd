"""How many requests are let in: a token bucket, without a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TokenBucket"]

_BURST_S = 0.1


@dataclass(slots=True)
class TokenBucket:
    """Lets so many requests in per second, and after a pause a tenth of that at once; it begins full."""

    _tokens: float = float("inf")
    _at_s: float = 0.0

    def admits(self, rate: float, now_s: float) -> bool:
        """Tell whether a request that comes now is let in; ``rate`` is how many are in a second."""
        earned = (now_s - self._at_s) * rate
        self._tokens = min(self._tokens + earned, max(1.0, rate * _BURST_S))
        self._at_s = now_s
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
