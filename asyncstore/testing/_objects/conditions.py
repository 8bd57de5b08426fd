"""Conditional puts, as far as the storage honours them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import AlreadyExistsError, ConflictError, NotFoundError
from asyncstore.objects.base import NEW, Condition
from asyncstore.testing._objects.base import ObjectSuite

if TYPE_CHECKING:
    from asyncstore.objects.base import ObjectStore

__all__ = ["ConditionSuite"]

WRITERS = 8


class ConditionSuite(ObjectSuite):
    """Where a storage says that it honours a condition, exactly one of many writers gets through."""

    async def test_a_new_key(self, store: ObjectStore, another: ObjectStore) -> None:
        await self._needs(store, "create")
        await store.put("a", b"first", condition=NEW)
        with pytest.raises(AlreadyExistsError):
            await another.put("a", b"second", condition=NEW)
        assert (await another.get("a"))[1] == b"first"
        await store.delete(["a"])
        await another.put("a", b"third", condition=NEW)

    async def test_an_unchanged_object(self, store: ObjectStore, another: ObjectStore) -> None:
        await self._needs(store, "match")
        first = await store.put("a", b"first")
        second = await another.put("a", b"second", condition=Condition(etag=first))
        with pytest.raises(ConflictError):
            await store.put("a", b"third", condition=Condition(etag=first))
        assert (await store.get("a"))[1] == b"second"
        await store.put("a", b"fourth", condition=Condition(etag=second))

    async def test_an_object_that_is_gone(self, store: ObjectStore) -> None:
        await self._needs(store, "match")
        etag = await store.put("a", b"first")
        await store.delete(["a"])
        with pytest.raises((ConflictError, NotFoundError)):
            await store.put("a", b"second", condition=Condition(etag=etag))

    async def test_many_creators(self, store: ObjectStore, another: ObjectStore) -> None:
        await self._needs(store, "create")
        winners: list[bytes] = []

        async def create(number: int) -> None:
            data = f"{number}".encode()
            try:
                await (another if number % 2 else store).put("a", data, condition=NEW)
            except AlreadyExistsError:
                return
            winners.append(data)

        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(create(number))
        assert winners == [(await store.get("a"))[1]]

    async def test_many_changers_lose_no_change(self, store: ObjectStore, another: ObjectStore) -> None:
        await self._needs(store, "match")
        await store.put("a", b"")

        async def append(mark: bytes) -> None:
            which = another if mark[0] % 2 else store
            while True:
                meta, data = await which.get("a")
                try:
                    await which.put("a", data + mark, condition=Condition(etag=meta.etag))
                except ConflictError:
                    continue
                return

        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(append(bytes([number])))
        assert sorted((await store.get("a"))[1]) == list(range(WRITERS))

    @staticmethod
    async def _needs(store: ObjectStore, capability: str) -> None:
        if not getattr(await store.capabilities(), capability):
            pytest.skip(f"the storage does not honour the condition {capability!r}")
