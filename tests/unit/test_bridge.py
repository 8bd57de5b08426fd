from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from asyncstore._core.bridge import CallPool
from asyncstore.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def pool() -> AsyncIterator[CallPool]:
    pool = CallPool(4, "pool")
    yield pool
    await pool.aclose()


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{name}-")]


async def test_what_is_returned_and_raised_reaches_the_caller(pool: CallPool) -> None:
    def fail() -> None:
        raise ValueError("no")

    assert await pool.call(lambda: 1) == 1
    with pytest.raises(ValueError, match="no"):
        await pool.call(fail)
    calls = [pool.call(partial(int, number)) for number in range(100)]
    assert [await call for call in calls] == list(range(100))


async def test_no_more_calls_are_made_at_once_than_allowed(pool: CallPool) -> None:
    lock = threading.Lock()
    running = most = 0
    together = threading.Barrier(4)

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(timeout=30)
        with lock:
            running -= 1

    await asyncio.wait([pool.call(work) for _ in range(20)])
    assert most == 4
    assert len(threads_of("pool")) == 4


async def test_a_lone_caller_needs_one_thread(pool: CallPool) -> None:
    for _ in range(20):
        await pool.call(lambda: None)
    assert len(threads_of("pool")) == 1


async def test_of_many_threads_the_loop_starts_few(pool: CallPool, monkeypatch: pytest.MonkeyPatch) -> None:
    starters: list[threading.Thread] = []
    start = threading.Thread.start

    def note_and_start(thread: threading.Thread) -> None:
        starters.append(threading.current_thread())
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", note_and_start)
    together = threading.Barrier(4)
    await asyncio.wait([pool.call(partial(together.wait, 30)) for _ in range(4)])
    assert len(starters) == 4
    assert starters.count(threading.current_thread()) == 2


async def test_calls_are_made_by_fewer_threads_where_the_system_allows_no_more(
    pool: CallPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await pool.call(lambda: 1) == 1
    refused: list[threading.Thread] = []

    def refuse(thread: threading.Thread) -> None:
        refused.append(thread)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        calls = [pool.call(partial(int, number)) for number in range(20)]
        assert [await call for call in calls] == list(range(20))
    assert refused
    assert len(threads_of("pool")) == 1
    together = threading.Barrier(4)
    await asyncio.wait([pool.call(partial(together.wait, 30)) for _ in range(4)])
    await pool.aclose()


async def test_a_call_whose_turn_has_not_come_is_not_made_once_it_is_cancelled() -> None:
    pool = CallPool(1, "pool")
    gate = threading.Event()
    made = []
    first = pool.call(gate.wait)
    second = pool.call(lambda: made.append("second"))
    third = pool.call(lambda: made.append("third"))
    second.cancel()
    gate.set()
    await third
    assert first.result()
    assert made == ["third"]
    await pool.aclose()


async def test_the_end_of_a_cancelled_call_can_be_waited_for(pool: CallPool) -> None:
    gate = threading.Event()
    call = pool.call(gate.wait)
    call.cancel()
    end = pool.abandon(call)
    assert end is not None
    assert pool.abandon(call) is end
    assert not end.done()
    gate.set()
    await end
    assert pool.abandon(call) is None


async def test_the_end_of_a_call_that_is_over_is_not_waited_for(pool: CallPool) -> None:
    call = pool.call(lambda: None)
    await call
    assert pool.abandon(call) is None


async def test_closing_ends_the_threads_and_takes_no_more_calls() -> None:
    pool = CallPool(3, "closing")
    await asyncio.wait([pool.call(lambda: None) for _ in range(10)])
    threads = threads_of("closing")
    assert threads
    await pool.aclose()
    await pool.aclose()
    for thread in threads:
        thread.join(timeout=30)
    assert not threads_of("closing")
    with pytest.raises(ClosedError, match="closing is closed"):
        pool.call(lambda: None)


async def test_closing_does_not_wait_for_a_call_that_nobody_waits_for() -> None:
    pool = CallPool(1, "stalled")
    begun, gate = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def stall() -> None:
        loop.call_soon_threadsafe(begun.set)
        gate.wait(30)

    call = pool.call(stall)
    await begun.wait()
    call.cancel()
    await pool.aclose()
    (thread,) = threads_of("stalled")
    gate.set()
    await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()


def test_a_loop_that_ends_first_leaves_no_thread() -> None:
    gate = threading.Event()

    async def abandon() -> None:
        pool = CallPool(1, "orphan")
        pool.call(gate.wait)

    asyncio.run(abandon())
    (thread,) = threads_of("orphan")
    gate.set()
    thread.join(timeout=30)
    assert not thread.is_alive()
