"""Data folders into the catalog and back, on every backend."""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from asyncstore.catalog import Catalog, FileSystemCatalog, S3Catalog, TransferProgress
from asyncstore.catalog._plan import BULKY_BYTES, RANGE_BYTES, SMALL_BYTES
from asyncstore.errors import InvalidValueError, NotFoundError, UnsafePathError
from asyncstore.objects.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from asyncstore.models import DataCatalog
    from asyncstore.testing.servers import Bucket

MIB = 1024 * 1024

TREE: Mapping[str, bytes] = {
    "a.csv": b"one",
    "b.csv": b"two",
    "empty": b"",
    ".hidden": b"hidden",
    "sub/a.csv": b"three",
    "sub/deep/er/x.parquet": b"four",
    "sub/with space & (more).txt": b"five",
    "sub/%2F#?.txt": b"six",
    "ünïcødé/日本語 😀.txt": b"seven",
    "x" * 200: b"eight",
}


@pytest.fixture(params=["memory", "folder", "moto", "rclone"])
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Catalog]:
    async with AsyncExitStack() as stack:
        made: Catalog
        if request.param == "memory":
            made = Catalog(await stack.enter_async_context(MemoryObjectStore()), prefix="team/x")
        elif request.param == "folder":
            made = FileSystemCatalog(catalog_location=str(tmp_path / "catalog"))
        else:
            bucket: Bucket = request.getfixturevalue(f"{request.param}_bucket")
            made = S3Catalog(**bucket.options, prefix="team/x")
        yield await stack.enter_async_context(made)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path / "data", TREE)
    return tmp_path / "data"


def write(folder: Path, tree: Mapping[str, bytes]) -> None:
    for name, contents in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)


def read(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def digests(tree: Mapping[str, bytes]) -> dict[str, str]:
    return {f"data/{name}": hashlib.sha256(contents).hexdigest() for name, contents in tree.items()}


def hashes(entries: list[DataCatalog]) -> dict[str, str]:
    return {entry.name: entry.data_hash for entry in entries}


async def listed(catalog: Catalog, run_id: str) -> dict[str, str]:
    return hashes([entry async for entry in catalog.list(run_id)])


async def test_a_folder_goes_up_and_comes_down_elsewhere(catalog: Catalog, data: Path, tmp_path: Path) -> None:
    put = await catalog.put("**", "run", data)
    got = await catalog.get("**", "run", "data", local_folder=tmp_path / "machine" / "two")

    assert read(tmp_path / "machine" / "two") == TREE
    assert hashes(put) == hashes(got) == digests(TREE) == await listed(catalog, "run")
    assert [entry.name for entry in put] == sorted(digests(TREE))
    assert {entry.stage for entry in put} == {"put"}
    assert {entry.stage for entry in got} == {"get"}
    assert all(entry.catalog_relative_path == f"run/{entry.name}" for entry in [*put, *got])
    assert {entry.catalog_handler_location for entry in put} == {catalog.location}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.csv", ["a.csv", "b.csv"]),
        ("**/*.csv", ["a.csv", "b.csv", "sub/a.csv"]),
        ("a.csv", ["a.csv"]),
        (["a.csv", "sub/**/*.parquet"], ["a.csv", "sub/deep/er/x.parquet"]),
        ("sub/*", ["sub/%2F#?.txt", "sub/a.csv", "sub/with space & (more).txt"]),
        (".*", [".hidden"]),
        ("empty", ["empty"]),
    ],
)
async def test_patterns_mean_the_same_on_both_sides(
    catalog: Catalog, data: Path, tmp_path: Path, pattern: str | list[str], names: list[str]
) -> None:
    wanted = sorted(f"data/{name}" for name in names)
    assert [entry.name for entry in await catalog.put(pattern, "some", data)] == wanted
    await catalog.put("**", "all", data)
    assert [entry.name for entry in await catalog.get(pattern, "all", tmp_path / "out" / "data")] == wanted
    assert sorted(read(tmp_path / "out" / "data")) == sorted(names)


async def test_what_is_excluded_stays(catalog: Catalog, data: Path, tmp_path: Path) -> None:
    await catalog.put("**", "run", data, exclude=["sub/**", ".hidden"])
    assert not [name for name in await listed(catalog, "run") if "sub" in name or "hidden" in name]
    got = await catalog.get("**", "run", tmp_path / "out" / "data", exclude="*.csv")
    assert "data/a.csv" not in hashes(got)


