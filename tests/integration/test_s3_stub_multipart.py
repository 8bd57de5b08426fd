"""Multipart uploads of the S3 stub: pages, checksums, conditions, copies, and sizes that would not fit in memory."""

from __future__ import annotations

import base64
import os
import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aioboto3
import hypothesis
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import strategies as st

from asyncstore.testing.s3_stub import CHEAP, S3Stub
from asyncstore.testing.s3_stub._content import Content
from asyncstore.testing.s3_stub._memory import allocate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BUCKET = "bucket"
WHERE = {"Bucket": BUCKET, "Key": "large"}
LEAST = 5 * 1024 * 1024
GIB = 1024**3


def crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


@pytest.fixture
async def stub() -> AsyncIterator[S3Stub]:
    async with S3Stub() as stub:
        stub.make_bucket(BUCKET)
        yield stub


@asynccontextmanager
async def boto(stub: S3Stub) -> AsyncIterator[Any]:
    """A client that adds no checksums by itself."""
    config = Config(
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"total_max_attempts": 1},
    )
    async with aioboto3.Session().client("s3", endpoint_url=stub.url, region_name="eu-west-1", config=config) as client:
        yield client


@pytest.fixture
async def client(stub: S3Stub) -> AsyncIterator[Any]:
    async with boto(stub) as client:
        yield client


async def begun(client: Any, **options: Any) -> dict[str, Any]:
    return WHERE | {"UploadId": (await client.create_multipart_upload(**WHERE, **options))["UploadId"]}


async def uploaded(client: Any, upload: dict[str, Any], *bodies: bytes, **options: Any) -> list[dict[str, Any]]:
    parts = []
    for number, body in enumerate(bodies, 1):
        sums = {"ChecksumCRC32": crc32(body)} if options.get("checksums") else {}
        sent = await client.upload_part(**upload, PartNumber=number, Body=body, **sums)
        parts.append({"PartNumber": number, "ETag": sent["ETag"]} | sums)
    return parts


async def test_parts_are_listed_in_pages(client: Any) -> None:
    upload = await begun(client, StorageClass="STANDARD_IA", ChecksumAlgorithm="CRC32")
    bodies = [bytes([number]) * number for number in range(1, 8)]
    await uploaded(client, upload, *bodies, checksums=True)
    first = await client.list_parts(**upload, MaxParts=3)
    assert (first["IsTruncated"], first["NextPartNumberMarker"], first["MaxParts"]) == (True, 3, 3)
    assert (first["StorageClass"], first["ChecksumAlgorithm"]) == ("STANDARD_IA", "CRC32")
    rest = await client.list_parts(**upload, MaxParts=5, PartNumberMarker=first["NextPartNumberMarker"])
    assert not rest["IsTruncated"]
    told = [*first["Parts"], *rest["Parts"]]
    assert [(part["PartNumber"], part["Size"], part["ChecksumCRC32"]) for part in told] == [
        (number, number, crc32(body)) for number, body in enumerate(bodies, 1)
    ]
    assert all(part["ETag"] and part["LastModified"] for part in told)
    pages = client.get_paginator("list_parts").paginate(**upload, PaginationConfig={"PageSize": 2})
    assert [part["PartNumber"] async for page in pages for part in page["Parts"]] == [1, 2, 3, 4, 5, 6, 7]


async def test_a_thousand_parts_are_a_page(stub: S3Stub, client: Any) -> None:
    upload = await begun(client)
    await uploaded(client, upload, b"x")
    parts = stub.storage.bucket(BUCKET).uploads[upload["UploadId"]].parts
    parts |= dict.fromkeys(range(2, 2_002), parts[1])
    pages = client.get_paginator("list_parts").paginate(**upload)
    assert [len(page["Parts"]) async for page in pages] == [1000, 1000, 1]


