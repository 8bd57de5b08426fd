"""Deleting runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import RunLogNotFoundError
from asyncstore.models import CREATED, SUCCESS, JobLog, RunLog
from asyncstore.testing._runlog.base import RUN, RunLogSuite, branch, step

if TYPE_CHECKING:
    from asyncstore.runlog.base import RunLogStore

__all__ = ["DeleteSuite"]

MANY = 1100
"""More fragments than one page of a listing or one bulk delete of S3 holds."""


class DeleteSuite(RunLogSuite):
    """A deleted run is gone whole, and only it."""

    async def test_nothing_of_a_deleted_run_remains(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        await store.add_step_log(step("fan"), RUN)
        await store.add_branch_log(branch("fan.a", parameters={"x": 1}), RUN)
        await store.set_parameters(RUN, {"lr": 1})
        await store.add_job_log(JobLog(status=SUCCESS), RUN)
        await another.delete_run_log(RUN)
        with pytest.raises(RunLogNotFoundError):
            await store.get_run_log_by_id(RUN)
        with pytest.raises(RunLogNotFoundError):
            await another.get_step_log("fan", RUN)
        assert [summary async for summary in store.list_run_logs()] == []

    async def test_an_id_is_free_again(self, store: RunLogStore) -> None:
        await store.create_run_log(RUN, tag="old")
        await store.add_step_log(step("train"), RUN)
        await store.delete_run_log(RUN)
        await store.create_run_log(RUN, tag="new")
        assert await store.get_run_log_by_id(RUN) == RunLog(run_id=RUN, dag_hash="", tag="new", status=CREATED)

    async def test_neighbours_stay(self, store: RunLogStore) -> None:
        ids = ["run", "run-2", "run.json", "ru"]
        for run_id in ids:
            await store.create_run_log(run_id)
            await store.add_step_log(step("train"), run_id)
            await store.update_run_log_status(run_id, SUCCESS)
        await store.delete_run_log("run")
        for run_id in ids[1:]:
            assert list((await store.get_run_log_by_id(run_id)).steps) == ["train"]
        assert {summary.run_id async for summary in store.list_run_logs()} == set(ids[1:])

    async def test_deleting_is_idempotent(self, store: RunLogStore) -> None:
        await store.delete_run_log("never-was")
        await store.create_run_log(RUN)
        await store.delete_run_log(RUN)
        await store.delete_run_log(RUN)

    async def test_a_run_of_many_parts(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        parameters = {f"key-{number}": number for number in range(MANY)}
        await store.set_parameters(RUN, parameters)
        assert await another.get_parameters(RUN) == parameters
        await another.delete_run_log(RUN)
        await store.create_run_log(RUN)
        assert await store.get_parameters(RUN) == {}
