"""The packed layout against real storage: what it costs, what it keeps, and what it says of damage."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.catalog import Catalog, FileSystemCatalog, S3Catalog
from asyncstore.catalog._packed._index import decode
from asyncstore.catalog._plan import TransferPlan
from asyncstore.errors import ConfigurationError, IntegrityError, NotFoundError, TransferError
from asyncstore.objects.memory import MemoryObjectStore
from asyncstore.testing.s3_stub import Fault
from tests._every_await import cancelled_at_any
from tests._processes import short_or_full

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from pathlib import Path

    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.servers import Bucket

KIB = 1024
MIB = 1024 * KIB
LARGE = 4 * MIB + 1


def write(folder: Path, tree: Mapping[str, bytes]) -> None:
    for name, contents in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)


def read(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def many(count: int, mark: str = "") -> dict[str, bytes]:
    return {f"part-{number % 7}/{number:05}.txt": f"{mark}{number}".encode() * 3 for number in range(count)}


async def keys(store: Any, prefix: str = "") -> list[str]:
    return sorted([meta.key async for page in store.list(prefix) for meta in page])


async def packs_of(store: Any, prefix: str = "") -> list[str]:
    return [key for key in await keys(store, prefix) if key.endswith(".pack")]


async def indices_of(store: Any, prefix: str = "") -> list[str]:
    return [key for key in await keys(store, prefix) if key.endswith(".index")]


def names(entries: Iterable[Any]) -> list[str]:
    return sorted(entry.name for entry in entries)


@pytest.fixture
async def store() -> AsyncIterator[MemoryObjectStore]:
    async with MemoryObjectStore() as store:
        yield store


@pytest.fixture
async def packed(store: MemoryObjectStore) -> AsyncIterator[Catalog]:
    async with Catalog(store, prefix="team", layout="packed") as catalog:
        yield catalog


@pytest.fixture
async def plain(store: MemoryObjectStore) -> AsyncIterator[Catalog]:
    async with Catalog(store, prefix="team") as catalog:
        yield catalog


@pytest.fixture
async def on_stub(stub_bucket: Bucket) -> AsyncIterator[S3Catalog]:
    async with S3Catalog(**stub_bucket.options, layout="packed") as catalog:
        yield catalog


# What it costs.


async def test_many_files_cost_few_requests(
    on_stub: S3Catalog, stub_bucket: Bucket, s3_stub: StubServer, tmp_path: Path
) -> None:
    tree = many(1500)
    write(tmp_path / "data", tree)
    await on_stub._store.capabilities()
    s3_stub.reset()
    await on_stub.put("**", "run", tmp_path / "data")
    assert s3_stub.requests == {"ListObjectsV2": 3, "PutObject": 2}
    s3_stub.reset()
    await on_stub.get("**", "run", local_folder=tmp_path / "out")
    assert s3_stub.requests == {"ListObjectsV2": 2, "GetObject": 2}
    assert read(tmp_path / "out") == tree
    s3_stub.reset()
    await on_stub.put("**", "run", tmp_path / "data")
    await on_stub.get("**", "run", local_folder=tmp_path / "out")
    assert s3_stub.requests == {"ListObjectsV2": 4, "GetObject": 2}
    async with S3Catalog(**stub_bucket.options) as plain:
        s3_stub.reset()
        await plain.get("**", "run", local_folder=tmp_path / "again")
        assert s3_stub.requests == {"ListObjectsV2": 1, "GetObject": 2}
    assert read(tmp_path / "again") == tree


async def test_one_file_of_many_is_one_range(on_stub: S3Catalog, s3_stub: StubServer, tmp_path: Path) -> None:
    tree = {f"{number:03}": os.urandom(30 * KIB) for number in range(200)}
    write(tmp_path / "data", tree)
    await on_stub.put("**", "run", tmp_path / "data")
    s3_stub.reset()
    await on_stub.get("123", "run", local_folder=tmp_path / "out")
    # One GetObject is the index.
    assert s3_stub.requests == {"HeadObject": 1, "ListObjectsV2": 2, "GetObject": 2}
    assert read(tmp_path / "out") == {"123": tree["123"]}
    s3_stub.reset()
    await on_stub.get("1[0-4]*", "run", local_folder=tmp_path / "out")
    assert s3_stub.requests["GetObject"] == 2


async def test_plain_runs_cost_what_they_did(stub_bucket: Bucket, s3_stub: StubServer, tmp_path: Path) -> None:
    write(tmp_path / "data", {"a": b"a", "b": b"b", "deep/c": b"c"})
    async with S3Catalog(**stub_bucket.options, remember=False) as catalog:
        await catalog.put("**", "other", tmp_path / "data")
        s3_stub.reset()
        await catalog.put("**", "run", tmp_path / "data")
        # Each file is asked for, and whether it is a folder there; so is the folder, whether it is a file.
        assert s3_stub.requests == {"HeadObject": 4, "ListObjectsV2": 3, "PutObject": 3}
        for number, (pattern, expected) in enumerate(
            [
                ("a", {"HeadObject": 1, "GetObject": 1}),
                ("**", {"ListObjectsV2": 1, "GetObject": 3}),
                ("*", {"ListObjectsV2": 1, "GetObject": 2}),
                # Whether the folder above has packs, in which files of this one may be.
                ("deep/*", {"ListObjectsV2": 2, "GetObject": 1}),
            ]
        ):
            s3_stub.reset()
            await catalog.get(pattern, "run", local_folder=tmp_path / f"out-{number}")
            assert s3_stub.requests == expected


@pytest.mark.slow
async def test_a_hundred_thousand_files_cost_under_two_hundred_requests(
    on_stub: S3Catalog, s3_stub: StubServer, tmp_path: Path
) -> None:
    folders = short_or_full(20, 200)
    contents = os.urandom(4 * KIB + 100_000)
    for folder in range(folders):
        (tmp_path / "data" / f"{folder}").mkdir(parents=True)
        for number in range(500):
            start = 500 * folder + number
            (tmp_path / "data" / f"{folder}" / f"{number}").write_bytes(contents[start : start + 4 * KIB])
    s3_stub.reset()
    assert len(await on_stub.put("**", "run", tmp_path / "data")) == 500 * folders
    assert s3_stub.requests.total() <= folders
    s3_stub.reset()
    assert len(await on_stub.get("**", "run", local_folder=tmp_path / "out")) == 500 * folders
    assert s3_stub.requests.total() <= folders


# What it keeps.


async def test_what_a_tree_has_besides_bytes(packed: Catalog, store: MemoryObjectStore, tmp_path: Path) -> None:
    write(tmp_path / "data", {"empty": b"", "run.sh": b"#!", "large": os.urandom(LARGE), "edge": os.urandom(LARGE - 1)})
    (tmp_path / "data" / "hollow" / "deeper").mkdir(parents=True)
    (tmp_path / "data" / "run.sh").chmod(0o750)
    os.utime(tmp_path / "data" / "run.sh", ns=(1, 1_600_000_000_123_456_789))
    await packed.put("**", "run", tmp_path / "data")
    assert [key for key in await keys(store) if ".asyncstore" not in key] == ["team/run/data/large"]
    await packed.get("**", "run", local_folder=tmp_path / "out", keep_times=True)
    assert read(tmp_path / "out") == read(tmp_path / "data")
    assert (tmp_path / "out" / "hollow" / "deeper").is_dir()
    status = (tmp_path / "out" / "run.sh").stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o750, 1_600_000_000_123_456_789)
    before = await keys(store)
    await packed.put("**", "run", tmp_path / "data")
    assert await keys(store) == before


async def test_nothing_but_what_has_no_bytes_needs_no_pack(
    packed: Catalog, store: MemoryObjectStore, tmp_path: Path
) -> None:
    write(tmp_path / "data", {"empty": b""})
    (tmp_path / "data" / "hollow").mkdir()
    await packed.put("**", "run", tmp_path / "data")
    assert (len(await packs_of(store)), len(await indices_of(store))) == (0, 1)
    await packed.get("**", "run", local_folder=tmp_path / "out")
    assert read(tmp_path / "out") == {"empty": b""}
    assert (tmp_path / "out" / "hollow").is_dir()
    assert names(await packed.sync_between_runs("run", "other")) == ["data/empty"]
    assert (await packed.verify("other")).verified == ["data/empty"]


async def test_only_what_changed_is_put_again(packed: Catalog, store: MemoryObjectStore, tmp_path: Path) -> None:
    write(tmp_path / "data", many(100))
    await packed.put("**", "run", tmp_path / "data")
    write(tmp_path / "data", {"part-1/00001.txt": b"other", "new": b"new"})
    await packed.put("**", "run", tmp_path / "data")
    latest = (await indices_of(store))[-1]
    assert decode((await store.get(latest))[1], "").names == ["new", "part-1/00001.txt"]
    await packed.get("**", "run", local_folder=tmp_path / "out")
    assert read(tmp_path / "out") == {**many(100), "part-1/00001.txt": b"other", "new": b"new"}


@pytest.mark.parametrize("first", ["plain", "packed"])
async def test_layouts_may_change(
    first: str, packed: Catalog, plain: Catalog, store: MemoryObjectStore, tmp_path: Path
) -> None:
    one, other = (plain, packed) if first == "plain" else (packed, plain)
    write(tmp_path / "data", {"a": b"old", "b": b"stays", "sub/c": b"old"})
    await one.put("**", "run", tmp_path / "data")
    write(tmp_path / "data", {"a": b"new", "sub/c": b"new", "sub/d": b"new"})
    await other.put("**", "run", tmp_path / "data")
    write(tmp_path / "data", {"sub/c": b"newest", "e": b"e"})
    await one.put("**", "run", tmp_path / "data")
    for number, reader in enumerate((plain, packed)):
        for pattern in ("**", ["*", "sub/*"], ["a", "b", "e", "sub/c", "sub/d"]):
            out = tmp_path / f"out-{number}-{len(pattern)}"
            await reader.get(pattern, "run", local_folder=out)
            assert read(out) == read(tmp_path / "data")
        assert names([entry async for entry in reader.list("run")]) == [
            "data/a",
            "data/b",
            "data/e",
            "data/sub/c",
            "data/sub/d",
        ]
        await reader.get("sub/*", "run", local_folder=tmp_path / f"sub-{number}")
        assert read(tmp_path / f"sub-{number}") == {"sub/c": b"newest", "sub/d": b"new"}
    before = await keys(store)
    await packed.put("**", "run", tmp_path / "data")
    assert await keys(store) == before


async def test_a_packed_file_that_grows_large_and_shrinks_again(
    packed: Catalog, store: MemoryObjectStore, tmp_path: Path
) -> None:
    for number, contents in enumerate([b"small", os.urandom(LARGE), b"small again"]):
        write(tmp_path / "data", {"a": contents})
        await packed.put("a", "run", tmp_path / "data")
        await packed.get("a", "run", local_folder=tmp_path / f"{number}")
        assert read(tmp_path / f"{number}") == {"a": contents}


async def test_writers_at_the_same_time_are_both_there(stub_bucket: Bucket, on_stub: S3Catalog, tmp_path: Path) -> None:
    write(tmp_path / "one" / "data", {**many(200, "one"), "both": b"one"})
    write(tmp_path / "two" / "data", {"other": b"two", "both": b"two"})
    async with S3Catalog(**stub_bucket.options, layout="packed") as another, asyncio.TaskGroup() as group:
        group.create_task(on_stub.put("**", "run", tmp_path / "one" / "data"))
        group.create_task(another.put("**", "run", tmp_path / "two" / "data"))
    await on_stub.get("**", "run", local_folder=tmp_path / "out")
    got = read(tmp_path / "out")
    assert got.pop("both") in {b"one", b"two"}
    assert got == {**many(200, "one"), "other": b"two"}


async def test_what_was_synced_is_left_alone_though_another_put_a_newer_one(
    packed: Catalog, plain: Catalog, tmp_path: Path
) -> None:
    for writer in (packed, plain):
        write(tmp_path / "data", {"a": b"old", "b": b"b"})
        synced = await packed.put("**", "run", tmp_path / "data")
        write(tmp_path / "elsewhere" / "data", {"a": b"new"})
        await packed.put("a", "run", tmp_path / "elsewhere" / "data")
        write(tmp_path / "data", {"a": b"old"})
        await writer.put(["a", "b"], "run", tmp_path / "data", synced)
        await packed.get("a", "run", local_folder=tmp_path / "out")
        assert read(tmp_path / "out") == {"a": b"new"}
        await packed.delete("run")


async def test_folders_of_a_run_may_lie_in_each_other(packed: Catalog, plain: Catalog, tmp_path: Path) -> None:
    write(tmp_path, {"data/a": b"a", "data/sub/b": b"b", "data/sub/c": b"old"})
    await packed.put("data/**", "run", ".", local_folder=tmp_path)
    write(tmp_path, {"data/sub/c": b"new"})
    await packed.put("**", "run", "data/sub", local_folder=tmp_path / "data" / "sub")
    for number, reader in enumerate((packed, plain)):
        out = tmp_path / f"out-{number}"
        await reader.get("**", "run", ".", local_folder=out / "all")
        await reader.get("data/sub/c", "run", ".", local_folder=out / "one")
        assert read(out / "all") == {"data/a": b"a", "data/sub/b": b"b", "data/sub/c": b"new"}
        assert read(out / "one") == {"data/sub/c": b"new"}
    await packed.get("**", "run", "data", local_folder=tmp_path / "data-out")
    assert read(tmp_path / "data-out") == {"a": b"a", "sub/b": b"b", "sub/c": b"new"}
    await packed.get("*", "run", "data/sub", local_folder=tmp_path / "sub-out")
    assert read(tmp_path / "sub-out") == {"b": b"b", "c": b"new"}


async def test_plans_are_split_and_sent_elsewhere(packed: Catalog, store: MemoryObjectStore, tmp_path: Path) -> None:
    write(tmp_path / "data", {**many(50), "large": os.urandom(LARGE)})
    plan = await packed.put("**", "run", tmp_path / "data", dry_run=True)
    assert await keys(store) == []
    assert plan.counts() == {"upload": 51}
    for part in plan.split(3):
        await packed.run(TransferPlan.from_json(part.to_json()))
    # The large file is a part by itself.
    assert len(await indices_of(store)) == 2
    fetch = await packed.get("**", "run", local_folder=tmp_path / "out", dry_run=True, exclude="part-3/*")
    assert fetch.counts() == {"download": 44}
    for part in fetch.split(4):
        await packed.run(TransferPlan.from_json(part.to_json()))
    assert read(tmp_path / "out") == {
        name: contents for name, contents in read(tmp_path / "data").items() if not name.startswith("part-3/")
    }


async def test_progress_adds_up(packed: Catalog, tmp_path: Path) -> None:
    write(tmp_path / "data", {**many(30), "large": os.urandom(LARGE), "empty": b""})
    calls: list[Callable[[Any], Awaitable[object]]] = [
        lambda hook: packed.put("**", "run", tmp_path / "data", on_progress=hook),
        lambda hook: packed.get("**", "run", local_folder=tmp_path / "out", on_progress=hook),
        lambda hook: packed.sync_between_runs("run", "other", on_progress=hook),
    ]
    for call in calls:
        told: list[Any] = []
        await call(told.append)
        done = [progress.bytes_done for progress in told]
        assert done == sorted(done)
        assert (told[-1].files_done, told[-1].files_total) == (32, 32)
        assert told[-1].bytes_done == told[-1].bytes_total


# Between runs.


async def test_between_runs_packs_are_copied_inside_the_storage(
    on_stub: S3Catalog, s3_stub: StubServer, tmp_path: Path
) -> None:
    write(tmp_path / "data", {**many(300), "step.execution.log": b"log", "large": os.urandom(LARGE)})
    await on_stub.put("**", "before", tmp_path / "data")
    write(tmp_path / "data", {"part-1/00001.txt": b"newer"})
    await on_stub.put("**", "before", tmp_path / "data")
    s3_stub.reset()
    synced = await on_stub.sync_between_runs("before", "run")
    # Two indices are read, two packs and the large file are copied, and one index is written.
    assert s3_stub.requests["CopyObject"] == 3
    assert s3_stub.requests["PutObject"] == 1
    assert s3_stub.requests["GetObject"] == 2
    tree = read(tmp_path / "data")
    del tree["step.execution.log"]
    assert names(synced) == sorted(f"data/{name}" for name in tree)
    await on_stub.delete("before")
    await on_stub.get("**", "run", local_folder=tmp_path / "out")
    assert read(tmp_path / "out") == tree
    s3_stub.reset()
    await on_stub.sync_between_runs("run", "run")
    assert not {"PutObject", "CopyObject"} & s3_stub.requests.keys()


async def test_syncing_goes_over_what_the_other_run_has(
    packed: Catalog, plain: Catalog, store: MemoryObjectStore, tmp_path: Path
) -> None:
    write(tmp_path / "data", {"a": b"a", "b": b"b", "c": b"c", "d": b"d"})
    (tmp_path / "data" / "a").chmod(0o700)
    await packed.put("**", "before", tmp_path / "data")
    write(tmp_path / "other" / "data", {"a": b"another", "b": b"b"})
    await plain.put("**", "run", tmp_path / "other" / "data")
    write(tmp_path / "third" / "data", {"c": b"other", "d": b"d"})
    await packed.put("**", "run", tmp_path / "third" / "data")
    plan = await plain.sync_between_runs("before", "run", dry_run=True)
    assert plan.counts() == {"copy": 2, "skip": 2}
    await plain.run(plan)
    for number, reader in enumerate((packed, plain)):
        await reader.get("**", "run", local_folder=tmp_path / f"out-{number}")
        assert read(tmp_path / f"out-{number}") == read(tmp_path / "data")
        assert (tmp_path / f"out-{number}" / "a").stat().st_mode & 0o777 == 0o700
    assert (await packed.sync_between_runs("before", "run", dry_run=True)).counts() == {"skip": 4}


async def test_a_base_run_in_packs(packed: Catalog, plain: Catalog, store: MemoryObjectStore, tmp_path: Path) -> None:
    write(tmp_path / "data", many(40))
    await packed.put("**", "before", tmp_path / "data")
    write(tmp_path / "data", {"new": b"new"})
    plan = await packed.put("**", "run", tmp_path / "data", base_run_id="before", dry_run=True)
    assert plan.counts() == {"copy": 40, "upload": 1}
    await packed.run(plan)
    assert (len(await packs_of(store, "team/run/")), len(await indices_of(store, "team/run/"))) == (2, 1)
    await plain.put("**", "plain", tmp_path / "data", base_run_id="before")
    await packed.delete("before")
    for run_id in ("run", "plain"):
        await packed.get("**", run_id, local_folder=tmp_path / run_id)
        assert read(tmp_path / run_id) == read(tmp_path / "data")
    await packed.delete("run")
    assert await keys(store, "team/run/") == []


# What goes wrong.


async def test_files_that_change_or_vanish_are_left_out(packed: Catalog, plain: Catalog, tmp_path: Path) -> None:
    write(tmp_path / "data", many(20))
    plan = await packed.put("**", "run", tmp_path / "data", dry_run=True)
    (tmp_path / "data" / "part-1/00001.txt").unlink()
    write(tmp_path / "data", {"part-2/00002.txt": b"longer than it was before", "part-3/00003.txt": b""})
    (tmp_path / "data" / "part-4/00004.txt").unlink()
    os.mkfifo(tmp_path / "data" / "part-4/00004.txt")
    with pytest.raises(TransferError) as raised:
        await packed.run(plan)
    failed = {f"data/part-{number}/0000{number}.txt" for number in (1, 2, 3, 4)}
    assert set(raised.value.failed) == failed
    assert isinstance(raised.value.failed["data/part-1/00001.txt"], NotFoundError)
    assert isinstance(raised.value.failed["data/part-2/00002.txt"], IntegrityError)
    assert len(raised.value.done) == 16
    await plain.get("**", "run", local_folder=tmp_path / "out")
    left = {name: contents for name, contents in many(20).items() if f"data/{name}" not in failed}
    assert read(tmp_path / "out") == left


async def test_where_every_file_fails_nothing_is_put(packed: Catalog, store: MemoryObjectStore, tmp_path: Path) -> None:
    write(tmp_path / "data", {"a": b"a"})
    plan = await packed.put("**", "run", tmp_path / "data", dry_run=True)
    (tmp_path / "data" / "a").unlink()
    with pytest.raises(TransferError):
        await packed.run(plan)
    assert await keys(store) == []


@pytest.mark.parametrize("kind", ["folder", "stub"])
async def test_a_flipped_bit_fails_only_its_file(kind: str, stub_bucket: Bucket, tmp_path: Path) -> None:
    catalog = (
        FileSystemCatalog(catalog_location=str(tmp_path / "catalog"), layout="packed")
        if kind == "folder"
        else S3Catalog(**stub_bucket.options, layout="packed")
    )
    tree = {f"{number:02}": bytes([number]) * 100 for number in range(50)}
    write(tmp_path / "data", tree)
    async with catalog:
        await catalog.put("**", "run", tmp_path / "data")
        [pack] = await packs_of(catalog._store)
        data = bytearray((await catalog._store.get(pack))[1])
        data[700] ^= 1
        await catalog._store.put(pack, bytes(data))
        with pytest.raises(TransferError) as raised:
            await catalog.get("**", "run", local_folder=tmp_path / "out")
        assert set(raised.value.failed) == {"data/07"}
        assert isinstance(raised.value.failed["data/07"], IntegrityError)
        report = await catalog.verify("run")
        assert set(report.failed) == {"data/07"}
        assert len(report.verified) == 49
        assert read(tmp_path / "out") == {name: contents for name, contents in tree.items() if name != "07"}
        await catalog._store.put(pack, bytes(data[:2500]))
        with pytest.raises(TransferError) as raised:
            await catalog.get("**", "run", local_folder=tmp_path / "more")
        assert {"data/07", "data/49"} <= set(raised.value.failed)
        await catalog._store.delete([pack])
        with pytest.raises(TransferError) as raised:
            await catalog.get("00", "run", local_folder=tmp_path / "none")
        assert isinstance(raised.value.failed["data/00"], NotFoundError)


async def test_a_damaged_index_is_told(packed: Catalog, store: MemoryObjectStore, tmp_path: Path) -> None:
    write(tmp_path / "data", {"a": b"a"})
    await packed.put("**", "run", tmp_path / "data")
    [key] = await indices_of(store)
    data = (await store.get(key))[1]
    for spoilt, error in (
        (data[:-1], IntegrityError),
        (b"", IntegrityError),
        (data.replace(b"index 1", b"index 7"), ConfigurationError),
    ):
        await store.put(key, spoilt)
        for call in (
            lambda: packed.get("**", "run", local_folder=tmp_path / "out"),
            lambda: packed.put("**", "run", tmp_path / "data"),
            lambda: packed.sync_between_runs("run", "other"),
            lambda: packed.verify("run"),
        ):
            with pytest.raises(error, match=key):
                await call()
    assert (await packed.sweep(older_than=timedelta(0))).packs == []
    await packed.delete("run")
    assert await keys(store) == []


async def test_an_index_that_cannot_be_written_leaves_what_was(
    on_stub: S3Catalog, s3_stub: StubServer, tmp_path: Path
) -> None:
    write(tmp_path / "data", {"a": b"old"})
    await on_stub.put("**", "run", tmp_path / "data")
    write(tmp_path / "data", {"a": b"new", "b": b"new"})
    s3_stub.set_faults([Fault("conflict", method="PUT", key=r"\.index$")])
    with pytest.raises(Exception, match=r"\.index"):
        await on_stub.put("**", "run", tmp_path / "data")
    s3_stub.set_faults([])
    await on_stub.get("**", "run", local_folder=tmp_path / "out")
    assert read(tmp_path / "out") == {"a": b"old"}
    assert len(await packs_of(on_stub._store)) == 2
    left = await on_stub.sweep(older_than=timedelta(0), dry_run=True)
    assert (await on_stub.sweep()).packs == []
    swept = await on_stub.sweep(older_than=timedelta(0))
    assert swept.packs == left.packs
    assert len(swept.packs) == 1
    assert len(await packs_of(on_stub._store)) == 1
    await on_stub.put("**", "run", tmp_path / "data")
    await on_stub.get("**", "run", local_folder=tmp_path / "out")
    assert read(tmp_path / "out") == {"a": b"new", "b": b"new"}


async def test_a_cancelled_put_leaves_nothing(on_stub: S3Catalog, s3_stub: StubServer, tmp_path: Path) -> None:
    write(tmp_path / "data", {f"{number:02}": os.urandom(MIB) for number in range(40)})
    s3_stub.set_faults([Fault("stall", method="PUT", key=r"-2\.pack$")])
    stored = asyncio.Event()

    def look(progress: Any) -> None:
        if progress.bytes_done:
            stored.set()

    task = asyncio.create_task(on_stub.put("**", "run", tmp_path / "data", on_progress=look))
    await stored.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    s3_stub.set_faults([])
    assert await indices_of(on_stub._store) == []
    # What the storage was still taking it may keep.
    assert [key for key in await packs_of(on_stub._store) if not key.endswith("-2.pack")] == []


PUT = textwrap.dedent(
    """
    import asyncio, json, sys
    from asyncstore.catalog import S3Catalog

    async def main():
        async with S3Catalog(**json.loads(sys.argv[1]), layout="packed") as catalog:
            await catalog.put("**", "run", sys.argv[2])

    asyncio.run(main())
    """
)


async def test_kill_before_the_index_leaves_the_old_state(
    on_stub: S3Catalog, stub_bucket: Bucket, s3_stub: StubServer, tmp_path: Path
) -> None:
    write(tmp_path / "data", {"a": b"old", "b": b"old"})
    await on_stub.put("**", "run", tmp_path / "data")
    write(tmp_path / "data", {"a": b"new", "c": b"new"})
    s3_stub.set_faults([Fault("stall", method="PUT", key=r"\.pack$")])
    command = [sys.executable, "-c", PUT, json.dumps(stub_bucket.options), str(tmp_path / "data")]
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL)
    while len(await packs_of(on_stub._store)) < 2:
        assert process.returncode is None
    process.send_signal(signal.SIGKILL)
    await process.wait()
    s3_stub.set_faults([])
    await on_stub.get("**", "run", local_folder=tmp_path / "out")
    assert read(tmp_path / "out") == {"a": b"old", "b": b"old"}
    assert len((await on_stub.sweep(older_than=timedelta(0))).packs) == 1
    await on_stub.put("**", "run", tmp_path / "data")
    await on_stub.get("**", "run", local_folder=tmp_path / "out")
    assert read(tmp_path / "out") == {"a": b"new", "b": b"old", "c": b"new"}


async def test_a_busy_storage_is_waited_for(on_stub: S3Catalog, s3_stub: StubServer, tmp_path: Path) -> None:
    tree = {f"{number:02}": os.urandom(MIB) for number in range(50)}
    write(tmp_path / "data", tree)
    s3_stub.set_faults([Fault("slow_down", probability=0.3, seed=5)])
    await on_stub.put("**", "run", tmp_path / "data")
    await on_stub.get("**", "run", local_folder=tmp_path / "out")
    assert read(tmp_path / "out") == tree


@pytest.mark.parametrize("limit", [16, 64])
async def test_memory_is_asked_for_as_a_whole(limit: int, store: MemoryObjectStore, tmp_path: Path) -> None:
    tree = {f"{number:02}": os.urandom(MIB) for number in range(60)} | {"large": os.urandom(LARGE)}
    write(tmp_path / "data", tree)
    async with Catalog(store, layout="packed", max_memory_mb=limit, max_concurrency=2) as catalog:
        await catalog.put("**", "run", tmp_path / "data")
        await catalog.get("**", "run", local_folder=tmp_path / "out")
    assert read(tmp_path / "out") == tree


@pytest.mark.parametrize("verb", ["put", "get", "sync"])
async def test_a_call_cancelled_at_any_await_is_whole_or_nothing(
    verb: str, packed: Catalog, store: MemoryObjectStore, tmp_path: Path
) -> None:
    tree = {**many(20), "empty": b"", "one": os.urandom(MIB)}
    write(tmp_path / "data", tree)
    await packed.put("**", "source", tmp_path / "data")
    for nth in itertools.count(1):
        target = tmp_path / f"out-{nth}"
        if verb == "put":
            reached, _, _ = await cancelled_at_any(nth, packed.put("**", "run", tmp_path / "data"))
        elif verb == "get":
            reached, _, _ = await cancelled_at_any(nth, packed.get("**", "source", local_folder=target))
            assert read(target).items() <= tree.items()
        else:
            reached, _, _ = await cancelled_at_any(nth, packed.sync_between_runs("source", "run"))
        if not reached:
            break
        listed = [entry.name async for entry in packed.list("run")]
        assert len(listed) in {0, len(tree)}
        # An index that the storage may have taken keeps its packs, also where the caller was gone by then.
        assert not listed or await packs_of(store, "team/run/")
        await packed.delete("run")
    assert nth > 10