async def test_neighbours_are_left_alone(catalog: Catalog, data: Path, tmp_path: Path) -> None:
    write(tmp_path / "data2", {"other": b"x"})
    await catalog.put("**", "run", data)
    await catalog.put("**", "run-2", data)
    await catalog.put("**", "run", tmp_path / "data2")

    got = await catalog.get("**", "run", tmp_path / "out" / "data")
    assert len(got) == len(TREE)
    assert len(await listed(catalog, "run")) == len(TREE) + 1
    await catalog.delete("run")
    await catalog.delete("run")
    assert await listed(catalog, "run") == {}
    assert len(await listed(catalog, "run-2")) == len(TREE)


async def test_files_at_the_limits_of_each_way_to_move_them(catalog: Catalog, tmp_path: Path) -> None:
    sizes = [limit + more for limit in (BULKY_BYTES, SMALL_BYTES, RANGE_BYTES) for more in (-1, 0, 1)]
    contents = {f"{size}": os.urandom(size) for size in sizes}
    write(tmp_path / "data", contents)
    put = await catalog.put("**", "run", tmp_path / "data")
    got = await catalog.get("**", "run", tmp_path / "out" / "data")
    assert {name: (tmp_path / "out" / "data" / name).read_bytes() for name in contents} == contents
    assert hashes(put) == hashes(got)


async def test_a_large_file_goes_both_ways(catalog: Catalog, tmp_path: Path) -> None:
    contents = os.urandom(40 * MIB + 17)
    write(tmp_path / "data", {"large": contents, "nine": contents[: 9 * MIB], "small": b"s"})
    put = await catalog.put("**", "run", tmp_path / "data")
    got = await catalog.get("**", "run", tmp_path / "out" / "data")

    assert (tmp_path / "out" / "data" / "large").read_bytes() == contents
    assert (tmp_path / "out" / "data" / "nine").read_bytes() == contents[: 9 * MIB]
    assert hashes(put) == hashes(got)
    assert hashes(got)["data/large"] == hashlib.sha256(contents).hexdigest()


async def test_what_is_there_already_is_not_moved(catalog: Catalog, data: Path, tmp_path: Path) -> None:
    events: list[TransferProgress] = []
    await catalog.put("**", "run", data)
    before = {meta.key: meta.etag async for page in catalog._store.list("") for meta in page}
    await catalog.put("**", "run", data, on_progress=events.append)
    assert {meta.key: meta.etag async for page in catalog._store.list("") for meta in page} == before
    assert events[-1].files_done == events[-1].files_total == len(TREE)
    assert events[-1].bytes_done == events[-1].bytes_total == sum(map(len, TREE.values()))

    out = tmp_path / "out" / "data"
    await catalog.get("**", "run", out)
    stamps = {path: path.stat().st_ino for path in out.rglob("*") if path.is_file()}
    (out / "a.csv").write_bytes(b"oNe")
    got = await catalog.get("**", "run", out)
    after = {path: path.stat().st_ino for path in out.rglob("*") if path.is_file()}
    assert [path.name for path in stamps if stamps[path] != after[path]] == ["a.csv"]
    assert hashes(got) == digests(TREE)
    assert read(out) == TREE


async def test_what_was_synced_and_is_unchanged_leaves_a_newer_one_alone(
    catalog: Catalog, data: Path, tmp_path: Path
) -> None:
    await catalog.put("*.csv", "run", data)
    synced = await catalog.get("*.csv", "run", tmp_path / "mine" / "data")
    write(data, {"a.csv": b"newer"})
    await catalog.put("a.csv", "run", data)
    write(tmp_path / "mine" / "data", {"b.csv": b"mine"})

    entries = await catalog.put("*.csv", "run", tmp_path / "mine" / "data", synced)
    assert hashes(entries) == digests({"a.csv": b"one", "b.csv": b"mine"})
    assert await listed(catalog, "run") == digests({"a.csv": b"newer", "b.csv": b"mine"})


async def test_what_was_synced_is_put_where_the_run_lacks_it(catalog: Catalog, data: Path) -> None:
    synced = await catalog.put("*.csv", "run", data)
    await catalog.delete("run")
    await catalog.put("*.csv", "run", data, synced)
    assert await listed(catalog, "run") == digests({"a.csv": b"one", "b.csv": b"two"})


