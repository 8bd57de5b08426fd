"""What every chapter of the object-store contract stands on."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from asyncstore.objects.base import ObjectMeta, ObjectStore

__all__ = ["HOSTILE_KEYS", "MANY", "ObjectSuite", "keys_under"]

HOSTILE_KEYS = (
    "plain",
    "a b",
    " lead",
    "é",
    "e\u0301",
    "%2F",
    "%",
    "a%20b",
    "a#b",
    "a?b",
    "a?b=c&d",
    "x+y",
    "=",
    "a=b",
    "🙂",
    "~",
    "a~b",
    "a..b",
    "...",
    ".hidden",
    "a'b\"c",
    "<a>&amp;",
    "a\\b",
    "a*b[c]{d}",
    "a:b;c,d@e!$()",
    "Case",
    "case",
    "deep/er/still",
    "deep/er.json",
    "x" * 200,
)
"""Keys that have broken some client or server: separators, escapes, XML, look-alikes, long ones."""

MANY = 1100
"""More objects than one page of a listing or one bulk delete of S3 holds."""


async def keys_under(store: ObjectStore, prefix: str = "") -> list[str]:
    """Return the sorted keys under a prefix."""
    return sorted([meta.key for meta in await metas_under(store, prefix)])


async def metas_under(store: ObjectStore, prefix: str = "") -> list[ObjectMeta]:
    """Return what a listing says of each object under a prefix."""
    return [meta async for page in store.list(prefix) for meta in page]


class ObjectSuite:
    """The stores under test; see :class:`asyncstore.testing.ObjectStoreContract`."""

    shared: ClassVar[bool] = True
    keeps_metadata: ClassVar[bool] = True

    @pytest.fixture
    def make_store(self) -> Callable[[], ObjectStore]:
        """Return what makes store objects, not yet opened, all on the same storage, which is empty for each test."""
        raise NotImplementedError("override the fixture make_store")

    @pytest_asyncio.fixture
    async def store(self, make_store: Callable[[], ObjectStore]) -> AsyncIterator[ObjectStore]:
        """Give an open store."""
        async with make_store() as store:
            yield store

    @pytest_asyncio.fixture
    async def another(self, store: ObjectStore, make_store: Callable[[], ObjectStore]) -> AsyncIterator[ObjectStore]:
        """Give a second open store on the same storage, as another process would have it."""
        if not self.shared:
            yield store
            return
        async with make_store() as another:
            yield another
