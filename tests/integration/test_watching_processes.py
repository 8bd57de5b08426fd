"""A watcher beside many writers, each in a process of its own: nothing missed, nothing told twice, in order."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore._core.concurrency import map_bounded
from asyncstore.aws.settings import AwsSettings
from asyncstore.models import PROCESSING, SUCCESS
from asyncstore.objects.memory import MemoryObjectStore
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.runlog.chunked import ChunkedFileSystemRunLogStore, ChunkedRunLogStore, ChunkedS3RunLogStore
from asyncstore.runlog.db import DBRunLogStore
from asyncstore.runlog.document import FileSystemRunLogStore, S3RunLogStore
from tests._processes import FULL, all_do, short_or_full, tell, worker_process, worker_processes

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
    from pathlib import Path

    from asyncstore.objects.base import ObjectMeta
    from asyncstore.runlog.base import RunLogStore
    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.servers import Bucket
    from tests._processes import Worker

    Capture = pytest.CaptureFixture[str]

WRITERS = 8
TASKS = short_or_full(2, 4)
STEPS = short_or_full(8, 80)
VERSIONS = 3
PAUSE_S = 0.1
"""Between two writes of a task."""

CURSOR_EVERY = 7
"""Of how many things told one comes with its cursor."""

WATCHERS = short_or_full(4, 11)
"""One after the other, each but the last killed."""

QUIET_S = short_or_full(3, 60)

READS = ("ListObjectsV2", "GetObject", "HeadObject")

ON_S3: list[Any] = [ChunkedS3RunLogStore, S3RunLogStore]
IN_FOLDERS: list[Any] = [ChunkedFileSystemRunLogStore, FileSystemRunLogStore]

Told = dict[str, Any]
Written = tuple[str, int, int, int]


async def watch(watchers: list[Worker]) -> list[Told]:
    """Return what is told until the run ends, by watchers of which each but the last is killed half-way."""
    told: list[Told] = []
    cursor = None
    for left, watcher in reversed(list(enumerate(watchers))):
        await watcher.begin("watch", run_id="run", cursor=cursor, cursor_every=CURSOR_EVERY)
        enough = len(told) + WRITERS * TASKS * STEPS // len(watchers)
        while "result" not in (said := await watcher.said()):
            told.append(said)
            cursor = said.get("cursor", cursor)
            if left and len(told) > enough and "cursor" in said:
                await watcher.kill()
                break
        else:
            assert not left, "the run ended before all watchers had their turn"
    return told


def check_told(told: list[Told], written: list[Written]) -> None:
    """Check that every step was told, each of its versions at most once, the last one last, in order of creation."""
    assert (told[-1]["kind"], told[-1]["what"]) == ("RunLog", SUCCESS)
    assert [item["what"] for item in told if item["kind"] == "RunLog"] in ([PROCESSING, SUCCESS], [SUCCESS])
    versions: dict[str, list[int]] = {}
    for item in told:
        if item["kind"] == "StepLog":
            versions.setdefault(item["name"], []).append(int(item["what"]))
    assert versions.keys() == {name for name, *_ in written}
    for name, seen in versions.items():
        assert seen == sorted(set(seen)), f"versions of {name}"
        assert seen[-1] == VERSIONS - 1, f"versions of {name}"
    created = {name: (began, ended) for name, version, began, ended in written if version == 0}
    earliest_end, whose = math.inf, ""
    for name in reversed(versions):
        began, ended = created[name]
        assert earliest_end >= began, f"{name} was created after {whose}, and told before it"
        if ended < earliest_end:
            earliest_end, whose = ended, name


def lags_ms(told: list[Told], written: list[Written]) -> str:
    """Return how long after its acknowledgement a version was told."""
    ended = {(name, str(version)): at_ns for name, version, _, at_ns in written}
    lags = [(item["at_ns"] - ended[item["name"], item["what"]]) / 1e6 for item in told if item["kind"] == "StepLog"]
    percentiles = statistics.quantiles(lags, n=100)
    return (
        f"lag p50 {percentiles[49]:.0f} ms, p99 {percentiles[98]:.0f} ms, of {len(lags)} told and {len(ended)} written"
    )


async def check_watching(store: type[RunLogStore], options: dict[str, Any], watchers: int) -> str:
    async with (
        store(**options) as owner,
        worker_processes(WRITERS, store, options) as writers,
        worker_processes(watchers, store, options) as audience,
    ):
        await owner.create_run_log("run", status=PROCESSING)

        async def write() -> list[Written]:
            pace = {"tasks": TASKS, "steps": STEPS, "versions": VERSIONS, "pause_s": PAUSE_S}
            results = await all_do(writers, "write_versions", run_id="run", **pace)
            await owner.update_run_log_status("run", SUCCESS)
            return [tuple(item) for result in results for item in result]

        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch(audience))
            writing = group.create_task(write())
        lasted_s = time.monotonic() - began_s
    check_told(watching.result(), writing.result())
    return f"{store.__name__}, {watchers} watchers in {lasted_s:.1f} s: {lags_ms(watching.result(), writing.result())}"


def per_minute(counted: Counter[str], lasted_s: float) -> str:
    return ", ".join(f"{counted[name] / lasted_s * 60:.0f} {name}" for name in READS)


@pytest.mark.slow
@pytest.mark.parametrize("watchers", [1, WATCHERS] if FULL else [WATCHERS])
@pytest.mark.parametrize("layout", ON_S3)
async def test_beside_many_writers(
    layout: Any, watchers: int, stub_bucket: Bucket, s3_stub: StubServer, capsys: Capture
) -> None:
    found = await check_watching(layout, stub_bucket.options, watchers)
    tell(capsys, f"{found}; requests of watchers and writers: {dict(s3_stub.requests)}")


@pytest.mark.slow
@pytest.mark.parametrize("watchers", [1, WATCHERS] if FULL else [WATCHERS])
@pytest.mark.parametrize("layout", IN_FOLDERS)
async def test_beside_many_writers_in_a_folder(layout: Any, watchers: int, tmp_path: Path, capsys: Capture) -> None:
    tell(capsys, await check_watching(layout, {"log_folder": str(tmp_path / "logs")}, watchers))


def kind_of(url: str) -> str:
    return url.partition(":")[0]


@pytest.mark.slow
@pytest.mark.parametrize("watchers", [1, WATCHERS] if FULL else [WATCHERS])
async def test_beside_many_writers_in_a_database(url: str, watchers: int, capsys: Capture) -> None:
    tell(capsys, f"{kind_of(url)}: {await check_watching(DBRunLogStore, {'connection_string': url}, watchers)}")


@pytest.mark.slow
async def test_a_quiet_run_in_a_database_tells_its_next_change(url: str, capsys: Capture) -> None:
    options: dict[str, Any] = {"connection_string": url}
    async with DBRunLogStore(**options) as owner, worker_process(DBRunLogStore, options) as watcher:
        await owner.create_run_log("run", status=PROCESSING)
        await watcher.begin("watch", run_id="run", cursor=None, cursor_every=1)
        await watcher.said()
        lags = []
        for status in ["A", "B", SUCCESS]:
            await asyncio.sleep(QUIET_S)
            await owner.update_run_log_status("run", status)
            ended_ns = time.monotonic_ns()
            told = await watcher.said()
            assert (told["kind"], told["what"]) == ("RunLog", status)
            lags.append((told["at_ns"] - ended_ns) / 1e6)
        assert "result" in await watcher.said()
        tell(
            capsys,
            f"{kind_of(url)}, changed every {QUIET_S} s: told after {', '.join(f'{lag:.0f}' for lag in lags)} ms",
        )


@pytest.mark.slow
@pytest.mark.parametrize("layout", ON_S3)
async def test_the_end_is_told_to_who_watches_a_quiet_run(
    layout: Any, stub_bucket: Bucket, s3_stub: StubServer, capsys: Capture
) -> None:
    options = stub_bucket.options
    async with layout(**options) as owner, worker_process(layout, options) as watcher:
        await owner.create_run_log("run", status=PROCESSING)
        for number in range(20):
            await owner.add_step_log(owner.create_step_log(str(number), str(number)), "run")
        await watcher.begin("watch", run_id="run", cursor=None, cursor_every=1)
        told = [await watcher.said() for _ in range(21)]
        s3_stub.reset()
        await asyncio.sleep(QUIET_S)
        reads = per_minute(s3_stub.requests, QUIET_S)
        assert set(s3_stub.requests) <= set(READS)
        await owner.update_run_log_status("run", SUCCESS)
        told.append(await watcher.said())
        assert (told[-1]["kind"], told[-1]["what"]) == ("RunLog", SUCCESS)
        assert "result" in await watcher.said()
        tell(capsys, f"{layout.__name__}, quiet for {QUIET_S} s: requests a minute: {reads}")


class Overtaken(MemoryObjectStore):
    """Lets something happen between a listing and the read of a header that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None

    async def get(
        self, key: str, *, byte_range: tuple[int, int] | None = None, etag: str = ""
    ) -> tuple[ObjectMeta, bytes]:
        if "/RunLog/" in key and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return await super().get(key, byte_range=byte_range, etag=etag)


