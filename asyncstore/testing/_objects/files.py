"""Putting files, and reading and copying what is too large for memory."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import ConflictError, IntegrityError, NotFoundError
from asyncstore.objects.base import PendingUpload, Transfer
from asyncstore.objects.bodies import PathBody
from asyncstore.testing._objects.base import ObjectSuite, keys_under

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from asyncstore.objects.base import ObjectMeta, ObjectStore

__all__ = ["FileSuite"]

MIB = 1024 * 1024
MULTIPART_BYTES = 5 * MIB
"""No upload is sent in parts below this, which is the least that S3 allows for a part."""


@dataclass(frozen=True, slots=True)
class _ChangingBody(PathBody):
    """A file that changes while it is read."""

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        for block in PathBody.blocks(self, start, end):
            os.utime(self.path, ns=(1, 1))
            yield block


class _Progress:
    """Counts what a transfer tells."""

    def __init__(self) -> None:
        self.bytes = 0
        self.attempts = 0
        self.at_once = 0
        self.most = 0

    def transfer(self, limit: int) -> Transfer:
        return Transfer(admit=self._admit, advanced=self._advance, limit=limit)

    @asynccontextmanager
    async def _admit(self, size_bytes: int) -> AsyncIterator[None]:
        assert size_bytes >= 0
        self.attempts += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            yield
        finally:
            self.at_once -= 1

    def _advance(self, size_bytes: int) -> None:
        self.bytes += size_bytes


async def _read(
    store: ObjectStore, key: str, byte_range: tuple[int, int], *, etag: str = ""
) -> tuple[ObjectMeta, bytes]:
    data = bytearray()

    def take(block: memoryview, offset: int) -> None:
        assert offset == byte_range[0] + len(data)
        data.extend(block)

    meta = await store.read_into(key, byte_range, take, etag=etag)
    return meta, bytes(data)


class FileSuite(ObjectSuite):
    """Files of any size arrive whole, with their metadata."""

    @pytest.mark.parametrize("size_bytes", [0, 1, 100_000, 20 * MIB + 7])
    async def test_put_file(self, store: ObjectStore, another: ObjectStore, tmp_path: Path, size_bytes: int) -> None:
        path = tmp_path / "source"
        path.write_bytes(os.urandom(size_bytes))
        etag = await store.put_file("folder/file", path, metadata={"sha256": "abc"})
        meta, data = await another.get("folder/file")
        assert data == path.read_bytes()
        assert meta.size_bytes == size_bytes
        # Some servers answer the end of a multipart upload with another ETag than they give afterwards.
        assert etag == meta.etag or size_bytes > MULTIPART_BYTES
        assert meta.metadata.get("sha256") == ("abc" if self.keeps_metadata else None)

    async def test_a_large_file_is_copied_and_read_in_ranges(
        self, store: ObjectStore, another: ObjectStore, tmp_path: Path
    ) -> None:
        path = tmp_path / "source"
        data = os.urandom(20 * MIB + 7)
        path.write_bytes(data)
        await store.put_file("a", path)
        await another.copy("a", "b")
        assert (await another.get("b"))[1] == data
        assert (await another.get("b", byte_range=(16 * MIB - 5, 16 * MIB + 5)))[1] == data[16 * MIB - 5 : 16 * MIB + 5]

    async def test_a_file_replaces(self, store: ObjectStore, tmp_path: Path) -> None:
        path = tmp_path / "source"
        path.write_bytes(b"new")
        await store.put("a", b"older and longer")
        await store.put_file("a", path)
        assert (await store.get("a"))[1] == b"new"

    async def test_no_such_file(self, store: ObjectStore, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError):
            await store.put_file("a", tmp_path / "nothing")
        assert await keys_under(store) == []

    @pytest.mark.parametrize("size_bytes", [0, 100_000, 20 * MIB + 7])
    async def test_a_transfer_is_told_of(self, store: ObjectStore, tmp_path: Path, size_bytes: int) -> None:
        path = tmp_path / "source"
        path.write_bytes(os.urandom(size_bytes))
        progress = _Progress()
        body = await asyncio.to_thread(PathBody.of, path)
        await store.put_file("a", body, transfer=progress.transfer(2))
        assert progress.bytes == size_bytes
        assert progress.attempts >= 1
        assert (progress.at_once, progress.most) == (0, min(progress.attempts, 2))
        assert (await store.get("a"))[1] == path.read_bytes()
        assert not await store.list_uploads("")

    @pytest.mark.parametrize("size_bytes", [1, 100_000, 20 * MIB + 7])
    async def test_a_file_that_changes_is_not_stored(self, store: ObjectStore, tmp_path: Path, size_bytes: int) -> None:
        path = tmp_path / "source"
        path.write_bytes(bytes(size_bytes))
        body = await asyncio.to_thread(_ChangingBody.of, path)
        with pytest.raises(IntegrityError):
            await store.put_file("folder/a", body)
        assert await keys_under(store) == []
        assert not await store.list_uploads("")

    async def test_read_into(self, store: ObjectStore, another: ObjectStore) -> None:
        data = os.urandom(3 * MIB + 5)
        etag = await store.put("a", data, metadata={"k": "v"})
        for start, end in ((0, len(data)), (0, 1), (MIB - 1, 2 * MIB + 1), (len(data) - 1, len(data))):
            for pinned in ("", etag):
                meta, found = await _read(another, "a", (start, end), etag=pinned)
                assert found == data[start:end]
                assert (meta.key, meta.size_bytes, meta.etag) == ("a", len(data), etag)
        await another.put("a", data[::-1])
        with pytest.raises(ConflictError):
            await _read(store, "a", (0, 10), etag=etag)
        with pytest.raises(NotFoundError):
            await _read(store, "nothing", (0, 10))

    async def test_what_a_sink_raises(self, store: ObjectStore) -> None:
        def take(block: memoryview, offset: int) -> None:
            raise BlockingIOError(f"{len(block)} bytes at {offset} are not wanted")

        await store.put("a", b"12345")
        with pytest.raises(BlockingIOError, match="3 bytes at 1 are not wanted"):
            await store.read_into("a", (1, 4), take)

    async def test_a_copy_of_what_is_known(self, store: ObjectStore, another: ObjectStore) -> None:
        await store.put("a", b"1" * 1000, metadata={"k": "v"})
        progress = _Progress()
        await another.copy("a", "b", meta=await another.head("a"), transfer=progress.transfer(2))
        meta, data = await store.get("b")
        assert data == b"1" * 1000
        assert meta.metadata.get("k") == ("v" if self.keeps_metadata else None)
        assert progress.attempts >= 1

    async def test_an_upload_that_is_over(self, store: ObjectStore) -> None:
        await store.abort_upload(PendingUpload("a", "6b1f3a4e-0000-4000-8000-000000000000", datetime.now(UTC)))
