"""What must not happen to data: torn files, files outside of the folder, silent losses."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore._core.files import TEMP_PREFIX
from asyncstore.catalog import Catalog, DoNothingCatalog, FileSystemCatalog, S3Catalog
from asyncstore.catalog._local._land import folds_names
from asyncstore.catalog._planning._planner import Planner
from asyncstore.errors import (
    AccessDeniedError,
    ClosedError,
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    TransferError,
    UnavailableError,
    UnsafePathError,
)
from asyncstore.objects.base import ObjectStore
from asyncstore.objects.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from asyncstore.objects.base import ObjectMeta
    from asyncstore.testing.servers import Bucket

MIB = 1024 * 1024


class WatchedStore(MemoryObjectStore):
    """Calls back before each put and get, to make things happen at the worst time."""

    # That of all stores, which makes the calls here.
    together = ObjectStore.together

    def __init__(self) -> None:
        super().__init__()
        self.before: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.hang_at = ""
        self.hanging = asyncio.Event()

    async def put(self, key: str, data: bytes, **options: Any) -> str:
        await self._meet("put", key)
        return await super().put(key, data, **options)

    async def get(
        self, key: str, *, byte_range: tuple[int, int] | None = None, etag: str = ""
    ) -> tuple[ObjectMeta, bytes]:
        await self._meet(f"get{byte_range[0] if byte_range else ''}", key)
        return await super().get(key, byte_range=byte_range, etag=etag)

    async def _meet(self, verb: str, key: str) -> None:
        self.before.append(f"{verb} {key}")
        if f"{verb} {key}" in self.fail:
            raise self.fail[f"{verb} {key}"]
        if f"{verb} {key}" == self.hang_at:
            self.hanging.set()
            await asyncio.Event().wait()


@pytest.fixture
async def store() -> AsyncIterator[WatchedStore]:
    async with WatchedStore() as opened:
        yield opened


@pytest.fixture
async def catalog(store: WatchedStore) -> AsyncIterator[Catalog]:
    async with Catalog(store) as opened:
        yield opened


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write(folder, {"a": b"A", "b": b"B", "sub/c": b"C"})
    return folder


def write(folder: Path, tree: Mapping[str, bytes]) -> None:
    for name, contents in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)


async def keys(store: WatchedStore) -> set[str]:
    return {meta.key async for page in store.list("") for meta in page}


async def seed(store: WatchedStore, tree: Mapping[str, bytes], run_id: str = "run") -> None:
    for name, contents in tree.items():
        await MemoryObjectStore.put(store, f"{run_id}/data/{name}", contents)


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# Putting.


async def test_a_fifo_is_refused_before_anything_moves(catalog: Catalog, store: WatchedStore, data: Path) -> None:
    os.mkfifo(data / "sub" / "pipe")
    with pytest.raises(UnsafePathError, match="'sub/pipe' is a FIFO"):
        await catalog.put("**", "run", data)
    assert store.before == []
    assert len(await catalog.put("**", "run", data, exclude="**/pipe")) == 3
    assert len(await catalog.put("*", "other", data)) == 2


async def test_a_socket_is_refused(catalog: Catalog, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises(UnsafePathError, match="socket"):
            await catalog.put("**", "run", data)


async def test_links_that_lead_out_are_refused(
    catalog: Catalog, store: WatchedStore, data: Path, tmp_path: Path
) -> None:
    write(tmp_path / "data-outside", {"secret": b"secret"})
    (data / "link").symlink_to(tmp_path / "data-outside" / "secret")
    with pytest.raises(UnsafePathError, match="leads out"):
        await catalog.put("**", "run", data)
    (data / "link").unlink()
    (data / "link").symlink_to(tmp_path / "data-outside", target_is_directory=True)
    with pytest.raises(UnsafePathError, match="leads out"):
        await catalog.put("**", "run", data)
    assert store.before == []
    assert len(await catalog.put("*", "run", data)) == 2
    assert len(await catalog.put("**", "all", data, exclude="link/**")) == 3


async def test_links_within_the_folder_are_followed(catalog: Catalog, data: Path) -> None:
    (data / "latest").symlink_to("a")
    (data / "folder").symlink_to("sub", target_is_directory=True)
    names = [entry.name for entry in await catalog.put("**", "run", data)]
    assert names == ["data/a", "data/b", "data/folder/c", "data/latest", "data/sub/c"]
    assert await catalog.get("**", "run", data)
    assert (data / "latest").is_symlink()


@pytest.mark.parametrize(("target", "said"), [("nowhere", "leads nowhere"), ("loop", "leads nowhere"), (".", "never")])
async def test_links_that_lead_nowhere_or_in_a_circle_are_refused(
    catalog: Catalog, data: Path, target: str, said: str
) -> None:
    (data / "loop").symlink_to(target)
    with pytest.raises(UnsafePathError, match=said):
        await catalog.put("**", "run", data)


async def test_the_folder_itself_may_be_a_link(catalog: Catalog, data: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(data, target_is_directory=True)
    assert len(await catalog.put("**", "run", tmp_path / "linked")) == 3
    assert len(await catalog.get("**", "run", tmp_path / "linked")) == 3


@pytest.mark.parametrize("name", [b"back\\slash", b"new\nline", b"not-utf8-\xff", b"C:x"])
async def test_names_that_do_not_travel_are_refused(
    catalog: Catalog, store: WatchedStore, data: Path, name: bytes
) -> None:
    os.mknod(os.fsencode(data) + b"/" + name)
    with pytest.raises(UnsafePathError, match="nothing was moved"):
        await catalog.put("**", "run", data)
    assert await keys(store) == set()


async def test_a_file_that_changed_is_told_and_the_others_are_put(
    catalog: Catalog, store: WatchedStore, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned = Planner._scan

    def change() -> None:
        (data / "a").write_bytes(b"changed")
        (data / "b").unlink()
        os.mkfifo(data / "b")

    async def scan_then_change(self: Planner, *options: object) -> None:
        await scanned(self, *options)  # type: ignore[arg-type]
        await asyncio.to_thread(change)

    monkeypatch.setattr(Planner, "_scan", scan_then_change)
    with pytest.raises(TransferError, match="changed while it was read") as caught:
        await catalog.put("**", "run", data)
    assert caught.value.done == ("data/sub/c",)
    assert set(caught.value.failed) == {"data/a", "data/b"}
    assert all(isinstance(error, IntegrityError) for error in caught.value.failed.values())
    assert await keys(store) == {"run/data/sub/c"}


async def test_an_unreadable_file_fails_alone(catalog: Catalog, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refuse(path: str, *options: int, **more: int) -> int:
        if str(path).endswith("/data/a"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *options, **more)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(TransferError) as caught:
        await catalog.put("**", "run", data)
    assert isinstance(caught.value.failed["data/a"], AccessDeniedError)
    assert set(caught.value.done) == {"data/b", "data/sub/c"}


async def test_one_refused_object_fails_alone_and_a_dead_storage_stops_all(
    catalog: Catalog, store: WatchedStore, data: Path
) -> None:
    store.fail["put run/data/a"] = IntegrityError("torn")
    with pytest.raises(TransferError, match="1 of 3 files failed to put into memory:/run/data/") as caught:
        await catalog.put("**", "run", data)
    assert set(caught.value.done) == {"data/b", "data/sub/c"}
    store.fail["put run/data/a"] = UnavailableError("down")
    with pytest.raises(UnavailableError, match="down"):
        await catalog.put("**", "run", data)


async def test_a_catalog_in_the_compute_data_folder_is_not_put_into_itself(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    async with await asyncio.to_thread(FileSystemCatalog) as catalog:
        for _ in range(2):
            assert {entry.name for entry in await catalog.put("**", "run", ".")} == {"a", "b", "sub/c"}
        assert catalog.location == str(data / ".catalog")


# Getting.


@pytest.mark.parametrize("name", ["../../escaped", "a\\b", "x" * 300, f"{TEMP_PREFIX}x"])
async def test_keys_that_make_no_safe_name_are_refused_before_anything_moves(tmp_path: Path, name: str) -> None:
    class Hostile(WatchedStore):
        async def list(self, prefix: str) -> AsyncGenerator[Sequence[ObjectMeta], None]:
            async for page in super().list(prefix):
                yield [type(meta)(f"{prefix}{name}", 1, "e", meta.modified_at) for meta in page] + list(page)

    async with Hostile() as store, Catalog(store) as catalog:
        await seed(store, {"good": b"x"})
        with pytest.raises(UnsafePathError, match="nothing was moved"):
            await catalog.get("**", "run", tmp_path / "data")
        assert store.before == []
    assert everything(tmp_path) == set()


async def test_a_key_that_is_file_and_folder_is_refused(catalog: Catalog, store: WatchedStore, tmp_path: Path) -> None:
    await seed(store, {"a": b"x", "a/b": b"y"})
    with pytest.raises(UnsafePathError, match="both a file and a folder"):
        await catalog.get("**", "run", tmp_path / "data")
    assert everything(tmp_path) == set()


async def test_a_planted_link_to_a_folder_does_not_lead_out(
    catalog: Catalog, store: WatchedStore, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sub").symlink_to(tmp_path / "outside", target_is_directory=True)
    await seed(store, {"a": b"x", "sub/b": b"y", "sub/deep/c": b"z"})
    with pytest.raises(UnsafePathError, match="leads out"):
        await catalog.get("**", "run", tmp_path / "data")
    assert everything(tmp_path) == {"outside", "data", "data/sub"}


async def test_a_link_that_is_planted_while_files_move_does_not_lead_out(
    catalog: Catalog, store: WatchedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside").mkdir()
    await seed(store, {"a": b"x", "sub/b": b"y", "large/c": bytes(9 * MIB)})
    looked = Planner._look

    def plant() -> None:
        (tmp_path / "data").mkdir()
        for name in ("sub", "large"):
            (tmp_path / "data" / name).symlink_to(tmp_path / "outside", target_is_directory=True)

    async def look_then_plant(self: Planner, *options: Any, **more: Any) -> object:
        found = await looked(self, *options, **more)
        await asyncio.to_thread(plant)
        return found

    monkeypatch.setattr(Planner, "_look", look_then_plant)
    with pytest.raises(TransferError) as caught:
        await catalog.get("**", "run", tmp_path / "data")
    assert set(caught.value.failed) == {"data/sub/b", "data/large/c"}
    assert all(isinstance(error, UnsafePathError) for error in caught.value.failed.values())
    assert everything(tmp_path) == {"outside", "data", "data/sub", "data/large", "data/a"}


async def test_a_planted_link_to_a_file_is_replaced_not_followed(
    catalog: Catalog, store: WatchedStore, tmp_path: Path
) -> None:
    write(tmp_path, {"outside": b"precious"})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").symlink_to(tmp_path / "outside")
    await seed(store, {"a": b"x"})
    await catalog.get("**", "run", tmp_path / "data")
    assert (tmp_path / "outside").read_bytes() == b"precious"
    assert not (tmp_path / "data" / "a").is_symlink()
    assert (tmp_path / "data" / "a").read_bytes() == b"x"


async def test_links_within_the_folder_take_what_is_got(catalog: Catalog, store: WatchedStore, tmp_path: Path) -> None:
    (tmp_path / "data" / "real").mkdir(parents=True)
    (tmp_path / "data" / "link").symlink_to("real", target_is_directory=True)
    await seed(store, {"link/deep/a": b"x"})
    await catalog.get("**", "run", tmp_path / "data")
    assert (tmp_path / "data" / "real" / "deep" / "a").read_bytes() == b"x"


async def test_what_cannot_be_replaced_is_refused_before_anything_moves(
    catalog: Catalog, store: WatchedStore, tmp_path: Path
) -> None:
    await seed(store, {"a": b"x", "b": b"y"})
    (tmp_path / "data" / "b").mkdir(parents=True)
    with pytest.raises(UnsafePathError, match="'b' is a folder"):
        await catalog.get("**", "run", tmp_path / "data")
    (tmp_path / "data" / "b").rmdir()
    os.mkfifo(tmp_path / "data" / "b")
    with pytest.raises(UnsafePathError, match="special file"):
        await catalog.get("**", "run", tmp_path / "data")
    assert everything(tmp_path / "data") == {"b"}


async def test_a_file_in_the_place_of_a_folder_is_refused(
    catalog: Catalog, store: WatchedStore, tmp_path: Path
) -> None:
    await seed(store, {"a/b": b"x", "c": b"y"})
    write(tmp_path / "data", {"a": b"file"})
    with pytest.raises(UnsafePathError, match="'a' is not a folder"):
        await catalog.get("**", "run", tmp_path / "data")
    assert everything(tmp_path / "data") == {"a"}


async def test_names_that_a_folding_file_system_takes_for_one_are_refused(
    catalog: Catalog, store: WatchedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seed(store, {"Readme": b"x", "README": b"y"})
    assert not await asyncio.to_thread(folds_names, str(tmp_path))
    assert len(await catalog.get("**", "run", tmp_path / "data")) == 2
    monkeypatch.setattr("asyncstore.catalog._planning._refusals.folds_names", lambda _: True)
    with pytest.raises(UnsafePathError, match="one name"):
        await catalog.get("**", "run", tmp_path / "other" / "data")
    assert everything(tmp_path / "other") <= {"data"}


@pytest.mark.parametrize("size", [10, 20 * MIB])
async def test_bytes_that_are_not_what_was_put_never_appear(
    catalog: Catalog, store: WatchedStore, tmp_path: Path, size: int
) -> None:
    digest = hashlib.sha256(bytes(size)).hexdigest()
    await MemoryObjectStore.put(store, "run/data/bad", b"x" * size, metadata={"sha256": digest})
    await MemoryObjectStore.put(store, "run/data/good", bytes(size), metadata={"sha256": digest})
    write(tmp_path / "data", {"bad": b"before"})
    with pytest.raises(TransferError) as caught:
        await catalog.get("**", "run", tmp_path / "data")
    assert caught.value.done == ("data/good",)
    assert isinstance(caught.value.failed["data/bad"], IntegrityError)
    assert (tmp_path / "data" / "bad").read_bytes() == b"before"
    assert everything(tmp_path / "data") == {"bad", "good"}


async def test_an_object_replaced_while_it_is_read_is_told(
    catalog: Catalog, store: WatchedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seed(store, {"large": bytes(20 * MIB)})
    described = MemoryObjectStore.head

    async def describe_then_replace(self: MemoryObjectStore, key: str) -> ObjectMeta:
        meta = await described(self, key)
        await seed(store, {"large": b"x" * 20 * MIB})
        return meta

    monkeypatch.setattr(MemoryObjectStore, "head", describe_then_replace)
    with pytest.raises(TransferError) as caught:
        await catalog.get("**", "run", tmp_path / "data")
    assert isinstance(caught.value.failed["data/large"], ConflictError)
    assert everything(tmp_path / "data") == set()


@pytest.mark.parametrize("hang_at", ["get run/data/sub/b", "get16777216 run/data/large"])
async def test_a_cancelled_get_leaves_no_temp_file(
    catalog: Catalog, store: WatchedStore, tmp_path: Path, hang_at: str
) -> None:
    await seed(store, {"a": b"x", "sub/b": b"y", "large": bytes(40 * MIB)})
    store.hang_at = hang_at
    task = asyncio.create_task(catalog.get("**", "run", tmp_path / "data"))
    await store.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert everything(tmp_path / "data") <= {"a", "sub", "sub/b", "large"}
    assert {size for name, size in sizes(tmp_path / "data").items() if name == "large"} <= {40 * MIB}


async def test_gets_cancelled_at_any_step_leave_whole_files_alone(
    catalog: Catalog, store: WatchedStore, tmp_path: Path
) -> None:
    tree = {f"{number}": bytes(100) for number in range(50)} | {"large": bytes(20 * MIB)}
    await seed(store, tree)
    for steps in range(0, 60, 3):
        folder = tmp_path / str(steps) / "data"
        task = asyncio.create_task(catalog.get("**", "run", folder))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sizes(folder).items() <= {name: len(contents) for name, contents in tree.items()}.items()
    assert len(await catalog.get("**", "run", tmp_path / "last" / "data")) == len(tree)


async def test_a_cancelled_put_can_be_repeated(catalog: Catalog, store: WatchedStore, data: Path) -> None:
    store.hang_at = "put run/data/b"
    task = asyncio.create_task(catalog.put("**", "run", data))
    await store.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store.hang_at = ""
    assert len(await catalog.put("**", "run", data)) == 3


async def test_a_failed_write_leaves_no_temp_file(
    catalog: Catalog, store: WatchedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seed(store, {"a": b"x", "large": bytes(9 * MIB)})

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    for name in ("write", "pwrite"):
        monkeypatch.setattr(os, name, full)
    with pytest.raises(UnavailableError, match="no space left"):
        await catalog.get("**", "run", tmp_path / "data")
    monkeypatch.undo()
    assert everything(tmp_path / "data") == set()


async def test_a_file_that_goes_away_from_the_storage_fails_alone(
    catalog: Catalog, store: WatchedStore, tmp_path: Path
) -> None:
    await seed(store, {"a": b"x", "b": b"y"})
    store.fail["get run/data/a"] = NotFoundError("gone")
    with pytest.raises(TransferError) as caught:
        await catalog.get("*", "run", tmp_path / "data")
    assert caught.value.done == ("data/b",)


# Limits and lifetime.


async def test_requests_and_bytes_in_flight_are_bounded(tmp_path: Path) -> None:
    class Counting(MemoryObjectStore):
        together = ObjectStore.together
        running = most = held = most_held = 0

        async def put(self, key: str, data: bytes, **options: Any) -> str:
            self.running, self.held = self.running + 1, self.held + len(data)
            self.most, self.most_held = max(self.most, self.running), max(self.most_held, self.held)
            try:
                await asyncio.sleep(0)
                return await super().put(key, data, **options)
            finally:
                self.running, self.held = self.running - 1, self.held - len(data)

    write(tmp_path / "data", {f"small-{number}": b"x" for number in range(200)})
    write(tmp_path / "data", {f"medium-{number}": bytes(MIB) for number in range(40)})
    async with Counting() as store, Catalog(store, max_concurrency=8, max_memory_mb=16) as catalog:
        await asyncio.gather(*(catalog.put("**", f"run-{number}", tmp_path / "data") for number in range(2)))
        assert 2 <= store.most <= 8
        # Each is held twice: as it was read, and in its request.
        assert store.most_held <= 8 * MIB
        assert store._state == "open"
    with pytest.raises(ClosedError):
        await catalog.put("**", "run", tmp_path / "data")


async def test_wrong_configuration_is_told(moto_bucket: Bucket, data: Path) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'compute_data_folder'"):
        S3Catalog(s3_bucket="b", compute_datafolder="x")
    with pytest.raises(ConfigurationError, match="'s3_bucket' is required"):
        S3Catalog()
    with pytest.raises(ConfigurationError, match="catalog_location"):
        FileSystemCatalog(catalog_locations="x")
    options = {**moto_bucket.options, "s3_bucket": "no-such-bucket"}
    async with S3Catalog(**options) as catalog:
        with pytest.raises(ConfigurationError, match="bucket"):
            await catalog.put("**", "run", data)


async def test_do_nothing_does_nothing(data: Path) -> None:
    async with DoNothingCatalog() as catalog:
        assert await catalog.put("**", "run", data) == []
        assert await catalog.get("**", "run", data) == []
        assert [entry async for entry in catalog.list("run")] == []
        assert await catalog.sync_between_runs("run", "other") == []
        await catalog.delete("run")


async def test_the_object_is_the_file_and_names_its_digest(moto_bucket: Bucket, data: Path) -> None:
    async with S3Catalog(**moto_bucket.options, prefix="/team/") as catalog:
        entry = (await catalog.put("sub/c", "run", data))[0]
        assert entry.catalog_handler_location == f"s3://{moto_bucket.name}/team"
        meta, contents = await catalog._store.get("team/run/data/sub/c")
        assert contents == b"C"
        assert meta.metadata["sha256"] == entry.data_hash == hashlib.sha256(b"C").hexdigest()
