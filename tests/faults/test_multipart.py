"""Multipart uploads cut off at the worst moments: nothing is left open, nothing is told wrongly."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import aioboto3
import pytest
import stamina

from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import AccessDeniedError, UnavailableError
from asyncstore.objects import _boto
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.testing.proxy import lossy_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncstore.testing.servers import Bucket


@pytest.fixture(autouse=True)
def no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=6, cap=True):
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(20 * 1024 * 1024))
    return path


def objects_of(bucket: Bucket, url: str = "") -> S3ObjectStore:
    return S3ObjectStore(bucket.name, AwsSettings(endpoint_url=url or bucket.server.endpoint_url))


async def open_uploads(bucket: Bucket) -> list[Any]:
    session = aioboto3.Session()
    async with session.client("s3", endpoint_url=bucket.server.endpoint_url, region_name="eu-west-1") as client:
        uploads: list[Any] = (await client.list_multipart_uploads(Bucket=bucket.name)).get("Uploads", [])
    return uploads


async def test_cancelled_while_it_is_being_created(
    moto_bucket: Bucket, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = asyncio.Event()
    real_call = _boto.call

    async def call(client: Any, operation: str, *args: Any, **parameters: Any) -> Any:
        answer = await real_call(client, operation, *args, **parameters)
        if operation == "create_multipart_upload":
            created.set()
            await asyncio.sleep(0.05)
        return answer

    monkeypatch.setattr("asyncstore.objects._multipart.call", call)
    async with objects_of(moto_bucket) as store:
        upload = asyncio.create_task(store.put_file("large", file))
        await created.wait()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
    assert await open_uploads(moto_bucket) == []


async def test_an_abort_that_fails_does_not_hide_why(
    moto_bucket: Bucket, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_call = _boto.call

    async def call(client: Any, operation: str, *args: Any, **parameters: Any) -> Any:
        if operation == "upload_part":
            raise UnavailableError("parts are not taken")
        if operation == "abort_multipart_upload":
            raise AccessDeniedError("aborting is not allowed")
        return await real_call(client, operation, *args, **parameters)

    monkeypatch.setattr("asyncstore.objects._multipart.call", call)
    async with objects_of(moto_bucket) as store:
        with pytest.raises(UnavailableError, match="parts are not taken") as caught:
            await store.put_file("large", file)
    assert "could not be aborted" in caught.value.__notes__[0]


async def test_a_completion_whose_answer_was_lost_is_recognised(rclone_bucket: Bucket, file: Path) -> None:
    completions: list[str] = []

    def completes(_: int, line: str) -> bool:
        if line.startswith("POST") and "uploadId" in line:
            completions.append(line)
        return len(completions) == 1 and line in completions

    async with (
        lossy_proxy(rclone_bucket.server.endpoint_url, completes) as proxy,
        objects_of(rclone_bucket, proxy.url) as store,
    ):
        await store.put_file("large", file)
    async with objects_of(rclone_bucket) as store:
        _, data = await store.get("large")
    assert data == await asyncio.to_thread(file.read_bytes)
