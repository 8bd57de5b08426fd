"""How much goes over the network at once."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore._core.traffic import MIB, Budget, Charge, Crowd, Rate, Window, charge_down, charge_up

if TYPE_CHECKING:
    from collections.abc import Callable

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
    async with window.request() as number:
        window.refused(number)
        assert window.limit == 7
        # One that was begun before it was heeded tells nothing new.
        window.refused(number)
        assert window.limit == 7
    for _ in range(100):
        async with window.request() as number:
            window.refused(number)
    assert window.limit == 1
    window.served(3)
    assert window.limit == 4
    window.served(1000)
    assert window.limit == 10


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


@pytest.mark.parametrize("gate", [lambda: Window(1).request, lambda: Crowd(1).place])
async def test_all_who_hold_and_wait_may_be_cancelled_at_once(gate: Callable[[], Any]) -> None:
    enter = gate()

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
        assert "1/1" in repr(enter.__self__) or "1/1.0" in repr(enter.__self__)


# The crowd.


class Clocks:
    def __init__(self) -> None:
        self.cpu_s = self.now_s = 0.0
        self.crowd = Crowd(64, cpu_s=lambda: self.cpu_s, now_s=lambda: self.now_s)

    async def pass_time(self, seconds: float, *, busy: float, items_s: list[float]) -> int:
        async with self.crowd.place():
            self.now_s += seconds
            self.cpu_s += seconds * busy
            self.crowd.timed(items_s)
        return self.crowd.limit


async def test_threads_that_wait_for_each_other_become_fewer() -> None:
    clocks = Clocks()
    for expected in (32, 16, 12, 12):
        assert await clocks.pass_time(0.1, busy=1.2, items_s=[0.001, 0.01]) == expected
    # Somewhat in each other's way is not worth a change.
    assert await clocks.pass_time(0.1, busy=1.2, items_s=[0.001, 0.005]) == 12
    # They wait for the server now.
    for expected in (24, 48, 64, 64):
        assert await clocks.pass_time(0.1, busy=0.2, items_s=[0.02, 0.3]) == expected
    # Too short a time tells nothing, nor do no items.
    assert await clocks.pass_time(0.01, busy=1.2, items_s=[0.001, 0.1]) == 64
    assert await clocks.pass_time(0.01, busy=1.2, items_s=[]) == 64


async def test_threads_that_wait_for_a_server_stay_as_many_though_the_processor_is_busy() -> None:
    clocks = Clocks()
    for _ in range(5):
        assert await clocks.pass_time(0.1, busy=1.0, items_s=[0.02, 0.022, 0.03]) == 64


async def test_a_crowd_lets_in_as_many_as_there_is_room_for() -> None:
    crowd, go = Crowd(2), asyncio.Event()
    log: list[str] = []

    async def work(name: str) -> None:
        async with crowd.place():
            log.append(name)
            await go.wait()

    tasks = [asyncio.create_task(work(name)) for name in "abcd"]
    await settle()
    assert log == ["a", "b"]
    tasks[2].cancel()
    tasks[1].cancel()
    await settle()
    assert log == ["a", "b", "d"]
    go.set()
    await asyncio.wait(tasks)
    assert "0 waiting" in repr(crowd)


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
