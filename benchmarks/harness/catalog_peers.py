"""
The peers that run on an event loop: the bare loop over obstore, aioboto3 and s3fs, each from 64 tasks.

They walk the folder or list the bucket, then read and write files plainly: nothing is hashed, verified, written aside
or renamed. s3fs cuts large files itself; for the other two files above 16 MiB are cut here, or by obstore.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import GenericError

from harness.catalog_trees import walk
from harness.catalog_work import PART_BYTES, PARTS_IN_FLIGHT, Figures, Place, read_place, serve_contender
from harness.loops import new_runner
from harness.s3 import CLIENT_OPTIONS, aioboto3_client, obstore_store
from harness.work import TASKS, spread
from harness.worker import measured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from obstore.store import S3Store

Part = tuple[int, int]
"""Where a part of a file begins, and how long it is."""


class Peer:
    """Moves folders file by file, the small ones first."""

    async def up(self, folder: str, key: str, options: Mapping[str, str]) -> Figures:
        """Put a folder."""
        with measured() as figures:
            names = list(walk(Path(folder)))
            files = [(f"{folder}/{name}", f"{key}/{name}") for name in names]
            sizes = [os.stat(path).st_size for path, _ in files]
            await self._move(files, sizes, self.put_small, self.put_large)
        return figures

    async def down(self, folder: str, key: str, options: Mapping[str, str]) -> Figures:
        """Get a folder."""
        with measured() as figures:
            found = await self.list_sizes(f"{key}/")
            files = [(f"{folder}/{name[len(key) + 1 :]}", name) for name in found]
            for parent in {os.path.dirname(path) for path, _ in files}:
                os.makedirs(parent, exist_ok=True)
            await self._move(files, list(found.values()), self.get_small, self.get_large)
        return figures

    async def _move(
        self,
        files: list[tuple[str, str]],
        sizes: list[int],
        small: Callable[[str, str], Awaitable[Any]],
        large: Callable[[str, str, int], Awaitable[Any]],
    ) -> None:
        parted = [number for number, size in enumerate(sizes) if size > PART_BYTES]
        whole = [number for number, size in enumerate(sizes) if size <= PART_BYTES]
        await spread(lambda index: small(*files[whole[index]]), len(whole))
        await spread(lambda index: large(*files[parted[index]], sizes[parted[index]]), len(parted))

    @abstractmethod
    async def list_sizes(self, prefix: str) -> dict[str, int]:
        """Return keys and sizes."""

    @abstractmethod
    async def put_small(self, path: str, key: str) -> None:
        """Put a file in one request."""

    @abstractmethod
    async def put_large(self, path: str, key: str, size: int) -> None:
        """Put a file in parts."""

    @abstractmethod
    async def get_small(self, path: str, key: str) -> None:
        """Get a file in one request."""

    @abstractmethod
    async def get_large(self, path: str, key: str, size: int) -> None:
        """Get a file in parts."""


class Obstore(Peer):
    """``put_async``, ``get_async`` and ``get_range_async`` of obstore."""

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._slots = asyncio.Semaphore(PARTS_IN_FLIGHT)
        self._takes_ranges = True

    async def list_sizes(self, prefix: str) -> dict[str, int]:
        """Return keys and sizes."""
        pages = obstore.list(self._store, prefix, chunk_size=1000)
        return {item["path"]: item["size"] async for page in pages for item in page}

    async def put_small(self, path: str, key: str) -> None:
        """Put a file in one request."""
        await obstore.put_async(self._store, key, _read(path), use_multipart=False)

    async def put_large(self, path: str, key: str, size: int) -> None:
        """Put a file in parts, as obstore does it."""
        file = Path(path)
        await obstore.put_async(self._store, key, file, chunk_size=PART_BYTES, max_concurrency=PARTS_IN_FLIGHT)

    async def get_small(self, path: str, key: str) -> None:
        """Get a file in one request."""
        answer = await obstore.get_async(self._store, key)
        _write(path, await answer.bytes_async())

    async def get_large(self, path: str, key: str, size: int) -> None:
        """Get a file in ranges, or as one stream from a server whose answers to ranges obstore refuses."""
        if self._takes_ranges:
            try:
                await self._get_ranges(path, key, size)
            except* GenericError as errors:
                if "non-partial" not in str(errors.exceptions[0]):
                    raise
                self._takes_ranges = False
            else:
                return
        answer = await obstore.get_async(self._store, key)
        with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            async for block in answer.stream(min_chunk_size=1024**2):
                os.write(file, block)

    async def _get_ranges(self, path: str, key: str, size: int) -> None:
        async def get(part: Part) -> bytes:
            return memoryview(await obstore.get_range_async(self._store, key, start=part[0], length=part[1]))  # type: ignore[return-value]

        await _get_parts(path, size, get, self._slots)


class Aioboto3(Peer):
    """The calls of aioboto3's client, and parts that are coordinated here."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._slots = asyncio.Semaphore(PARTS_IN_FLIGHT)

    async def list_sizes(self, prefix: str) -> dict[str, int]:
        """Return keys and sizes."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        return {item["Key"]: item["Size"] async for page in pages for item in page.get("Contents", ())}

    async def put_small(self, path: str, key: str) -> None:
        """Put a file in one request."""
        await self._client.put_object(Bucket=self._bucket, Key=key, Body=_read(path))

    async def put_large(self, path: str, key: str, size: int) -> None:
        """Put a file in parts."""
        where = {"Bucket": self._bucket, "Key": key}
        upload = {**where, "UploadId": (await self._client.create_multipart_upload(**where))["UploadId"]}
        parts = list(parts_of(size))
        etags = [""] * len(parts)
        with _opened(path, os.O_RDONLY) as file:

            async def put(index: int) -> None:
                async with self._slots:
                    start, length = parts[index]
                    body = await asyncio.to_thread(os.pread, file, length, start)
                    answer = await self._client.upload_part(**upload, PartNumber=index + 1, Body=body)
                    etags[index] = answer["ETag"]

            await spread(put, len(parts))
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        await self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": listed})

    async def get_small(self, path: str, key: str) -> None:
        """Get a file in one request."""
        _write(path, await self._read_object(Key=key))

    async def get_large(self, path: str, key: str, size: int) -> None:
        """Get a file in ranges."""

        async def get(part: Part) -> bytes:
            return await self._read_object(Key=key, Range=f"bytes={part[0]}-{sum(part) - 1}")

        await _get_parts(path, size, get, self._slots)

    async def _read_object(self, **options: str) -> bytes:
        answer = await self._client.get_object(Bucket=self._bucket, **options)
        async with answer["Body"] as body:
            data: bytes = await body.read()
        return data


class S3fs(Peer):
    """The methods of s3fs that move one file; large ones are cut as it sees fit."""

    def __init__(self, files: Any, bucket: str) -> None:
        self._files = files
        self._bucket = bucket

    async def list_sizes(self, prefix: str) -> dict[str, int]:
        """Return keys and sizes."""
        found = await self._files._find(f"{self._bucket}/{prefix}", detail=True)
        return {path.removeprefix(f"{self._bucket}/"): item["size"] for path, item in found.items()}

    async def put_small(self, path: str, key: str) -> None:
        """Put a file."""
        await self._files._put_file(path, f"{self._bucket}/{key}", max_concurrency=PARTS_IN_FLIGHT)

    async def put_large(self, path: str, key: str, size: int) -> None:
        """Put a file."""
        await self.put_small(path, key)

    async def get_small(self, path: str, key: str) -> None:
        """Get a file."""
        await self._files._get_file(f"{self._bucket}/{key}", path, max_concurrency=PARTS_IN_FLIGHT)

    async def get_large(self, path: str, key: str, size: int) -> None:
        """Get a file."""
        await self.get_small(path, key)


def parts_of(size: int) -> Iterator[Part]:
    """Yield the parts of a file."""
    for start in range(0, size, PART_BYTES):
        yield start, min(PART_BYTES, size - start)


async def _get_parts(path: str, size: int, get: Callable[[Part], Awaitable[bytes]], slots: asyncio.Semaphore) -> None:
    parts = list(parts_of(size))
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:

        async def write(index: int) -> None:
            async with slots:
                await asyncio.to_thread(os.pwrite, file, await get(parts[index]), parts[index][0])

        await spread(write, len(parts))


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    file = os.open(path, flags, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(path: str, data: Any) -> None:
    with open(path, "wb") as file:
        file.write(data)


async def run(place: Place) -> None:
    """Open the peer that is named, and let it work."""
    async with contextlib.AsyncExitStack() as stack:
        peer: Peer
        if place.kind == "obstore":
            peer = Obstore(obstore_store(place.endpoint_url, place.region, place.bucket))
        elif place.kind == "aioboto3":
            client = await stack.enter_async_context(aioboto3_client(place.endpoint_url, place.region))
            peer = Aioboto3(client, place.bucket)
        else:
            peer = S3fs(await _open_s3fs(place), place.bucket)
        await serve_contender(peer)


async def _open_s3fs(place: Place) -> Any:
    files = importlib.import_module("s3fs").S3FileSystem(
        asynchronous=True,
        skip_instance_cache=True,
        use_listings_cache=False,
        endpoint_url=place.endpoint_url,
        client_kwargs={"region_name": place.region},
        config_kwargs={**CLIENT_OPTIONS, "max_pool_connections": TASKS},
    )
    await files.set_session()
    return files


def main() -> None:
    """Read the command line and work."""
    place = read_place("catalog_peers")
    with new_runner(uvloop=place.uvloop) as runner:
        runner.run(run(place))


if __name__ == "__main__":
    main()
