"""Connections that break, or stand still, in the middle of a body on its way to the storage."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import pytest
import stamina

from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import UnavailableError
from asyncstore.objects._http import _connection
from asyncstore.objects.base import Transfer
from asyncstore.objects.s3 import S3ObjectStore
from tests._connections import Connections, closing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from asyncstore.testing.s3_stub._storage import BucketContent
    from asyncstore.testing.servers import Bucket
    from tests._watched import WatchedStub

MIB = 1024 * 1024
WHOLE = 12 * MIB
PARTS = 24 * MIB


@pytest.fixture(autouse=True)
def no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=6, cap=True):
        yield


@dataclass
class Relay:
    """Passes on what clients and the server say."""

    upstream: str
    url: str = ""
    end: Literal["fin", "rst"] = "fin"
    cuts: int = 0
    """How many connections are still to be closed, each after its first MiB."""
    pause_s: float = 0.0
    """How long nothing more is taken from each connection after its first MiB."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = urlsplit(self.upstream)
        async with closing(asyncio.open_connection(address.hostname, address.port)) as (from_server, to_server):
            answers = asyncio.create_task(self._pass(from_server, writer))
            try:
                await self._take(reader, to_server, writer)
            finally:
                answers.cancel()

    async def _take(
        self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        taken = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                first_mib = taken < MIB <= taken + len(data)
                taken += len(data)
                if first_mib and self.cuts:
                    self.cuts -= 1
                    self._close(writer)
                    return
                if first_mib and self.pause_s:
                    await asyncio.sleep(self.pause_s)
                to_server.write(data)
                await to_server.drain()

    def _close(self, writer: asyncio.StreamWriter) -> None:
        if self.end == "rst":
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def relay_before(bucket: Bucket, **options: Any) -> AsyncIterator[Relay]:
    relay = Relay(bucket.server.endpoint_url, **options)
    connections = Connections(relay.serve)
    server = await asyncio.start_server(connections, "127.0.0.1", 0)
    relay.url = "http://{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield relay
    finally:
        server.close()
        await connections.aclose()


@pytest.mark.parametrize("end", ["fin", "rst"])
@pytest.mark.parametrize(("size_bytes", "limit", "cuts"), [(WHOLE, 1, 2), (PARTS, 1, 2), (PARTS, 4, 5)])
async def test_a_connection_closed_meanwhile_is_a_lost_one(
    bucket: Bucket, content: BucketContent, tmp_path: Path, end: Any, size_bytes: int, limit: int, cuts: int
) -> None:
    data = os.urandom(size_bytes)
    path = tmp_path / "file"
    path.write_bytes(data)
    async with (
        relay_before(bucket, end=end, cuts=cuts) as relay,
        S3ObjectStore(bucket.name, AwsSettings(endpoint_url=relay.url)) as store,
    ):
        await store.put_file("file", path, transfer=Transfer(limit=limit))
        assert relay.cuts == 0
    assert content.objects["file"].body == data
    assert content.uploads == {}


@pytest.mark.parametrize("end", ["fin", "rst"])
@pytest.mark.parametrize("size_bytes", [WHOLE, PARTS])
async def test_connections_closed_all_the_time_are_unavailable(
    bucket: Bucket, content: BucketContent, tmp_path: Path, end: Any, size_bytes: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size_bytes))
    async with (
        relay_before(bucket, end=end, cuts=1000) as relay,
        S3ObjectStore(bucket.name, AwsSettings(endpoint_url=relay.url)) as store,
    ):
        with pytest.raises(UnavailableError, match="the connection failed"):
            await store.put_file("file", path)
    assert (content.uploads, dict(content.objects)) == ({}, {})


async def test_a_connection_may_stand_still_for_longer_than_it_may_take_to_connect(
    stub: WatchedStub, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "CONNECT_TIMEOUT_S", 0.3)
    path = tmp_path / "file"
    path.write_bytes(bytes(WHOLE))
    async with relay_before(bucket) as relay:
        settings = AwsSettings(endpoint_url=relay.url)
        async with S3ObjectStore(bucket.name, settings) as store:
            await store.capabilities()
        relay.pause_s = 1.0
        before = len(stub.seen)
        # It has no connection yet.
        async with S3ObjectStore(bucket.name, settings) as store:
            await store.put_file("file", path)
    assert [request.operation for request in stub.seen[before:]] == ["PutObject"]
