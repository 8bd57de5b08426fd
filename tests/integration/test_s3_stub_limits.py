"""The S3 stub as one that is busy or lies: throttling, slow connections, answers to other questions, and its counts."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import aioboto3
import obstore
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from obstore.exceptions import BaseError
from obstore.store import S3Store

from asyncstore._core.concurrency import map_bounded
from asyncstore.testing.s3_stub import CHEAP, Behaviour, Fault, S3Stub, StubServer
from asyncstore.testing.s3_stub._throttle import TokenBucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncstore.testing.servers import Bucket

BUCKET = "bucket"
CONTENT = bytes(range(200))
WHERE = {"Bucket": BUCKET, "Key": "key"}


@pytest.fixture
async def stub() -> AsyncIterator[S3Stub]:
    async with S3Stub() as stub:
        stub.make_bucket(BUCKET)
        yield stub


@pytest.fixture
async def client(stub: S3Stub) -> AsyncIterator[Any]:
    config = Config(
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    async with aioboto3.Session().client("s3", endpoint_url=stub.url, region_name="eu-west-1", config=config) as client:
        yield client


def foreign_store(url: str, bucket: str = BUCKET) -> S3Store:
    return S3Store(
        bucket,
        endpoint=url,
        region="eu-west-1",
        access_key_id="any",
        secret_access_key="any",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
        virtual_hosted_style_request=False,
    )


async def read(client: Any, **options: Any) -> tuple[str | None, str, bytes]:
    found = await client.get_object(**WHERE, **options)
    return found.get("ContentRange"), found["ETag"], await found["Body"].read()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ((10, 20), (0, 10)),
        ((0, 100), (100, 200)),
        ((30, 180), (29, 179)),
        ((0, 150), (1, 151)),
        ((0, 200), (1, 200)),
    ],
)
async def test_another_range_comes(stub: S3Stub, client: Any, asked: tuple[int, int], told: tuple[int, int]) -> None:
    await client.put_object(**WHERE, Body=CONTENT)
    stub.faults = [Fault("wrong_range", operation="GetObject", times=1)]
    span = f"bytes={asked[0]}-{asked[1] - 1}"
    described, _, body = await read(client, Range=span)
    assert (described, body) == (f"bytes {told[0]}-{told[1] - 1}/200", CONTENT[slice(*told)])
    assert (await read(client, Range=span))[2] == CONTENT[slice(*asked)]


async def test_the_whole_object_comes_for_a_range(stub: S3Stub, client: Any) -> None:
    await client.put_object(**WHERE, Body=CONTENT)
    stub.faults = [Fault("whole_for_range", operation="GetObject", nth=1)]
    found = await client.get_object(**WHERE, Range="bytes=10-19")
    assert (found["ResponseMetadata"]["HTTPStatusCode"], await found["Body"].read()) == (200, CONTENT)
    assert (await read(client, Range="bytes=10-19"))[2] == CONTENT[10:20]


async def test_an_object_is_replaced_in_the_middle(stub: S3Stub, client: Any) -> None:
    etag = (await client.put_object(**WHERE, Body=CONTENT, Metadata={"a": "b"}))["ETag"]
    stub.faults = [Fault("other_object", operation="GetObject", nth=2)]
    assert (await read(client, Range="bytes=0-9"))[1:] == (etag, CONTENT[:10])
    _, other, body = await read(client, Range="bytes=10-19")
    assert other != etag
    assert [n for n in range(10) if body[n] != CONTENT[10 + n]] == [5]
    # For good, and conditions see it.
    assert (await read(client))[1] == other
    assert (await client.head_object(**WHERE))["Metadata"] == {"a": "b"}
    with pytest.raises(ClientError, match="PreconditionFailed"):
        await read(client, IfMatch=etag)
    stub.faults = [Fault("other_object", operation="GetObject", nth=1)]
    with pytest.raises(ClientError, match="PreconditionFailed"):
        await read(client, IfMatch=other)


async def test_what_is_copied_is_replaced_in_the_middle(stub: S3Stub, client: Any) -> None:
    etag = (await client.put_object(**WHERE, Body=CONTENT))["ETag"]
    upload = {"Bucket": BUCKET, "Key": "copy"}
    upload["UploadId"] = (await client.create_multipart_upload(**upload))["UploadId"]
    stub.faults = [Fault("other_object", operation="UploadPartCopy")]
    with pytest.raises(ClientError, match="PreconditionFailed"):
        await client.upload_part_copy(**upload, PartNumber=1, CopySource=WHERE, CopySourceIfMatch=etag)
    assert (await read(client))[1] != etag


async def test_a_flipped_bit_of_a_range_and_of_discarded_bytes(stub: S3Stub, client: Any) -> None:
    await client.put_object(**WHERE, Body=CONTENT)
    stub.behaviour.discards = True
    await client.put_object(Bucket=BUCKET, Key="zeros", Body=CONTENT)
    stub.faults = [Fault("flip_bit", operation="GetObject")]
    body = (await read(client, Range="bytes=100-109"))[2]
    assert [n for n in range(10) if body[n] != CONTENT[100 + n]] == [5]
    found = await client.get_object(Bucket=BUCKET, Key="zeros")
    assert await found["Body"].read() == bytes(100) + b"\x01" + bytes(99)


def test_a_token_bucket_lets_in_what_it_says() -> None:
    bucket = TokenBucket()
    assert [bucket.admits(50, 7.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [bucket.admits(50, 7.04) for _ in range(3)] == [True, True, False]
    admitted = sum(bucket.admits(50, 8 + at / 1000) for at in range(2000))
    assert admitted == pytest.approx(5 + 100, abs=1)
    # A rate so low that it has no burst.
    assert [TokenBucket().admits(0.1, at) for at in (0.0,)] == [True]


async def test_too_many_requests_per_second_are_refused(stub: S3Stub) -> None:
    store = foreign_store(stub.url)
    stub.behaviour.requests_per_s = 0.001
    await obstore.put_async(store, "first", b"x", use_multipart=False)
    for _ in range(3):
        with pytest.raises(BaseError, match="SlowDown"):
            await obstore.put_async(store, "second", b"x", use_multipart=False)
    assert (stub.requests, stub.throttled) == ({"PutObject": 4}, 3)
    stub.behaviour.requests_per_s = 0
    await obstore.put_async(store, "second", b"x", use_multipart=False)
    assert stub.throttled == 3


async def test_too_many_requests_in_flight_are_refused(stub: S3Stub) -> None:
    stub.behaviour.latency_s, stub.behaviour.in_flight_limit = 0.2, 4
    store = foreign_store(stub.url)

    async def put(number: int) -> str:
        try:
            await obstore.put_async(store, str(number), b"x", use_multipart=False)
        except BaseError as error:
            return str(error)
        return ""

    refused = [error for error in await map_bounded(put, range(12), limit=12) if error]
    assert len(refused) == stub.throttled > 0
    assert all("SlowDown" in error for error in refused)
    assert len(stub.storage.bucket(BUCKET).objects) == 12 - stub.throttled
    assert not any(await map_bounded(put, range(4), limit=4))


@pytest.mark.parametrize("in_process", [True, False])
async def test_bodies_move_no_faster_than_the_bandwidth(
    s3_stub: StubServer, stub_bucket: Bucket, stub: S3Stub, in_process: bool
) -> None:
    def pace(rate: float) -> None:
        if in_process:
            stub.behaviour.bandwidth_bytes_s = rate
        else:
            s3_stub.configure(bandwidth_bytes_s=rate)

    server: S3Stub | StubServer = stub if in_process else s3_stub
    url, bucket = (stub.url, BUCKET) if in_process else (s3_stub.endpoint_url, stub_bucket.name)
    # So slow that nothing is over before the test gives leave.
    pace(1_000)
    size = 4_000_000
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), limit=size)
    writer.write(f"PUT /{bucket}/key HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode() + bytes(size))
    others = foreign_store(url, bucket)
    while not server.bytes_in["PutObject"]:
        await obstore.list(others).collect_async()
    for _ in range(20):
        await obstore.list(others).collect_async()
    assert server.bytes_in["PutObject"] < size // 2
    pace(0)
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    assert server.bytes_in["PutObject"] == size

    pace(1_000)
    writer.write(f"GET /{bucket}/key HTTP/1.1\r\n\r\n".encode())
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    for _ in range(20):
        await obstore.list(others).collect_async()
    assert server.bytes_out["GetObject"] < size // 2
    pace(0)
    assert await reader.readexactly(size) == bytes(size)
    assert server.bytes_out["GetObject"] == size
    writer.close()
    await writer.wait_closed()


async def test_bytes_are_counted_by_operation(s3_stub: StubServer, stub_bucket: Bucket) -> None:
    store = foreign_store(s3_stub.endpoint_url, stub_bucket.name)
    await obstore.put_async(store, "key", bytes(100_000), use_multipart=False)
    await obstore.get_range_async(store, "key", start=10, end=70_010)
    await obstore.get_range_async(store, "key", start=10, end=20)
    await obstore.head_async(store, "key")
    assert (s3_stub.bytes_in, s3_stub.bytes_out) == ({"PutObject": 100_000}, {"GetObject": 70_010})
    assert s3_stub.requests == {"PutObject": 1, "GetObject": 2, "HeadObject": 1}
    s3_stub.reset()
    assert not s3_stub.bytes_in
    assert not s3_stub.bytes_out
    assert (s3_stub.throttled, s3_stub.max_in_flight) == (0, 0)
    s3_stub.configure(**CHEAP, in_flight_limit=1, latency_s=0.2)

    async def is_refused(number: int) -> bool:
        try:
            await obstore.put_async(store, str(number), b"", use_multipart=False)
        except BaseError:
            return True
        return False

    assert sum(await map_bounded(is_refused, range(2), limit=2)) == 1
    assert s3_stub.throttled == 1


@pytest.mark.parametrize("behaviour", [Behaviour(), Behaviour(**CHEAP)])
async def test_what_is_cheap_still_stores(behaviour: Behaviour) -> None:
    async with S3Stub(behaviour=behaviour) as stub:
        stub.make_bucket(BUCKET)
        store = foreign_store(stub.url)
        etags = {(await obstore.put_async(store, "key", CONTENT, use_multipart=False))["e_tag"] for _ in range(2)}
        assert len(etags) == (2 if behaviour.etags == "random" else 1)
        assert bytes(await (await obstore.get_async(store, "key")).bytes_async()) == CONTENT


async def test_a_stub_by_hand() -> None:
    options = ["--bucket", "data", "--cheap", "--set", "demanded_tag=team", "--set", "latency_s=0.001"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "asyncstore.testing.s3_stub", *options, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    store = foreign_store(url, "data")
    with pytest.raises(BaseError, match="AccessDenied"):
        await obstore.put_async(store, "key", b"x", use_multipart=False)
    await obstore.put_async(store, "key", b"x", tags={"team": "a"}, use_multipart=False)
    process.terminate()
    assert await process.wait() == 0
