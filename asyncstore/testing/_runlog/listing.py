"""Listing runs."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone
from typing import TYPE_CHECKING

from asyncstore.models import CREATED, FAIL, SUCCESS, RunLog
from asyncstore.testing._runlog.base import RunLogSuite, step

if TYPE_CHECKING:
    from datetime import datetime

    from asyncstore.models import RunSummary
    from asyncstore.runlog.base import RunLogStore

__all__ = ["ListSuite"]

IDS = ["c", "a", "e", "b", "d"]


async def make_runs(store: RunLogStore) -> dict[str, datetime]:
    """Create five runs, of alternating status and tag, and return when each was created."""
    for number, run_id in enumerate(IDS):
        await store.create_run_log(run_id, tag="even" if number % 2 == 0 else "odd", dag_hash=f"hash-{run_id}")
        await store.add_step_log(step("train"), run_id)
        if number != 0:
            await store.update_run_log_status(run_id, SUCCESS if number % 2 == 0 else FAIL)
    return {summary.run_id: summary.created_at async for summary in store.list_run_logs()}


def ids(summaries: list[RunSummary]) -> list[str]:
    """Return the run ids of a listing."""
    return [summary.run_id for summary in summaries]


class ListSuite(RunLogSuite):
    """Runs are listed newest first, and filtered."""

    async def test_newest_first(self, store: RunLogStore, another: RunLogStore) -> None:
        await make_runs(store)
        listed = [summary async for summary in another.list_run_logs()]
        assert ids(listed) == IDS[::-1]
        assert listed[0].model_dump(exclude={"created_at"}) == {
            "run_id": "d",
            "status": SUCCESS,
            "tag": "even",
            "dag_hash": "hash-d",
            "original_run_id": "",
        }
        for summary in listed:
            assert summary.created_at == (await another.get_run_log_by_id(summary.run_id)).created_at
            assert summary.created_at.utcoffset() == timedelta(0)

    async def test_an_empty_store(self, store: RunLogStore) -> None:
        assert [summary async for summary in store.list_run_logs()] == []

    async def test_a_change_keeps_the_place(self, store: RunLogStore, another: RunLogStore) -> None:
        await make_runs(store)
        await another.update_run_log_status("c", SUCCESS)
        await another.add_step_log(step("report"), "a")
        assert ids([summary async for summary in store.list_run_logs()]) == IDS[::-1]

    async def test_filters(self, store: RunLogStore, another: RunLogStore) -> None:
        await make_runs(store)
        assert ids([found async for found in another.list_run_logs(status=FAIL)]) == ["b", "a"]
        assert ids([found async for found in another.list_run_logs(status=CREATED)]) == ["c"]
        assert ids([found async for found in another.list_run_logs(tag="even")]) == ["d", "e", "c"]
        assert ids([found async for found in another.list_run_logs(tag="even", status=SUCCESS)]) == ["d", "e"]
        assert ids([found async for found in another.list_run_logs(tag="none")]) == []

    async def test_limits(self, store: RunLogStore) -> None:
        await make_runs(store)
        assert ids([found async for found in store.list_run_logs(limit=2)]) == ["d", "b"]
        assert ids([found async for found in store.list_run_logs(limit=1, tag="odd")]) == ["b"]
        assert ids([found async for found in store.list_run_logs(limit=0)]) == []
        assert ids([found async for found in store.list_run_logs(limit=100)]) == IDS[::-1]

    async def test_times(self, store: RunLogStore, another: RunLogStore) -> None:
        created = await make_runs(store)
        since, until = created["a"], created["b"]
        assert ids([found async for found in another.list_run_logs(since=since)]) == ["d", "b", "e", "a"]
        assert ids([found async for found in another.list_run_logs(until=until)]) == ["e", "a", "c"]
        assert ids([found async for found in another.list_run_logs(since=since, until=until)]) == ["e", "a"]
        naive = since.astimezone(UTC).replace(tzinfo=None)
        elsewhere = until.astimezone(timezone(timedelta(hours=-7)))
        assert ids([found async for found in another.list_run_logs(since=naive, until=elsewhere)]) == ["e", "a"]

    async def test_a_run_that_was_put(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.put_run_log(RunLog(run_id="put", status=SUCCESS, tag=None, dag_hash=None))
        [summary] = [summary async for summary in another.list_run_logs()]
        assert (summary.run_id, summary.status, summary.tag, summary.dag_hash) == ("put", SUCCESS, "", "")
