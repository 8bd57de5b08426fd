"""
Those who are measured at S3 in this environment, each a worker of its own: asyncstore, bare obstore and aioboto3.

The peers put the very bytes that asyncstore has written, under keys of the same form; they neither make nor parse any
JSON, so what is measured against is the bare transfer.
"""

from __future__ import annotations

import argparse
import json
from abc import abstractmethod
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import obstore

from asyncstore import ChunkedS3RunLogStore, S3RunLogStore
from harness.loops import new_runner
from harness.s3 import aioboto3_client, obstore_store
from harness.store import Asyncstore, Figures, timed, timed_alone
from harness.work import TASKS, spread, step_fields
from harness.worker import measured, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from obstore.store import S3Store


class Peer:
    """
    Objects put and got by hand.

    Args:
        prefix: what its keys begin with.
        source: what the keys of asyncstore begin with, for it reads asyncstore's runs.
    """

    def __init__(self, prefix: str, source: str) -> None:
        self._prefix = prefix
        self._source = source
        self._bodies: list[bytes] = []

    @abstractmethod
    async def put_object(self, key: str, body: bytes) -> object:
        """Put an object."""

    @abstractmethod
    async def get_object(self, key: str) -> bytes:
        """Get an object."""

    @abstractmethod
    def list_objects(self, prefix: str) -> AsyncIterator[str]:
        """Yield keys."""

    async def load(self, run_id: str, count: int) -> None:
        """Take the bytes to put from what asyncstore has written."""
        self._bodies = [b""] * count

        async def get(number: int) -> None:
            self._bodies[number] = await self.get_object(f"{self._source}/{run_id}/StepLog/step-{number}.json")

        await spread(get, count)

    async def create(self, run_id: str) -> None:
        """Do nothing: keys need no preparation."""

    async def add(self, run_id: str, count: int) -> Figures:
        """Put the objects of step logs from 64 tasks."""
        return await timed(lambda number: self._put_step(run_id, number), count)

    async def add_alone(self, run_id: str, count: int) -> Figures:
        """Put the objects of step logs one after the other."""
        return await timed_alone(lambda number: self._put_step(run_id, number), count)

    async def read(self, run_id: str, count: int) -> Figures:
        """List and get, 64 at a time, what asyncstore wrote of a run."""
        with measured() as figures:
            bodies = await self._read_below(f"{self._source}/{run_id}/")
        if len(bodies) < count:
            raise ValueError(f"read {len(bodies)} objects of a run with {count} steps")
        return figures

    async def kept(self, start: str, count: int) -> int:
        """
        Return how many of the step logs ``0 … count - 1`` stand, whole, in objects whose keys begin with ``start``.

        Objects may be step logs, or documents that hold them, of asyncstore or of magnus.
        """
        found = {}
        for body in await self._read_below(start):
            value = json.loads(body)
            for step in value["steps"].values() if "steps" in value else [value]:
                found[step.get("internal_name")] = {key: step.get(key) for key in step_fields(0)}
        return sum(found.get(f"step-{number}") == step_fields(number) for number in range(count))

    async def _put_step(self, run_id: str, number: int) -> None:
        await self.put_object(f"{self._prefix}/{run_id}/StepLog/step-{number}.json", self._bodies[number])

    async def _read_below(self, start: str) -> list[bytes]:
        keys = [key async for key in self.list_objects(start)]
        bodies = []

        async def get(number: int) -> None:
            bodies.append(await self.get_object(keys[number]))

        await spread(get, len(keys))
        return bodies


class Obstore(Peer):
    """
    The bare loop over obstore.

    Args:
        store: of the bucket.
        prefix: what its keys begin with.
        source: what the keys of asyncstore begin with.
    """

    def __init__(self, store: S3Store, prefix: str, source: str) -> None:
        super().__init__(prefix, source)
        self._store = store

    async def put_object(self, key: str, body: bytes) -> object:
        """Put an object, in one request."""
        return await obstore.put_async(self._store, key, body, use_multipart=False)

    async def get_object(self, key: str) -> bytes:
        """Get an object."""
        result = await obstore.get_async(self._store, key)
        return bytes(await result.bytes_async())

    async def list_objects(self, prefix: str) -> AsyncIterator[str]:
        """Yield keys; obstore's prefixes are folders, so what begins with the last segment is picked here."""
        folder = prefix.rpartition("/")[0]
        async for page in obstore.list(self._store, folder):
            for item in page:
                if item["path"].startswith(prefix):
                    yield item["path"]


class Aioboto3(Peer):
    """
    ``put_object`` and ``get_object`` of aioboto3.

    Args:
        client: open.
        bucket: its name.
        prefix: what its keys begin with.
        source: what the keys of asyncstore begin with.
    """

    def __init__(self, client: Any, bucket: str, prefix: str, source: str) -> None:
        super().__init__(prefix, source)
        self._client = client
        self._bucket = bucket

    async def put_object(self, key: str, body: bytes) -> object:
        """Put an object."""
        return await self._client.put_object(Bucket=self._bucket, Key=key, Body=body)

    async def get_object(self, key: str) -> bytes:
        """Get an object."""
        answer = await self._client.get_object(Bucket=self._bucket, Key=key)
        async with answer["Body"] as body:
            data: bytes = await body.read()
        return data

    async def list_objects(self, prefix: str) -> AsyncIterator[str]:
        """Yield keys."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        async for page in pages:
            for item in page.get("Contents", ()):
                yield item["Key"]


async def open_contender(given: argparse.Namespace, stack: AsyncExitStack) -> Asyncstore | Peer:
    """Open the one that the command line names, in its first state: connected to nothing yet."""
    options = {
        "s3_bucket": given.bucket,
        "endpoint_url": given.endpoint_url,
        "region": given.region,
        "prefix": given.prefix,
        "max_concurrency": TASKS,
    }
    match given.kind:
        case "chunked-s3":
            return Asyncstore(await stack.enter_async_context(ChunkedS3RunLogStore(**options)))
        case "s3":
            return Asyncstore(await stack.enter_async_context(S3RunLogStore(**options)))
        case "obstore":
            return Obstore(obstore_store(given.endpoint_url, given.region, given.bucket), given.prefix, given.source)
        case _:
            client = await stack.enter_async_context(aioboto3_client(given.endpoint_url, given.region))
            return Aioboto3(client, given.bucket, given.prefix, given.source)


async def run(given: argparse.Namespace) -> None:
    """Open a contender and let it work."""
    async with AsyncExitStack() as stack:
        contender = await open_contender(given, stack)
        names = ("create", "add", "add_alone", "rewrite", "finish", "read", "load", "kept")
        await serve({name: getattr(contender, name) for name in names if hasattr(contender, name)})


def main() -> None:
    """Read the command line and work."""
    parser = argparse.ArgumentParser(prog="python -m harness.contenders")
    parser.add_argument("kind", choices=["chunked-s3", "s3", "obstore", "aioboto3"])
    parser.add_argument("--endpoint-url", required=True)
    parser.add_argument("--region", required=True)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--source", default="", help="prefix of asyncstore's runs")
    parser.add_argument("--uvloop", action="store_true")
    given = parser.parse_args()
    with new_runner(uvloop=given.uvloop) as runner:
        runner.run(run(given))


if __name__ == "__main__":
    main()
