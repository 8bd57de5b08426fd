"""Turns of threads at local files: one at a time in the page cache, more while the disk is slow or files are large."""

from __future__ import annotations

import asyncio
import os
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from asyncstore._core.concurrency import for_each
from asyncstore.catalog._local import _disk
from asyncstore.catalog._local._disk import AHEAD, BUSY, CONTENDED, DISK_SHARE, LOOK_S, LocalTurns, mean_bytes
from asyncstore.catalog._plan import BULKY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from asyncstore._core.threads import Stop

MOST = 8


class Clocks:
    """Time as the turns see it, which passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.cpu_s = 10.0

    def pass_by(self, seconds: float, *, busy: float) -> None:
        self.now_s += seconds
        self.cpu_s += seconds * busy


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    fake = SimpleNamespace(
        monotonic=lambda: clocks.now_s, perf_counter=lambda: clocks.now_s, process_time=lambda: clocks.cpu_s
    )
    monkeypatch.setattr(_disk, "time", fake)
    return clocks


def look_after(turns: LocalTurns, clocks: Clocks, *, busy: float, local: float, seconds: float = 1.0) -> int:
    """Let time pass, of which each thread spends a share in local files; return how many have turns then."""
    turns.worked(seconds * local * turns.threads)
    clocks.pass_by(seconds, busy=busy)
    turns.look()
    return turns.threads


async def test_threads_double_while_the_disk_keeps_them(clocks: Clocks) -> None:
    turns = LocalTurns(MOST)
    assert [look_after(turns, clocks, busy=0.1, local=0.9) for _ in range(5)] == [2, 4, 8, 8, 8]


@pytest.mark.parametrize(
    ("busy", "local", "seconds"),
    [
        pytest.param(BUSY + 0.01, 1.0, 1.0, id="the processor keeps them"),
        pytest.param(0.0, DISK_SHARE, 1.0, id="the storage keeps them"),
        pytest.param(0.0, 1.0, LOOK_S / 2, id="too early to tell"),
    ],
)
async def test_one_thread_stays_alone(clocks: Clocks, busy: float, local: float, seconds: float) -> None:
    assert look_after(LocalTurns(MOST), clocks, busy=busy, local=local, seconds=seconds) == 1


async def test_threads_that_hold_each_other_up_become_fewer(clocks: Clocks) -> None:
    turns = LocalTurns(MOST)
    for _ in range(3):
        look_after(turns, clocks, busy=0.0, local=1.0)
    assert look_after(turns, clocks, busy=CONTENDED, local=1.0) == MOST
    assert [look_after(turns, clocks, busy=CONTENDED + 0.1, local=1.0) for _ in range(4)] == [4, 2, 1, 1]


async def test_large_files_have_a_thread_for_each_processor(clocks: Clocks) -> None:
    threads = min(MOST, os.cpu_count() or 1)
    turns = LocalTurns(MOST, BULKY_BYTES)
    assert turns.threads == threads
    assert look_after(turns, clocks, busy=threads, local=1.0) == threads
    assert LocalTurns(1, BULKY_BYTES).threads == 1
    assert LocalTurns(MOST, BULKY_BYTES - 1).threads == 1


async def most_within(place: Callable[[], AbstractAsyncContextManager[None]]) -> int:
    """Return how many of many callers are within the block at a time."""
    most = now = 0

    async def work(_: int) -> None:
        nonlocal most, now
        async with place():
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

    await for_each(work, range(40), limit=20)
    return most


async def test_no_more_have_a_turn_at_a_time_than_there_are_places(clocks: Clocks) -> None:
    turns = LocalTurns(MOST)
    look_after(turns, clocks, busy=0.0, local=1.0)
    assert await most_within(turns.turn) == 2


async def test_what_is_made_ready_grows_with_the_turns(clocks: Clocks) -> None:
    turns = LocalTurns(MOST)
    assert await most_within(turns.ahead) == 1 + AHEAD
    look_after(turns, clocks, busy=0.0, local=1.0)
    assert await most_within(turns.ahead) == 2 + AHEAD
    look_after(turns, clocks, busy=CONTENDED + 0.1, local=1.0)
    assert await most_within(turns.ahead) == 1 + AHEAD
    assert await most_within(LocalTurns(MOST, BULKY_BYTES).ahead) == MOST


async def test_a_place_that_is_given_up_is_nobody_elses(clocks: Clocks) -> None:
    turns = LocalTurns(MOST)
    look_after(turns, clocks, busy=0.0, local=1.0)
    ends = [asyncio.Event(), asyncio.Event(), asyncio.Event()]
    began: list[int] = []
    two_began = asyncio.Event()

    async def work(number: int) -> None:
        async with turns.turn():
            began.append(number)
            if len(began) > 1:
                two_began.set()
            await ends[number].wait()

    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(work(number)) for number in range(3)]
        await two_began.wait()
        look_after(turns, clocks, busy=2.0, local=1.0)
        ends[0].set()
        await calls[0]
        assert began == [0, 1]
        ends[1].set()
        await calls[1]
        ends[2].set()
    assert began == [0, 1, 2]
    # Taken back before anybody gave it up, it is there again.
    look_after(turns, clocks, busy=0.0, local=1.0)
    async with turns.turn(), asyncio.timeout(10), turns.turn():
        assert turns.threads == 2


async def test_others_begin_while_one_waits_long_for_the_disk() -> None:
    turns = LocalTurns(MOST)
    all_began, number = asyncio.Event(), iter(range(1, MOST + 1))
    loop = asyncio.get_running_loop()
    end = threading.Event()

    def wait(_: Stop) -> None:
        if next(number) == 3:
            loop.call_soon_threadsafe(all_began.set)
        end.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(turns.run(wait))
        await all_began.wait()
        end.set()
    assert turns.threads >= 3


async def test_work_is_stopped_when_its_caller_is_cancelled() -> None:
    turns = LocalTurns(MOST)
    began, ended = threading.Event(), threading.Event()

    def endless(stop: Stop) -> None:
        began.set()
        while not stop():
            ended.wait(0.001)
        ended.set()

    call = asyncio.create_task(turns.run(endless))
    await asyncio.to_thread(began.wait)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()
    assert await turns.run(lambda stop: stop()) is False


def test_the_mean_of_nothing_is_nothing() -> None:
    assert mean_bytes([]) == 0
    assert mean_bytes([SimpleNamespace(size_bytes=size) for size in (1, 2, 6)]) == 3