async def test_uploads_are_listed_in_pages(stub: S3Stub, client: Any) -> None:
    keys = ["a/1", "a/1", "a/1", "a/2", "a/é", "b"]
    for key in keys:
        await client.create_multipart_upload(Bucket=BUCKET, Key=key)
    for size in (1, 2, 3, 10):
        pages = client.get_paginator("list_multipart_uploads").paginate(
            Bucket=BUCKET, Prefix="a/", PaginationConfig={"PageSize": size}
        )
        found = [(one["Key"], one["UploadId"]) async for page in pages for one in page.get("Uploads", [])]
        begun_in_order = [(one.key, upload_id) for upload_id, one in stub.storage.bucket(BUCKET).uploads.items()]
        assert found == [one for one in begun_in_order if one[0] != "b"]
    [last] = (await client.list_multipart_uploads(Bucket=BUCKET, KeyMarker="a/é"))["Uploads"]
    assert (last["Key"], last["StorageClass"]) == ("b", "STANDARD")
    assert last["Initiated"]
    assert "Uploads" not in await client.list_multipart_uploads(Bucket=BUCKET, KeyMarker="b")


async def test_checksums_of_parts_make_that_of_the_object(client: Any) -> None:
    upload = await begun(client, ChecksumAlgorithm="CRC32")
    bodies = [os.urandom(LEAST), b"end"]
    parts = await uploaded(client, upload, *bodies, checksums=True)
    done = await client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    sums = b"".join(base64.b64decode(crc32(body)) for body in bodies)
    assert (done["ChecksumCRC32"], done["ChecksumType"]) == (f"{crc32(sums)}-2", "COMPOSITE")
    assert "ChecksumCRC32" not in await client.head_object(**WHERE)
    assert (await client.head_object(**WHERE, ChecksumMode="ENABLED"))["ChecksumCRC32"] == done["ChecksumCRC32"]


async def test_checksums_that_do_not_fit(client: Any) -> None:
    with_sums, without = await begun(client, ChecksumAlgorithm="CRC32"), await begun(client)
    for upload, options, message in (
        (with_sums, {}, "expected checksum Type: crc32, actual checksum Type: null"),
        (without, {"ChecksumCRC32": crc32(b"x")}, "expected checksum Type: null, actual checksum Type: crc32"),
        (with_sums, {"ChecksumCRC32": crc32(b"y")}, "BadDigest"),
    ):
        with pytest.raises(ClientError, match=message):
            await client.upload_part(**upload, PartNumber=1, Body=b"x", **options)
    [part] = await uploaded(client, with_sums, b"x", checksums=True)
    for wrong, message in (
        ({"PartNumber": 1, "ETag": part["ETag"]}, "It was missing for part 1"),
        (part | {"ChecksumCRC32": crc32(b"y")}, "InvalidPart"),
    ):
        with pytest.raises(ClientError, match=message):
            await client.complete_multipart_upload(**with_sums, MultipartUpload={"Parts": [wrong]})
    with pytest.raises(ClientError, match="NotImplemented"):
        await begun(client, ChecksumAlgorithm="SHA256")


async def test_checksums_can_be_ignored(stub: S3Stub, client: Any) -> None:
    stub.behaviour.checksums = "ignored"
    upload = await begun(client, ChecksumAlgorithm="CRC32")
    sent = await client.upload_part(**upload, PartNumber=1, Body=b"x", ChecksumCRC32=crc32(b"y"))
    assert "ChecksumCRC32" not in sent
    named = {"Parts": [{"PartNumber": 1, "ETag": sent["ETag"]}]}
    await client.complete_multipart_upload(**upload, MultipartUpload=named)


