"""A second and a third look at many files: nothing is read, and nothing that changed goes unseen."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from typing import TYPE_CHECKING, Literal

import pytest

from asyncstore.catalog import FileSystemCatalog, S3Catalog
from asyncstore.catalog._cache._known import Known, cache_folder
from asyncstore.catalog._local import _digests, _files
from asyncstore.catalog._moving._lane import Lane
from asyncstore.testing.catalog import read_tree, write_tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from asyncstore.objects.base import ObjectMeta
    from asyncstore.testing.s3_stub._messages import Request
    from asyncstore.testing.s3_stub._storage import BucketContent
    from asyncstore.testing.servers import Bucket
    from tests._watched import WatchedStub

TREE = {f"sub-{number % 7}/{number}": f"{number:05}".encode() for number in range(1500)}


@pytest.fixture
async def catalog(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3Catalog]:
    # Files are remembered at once, as if they had been written long ago.
    monkeypatch.setattr(_files, "RACY_NS", 0)
    async with S3Catalog(**bucket.options, compute_data_folder=str(tmp_path / "data")) as opened:
        yield opened


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked for file by file, and object by object."""
    names: list[str] = []
    digests_of, at_hand = Known.digests_of, Lane.at_hand

    def files(self: Known, files: _files.LocalFiles) -> dict[str, str]:
        names.extend(files)
        return digests_of(self, files)

    def objects(self: Lane, metas: Sequence[ObjectMeta]) -> tuple[dict[str, str], Sequence[ObjectMeta]]:
        names.extend(meta.key for meta in metas)
        return at_hand(self, metas)

    monkeypatch.setattr(Known, "digests_of", files)
    monkeypatch.setattr(Lane, "at_hand", objects)
    return names


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files were written down as the same, each time."""
    counts: list[int] = []
    remember = Known.remember_same

    def remember_same(self: Known, pair: str, same: dict[str, object], *sides: object) -> None:
        counts.append(len(same))
        remember(self, pair, same, *sides)  # type: ignore[arg-type]

    monkeypatch.setattr(Known, "remember_same", remember_same)
    return counts


@pytest.mark.parametrize("direction", ["put", "get"])
async def test_what_was_the_same_is_not_asked_for_again(
    catalog: S3Catalog, tmp_path: Path, asked: list[str], direction: str
) -> None:
    data = tmp_path / "data"
    write_tree(data, TREE)
    move = catalog.put if direction == "put" else catalog.get
    first = await catalog.put("**", "run")
    assert await move("**", "run", dry_run=False) == [entry.model_copy(update={"stage": direction}) for entry in first]
    assert asked
    asked.clear()
    again = await move("**", "run")
    assert [(entry.name, entry.data_hash) for entry in again] == [(entry.name, entry.data_hash) for entry in first]
    assert asked == []
    assert (await move("**", "run", dry_run=True)).counts() == {"skip": len(TREE)}
    # Another folder with the same files is another matter.
    shutil.copytree(data, tmp_path / "copy")
    assert (await move("**", "run", "data", local_folder=tmp_path / "copy", dry_run=True)).counts()
    assert len({*asked}) == 2 * len(TREE)


async def test_what_has_changed_on_either_side_is_seen(catalog: S3Catalog, bucket: Bucket, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_tree(data, TREE)
    for _ in range(3):
        await catalog.put("**", "run")
    status = (data / "sub-1/1").stat()
    (data / "sub-1/1").write_bytes(b"other")
    os.utime(data / "sub-1/1", ns=(status.st_atime_ns, status.st_mtime_ns))
    (data / "sub-2/2").unlink()
    plan = await catalog.put("**", "run", dry_run=True)
    assert {file.name: file.action for file in plan.files if file.action != "skip"} == {"sub-1/1": "upload"}
    write_tree(tmp_path / "elsewhere", {"sub-1/1": b"other", "sub-3/3": b"12345"})
    async with S3Catalog(**bucket.options) as other:
        await other.put("**", "run", "data", local_folder=tmp_path / "elsewhere")
    plan = await catalog.get("**", "run", dry_run=True)
    assert {file.name: file.action for file in plan.files if file.action != "skip"} == {
        "sub-2/2": "download",
        "sub-3/3": "download",
    }
    await catalog.get("**", "run")
    assert read_tree(data) == TREE | {"sub-1/1": b"other", "sub-3/3": b"12345"}


async def test_what_replaced_an_object_after_it_was_listed_does_not_count_for_it(
    catalog: S3Catalog, stub: WatchedStub, content: BucketContent, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    write_tree(data, TREE)
    await catalog.put("**", "run")
    shutil.rmtree(cache_folder())
    write_tree(data, {"sub-0/7": b"LOCAL"})
    key = "run/data/sub-0/7"
    first = content.objects[key]
    await catalog.put("sub-0/7", "other")
    second = content.objects["other/data/sub-0/7"]

    def replace(request: Request) -> None:
        if request.operation == "ListObjectsV2" and request.query.get("prefix") == "run/data/":
            content.objects[key] = second

    stub.after = replace
    assert (await catalog.put("**", "run", dry_run=True)).counts() == {"skip": len(TREE)}
    stub.after = lambda _: None
    # Bytes that are put again have the ETag that they had before.
    content.objects[key] = first
    for _ in range(2):
        assert (await catalog.put("**", "run", dry_run=True)).counts() == {"skip": len(TREE) - 1, "upload": 1}


@pytest.mark.parametrize(("layout", "racy_ns", "expected"), [("packed", 0, [1200]), ("plain", 1 << 62, [])])
async def test_what_cannot_be_remembered_is_not_written_again_and_again(
    catalog: S3Catalog,
    bucket: Bucket,
    tmp_path: Path,
    told: list[int],
    monkeypatch: pytest.MonkeyPatch,
    layout: Literal["packed", "plain"],
    racy_ns: int,
    expected: list[int],
) -> None:
    monkeypatch.setattr(_files, "RACY_NS", racy_ns)
    write_tree(tmp_path / "data", TREE)
    write_tree(tmp_path / "some", dict([*TREE.items()][:1200]))
    await catalog.put("**", "run", "data", local_folder=tmp_path / "some")
    async with S3Catalog(**bucket.options, compute_data_folder=str(tmp_path / "data"), layout=layout) as other:
        for _ in range(4):
            await other.put("**", "run")
    assert told == expected


async def test_few_changes_do_not_make_it_all_be_written_anew(
    catalog: S3Catalog, tmp_path: Path, told: list[int]
) -> None:
    data = tmp_path / "data"
    write_tree(data, TREE)
    for _ in range(3):
        await catalog.put("**", "run")
    assert told == [len(TREE)]
    write_tree(data, {f"new/{number}": b"" for number in range(900)})
    for _ in range(2):
        await catalog.put("**", "run")
    assert told == [len(TREE)]
    write_tree(data, {f"new/{number}": b"" for number in range(900, 1100)})
    for _ in range(3):
        await catalog.put("**", "run")
    assert told == [len(TREE), len(TREE) + 1100]


async def test_a_catalog_that_remembers_nothing_works_as_well(bucket: Bucket, tmp_path: Path) -> None:
    write_tree(tmp_path / "data", TREE)
    async with S3Catalog(**bucket.options, compute_data_folder=str(tmp_path / "data"), remember=False) as catalog:
        for _ in range(3):
            await catalog.put("**", "run")
        assert (await catalog.get("**", "run", dry_run=True)).counts() == {"skip": len(TREE)}
    assert not (cache_folder() / "catalog.db").exists()


async def test_what_was_hashed_before_a_cancellation_is_not_hashed_again(
    catalog: S3Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "data", TREE)
    await catalog.put("**", "run")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    monkeypatch.setattr(_digests, "PORTION", 400)
    loop, cancelled, names = asyncio.get_running_loop(), threading.Event(), list[str]()

    def cancel() -> None:
        task.cancel()
        loop.call_soon(cancelled.set)

    def read(file: _files.LocalFile) -> tuple[bytes | memoryview, str]:
        names.append(file.name)
        if len(names) == 1000:
            loop.call_soon_threadsafe(cancel)
        if len(names) >= 1000:
            cancelled.wait(60)
        return _files.read_file(file)

    monkeypatch.setattr(_digests, "read_file", read)
    task = asyncio.create_task(catalog.put("**", "run", "data", local_folder=tmp_path / "copy"))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 1000 <= len(names) < 1200
    names.clear()
    await catalog.put("**", "run", "data", local_folder=tmp_path / "copy")
    assert len(set(names)) == len(names) == len(TREE) - 800


async def test_empty_files_of_a_folder_are_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path / "data", {f"{number}": b"" for number in range(30)})
    async with FileSystemCatalog(
        catalog_location=str(tmp_path / "catalog"), compute_data_folder=str(tmp_path / "data"), remember=False
    ) as catalog:
        await catalog.put("**", "run")
        monkeypatch.setattr(Lane, "heads", None)
        found = await catalog.get("**", "run", "data", local_folder=tmp_path / "out")
    assert len(found) == 30
