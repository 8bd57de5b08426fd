"""What a transfer keeps of files besides their bytes, and what it asks a storage for that has it all already."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncstore.catalog import S3Catalog, TransferPlan
from asyncstore.catalog._cache._known import FILE_NAME, cache_folder
from asyncstore.errors import IntegrityError, InvalidValueError, NotFoundError, TransferError
from tests._catalog_trees import KIB, MIB, digests_in
from tests._catalog_victims import random_bytes, sha256, write

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator, Iterable

    from asyncstore.models import DataCatalog
    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.servers import Bucket

RUN = "run"


@pytest.fixture
async def catalog(stub_bucket: Bucket) -> AsyncIterator[S3Catalog]:
    async with S3Catalog(**stub_bucket.options) as opened:
        yield opened


async def counted(stub: StubServer) -> Counter[str]:
    """Return what was asked since the last time."""
    found = await asyncio.to_thread(lambda: stub.requests)
    await asyncio.to_thread(stub.reset)
    return found


def hashes(entries: Iterable[DataCatalog]) -> dict[str, str]:
    """Return digests by name."""
    return {entry.name: entry.data_hash for entry in entries}


def permissions(folder: Path) -> dict[str, int]:
    """Return the mode of each file, with setuid and the like."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in paths}


# Besides the bytes.

MODES = [0o755, 0o600, 0o444, 0o640, 0o777, 0o400, 0o4755, 0o2755, 0o1644]


