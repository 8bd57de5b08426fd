"""What is S3's alone: multipart uploads, ranges on lenient servers, probes, and what errors mean."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import aioboto3
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
from asyncstore.objects import _boto, _multipart
from asyncstore.objects.s3 import S3ObjectStore

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.testing.servers import Bucket


@pytest.fixture(params=["moto", "rclone"])
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


async def open_uploads(bucket: Bucket) -> list[Any]:
    async with aioboto3.Session().client(
        "s3", endpoint_url=bucket.server.endpoint_url, region_name="eu-west-1"
    ) as client:
        uploads: list[Any] = (await client.list_multipart_uploads(Bucket=bucket.name)).get("Uploads", [])
    return uploads


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


async def test_cancelled_upload_leaves_no_parts(
    bucket: Bucket, large_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_part_is_up = asyncio.Event()
    real_call = _boto.call

    async def call(client: Any, operation: str, *args: Any, **parameters: Any) -> Any:
        answer = await real_call(client, operation, *args, **parameters)
        if operation == "upload_part":
            first_part_is_up.set()
        return answer

    monkeypatch.setattr(_multipart, "call", call)
    async with objects_of(bucket) as store:
        task = asyncio.create_task(store.put_file("large", large_file))
        waiter = asyncio.create_task(first_part_is_up.wait())
        await asyncio.wait([task, waiter], return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(NotFoundError):
            await store.head("large")
    assert await open_uploads(bucket) == []


async def test_file_that_changes_meanwhile_is_not_stored(
    bucket: Bucket, large_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_read = _multipart._read_part

    def read_and_touch(path: Path, part: _multipart.Part) -> bytes:
        data = real_read(path, part)
        if part.number == 2:
            with path.open("r+b") as file:
                file.write(b"changed")
            os.utime(path, ns=(1, 1))
        return data

    monkeypatch.setattr(_multipart, "_read_part", read_and_touch)
    async with objects_of(bucket) as store:
        with pytest.raises(IntegrityError, match="changed while it was uploaded"):
            await store.put_file("large", large_file)
        with pytest.raises(NotFoundError):
            await store.head("large")
    assert await open_uploads(bucket) == []


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
