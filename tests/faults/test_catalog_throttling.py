"""A storage that takes only so much, and limits that a user sets: transfers keep to them and end all the same."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore._core.traffic import process_budget
from asyncstore.catalog import S3Catalog
from asyncstore.testing.s3_stub import CHEAP, Fault
from tests._catalog_confined import moved_by
from tests._catalog_processes import catalog_process
from tests._catalog_trees import KIB, MIB, digests_in, temp_files_in
from tests._catalog_victims import random_bytes, write
from tests._processes import short_or_full, tell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from asyncstore.catalog import TransferProgress
    from asyncstore.testing.s3_stub import Action, StubServer
    from asyncstore.testing.servers import Bucket

SMALL = short_or_full(500, 2000)
LARGE_BYTES = short_or_full(24, 64) * MIB
REQUESTS_MOST = 1.6
"""How many times the requests of an undisturbed run a disturbed one may make."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with many small files and a large one."""
    folder = tmp_path_factory.mktemp("tree")
    write(folder, {f"{number % 20}/{number:05}": random_bytes(4 * KIB, number) for number in range(SMALL)})
    write(folder, {"large": random_bytes(LARGE_BYTES)})
    return folder


@dataclass
class Trips:
    """Transfers of the source, and what they cost."""

    stub: StubServer
    catalog: S3Catalog
    source: Path
    folder: Path
    windows: list[int] = field(default_factory=list)
    """How many requests were allowed at once, at each step of the last transfer."""
    held_bytes: int = 0
    """Most memory that was accounted for."""
    retries: int = 0

    async def put(self, run_id: str) -> int:
        """Put all, check that all is there, and return how many requests it took."""
        entries, requests = await self._counted("put", run_id, self.source)
        assert entries == await asyncio.to_thread(digests_in, self.source)
        return requests

    async def get(self, run_id: str) -> int:
        """Get all, check that all is here, and return how many requests it took."""
        target = self.folder / f"target-{run_id}"
        entries, requests = await self._counted("get", run_id, target)
        found = await asyncio.to_thread(digests_in, target)
        assert found == entries == await asyncio.to_thread(digests_in, self.source)
        await asyncio.to_thread(shutil.rmtree, target)
        return requests

    async def _counted(self, verb: str, run_id: str, folder: Path) -> tuple[dict[str, str], int]:
        await asyncio.to_thread(self.stub.reset)
        self.windows, self.held_bytes = [], 0
        entries = await getattr(self.catalog, verb)("**", run_id, local_folder=folder, on_progress=self._note)
        requests = sum((await asyncio.to_thread(lambda: self.stub.requests)).values())
        return {entry.name.removeprefix("data/"): entry.data_hash for entry in entries}, requests

    def _note(self, progress: TransferProgress) -> None:
        self.windows.append(self.catalog._lane.window.limit)
        self.held_bytes = max(self.held_bytes, process_budget()._memory_taken)
        self.retries = progress.retries


@asynccontextmanager
async def trips(stub: StubServer, bucket: Bucket, source: Path, folder: Path, **options: Any) -> AsyncIterator[Trips]:
    """Give an open catalog that has asked already what the storage can do."""
    async with S3Catalog(**bucket.options, **options) as catalog:
        await catalog._store.capabilities()
        stub.reset()
        yield Trips(stub, catalog, source, folder)
        for run_id in ("plain", "faulty", "again"):
            await catalog.delete(run_id)


# What the storage asks for.


@pytest.mark.parametrize(("action", "probability"), [("slow_down", 0.3), ("internal_error", 0.1)])
async def test_many_refusals_cost_few_requests(
    s3_stub: StubServer,
    stub_bucket: Bucket,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    action: Action,
    probability: float,
) -> None:
    async with trips(s3_stub, stub_bucket, source, tmp_path) as moved:
        usual_put, usual_get = await moved.put("plain"), await moved.get("plain")
        assert set(moved.windows) == {64}
        s3_stub.set_faults([Fault(action, probability=probability, seed=7)])
        put = await moved.put("faulty")
        assert moved.retries > probability * SMALL / 2
        low = min(moved.windows)
        get = await moved.get("faulty")
        tell(capsys, f"{action}: put {put} instead of {usual_put} requests, get {get} instead of {usual_get}")
        assert put <= REQUESTS_MOST * usual_put
        assert get <= REQUESTS_MOST * usual_get
        assert not await moved.catalog._store.list_uploads("")
        if action == "slow_down":
            # Less and less is asked at once, and more and more again when the storage is well.
            assert low < 8
            s3_stub.set_faults([])
            await moved.put("again")
            assert moved.windows[-1] > 2 * low
        else:
            # It is not said that it is too much.
            assert low == 64


async def test_refusals_of_what_is_tried_again_count_as_well(
    s3_stub: StubServer, stub_bucket: Bucket, tmp_path: Path
) -> None:
    write(tmp_path / "few", {f"{number}": b"x" for number in range(8)})
    async with trips(s3_stub, stub_bucket, tmp_path / "few", tmp_path) as moved:
        s3_stub.set_faults(
            [Fault("slow_down", operation="PutObject", key=f"/{number}$", times=4) for number in range(8)]
        )
        await moved.put("plain")
        assert moved.retries == 8 * 4
        assert min(moved.windows) <= 4


