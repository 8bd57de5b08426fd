"""Processes that move files of one run at the same time: nothing is torn, and none is told what is not so."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.aws.settings import AwsSettings
from asyncstore.catalog import FileSystemCatalog, S3Catalog
from asyncstore.objects.s3 import S3ObjectStore
from tests._catalog_processes import catalog_process
from tests._catalog_trees import MIB, digests_in, make_tree, temp_files_in
from tests._catalog_watching import FolderWatch
from tests._processes import short_or_full

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from asyncstore.catalog import Catalog
    from asyncstore.testing.s3_stub import StubServer
    from tests._processes import Worker

SMALL = short_or_full(40, 1000)
LARGE_BYTES = short_or_full(24, 200) * MIB
ROUNDS = short_or_full(1, 10)
DEADLINE_S = 120.0

Trees = tuple["Path", "Path", dict[str, str], dict[str, str]]
"""Two folders of other contents under the same names, and their SHA-256 by name."""


@dataclass
class Place:
    """Where a catalog keeps its files."""

    kind: type[Catalog]
    options: dict[str, Any]
    storage: S3ObjectStore | None
    """The bucket, if it is one."""

    @contextlib.asynccontextmanager
    async def two(self) -> AsyncIterator[tuple[Worker, Worker]]:
        """Run two processes within the block."""
        async with (
            asyncio.timeout(DEADLINE_S),
            catalog_process(self.kind, self.options) as one,
            catalog_process(self.kind, self.options) as other,
        ):
            yield one, other

    async def check_clean(self) -> None:
        """Check that nothing is on its way here any more."""
        if self.storage is not None:
            assert not await self.storage.list_uploads("")

    async def clear(self, run_id: str) -> None:
        """Delete a run."""
        async with self.kind(**self.options) as catalog:
            await catalog.delete(run_id)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    digests = make_tree(one, small=SMALL, large_bytes=LARGE_BYTES)
    return one, other, digests, make_tree(other, small=SMALL, large_bytes=LARGE_BYTES - 5 * MIB, seed=1)


@pytest.fixture(params=["s3", "folder"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "folder":
        place = Place(FileSystemCatalog, {"catalog_location": str(tmp_path / "catalog")}, None)
        yield place
        assert not temp_files_in(tmp_path)
        return
    stub: StubServer = request.getfixturevalue("s3_stub")
    bucket = request.getfixturevalue("stub_bucket")
    stub.configure(latency_s=0.005)
    settings = AwsSettings(endpoint_url=stub.endpoint_url, region=stub.region)
    async with S3ObjectStore(bucket.name, settings) as storage:
        yield Place(S3Catalog, bucket.options, storage)


async def at_once(*jobs: tuple[Worker, str, Path, str]) -> list[dict[str, Any]]:
    """Have processes do their jobs at the same time, and return what came of each."""
    for worker, verb, folder, run_id in jobs:
        await worker.begin(verb, folder=str(folder), run_id=run_id)
    outcomes = []
    for worker, verb, *_ in jobs:
        assert await worker.said() == {"begun": verb}
        outcomes.append(await worker.result())
    return outcomes


async def check_contents(place: Place, run_id: str, target: Path, *possible: dict[str, str]) -> None:
    """Check that each file of a run is one of those that it may be, by the bytes that a fresh folder gets."""
    async with place.kind(**place.options) as catalog:
        await catalog.get("**", run_id, local_folder=target)
        assert (await catalog.verify(run_id)).ok
    found = await asyncio.to_thread(digests_in, target)
    assert found.keys() == possible[0].keys()
    assert all(digest in {digests[name] for digests in possible} for name, digest in found.items())
    await asyncio.to_thread(shutil.rmtree, target)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_two_put_the_same_files(place: Place, trees: Trees, tmp_path: Path) -> None:
    source, _, digests, _ = trees
    async with place.two() as workers:
        for number in range(ROUNDS):
            run_id = f"run-{number}"
            outcomes = await at_once(*((worker, "put", source, run_id) for worker in workers))
            assert outcomes == [{"digests": digests}] * 2
            await place.check_clean()
            await check_contents(place, run_id, tmp_path / "back", digests)
            await place.clear(run_id)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_two_put_other_contents(place: Place, trees: Trees, tmp_path: Path) -> None:
    source, other_source, digests, other_digests = trees
    async with place.two() as (one, other):
        for number in range(ROUNDS):
            run_id = f"run-{number}"
            outcomes = await at_once((one, "put", source, run_id), (other, "put", other_source, run_id))
            assert outcomes == [{"digests": digests}, {"digests": other_digests}]
            await place.check_clean()
            await check_contents(place, run_id, tmp_path / "back", digests, other_digests)
            await place.clear(run_id)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_two_get_into_the_same_folder(place: Place, trees: Trees, tmp_path: Path) -> None:
    source, other_source, digests, other_digests = trees
    async with place.two() as workers:
        [outcome] = await at_once((workers[0], "put", source, "run"))
        assert outcome == {"digests": digests}
        for _ in range(ROUNDS):
            target = tmp_path / uuid.uuid4().hex
            await asyncio.to_thread(shutil.copytree, other_source, target)
            with FolderWatch(target, digests, other_digests) as watch:
                outcomes = await at_once(*((worker, "get", target, "run") for worker in workers))
            assert outcomes == [{"digests": digests}] * 2
            # Hidden files, too: nothing that was on its way is left.
            assert await asyncio.to_thread(digests_in, target) == digests
            watch.check()
            await asyncio.to_thread(shutil.rmtree, target)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_a_get_beside_a_put(place: Place, trees: Trees, tmp_path: Path) -> None:
    source, other_source, digests, other_digests = trees
    async with place.two() as (one, other):
        for number in range(ROUNDS):
            run_id, target = f"run-{number}", tmp_path / f"target-{number}"
            await at_once((one, "put", other_source, run_id))
            with FolderWatch(target, digests, other_digests) as watch:
                put, got = await at_once((one, "put", source, run_id), (other, "get", target, run_id))
            assert put == {"digests": digests}
            check_explained(got, digests, other_digests)
            watch.check()
            assert not temp_files_in(target)
            [got] = await at_once((other, "get", target, run_id))
            assert got == {"digests": digests}
            assert await asyncio.to_thread(digests_in, target) == digests
            await place.check_clean()
            await asyncio.to_thread(shutil.rmtree, target)
            await place.clear(run_id)


def check_explained(got: dict[str, Any], *possible: dict[str, str]) -> None:
    """Check that a get brought each file whole, or said that it was replaced meanwhile."""
    if "digests" in got:
        assert all(digest in {digests[name] for digests in possible} for name, digest in got["digests"].items())
    else:
        assert got["error"] == "TransferError", got
        assert all(cause.startswith("ConflictError") for cause in got["failed"].values()), got