@pytest.mark.parametrize("begun_with", [{}, {"ChecksumAlgorithm": "CRC32"}])
async def test_ignored_checksums_are_also_ignored_where_a_completion_names_them(
    stub: S3Stub, client: Any, begun_with: dict[str, str]
) -> None:
    for name, value in CHEAP.items():
        setattr(stub.behaviour, name, value)
    bodies = [bytes(LEAST), b"end"]
    upload = await begun(client, **begun_with)
    parts = await uploaded(client, upload, *bodies, checksums=True)
    parts[1]["ChecksumCRC32"] = crc32(b"other")
    done = await client.complete_multipart_upload(
        **upload, MultipartUpload={"Parts": parts}, ChecksumCRC32=crc32(b"whole"), ChecksumType="FULL_OBJECT"
    )
    assert "ChecksumCRC32" not in done
    assert "ChecksumCRC32" not in await client.head_object(**WHERE, ChecksumMode="ENABLED")
    found = await client.get_object(**WHERE)
    assert await found["Body"].read() == b"".join(bodies)


async def test_checksums_come_to_be_ignored_during_an_upload(stub: S3Stub, client: Any) -> None:
    upload = await begun(client, ChecksumAlgorithm="CRC32")
    parts = await uploaded(client, upload, bytes(LEAST), checksums=True)
    stub.behaviour.checksums = "ignored"
    sent = await client.upload_part(**upload, PartNumber=2, Body=b"end")
    parts.append({"PartNumber": 2, "ETag": sent["ETag"]})
    done = await client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert "ChecksumCRC32" not in done
    assert (await client.head_object(**WHERE))["ContentLength"] == LEAST + 3


async def test_completion_heeds_conditions_and_size(client: Any) -> None:
    etag = (await client.put_object(**WHERE, Body=b"there"))["ETag"]
    upload = await begun(client)
    named = {"Parts": await uploaded(client, upload, b"part")}
    for options, code in (
        ({"IfNoneMatch": "*"}, "PreconditionFailed"),
        ({"IfMatch": '"other"'}, "PreconditionFailed"),
        ({"MpuObjectSize": 5}, "InvalidRequest"),
    ):
        with pytest.raises(ClientError, match=code):
            await client.complete_multipart_upload(**upload, MultipartUpload=named, **options)
    await client.complete_multipart_upload(**upload, MultipartUpload=named, IfMatch=etag, MpuObjectSize=4)
    assert (await client.head_object(**WHERE))["ContentLength"] == 4


async def test_parts_are_copied_from_ranges(client: Any) -> None:
    content = os.urandom(2 * LEAST)
    etag = (await client.put_object(Bucket=BUCKET, Key="source", Body=content))["ETag"]
    upload = await begun(client)
    copy = upload | {"CopySource": {"Bucket": BUCKET, "Key": "source"}, "CopySourceIfMatch": etag}
    parts = []
    for number, span in ((1, "bytes=1-5242880"), (2, "bytes=0-2")):
        done = await client.upload_part_copy(**copy, PartNumber=number, CopySourceRange=span)
        parts.append({"PartNumber": number, "ETag": done["CopyPartResult"]["ETag"]})
    for options, code in (
        ({"CopySourceIfMatch": '"other"'}, "PreconditionFailed"),
        ({"CopySourceRange": f"bytes=0-{len(content)}"}, "InvalidArgument"),
        ({"CopySourceRange": "bytes=5-"}, "InvalidArgument"),
    ):
        with pytest.raises(ClientError, match=code):
            await client.upload_part_copy(**(copy | options), PartNumber=3)
    await client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    found = await client.get_object(**WHERE)
    assert await found["Body"].read() == content[1:5242881] + content[:3]


