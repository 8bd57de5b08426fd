"""
Transfers of the catalog whose process is killed, and made again until they end: nothing is lost, torn or left behind.

While they go on, both sides are watched: whatever has its name there has the bytes of what is moved, or those that it
had before.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import time
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.aws.settings import AwsSettings
from asyncstore.catalog import FileSystemCatalog, S3Catalog
from asyncstore.objects.s3 import S3ObjectStore
from tests._catalog_processes import catalog_process
from tests._catalog_trees import KIB, MIB, digests_in, make_tree, temp_files_in
from tests._catalog_watching import FolderWatch, watched_bucket
from tests._processes import FULL, short_or_full, tell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from asyncstore.catalog import Catalog
    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.servers import Bucket

SMALL = short_or_full(300, 2000)
LARGE_BYTES = short_or_full(64, 1024) * MIB
KILLS = short_or_full(6, 40)
LAYOUTS = ["plain", "packed"] if FULL else ["plain"]

KILLS_AT_MOST = 3
"""Of one transfer."""

AT_ONCE = short_or_full(2, 64)
"""Requests, by configuration; of one large file 16 at most."""

IN_FLIGHT_BYTES = min(AT_ONCE, 16) * 8 * MIB + AT_ONCE * 64 * KIB
"""What a kill may cost: the parts or ranges of a large file, and the small files, that are on their way at once."""

PACE: dict[str, float] = {"latency_s": short_or_full(4, 10) / 1000}
UPLOAD_PACE = PACE if FULL else {**PACE, "bandwidth_bytes_s": 40e6}
"""So that a large file takes most of the time."""

BESIDES_BYTES = MIB
"""What each process may send besides: to find out what the server can do, and the index of packs."""

DEADLINE_S = 120.0
"""After this a transfer does not end at all."""

OLD_SMALL = 40
OLD_LARGE_BYTES = 20 * MIB


@dataclass
class Trees:
    """What is moved, and what is there before under some of the same names."""

    new: Path
    old: Path
    digests: dict[str, str]
    old_digests: dict[str, str]

    @property
    def size_bytes(self) -> int:
        """How many bytes are to be moved."""
        return sum((self.new / name).stat().st_size for name in self.digests)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trees]:
    folder = tmp_path_factory.mktemp("trees")
    new, old = folder / "new", folder / "old"
    digests = make_tree(new, small=SMALL, large_bytes=LARGE_BYTES)
    old_digests = make_tree(old, small=OLD_SMALL, large_bytes=OLD_LARGE_BYTES, seed=1)
    yield Trees(new, old, digests, old_digests)
    shutil.rmtree(folder)


@pytest.fixture
async def storage(stub_bucket: Bucket) -> AsyncIterator[S3ObjectStore]:
    settings = AwsSettings(endpoint_url=stub_bucket.server.endpoint_url, region=stub_bucket.server.region)
    async with S3ObjectStore(stub_bucket.name, settings) as store:
        yield store
        # The stub keeps what it has in memory until it ends.
        async for page in store.list(""):
            await store.delete([meta.key for meta in page])


@dataclass
class Sent:
    """What transfers have cost."""

    kills: int = 0
    processes: int = 0
    transfers: int = 0
    again_bytes: list[int] = field(default_factory=list)
    """Bytes beyond those of the files, of each transfer."""
    orphans: int = 0
    """Uploads that a kill has left of which nobody had been told."""

    def __str__(self) -> str:
        most = max(self.again_bytes, default=0) / MIB
        mean = sum(self.again_bytes) / max(1, self.kills) / MIB
        return (
            f"{self.kills} kills in {self.transfers} transfers of {SMALL} + 1 files; again {mean:.1f} MiB for each "
            f"kill, {most:.1f} MiB for one transfer at most; {self.orphans} unknown uploads"
        )


async def killed_and_made_again(
    options: Mapping[str, Any],
    job: tuple[str, Path, str],
    kills: int,
    usual_s: float,
    chance: random.Random,
    *,
    kind: type[Catalog] = S3Catalog,
) -> tuple[dict[str, str], int, float]:
    """
    Make a transfer, kill its process up to so many times, at random moments, and make it again until it ends.

    Returns:
        The digests that it returned, how often it was killed, and how long a transfer takes as far as is known now.
    """
    verb, folder, run_id = job
    killed = 0
    while True:
        async with asyncio.timeout(DEADLINE_S), catalog_process(kind, options) as worker:
            await worker.begin(verb, folder=str(folder), run_id=run_id)
            assert await worker.said() == {"begun": verb}
            patience_s = chance.uniform(0, usual_s) if killed < kills else None
            began = time.monotonic()
            try:
                outcome = await asyncio.wait_for(worker.said(), patience_s)
            except TimeoutError:
                await worker.kill()
                killed += 1
            else:
                assert "digests" in outcome["result"], outcome
                took_s = time.monotonic() - began
                return outcome["result"]["digests"], killed, usual_s if killed else took_s


async def usual_seconds(
    options: Mapping[str, Any], job: tuple[str, Path, str], kind: type[Catalog] = S3Catalog
) -> float:
    """Return how long a transfer takes that nobody disturbs."""
    async with catalog_process(kind, options) as worker:
        await worker.begin(job[0], folder=str(job[1]), run_id=job[2])
        await worker.said()
        began = time.monotonic()
        assert "digests" in await worker.result()
        return time.monotonic() - began


def check_cost(sent: Sent, moved_bytes: int, trees: Trees, kills: int) -> None:
    """Check how much was moved again, and take note of it."""
    again = moved_bytes - trees.size_bytes
    assert 0 <= again <= kills * IN_FLIGHT_BYTES + (kills + 1) * BESIDES_BYTES
    sent.again_bytes.append(again)
    sent.kills += kills
    sent.transfers += 1


# Uploads.


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_an_upload_that_is_killed_goes_on(
    layout: str,
    trees: Trees,
    s3_stub: StubServer,
    stub_bucket: Bucket,
    storage: S3ObjectStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {**stub_bucket.options, "layout": layout, "max_concurrency": AT_ONCE}
    s3_stub.configure(**UPLOAD_PACE)
    chance = random.Random(4)
    usual_s = await usual_seconds(options, ("put", trees.new, "undisturbed"))
    sent = Sent()
    while sent.kills < KILLS:
        run_id = f"run-{uuid.uuid4().hex}"
        await usual_seconds(options, ("put", trees.old, run_id))
        kills = min(chance.randint(1, KILLS_AT_MOST), KILLS - sent.kills)
        await asyncio.to_thread(s3_stub.reset)
        # What packs hold, their names do not tell.
        watched = (
            watched_bucket(storage, f"{run_id}/data/", trees.new, trees.old)
            if layout == "plain"
            else contextlib.nullcontext([1])
        )
        async with watched as looked:
            job = "put", trees.new, run_id
            digests, killed, usual_s = await killed_and_made_again(options, job, kills, usual_s, chance)
        assert looked[0]
        assert digests == trees.digests
        received = await asyncio.to_thread(lambda: s3_stub.bytes_in)
        check_cost(sent, received["PutObject"] + received["UploadPart"], trees, killed)
        sent.orphans += await check_uploads(storage, options)
        await check_round_trip(options, run_id, trees, tmp_path / "back")
        await clear(storage, run_id)
    tell(capsys, f"upload, {layout}, {usual_s:.1f} s: {sent}")


async def check_uploads(storage: S3ObjectStore, options: Mapping[str, Any]) -> int:
    """
    Check that uploads which are open have nothing in them, and return how many there were.

    A process that dies before it is told the id of an upload leaves it to the sweep.
    """
    pending = await storage.list_uploads("")
    for upload in pending:
        assert not await storage._uploads.parts(upload.key, upload.upload_id), upload
    async with S3Catalog(**options) as catalog:
        report = await catalog.sweep(older_than=timedelta(0), local_folder="/nowhere")
    assert report.uploads == pending
    assert not await storage.list_uploads("")
    return len(pending)


async def check_round_trip(options: Mapping[str, Any], run_id: str, trees: Trees, target: Path) -> None:
    """Check what a run has by the bytes of all of it."""
    await usual_seconds(options, ("get", target, run_id))
    assert await asyncio.to_thread(digests_in, target) == trees.digests
    await asyncio.to_thread(shutil.rmtree, target)


async def clear(storage: S3ObjectStore, run_id: str) -> None:
    """Delete a run's objects, which the stub has in memory."""
    async for page in storage.list(f"{run_id}/"):
        await storage.delete([meta.key for meta in page])


