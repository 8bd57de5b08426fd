from __future__ import annotations

import asyncio

import pytest

from asyncstore._core.retry import NO_RETRY, RetryPolicy, retrying
from asyncstore.errors import AccessDeniedError, UnavailableError

FAST = RetryPolicy(attempts=4, initial_delay_s=0.0001, max_delay_s=0.001)


class Flaky:
    """A call that fails a number of times before it succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return "done"


async def test_success_is_one_call() -> None:
    call = Flaky()
    assert (await retrying(call), call.calls) == ("done", 1)


async def test_what_is_unavailable_is_tried_again() -> None:
    call = Flaky(UnavailableError("one"), UnavailableError("two"), UnavailableError("three"))
    assert (await retrying(call, FAST), call.calls) == ("done", 4)


async def test_the_last_error_is_raised() -> None:
    call = Flaky(*(UnavailableError(f"{number}") for number in range(9)))
    with pytest.raises(UnavailableError, match="3"):
        await retrying(call, FAST)
    assert call.calls == 4


async def test_nothing_else_is_tried_again() -> None:
    call = Flaky(UnavailableError("one"), AccessDeniedError("two"))
    with pytest.raises(AccessDeniedError):
        await retrying(call, FAST)
    assert call.calls == 2


async def test_one_attempt_is_no_retry() -> None:
    call = Flaky(UnavailableError("one"))
    with pytest.raises(UnavailableError):
        await retrying(call, NO_RETRY)
    assert call.calls == 1


async def test_it_gives_up_at_the_deadline() -> None:
    call = Flaky(*(UnavailableError(f"{number}") for number in range(100_000)))
    with pytest.raises(UnavailableError):
        await retrying(call, RetryPolicy(attempts=100_000, deadline_s=0.05, initial_delay_s=0.001, max_delay_s=0.001))
    assert 1 < call.calls < 100_000


async def test_waiting_can_be_cancelled() -> None:
    failed = asyncio.Event()

    async def call() -> None:
        failed.set()
        raise UnavailableError("down")

    waiting = asyncio.create_task(retrying(call, RetryPolicy(initial_delay_s=60, max_delay_s=60)))
    await failed.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
