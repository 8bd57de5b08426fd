"""Creating alone where the storage honours no conditions: at most one ever enters, whatever the timing."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from asyncstore.errors import AccessDeniedError
from asyncstore.objects.claims import alone_at
from asyncstore.objects.tickets import STALE_S
from tests._simulated import SimulatedStore, run_simulated

CREATORS = 8


async def race(latencies_s: list[float]) -> tuple[int, int]:
    """Let creators race, and return how many won and the most that were inside at the same time."""
    shared: dict[str, bytes] = {}
    made: list[int] = []
    inside = most = 0

    async def create(number: int, latency_s: float) -> None:
        nonlocal inside, most
        store: Any = SimulatedStore(shared, latency_s)

        async def taken() -> bool:
            await asyncio.sleep(latency_s * random.uniform(0.1, 0.9))
            return bool(made)

        await asyncio.sleep(random.uniform(0, 0.05))
        async with alone_at(store, "run.json.turns/", taken) as free:
            if free:
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(latency_s * random.uniform(0, 2))
                made.append(number)
                await asyncio.sleep(latency_s * random.uniform(0, 2))
                inside -= 1

    async with asyncio.TaskGroup() as group:
        for number, latency_s in enumerate(latencies_s):
            group.create_task(create(number, latency_s))
    assert not shared, "tickets left behind"
    return len(made), most


@pytest.mark.parametrize("seed", range(100))
def test_of_many_creators_one_wins(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    random.seed(seed)
    latencies_s = [random.choice([0.001, 0.01, 0.05, 0.3]) for _ in range(random.randint(2, CREATORS))]
    assert run_simulated(monkeypatch, race(latencies_s)) == (1, 1)


def test_alone_it_costs_few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = SimulatedStore({}, 0.01)

    async def create() -> bool:
        async with alone_at(store, "t/", free_always) as free:
            return free

    assert run_simulated(monkeypatch, create())
    assert store.requests == 3


def test_what_a_creator_that_died_left_behind_holds_nobody_up_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = {"t/20000101T000000.000000-dead": b""}
    store: Any = SimulatedStore(shared, 0.01)

    async def create() -> float:
        async with alone_at(store, "t/", free_always) as free:
            assert free
            return asyncio.get_running_loop().time()

    assert STALE_S < run_simulated(monkeypatch, create()) < STALE_S + 5
    assert shared == {}


def test_what_is_taken_is_not_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = SimulatedStore({}, 0.01)

    async def taken() -> bool:
        return True

    async def create() -> bool:
        async with alone_at(store, "t/", taken) as free:
            return free

    assert not run_simulated(monkeypatch, create())
    assert store.requests == 0


def test_an_error_within_is_the_callers_and_leaves_no_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    shared: dict[str, bytes] = {}
    store: Any = SimulatedStore(shared, 0.01)

    async def create() -> None:
        async with alone_at(store, "t/", free_always):
            raise AccessDeniedError("no")

    with pytest.raises(AccessDeniedError, match="no"):
        run_simulated(monkeypatch, create())
    assert shared == {}


async def free_always() -> bool:
    return False
