"""What is S3's alone: multipart uploads, ranges on lenient servers, probes, and what errors mean."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import (
    ConfigurationError,
    ConflictError,
    CredentialsError,
    IntegrityError,
    NotFoundError,
    UnavailableError,
)
from asyncstore.objects._large import _multipart, _uploads
from asyncstore.objects._s3._requests import Request
from asyncstore.objects.base import Transfer
from asyncstore.objects.bodies import PathBody
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.testing.s3_stub._messages import Answer
from tests._watched import WatchedStub

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.testing.servers import Bucket


@pytest.fixture(params=["moto", "rclone", "stub"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    chosen: Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return chosen


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(40 * 1024 * 1024 + 17))
    return path


def objects_of(bucket: Bucket, **options: Any) -> S3ObjectStore:
    return S3ObjectStore(bucket.name, AwsSettings(endpoint_url=bucket.server.endpoint_url, **options))


async def test_large_file_round_trips_in_parts(bucket: Bucket, large_file: Path) -> None:
    content = await asyncio.to_thread(large_file.read_bytes)
    async with objects_of(bucket) as store:
        await store.put_file("a/large é", large_file, metadata={"sha256": "ab"})
        meta, data = await store.get("a/large é")
        assert data == content
        head = await store.head("a/large é")
        assert (head.size_bytes, head.metadata["sha256"]) == (len(content), "ab")
        _, some = await store.get("a/large é", byte_range=(5, 1_000_005), etag=meta.etag)
        assert some == content[5:1_000_005]
        with pytest.raises(ConflictError):
            await store.get("a/large é", byte_range=(0, 10), etag='"0123456789abcdef0123456789abcdef"')


async def test_cancelled_upload_leaves_no_parts(bucket: Bucket, large_file: Path) -> None:
    first_part_is_up = asyncio.Event()
    transfer = Transfer(limit=2, advanced=lambda _: first_part_is_up.set())
    async with objects_of(bucket) as store:
        task = asyncio.create_task(store.put_file("large", large_file, transfer=transfer))
        waiter = asyncio.create_task(first_part_is_up.wait())
        await asyncio.wait([task, waiter], return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(NotFoundError):
            await store.head("large")
        assert await store.list_uploads("") == []


async def test_a_large_file_is_resumed(
    bucket: Bucket, large_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_multipart, "RESUME_WORTH_BYTES", 1)
    content = await asyncio.to_thread(large_file.read_bytes)
    body = replace(await asyncio.to_thread(PathBody.of, large_file), fingerprint="abc")
    advanced: list[int] = []

    def stop(size_bytes: int) -> None:
        advanced.append(size_bytes)
        if len(advanced) == 3:
            raise UnavailableError("enough for now")

    async with objects_of(bucket) as store:
        with pytest.raises(UnavailableError):
            await store.put_file("large", body, transfer=Transfer(limit=1, advanced=stop, journals=tmp_path))
        assert len(await store.list_uploads("la")) == 1
        at_once: list[int] = []
        await store.put_file("large", body, transfer=Transfer(limit=1, advanced=at_once.append, journals=tmp_path))
        assert sum(at_once) == len(content)
        assert (await store.get("large"))[1] == content
        assert await store.list_uploads("") == []


async def test_uploads_are_listed_and_aborted(bucket: Bucket) -> None:
    async with objects_of(bucket) as store:
        for key in ("a/ é&<+", "a/b", "b"):
            await store._uploads.begin(key, {}, lambda _: None)
        found = await store.list_uploads("a/")
        assert [upload.key for upload in found] == ["a/ é&<+", "a/b"]
        # moto says the same time of all uploads, years ago.
        assert all(upload.begun_at < datetime.now(UTC) + timedelta(hours=1) for upload in found)
        for _ in range(2):
            for upload in found:
                await store.abort_upload(upload)
        assert [upload.key for upload in await store.list_uploads("")] == ["b"]


async def test_listings_of_uploads_have_pages(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_uploads, "PAGE", "2")
    keys = sorted(f"a/{number // 2} é&+" for number in range(7))
    async with objects_of(bucket) as store:
        for key in keys:
            await store._uploads.begin(key, {}, lambda _: None)
        found = await store.list_uploads("a/")
        assert [upload.key for upload in found] == keys
        assert len({upload.upload_id for upload in found}) == 7


async def test_listings_of_parts_have_pages(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_uploads, "PAGE", "2")
    async with objects_of(bucket) as store:
        upload_id = await store._uploads.begin("a", {}, lambda _: None)
        for number in range(1, 6):
            query = {"partNumber": str(number), "uploadId": upload_id}
            request = Request("PUT", "a", "put", query, body=bytes(number))
            await store._run("put", "a", lambda sender, request=request: sender.send(request))  # type: ignore[misc]
        found = await store._uploads.parts("a", upload_id)
        assert {number: part.size_bytes for number, part in found.items()} == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}


@pytest.mark.parametrize("operation", ["uploads", "parts"])
async def test_listings_that_do_not_end(operation: str) -> None:
    page = b"<P><IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker>"
    page += b"<NextPartNumberMarker>7</NextPartNumberMarker></P>"
    async with WatchedStub() as stub:
        stub.answer = lambda _: Answer(200, page)
        async with S3ObjectStore("bucket", AwsSettings(endpoint_url=stub.url)) as store, asyncio.timeout(10):
            with pytest.raises(ConfigurationError, match="follows itself"):
                await (store.list_uploads("") if operation == "uploads" else store._uploads.parts("a", "b"))
        assert len(stub.seen) == 2


async def test_ranges_at_the_end_of_an_object(bucket: Bucket) -> None:
    async with objects_of(bucket) as store:
        etag = await store.put("key", b"0123456789")
        await store.put("empty", b"")
        for key, span, expected in (
            ("key", (9, 10), b"9"),
            ("key", (5, 100), b"56789"),
            ("key", (0, 100), b"0123456789"),
            ("key", (5, 5), b""),
            ("key", (10, 10), b""),
            ("empty", (0, 0), b""),
        ):
            meta, data = await store.get(key, byte_range=span)
            assert (meta.size_bytes, data) == (10 * (key == "key"), expected), (key, span)
        for key, span in (("key", (10, 20)), ("key", (20, 30)), ("empty", (0, 5))):
            with pytest.raises(IntegrityError):
                await store.get(key, byte_range=span)
        assert (await store.get("key", byte_range=(5, 5), etag=etag))[0].etag == etag
        with pytest.raises(ConflictError):
            await store.get("key", byte_range=(5, 5), etag='"0123456789abcdef0123456789abcdef"')
        with pytest.raises(NotFoundError):
            await store.get("nothing", byte_range=(5, 5))


async def test_missing_bucket_is_told_apart_from_a_missing_key(bucket: Bucket) -> None:
    settings = AwsSettings(endpoint_url=bucket.server.endpoint_url)
    async with S3ObjectStore("no-such-bucket", settings) as store:
        with pytest.raises(ConfigurationError, match=r"no-such-bucket.*the bucket does not exist"):
            await store.put("key", b"")
        with pytest.raises(ConfigurationError, match="the bucket does not exist"):
            [page async for page in store.list("")]


async def test_wrong_secret_key_is_a_credentials_error(rclone_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-right-one")
    async with objects_of(rclone_bucket) as store:
        with pytest.raises(CredentialsError, match="the secret key is wrong") as caught:
            await store.put("key", b"")
    assert "not-the-right-one" not in str(caught.value)


async def test_no_server_is_unavailable_and_says_where(unused_tcp_port: int) -> None:
    settings = AwsSettings(endpoint_url=f"http://127.0.0.1:{unused_tcp_port}")
    async with S3ObjectStore("bucket", settings) as store:
        with pytest.raises(UnavailableError, match=f"{unused_tcp_port}: connection refused"):
            await store.get("key")


async def test_no_credentials_are_told_when_the_store_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = S3ObjectStore("bucket", AwsSettings(endpoint_url="http://127.0.0.1:9"))
    with pytest.raises(CredentialsError, match="no AWS credentials found"):
        await store.open()
