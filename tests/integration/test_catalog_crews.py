"""Small files moved many at once: by how many threads, in what memory, and what becomes of one that never succeeds."""

from __future__ import annotations

import os
import resource
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import stamina

from asyncstore.catalog import S3Catalog
from asyncstore.catalog._local._files import read_file
from asyncstore.catalog._moving import _upload
from asyncstore.errors import TransferError, UnavailableError
from asyncstore.testing.s3_stub import Fault
from tests._catalog_victims import write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncstore.testing.servers import Bucket
    from tests._watched import WatchedStub

DISK_S = 0.01
MIB = 1024 * 1024


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Do not wait between attempts."""
    with stamina.set_testing(True, attempts=9, cap=True):
        yield


async def test_threads_help_where_the_disk_is_slow(
    stub: WatchedStub, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data", {f"{number:03}": str(number).encode() for number in range(300)})
    inside: set[int] = set()
    most = 0
    read = read_file

    def read_slowly(file: Any) -> tuple[bytes | memoryview, str]:
        nonlocal most
        inside.add(threading.get_ident())
        most = max(most, len(inside))
        # The disk's time, not ours.
        time.sleep(DISK_S)
        inside.discard(threading.get_ident())
        return read(file)

    monkeypatch.setattr(_upload, "read_file", read_slowly)
    async with S3Catalog(**bucket.options) as catalog:
        entries = await catalog.put("**", "run", local_folder=tmp_path / "data")
        assert catalog._lane.window._taken == 0
    assert len(entries) == stub.requests["PutObject"] == 300
    assert 2 <= most <= 8


async def test_the_memory_of_one_file_is_used_for_the_next_one(bucket: Bucket, tmp_path: Path) -> None:
    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    block = os.urandom(3 * MIB)
    contents = {f"{number:03}": number.to_bytes(4, "big") + block[4:] for number in range(80)}
    write(tmp_path / "data", contents)
    pages = len(contents) * len(block) // resource.getpagesize()
    async with S3Catalog(**bucket.options) as catalog:
        before = faults()
        await catalog.put("**", "run", local_folder=tmp_path / "data")
        put = faults()
        await catalog.get("**", "run", local_folder=tmp_path / "got")
        got = faults()
    assert (put - before) < pages / 2
    assert (got - put) < pages / 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "got").iterdir()} == contents


async def test_a_file_that_fails_for_ever_is_told_when_the_others_are_done(
    stub: WatchedStub, bucket: Bucket, tmp_path: Path, no_waiting: None
) -> None:
    write(tmp_path / "data", {f"{number:03}": str(number).encode() for number in range(50)})
    stub.faults = [Fault("internal_error", operation="PutObject", key="/025$", times=10_000)]
    async with S3Catalog(**bucket.options) as catalog:
        with pytest.raises(TransferError, match="1 of 50 files failed") as caught:
            await catalog.put("**", "run", local_folder=tmp_path / "data")
        assert isinstance(caught.value.failed["data/025"], UnavailableError)
        assert len(caught.value.done) == 49
        stub.faults = []
        before = stub.requests["PutObject"]
        await catalog.put("**", "run", local_folder=tmp_path / "data")
        assert stub.requests["PutObject"] == before + 1