async def test_what_is_stored_while_the_watcher_looks_is_told_before_the_end() -> None:
    async with Overtaken() as objects, ChunkedRunLogStore(objects) as store, ChunkedRunLogStore(objects) as other:

        async def end() -> None:
            await other.add_step_log(other.create_step_log("late", "late"), "run")
            await other.update_run_log_status("run", SUCCESS)

        await store.create_run_log("run", status=PROCESSING)
        objects.meanwhile = end
        told = [(fragment.kind, fragment.name) async for fragment in store.watch("run")]
    assert told == [("StepLog", "late"), ("RunLog", "run_log")]


class Paged(S3ObjectStore):
    """Lets something happen between two pages of a listing."""

    meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None

    async def list(self, prefix: str) -> AsyncGenerator[Sequence[ObjectMeta], None]:
        async for page in super().list(prefix):
            yield page
            if self.meanwhile is not None:
                meanwhile, self.meanwhile = self.meanwhile, None
                await meanwhile()


async def test_order_is_kept_though_a_listing_has_pages(stub_bucket: Bucket) -> None:
    settings = AwsSettings(endpoint_url=stub_bucket.server.endpoint_url, region=stub_bucket.server.region)
    async with (
        Paged(stub_bucket.name, settings) as objects,
        ChunkedRunLogStore(objects) as watched,
        ChunkedS3RunLogStore(**stub_bucket.options) as writer,
    ):

        async def add(name: str) -> None:
            await writer.add_step_log(writer.create_step_log(name, name), "run")

        async def write_and_end() -> None:
            # The first of them belongs on the page that has been read, the second on the one that comes.
            await add("a")
            await add("z")
            await writer.update_run_log_status("run", SUCCESS)

        await writer.create_run_log("run", status=PROCESSING)
        await map_bounded(add, [f"m{number}" for number in range(1100)], limit=64)
        objects.meanwhile = write_and_end
        told = [fragment.name async for fragment in watched.watch("run")]
    assert len(told) == len(set(told)) + (told.count("run_log") - 1)
    assert told[-3:] == ["a", "z", "run_log"]