async def test_a_run_is_synced_to_another(catalog: Catalog, data: Path, tmp_path: Path) -> None:
    write(data, {"load.execution.log": b"log", "sub/x.execution.log": b"log"})
    await catalog.put("**", "one", data)
    entries = await catalog.sync_between_runs("one", "two")
    assert hashes(entries) == digests(TREE) == await listed(catalog, "two")
    assert {entry.catalog_relative_path for entry in entries} == {f"two/data/{name}" for name in TREE}

    before = {meta.key: meta.etag async for page in catalog._store.list("") for meta in page}
    assert hashes(await catalog.sync_between_runs("one", "two")) == digests(TREE)
    assert {meta.key: meta.etag async for page in catalog._store.list("") for meta in page} == before

    await catalog.get("**", "two", tmp_path / "out" / "data")
    assert read(tmp_path / "out" / "data") == TREE


async def test_nothing_to_sync_is_told(catalog: Catalog) -> None:
    with pytest.raises(NotFoundError, match="'nobody' has no data"):
        await catalog.sync_between_runs("nobody", "two")


async def test_no_match_is_an_error_unless_allowed(catalog: Catalog, data: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"'\*\.parquet'"):
        await catalog.put(["*.csv", "*.parquet"], "run", data)
    assert await listed(catalog, "run") == {}
    assert len(await catalog.put(["*.csv", "*.parquet"], "run", data, allow_no_match=True)) == 2

    out = tmp_path / "out" / "data"
    with pytest.raises(NotFoundError, match="'nope'"):
        await catalog.get(["a.csv", "nope"], "run", out)
    with pytest.raises(NotFoundError, match="run 'run-3' has no data in "):
        await catalog.get("**", "run-3", out)
    assert not out.exists()
    assert await catalog.get("*.parquet", "run", out, allow_no_match=True) == []


async def test_a_missing_compute_data_folder_is_named(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no-such-folder.*does not exist"):
        await catalog.put("**", "run", tmp_path / "no-such-folder")
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError, match="is not a folder"):
        await catalog.put("**", "run", tmp_path / "file")


async def test_run_ids_are_checked(catalog: Catalog, data: Path) -> None:
    for call in (
        catalog.put("**", "../x", data),
        catalog.get("**", "a/b", data),
        catalog.delete(""),
        catalog.sync_between_runs("..", "x"),
    ):
        with pytest.raises(InvalidValueError):
            await call


async def test_a_file_does_not_become_a_folder_of_the_run(catalog: Catalog, tmp_path: Path) -> None:
    names = [f"{number}/x" for number in range(20)]
    write(tmp_path / "one" / "data", dict.fromkeys(names, b"x"))
    await catalog.put("**", "run", tmp_path / "one" / "data")
    write(tmp_path / "two" / "data", {str(number): b"x" for number in range(20)})
    with pytest.raises(UnsafePathError, match="both as a file and as a folder"):
        await catalog.put("**", "run", tmp_path / "two" / "data")
    assert len(await listed(catalog, "run")) == len(names)


async def test_many_small_files(catalog: Catalog, tmp_path: Path) -> None:
    tree = {f"{number % 20}/{number}": str(number).encode() * 100 for number in range(2000)}
    write(tmp_path / "data", tree)
    await catalog.put("**", "run", tmp_path / "data")
    assert hashes(await catalog.sync_between_runs("run", "copy")) == digests(tree)
    await catalog.get("**", "copy", tmp_path / "out" / "data")
    assert read(tmp_path / "out" / "data") == tree
    await catalog.delete("copy")
    assert await listed(catalog, "copy") == {}


async def test_two_writers_of_one_run_do_not_disturb_each_other(
    catalog: Catalog, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "rclone" in request.node.name:
        pytest.skip("rclone stores bytes and metadata of one object in two steps, and mixes those of two writers")
    for writer in "ab":
        tree = dict.fromkeys(map(str, range(100)), writer.encode() * 5000) | {f"only-{writer}": b"x"}
        write(tmp_path / writer / "data", tree)
    await asyncio.gather(*(catalog.put("**", "run", tmp_path / writer / "data") for writer in "ab"))
    got = await catalog.get("**", "run", tmp_path / "out" / "data")
    assert len(got) == 102
    found = read(tmp_path / "out" / "data")
    assert {found[str(number)] for number in range(100)} <= {b"a" * 5000, b"b" * 5000}


async def test_relative_folders_and_the_working_directory(
    catalog: Catalog, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert {entry.name for entry in await catalog.put("*.csv", "run")} == {"data/a.csv", "data/b.csv"}
    assert {entry.name for entry in await catalog.put("data/*.csv", "dot", ".")} == {"data/a.csv", "data/b.csv"}
    monkeypatch.chdir(data)
    assert {entry.name for entry in await catalog.put("a.csv", "up", "../data")} == {"data/a.csv"}
