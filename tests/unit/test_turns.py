"""Writers of different speeds at one object, in simulated time: each gets its turn within a bounded number of swaps."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import AccessDeniedError, UnavailableError
from asyncstore.objects.memory import MemoryObjectStore
from asyncstore.objects.tickets import STALE_S
from asyncstore.objects.turns import DEADLINE_S, FIRST_WAIT_S, LOOK_EVERY, LOSSES, PATIENCE_S, Turns
from tests._simulated import SimulatedStore, run_simulated

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    Simulated = Callable[[Coroutine[Any, Any, Any]], Any]

DURATION_S = 60.0


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    random.seed(20261121)
    return partial(run_simulated, monkeypatch)


async def compete(latencies_s: Sequence[float], begins: Mapping[int, float] | None = None) -> list[int]:
    """Let a writer for each latency swap as often as it can, and return who swapped, in order."""
    loop = asyncio.get_running_loop()
    shared: dict[str, bytes] = {}
    winners: list[int] = []

    async def write(number: int, latency_s: float) -> None:
        await asyncio.sleep((begins or {}).get(number, 0))
        turns = Turns(SimulatedStore(shared, latency_s), "run.json.turns/")  # type: ignore[arg-type]
        known: int | None = None
        while loop.time() < DURATION_S:
            await turns.wait()
            while True:
                remembered = known is not None
                if known is None:
                    await asyncio.sleep(latency_s / 2)
                    known = len(winners)
                    await asyncio.sleep(latency_s * random.uniform(0.5, 0.9))
                await asyncio.sleep(latency_s * random.uniform(0.4, 0.6))
                won = known == len(winners)
                if won:
                    winners.append(number)
                await asyncio.sleep(latency_s / 2)
                known = len(winners) if won and len(winners) == known + 1 else None
                if won:
                    await turns.won()
                    break
                assert remembered or await turns.lost(), f"writer {number} gave up"

    async with asyncio.TaskGroup() as group:
        for number, latency_s in enumerate(latencies_s):
            group.create_task(write(number, latency_s))
    assert not shared, "tickets left behind"
    return winners


def longest_wait(winners: Sequence[int], number: int, begin: int = 0) -> int:
    """Return the most swaps that others made between two of this writer's own."""
    places = [begin, *(place for place, winner in enumerate(winners) if winner == number)]
    return max(later - earlier - 1 for earlier, later in pairwise(places))


@pytest.mark.parametrize(
    "latencies_s",
    [
        pytest.param([0.01] * 2, id="two alike"),
        pytest.param([0.01] * 8, id="eight alike"),
        pytest.param([0.01] * 32, id="thirty-two alike"),
        pytest.param([0.01, 0.02], id="one twice as slow"),
        pytest.param([0.01, 0.1], id="one ten times as slow"),
        pytest.param([0.005, 0.01, 0.01, 0.02, 0.02, 0.03, 0.05, 0.08], id="all different"),
        pytest.param([*[0.01] * 7, 0.2], id="seven fast, one very slow"),
    ],
)
def test_no_writer_waits_long_however_slow_it_is(simulated: Simulated, latencies_s: Sequence[float]) -> None:
    winners = simulated(compete(latencies_s))
    for number, latency_s in enumerate(latencies_s):
        others = [*latencies_s[:number], *latencies_s[number + 1 :]]
        # It takes a ticket when it has lost a few times, and they swap while it reads, tries and waits.
        waits_s = sum(FIRST_WAIT_S * 2**loss for loss in range(1, LOSSES + 1))
        unlucky_s = (LOSSES + 2) * 3 * latency_s + waits_s
        meanwhile = sum(unlucky_s / other for other in others)
        assert longest_wait(winners, number) <= meanwhile + len(others) * (LOOK_EVERY + 1)
    assert all(winners.count(number) > 5 for number in range(len(latencies_s)))


def test_a_newcomer_gets_its_turn_beside_one_who_fills_all_of_the_time(simulated: Simulated) -> None:
    winners = simulated(compete([0.01, 0.05], begins={1: 20.0}))
    before = 20 / 0.01
    assert winners.index(1) < before + (PATIENCE_S + 3 * 0.05) / 0.01 + 2 * LOOK_EVERY


def test_alone_it_costs_one_look_in_eight_swaps(simulated: Simulated) -> None:
    async def swap_alone() -> int:
        tickets = SimulatedStore({}, 0.01)
        turns = Turns(tickets, "run.json.turns/")  # type: ignore[arg-type]
        for _ in range(80):
            await turns.wait()
            await turns.won()
        return tickets.requests

    assert simulated(swap_alone()) == 80 // LOOK_EVERY


def test_a_ticket_left_behind_is_removed(simulated: Simulated) -> None:
    async def wait_behind() -> tuple[float, dict[str, bytes]]:
        shared = {"run.json.turns/20000101T000000.000000-dead": b""}
        turns = Turns(SimulatedStore(shared, 0.01), "run.json.turns/")  # type: ignore[arg-type]
        await turns.wait()
        for _ in range(LOSSES):
            assert await turns.lost()
        waited = asyncio.get_running_loop().time()
        await turns.won()
        return waited, shared

    waited, shared = simulated(wait_behind())
    assert STALE_S <= waited < STALE_S + 2
    assert shared == {}


@pytest.mark.parametrize("count", [2, 8, 32])
def test_among_writers_alike_none_waits_for_more_than_eight_swaps_of_each_other(
    simulated: Simulated, count: int
) -> None:
    winners = simulated(compete([0.01] * count))
    for number in range(count):
        assert longest_wait(winners, number) <= (count - 1) * (LOOK_EVERY + 1)


@pytest.mark.parametrize("error", [AccessDeniedError("no list"), UnavailableError("down")], ids=["denied", "down"])
def test_without_tickets_it_goes_on_by_luck_until_the_deadline(simulated: Simulated, error: Exception) -> None:
    async def lose() -> float:
        loop = asyncio.get_running_loop()
        turns = Turns(SimulatedStore({}, 0.01, error), "run.json.turns/")  # type: ignore[arg-type]
        await turns.wait()
        tries = 0
        while await turns.lost():
            tries += 1
        assert tries > DEADLINE_S
        return loop.time()

    assert DEADLINE_S <= simulated(lose()) < DEADLINE_S + 2


async def test_a_cancelled_wait_leaves_no_ticket() -> None:
    async with MemoryObjectStore() as store:
        await store.put("run.json.turns/20000101T000000.000000-other", b"")
        turns = Turns(store, "run.json.turns/")

        async def lose() -> None:
            await turns.wait()
            for _ in range(LOSSES):
                await turns.lost()

        task = asyncio.create_task(lose())
        while len(await keys_of(store)) < 2:
            assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await keys_of(store) == ["run.json.turns/20000101T000000.000000-other"]


async def keys_of(store: MemoryObjectStore) -> list[str]:
    return [meta.key async for page in store.list("") for meta in page]
