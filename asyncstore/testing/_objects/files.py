"""Putting files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import NotFoundError
from asyncstore.testing._objects.base import ObjectSuite, keys_under

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.objects.base import ObjectStore

__all__ = ["FileSuite"]

MIB = 1024 * 1024
MULTIPART_BYTES = 5 * MIB
"""No upload is sent in parts below this, which is the least that S3 allows for a part."""


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
