from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from asyncstore._core import groupcommit
from asyncstore._core.groupcommit import GroupCommitter
from asyncstore.errors import ClosedError, InvalidValueError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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
