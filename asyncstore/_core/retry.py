"""The one retry layer: around the smallest idempotent call, for :class:`UnavailableError` alone."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import stamina

from asyncstore.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["DEFAULT_RETRY", "NO_RETRY", "Contention", "RetryPolicy", "retrying"]

T = TypeVar("T")

# stamina logs each retry as a warning; where nobody has set up logging, that would end up on people's terminals.
logging.getLogger("stamina").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to keep trying; delays grow exponentially with jitter."""

    attempts: int | None = 6
    """
    Most calls in all, ``None`` leaves it to the deadline.

    A storage that throttles is there and asks for patience: if the first failure says so, the deadline alone counts.
    """
    deadline_s: float = 45.0
    """Once so much time has passed since the first failure, the next one is final."""
    initial_delay_s: float = 0.1
    max_delay_s: float = 5.0


DEFAULT_RETRY = RetryPolicy()
NO_RETRY = RetryPolicy(attempts=1)


class Contention:
    """
    Waits between compare-and-swaps that somebody else won: at random, up to 10 ms at first and 640 ms in the end.

    The wait is for luck, not for load: among writers that swap again at once, the fastest would always win.
    """

    FIRST_WAIT_S = 0.01
    LONGEST_WAIT_S = 0.64
    DEADLINE_S = 60.0

    def __init__(self) -> None:
        self._wait_s = self.FIRST_WAIT_S
        self._give_up_at = time.monotonic() + self.DEADLINE_S

    async def wait(self) -> bool:
        """Wait for the next try; ``False`` at once when it is time to give up."""
        if time.monotonic() > self._give_up_at:
            return False
        await asyncio.sleep(random.uniform(0, self._wait_s))
        self._wait_s = min(self._wait_s * 2, self.LONGEST_WAIT_S)
        return True


async def retrying(call: Callable[[], Awaitable[T]], policy: RetryPolicy = DEFAULT_RETRY) -> T:
    """
    Await ``call()``; while it raises :class:`UnavailableError`, wait and call again as ``policy`` says.

    The first call runs outside of the retry machinery, so that success costs nothing; ``call`` must be idempotent.

    Raises:
        UnavailableError: the last attempt's, after the attempts or the time ran out.
    """
    try:
        return await call()
    except UnavailableError as error:
        if policy.attempts == 1:
            raise
        pending: UnavailableError | None = error
        attempts = None if error.throttled else policy.attempts
    async for attempt in stamina.retry_context(
        on=UnavailableError,
        attempts=attempts,
        timeout=policy.deadline_s,
        wait_initial=policy.initial_delay_s,
        wait_max=policy.max_delay_s,
        wait_jitter=policy.initial_delay_s,
    ):
        with attempt:
            if pending is not None:
                replayed, pending = pending, None
                raise replayed
            return await call()
    raise AssertionError("stamina ends by returning or raising")
