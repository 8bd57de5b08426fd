"""What the settings say of every object written: storage class, key, tags and metadata, by each way of writing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest

from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import ConfigurationError, InvalidValueError, NotFoundError
from asyncstore.objects import s3
from asyncstore.objects._large import _copies
from asyncstore.objects._s3._requests import Request
from asyncstore.objects.base import ALONE, NEW
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.objects.small import Job, SmallPut

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from asyncstore.objects.small import SmallObjects
    from asyncstore.testing.servers import Bucket

MIB = 1024 * 1024
OPTIONS: dict[str, Any] = {
    "storage_class": "STANDARD_IA",
    "kms_key_arn": "arn:aws:kms:eu-west-1:1:key/k",
    "object_tags": {"team": "a b", "cost+center": "x=y/z@1"},
    "user_metadata": {"Owner": "me & you"},
}


@pytest.fixture(params=["moto", "stub"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    chosen: Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return chosen


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_copies, "COPY_PART_BYTES", 5 * MIB)
    monkeypatch.setattr(_copies, "COPY_LIMIT_BYTES", 11 * MIB)
    monkeypatch.setattr(s3, "COPY_LIMIT_BYTES", 11 * MIB)


def objects_of(bucket: Bucket, **options: Any) -> S3ObjectStore:
    return S3ObjectStore(bucket.name, AwsSettings(endpoint_url=bucket.server.endpoint_url, **options))


async def described(store: S3ObjectStore, key: str) -> tuple[Mapping[str, str], dict[str, str]]:
    copy = _copies.Copy("", key, "", str, str, {}, {}, ALONE)
    return (await store._requests.head(key)).headers, dict(parse_qsl(await copy._tags(store._requests)))


async def test_every_way_of_writing_says_them(bucket: Bucket, tmp_path: Path, small_parts: None) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(os.urandom(17 * MIB))
    small.write_bytes(b"1")

    def put(objects: SmallObjects) -> None:
        objects.run(iter([Job(SmallPut("together", b"1", {"k": "v"}), lambda _: None)]), lambda: 1)

    async with objects_of(bucket) as plain:
        await plain.put("from", b"1", metadata={"k": "v"})
        await plain.put_file("large from", large, metadata={"k": "v"})
    async with objects_of(bucket, **OPTIONS) as store:
        await store.put("put", b"1", metadata={"k": "v"})
        await store.put("new", b"1", metadata={"k": "v"}, condition=NEW)
        await store.put_file("small", small, metadata={"k": "v"})
        await store.put_file("large", large, metadata={"k": "v"})
        await store.together(put, writes=["together"])
        await store.copy("from", "copy")
        await store.copy("large from", "large copy", meta=await store.head("large from"))
        for key in ("put", "new", "small", "large", "together", "copy", "large copy"):
            headers, tags = await described(store, key)
            assert headers["x-amz-storage-class"] == "STANDARD_IA", key
            assert headers["x-amz-server-side-encryption"] == "aws:kms", key
            assert headers["x-amz-server-side-encryption-aws-kms-key-id"].endswith("key/k"), key
            assert tags == OPTIONS["object_tags"], key
            assert (headers["x-amz-meta-owner"], headers["x-amz-meta-k"]) == ("me & you", "v"), key


async def test_what_a_write_says_itself_goes_first(stub_bucket: Bucket) -> None:
    async with objects_of(stub_bucket, user_metadata={"K": "ours"}) as store:
        await store.put("a", b"1", metadata={"k": "v"})
        assert (await store.head("a")).metadata["k"] == "v"


@pytest.mark.parametrize("metadata", [{"k": "é"}, {"k": "a\nb"}, {"k": " a"}, {"k:": "v"}, {"": "v"}])
async def test_metadata_that_no_header_can_hold(stub_bucket: Bucket, tmp_path: Path, metadata: dict[str, str]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1")
    async with objects_of(stub_bucket) as store:
        with pytest.raises(InvalidValueError, match="printable ASCII"):
            await store.put_file("a", path, metadata=metadata)


# Copies.


async def put_with_everything(store: S3ObjectStore, key: str, data: bytes) -> None:
    headers = {
        "x-amz-meta-k": "v",
        "x-amz-tagging": "team=blue&x=%2B",
        "Content-Type": "text/csv",
        "Cache-Control": "no-store",
    }
    request = Request("PUT", key, "put", headers=headers, body=data)
    await store._run("put", key, lambda sender: sender.send(request))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size_bytes", [12 * MIB, 10 * MIB, 0])
async def test_a_copy_is_like_its_source(bucket: Bucket, small_parts: None, known: bool, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    async with objects_of(bucket) as store:
        await put_with_everything(store, "a é", data)
        meta = await store.head("a é") if known else None
        await store.copy("a é", "b", meta=meta)
        headers, tags = await described(store, "b")
        assert (headers["content-type"], headers["cache-control"]) == ("text/csv", "no-store")
        assert (headers["x-amz-meta-k"], tags) == ("v", {"team": "blue", "x": "+"})
        assert (await store.get("b"))[1] == data
        assert ("-" in headers["etag"]) == (known and size_bytes == 12 * MIB)
        assert await store.list_uploads("") == []


async def test_a_source_that_is_gone(bucket: Bucket, small_parts: None) -> None:
    async with objects_of(bucket, **OPTIONS) as store:
        await store.put("a", bytes(12 * MIB))
        meta = await store.head("a")
        await store.delete(["a"])
        for known in (meta, None):
            with pytest.raises(NotFoundError):
                await store.copy("a", "b", meta=known)
        assert await store.list_uploads("") == []


# Settings.


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"object_tags": {str(number): "" for number in range(11)}}, "10 tags, not 11"),
        ({"object_tags": {"": "x"}}, "1 to 128"),
        ({"object_tags": {"x" * 129: ""}}, "1 to 128"),
        ({"object_tags": {"aws:x": ""}}, "1 to 128"),
        ({"object_tags": {"é": ""}}, "1 to 128"),
        ({"object_tags": {"x": "a&b"}}, "the value of tag 'x'"),
        ({"object_tags": {"x": "y" * 257}}, "the value of tag 'x'"),
        ({"user_metadata": {"a b": ""}}, "the metadata name 'a b'"),
        ({"user_metadata": {"asyncstore-put-id": ""}}, "must not begin with 'asyncstore'"),
        ({"user_metadata": {"SHA256": ""}}, "'sha256' is taken"),
        ({"user_metadata": {"Storage-Class": "GLACIER"}}, "'storage-class' is taken"),
        ({"storage_class": "X\r\ny: z"}, "printable ASCII"),
        ({"user_metadata": {"a": "é"}}, "printable ASCII"),
        ({"user_metadata": {"a": "x "}}, "printable ASCII"),
        ({"user_metadata": {"a": "", "A": ""}}, "upper and lower case"),
        ({"user_metadata": {"a": "x" * 2000}}, "2001 bytes of metadata are more than 1792"),
    ],
)
def test_what_s3_does_not_take_is_told_at_once(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        AwsSettings.parse(options, "store 's3'")


def test_what_s3_takes() -> None:
    tags = {f"{number}" * 128: "A z+-=._:/@" for number in range(10)}
    assert AwsSettings.parse({"object_tags": tags}, "").object_tags == tags
    assert AwsSettings.parse({"user_metadata": {"A-b": "x" * 1789}}, "").user_metadata == {"a-b": "x" * 1789}
