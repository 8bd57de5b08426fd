"""A catalog beside others who write, sweep, or bring a store of their own."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore._core.traffic import charge_up
from asyncstore.catalog import Catalog, FileSystemCatalog, S3Catalog
from asyncstore.catalog._cache._known import cache_folder
from asyncstore.catalog._metadata import mode_of
from asyncstore.catalog._moving._lane import Lane, Passage
from asyncstore.errors import ConflictError, TransferError, UnsafePathError
from asyncstore.models import DataCatalog
from asyncstore.objects._large._journal import open_journal
from asyncstore.objects.base import ObjectMeta, ObjectStore
from asyncstore.objects.folder import FolderObjectStore
from asyncstore.objects.memory import MemoryObjectStore
from asyncstore.testing.catalog import read_tree, write_tree

if TYPE_CHECKING:
    from contextlib import AsyncExitStack
    from pathlib import Path

    from asyncstore.testing.servers import Bucket
    from tests._watched import WatchedStub

MIB = 1024 * 1024


# Copies.


class Hasty(MemoryObjectStore):
    """Somebody replaces each source just before it is copied."""

    async def copy(self, source: str, target: str, **options: Any) -> None:
        await self.put(source, b"BBBB", metadata={"sha256": "b" * 64})
        await super().copy(source, target, **options)


async def test_a_source_that_is_replaced_as_it_is_copied_is_told(tmp_path: Path) -> None:
    write_tree(tmp_path / "data", {"a": b"AAAA"})
    async with Hasty() as store, Catalog(store, compute_data_folder=tmp_path / "data") as catalog:
        await catalog.put("**", "base")
        with pytest.raises(TransferError) as caught:
            await catalog.put("**", "run", base_run_id="base")
        assert isinstance(caught.value.failed["data/a"], ConflictError)
        await catalog.put("**", "other")
        with pytest.raises(TransferError) as caught:
            await catalog.sync_between_runs("other", "run")
        assert isinstance(caught.value.failed["data/a"], ConflictError)


# Names.


@pytest.mark.parametrize("more", [0, 20])
@pytest.mark.parametrize("pattern", ["**", "*"])
async def test_a_file_does_not_take_the_name_of_a_folder_that_holds_something(
    tmp_path: Path, more: int, pattern: str
) -> None:
    write_tree(tmp_path / "one" / "data", {"d/a": b"a"} | {f"x{number}": b"x" for number in range(more)})
    write_tree(tmp_path / "two" / "data", {"d": b"d"} | {f"y{number}": b"y" for number in range(more)})
    async with MemoryObjectStore() as store, Catalog(store) as catalog:
        await catalog.put("**", "run", tmp_path / "one" / "data")
        with pytest.raises(UnsafePathError, match="both as a file and as a folder"):
            await catalog.put(pattern, "run", tmp_path / "two" / "data")
        await catalog.put("**", "other", tmp_path / "two" / "data")
        with pytest.raises(UnsafePathError, match="both as a file and as a folder"):
            await catalog.sync_between_runs("other", "run")
        assert len(await catalog.get("**", "run", local_folder=tmp_path / "out")) == more + 1


async def test_what_was_synced_to_another_folder_is_no_reason_to_leave_a_file_alone(tmp_path: Path) -> None:
    write_tree(tmp_path / "data", {"other/x": b"one"})
    async with MemoryObjectStore() as store, Catalog(store, compute_data_folder=tmp_path / "data") as catalog:
        [entry] = await catalog.put("**", "run")
        elsewhere = DataCatalog(name="other/x", data_hash=entry.data_hash)
        await store.put("run/data/other/x", b"changed since")
        await catalog.put("**", "run", synced_catalogs=[elsewhere])
        assert (await store.get("run/data/other/x"))[1] == b"one"


async def test_the_lock_of_a_run_log_in_the_folder_is_no_file(tmp_path: Path) -> None:
    write_tree(tmp_path / "data", {"logs/run.json": b"{}", "logs/.~asyncstore-lock": b""})
    async with MemoryObjectStore() as store, Catalog(store, compute_data_folder=tmp_path / "data") as catalog:
        assert [entry.name for entry in await catalog.put("**", "run")] == ["data/logs/run.json"]


@pytest.mark.parametrize(
    ("said", "mode"),
    [("100755", 0o755), ("0100600", 0o600), ("0644", 0o644), ("444", 0o444), ("104755", 0o755), ("33261", None)],
)
def test_modes_as_tools_write_them(said: str, mode: int | None) -> None:
    meta: Any = type("Meta", (), {"metadata": {"mode": said}})
    assert mode_of(meta) == mode


# Stores.


class Delegating(ObjectStore):
    """The eight verbs, each handed on to a store that needs the loop's own threads for them."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._inner = FolderObjectStore(folder)

    async def _open(self, stack: AsyncExitStack) -> None:
        await stack.enter_async_context(self._inner)

    @property
    def location(self) -> str:
        return self._inner.location

    async def put(self, *key: Any, **options: Any) -> Any:
        return await self._inner.put(*key, **options)

    async def get(self, *key: Any, **options: Any) -> Any:
        return await self._inner.get(*key, **options)

    async def head(self, key: str) -> Any:
        return await self._inner.head(key)

    async def list(self, prefix: str) -> Any:
        async for page in self._inner.list(prefix):
            yield page

    async def list_folder(self, prefix: str) -> Any:
        return await self._inner.list_folder(prefix)

    async def delete(self, keys: Any) -> None:
        await self._inner.delete(keys)

    async def copy(self, *keys: Any, **options: Any) -> None:
        await self._inner.copy(*keys, **options)

    async def put_file(self, *what: Any, **options: Any) -> Any:
        return await self._inner.put_file(*what, **options)


