"""obstore and our own requests, of which either may make a request, mean the same by it and by its answer."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore._core.retry import NO_RETRY
from asyncstore.aws.credentials import CredentialProvider, Credentials
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import AsyncStoreError, ClosedError, InvalidValueError, UnavailableError
from asyncstore.objects._http._origin import proxy_for
from asyncstore.objects._s3._bucket import make_store
from asyncstore.objects._s3._leased import LeasedClient
from asyncstore.objects.base import ANY, NEW, Condition
from asyncstore.objects.memory import MemoryObjectStore
from asyncstore.objects.s3 import S3ObjectStore
from tests._http_server import PlayedServer, ok, serve_all

if TYPE_CHECKING:
    from obstore.store import S3Store

    from asyncstore.testing.servers import Bucket
    from tests._http_server import Asked
    from tests._watched import WatchedStub

ENGINES = pytest.mark.parametrize("engine", ["obstore", "our own"])
TAKEN = ["content-type", "Content-Type", "cache-control", "content-encoding", "Storage-Class"]


def objects_by(engine: str, bucket: str, url: str) -> S3ObjectStore:
    """Return a store whose requests are made by one of the two: obstore makes none where the clock is far off."""
    settings = AwsSettings(endpoint_url=url)
    credentials = CredentialProvider(settings)
    if engine == "our own":
        credentials.clock.learn(time.time() + 600)
    return S3ObjectStore(bucket, settings, retry=NO_RETRY, credentials=credentials)


# Metadata.


@ENGINES
@pytest.mark.parametrize("condition", [ANY, NEW])
@pytest.mark.parametrize(
    "metadata",
    [{"a": "é"}, {"a": " b"}, {"a": "b\r\nc: d"}, {"a b": "c"}, {"é": "c"}, *[{name: "x"} for name in TAKEN]],
)
async def test_metadata_that_would_not_arrive_is_not_sent(
    stub: WatchedStub, bucket: Bucket, engine: str, condition: Condition, metadata: dict[str, str]
) -> None:
    async with objects_by(engine, bucket.name, bucket.server.endpoint_url) as store:
        with pytest.raises(InvalidValueError, match="metadata"):
            await store.put("key", b"x", condition=condition, metadata=metadata)
    assert not stub.seen


@ENGINES
async def test_other_metadata_arrives(bucket: Bucket, engine: str) -> None:
    metadata = {"a": "b  c", "empty": "", "expires": "never", "mode": "0644"}
    async with objects_by(engine, bucket.name, bucket.server.endpoint_url) as store:
        await store.put("key", b"x", metadata=metadata)
        assert (await store.head("key")).metadata == metadata


@pytest.mark.parametrize("name", TAKEN)
async def test_memory_takes_no_such_names_either(name: str) -> None:
    async with MemoryObjectStore() as store:
        with pytest.raises(InvalidValueError, match="taken"):
            await store.put("key", b"x", metadata={name: "x"})


# Answers.


@ENGINES
@pytest.mark.parametrize("length", ["", "Content-Length: x\r\n", "Content-Length: -1\r\n"])
async def test_a_size_that_is_not_told_is_told(engine: str, length: str) -> None:
    def answer(_: Asked) -> bytes:
        return ok().replace(b"Content-Length: 0\r\n", length.encode())

    with PlayedServer(serve_all(answer)) as server:
        async with objects_by(engine, "bucket", server.url.removesuffix("/bucket")) as store:
            with pytest.raises(AsyncStoreError, match="head s3://bucket/key") as caught:
                await store.head("key")
    if not length:
        # It would be so again.
        assert not isinstance(caught.value, UnavailableError)


# Proxies.


async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(ok(said="Connection: close\r\n"))
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("exempt", ["::1", "localhost, ::1", "[::1]", "::1/128", "0:0::1"])
async def test_an_ipv6_address_is_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int, exempt: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_tcp_port}")
    monkeypatch.setenv("NO_PROXY", exempt)
    assert not proxy_for("http://[::1]:9000")
    assert not proxy_for("http://[0::1]")
    assert proxy_for("http://[::2]:9000")
    assert proxy_for("http://127.0.0.1:9000")
    try:
        server = await asyncio.start_server(answer_once, "::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with server:
        for engine in ("obstore", "our own"):
            url = f"http://[::1]:{server.sockets[0].getsockname()[1]}"
            async with objects_by(engine, "bucket", url) as store:
                assert await store.put("key", b"") == '"e"'


# obstore's client.


async def test_a_client_that_is_made_while_it_is_dropped_is_not_kept() -> None:
    settings = AwsSettings(endpoint_url="http://127.0.0.1:1")
    asked_for_keys: list[Any] = []
    making, go_on = threading.Event(), threading.Event()
    go_on.set()

    def make(keys: Any) -> S3Store:
        asked_for_keys.append(keys)
        making.set()
        assert go_on.wait(30)
        return make_store(settings, "bucket", credentials=keys, root_certificate=None)

    provider = CredentialProvider(settings)
    await provider.get()
    client = LeasedClient(make, provider)
    # As its first request does.
    asked_for_keys[0]()
    making.clear()
    go_on.clear()
    taking = asyncio.create_task(client.take(Credentials("other", "secret", "token")))
    waiting = asyncio.create_task(client.take(Credentials("another", "secret", "token")))
    assert await asyncio.to_thread(making.wait, 30)
    client.drop()
    making.clear()
    go_on.set()
    for task in (taking, waiting):
        with pytest.raises(ClosedError):
            await task
    assert not hasattr(client, "store")
    assert not making.is_set()
    await provider.aclose()
