"""The S3 stub is S3 as its clients know it: conditions, listings, copies, multipart."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aioboto3
import boto3
import hypothesis
import obstore
import pytest
from botocore.exceptions import ClientError
from hypothesis import strategies as st
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import S3Store

from asyncstore._core.concurrency import map_bounded
from asyncstore.testing.s3_stub import S3Stub, StubServer
from asyncstore.testing.s3_stub._content import Content
from asyncstore.testing.s3_stub._storage import BucketContent, StoredObject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from asyncstore.testing.servers import Bucket

SPECIAL_KEYS = ["a b", "a+b", "a%20b", "a&b<c>\"d'", "é/ü", "\U0001f600", "\ufffd", "q?x=1#y", "~!*()", "日本/語"]
PART = os.urandom(5 * 1024 * 1024)


def foreign_store(bucket: Bucket) -> S3Store:
    return S3Store(
        bucket.name,
        endpoint=bucket.server.endpoint_url,
        region="eu-west-1",
        access_key_id="any",
        secret_access_key="any",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
        virtual_hosted_style_request=False,
    )


@asynccontextmanager
async def boto(bucket: Bucket) -> AsyncIterator[Any]:
    url = bucket.server.endpoint_url
    async with aioboto3.Session().client("s3", endpoint_url=url, region_name="eu-west-1") as client:
        yield client


async def wins(store: S3Store, key: str, mode: Any) -> bool:
    try:
        await obstore.put_async(store, key, os.urandom(8), mode=mode, use_multipart=False)
    except (AlreadyExistsError, PreconditionError):
        return False
    return True


async def test_one_of_64_creators_wins(s3_stub: StubServer, stub_bucket: Bucket) -> None:
    s3_stub.configure(latency_s=0.01)
    store = foreign_store(stub_bucket)
    for key in ("a", "b", "c"):
        won = await map_bounded(lambda _, key=key: wins(store, key, "create"), range(64), limit=64)  # type: ignore[misc]
        assert sum(won) == 1
    assert s3_stub.requests["PutObject"] == 3 * 64
    assert s3_stub.max_in_flight > 1


async def test_compare_and_swap_loses_nothing(s3_stub: StubServer, stub_bucket: Bucket) -> None:
    store = foreign_store(stub_bucket)
    await obstore.put_async(store, "counter", b"0")
    refused = 0

    async def add(_: int) -> None:
        nonlocal refused
        while True:
            found = await obstore.get_async(store, "counter")
            number = int(bytes(await found.bytes_async()))
            mode: Any = {"e_tag": found.meta["e_tag"]}
            try:
                await obstore.put_async(store, "counter", str(number + 1).encode(), mode=mode, use_multipart=False)
            except PreconditionError:
                refused += 1
            else:
                return

    await map_bounded(add, range(64), limit=16)
    assert bytes(await (await obstore.get_async(store, "counter")).bytes_async()) == b"64"
    assert s3_stub.requests["PutObject"] == 1 + 64 + refused


async def test_requests_are_counted_by_operation(s3_stub: StubServer, stub_bucket: Bucket) -> None:
    store = foreign_store(stub_bucket)
    await obstore.put_async(store, "a/b", b"x", use_multipart=False)
    await obstore.head_async(store, "a/b")
    await obstore.get_async(store, "a/b")
    await obstore.copy_async(store, "a/b", "a/c")
    await obstore.list(store).collect_async()
    await obstore.delete_async(store, ["a/b", "a/c"])
    expected = {"PutObject", "HeadObject", "GetObject", "CopyObject", "ListObjectsV2", "DeleteObjects"}
    assert s3_stub.requests == dict.fromkeys(expected, 1)
    assert s3_stub.log[0] == f"PUT /{stub_bucket.name}/a/b"
    s3_stub.reset()
    assert not s3_stub.requests


async def test_latency_is_of_each_request_and_not_of_the_server() -> None:
    async with S3Stub() as stub:
        stub.behaviour.latency_s = 0.05
        store = foreign_store(stub.make_bucket("bucket"))
        await map_bounded(lambda n: obstore.put_async(store, str(n), b"x"), range(32), limit=32)
        assert stub.max_in_flight == 32
        assert stub.requests.total() == 32


async def test_special_keys_round_trip_and_are_listed_in_order(stub_bucket: Bucket) -> None:
    ordered = sorted(SPECIAL_KEYS, key=str.encode)
    async with boto(stub_bucket) as client:
        for key in SPECIAL_KEYS:
            await client.put_object(Bucket=stub_bucket.name, Key=key, Body=key.encode(), Metadata={"put-id": "1"})
            found = await client.get_object(Bucket=stub_bucket.name, Key=key)
            assert (await found["Body"].read(), found["Metadata"]) == (key.encode(), {"put-id": "1"})
        listed = await client.list_objects_v2(Bucket=stub_bucket.name)
        assert [item["Key"] for item in listed["Contents"]] == ordered
        listed = await client.list_objects(Bucket=stub_bucket.name)
        assert [item["Key"] for item in listed["Contents"]] == ordered
        for key in SPECIAL_KEYS:
            source = {"Bucket": stub_bucket.name, "Key": key}
            await client.copy_object(Bucket=stub_bucket.name, Key=f"copy/{key}", CopySource=source)
    found_keys = [item["path"] for item in await obstore.list(foreign_store(stub_bucket)).collect_async()]
    assert found_keys == sorted([*ordered, *(f"copy/{key}" for key in ordered)], key=str.encode)


async def test_control_characters_in_keys_are_listed(stub_bucket: Bucket) -> None:
    async with boto(stub_bucket) as client:
        await client.put_object(Bucket=stub_bucket.name, Key="a\x01\r\n\tb", Body=b"")
        listed = await client.list_objects_v2(Bucket=stub_bucket.name)
        assert [item["Key"] for item in listed["Contents"]] == ["a\x01\r\n\tb"]


async def test_listings_go_on_past_a_page(s3_stub: StubServer, stub_bucket: Bucket) -> None:
    store = foreign_store(stub_bucket)
    keys = [f"runs/{number:04d}/step.json" for number in range(2_345)]
    await map_bounded(lambda key: obstore.put_async(store, key, b"{}", use_multipart=False), keys, limit=32)
    s3_stub.reset()
    assert [item["path"] for item in await obstore.list(store, "runs").collect_async()] == keys
    assert s3_stub.requests == {"ListObjectsV2": 3}
    async with boto(stub_bucket) as client:
        assert await folders(client, "list_objects_v2", stub_bucket) == [f"runs/{n:04d}/" for n in range(2_345)]
        assert await folders(client, "list_objects", stub_bucket) == [f"runs/{n:04d}/" for n in range(2_345)]
        some = await client.list_objects_v2(Bucket=stub_bucket.name, StartAfter=keys[-3], MaxKeys=1)
        assert (some["Contents"][0]["Key"], some["IsTruncated"], some["KeyCount"]) == (keys[-2], True, 1)
    await obstore.delete_async(store, keys)
    assert await obstore.list(store).collect_async() == []


async def folders(client: Any, operation: str, bucket: Bucket) -> Sequence[str]:
    pages = client.get_paginator(operation).paginate(
        Bucket=bucket.name, Prefix="runs/", Delimiter="/", PaginationConfig={"PageSize": 100}
    )
    return [folder["Prefix"] async for page in pages for folder in page.get("CommonPrefixes", [])]


@hypothesis.given(st.lists(st.tuples(st.sampled_from("adl"), st.text(max_size=2))))
def test_keys_stay_sorted_whatever_happens(steps: list[tuple[str, str]]) -> None:
    bucket = BucketContent()
    for step, key in steps:
        if step == "a":
            bucket.put(key, StoredObject(Content(), '""'))
        elif step == "d":
            bucket.delete(key)
        else:
            assert list(bucket.sorted_keys()) == sorted(bucket.objects, key=str.encode)


async def test_multipart_uploads(stub_bucket: Bucket) -> None:
    where = {"Bucket": stub_bucket.name, "Key": "large é"}
    async with boto(stub_bucket) as client:
        upload = where | {"UploadId": (await client.create_multipart_upload(**where, Metadata={"a": "b"}))["UploadId"]}
        sent = [await client.upload_part(**upload, PartNumber=number, Body=PART) for number in (1, 2)]
        sent.append(await client.upload_part(**upload, PartNumber=7, Body=b"end"))
        parts = [{"PartNumber": n, "ETag": part["ETag"]} for n, part in zip((1, 2, 7), sent, strict=True)]
        for wrong, code in ((parts[::-1], "InvalidPartOrder"), ([{"PartNumber": 3, "ETag": "x"}], "InvalidPart")):
            with pytest.raises(ClientError, match=code):
                await client.complete_multipart_upload(**upload, MultipartUpload={"Parts": wrong})
        done = await client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        assert done["ETag"].endswith('-3"')
        found = await client.get_object(**where)
        assert (await found["Body"].read(), found["Metadata"]) == (PART + PART + b"end", {"a": "b"})
        with pytest.raises(ClientError, match="NoSuchUpload"):
            await client.abort_multipart_upload(**upload)
        again = where | {"UploadId": (await client.create_multipart_upload(**where))["UploadId"]}
        with pytest.raises(ClientError, match="InvalidPart"):
            await client.complete_multipart_upload(**again, MultipartUpload={"Parts": parts})
        await client.abort_multipart_upload(**again)
        assert "Uploads" not in await client.list_multipart_uploads(Bucket=stub_bucket.name)


async def test_blocking_boto3_moves_large_files(stub_bucket: Bucket, tmp_path: Path) -> None:
    def move() -> bytes:
        client = boto3.client("s3", endpoint_url=stub_bucket.server.endpoint_url, region_name="eu-west-1")
        (tmp_path / "up").write_bytes(PART * 3)
        client.upload_file(str(tmp_path / "up"), stub_bucket.name, "large")
        client.copy({"Bucket": stub_bucket.name, "Key": "large"}, stub_bucket.name, "copy")
        client.download_file(stub_bucket.name, "copy", str(tmp_path / "down"))
        client.close()
        return (tmp_path / "down").read_bytes()

    assert await asyncio.to_thread(move) == PART * 3


async def test_s5cmd_speaks_to_it(stub_bucket: Bucket, tmp_path: Path) -> None:
    s5cmd = shutil.which("s5cmd", path=str(Path(sys.executable).parent)) or shutil.which("s5cmd")
    if s5cmd is None:
        pytest.skip("s5cmd is not installed")
    (tmp_path / "a é").write_bytes(b"content")
    base = [s5cmd, "--endpoint-url", stub_bucket.server.endpoint_url, "--log", "error"]
    for arguments in (
        ["cp", str(tmp_path / "a é"), f"s3://{stub_bucket.name}/x/"],
        ["mv", f"s3://{stub_bucket.name}/x/*", f"s3://{stub_bucket.name}/y/"],
        ["cp", f"s3://{stub_bucket.name}/y/*", f"{tmp_path}/down/"],
        ["rm", f"s3://{stub_bucket.name}/*"],
    ):
        process = await asyncio.create_subprocess_exec(*base, *arguments)
        assert await process.wait() == 0
    assert (tmp_path / "down" / "a é").read_bytes() == b"content"
    assert await obstore.list(foreign_store(stub_bucket)).collect_async() == []