async def test_a_store_of_ones_own_that_needs_threads_comes_to_an_end(tmp_path: Path) -> None:
    tree = {f"{number}": b"x" * number for number in range(200)}
    write_tree(tmp_path / "data", tree)
    async with asyncio.timeout(60), Delegating(tmp_path / "store") as store, Catalog(store) as catalog:
        await catalog.put("**", "run", tmp_path / "data")
        await catalog.get("**", "run", local_folder=tmp_path / "out")
    assert read_tree(tmp_path / "out") == tree


async def test_stores_in_memory_are_not_taken_for_each_other(tmp_path: Path) -> None:
    for contents in (b"AAAA", b"BBBB"):
        write_tree(tmp_path / "data", {"a": contents})
        async with MemoryObjectStore() as store, Catalog(store, compute_data_folder=tmp_path / "data") as catalog:
            await catalog.put("a", "run")
            write_tree(tmp_path / "data", {"a": b"CCCC"})
            await catalog.get("a", "run")
        assert read_tree(tmp_path / "data") == {"a": contents}


class Growing(FolderObjectStore):
    """Objects grow after they were listed."""

    async def list(self, prefix: str) -> Any:
        async for page in super().list(prefix):
            yield [ObjectMeta(meta.key, 1, meta.etag, meta.modified_at, meta.metadata) for meta in page]


async def test_an_object_that_has_grown_is_not_taken_into_memory(tmp_path: Path) -> None:
    write_tree(tmp_path / "store", {"run/data/large": bytes(5 * MIB), "run/data/small": b"x"})
    async with Growing(tmp_path / "store") as store, Catalog(store) as catalog:
        with pytest.raises(TransferError, match="has grown") as caught:
            await catalog.get("**", "run", local_folder=tmp_path / "out")
    assert caught.value.done == ("data/small",)


# Limits.


async def test_who_is_held_back_by_a_rate_holds_nothing_that_others_wait_for() -> None:
    async with MemoryObjectStore() as store:
        lane = Lane(store, 1)
        passage = Passage(lane, bytes_s=0.001, on_retry=lambda: None)
        waiting = asyncio.create_task(passage.downloads().admit(MIB).__aenter__())
        await asyncio.sleep(0.01)
        assert "<Window 0/1.0" in repr(lane.window)
        async with asyncio.timeout(10), lane.request(charge_up(0)):
            pass
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_one_at_a_time_is_one(tmp_path: Path) -> None:
    async with FileSystemCatalog(catalog_location=str(tmp_path / "catalog"), max_concurrency=1) as catalog:
        assert catalog._lane.workers == 1


# Sweeping.


async def test_an_upload_that_is_being_made_is_not_swept(stub: WatchedStub, bucket: Bucket, tmp_path: Path) -> None:
    async with S3Catalog(**bucket.options) as catalog:
        store: Any = catalog._store
        upload_id = await store._uploads.begin("run/data/a", {}, lambda _: None)
        folder = cache_folder() / "uploads"
        journal = await asyncio.to_thread(open_journal, folder, f"{'0' * 64}.upload")
        assert journal is not None
        header = {"key": "run/data/a", "upload_id": upload_id, "put_id": "x", "headers": {}}
        await asyncio.to_thread((folder / f"{'0' * 64}.upload").write_text, f"{json.dumps(header)}\n")
        nothing = timedelta(seconds=-5)
        assert (await catalog.sweep(older_than=nothing)).uploads == []
        await asyncio.to_thread(journal.close)
        dry = await catalog.sweep(older_than=nothing, dry_run=True)
        assert [upload.upload_id for upload in dry.uploads] == [upload_id]
        assert len((await catalog.sweep(older_than=nothing)).uploads) == 1
        assert (await catalog.sweep(older_than=nothing)).uploads == []
    assert os.listdir(folder) in ([], [f"{'0' * 64}.upload"])
