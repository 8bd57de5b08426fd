"""What all transfers of one catalog share: the store, and the limits on requests and bytes in flight."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import ByteBudget
from asyncstore._core.threads import in_thread
from asyncstore.catalog._plan import MIB, ranges
from asyncstore.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.objects.base import ObjectMeta, ObjectStore

__all__ = ["DIGEST_KEY", "Lane", "stored_digest"]

DIGEST_KEY = "sha256"
"""Metadata key of an object's SHA-256."""

_REPLACED_RETRIES = 5
"""How often an object that is replaced while it is hashed is looked at again."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Lane:
    """An object store, used by at most ``workers`` requests and ``memory_mb`` MiB at a time; make it on the loop."""

    store: ObjectStore
    workers: int
    memory_mb: int
    budget: ByteBudget = field(init=False)
    _slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", ByteBudget(self.memory_mb * MIB))
        object.__setattr__(self, "_slots", asyncio.Semaphore(self.workers))

    async def put(self, key: str, data: bytes, digest: str) -> None:
        """Write an object and its digest."""
        async with self._slots:
            await self.store.put(key, data, metadata={DIGEST_KEY: digest})

    async def put_file(self, key: str, path: Path, digest: str, verify: Callable[[], None]) -> None:
        """Write a file and its digest, unless ``verify`` raises when all of it has been read."""
        async with self._slots:
            await self.store.put_file(key, path, metadata={DIGEST_KEY: digest}, verify=verify)

    async def get(
        self, key: str, *, byte_range: tuple[int, int] | None = None, etag: str = ""
    ) -> tuple[ObjectMeta, bytes]:
        """Read an object, or a range of it."""
        async with self._slots:
            return await self.store.get(key, byte_range=byte_range, etag=etag)

    async def head(self, key: str) -> ObjectMeta:
        """Describe an object."""
        async with self._slots:
            return await self.store.head(key)

    async def head_or_none(self, key: str) -> ObjectMeta | None:
        """Describe an object, ``None`` if it is not there."""
        try:
            return await self.head(key)
        except NotFoundError:
            return None

    async def copy(self, source: str, target: str) -> None:
        """Copy an object inside the storage."""
        async with self._slots:
            await self.store.copy(source, target)

    async def digest(self, meta: ObjectMeta) -> str:
        """
        Return an object's SHA-256: what its metadata says, or else (a folder, another tool's object) of its bytes.

        Raises:
            NotFoundError: the object is not there any more.
            ConflictError: it was replaced each time that it was looked at.
        """
        for _ in range(_REPLACED_RETRIES):
            try:
                return await self._digest_once(meta)
            except ConflictError:
                meta = await self.head(meta.key)
        return await self._digest_once(meta)

    async def digest_or_none(self, meta: ObjectMeta) -> str | None:
        """Return an object's SHA-256 (see :meth:`digest`), ``None`` if it is not there any more."""
        try:
            return await self.digest(meta)
        except NotFoundError:
            return None

    async def holds(self, meta: ObjectMeta | None, size_bytes: int, digest: str) -> bool:
        """Tell whether an object is there and has that size and SHA-256; one that others replace has not."""
        if meta is None or meta.size_bytes != size_bytes:
            return False
        try:
            return await self._digest_once(meta) == digest
        except (ConflictError, NotFoundError):
            return False

    async def _digest_once(self, meta: ObjectMeta) -> str:
        if not meta.metadata:
            meta = await self.head(meta.key)
        return stored_digest(meta) or await self._computed(meta)

    async def _computed(self, meta: ObjectMeta) -> str:
        digest = hashlib.sha256()
        # Small ranges and no claim on the budget: the caller may hold some of it already.
        for start, end in ranges(meta.size_bytes, MIB):
            whole = meta.size_bytes <= MIB
            _, data = await self.get(meta.key, byte_range=None if whole else (start, end), etag=meta.etag)
            await in_thread(digest.update, data)
        return digest.hexdigest()


def stored_digest(meta: ObjectMeta) -> str:
    """Return the SHA-256 that an object's metadata holds, nothing if there is none."""
    found = meta.metadata.get(DIGEST_KEY, "")
    return found if _DIGEST.fullmatch(found) else ""
