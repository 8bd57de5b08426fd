"""A worker that looks at what contenders have put, and cleans up after them; not one of them itself."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import obstore

from harness.catalog_trees import Tree, difference
from harness.catalog_work import Place, read_place
from harness.s3 import obstore_store
from harness.work import spread
from harness.worker import serve

if TYPE_CHECKING:
    from obstore.store import S3Store


class Checker:
    """
    Reads objects by obstore.

    Args:
        store: of the bucket.
    """

    def __init__(self, store: S3Store) -> None:
        self._store = store

    async def check(self, key: str, manifest: str) -> str:
        """Tell what is wrong with the copy of a tree below ``<key>/``; nothing if nothing is."""
        tree = Tree.load(Path(manifest))
        start = len(key) + 1
        sizes = {path[start:]: size for path, size in (await self._list(f"{key}/")).items()}
        digests: list[tuple[str, str]] = []
        names = [name for name in tree.to_hash() if name in sizes]

        async def hash_object(index: int) -> None:
            digests.append((names[index], await self._hash(f"{key}/{names[index]}")))

        await spread(hash_object, len(names))
        return difference(tree, sizes, digests)

    async def delete(self, key: str) -> None:
        """Delete what lies below ``<key>/``."""
        paths = list(await self._list(f"{key}/"))
        for start in range(0, len(paths), 1000):
            await obstore.delete_async(self._store, paths[start : start + 1000])

    async def _list(self, prefix: str) -> dict[str, int]:
        pages = obstore.list(self._store, prefix, chunk_size=1000)
        return {item["path"]: item["size"] async for page in pages for item in page}

    async def _hash(self, path: str) -> str:
        digest = hashlib.sha256()
        answer = await obstore.get_async(self._store, path)
        async for block in answer.stream(min_chunk_size=4 * 1024**2):
            digest.update(block)
        return digest.hexdigest()


async def run(place: Place) -> None:
    """Work at what is asked for."""
    checker = Checker(obstore_store(place.endpoint_url, place.region, place.bucket))
    await serve({"check": checker.check, "delete": checker.delete})


if __name__ == "__main__":
    asyncio.run(run(read_place("catalog_checker")))
