"""What the layouts on objects promise beyond the contract: changes, creation times and order of writes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore._core.clock import HybridClock
from asyncstore.models import FAIL, PROCESSING, SUCCESS, RunLog, StepLog
from asyncstore.objects.base import ANY, NEW, Capabilities, Condition
from asyncstore.objects.memory import MemoryObjectStore
from asyncstore.runlog.buffered import BufferedRunLogStore
from asyncstore.runlog.chunked import ChunkedFileSystemRunLogStore, ChunkedRunLogStore
from asyncstore.runlog.document import DocumentRunLogStore, FileSystemRunLogStore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FOLDER_LAYOUTS: list[Any] = [ChunkedFileSystemRunLogStore, FileSystemRunLogStore]


class Recording(MemoryObjectStore):
    """Notes the keys put, in the order in which the puts ended; a key with a gate waits for it."""

    def __init__(self, *, able: bool = True) -> None:
        super().__init__()
        self.able = able
        self.keys: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    async def capabilities(self) -> Capabilities:
        return Capabilities(create=self.able, match=self.able)

    async def put(
        self, key: str, data: bytes, *, condition: Condition = ANY, metadata: Mapping[str, str] | None = None
    ) -> str:
        if key in self.gates:
            await self.gates[key].wait()
        etag = await super().put(key, data, condition=condition if self.able else ANY, metadata=metadata)
        self.keys.append(key)
        return etag


def step(name: str, **fields: Any) -> StepLog:
    return StepLog(name=name, internal_name=name, **fields)


@pytest.mark.parametrize("layout", FOLDER_LAYOUTS)
async def test_header_changes_of_several_stores_are_all_kept(layout: Any, tmp_path: Path) -> None:
    async with layout(log_folder=tmp_path) as one, layout(log_folder=tmp_path) as other:
        for number in range(20):
            run_id = f"run-{number}"
            await one.create_run_log(run_id)
            async with asyncio.TaskGroup() as group:
                group.create_task(one.update_run_log_status(run_id, PROCESSING))
                group.create_task(other.set_run_config(run_id, {"a": 1}))
                group.create_task(one.set_run_config(run_id, {"b": 2}))
            header = await other.get_run_log_by_id(run_id, full=False)
            assert (header.status, header.run_config) == (PROCESSING, {"a": 1, "b": 2})


@pytest.mark.parametrize("able", [True, False])
async def test_a_stale_copy_never_overtakes_a_write_under_way(able: bool) -> None:
    async with Recording(able=able) as objects, ChunkedRunLogStore(objects) as store:
        await store.create_run_log("run")
        gate = objects.gates["run/StepLog/train.json"] = asyncio.Event()
        stale = RunLog(run_id="run", steps={"train": step("train", message="stale")})
        async with asyncio.TaskGroup() as group:
            group.create_task(store.put_run_log(stale))
            await asyncio.sleep(0.05)
            group.create_task(store.add_step_log(step("train", message="new"), "run"))
            await asyncio.sleep(0.05)
            gate.set()
        assert (await store.get_step_log("train", "run")).message == "new"


async def test_the_end_of_a_run_put_whole_is_stored_last() -> None:
    async with Recording() as objects, ChunkedRunLogStore(objects) as store:
        run_log = RunLog(run_id="run", status=SUCCESS, steps={f"s{number}": step(f"s{number}") for number in range(9)})
        await store.put_run_log(run_log)
        fragments = [key for key in objects.keys if key.startswith("run/")]
        assert fragments[-1] == "run/RunLog/run_log.json"
        assert len(fragments) == 10


@pytest.mark.parametrize("layout", [ChunkedRunLogStore, DocumentRunLogStore, None])
async def test_a_step_of_another_run_is_new_in_this_one(layout: Any) -> None:
    async with MemoryObjectStore() as objects, layout(objects) if layout else BufferedRunLogStore() as store:
        await store.create_run_log("old")
        await store.add_step_log(step("first"), "old")
        borrowed = await store.get_step_log("first", "old")
        await store.create_run_log("new")
        await store.add_step_log(step("second"), "new")
        await store.add_step_log(borrowed, "new")
        assert list((await store.get_run_log_by_id("new")).steps) == ["second", "first"]


async def test_a_clock_that_is_behind_follows_what_was_read_of_a_finished_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with MemoryObjectStore() as objects:
        async with ChunkedRunLogStore(objects) as store:
            await store.create_run_log("run")
            await store.add_step_log(step("first"), "run")
            await store.update_run_log_status("run", FAIL)
        behind = HybridClock(wall_us=lambda: time.time_ns() // 1000 - 3600 * 1_000_000)
        monkeypatch.setattr("asyncstore.runlog.chunked.PROCESS_CLOCK", behind)
        async with ChunkedRunLogStore(objects) as store:
            await store.get_run_log_by_id("run")
            await store.add_step_log(step("second"), "run")
            assert list((await store.get_run_log_by_id("run")).steps) == ["first", "second"]


async def test_no_queue_is_left_behind() -> None:
    async with MemoryObjectStore() as objects, ChunkedRunLogStore(objects) as store:
        await store.create_run_log("run")
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(store.add_step_log(step("same", message=str(number)), "run"))
        await asyncio.sleep(0)
        assert store._writers == {}


async def test_closing_that_is_cancelled_leaves_no_task() -> None:
    objects = await Recording().open()
    store = await ChunkedRunLogStore(objects).open()
    await store.create_run_log("run")
    for number in range(4):
        objects.gates[f"run/StepLog/s{number}.json"] = asyncio.Event()
    writes = [asyncio.create_task(store.add_step_log(step(f"s{number}"), "run")) for number in range(4)]
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(store.aclose())
    await asyncio.sleep(0.01)
    closing.cancel()
    for gate in objects.gates.values():
        gate.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await asyncio.wait(writes)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await objects.aclose()


async def test_one_unreadable_header_does_not_hide_the_other_runs() -> None:
    async with MemoryObjectStore() as objects, ChunkedRunLogStore(objects) as store:
        await store.create_run_log("good")
        await objects.put("bad/RunLog/run_log.json", b"", condition=NEW)
        assert [summary.run_id async for summary in store.list_run_logs()] == ["good"]
