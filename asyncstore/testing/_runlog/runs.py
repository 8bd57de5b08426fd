"""Runs as a whole: creating, reading, changing the header, deleting."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import (
    BranchLogNotFoundError,
    InvalidValueError,
    JobLogNotFoundError,
    RunLogExistsError,
    RunLogNotFoundError,
    StepLogNotFoundError,
)
from asyncstore.models import CREATED, FAIL, PROCESSING, SUCCESS, JobLog, RunLog, StepAttempt
from asyncstore.testing._runlog.base import RUN, RunLogSuite, branch, step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from asyncstore.runlog.base import RunLogStore

__all__ = ["RunSuite"]

NEIGHBOURS = (
    "run",
    "run-2",
    "run2",
    "ru",
    "RUN",
    "run.json",
    "run.json.json",
    "run.lock",
    "run ",
    "rün",
    "run%20",
    "~",
)
RUN_IDS = ("x" * 200, "é" * 100, "%2F", "a..b", "🙂 run", "...", "-rf", "a#b?c=d&e")
NO_RUN_IDS = ("", ".", "..", "a/b", "a\nb", "a\x00b", "x" * 201, "é" * 101, "\ud800")
CREATORS = 8


def shortly(text: str) -> str:
    """Return a test id that fits on a line."""
    return ascii(text)[:24]


async def race_to_create(stores: Sequence[RunLogStore]) -> list[str]:
    """Let each store create the same run with another tag at once; return the tags of those that did."""
    start = asyncio.Event()
    winners: list[str] = []

    async def create(store: RunLogStore, tag: str) -> None:
        await start.wait()
        try:
            await store.create_run_log(RUN, tag=tag)
        except RunLogExistsError:
            return
        winners.append(tag)

    async with asyncio.TaskGroup() as group:
        for number, store in enumerate(stores):
            group.create_task(create(store, f"creator-{number}"))
        start.set()
    return winners


class RunSuite(RunLogSuite):
    """Runs are created once, found by their exact id, and deleted whole."""

    async def test_created_is_what_is_read(self, store: RunLogStore, another: RunLogStore) -> None:
        created = await store.create_run_log(
            RUN, dag_hash="abc", use_cached=True, tag="nightly", original_run_id="before", status=PROCESSING
        )
        read = await another.get_run_log_by_id(RUN)
        assert read == created
        assert read == RunLog(
            run_id=RUN, dag_hash="abc", use_cached=True, tag="nightly", original_run_id="before", status=PROCESSING
        )
        assert read.created_at is not None

    async def test_a_new_run_is_created(self, store: RunLogStore) -> None:
        await store.create_run_log(RUN)
        assert (await store.get_run_log_by_id(RUN)).status == CREATED

    async def test_the_header_alone(self, store: RunLogStore) -> None:
        await store.create_run_log(RUN, tag="nightly")
        await store.add_step_log(step("train"), RUN)
        await store.set_parameters(RUN, {"lr": 0.1})
        header = await store.get_run_log_by_id(RUN, full=False)
        assert header == RunLog(run_id=RUN, dag_hash="", tag="nightly", status=CREATED)

    async def test_a_run_that_exists_is_not_replaced(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN, tag="first")
        await store.add_step_log(step("train"), RUN)
        with pytest.raises(RunLogExistsError) as caught:
            await another.create_run_log(RUN, tag="second")
        assert caught.value.run_id == RUN
        read = await another.get_run_log_by_id(RUN)
        assert (read.tag, list(read.steps)) == ("first", ["train"])

    async def test_one_of_many_creators_wins(self, store: RunLogStore, another: RunLogStore) -> None:
        winners = await race_to_create([store] * CREATORS)
        assert winners == [(await another.get_run_log_by_id(RUN)).tag]

    async def test_one_of_many_creators_wins_from_separate_stores(self, make_store: Callable[[], RunLogStore]) -> None:
        if not self.shared:
            pytest.skip("store objects share no data")
        async with AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(make_store()) for _ in range(CREATORS)]
            winners = await race_to_create(stores)
            assert winners == [(await stores[0].get_run_log_by_id(RUN)).tag]

    async def test_what_is_missing_is_not_found(self, store: RunLogStore) -> None:
        with pytest.raises(RunLogNotFoundError, match="nowhere"):
            await store.get_run_log_by_id("nowhere")
        with pytest.raises(RunLogNotFoundError):
            await store.get_run_log_by_id("nowhere", full=False)
        calls: list[Callable[[str], Awaitable[object]]] = [
            lambda run_id: store.get_step_log("train", run_id),
            lambda run_id: store.get_branch_log("fan.a", run_id),
            lambda run_id: store.get_branch_log("", run_id),
            store.get_job_log,
            store.get_parameters,
            store.get_run_config,
            lambda run_id: store.set_run_config(run_id, {"a": 1}),
            lambda run_id: store.update_run_log_status(run_id, SUCCESS),
        ]
        for call in calls:
            with pytest.raises(RunLogNotFoundError):
                await call("nowhere")

    async def test_missing_parts_of_a_run_are_not_found(self, store: RunLogStore) -> None:
        await store.create_run_log(RUN)
        with pytest.raises(StepLogNotFoundError) as missing_step:
            await store.get_step_log("train", RUN)
        assert (missing_step.value.run_id, missing_step.value.step_name) == (RUN, "train")
        with pytest.raises(BranchLogNotFoundError) as missing_branch:
            await store.get_branch_log("fan.a", RUN)
        assert (missing_branch.value.run_id, missing_branch.value.branch_name) == (RUN, "fan.a")
        with pytest.raises(JobLogNotFoundError):
            await store.get_job_log(RUN)
        assert await store.get_parameters(RUN) == {}
        assert await store.get_parameters(RUN, "fan.a") == {}

    async def test_runs_of_similar_ids_are_apart(self, store: RunLogStore, another: RunLogStore) -> None:
        for run_id in NEIGHBOURS:
            await store.create_run_log(run_id, tag=f"tag of {run_id}")
            await store.add_step_log(step("train", message=run_id), run_id)
            await store.set_parameters(run_id, {"id": run_id})
            await store.update_run_log_status(run_id, SUCCESS)
        for run_id in NEIGHBOURS:
            read = await another.get_run_log_by_id(run_id)
            assert (read.run_id, read.tag, read.parameters) == (run_id, f"tag of {run_id}", {"id": run_id})
            assert read.steps == {"train": step("train", message=run_id)}
        assert {summary.run_id async for summary in another.list_run_logs()} == set(NEIGHBOURS)

    @pytest.mark.parametrize("run_id", RUN_IDS, ids=shortly)
    async def test_any_segment_is_a_run_id(self, store: RunLogStore, another: RunLogStore, run_id: str) -> None:
        await store.create_run_log(run_id)
        await store.add_step_log(step("train"), run_id)
        await store.update_run_log_status(run_id, SUCCESS)
        assert (await another.get_run_log_by_id(run_id)).steps == {"train": step("train")}
        assert [summary.run_id async for summary in another.list_run_logs()] == [run_id]
        await another.delete_run_log(run_id)
        with pytest.raises(RunLogNotFoundError):
            await store.get_run_log_by_id(run_id)

    @pytest.mark.parametrize(
        "run_id", ["", ".", "..", "a/b", "a\nb", "a\x00b", "x" * 201, "é" * 101, "\ud800"], ids=ascii
    )
    async def test_what_cannot_be_a_run_id_is_refused(self, store: RunLogStore, run_id: str) -> None:
        with pytest.raises(InvalidValueError):
            await store.create_run_log(run_id)
        with pytest.raises(InvalidValueError):
            await store.get_run_log_by_id(run_id)
        with pytest.raises(InvalidValueError):
            await store.delete_run_log(run_id)
        assert [summary async for summary in store.list_run_logs()] == []

    async def test_status_and_configuration_change_the_header_alone(
        self, store: RunLogStore, another: RunLogStore
    ) -> None:
        await store.create_run_log(RUN, tag="nightly", dag_hash="abc")
        await store.add_step_log(step("train"), RUN)
        await store.set_run_config(RUN, {"executor": {"type": "local"}, "mode": 1})
        await store.update_run_log_status(RUN, FAIL)
        await store.set_run_config(RUN, {"mode": 2})
        read = await another.get_run_log_by_id(RUN)
        assert (read.status, read.tag, read.dag_hash, list(read.steps)) == (FAIL, "nightly", "abc", ["train"])
        assert read.run_config == {"executor": {"type": "local"}, "mode": 2}
        assert await another.get_run_config(RUN) == read.run_config

    async def test_a_run_can_go_on_after_its_end(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        await store.add_step_log(step("train", status=FAIL), RUN)
        await store.update_run_log_status(RUN, FAIL)
        assert (await another.get_run_log_by_id(RUN)).steps["train"].status == FAIL
        await another.add_step_log(step("train"), RUN)
        await another.add_step_log(step("report"), RUN)
        await another.set_parameters(RUN, {"lr": 1})
        await store.add_branch_log(branch("train.a"), RUN)
        read = await store.get_run_log_by_id(RUN)
        assert {name: item.status for name, item in read.steps.items()} == {"train": SUCCESS, "report": SUCCESS}
        assert (read.parameters, list(read.steps["train"].branches)) == ({"lr": 1}, ["train.a"])
        await another.update_run_log_status(RUN, SUCCESS)
        assert (await store.get_run_log_by_id(RUN)).status == SUCCESS

    async def test_a_job_gives_the_run_its_status(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        job = JobLog(status=SUCCESS, message="done", attempts=[StepAttempt(status=SUCCESS)])
        await store.add_job_log(job, RUN)
        read = await another.get_run_log_by_id(RUN)
        assert (await another.get_job_log(RUN), read.job, read.status) == (job, job, SUCCESS)
        await store.add_job_log(JobLog(status=FAIL), RUN)
        assert (await another.get_run_log_by_id(RUN)).status == FAIL
        assert (await another.get_job_log(RUN)).status == FAIL
