from __future__ import annotations

import asyncio
import math
import statistics
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore._core import groupcommit
from asyncstore._core.groupcommit import GroupCommitter
from asyncstore._core.pace import Pace
from asyncstore.errors import ClosedError, InvalidValueError, OutcomeUnknownError, UnavailableError
from tests._processes import short_or_full

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


class Gate:
    """A commit that waits until it is let through."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, batch: Sequence[int]) -> list[int]:
        self.batches.append(list(batch))
        self.entered.set()
        await self.open.wait()
        return [item * 2 for item in batch]


class Table:
    """Takes a batch whole, or refuses it whole where it holds a row to blame."""

    def __init__(self, guilty: Collection[int]) -> None:
        self.guilty = guilty
        self.statements = 0
        self.rows: list[int] = []
        self.committer: GroupCommitter[int, int] = GroupCommitter(
            self.commit, splits=lambda error: isinstance(error, InvalidValueError)
        )

    async def commit(self, batch: Sequence[int]) -> Sequence[int]:
        self.statements += 1
        blamed = [item for item in batch if item in self.guilty]
        if blamed:
            raise InvalidValueError(f"{blamed[0]} of {len(batch)}")
        self.rows += batch
        return batch

    def check(self, count: int, outcomes: Sequence[object]) -> None:
        """Check that all but the guilty were committed, once and in order, and what it took."""
        assert self.rows == [item for item in range(count) if item not in self.guilty]
        for item, outcome in enumerate(outcomes):
            if item in self.guilty:
                assert isinstance(outcome, InvalidValueError)
                assert str(outcome) == f"{item} of 1"
            else:
                assert outcome == item
        assert self.statements - 1 <= len(self.guilty) * (2 * math.log2(count) + 1)


async def submitted(committer: GroupCommitter[int, int], items: Iterable[int]) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(committer.submit(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_what_arrives_during_a_commit_goes_out_with_the_next() -> None:
    gate = Gate()
    committer = GroupCommitter(gate)
    first = await submitted(committer, [1])
    await gate.entered.wait()
    rest = await submitted(committer, [2, 3])
    gate.open.set()
    assert [await task for task in first + rest] == [2, 4, 6]
    assert gate.batches == [[1], [2, 3]]
    assert not committer.busy


async def test_a_batch_ends_at_its_weight() -> None:
    gate = Gate()
    gate.open.set()
    committer = GroupCommitter(gate, weigh=lambda item: item, weight_limit=10)
    await asyncio.gather(*await submitted(committer, [4, 4, 4, 50, 1]))
    assert gate.batches == [[4, 4], [4], [50], [1]]


async def test_only_the_caller_to_blame_gets_the_error() -> None:
    async def commit(batch: Sequence[int]) -> Sequence[int]:
        if 13 in batch:
            raise InvalidValueError("unlucky")
        return batch

    committer = GroupCommitter(commit, splits=lambda error: isinstance(error, InvalidValueError))
    results = await asyncio.gather(*await submitted(committer, range(20)), return_exceptions=True)
    assert [result for result in results if isinstance(result, int)] == [item for item in range(20) if item != 13]
    assert isinstance(results[13], InvalidValueError)


async def test_one_row_to_blame_costs_a_logarithm_wherever_it_stands() -> None:
    counts = [*range(1, short_or_full(130, 1000)), 999, 1000]
    for count in counts:
        for guilty in range(count):
            table = Table({guilty})
            outcomes, _ = await table.committer._outcomes(list(range(count)))
            table.check(count, outcomes)


@given(st.data())
def test_each_row_to_blame_costs_a_logarithm_at_most(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 1000))
    guilty = data.draw(st.one_of(st.just(set(range(count))), st.sets(st.integers(0, count - 1), max_size=20)))

    async def write() -> None:
        table = Table(guilty)
        tasks = await submitted(table.committer, range(count))
        await asyncio.wait(tasks)
        table.check(count, [task.exception() or task.result() for task in tasks])
        assert not table.committer.busy

    asyncio.run(write())


async def test_a_storage_that_goes_away_while_a_batch_is_split_blames_nobody_else() -> None:
    batches: list[list[int]] = []

    async def commit(batch: Sequence[int]) -> Sequence[int]:
        batches.append(list(batch))
        if batches == [[0, 1, 2, 3], [0, 1]]:
            raise UnavailableError("down")
        if 2 in batch:
            raise InvalidValueError("unlucky")
        return batch

    committer = GroupCommitter(commit, splits=lambda error: isinstance(error, InvalidValueError))
    results = await asyncio.gather(*await submitted(committer, range(4)), return_exceptions=True)
    assert [type(result) for result in results] == [UnavailableError, UnavailableError, InvalidValueError, int]
    # Nothing is known of the second half, so it is tried as a whole.
    assert batches == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]


async def test_what_fails_only_together_is_committed_apart() -> None:
    async def commit(batch: Sequence[int]) -> Sequence[int]:
        if len(batch) > 3:
            raise InvalidValueError("too many at once")
        return batch

    committer = GroupCommitter(commit, splits=lambda error: isinstance(error, InvalidValueError))
    assert await asyncio.gather(*await submitted(committer, range(20))) == list(range(20))


async def test_a_caller_cancelled_while_its_batch_is_split_has_its_row_committed() -> None:
    gate = asyncio.Event()
    table = Table({5})

    async def commit(batch: Sequence[int]) -> Sequence[int]:
        if table.statements:
            await gate.wait()
        return await table.commit(batch)

    committer = GroupCommitter(commit, splits=lambda error: isinstance(error, InvalidValueError))
    tasks = await submitted(committer, range(8))
    await asyncio.sleep(0)
    assert table.statements == 1
    tasks[7].cancel()
    tasks[5].cancel()
    await asyncio.wait([tasks[7], tasks[5]])
    gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert table.rows == [0, 1, 2, 3, 4, 6, 7]
    assert not committer.busy


async def test_an_error_of_the_storage_is_not_split() -> None:
    calls: list[int] = []

    async def commit(batch: Sequence[int]) -> Sequence[int]:
        calls.append(len(batch))
        raise ConnectionError

    committer = GroupCommitter(commit, splits=lambda error: isinstance(error, InvalidValueError))
    results = await asyncio.gather(*await submitted(committer, range(8)), return_exceptions=True)
    assert all(isinstance(result, ConnectionError) for result in results)
    assert calls == [8]


async def test_a_caller_cancelled_before_its_batch_is_taken_out() -> None:
    gate = Gate()
    committer = GroupCommitter(gate)
    (first,) = await submitted(committer, [1])
    await gate.entered.wait()
    waiting, kept = await submitted(committer, [2, 3])
    waiting.cancel()
    first.cancel()
    await asyncio.wait([waiting, first])
    gate.open.set()
    assert await kept == 6
    assert gate.batches == [[1], [3]]


async def test_closing_waits_for_what_was_taken() -> None:
    gate = Gate()
    committer = GroupCommitter(gate, batch_limit=1)
    tasks = await submitted(committer, [1, 2])
    closing = asyncio.create_task(committer.aclose())
    await gate.entered.wait()
    gate.open.set()
    await closing
    assert [task.result() for task in tasks] == [2, 4]
    with pytest.raises(ClosedError):
        await committer.submit(3)


async def test_a_cancelled_close_finishes_the_batch_in_flight_alone() -> None:
    gate = Gate()
    committer = GroupCommitter(gate, batch_limit=1)
    flying, waiting = await submitted(committer, [1, 2])
    await gate.entered.wait()
    closing = asyncio.create_task(committer.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(ClosedError):
        await waiting
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert await flying == 2
    assert gate.batches == [[1]]


async def test_a_commit_that_hangs_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groupcommit, "FINISH_DEADLINE_S", 0.01)
    gate = Gate()
    committer = GroupCommitter(gate)
    (flying,) = await submitted(committer, [1])
    await gate.entered.wait()
    closing = asyncio.create_task(committer.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(OutcomeUnknownError):
        await flying
    assert not committer.busy


class Halving(Pace):
    def overlaps(self, items: int, now_s: float) -> bool:
        return items > 1


async def test_one_half_of_the_callers_is_committed_while_the_other_works() -> None:
    sizes: list[int] = []

    async def commit(batch: Sequence[int]) -> Sequence[int]:
        sizes.append(len(batch))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return batch

    committer = GroupCommitter(commit, pace=Halving())

    async def write(task: int) -> None:
        for number in range(50):
            assert await committer.submit(100 * task + number) == 100 * task + number

    await asyncio.gather(*(write(task) for task in range(16)))
    assert sum(sizes) == 16 * 50
    assert statistics.median(sizes) == 8
    assert not committer.busy


async def test_callers_who_do_not_come_back_hold_nobody_up() -> None:
    async def commit(batch: Sequence[int]) -> Sequence[int]:
        return batch

    committer = GroupCommitter(commit, pace=Halving())
    for _ in range(3):
        assert await asyncio.gather(*await submitted(committer, range(9))) == list(range(9))
    assert not committer.busy


async def test_callers_not_yet_told_get_their_results_if_the_committer_is_broken_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groupcommit, "FINISH_DEADLINE_S", 0.01)
    gate = Gate()
    gate.open.set()
    committer = GroupCommitter(gate, batch_limit=4, pace=Halving())
    told = await submitted(committer, range(4))
    waiting = await submitted(committer, range(4, 8))
    await gate.entered.wait()
    gate.open.clear()
    closing = asyncio.create_task(committer.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert [await task for task in told] == [0, 2, 4, 6]
    for task in waiting:
        with pytest.raises((ClosedError, OutcomeUnknownError)):
            await task
