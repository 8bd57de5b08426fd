"""The one retry layer: around the smallest idempotent call, for :class:`UnavailableError` alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import stamina

from asyncstore.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["DEFAULT_RETRY", "NO_RETRY", "RetryPolicy", "retrying"]

T = TypeVar("T")

# stamina logs each retry as a warning; where nobody has set up logging, that would end up on people's terminals.
logging.getLogger("stamina").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to keep trying; delays grow exponentially with jitter."""

    attempts: int = 6
    """Most calls in all."""
    deadline_s: float = 45.0
    """Once so much time has passed since the first failure, the next one is final."""
    initial_delay_s: float = 0.1
    max_delay_s: float = 5.0


DEFAULT_RETRY = RetryPolicy()
NO_RETRY = RetryPolicy(attempts=1)


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
        if policy.attempts <= 1:
            raise
        pending: UnavailableError | None = error
    async for attempt in stamina.retry_context(
        on=UnavailableError,
        attempts=policy.attempts,
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
