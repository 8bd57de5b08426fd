"""The wire: signatures, TLS, connections, and what becomes of requests that nobody waits for any more."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore._core.retry import NO_RETRY
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import ClosedError, ConfigurationError, NotFoundError, UnavailableError
from asyncstore.objects._http import _connection
from asyncstore.objects._s3._bucket import bucket_url
from asyncstore.objects._s3._requests import Request
from asyncstore.objects.base import Transfer
from asyncstore.objects.bodies import PathBody
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.testing._objects.base import HOSTILE_KEYS
from asyncstore.testing.s3_stub import Fault
from asyncstore.testing.s3_stub._messages import Answer
from asyncstore.testing.s3_stub.server import _Connection
from tests._http_server import make_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from asyncstore.testing.servers import Bucket
    from tests._watched import WatchedStub

MIB = 1024 * 1024


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(20 * MIB))
    return path


def objects_of(bucket: Bucket, url: str = "", **options: Any) -> S3ObjectStore:
    return S3ObjectStore(bucket.name, AwsSettings(endpoint_url=url or bucket.server.endpoint_url), **options)


async def read(store: S3ObjectStore, key: str, size_bytes: int) -> bytes:
    data = bytearray()
    await store.read_into(key, (0, size_bytes), lambda block, _: data.extend(block))
    return bytes(data)


# rclone checks signatures, of paths and of queries.
async def test_names_are_sent_as_they_are_signed(rclone_bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1234")
    async with objects_of(rclone_bucket) as store:
        for key in HOSTILE_KEYS:
            await store.put_file(f"a/{key}", path, metadata={"k": "a b+c&d=e%2F"})
            assert await read(store, f"a/{key}", 4) == b"1234", key
            await store._uploads.begin(f"a/{key}", {}, lambda _: None)
            [upload] = await store.list_uploads(f"a/{key}/../"[:-4])
            assert upload.key == f"a/{key}"
            await store.abort_upload(upload)
        assert (await store.head("a/plain")).metadata["k"] == "a b+c&d=e%2F"


async def test_connections_are_kept(stub: WatchedStub, bucket: Bucket, file: Path) -> None:
    async with objects_of(bucket) as store:
        await store.capabilities()
        stub.connections = 0
        others = set(stub._open)
        for number in range(5):
            await store.put_file(f"{number}", file, transfer=Transfer(limit=2))
            await store.read_into(f"{number}", (0, 20 * MIB), lambda *_: None)
            await store.list_uploads("")
        assert stub.requests["UploadPart"] == 15
        assert 1 <= stub.connections <= 2
        kept = stub._open - others
    # They are closed with the store.
    await asyncio.wait([connection.closed for connection in kept])


@asynccontextmanager
async def on_tls(stub: WatchedStub, pem: Path, private: Path) -> AsyncIterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(stub), "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_tls(
    stub: WatchedStub, bucket: Bucket, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, pem, private = await asyncio.to_thread(make_certificate, tmp_path)
    content = await asyncio.to_thread(file.read_bytes)
    async with on_tls(stub, pem, private) as url:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
        async with objects_of(bucket, url) as store:
            await store.put_file("large", file)
            assert await read(store, "large", len(content)) == content
            assert all(
                part.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD" for part in stub.requests_for("UploadPart")
            )
        monkeypatch.delenv("AWS_CA_BUNDLE")
        async with objects_of(bucket, url, retry=NO_RETRY) as store:
            with pytest.raises(UnavailableError, match="certificate is not trusted") as caught:
                await read(store, "large", 1)
            assert not caught.value.answer_lost


async def test_redirections_are_not_followed(stub: WatchedStub, bucket: Bucket, file: Path) -> None:
    stub.answer = lambda request: (
        Answer(307, b"<Error><Code>TemporaryRedirect</Code></Error>", {"Location": f"{stub.url}/elsewhere"})
        if request.method == "GET"
        else None
    )
    async with objects_of(bucket) as store:
        with pytest.raises(ConfigurationError):
            await read(store, "key", 1)
    assert len(stub.seen) == 1


async def test_no_server_is_unavailable_and_was_sent_nothing(unused_tcp_port: int, file: Path) -> None:
    settings = AwsSettings(endpoint_url=f"http://127.0.0.1:{unused_tcp_port}")
    async with S3ObjectStore("bucket", settings, retry=NO_RETRY) as store:
        with pytest.raises(UnavailableError, match=f"{unused_tcp_port}: connection refused") as caught:
            await read(store, "key", 1)
        assert not caught.value.answer_lost


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host:80", "http://host/b"),
        ("https://host:443/s3", "https://host/s3/b"),
        ("http://host:443", "http://host:443/b"),
        ("http://host:8080", "http://host:8080/b"),
        ("http://[::80]", "http://[::80]/b"),
        ("http://[::1]:80", "http://[::1]/b"),
    ],
)
def test_default_ports_are_not_said(url: str, expected: str) -> None:
    # Clients do not say them in the host that is signed, but in what they tell a proxy.
    assert bucket_url(AwsSettings(insecure=True, endpoint_url=url), "b") == expected


@dataclass(frozen=True, slots=True)
class Blocks:
    """A body of these blocks."""

    contents: tuple[bytes, ...]
    name: str = "blocks"
    fingerprint: str = ""

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.contents))

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        for block in self.contents:
            yield memoryview(block)


@pytest.mark.parametrize(
    "contents", [(b"abc", b""), (b"", b"abc"), (b"ab", b"", b"c"), (b"",), (b"a", b"b", b"", b""), (bytes(3 * MIB),)]
)
async def test_blocks_of_any_size(
    stub: WatchedStub, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, contents: tuple[bytes, ...]
) -> None:
    # The server would wait for a byte that does not come.
    monkeypatch.setattr(_connection, "READ_TIMEOUT_S", 2)
    stub.behaviour.checksums = "ignored"
    async with objects_of(bucket, retry=NO_RETRY) as store:
        await store.put_file("key", Blocks(contents))
    assert stub.storage.bucket(bucket.name).objects["key"].body == b"".join(contents)


@dataclass(frozen=True, slots=True)
class Halting(PathBody):
    """A file whose second block comes when the test says so."""

    reached: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        try:
            for number, block in enumerate(PathBody.blocks(self, start, end)):
                if number == 1:
                    self.reached.set()
                    self.go_on.wait(30)
                yield block
        finally:
            self.closed.set()


async def test_a_request_that_nobody_waits_for_ends_at_its_next_block(
    stub: WatchedStub, bucket: Bucket, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5 * MIB))
    stub.behaviour.checksums = "ignored"
    async with objects_of(bucket) as store:
        await store.capabilities()
        body = await asyncio.to_thread(Halting.of, path)
        putting = asyncio.create_task(store.put_file("key", body))
        await asyncio.to_thread(body.reached.wait, 30)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        body.go_on.set()
        # A write of the same key waits until the other one cannot land any more.
        await store.put("key", b"newer")
        assert body.closed.is_set()
        assert (await store.get("key"))[1] == b"newer"
    assert stub.requests["PutObject"] == 1 + sum(
        ".asyncstore-probe" in request.key for request in stub.requests_for("PutObject")
    )


async def test_a_store_closed_meanwhile_ends_what_is_under_way(
    stub: WatchedStub, bucket: Bucket, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5 * MIB))
    stub.behaviour.checksums = "ignored"
    async with objects_of(bucket) as store:
        body = await asyncio.to_thread(Halting.of, path)
        putting = asyncio.create_task(store.put_file("key", body))
        await asyncio.to_thread(body.reached.wait, 30)
        closing = asyncio.create_task(store.aclose())
        await asyncio.sleep(0)
        body.go_on.set()
        with pytest.raises(ClosedError):
            await putting
        await closing
    assert "key" not in stub.storage.bucket(bucket.name).objects


async def test_an_answer_that_is_no_s3(stub: WatchedStub, bucket: Bucket, file: Path) -> None:
    async with objects_of(bucket) as store:
        await store.capabilities()
        for page in (b"<html><body>hello</body></html>", b"<!DOCTYPE html><p>", b"hello", b"<A/>"):
            stub.answer = lambda request, page=page: Answer(200, page)  # type: ignore[misc]
            with pytest.raises(ConfigurationError, match="does not answer like S3"):
                await store.put_file("large", file)


async def test_a_body_that_is_cut_off(stub: WatchedStub, bucket: Bucket) -> None:
    async with objects_of(bucket, retry=NO_RETRY) as store:
        await store.put("key", bytes(100))
        stub.faults = [Fault("truncate", operation="ListMultipartUploads")]
        with pytest.raises(UnavailableError):
            await store.list_uploads("")
        with pytest.raises(NotFoundError):
            await store._run("head", "nothing", lambda sender: sender.send(Request("HEAD", "nothing", "head nothing")))