@pytest.mark.parametrize(
    "behaviour", [{"latency_s": 0.02, "in_flight_limit": 8}, {"latency_s": 0.02, "requests_per_s": 400}], ids=str
)
async def test_the_pace_that_a_storage_wants_is_found_and_kept(
    s3_stub: StubServer,
    stub_bucket: Bucket,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    behaviour: dict[str, Any],
) -> None:
    async with trips(s3_stub, stub_bucket, source, tmp_path) as moved:
        s3_stub.configure(**behaviour)
        first, throttled_first = await moved.put("plain"), s3_stub.throttled
        second, throttled = await moved.put("again"), s3_stub.throttled
        get, throttled_get = await moved.get("plain"), s3_stub.throttled
        tell(
            capsys,
            f"{throttled_first} of {first} refused at first, then {throttled} of {second}, {throttled_get} of {get}",
        )
        assert first <= REQUESTS_MOST * second
        for refused, requests in ((throttled, second), (throttled_get, get)):
            assert refused <= 0.1 * requests
        assert max(moved.windows) < 32


# What the user asks for.


async def test_one_request_at_a_time(s3_stub: StubServer, stub_bucket: Bucket, source: Path, tmp_path: Path) -> None:
    async with trips(s3_stub, stub_bucket, source, tmp_path, max_concurrency=1) as moved:
        s3_stub.configure(latency_s=0.001)
        for move in (moved.put, moved.get):
            await move("plain")
            assert s3_stub.max_in_flight == 1


async def test_little_memory(s3_stub: StubServer, stub_bucket: Bucket, source: Path, tmp_path: Path) -> None:
    write(tmp_path / "source", {f"{number}": random_bytes(MIB, number) for number in range(20)})
    write(tmp_path / "source", {f"large-{number}": random_bytes(12 * MIB, number) for number in range(4)})
    async with trips(s3_stub, stub_bucket, tmp_path / "source", tmp_path, max_memory_mb=16) as moved:
        for move in (moved.put, moved.get):
            await move("plain")
            assert 0 < moved.held_bytes <= 16 * MIB
    assert not process_budget()._memory_taken


@pytest.mark.parametrize("limits", [{}, {"max_concurrency": 1}, {"max_memory_mb": 16}], ids=str)
async def test_little_bandwidth(
    s3_stub: StubServer, stub_bucket: Bucket, tmp_path: Path, limits: dict[str, Any]
) -> None:
    write(tmp_path / "source", {f"{number}": random_bytes(64 * KIB, number) for number in range(30)})
    write(tmp_path / "source", {"large": random_bytes(9 * MIB)})
    async with trips(s3_stub, stub_bucket, tmp_path / "source", tmp_path, max_bandwidth_mb_s=5, **limits) as moved:
        for move in (moved.put, moved.get):
            began = time.monotonic()
            await move("plain")
            passed_s = time.monotonic() - began
            sent = s3_stub.bytes_in["PutObject"] + s3_stub.bytes_out["GetObject"]
            assert sent > 10 * MIB
            # A slow machine only makes it less.
            assert sent / passed_s <= 1.1 * 5e6


async def test_all_limits_at_once(s3_stub: StubServer, stub_bucket: Bucket, tmp_path: Path) -> None:
    write(tmp_path / "source", {f"{number}": random_bytes(16 * KIB, number) for number in range(40)})
    write(tmp_path / "source", {"a": random_bytes(20 * MIB), "b": random_bytes(2 * MIB)})
    limits = {"max_concurrency": 1, "max_memory_mb": 16, "max_bandwidth_mb_s": 20}
    async with trips(s3_stub, stub_bucket, tmp_path / "source", tmp_path, **limits) as moved:
        s3_stub.set_faults([Fault("slow_down", probability=0.2, seed=1)])
        await moved.put("plain")
        await moved.get("plain")
        assert s3_stub.max_in_flight == 1


# What is larger than memory.

SPARSE_BYTES = short_or_full(400, 12 * 1024) * MIB
MEMORY_BYTES = 150 * MIB


@pytest.fixture
def large_target(tmp_path: Path) -> Iterator[Path]:
    """Return where there is room for a large file, which does not stay."""
    if shutil.disk_usage(tmp_path).free < 2 * SPARSE_BYTES:
        pytest.skip(f"there is no room for {SPARSE_BYTES // MIB} MiB")
    yield tmp_path / "target"
    shutil.rmtree(tmp_path / "target", ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_a_file_larger_than_memory(
    s3_stub: StubServer,
    stub_bucket: Bucket,
    tmp_path: Path,
    large_target: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    s3_stub.configure(**CHEAP, discards=True)
    source = tmp_path / "source"
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        file.truncate(SPARSE_BYTES)
    expected = {"sparse": await asyncio.to_thread(digest_of_zeros, SPARSE_BYTES)}
    for verb, folder, operation in (("put", source, "UploadPart"), ("get", large_target, "GetObject")):
        async with catalog_process(S3Catalog, stub_bucket.options) as worker:
            pid = worker._process.pid
            before = memory(pid, "VmRSS")
            s3_stub.reset()
            began = time.monotonic()
            outcome = await moved_by(worker, verb, folder)
            passed_s = time.monotonic() - began
            grown = memory(pid, "VmHWM") - before
        assert outcome.get("digests") == expected, outcome
        assert s3_stub.requests[operation] == SPARSE_BYTES // (8 * MIB)
        tell(capsys, f"{verb} of {SPARSE_BYTES // MIB} MiB: {passed_s:.1f} s, {grown / MIB:.0f} MiB more memory")
        assert grown < MEMORY_BYTES
    assert (large_target / "sparse").stat().st_size == SPARSE_BYTES
    assert not temp_files_in(large_target)


def memory(pid: int, what: str) -> int:
    """Return what the system says of a process' memory, in bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        [line] = [line for line in status if line.startswith(f"{what}:")]
    return int(line.split()[1]) * KIB


def digest_of_zeros(size_bytes: int) -> str:
    """Return the SHA-256 of that many zeros."""
    digest, block = hashlib.sha256(), bytes(MIB)
    for _ in range(size_bytes // MIB):
        digest.update(block)
    return digest.hexdigest()
