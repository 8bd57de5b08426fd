"""The storage's side: other tools' objects, other writers, and errors that hide."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import aioboto3
import pytest

from asyncstore._core.traffic import process_budget
from asyncstore.catalog import Catalog, FileSystemCatalog, S3Catalog
from asyncstore.catalog._moving._lane import Lane
from asyncstore.errors import ConfigurationError, CredentialsError, NotFoundError, UnsafePathError
from asyncstore.objects.base import ObjectStore
from asyncstore.objects.folder import FolderObjectStore
from asyncstore.objects.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from asyncstore.objects.base import ObjectMeta
    from asyncstore.testing.servers import Bucket

MIB = 1024 * 1024


def write(folder: Path, tree: Mapping[str, bytes]) -> None:
    for name, contents in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def make_markers(bucket: Bucket, *keys: str) -> None:
    """Make empty objects whose keys end in a slash, as the AWS console does for a new folder."""
    async with aioboto3.Session().client(
        "s3", endpoint_url=bucket.server.endpoint_url, region_name="eu-west-1"
    ) as client:
        for key in keys:
            await client.put_object(Bucket=bucket.name, Key=key, Body=b"")


# Folder markers; a file and a folder of one name.


async def test_folder_markers_are_no_files(moto_bucket: Bucket, tmp_path: Path) -> None:
    write(tmp_path, {"data/sub/x": b"x", "data/empty": b""})
    async with S3Catalog(**moto_bucket.options, prefix="team") as catalog:
        await make_markers(moto_bucket, "team/run/", "team/run/data/", "team/run/data/sub/", "team/run/data/alone/")
        assert len(await catalog.put("**", "run", tmp_path / "data")) == 2
        wanted = ["data/empty", "data/sub/x"]
        assert [entry.name for entry in await catalog.get("**", "run", tmp_path / "out" / "data")] == wanted
        assert names(tmp_path / "out" / "data") == {"empty", "sub/x"}
        assert [entry.name for entry in await catalog.get("*", "run", tmp_path / "flat" / "data")] == ["data/empty"]
        assert [entry.name for entry in await catalog.sync_between_runs("run", "other")] == wanted
        assert sorted([entry.name async for entry in catalog.list("run")]) == wanted
        many = {f"sub/{number}": b"x" for number in range(20)} | {f"alone/{number}": b"x" for number in range(20)}
        write(tmp_path / "more" / "data", many)
        assert len(await catalog.put("**", "run", tmp_path / "more" / "data")) == 40
        await catalog.delete("run")
        assert [entry.name async for entry in catalog.list("run")] == []


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize(("first", "then"), [("a", "a/b/c{}"), ("a/b", "a/b/c{}"), ("a", "a/c{}")])
@pytest.mark.parametrize("pattern", ["**", "a/**", "literal"])
async def test_a_file_and_a_folder_of_one_name_do_not_get_in(
    tmp_path: Path, first: str, then: str, count: int, pattern: str
) -> None:
    deeper = [then.format(number) for number in range(count)]
    write(tmp_path / "one" / "data", {first: b"file"})
    write(tmp_path / "two" / "data", dict.fromkeys(deeper, b"folder"))
    async with MemoryObjectStore() as store, Catalog(store) as catalog:
        await catalog.put("**", "run", tmp_path / "one" / "data")
        with pytest.raises(UnsafePathError, match="both as a file and as a folder"):
            await catalog.put(deeper if pattern == "literal" else pattern, "run", tmp_path / "two" / "data")
        assert [entry.name async for entry in catalog.list("run")] == [f"data/{first}"]


# Other writers.


async def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    contents = [bytes([number]) * 5 * MIB for number in range(4)]
    for number, data in enumerate(contents):
        write(tmp_path / str(number) / "data", {"a": data, "b": data[:100]})
    async with FileSystemCatalog(catalog_location=str(tmp_path / "catalog")) as catalog:
        async with asyncio.TaskGroup() as group:
            for number in [*range(4)] * 3:
                group.create_task(catalog.put("*", "run", "data", local_folder=tmp_path / str(number) / "data"))
        [a, b] = sorted([entry.data_hash async for entry in catalog.list("run")])
        assert {a, b} <= {hashlib.sha256(part).hexdigest() for data in contents for part in (data, data[:100])}


class Replacing(FolderObjectStore):
    """Another writer replaces an object just before it is read, so many times."""

    def __init__(self, root: Path, times: int) -> None:
        super().__init__(root)
        self.times = times

    async def get(
        self, key: str, *, byte_range: tuple[int, int] | None = None, etag: str = ""
    ) -> tuple[ObjectMeta, bytes]:
        if self.times:
            self.times -= 1
            await self.put(key, b"new")
        return await super().get(key, byte_range=byte_range, etag=etag)


async def test_what_is_replaced_meanwhile_is_looked_at_again(tmp_path: Path) -> None:
    new = hashlib.sha256(b"new").hexdigest()
    write(tmp_path / "store", {"run/data/a": b"old"})
    async with Replacing(tmp_path / "store", 2) as store, Catalog(store) as catalog:
        assert [entry.data_hash async for entry in catalog.list("run")] == [new]
        store.times = 2
        [entry] = await catalog.sync_between_runs("run", "other")
        assert entry.data_hash == new


async def test_what_is_replaced_all_the_time_is_put_and_got_anyway(tmp_path: Path) -> None:
    write(tmp_path / "store", {"run/data/a": b"old"})
    write(tmp_path / "data", {"a": b"mine"[:3]})
    async with Replacing(tmp_path / "store", 100) as store, Catalog(store) as catalog:
        [entry] = await catalog.get("a", "run", tmp_path / "data")
        assert entry.data_hash == hashlib.sha256(b"new").hexdigest()
        write(tmp_path / "data", {"a": b"own"})
        [entry] = await catalog.put("a", "run", tmp_path / "data")
        assert entry.data_hash == hashlib.sha256(b"own").hexdigest()
        meta = await store.head("run/data/a")
        assert await Lane(store, 1).digests([meta]) == {}


# What a HEAD does not say.


@pytest.mark.parametrize("pattern", ["a", "**"])
async def test_a_missing_bucket_is_told(
    moto_bucket: Bucket, rclone_bucket: Bucket, tmp_path: Path, pattern: str
) -> None:
    write(tmp_path / "data", {"a": b"a"})
    for bucket in (moto_bucket, rclone_bucket):
        async with S3Catalog(**{**bucket.options, "s3_bucket": "no-such-bucket"}) as catalog:
            with pytest.raises(ConfigurationError, match="bucket"):
                await catalog.get(pattern, "run", tmp_path / "data")
            with pytest.raises(ConfigurationError, match="bucket"):
                await catalog.get(pattern, "run", tmp_path / "data", allow_no_match=True)


@pytest.mark.parametrize("pattern", ["a", "**"])
async def test_a_wrong_secret_is_told(
    rclone_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    write(tmp_path / "data", {"a": b"a"})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with S3Catalog(**rclone_bucket.options) as catalog:
        with pytest.raises(CredentialsError):
            await catalog.get(pattern, "run", tmp_path / "data")
        with pytest.raises(CredentialsError):
            await catalog.put(pattern, "run", tmp_path / "data")


async def test_asking_why_costs_nothing_where_all_is_well(tmp_path: Path) -> None:
    class Counting(MemoryObjectStore):
        listed = 0

        async def list_folder(self, prefix: str) -> Any:
            self.listed += 1
            return await super().list_folder(prefix)

    write(tmp_path / "data", {"a": b"a"})
    async with Counting() as store, Catalog(store) as catalog:
        await catalog.put("a", "run", tmp_path / "data")
        await catalog.get("a", "run", tmp_path / "data")
        assert store.listed == 0
        with pytest.raises(NotFoundError):
            await catalog.get("b", "run", tmp_path / "data")
        assert store.listed == 1


# Memory.


async def test_bytes_that_are_held_are_claimed(tmp_path: Path) -> None:
    class Counting(MemoryObjectStore):
        together = ObjectStore.together
        held = most_held = 0

        async def put(self, key: str, data: bytes, **options: Any) -> str:
            async with self.holding(len(data)):
                return await super().put(key, data, **options)

        async def get(self, key: str, **options: Any) -> tuple[ObjectMeta, bytes]:
            meta, data = await super().get(key, **options)
            async with self.holding(len(data)):
                return meta, data

        def holding(self, size_bytes: int) -> Any:
            return Holding(self, size_bytes)

    class Holding:
        def __init__(self, store: Counting, size_bytes: int) -> None:
            self.store, self.size_bytes = store, size_bytes

        async def __aenter__(self) -> None:
            self.store.held += self.size_bytes
            self.store.most_held = max(self.store.most_held, self.store.held)
            assert self.store.held <= process_budget()._memory_taken <= 16 * MIB
            await asyncio.sleep(0)

        async def __aexit__(self, *_: object) -> None:
            self.store.held -= self.size_bytes

    write(tmp_path / "data", {f"medium-{number}": bytes(MIB) for number in range(40)})
    async with Counting() as store, Catalog(store, max_memory_mb=16) as catalog:
        await catalog.put("**", "run", tmp_path / "data")
        assert MIB <= store.most_held <= 16 * MIB
        store.most_held = 0
        await catalog.get("**", "run", tmp_path / "out" / "data")
        assert MIB <= store.most_held <= 16 * MIB
