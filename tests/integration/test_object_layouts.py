"""What the layouts on objects promise beyond the contract: changes, creation times and order of writes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore._core.clock import HybridClock
from asyncstore.models import FAIL, PROCESSING, SUCCESS, RunLog, StepLog
from asyncstore.objects.base import ANY, NEW, Capabilities, Condition
from asyncstore.objects.memory import MemoryObjectStore
from asyncstore.runlog.buffered import BufferedRunLogStore
from asyncstore.runlog.chunked import ChunkedFileSystemRunLogStore, ChunkedRunLogStore, ChunkedS3RunLogStore
from asyncstore.runlog.document import DocumentRunLogStore, FileSystemRunLogStore, S3RunLogStore
from asyncstore.runlog.fragments import WHOLE_RUN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.servers import Bucket

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


class TestRequests:
    """How many requests each thing costs, as the server counts them."""

    @pytest.fixture
    def options(self, stub_bucket: Bucket) -> dict[str, Any]:
        return dict(stub_bucket.options)

    async def test_an_add_is_one_put(self, s3_stub: StubServer, options: dict[str, Any]) -> None:
        async with ChunkedS3RunLogStore(**options) as store:
            await store.create_run_log("run")
            s3_stub.reset()
            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(store.add_step_log(step(f"s{number}"), "run"))
            assert s3_stub.requests == {"PutObject": 100}
            s3_stub.reset()
            await store.add_step_log(step("s1", message="again"), "run")
            await store.set_parameters("run", {str(number): number for number in range(10)})
            assert s3_stub.requests == {"PutObject": 11}

    async def test_writes_of_one_fragment_that_queue_up_go_out_once(
        self, s3_stub: StubServer, options: dict[str, Any]
    ) -> None:
        async with ChunkedS3RunLogStore(**options) as store:
            await store.create_run_log("run")
            s3_stub.reset()
            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(store.add_step_log(step("train", message=str(number)), "run"))
            assert s3_stub.requests == {"PutObject": 2}
            assert (await store.get_step_log("train", "run")).message == "99"

    async def test_rewriting_what_was_read_is_one_put_and_keeps_the_order(
        self, s3_stub: StubServer, options: dict[str, Any]
    ) -> None:
        async with ChunkedS3RunLogStore(**options) as one, ChunkedS3RunLogStore(**options) as other:
            await one.create_run_log("run")
            for name in "zya":
                await one.add_step_log(step(name), "run")
            found = await other.get_step_log("z", "run")
            s3_stub.reset()
            await other.add_step_log(found.model_copy(update={"message": "again"}), "run")
            assert s3_stub.requests == {"PutObject": 1}
            assert list((await one.get_run_log_by_id("run")).steps) == ["z", "y", "a"]

    async def test_reads(self, s3_stub: StubServer, options: dict[str, Any]) -> None:
        async with ChunkedS3RunLogStore(**options) as store, ChunkedS3RunLogStore(**options) as reader:
            await store.create_run_log("run")
            async with asyncio.TaskGroup() as group:
                for number in range(1200):
                    group.create_task(store.add_step_log(step(f"s{number}"), "run"))
            s3_stub.reset()
            live = await reader.get_run_log_by_id("run")
            # The one besides asks for the assembled document.
            assert s3_stub.requests == {"ListObjectsV2": 2, "GetObject": 1201 + 1}
            s3_stub.reset()
            await reader.get_run_log_by_id("run", full=False)
            await reader.get_step_log("s7", "run")
            assert s3_stub.requests == {"GetObject": 2}
            await store.update_run_log_status("run", SUCCESS)
            s3_stub.reset()
            ended = await reader.get_run_log_by_id("run")
            assert s3_stub.requests == {"ListObjectsV2": 2, "GetObject": 1}
            assert ended.steps == live.steps
            await store.add_step_log(step("s7", message="a retry"), "run")
            await store.add_step_log(step("new"), "run")
            s3_stub.reset()
            again = await reader.get_run_log_by_id("run")
            assert s3_stub.requests == {"ListObjectsV2": 2, "GetObject": 1 + 2}
            assert (again.steps["s7"].message, list(again.steps)[-1]) == ("a retry", "new")

    @pytest.mark.parametrize("layout", [ChunkedS3RunLogStore, S3RunLogStore])
    async def test_listing_the_newest_looks_at_few_runs(
        self, s3_stub: StubServer, options: dict[str, Any], layout: Any
    ) -> None:
        async with layout(**options, max_concurrency=8) as store:
            for number in range(40):
                await store.create_run_log(f"run-{number}")
                await store.update_run_log_status(f"run-{number}", SUCCESS)
            s3_stub.reset()
            found = [summary.run_id async for summary in store.list_run_logs()]
            assert found == [f"run-{39 - number}" for number in range(40)]
            assert s3_stub.requests == {"ListObjectsV2": 1, "GetObject": 40}

    async def test_the_header_of_a_large_document_is_read_alone(
        self, s3_stub: StubServer, options: dict[str, Any]
    ) -> None:
        async with S3RunLogStore(**options) as store:
            await store.create_run_log("run", tag="t")
            async with asyncio.TaskGroup() as group:
                for number in range(300):
                    group.create_task(store.add_step_log(step(f"s{number}", message="m" * 500), "run"))
            await store.set_run_config("run", {"a": 1})
            s3_stub.reset()
            header = await store.get_run_log_by_id("run", full=False)
            assert (header.tag, header.run_config, header.steps) == ("t", {"a": 1}, {})
            assert [(found.run_id, found.tag) async for found in store.list_run_logs()] == [("run", "t")]
            assert s3_stub.requests == {"ListObjectsV2": 1, "GetObject": 2}

    async def test_a_watch_of_a_document_that_stands_asks_for_no_more_than_that(
        self, s3_stub: StubServer, options: dict[str, Any]
    ) -> None:
        async with S3RunLogStore(**options) as store:
            await store.create_run_log("run")
            known = {item.key: item for item in await store._scan("run", WHOLE_RUN)}
            s3_stub.reset()
            assert await store._scan("run", WHOLE_RUN, known) == list(known.values())
            assert s3_stub.requests == {"HeadObject": 1}


async def test_a_header_beyond_the_beginning_of_a_document_is_found() -> None:
    async with MemoryObjectStore() as objects, DocumentRunLogStore(objects) as store:
        await store.create_run_log("run")
        await store.set_run_config("run", {"long": "x" * 50_000})
        assert (await store.get_run_log_by_id("run", full=False)).run_config == {"long": "x" * 50_000}
        # As magnus writes it: without a creation time, and some of the header behind the steps.
        foreign = {"run_id": "foreign", "status": "SUCCESS", "steps": {}, "run_config": {"a": "y" * 50_000}}
        await objects.put("foreign.json", json.dumps(foreign).encode())
        assert (await store.get_run_log_by_id("foreign", full=False)).run_config == foreign["run_config"]


async def test_a_full_read_of_a_run_whose_document_is_broken_reads_its_fragments() -> None:
    async with MemoryObjectStore() as objects, ChunkedRunLogStore(objects) as store:
        await store.create_run_log("run")
        await store.add_step_log(step("train"), "run")
        await store.update_run_log_status("run", SUCCESS)
        _, text = await objects.get("run.json")
        for broken in (b"", b"{", text[: len(text) // 2], b"[]", b'{"run_id":"run"}', text.replace(b'"train"', b"7")):
            await objects.put("run.json", broken)
            assert list((await store.get_run_log_by_id("run")).steps) == ["train"]


async def test_a_document_of_another_layout_is_not_deleted_to_make_room() -> None:
    async with MemoryObjectStore() as objects:
        async with DocumentRunLogStore(objects) as documents:
            await documents.create_run_log("run")
        async with ChunkedRunLogStore(objects) as store:
            await store.create_run_log("run.json")
        async with DocumentRunLogStore(objects) as documents:
            assert (await documents.get_run_log_by_id("run")).run_id == "run"


async def test_a_write_waits_for_an_earlier_one_whose_caller_was_cancelled() -> None:
    async with SlowlyWriting() as objects:
        earlier = asyncio.create_task(objects.put("key", b"earlier"))
        await objects.begun.wait()
        earlier.cancel()
        with pytest.raises(asyncio.CancelledError):
            await earlier
        later = asyncio.create_task(objects.put("key", b"later"))
        other = await objects.put("other", b"not held up")
        assert other
        assert not later.done()
        objects.gate.set()
        await later
        assert (await objects.get("key"))[1] == b"later"
        objects.gate.clear()
        assert objects._abandoned == {}


class SlowlyWriting(MemoryObjectStore):
    """Holds up, in its thread, the first put of the object ``key``."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.gate = threading.Event()

    async def _called(self, verb: str, key: str, ask: Any, *, writes: Any = ()) -> Any:
        loop = asyncio.get_running_loop()

        def held_up() -> Any:
            if key == "key" and not self.gate.is_set():
                loop.call_soon_threadsafe(self.begun.set)
                self.gate.wait(30)
            return ask()

        return await super()._called(verb, key, held_up, writes=writes)
