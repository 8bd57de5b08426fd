"""What the S3 stub keeps beside bytes: tags, encryption, storage classes, and the markers of folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aioboto3
import pytest
from botocore.exceptions import ClientError

from asyncstore.testing.s3_stub import S3Stub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BUCKET = "bucket"
WHERE = {"Bucket": BUCKET, "Key": "key"}
SOURCE = {"Bucket": BUCKET, "Key": "key"}
KMS = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"}


@pytest.fixture
async def stub() -> AsyncIterator[S3Stub]:
    async with S3Stub() as stub:
        stub.make_bucket(BUCKET)
        yield stub


@pytest.fixture
async def client(stub: S3Stub) -> AsyncIterator[Any]:
    async with aioboto3.Session().client("s3", endpoint_url=stub.url, region_name="eu-west-1") as client:
        yield client


async def tags(client: Any, key: str = "key") -> dict[str, str]:
    listed = await client.get_object_tagging(Bucket=BUCKET, Key=key)
    return {tag["Key"]: tag["Value"] for tag in listed["TagSet"]}


async def multipart(client: Any, **options: Any) -> dict[str, Any]:
    upload = WHERE | {"UploadId": (await client.create_multipart_upload(**WHERE, **options))["UploadId"]}
    sent = await client.upload_part(**upload, PartNumber=1, Body=b"x")
    part = {"PartNumber": 1, "ETag": sent["ETag"]}
    done: dict[str, Any] = await client.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]})
    return done


async def test_tags_are_kept_counted_and_replaced(client: Any) -> None:
    await client.put_object(**WHERE, Body=b"x", Tagging="team=a%20b&empty=")
    assert await tags(client) == {"team": "a b", "empty": ""}
    assert (await client.get_object(**WHERE))["TagCount"] == 2
    assert (await client.head_object(**WHERE))["ResponseMetadata"]["HTTPHeaders"]["x-amz-tagging-count"] == "2"
    await client.put_object_tagging(**WHERE, Tagging={"TagSet": [{"Key": "é", "Value": "1"}]})
    assert await tags(client) == {"é": "1"}
    await client.delete_object_tagging(**WHERE)
    assert await tags(client) == {}
    assert "TagCount" not in await client.get_object(**WHERE)
    with pytest.raises(ClientError, match="NoSuchKey"):
        await tags(client, "other")


async def test_tags_of_multipart_uploads_and_copies(client: Any) -> None:
    await multipart(client, Tagging="team=a")
    await client.copy_object(Bucket=BUCKET, Key="kept", CopySource=SOURCE, Tagging="team=b")
    await client.copy_object(
        Bucket=BUCKET, Key="replaced", CopySource=SOURCE, Tagging="team=b", TaggingDirective="REPLACE"
    )
    await client.put_object_tagging(**WHERE, Tagging={"TagSet": []})
    assert [await tags(client, key) for key in ("key", "kept", "replaced")] == [{}, {"team": "a"}, {"team": "b"}]


@pytest.mark.parametrize("wrong", ["a=1&a=2", "a=%00", "&".join(f"k{n}=" for n in range(11)), f"{'k' * 129}=1"])
async def test_tags_that_s3_does_not_take(client: Any, wrong: str) -> None:
    with pytest.raises(ClientError, match=r"InvalidTag|BadRequest"):
        await client.put_object(**WHERE, Body=b"x", Tagging=wrong)


async def test_encryption_is_told_and_not_copied(client: Any) -> None:
    for written in (await client.put_object(**WHERE, Body=b"x", **KMS), await multipart(client, **KMS)):
        assert {name: written[name] for name in KMS} == KMS
        found = await client.get_object(**WHERE)
        assert {name: found[name] for name in KMS} == KMS
    await client.copy_object(Bucket=BUCKET, Key="plain", CopySource=SOURCE)
    assert not KMS.keys() & await client.head_object(Bucket=BUCKET, Key="plain")
    copied = await client.copy_object(Bucket=BUCKET, Key="copy", CopySource=SOURCE, **KMS)
    assert {name: copied[name] for name in KMS} == KMS


async def test_an_encrypted_etag_is_not_a_hash(client: Any) -> None:
    etags = [(await client.put_object(**WHERE, Body=b"x", **KMS))["ETag"] for _ in range(2)]
    assert etags[0] != etags[1]


async def test_storage_classes_are_listed(client: Any) -> None:
    await client.put_object(**WHERE, Body=b"x", StorageClass="STANDARD_IA")
    await client.copy_object(Bucket=BUCKET, Key="copy", CopySource=SOURCE)
    listed = (await client.list_objects_v2(Bucket=BUCKET))["Contents"]
    assert {item["Key"]: item["StorageClass"] for item in listed} == {"copy": "STANDARD", "key": "STANDARD_IA"}
    assert (await client.head_object(**WHERE))["StorageClass"] == "STANDARD_IA"
    assert "StorageClass" not in await client.head_object(Bucket=BUCKET, Key="copy")


@pytest.mark.parametrize("wanted", ["key-1", "*"])
async def test_a_key_of_kms_can_be_demanded(stub: S3Stub, client: Any, wanted: str) -> None:
    await client.put_object(**WHERE, Body=b"x")
    stub.behaviour.demanded_kms_key = wanted
    others: list[dict[str, str]] = [{}, {"ServerSideEncryption": "AES256"}]
    if wanted != "*":
        others.append(KMS | {"SSEKMSKeyId": "key-2"})
    for options in others:
        for call in (
            client.put_object(**WHERE, Body=b"y", **options),
            client.create_multipart_upload(**WHERE, **options),
            client.copy_object(Bucket=BUCKET, Key="copy", CopySource=SOURCE, **options),
        ):
            with pytest.raises(ClientError, match="AccessDenied"):
                await call
    await client.put_object(**WHERE, Body=b"z", **KMS)
    await multipart(client, **KMS)
    await client.copy_object(Bucket=BUCKET, Key="copy", CopySource=SOURCE, **KMS)


async def test_a_tag_can_be_demanded(stub: S3Stub, client: Any) -> None:
    stub.behaviour.demanded_tag = "team=a"
    for options in ({}, {"Tagging": "team=b"}, {"Tagging": "other=a"}):
        with pytest.raises(ClientError, match="AccessDenied"):
            await client.put_object(**WHERE, Body=b"y", **options)
    await client.put_object(**WHERE, Body=b"z", Tagging="x=1&team=a")
    stub.behaviour.demanded_tag = "team"
    await multipart(client, Tagging="team=b")


async def test_markers_of_folders_are_objects(client: Any) -> None:
    for key in ("a/", "a/1", "a/b/", "a/b/2", "c/"):
        await client.put_object(Bucket=BUCKET, Key=key, Body=b"" if key.endswith("/") else b"x")
    await client.head_object(Bucket=BUCKET, Key="a/")
    with pytest.raises(ClientError, match="404"):
        await client.head_object(Bucket=BUCKET, Key="a")
    for operation in ("list_objects_v2", "list_objects"):
        for size in (1, 2, 10):
            for prefix, keys, folders in (
                ("", [], ["a/", "c/"]),
                ("a/", ["a/", "a/1"], ["a/b/"]),
                ("a/b/", ["a/b/", "a/b/2"], []),
                ("a", [], ["a/"]),
            ):
                pages = [
                    page
                    async for page in client.get_paginator(operation).paginate(
                        Bucket=BUCKET, Prefix=prefix, Delimiter="/", PaginationConfig={"PageSize": size}
                    )
                ]
                assert [item["Key"] for page in pages for item in page.get("Contents", [])] == keys
                assert [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])] == folders
