"""How much goes over the network at once."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from asyncstore._core.traffic import MIB, SHRINK, Budget, Charge, Rate, Window, charge_down, charge_up

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

LINE = 100.0


async def held(budget: Budget, charge: Charge, log: list[str], name: str, go: asyncio.Event) -> None:
    async with budget.claim(charge):
        log.append(f"+{name}")
        await go.wait()
    log.append(f"-{name}")


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# Charges, as AWS' transfer manager has them.


def test_tiny_requests_are_many_and_large_downloads_are_few() -> None:
    line = 10e9 / 8
    assert int(line / charge_down(100).line_bytes_s) == 2000
    assert int(line / charge_down(8 * MIB).line_bytes_s) == 13
    assert int(line / charge_up(8 * MIB).line_bytes_s) == 62
    assert charge_up(0, 7).memory_bytes == 7


# The budget.


async def test_what_does_not_fit_waits_and_comes_in_order() -> None:
    budget, go = Budget(line_bytes_s=LINE, memory_bytes=10), asyncio.Event()
    log: list[str] = []
    async with asyncio.TaskGroup() as group:
        for name, charge in {"a": Charge(60, 1), "b": Charge(60, 1), "c": Charge(10, 1)}.items():
            group.create_task(held(budget, charge, log, name, go))
        await settle()
        # The small one does not overtake, or else the large one might wait for ever.
        assert log == ["+a"]
        go.set()
    assert log[:3] == ["+a", "-a", "+b"] or log[:2] == ["+a", "-a"]
    assert sorted(log) == ["+a", "+b", "+c", "-a", "-b", "-c"]


async def test_a_charge_beyond_the_limits_goes_alone() -> None:
    budget, go = Budget(line_bytes_s=LINE, memory_bytes=10), asyncio.Event()
    log: list[str] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(held(budget, Charge(1000, 1000), log, "huge", go))
        group.create_task(held(budget, Charge(1, 1), log, "small", go))
        await settle()
        assert log == ["+huge"]
        go.set()
    assert sorted(log) == ["+huge", "+small", "-huge", "-small"]


async def test_the_largest_allowance_counts_while_it_lasts() -> None:
    budget, go = Budget(line_bytes_s=LINE, memory_bytes=10), asyncio.Event()
    log: list[str] = []
    async with asyncio.TaskGroup() as group:
        with budget.allowing(20), budget.allowing(15):
            for name in "ab":
                group.create_task(held(budget, Charge(1, 10), log, name, go))
            await settle()
            assert log == ["+a", "+b"]
        group.create_task(held(budget, Charge(1, 10), log, "c", go))
        await settle()
        assert log == ["+a", "+b"]
        go.set()


async def test_who_is_cancelled_while_waiting_takes_nothing() -> None:
    budget, go = Budget(line_bytes_s=LINE, memory_bytes=10), asyncio.Event()
    log: list[str] = []
    first = asyncio.create_task(held(budget, Charge(1, 10), log, "a", go))
    await settle()
    waiting = [asyncio.create_task(held(budget, Charge(1, 10), log, name, go)) for name in "bc"]
    await settle()
    waiting[0].cancel()
    go.set()
    await asyncio.wait([first, *waiting])
    assert log == ["+a", "-a", "+c", "-c"]
    async with budget.claim(Charge(LINE, 10)):
        assert "0 waiting" in repr(budget)


async def test_who_is_cancelled_as_its_turn_comes_gives_it_on() -> None:
    budget, go = Budget(line_bytes_s=LINE, memory_bytes=10), asyncio.Event()
    log: list[str] = []
    first = asyncio.create_task(held(budget, Charge(1, 10), log, "a", go))
    await settle()
    waiting = [asyncio.create_task(held(budget, Charge(1, 10), log, name, asyncio.Event())) for name in "b"]
    last = asyncio.create_task(held(budget, Charge(1, 10), log, "c", go))
    await settle()
    go.set()
    await first
    # Granted by now, and not yet told.
    waiting[0].cancel()
    await asyncio.wait([*waiting, last])
    assert log[-2:] == ["+c", "-c"]


def test_loops_of_several_threads_share_it() -> None:
    budget = Budget(line_bytes_s=LINE, memory_bytes=10)
    held_now, most = [0], [0]
    lock = threading.Lock()

    async def work() -> None:
        for _ in range(50):
            async with budget.claim(Charge(1, 4)):
                with lock:
                    held_now[0] += 4
                    most[0] = max(most[0], held_now[0])
                await asyncio.sleep(0)
                with lock:
                    held_now[0] -= 4

    async def several() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(work())

    threads = [threading.Thread(target=asyncio.run, args=[several()]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 8
    assert "0% of the line, 0/10 bytes, 0 waiting" in repr(budget)


# The window.


async def test_a_window_shrinks_when_it_is_refused_and_grows_when_it_is_served() -> None:
    window = Window(10)
    async with window.several(10) as granted:
        assert granted == 10
        number = window.begin()
        window.refused(number)
        assert window.limit == 7
        # One that was begun before it was heeded tells nothing new.
        window.refused(number)
        assert window.limit == 7
    for _ in range(100):
        async with window.request() as number:
            window.refused(number)
    assert window.limit == 1
    # One more for each round in which all went well.
    for limit in range(2, 10):
        window.served(limit)
        assert window.limit == limit
    window.served(1000)
    assert window.limit == 10


async def test_what_was_not_under_way_is_no_measure_of_what_is_too_much() -> None:
    window = Window(64)
    async with window.several(3):
        window.refused(window.begin())
    assert window.limit == int(2 * 3 * SHRINK)


async def test_several_get_what_there_is_room_for() -> None:
    window = Window(10)
    async with window.several(6) as first, window.several(6) as second:
        crowded = [window.crowded]
        third = asyncio.create_task(window.several(6).__aenter__())
        await settle()
        crowded.append(window.crowded)
        third.cancel()
        await asyncio.wait([third])
    assert (first, second, crowded) == (6, 4, [False, True])
    async with window.several(100) as all_of_it:
        assert all_of_it == 10


async def test_requests_beyond_the_window_wait_for_their_turn() -> None:
    window, go = Window(2), asyncio.Event()
    log: list[str] = []

    async def request(name: str) -> None:
        async with window.request():
            log.append(name)
            await go.wait()

    tasks = [asyncio.create_task(request(name)) for name in "abcd"]
    await settle()
    assert log == ["a", "b"]
    tasks[2].cancel()
    tasks[0].cancel()
    await settle()
    assert log == ["a", "b", "d"]
    go.set()
    await asyncio.wait(tasks)
    assert repr(window) == "<Window 0/2.0 requests, 0 waiting>"


@pytest.mark.parametrize("several", [False, True])
async def test_all_who_hold_and_wait_may_be_cancelled_at_once(several: bool) -> None:
    window = Window(1)

    def enter() -> AbstractAsyncContextManager[int]:
        return window.several(3) if several else window.request()

    async def work() -> None:
        async with enter():
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(work()) for _ in range(5)]
    await settle()
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    async with enter():
        assert "1/1.0" in repr(window)


# The rate.


async def test_a_rate_spreads_bytes_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    rate = Rate(1000.0)
    for _ in range(3):
        await rate.take(500)
    assert [round(seconds, 1) for seconds in slept] == [0.5, 1.0, 1.5]
    await Rate(None).take(10**12)
    assert len(slept) == 3
