"""Watching a run."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest

from asyncstore.errors import ConfigurationError, RunLogNotFoundError
from asyncstore.models import FAIL, PROCESSING, SUCCESS, JobLog
from asyncstore.runlog.fragments import FragmentKey, Kind
from asyncstore.testing._runlog.base import RUN, RunLogSuite, branch, step

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from asyncstore.runlog.base import RunLogStore
    from asyncstore.runlog.fragments import Fragment

__all__ = ["WatchSuite"]

DEADLINE_S = 60.0
"""After this a watch that sees nothing has failed; one that works needs a fraction of a second."""


async def write_run(store: RunLogStore) -> None:
    """Write one part of each kind."""
    await store.create_run_log(RUN, status=PROCESSING)
    await store.add_step_log(step("fan"), RUN)
    await store.add_branch_log(branch("fan.a"), RUN)
    await store.add_step_log(step("train", "fan.a"), RUN)
    await store.set_parameters(RUN, {"lr": 0.1})
    await store.set_parameters(RUN, {"lr": 0.2}, "fan.a")


PARTS = [
    ("RunLog", "run_log", ""),
    ("StepLog", "fan", ""),
    ("BranchLog", "fan.a", ""),
    ("StepLog", "fan.a.train", ""),
    ("Parameter", "lr", ""),
    ("Parameter", "lr", "fan.a"),
]


def names(fragments: list[Fragment]) -> list[tuple[str, str, str]]:
    """Return what each fragment is."""
    return [(str(fragment.kind), fragment.name, fragment.scope) for fragment in fragments]


@asynccontextmanager
async def watching(store: RunLogStore) -> AsyncIterator[AsyncIterator[Fragment]]:
    """Watch the run within the ``async with`` block."""
    async with aclosing(cast("AsyncGenerator[Fragment, None]", store.watch(RUN))) as watch:
        yield watch


async def next_of(watch: AsyncIterator[Fragment], count: int) -> list[Fragment]:
    """Return the next ``count`` fragments of a watch."""
    async with asyncio.timeout(DEADLINE_S):
        return [await anext(watch) for _ in range(count)]


async def rest_of(watch: AsyncIterator[Fragment]) -> list[Fragment]:
    """Return what a watch yields until it ends."""
    async with asyncio.timeout(DEADLINE_S):
        return [fragment async for fragment in watch]


class WatchSuite(RunLogSuite):
    """A watch yields every part and every change of it once, and ends with the run."""

    async def test_a_run_that_has_ended(self, store: RunLogStore, another: RunLogStore) -> None:
        await write_run(store)
        await store.update_run_log_status(RUN, SUCCESS)
        seen = await rest_of(another.watch(RUN))
        values = {fragment.key: fragment.value for fragment in seen}
        assert sorted(names(seen)) == sorted(PARTS)
        assert seen[-1].value["status"] == SUCCESS
        assert [item for item in names(seen) if item in PARTS[1:4]] == PARTS[1:4]
        assert values[FragmentKey(Kind.STEP_LOG, "fan.a.train")]["internal_name"] == "fan.a.train"
        assert values[FragmentKey(Kind.PARAMETER, "lr", "fan.a")] == 0.2

    async def test_the_watch_goes_on_after_a_cursor(self, store: RunLogStore, another: RunLogStore) -> None:
        await write_run(store)
        async with watching(store) as watch:
            first = await next_of(watch, 3)
        await store.update_run_log_status(RUN, SUCCESS)
        rest = await rest_of(another.watch(RUN, cursor=first[-1].cursor))
        assert sorted({*names(first), *names(rest)}) == sorted(PARTS)
        assert len(first) + len(rest) == len(PARTS) + (PARTS[0] in names(first))
        assert names(rest)[-1] == PARTS[0]
        assert await rest_of(store.watch(RUN, cursor=rest[-1].cursor)) == []

    async def test_changes_are_seen_while_they_happen(self, store: RunLogStore, another: RunLogStore) -> None:
        await write_run(store)
        async with watching(another) as watch:
            assert sorted(names(await next_of(watch, len(PARTS)))) == sorted(PARTS)
            await store.add_step_log(step("report", status=PROCESSING), RUN)
            [report] = await next_of(watch, 1)
            assert (report.name, report.value["status"]) == ("report", PROCESSING)
            await store.add_step_log(step("report"), RUN)
            [report] = await next_of(watch, 1)
            assert (report.name, report.value["status"]) == ("report", SUCCESS)
            await store.set_parameters(RUN, {"lr": 0.3})
            [parameter] = await next_of(watch, 1)
            assert (parameter.name, parameter.scope, parameter.value) == ("lr", "", 0.3)
            await store.add_job_log(JobLog(status=FAIL), RUN)
            assert names(await rest_of(watch)) == [("JobLog", "job_log", ""), PARTS[0]]

    async def test_rewriting_the_same_is_no_change(self, store: RunLogStore, another: RunLogStore) -> None:
        await write_run(store)
        async with watching(another) as watch:
            await next_of(watch, len(PARTS))
            await store.add_step_log(step("fan"), RUN)
            await store.set_parameters(RUN, {"lr": 0.1})
            await store.update_run_log_status(RUN, FAIL)
            assert names(await rest_of(watch)) == [PARTS[0]]

    async def test_nothing_is_missed_or_told_twice(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN, status=PROCESSING)

        async def write() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(40):
                    group.create_task(store.add_step_log(step(f"step-{number}"), RUN))
            await store.update_run_log_status(RUN, SUCCESS)

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            watchers = [group.create_task(rest_of(another.watch(RUN))) for _ in range(3)]
        for watcher in watchers:
            seen = watcher.result()
            told = [fragment.name for fragment in seen if fragment.kind == "StepLog"]
            assert sorted(told) == sorted(f"step-{number}" for number in range(40))
            assert seen[-1].value["status"] == SUCCESS

    async def test_what_cannot_be_watched(self, store: RunLogStore) -> None:
        with pytest.raises(RunLogNotFoundError):
            await rest_of(store.watch("nowhere"))
        for run_id in (RUN, "run-2"):
            await store.create_run_log(run_id, status=SUCCESS)
        [fragment] = await rest_of(store.watch(RUN))
        with pytest.raises(ConfigurationError):
            await rest_of(store.watch("run-2", cursor=fragment.cursor))
        with pytest.raises(ConfigurationError):
            await rest_of(store.watch(RUN, cursor="no cursor"))

    async def test_a_run_deleted_meanwhile(self, store: RunLogStore, another: RunLogStore) -> None:
        await write_run(store)
        async with watching(another) as watch:
            await next_of(watch, len(PARTS))
            await store.delete_run_log(RUN)
            with pytest.raises(RunLogNotFoundError):
                await rest_of(watch)
