"""Opening, closing, and use at the wrong time or on the wrong loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import ClosedError, RunLogNotFoundError
from asyncstore.models import SUCCESS, JobLog, RunLog
from asyncstore.testing._runlog.base import RUN, RunLogSuite, branch, step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncstore.runlog.base import RunLogStore

__all__ = ["LifecycleSuite"]

CALLS: dict[str, Callable[[RunLogStore], Awaitable[Any]]] = {
    "create_run_log": lambda store: store.create_run_log(RUN),
    "get_run_log_by_id": lambda store: store.get_run_log_by_id(RUN),
    "put_run_log": lambda store: store.put_run_log(RunLog(run_id=RUN)),
    "update_run_log_status": lambda store: store.update_run_log_status(RUN, SUCCESS),
    "get_parameters": lambda store: store.get_parameters(RUN),
    "set_parameters": lambda store: store.set_parameters(RUN, {"lr": 1}),
    "get_run_config": lambda store: store.get_run_config(RUN),
    "set_run_config": lambda store: store.set_run_config(RUN, {"a": 1}),
    "add_step_log": lambda store: store.add_step_log(step("train"), RUN),
    "get_step_log": lambda store: store.get_step_log("train", RUN),
    "add_branch_log": lambda store: store.add_branch_log(branch("fan.a"), RUN),
    "get_branch_log": lambda store: store.get_branch_log("fan.a", RUN),
    "add_job_log": lambda store: store.add_job_log(JobLog(), RUN),
    "get_job_log": lambda store: store.get_job_log(RUN),
    "list_run_logs": lambda store: anext(store.list_run_logs()),
    "watch": lambda store: anext(store.watch(RUN)),
    "delete_run_log": lambda store: store.delete_run_log(RUN),
}


class LifecycleSuite(RunLogSuite):
    """A store works between open and close, on one loop, and says so otherwise."""

    @pytest.mark.parametrize("call", CALLS)
    async def test_nothing_works_before_open(self, make_store: Callable[[], RunLogStore], call: str) -> None:
        with pytest.raises(ClosedError):
            await CALLS[call](make_store())

    @pytest.mark.parametrize("call", CALLS)
    async def test_nothing_works_after_close(self, make_store: Callable[[], RunLogStore], call: str) -> None:
        store = make_store()
        async with store:
            await store.create_run_log(RUN)
        with pytest.raises(ClosedError):
            await CALLS[call](store)

    async def test_open_and_close_are_idempotent(self, make_store: Callable[[], RunLogStore]) -> None:
        store = make_store()
        assert await store.open() is store
        assert await store.open() is store
        await store.create_run_log(RUN)
        await store.aclose()
        await store.aclose()
        with pytest.raises(ClosedError):
            await store.open()

    async def test_what_was_never_opened_can_be_closed(self, make_store: Callable[[], RunLogStore]) -> None:
        await make_store().aclose()

    async def test_concurrent_opens_open_once(self, make_store: Callable[[], RunLogStore]) -> None:
        store = make_store()
        async with asyncio.TaskGroup() as group:
            opened = [group.create_task(store.open()) for _ in range(8)]
        await store.create_run_log(RUN)
        await store.aclose()
        assert all(task.result() is store for task in opened)

    async def test_another_loop_is_refused(self, store: RunLogStore) -> None:
        with pytest.raises(ClosedError, match="loop"):
            await asyncio.to_thread(asyncio.run, store.get_run_log_by_id(RUN))

    async def test_what_was_written_outlives_the_store(self, make_store: Callable[[], RunLogStore]) -> None:
        if not self.shared:
            pytest.skip("this store keeps nothing beyond its own lifetime")
        async with make_store() as store:
            await store.create_run_log(RUN, tag="nightly")
            await store.add_step_log(step("train"), RUN)
        async with make_store() as store:
            assert (await store.get_run_log_by_id(RUN)).steps == {"train": step("train")}

    async def test_no_secret_is_shown(self, make_store: Callable[[], RunLogStore]) -> None:
        store = make_store()
        shown = [repr(store), store.location]
        async with store:
            shown += [repr(store), store.location]
            with pytest.raises(RunLogNotFoundError) as caught:
                await store.get_run_log_by_id(RUN)
            shown += [str(caught.value), repr(caught.value)]
        shown.append(repr(store))
        assert not self.secret or not any(self.secret in text for text in shown)
        assert all(type(store).__name__ in text for text in (shown[0], shown[2], shown[-1]))