# Downloads.


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_download_that_is_killed_goes_on(
    layout: str,
    trees: Trees,
    s3_stub: StubServer,
    stub_bucket: Bucket,
    storage: S3ObjectStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {**stub_bucket.options, "layout": layout, "max_concurrency": AT_ONCE}
    s3_stub.configure(**PACE)
    chance = random.Random(5)
    await usual_seconds(options, ("put", trees.new, "run"))
    usual_s = await usual_seconds(options, ("get", tmp_path / "undisturbed", "run"))
    shutil.rmtree(tmp_path / "undisturbed")
    sent = Sent()
    while sent.kills < KILLS:
        target = tmp_path / uuid.uuid4().hex
        await asyncio.to_thread(shutil.copytree, trees.old, target)
        kills = min(chance.randint(1, KILLS_AT_MOST), KILLS - sent.kills)
        await asyncio.to_thread(s3_stub.reset)
        with FolderWatch(target, trees.digests, trees.old_digests) as watch:
            job = "get", target, "run"
            digests, killed, usual_s = await killed_and_made_again(options, job, kills, usual_s, chance)
            # Hidden files, too: nothing that was on its way is left.
            assert await asyncio.to_thread(digests_in, target) == digests == trees.digests
        watch.check()
        assert not temp_files_in(target)
        received = await asyncio.to_thread(lambda: s3_stub.bytes_out)
        check_cost(sent, received["GetObject"], trees, killed)
        await asyncio.to_thread(shutil.rmtree, target)
    tell(capsys, f"download, {layout}, {usual_s:.1f} s: {sent}")


# A catalog in a folder.


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("verb", ["put", "get"])
async def test_a_copy_that_is_killed_goes_on(
    verb: str, trees: Trees, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    location = tmp_path / "catalog"
    options = {"catalog_location": str(location)}
    usual_s = await usual_seconds(options, ("put", trees.new, "undisturbed"), FileSystemCatalog)
    chance, left, total = random.Random(6), 0, 0
    for _ in range(short_or_full(2, 10)):
        run_id, target = f"run-{uuid.uuid4().hex}", tmp_path / "target"
        await usual_seconds(options, ("put", trees.old if verb == "put" else trees.new, run_id), FileSystemCatalog)
        watched = location / run_id / "data" if verb == "put" else target
        job = (verb, trees.new if verb == "put" else target, run_id)
        with FolderWatch(watched, trees.digests, trees.old_digests) as watch:
            digests, killed, usual_s = await killed_and_made_again(
                options, job, 2, usual_s, chance, kind=FileSystemCatalog
            )
        watch.check()
        assert digests == trees.digests
        total += killed
        left += len(await swept(options, location))
        assert await asyncio.to_thread(digests_in, watched) == trees.digests
        for folder in (watched, target):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    tell(capsys, f"{verb} in a folder, {usual_s:.1f} s: {total} kills, {left} files left to the sweep")


async def swept(options: Mapping[str, Any], location: Path) -> list[str]:
    """Remove what was on its way into the catalog when its writer died, and check that this was all."""
    async with FileSystemCatalog(**options) as catalog:
        report = await catalog.sweep(older_than=timedelta(0), local_folder=location / "nowhere")
    assert not temp_files_in(location)
    return report.temp_files