async def test_sizes_beyond_memory(stub: S3Stub, client: Any) -> None:
    for name, value in CHEAP.items():
        setattr(stub.behaviour, name, value)
    stub.behaviour.discards = True
    await client.put_object(Bucket=BUCKET, Key="part", Body=bytes(LEAST), Metadata={"a": "b"})
    # As if it had been sent, which would take its time.
    bucket = stub.storage.bucket(BUCKET)
    bucket.get("part").content = Content.zeros(3 * GIB)
    upload = await begun(client, Metadata={"a": "b"})
    source = {"Bucket": BUCKET, "Key": "part"}
    parts = [
        {
            "PartNumber": number,
            "ETag": (await client.upload_part_copy(**upload, PartNumber=number, CopySource=source))["CopyPartResult"][
                "ETag"
            ],
        }
        for number in (1, 2, 3, 4)
    ]
    sent = await client.upload_part(**upload, PartNumber=5, Body=b"end")
    parts.append({"PartNumber": 5, "ETag": sent["ETag"]})
    done = await client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    head = await client.head_object(**WHERE)
    assert (head["ContentLength"], head["ETag"], head["Metadata"]) == (12 * GIB + 3, done["ETag"], {"a": "b"})
    found = await client.get_object(**WHERE, Range=f"bytes={9 * GIB}-{9 * GIB + 99}", IfMatch=done["ETag"])
    assert await found["Body"].read() == bytes(100)
    assert found["ContentRange"] == f"bytes {9 * GIB}-{9 * GIB + 99}/{12 * GIB + 3}"
    [listed] = (await client.list_objects_v2(Bucket=BUCKET, Prefix="large"))["Contents"]
    assert listed["Size"] == 12 * GIB + 3
    with pytest.raises(ClientError, match="InvalidRequest"):
        await client.copy_object(Bucket=BUCKET, Key="copy", CopySource=WHERE)
    with pytest.raises(ClientError, match="InvalidRequest"):
        await client.upload_part_copy(**(await begun(client)), PartNumber=1, CopySource=WHERE)


@pytest.mark.parametrize("etags", ["content", "random"])
async def test_what_is_discarded_is_still_checked(stub: S3Stub, client: Any, etags: Any) -> None:
    stub.behaviour.discards, stub.behaviour.etags = True, etags
    body = os.urandom(300_000)
    kept = await client.put_object(**WHERE, Body=body, ChecksumCRC32=crc32(body))
    assert kept["ChecksumCRC32"] == crc32(body)
    for wrong in ({"ChecksumCRC32": crc32(bytes(300_000))}, {"ContentMD5": "AAAAAAAAAAAAAAAAAAAAAA=="}):
        with pytest.raises(ClientError, match="BadDigest"):
            await client.put_object(**WHERE, Body=body, **wrong)
    found = await client.get_object(**WHERE)
    assert (found["ETag"], await found["Body"].read()) == (kept["ETag"], bytes(300_000))


def test_memory_is_used_again_when_nobody_looks_at_it() -> None:
    size = 3 * 1024 * 1024 + 1
    held = [allocate(size) for _ in range(4)]
    for number, view in enumerate(held):
        view[:] = bytes([number]) * size
    assert [view[0] for view in held] == [0, 1, 2, 3]
    part = Content.of(held.pop(2)).cut(5, size)
    again = [allocate(size) for _ in range(4)]
    for view in again:
        view[:] = b"x" * size
    assert [view[0] for view in held] == [0, 1, 3]
    assert bytes(part) == bytes([2]) * (size - 5)


@hypothesis.given(st.lists(st.one_of(st.binary(max_size=5), st.integers(0, 5)), max_size=6), st.data())
def test_pieces_read_as_one(pieces: list[bytes | int], data: st.DataObject) -> None:
    contents = [Content.of(piece) if isinstance(piece, bytes) else Content.zeros(piece) for piece in pieces]
    plain = b"".join(piece if isinstance(piece, bytes) else bytes(piece) for piece in pieces)
    joined = Content.joined(contents)
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(plain)), st.integers(0, len(plain)))))
    limit = data.draw(st.integers(1, 7))
    cut = joined.cut(start, end)
    assert (joined.size_bytes, bytes(joined)) == (len(plain), plain)
    assert (cut.size_bytes, b"".join(cut.blocks(limit))) == (end - start, plain[start:end])
    assert max(map(len, cut.blocks(limit)), default=0) <= limit
    assert joined.crc32() == zlib.crc32(plain)
    if plain:
        at = data.draw(st.integers(0, len(plain) - 1))
        assert [n for n, byte in enumerate(bytes(joined.turned(at))) if byte != plain[n]] == [at]
