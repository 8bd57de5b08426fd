"""The network goes away in the middle of a large transfer: it fails in time, and goes on later where it stopped."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import stamina

from asyncstore.aws.settings import AwsSettings
from asyncstore.catalog import S3Catalog
from asyncstore.catalog._moving import _arrival
from asyncstore.errors import UnavailableError
from asyncstore.objects._large import _multipart
from asyncstore.objects.s3 import S3ObjectStore
from tests._catalog_relay import network
from tests._catalog_trees import MIB, digests_in, make_tree, temp_files_in
from tests._processes import FULL, short_or_full, tell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from pathlib import Path

    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.servers import Bucket
    from tests._catalog_relay import Network

WORTH_BYTES = short_or_full(24, 256) * MIB
SIZE_BYTES = WORTH_BYTES * 2
AT_ONCE = short_or_full(2, 16)
ENOUGH_BYTES = WORTH_BYTES + AT_ONCE * 8 * MIB + MIB
"""When so many have passed, enough are acknowledged to be worth keeping."""

DEADLINE_S = 240.0
"""After this a call does not end at all; the longest patience of one request is a minute."""


@dataclass
class Scene:
    """A server behind a network, and a folder to put there."""

    net: Network
    stub: StubServer
    options: dict[str, Any]
    storage: S3ObjectStore
    source: Path
    target: Path
    wanted: dict[str, str]

    async def uploads(self) -> int:
        """Return how many uploads are open."""
        return len(await self.storage.list_uploads(""))

    async def moved(self) -> int:
        """Return how many bytes of large files have been moved since the counting began."""
        received = await asyncio.to_thread(lambda: self.stub.bytes_in["UploadPart"])
        return received + await asyncio.to_thread(lambda: self.stub.bytes_out["GetObject"])


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the short form, do not wait between attempts, and keep less."""
    if FULL:
        yield
        return
    for module in (_multipart, _arrival):
        monkeypatch.setattr(module, "RESUME_WORTH_BYTES", WORTH_BYTES)
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
async def scene(s3_stub: StubServer, stub_bucket: Bucket, tmp_path: Path) -> AsyncIterator[Scene]:
    wanted = await asyncio.to_thread(make_tree, tmp_path / "source", small=0, large_bytes=SIZE_BYTES)
    direct = AwsSettings(endpoint_url=stub_bucket.server.endpoint_url, region=stub_bucket.server.region)
    async with S3ObjectStore(stub_bucket.name, direct) as storage, network(stub_bucket.server.endpoint_url) as net:
        options = {**stub_bucket.options, "endpoint_url": net.url, "max_concurrency": AT_ONCE}
        yield Scene(net, s3_stub, options, storage, tmp_path / "source", tmp_path / "target", wanted)
        async for page in storage.list(""):
            await storage.delete([meta.key for meta in page])


async def put(scene: Scene) -> None:
    async with S3Catalog(**scene.options) as catalog:
        await catalog.put("**", "run", local_folder=scene.source)


async def get(scene: Scene) -> None:
    async with S3Catalog(**scene.options) as catalog:
        await catalog.get("**", "run", local_folder=scene.target)


async def failed_within(scene: Scene, call: Coroutine[Any, Any, None], at: int) -> float:
    """Let the network go when so many bytes have passed; return how long after that the call has failed."""
    scene.net.arm(at)
    gone_at = 0.0

    async def note() -> None:
        nonlocal gone_at
        await scene.net.gone.wait()
        gone_at = time.monotonic()

    noting = asyncio.create_task(note())
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(UnavailableError):
            await call
    await noting
    return time.monotonic() - gone_at


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("much", [True, False], ids=["much", "little"])
async def test_an_upload(scene: Scene, much: bool, capsys: pytest.CaptureFixture[str]) -> None:
    took_s = await failed_within(scene, put(scene), ENOUGH_BYTES if much else WORTH_BYTES // 2)
    assert await scene.uploads() == 1
    await scene.net.come()
    await asyncio.to_thread(scene.stub.reset)
    await put(scene)
    again = await scene.moved()
    tell(capsys, f"upload of {SIZE_BYTES / MIB:.0f} MiB: failed after {took_s:.1f} s, then {again / MIB:.0f} MiB")
    # The abort could not be made either: what the storage has of it is gone on with, however little.
    assert again <= SIZE_BYTES - (WORTH_BYTES if much else 0)
    assert await scene.uploads() == 0
    await check_contents(scene)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("much", [True, False], ids=["much", "little"])
async def test_a_download(scene: Scene, much: bool, capsys: pytest.CaptureFixture[str]) -> None:
    await put(scene)
    took_s = await failed_within(scene, get(scene), ENOUGH_BYTES if much else WORTH_BYTES // 2)
    assert not [path for path in scene.target.iterdir() if path not in temp_files_in(scene.target)]
    assert len(temp_files_in(scene.target)) == much
    await scene.net.come()
    await asyncio.to_thread(scene.stub.reset)
    await check_contents(scene)
    again = await scene.moved()
    tell(capsys, f"download of {SIZE_BYTES / MIB:.0f} MiB: failed after {took_s:.1f} s, then {again / MIB:.0f} MiB")
    if much:
        assert again <= SIZE_BYTES - WORTH_BYTES
    else:
        assert again == SIZE_BYTES


async def check_contents(scene: Scene) -> None:
    """Get everything, and check that it is what was put, and that nothing is left beside it."""
    await get(scene)
    assert await asyncio.to_thread(digests_in, scene.target) == scene.wanted
