from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from asyncstore._core.groupcommit import GroupCommitter
from asyncstore.errors import ClosedError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Ledger:
    """Commits that are held up until they are let go, and noted."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(items))
        self.begun.set()
        await self.gate.wait()
        if any(item == 13 for item in items):
            raise ValueError("unlucky")
        return [KeyError(item) if item < 0 else item * 2 for item in items]


async def submit_all(committer: GroupCommitter[int, int], items: Sequence[int]) -> list[asyncio.Task[int]]:
    """Submit each item from a task of its own, and let them queue."""
    tasks = [asyncio.create_task(committer.submit(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_a_lone_item_is_committed_at_once() -> None:
    ledger = Ledger()
    committer = GroupCommitter(ledger.commit)
    assert await committer.submit(1) == 2
    assert await committer.submit(2) == 4
    assert ledger.batches == [[1], [2]]
    assert not committer.busy


async def test_what_arrives_during_a_commit_goes_together_in_the_next() -> None:
    ledger = Ledger()
    ledger.gate.clear()
    committer = GroupCommitter(ledger.commit, batch_limit=3)
    first = await submit_all(committer, [0])
    await ledger.begun.wait()
    rest = await submit_all(committer, [1, 2, 3, 4, 5])
    assert committer.busy
    ledger.gate.set()
    assert [await task for task in [*first, *rest]] == [0, 2, 4, 6, 8, 10]
    assert ledger.batches == [[0], [1, 2, 3], [4, 5]]


async def test_batches_end_at_a_weight() -> None:
    ledger = Ledger()
    committer = GroupCommitter(ledger.commit, weigh=lambda item: item, weight_limit=10)
    for task in await submit_all(committer, [4, 6, 1, 50, 9, 1]):
        await task
    assert ledger.batches == [[4, 6], [1], [50], [9, 1]]


async def test_one_item_fails_alone() -> None:
    committer = GroupCommitter(Ledger().commit)
    good, bad, fine = await submit_all(committer, [1, -1, 2])
    with pytest.raises(KeyError):
        await bad
    assert (await good, await fine) == (2, 4)


async def test_a_failed_batch_fails_for_all_of_it() -> None:
    committer = GroupCommitter(Ledger().commit)
    tasks = await submit_all(committer, [1, 13])
    for task in tasks:
        with pytest.raises(ValueError, match="unlucky"):
            await task
    assert await committer.submit(2) == 4


async def test_a_failed_batch_is_split_until_only_the_bad_item_fails() -> None:
    ledger = Ledger()
    committer = GroupCommitter(ledger.commit, splits=lambda error: isinstance(error, ValueError))
    tasks = await submit_all(committer, [1, 2, 13, 4, 5])
    await asyncio.wait(tasks)
    assert [task.exception() is None for task in tasks] == [True, True, False, True, True]
    assert [13] in ledger.batches


async def test_a_caller_cancelled_before_its_batch_starts_is_taken_out() -> None:
    ledger = Ledger()
    ledger.gate.clear()
    committer = GroupCommitter(ledger.commit)
    [first] = await submit_all(committer, [1])
    await ledger.begun.wait()
    second, third = await submit_all(committer, [2, 3])
    second.cancel()
    await asyncio.wait([second])
    ledger.gate.set()
    assert (await first, await third) == (2, 6)
    assert ledger.batches == [[1], [3]]


async def test_a_caller_cancelled_afterwards_changes_nothing_for_the_others() -> None:
    ledger = Ledger()
    ledger.gate.clear()
    committer = GroupCommitter(ledger.commit)
    first, second = await submit_all(committer, [1, 2])
    await ledger.begun.wait()
    first.cancel()
    await asyncio.wait([first])
    ledger.gate.set()
    assert await second == 4
    assert ledger.batches == [[1, 2]]


async def test_closing_waits_for_what_was_taken_and_takes_no_more() -> None:
    ledger = Ledger()
    ledger.gate.clear()
    committer = GroupCommitter(ledger.commit)
    [first] = await submit_all(committer, [1])
    await ledger.begun.wait()
    [second] = await submit_all(committer, [2])
    closing = asyncio.create_task(committer.aclose())
    await asyncio.sleep(0)
    with pytest.raises(ClosedError):
        await committer.submit(3)
    ledger.gate.set()
    await closing
    assert (await first, await second) == (2, 4)
    await committer.aclose()


async def test_a_cancelled_close_commits_what_is_in_flight_and_refuses_the_rest() -> None:
    ledger = Ledger()
    ledger.gate.clear()
    committer = GroupCommitter(ledger.commit)
    [first] = await submit_all(committer, [1])
    await ledger.begun.wait()
    [second] = await submit_all(committer, [2])
    closing = asyncio.create_task(committer.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(ClosedError):
        await second
    ledger.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert await first == 2
    assert ledger.batches == [[1]]


async def test_nobody_is_left_waiting_when_the_commit_is_broken_off() -> None:
    ledger = Ledger()
    ledger.gate.clear()
    committer = GroupCommitter(ledger.commit)
    [first] = await submit_all(committer, [1])
    await ledger.begun.wait()
    [second] = await submit_all(committer, [2])
    assert committer._task is not None
    committer._task.cancel()
    with pytest.raises(OutcomeUnknownError):
        await first
    with pytest.raises(ClosedError):
        await second


async def test_a_task_cancelled_before_its_first_step_does_not_hold_up_closing() -> None:
    committer = GroupCommitter(Ledger().commit)
    [caller] = await submit_all(committer, [1])
    drain = committer._task
    assert drain is not None
    other = asyncio.create_task(committer.submit(2))
    drain.cancel()
    with pytest.raises((ClosedError, OutcomeUnknownError)):
        await caller
    with pytest.raises((ClosedError, OutcomeUnknownError)):
        await other
    await committer.aclose()


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks came with Python 3.12")
async def test_eager_tasks_do_not_stall_it() -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    ledger = Ledger()
    committer = GroupCommitter(ledger.commit)
    assert [await committer.submit(number) for number in range(3)] == [0, 2, 4]
    await committer.aclose()


async def test_it_says_when_it_is_idle() -> None:
    idle: list[bool] = []
    committer: GroupCommitter[int, int] = GroupCommitter(Ledger().commit, on_idle=lambda: idle.append(committer.busy))
    await asyncio.gather(*await submit_all(committer, [1, 2, 3]))
    await asyncio.sleep(0)
    assert idle == [False]


class TestInline:
    """A lone item is committed by its own caller."""

    async def test_a_lone_item_needs_no_task(self) -> None:
        tasks = set()

        async def commit(items: Sequence[int]) -> Sequence[int | Exception]:
            tasks.add(asyncio.current_task())
            return items

        committer = GroupCommitter(commit, inline=True)
        assert [await committer.submit(number) for number in range(3)] == [0, 1, 2]
        assert tasks == {asyncio.current_task()}
        assert not committer.busy

    async def test_what_arrives_meanwhile_goes_together_in_the_next(self) -> None:
        ledger = Ledger()
        ledger.gate.clear()
        committer = GroupCommitter(ledger.commit, inline=True)
        first = await submit_all(committer, [0])
        await ledger.begun.wait()
        rest = await submit_all(committer, [1, 2, 3])
        ledger.gate.set()
        assert [await task for task in [*first, *rest]] == [0, 2, 4, 6]
        assert ledger.batches == [[0], [1, 2, 3]]
        assert not committer.busy

    async def test_an_error_is_the_callers(self) -> None:
        committer = GroupCommitter(Ledger().commit, inline=True)
        with pytest.raises(KeyError):
            await committer.submit(-1)
        with pytest.raises(ValueError, match="unlucky"):
            await committer.submit(13)
        assert await committer.submit(1) == 2

    async def test_those_who_follow_a_cancelled_caller_are_committed(self) -> None:
        ledger = Ledger()
        ledger.gate.clear()
        committer = GroupCommitter(ledger.commit, inline=True)
        (first,) = await submit_all(committer, [0])
        await ledger.begun.wait()
        rest = await submit_all(committer, [1, 2])
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        ledger.gate.set()
        assert [await task for task in rest] == [2, 4]
        assert ledger.batches == [[0], [1, 2]]

    async def test_closing_waits_for_the_caller_who_commits_and_for_those_behind(self) -> None:
        ledger = Ledger()
        ledger.gate.clear()
        committer = GroupCommitter(ledger.commit, inline=True)
        (first,) = await submit_all(committer, [0])
        await ledger.begun.wait()
        (second,) = await submit_all(committer, [1])
        closing = asyncio.create_task(committer.aclose())
        await asyncio.sleep(0)
        with pytest.raises(ClosedError):
            await committer.submit(2)
        assert not closing.done()
        ledger.gate.set()
        await closing
        assert [await first, await second] == [0, 2]

    async def test_it_says_when_it_is_idle(self) -> None:
        ledger = Ledger()
        ledger.gate.clear()
        idle: list[int] = []
        committer = GroupCommitter(ledger.commit, inline=True, on_idle=lambda: idle.append(len(ledger.batches)))
        tasks = await submit_all(committer, [0, 1])
        ledger.gate.set()
        await asyncio.wait(tasks)
        await asyncio.sleep(0)
        assert idle == [2]


async def test_what_arrives_while_a_turn_is_waited_for_goes_along() -> None:
    ledger = Ledger()
    turn = asyncio.Event()

    async def wait() -> None:
        await turn.wait()

    committer = GroupCommitter(ledger.commit, before=wait)
    tasks = await submit_all(committer, [1])
    tasks += await submit_all(committer, [2, 3])
    tasks[1].cancel()
    await asyncio.sleep(0)
    turn.set()
    assert [await tasks[0], await tasks[2]] == [2, 6]
    assert ledger.batches == [[1, 3]]
