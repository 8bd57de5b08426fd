"""Putting, getting, listing, deleting, copying."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from asyncstore._core.concurrency import for_each
from asyncstore.errors import ClosedError, ConflictError, NotFoundError, UnsafePathError
from asyncstore.testing._objects.base import HOSTILE_KEYS, MANY, ObjectSuite, keys_under, metas_under

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.objects.base import ObjectStore

__all__ = ["DeleteSuite", "ListSuite", "VerbSuite"]

DATA = bytes(range(256)) * 40
UNSAFE_KEYS = ("", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\x00b", "a\nb")


async def put_all(store: ObjectStore, keys: list[str]) -> None:
    """Put an object under each key that holds the key."""
    await for_each(lambda key: _put(store, key), keys, limit=32)


async def _put(store: ObjectStore, key: str) -> None:
    await store.put(key, key.encode())


class VerbSuite(ObjectSuite):
    """What is put is got, byte for byte, under exactly its key."""

    async def test_put_is_read_by_another(self, store: ObjectStore, another: ObjectStore) -> None:
        etag = await store.put("folder/a", DATA)
        meta, data = await another.get("folder/a")
        assert data == DATA
        assert (meta.key, meta.size_bytes, meta.etag) == ("folder/a", len(DATA), etag)
        assert abs(datetime.now(UTC) - meta.modified_at) < timedelta(hours=1)
        head = await another.head("folder/a")
        assert (head.key, head.size_bytes, head.etag) == ("folder/a", len(DATA), etag)

    async def test_an_empty_object(self, store: ObjectStore, another: ObjectStore) -> None:
        await store.put("empty", b"")
        meta, data = await another.get("empty")
        assert (data, meta.size_bytes) == (b"", 0)

    async def test_put_replaces_whole_and_changes_the_etag(self, store: ObjectStore, another: ObjectStore) -> None:
        first = await store.put("a", DATA)
        second = await another.put("a", b"short")
        meta, data = await store.get("a")
        assert (data, meta.etag) == (b"short", second)
        assert first != second

    async def test_what_is_missing_is_not_found(self, store: ObjectStore) -> None:
        await store.put("folder/a", b"a")
        for key in ("nothing", "folder", "folder/a/b", "folder/b", "fold"):
            with pytest.raises(NotFoundError):
                await store.get(key)
            with pytest.raises(NotFoundError):
                await store.head(key)
        with pytest.raises(NotFoundError):
            await store.get("nothing", byte_range=(0, 1))
        with pytest.raises(NotFoundError):
            await store.copy("nothing", "b")

    @pytest.mark.parametrize("key", UNSAFE_KEYS, ids=ascii)
    async def test_keys_that_no_storage_holds_are_refused(self, store: ObjectStore, key: str) -> None:
        with pytest.raises(UnsafePathError):
            await store.put(key, b"a")
        with pytest.raises(UnsafePathError):
            await store.get(key)
        assert await keys_under(store) == []

    async def test_hostile_keys(self, store: ObjectStore, another: ObjectStore) -> None:
        keys = [f"under/{key}" for key in HOSTILE_KEYS]
        for key in keys:
            await store.put(key, key.encode())
        assert await keys_under(another, "under/") == sorted(keys)
        for key in keys:
            meta, data = await another.get(key)
            assert (meta.key, data) == (key, key.encode())
            assert (await another.head(key)).key == key
            await another.copy(key, f"copied/{key}")
        assert await keys_under(store, "copied/") == sorted(f"copied/{key}" for key in keys)
        await another.delete(keys)
        assert await keys_under(store, "under/") == []

    @pytest.mark.parametrize("byte_range", [(0, 1), (0, 10), (100, 300), (10_239, 10_240), (0, 10_240)])
    async def test_ranges(self, store: ObjectStore, byte_range: tuple[int, int]) -> None:
        etag = await store.put("a", DATA)
        start, end = byte_range
        meta, data = await store.get("a", byte_range=byte_range)
        assert data == DATA[start:end]
        assert (meta.size_bytes, meta.etag) == (len(DATA), etag)

    async def test_a_read_of_one_version(self, store: ObjectStore, another: ObjectStore) -> None:
        etag = await store.put("a", DATA)
        assert (await store.get("a", etag=etag))[1] == DATA
        assert (await store.get("a", byte_range=(5, 9), etag=etag))[1] == DATA[5:9]
        await another.put("a", DATA[::-1])
        with pytest.raises(ConflictError):
            await store.get("a", etag=etag)
        with pytest.raises(ConflictError):
            await store.get("a", byte_range=(5, 9), etag=etag)

    async def test_metadata(self, store: ObjectStore, another: ObjectStore) -> None:
        await store.put("a", b"a", metadata={"sha256": "0" * 64, "put-id": "x y"})
        await another.copy("a", "b")
        expected = {"sha256": "0" * 64, "put-id": "x y"} if self.keeps_metadata else {}
        for key in ("a", "b"):
            # At least: rclone adds a time of its own.
            assert expected.items() <= (await another.head(key)).metadata.items()
            assert expected.items() <= (await another.get(key))[0].metadata.items()
        await store.put("a", b"a")
        assert "sha256" not in (await another.head("a")).metadata

    async def test_copying_replaces(self, store: ObjectStore, another: ObjectStore) -> None:
        await store.put("a", DATA)
        await store.put("b", b"old")
        await store.copy("a", "b")
        await store.copy("b", "c/d/e")
        assert (await another.get("b"))[1] == (await another.get("c/d/e"))[1] == (await another.get("a"))[1] == DATA

    async def test_many_at_once(self, store: ObjectStore, another: ObjectStore) -> None:
        keys = [f"folder-{number % 7}/{number}" for number in range(200)]
        await put_all(store, keys)

        async def check(key: str) -> None:
            assert (await another.get(key))[1] == key.encode()

        await for_each(check, keys, limit=64)

    async def test_readers_see_whole_objects(self, store: ObjectStore, another: ObjectStore) -> None:
        versions = [bytes([number]) * 50_000 for number in range(10)]
        await store.put("a", versions[0])

        async def write() -> None:
            for version in versions:
                await store.put("a", version)

        async with asyncio.TaskGroup() as group:
            writing = group.create_task(write())
            while not writing.done():
                assert (await another.get("a"))[1] in versions

    async def test_a_large_object(self, store: ObjectStore, another: ObjectStore) -> None:
        data = os.urandom(9 * 1024 * 1024)
        await store.put("large", data)
        assert (await another.get("large"))[1] == data

    async def test_only_between_open_and_close(self, make_store: Callable[[], ObjectStore]) -> None:
        store = make_store()
        with pytest.raises(ClosedError):
            await store.put("a", b"a")
        async with store:
            await store.put("a", b"a")
        with pytest.raises(ClosedError):
            await store.get("a")
        with pytest.raises(ClosedError):
            await keys_under(store)
        await store.aclose()


class ListSuite(ObjectSuite):
    """Listings are complete, and end at a slash."""

    async def test_a_prefix_is_a_folder(self, store: ObjectStore, another: ObjectStore) -> None:
        keys = ["run/a", "run/b/c", "run-2/a", "run.json", "ru/a", "run2", "other/run/a"]
        await put_all(store, keys)
        assert await keys_under(another, "run/") == ["run/a", "run/b/c"]
        assert await keys_under(another, "run/b/") == ["run/b/c"]
        assert await keys_under(another, "nowhere/") == []
        assert await keys_under(another) == sorted(keys)

    async def test_what_a_listing_says(self, store: ObjectStore, another: ObjectStore) -> None:
        etag = await store.put("folder/a", DATA)
        [meta] = await metas_under(another, "folder/")
        head = await another.head("folder/a")
        assert (meta.key, meta.size_bytes, meta.etag) == ("folder/a", len(DATA), etag)
        assert abs(meta.modified_at - head.modified_at) < timedelta(seconds=1)

    async def test_one_level(self, store: ObjectStore, another: ObjectStore) -> None:
        await put_all(store, ["a", "b.json", "f/1", "f/2", "f/g/3", "f-2/1", "f.json"])
        top = await another.list_folder("")
        assert sorted(top.folders) == ["f-2/", "f/"]
        assert sorted(meta.key for meta in top.objects) == ["a", "b.json", "f.json"]
        below = await another.list_folder("f/")
        assert (list(below.folders), sorted(meta.key for meta in below.objects)) == (["f/g/"], ["f/1", "f/2"])
        nothing = await another.list_folder("nowhere/")
        assert (list(nothing.folders), list(nothing.objects)) == ([], [])

    async def test_an_empty_storage(self, store: ObjectStore) -> None:
        assert await keys_under(store) == []
        listing = await store.list_folder("")
        assert (list(listing.folders), list(listing.objects)) == ([], [])

    async def test_more_than_one_page(self, store: ObjectStore, another: ObjectStore) -> None:
        keys = [f"many/{number:04}" for number in range(MANY)]
        await put_all(store, keys)
        assert await keys_under(another, "many/") == keys
        listing = await another.list_folder("many/")
        assert sorted(meta.key for meta in listing.objects) == keys
        await another.delete(keys)
        assert await keys_under(store) == []

    async def test_more_than_one_page_in_folders(self, store: ObjectStore, another: ObjectStore) -> None:
        keys = [f"many/{number % 4}/{number % 40 // 4:02} x/{number:04}" for number in range(2 * MANY)]
        await put_all(store, [*keys, "many-2/a"])
        for prefix in ("many/", ""):
            found = [meta.key for meta in await another.list_all(prefix)]
            assert sorted(found) == sorted(keys if prefix else [*keys, "many-2/a"])


class DeleteSuite(ObjectSuite):
    """Deleting takes what it names, and repeating it does no harm."""

    async def test_delete(self, store: ObjectStore, another: ObjectStore) -> None:
        await put_all(store, ["a", "a.json", "a-2/x", "ab", "b"])
        await another.delete(["a", "b"])
        assert await keys_under(store) == ["a-2/x", "a.json", "ab"]
        with pytest.raises(NotFoundError):
            await store.get("a")

    async def test_what_is_not_there_is_no_error(self, store: ObjectStore) -> None:
        await store.put("a", b"a")
        await store.delete(["nothing", "no/where", "a"])
        await store.delete(["a"])
        await store.delete([])
        assert await keys_under(store) == []

    async def test_a_key_is_free_again(self, store: ObjectStore) -> None:
        await store.put("f/a", b"old")
        await store.delete(["f/a"])
        await store.put("f/a", b"new")
        assert (await store.get("f/a"))[1] == b"new"