@pytest.mark.parametrize("size", [0, 4 * KIB, 3 * MIB, 5 * MIB, 17 * MIB])
async def test_modes_and_times_go_round(catalog: S3Catalog, tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for mode in MODES if size < MIB else [0o755, 0o600, 0o444, 0o4755]:
        write(source, {f"{mode:o}": random_bytes(size)})
        (source / f"{mode:o}").chmod(mode)
        os.utime(source / f"{mode:o}", ns=(1, 1_600_000_000_123_456_789 + mode))
    await catalog.put("**", RUN, local_folder=source)
    await catalog.get("**", RUN, local_folder=target)
    assert permissions(target) == {name: int(name, 8) & 0o777 for name in permissions(source)}
    assert not {path.stat().st_mtime_ns for path in source.iterdir()} & {
        path.stat().st_mtime_ns for path in target.iterdir()
    }
    shutil.rmtree(target)
    await catalog.get("**", RUN, local_folder=target, keep_times=True)
    for path in source.iterdir():
        assert (target / path.name).stat().st_mtime_ns == path.stat().st_mtime_ns


async def test_a_mode_that_somebody_wrote_gives_no_rights_of_others(
    catalog: S3Catalog, stub_bucket: Bucket, tmp_path: Path
) -> None:
    for name, said in {"setuid": "104755", "odd": "99999", "long": "0" * 40, "negative": "-755"}.items():
        await catalog._store.put(f"{RUN}/data/{name}", b"x", metadata={"mode": said, "mtime": "NaN"})
    await catalog.get("**", RUN, local_folder=tmp_path / "target", keep_times=True)
    assert permissions(tmp_path / "target").pop("setuid") == 0o755
    assert not any(mode & ~0o777 for mode in permissions(tmp_path / "target").values())


async def test_empty_folders_go_round(catalog: S3Catalog, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    write(source, {"a": b"", "full/x": b"x"})
    for name in ("empty", "deep/er/empty", "full/empty", "two words", "é/ü"):
        (source / name).mkdir(parents=True)
    entries = await catalog.put("**", RUN, local_folder=source)
    assert [entry.name for entry in entries] == ["data/a", "data/full/x"]
    assert [entry.name async for entry in catalog.list(RUN)] == ["data/a", "data/full/x"]
    await catalog.get("**", RUN, local_folder=target)
    assert everything(target) == everything(source)
    await catalog.sync_between_runs(RUN, "two")
    await catalog.get("**", "two", local_folder=tmp_path / "again")
    assert everything(tmp_path / "again") == everything(source)
    # One that is not empty any more.
    write(source, {"empty/x": b"x"})
    await catalog.put("**", RUN, local_folder=source)
    for folder in (target, tmp_path / "new"):
        await catalog.get("**", RUN, local_folder=folder)
        assert everything(folder) == everything(source)
    await catalog.delete(RUN)
    assert [meta async for page in catalog._store.list(f"{RUN}/") for meta in page] == []


async def test_an_empty_folder_is_meant_by_patterns_for_all_it_holds(catalog: S3Catalog, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write(source, {"a.csv": b"a"})
    (source / "sub" / "empty").mkdir(parents=True)
    await catalog.put(["*.csv", "sub/*"], "few", local_folder=source, allow_no_match=True)
    await catalog.get("**", "few", local_folder=tmp_path / "few")
    assert everything(tmp_path / "few") == {"a.csv"}
    await catalog.put("sub/", "sub", local_folder=source)
    await catalog.get("sub/**", "sub", local_folder=tmp_path / "sub")
    assert everything(tmp_path / "sub") == {"sub", "sub/empty"}


@pytest.mark.parametrize("others", [0, 20])
async def test_an_empty_folder_that_becomes_a_file(catalog: S3Catalog, tmp_path: Path, others: int) -> None:
    source = tmp_path / "source"
    write(source, {f"{number}": b"x" for number in range(others)})
    (source / "later" / "deep").mkdir(parents=True)
    await catalog.put("**", RUN, local_folder=source)
    shutil.rmtree(source / "later")
    write(source, {"later": b"a file now"})
    await catalog.put("**", RUN, local_folder=source)
    await catalog.get("**", RUN, local_folder=tmp_path / "target")
    assert everything(tmp_path / "target") == everything(source)


def everything(folder: Path) -> set[str]:
    """Return the names of all files and folders."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


async def test_several_patterns_without_some(catalog: S3Catalog, tmp_path: Path) -> None:
    tree = {"a.csv": b"1", "b.txt": b"2", "sub/a.csv": b"3", "sub/tmp/x.csv": b"4", "sub/tmp/y": b"5", "z/z.csv": b"6"}
    write(tmp_path / "source", tree)
    put = await catalog.put(["**/*.csv", "b.txt"], RUN, local_folder=tmp_path / "source", exclude=["**/tmp/**", "z/*"])
    assert [entry.name for entry in put] == ["data/a.csv", "data/b.txt", "data/sub/a.csv"]
    got = await catalog.get(["*", "sub/"], RUN, local_folder=tmp_path / "target", exclude="*.txt")
    assert [entry.name for entry in got] == ["data/a.csv", "data/sub/a.csv"]
    with pytest.raises(NotFoundError, match=r"'\*\.parquet'"):
        await catalog.get(["*.csv", "*.parquet"], RUN, local_folder=tmp_path / "target")


async def test_each_call_may_name_its_folder(
    catalog: S3Catalog, stub_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, {"top": b"1", "out/put/x": b"2", "data/y": b"3"})
    there.mkdir()
    monkeypatch.chdir(here)
    await catalog.put("*", RUN, "out/put")
    await catalog.put("*", RUN)
    await catalog.put("top", RUN, ".")
    assert sorted([entry.name async for entry in catalog.list(RUN)]) == ["data/y", "out/put/x", "top"]
    monkeypatch.chdir(there)
    assert [entry.name for entry in await catalog.get("**", RUN, "./out/put/")] == ["out/put/x"]
    assert everything(there) == {"out", "out/put", "out/put/x"}
    assert [entry.name for entry in await catalog.get("**", RUN, Path())] == ["data/y", "out/put/x", "top"]
    assert everything(there) == {"out", "out/put", "out/put/x", "top", "data", "data/y"}


# What is there already.


def written_at(folder: Path) -> dict[str, tuple[int, int]]:
    """Return which files there are, and when each was changed."""
    return {str(path): (path.stat().st_ino, path.stat().st_ctime_ns) for path in folder.rglob("*")}


NUMBER = 1000


@pytest.fixture
def many(tmp_path: Path) -> Path:
    write(tmp_path / "many", {f"{number % 10}/{number}": random_bytes(100, number) for number in range(NUMBER)})
    write(tmp_path / "many", {"large": random_bytes(20 * MIB), "medium": random_bytes(5 * MIB)})
    return tmp_path / "many"


async def test_unchanged_files_cost_a_listing(
    catalog: S3Catalog, s3_stub: StubServer, many: Path, tmp_path: Path
) -> None:
    first = await catalog.put("**", RUN, local_folder=many)
    assert (await counted(s3_stub))["PutObject"] >= NUMBER
    assert await catalog.put("**", RUN, local_folder=many) == first
    assert (await counted(s3_stub)).keys() == {"ListObjectsV2"}
    target = tmp_path / "target"
    got = await catalog.get("**", RUN, local_folder=target)
    assert hashes(got) == hashes(first)
    assert (await counted(s3_stub))["GetObject"] == NUMBER + 1 + 3
    before = written_at(target)
    assert await catalog.get("**", RUN, local_folder=target) == got
    assert (await counted(s3_stub)).keys() == {"ListObjectsV2"}
    assert written_at(target) == before
    # One that has changed is moved alone, also if its size is the same.
    path = many / "3" / "3"
    path.write_bytes(random_bytes(100, 5000))
    await catalog.put("**", RUN, local_folder=many)
    assert (await counted(s3_stub))["PutObject"] == 1
    await catalog.get("**", RUN, local_folder=target)
    assert (await counted(s3_stub))["GetObject"] == 1
    assert digests_in(target) == digests_in(many)


@pytest.mark.parametrize("spoil", ["removed", "corrupted", "empty", "folder", "read-only"])
async def test_the_cache_may_be_lost(
    catalog: S3Catalog, s3_stub: StubServer, many: Path, tmp_path: Path, spoil: str
) -> None:
    first = await catalog.put("**", RUN, local_folder=many)
    target = tmp_path / "target"
    await catalog.get("**", RUN, local_folder=target)
    for verb, folder in (("put", many), ("get", target)):
        shutil.rmtree(cache_folder())
        cache = cache_folder() / FILE_NAME
        if spoil != "removed":
            cache.parent.mkdir()
        if spoil == "corrupted":
            cache.write_bytes(random_bytes(100 * KIB))
        elif spoil == "empty":
            cache.touch()
        elif spoil == "folder":
            cache.mkdir()
        elif spoil == "read-only":
            cache.write_bytes(b"")
            cache_folder().chmod(0o500)
        await counted(s3_stub)
        assert hashes(await getattr(catalog, verb)("**", RUN, local_folder=folder)) == hashes(first)
        asked = await counted(s3_stub)
        # What is not known any more is asked for, and is not moved.
        assert not {"PutObject", "UploadPart", "GetObject"} & asked.keys()
        assert asked["HeadObject"] >= NUMBER
        cache_folder().chmod(0o700)


async def test_what_another_run_has_is_copied_inside_the_storage(
    catalog: S3Catalog, s3_stub: StubServer, many: Path, tmp_path: Path
) -> None:
    first = await catalog.put("**", "base", local_folder=many)
    write(many, {"0/0": b"changed", "new": b"new"})
    await counted(s3_stub)
    second = await catalog.put("**", RUN, local_folder=many, base_run_id="base")
    asked = await counted(s3_stub)
    assert asked["CopyObject"] == NUMBER + 1
    assert asked["PutObject"] == 2
    assert not asked["UploadPart"]
    assert hashes(second) == hashes(first) | {"data/0/0": sha256(b"changed"), "data/new": sha256(b"new")}
    await catalog.get("**", RUN, local_folder=tmp_path / "target")
    assert digests_in(tmp_path / "target") == digests_in(many)
    # There is nothing left to copy.
    await counted(s3_stub)
    await catalog.put("**", RUN, local_folder=many, base_run_id="base")
    assert (await counted(s3_stub)).keys() == {"ListObjectsV2"}


# Plans.


async def test_a_plan_is_carried_out_by_three_catalogs(
    catalog: S3Catalog, s3_stub: StubServer, stub_bucket: Bucket, many: Path, tmp_path: Path
) -> None:
    write(tmp_path / "target", {"0/0": random_bytes(100, 0), "0/10": b"other"})
    for verb, folder in (("put", many), ("get", tmp_path / "target")):
        plan = await getattr(catalog, verb)("**", RUN, local_folder=folder, dry_run=True)
        parts = plan.split(3)
        assert sum(len(part.files) for part in parts) == len(plan.files) == NUMBER + 2
        sent = [TransferPlan.from_json(json.loads(json.dumps(part.to_json()))) for part in parts]
        assert sent == parts
        await counted(s3_stub)

        async def run(part: TransferPlan) -> dict[str, str]:
            async with S3Catalog(**stub_bucket.options) as another:
                return hashes(await another.run(part))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(part)) for part in sent]
        done = [task.result() for task in tasks]
        assert sum(map(len, done)) == NUMBER + 2
        assert {name: digest for one in done for name, digest in one.items()} == {
            f"data/{name}": digest for name, digest in digests_in(many).items()
        }
    assert digests_in(tmp_path / "target") == digests_in(many)


async def test_a_plan_that_has_been_left_behind(catalog: S3Catalog, stub_bucket: Bucket, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write(source, {"a": b"a", "b": b"b", "c": random_bytes(2 * MIB)})
    plan = TransferPlan.from_json(
        json.loads(json.dumps((await catalog.put("**", RUN, local_folder=source, dry_run=True)).to_json()))
    )
    write(source, {"b": b"changed", "c": random_bytes(2 * MIB, 1)})
    with pytest.raises(TransferError) as caught:
        await catalog.run(plan)
    assert caught.value.done == ("data/a",)
    assert {name: type(error) for name, error in caught.value.failed.items()} == {
        "data/b": IntegrityError,
        "data/c": IntegrityError,
    }
    async with S3Catalog(**{**stub_bucket.options, "prefix": "elsewhere"}) as other:
        with pytest.raises(InvalidValueError, match="the plan is for"):
            await other.run(plan)
    await catalog.put("**", RUN, local_folder=source)
    # Done twice it is the same.
    await catalog.get("**", RUN, local_folder=tmp_path / "target")
    again = await catalog.get("**", RUN, local_folder=tmp_path / "other", dry_run=True)
    for _ in range(2):
        await catalog.run(again)
    assert digests_in(tmp_path / "other") == digests_in(source)
