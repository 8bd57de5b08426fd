"""Uploads cut off at the worst moments: nothing is left open, nothing is told wrongly."""

from __future__ import annotations

import asyncio
import os
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import stamina

from asyncstore.aws.credentials import CredentialProvider, Credentials
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import (
    AccessDeniedError,
    AsyncStoreError,
    ConflictError,
    IntegrityError,
    OutcomeUnknownError,
    UnavailableError,
)
from asyncstore.objects.base import Transfer
from asyncstore.objects.bodies import PathBody
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.testing.proxy import lossy_proxy
from asyncstore.testing.s3_stub import Behaviour, Fault, S3Stub
from asyncstore.testing.s3_stub._messages import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncstore.testing.s3_stub._messages import Request
    from asyncstore.testing.s3_stub._storage import BucketContent
    from asyncstore.testing.servers import Bucket
    from tests._watched import WatchedStub

MIB = 1024 * 1024
SIZE = 24 * MIB + 7
PARTS = 4


@pytest.fixture(autouse=True)
def no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=6, cap=True):
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    return path


def objects_of(bucket: Bucket, **options: Any) -> S3ObjectStore:
    return S3ObjectStore(bucket.name, AwsSettings(endpoint_url=bucket.server.endpoint_url), **options)


async def contents_of(path: Path) -> bytes:
    return await asyncio.to_thread(path.read_bytes)


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
@pytest.mark.parametrize("latency_s", [0.0, 0.05])
async def test_cancelled(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, file: Path, operation: str, latency_s: float
) -> None:
    async with objects_of(bucket) as store:
        await store.capabilities()
        stub.behaviour.latency_s = latency_s
        upload = asyncio.create_task(store.put_file("large", file))
        await stub.asked(operation)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
    assert content.uploads == {}
    # The completion may have been on its way already; half an object there never is.
    assert "large" not in content.objects or content.objects["large"].body == await contents_of(file)
    assert operation == "CompleteMultipartUpload" or "large" not in content.objects


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
@pytest.mark.parametrize("fault", ["internal_error", "slow_down", "lose_request", "lose_answer", "error_after"])
async def test_troubles_that_pass(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, file: Path, operation: str, fault: Any
) -> None:
    stub.faults = [Fault(fault, operation=operation, times=2)]
    async with objects_of(bucket) as store:
        etag = await store.put_file("large", file)
        assert (await store.head("large")).etag == etag
    assert content.objects["large"].body == await contents_of(file)
    acted = fault in {"lose_answer", "error_after"}
    # An upload whose id was lost on its way is nobody's, and is found by listing.
    assert len(content.uploads) == (2 if acted and operation == "CreateMultipartUpload" else 0)


async def test_each_part_is_retried_alone(stub: WatchedStub, bucket: Bucket, file: Path) -> None:
    stub.faults = [Fault("internal_error", operation="UploadPart", nth=3)]
    advanced: list[int] = []
    async with objects_of(bucket) as store:
        await store.put_file("large", file, transfer=Transfer(advanced=advanced.append))
    assert stub.requests["UploadPart"] == PARTS + 1
    assert sum(advanced) == SIZE


async def test_troubles_that_stay_end_in_an_abort(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, file: Path
) -> None:
    stub.faults = [Fault("internal_error", operation="UploadPart", nth=number) for number in range(3, 100)]
    async with objects_of(bucket) as store:
        with pytest.raises(UnavailableError, match=r"put part \d of s3://"):
            await store.put_file("large", file)
    assert (content.uploads, dict(content.objects)) == ({}, {})


async def test_an_abort_waits_for_parts_on_their_way(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, file: Path
) -> None:
    parts_at_abort: list[int] = []

    def answer(request: Request) -> Answer | None:
        if request.operation == "AbortMultipartUpload":
            parts_at_abort.append(stub.answering["UploadPart"])
        if request.operation == "UploadPart" and request.query["partNumber"] == "2":
            return Answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        return None

    async with objects_of(bucket) as store:
        await store.capabilities()
        stub.behaviour.latency_s = 0.1
        stub.answer = answer
        with pytest.raises(AccessDeniedError):
            await store.put_file("large", file)
    assert parts_at_abort == [0]
    assert content.uploads == {}


async def test_an_abort_that_fails_does_not_hide_why(stub: WatchedStub, bucket: Bucket, file: Path) -> None:
    stub.behaviour.denied_operations = ["AbortMultipartUpload"]
    stub.faults = [Fault("internal_error", operation="UploadPart")]
    async with objects_of(bucket) as store:
        with pytest.raises(UnavailableError, match="put part") as caught:
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
        S3ObjectStore(rclone_bucket.name, AwsSettings(endpoint_url=proxy.url)) as store,
    ):
        await store.put_file("large", file)
    async with objects_of(rclone_bucket) as store:
        _, data = await store.get("large")
    assert data == await contents_of(file)


@pytest.mark.parametrize("meanwhile", ["denied", "replaced", "deleted"])
async def test_a_completion_that_cannot_be_told_is_unknown(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, file: Path, meanwhile: str
) -> None:
    def interfere(request: Request) -> None:
        if request.operation != "CompleteMultipartUpload" or stub.requests["CompleteMultipartUpload"] > 1:
            return
        if meanwhile == "denied":
            stub.behaviour.denied_operations = ["HeadObject"]
        elif meanwhile == "deleted":
            content.delete("large")
        else:
            content.objects["large"].headers.clear()

    stub.after = interfere
    stub.faults = [Fault("lose_answer", operation="CompleteMultipartUpload", nth=1)]
    async with objects_of(bucket) as store:
        with pytest.raises(OutcomeUnknownError, match="may have landed") as caught:
            await store.put_file("large", file)
    assert caught.value.key == "large"
    assert stub.requests["AbortMultipartUpload"] == 0


async def test_an_error_with_the_status_of_success_is_one(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, file: Path
) -> None:
    failed: list[Request] = []

    def answer(request: Request) -> Answer | None:
        if request.operation == "CompleteMultipartUpload" and not failed:
            failed.append(request)
            return Answer(200, b'\n\n<?xml version="1.0"?>\n<Error><Code>InternalError</Code></Error>')
        return None

    stub.answer = answer
    async with objects_of(bucket) as store:
        await store.put_file("large", file)
    assert content.objects["large"].body == await contents_of(file)
    assert stub.requests["CompleteMultipartUpload"] == 1
    assert len(stub.requests_for("CompleteMultipartUpload")) == 2


async def test_an_upload_that_somebody_else_ends(stub: WatchedStub, bucket: Bucket, file: Path) -> None:
    stub.after = lambda request: (
        stub.storage.bucket(bucket.name).uploads.clear() if request.operation == "UploadPart" else None
    )
    async with objects_of(bucket) as store:
        with pytest.raises(ConflictError, match="somebody else has ended the upload"):
            await store.put_file("large", file)


class Rotating(CredentialProvider):
    """Gives the keys of the moment, which a test changes."""

    now = "old"

    async def get(self) -> Credentials:
        self._current = Credentials(self.now, "secret")
        return self._current


async def test_keys_are_those_of_the_moment(stub: WatchedStub, bucket: Bucket, file: Path) -> None:
    provider = Rotating(AwsSettings())

    def expire(request: Request) -> None:
        if request.operation == "UploadPart" and request.access_key == "old":
            provider.now = "new"

    stub.after = expire
    async with objects_of(bucket, credentials=provider) as store:
        await store.put_file("large", file, transfer=Transfer(limit=1))
    users = [request.access_key for request in stub.requests_for("UploadPart")]
    assert users == ["old"] + ["new"] * (PARTS - 1)


async def test_keys_that_expire_and_are_not_renewed(stub: WatchedStub, bucket: Bucket, file: Path) -> None:
    def expire(request: Request) -> None:
        if request.operation == "UploadPart":
            stub.behaviour = Behaviour(denied=["old"])

    stub.after = expire
    async with objects_of(bucket, credentials=Rotating(AwsSettings())) as store:
        with pytest.raises(AccessDeniedError) as caught:
            await store.put_file("large", file)
    assert "could not be aborted" in caught.value.__notes__[0]


@dataclass(frozen=True, slots=True)
class Unsteady(PathBody):
    """A file that changes when its last byte has been read, or the last one of a part."""

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        for block in PathBody.blocks(self, start, end):
            yield block
            start += len(block)
            if start == end:
                os.utime(self.path, ns=(1, 1))


@pytest.mark.parametrize("size_bytes", [0, 1, MIB, 3 * MIB + 1, SIZE])
@pytest.mark.parametrize("checksums", ["checked", "ignored"])
async def test_a_file_that_changes_is_not_stored(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, tmp_path: Path, size_bytes: int, checksums: Any
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size_bytes))
    stub.behaviour.checksums = checksums
    body = await asyncio.to_thread(Unsteady.of, path)
    if size_bytes == 0:
        os.utime(path, ns=(1, 1))
    async with objects_of(bucket) as store:
        with pytest.raises(IntegrityError, match="changed while it was read"):
            await store.put_file("file", body)
    assert (content.uploads, dict(content.objects)) == ({}, {})


@dataclass(frozen=True, slots=True)
class Lying(PathBody):
    """A file that has more or fewer bytes than it says."""

    off: int = 0

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        yield memoryview(bytes(end - start + self.off))


@pytest.mark.parametrize("size_bytes", [100, SIZE])
@pytest.mark.parametrize(("off", "told"), [(-1, "less to send"), (1, "more to send")])
async def test_a_file_of_another_size_is_not_stored(
    bucket: Bucket, content: BucketContent, tmp_path: Path, size_bytes: int, off: int, told: str
) -> None:
    async with objects_of(bucket) as store:
        with pytest.raises(IntegrityError, match=told):
            await store.put_file("file", Lying(tmp_path, size_bytes, (), off=off))
    assert (content.uploads, dict(content.objects)) == ({}, {})


class Flipping(PathBody):
    """A file that is read otherwise the second time, and does not notice."""

    reads = 0

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        Flipping.reads += 1
        yield memoryview(bytes([Flipping.reads]) * (end - start))


@pytest.mark.parametrize("size_bytes", [100, SIZE])
async def test_bytes_that_differ_from_their_checksum_are_not_stored(
    bucket: Bucket, content: BucketContent, tmp_path: Path, size_bytes: int
) -> None:
    async with objects_of(bucket) as store:
        with pytest.raises(IntegrityError):
            await store.put_file("file", Flipping(tmp_path, size_bytes, ()))
    assert (content.uploads, dict(content.objects)) == ({}, {})


@dataclass(frozen=True, slots=True)
class Remembered(PathBody):
    """A file whose contents are known as they once were, and that notes what is read of it, and how."""

    contents: bytes = b""
    reads: list[tuple[str, int]] = field(default_factory=list)

    def crc32(self, start: int, end: int) -> int:
        return zlib.crc32(self.contents[start:end])

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        self.reads.append(("checked", start))
        for block in PathBody.blocks(self, start, end):
            if block != self.contents[start : start + len(block)]:
                raise IntegrityError("it changed while it was read")
            start += len(block)
            yield block

    def unchecked_blocks(self, start: int, end: int) -> Iterator[memoryview]:
        self.reads.append(("unchecked", start))
        return PathBody.blocks(self, start, end)


def remembered(path: Path, contents: bytes) -> Remembered:
    seen = PathBody.of(path)
    return Remembered(seen.path, seen.size_bytes, seen.identity, contents=contents)


@pytest.mark.parametrize("size_bytes", [0, 100, SIZE])
@pytest.mark.parametrize("checksums", [True, False])
async def test_a_file_whose_checksums_are_known_is_read_once(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, file: Path, size_bytes: int, checksums: bool
) -> None:
    stub.behaviour.checksums = "checked" if checksums else "ignored"
    os.truncate(file, size_bytes)
    body = await asyncio.to_thread(remembered, file, await contents_of(file))
    async with objects_of(bucket) as store:
        await store.put_file("file", body)
    starts = [number * 8 * MIB for number in range(PARTS)] if size_bytes == SIZE else [0]
    # Where the storage does not compare what comes, the file does.
    assert sorted(body.reads) == [("unchecked" if checksums else "checked", start) for start in starts]
    assert content.objects["file"].body == await contents_of(file)


@pytest.mark.parametrize("size_bytes", [100, SIZE])
async def test_a_file_that_is_not_what_its_checksums_are_of_is_not_stored_nor_sent_again(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, file: Path, size_bytes: int
) -> None:
    os.truncate(file, size_bytes)
    contents = bytearray(await contents_of(file))
    contents[-5] ^= 1
    body = await asyncio.to_thread(remembered, file, bytes(contents))
    async with objects_of(bucket) as store:
        await store.capabilities()
        before = stub.requests["PutObject"] + stub.requests["UploadPart"]
        with pytest.raises(IntegrityError, match="changed while it was read"):
            await store.put_file("file", body, transfer=Transfer(limit=1))
    assert stub.requests["PutObject"] + stub.requests["UploadPart"] - before == (1 if size_bytes == 100 else PARTS)
    assert (content.uploads, dict(content.objects)) == ({}, {})


async def test_known_checksums_and_bytes_that_suffer_on_the_way(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, file: Path
) -> None:
    damaged: list[Request] = []

    def answer(request: Request) -> Answer | None:
        if request.operation == "UploadPart" and len(damaged) < 3:
            damaged.append(request)
            return Answer(400, b"<Error><Code>BadDigest</Code></Error>")
        return None

    stub.answer = answer
    body = await asyncio.to_thread(remembered, file, await contents_of(file))
    async with objects_of(bucket) as store:
        await store.put_file("file", body)
    assert len(damaged) == 3
    assert content.objects["file"].body == await contents_of(file)


@pytest.mark.parametrize("checksums", [True, False])
async def test_checksums_go_where_they_are_compared(
    stub: WatchedStub, bucket: Bucket, file: Path, checksums: bool
) -> None:
    if not checksums:
        stub.behaviour.checksums = "refused"
    bodies: list[bytes] = []

    def note(request: Request) -> None:
        if request.operation == "CompleteMultipartUpload":
            bodies.append(bytes(request.content))

    stub.answer = note
    async with objects_of(bucket) as store:
        await store.put_file("large", file)
    [created] = stub.requests_for("CreateMultipartUpload")
    assert ("x-amz-checksum-algorithm" in created.headers) == checksums
    assert all(("x-amz-checksum-crc32" in part.headers) == checksums for part in stub.requests_for("UploadPart"))
    assert [body.count(b"<ChecksumCRC32>") for body in bodies] == [PARTS * checksums]


async def test_a_store_closed_meanwhile(stub: WatchedStub, bucket: Bucket, file: Path) -> None:
    stub.behaviour.latency_s = 0.05
    async with objects_of(bucket) as store:
        upload = asyncio.create_task(store.put_file("large", file))
        await stub.asked("UploadPart")
    with pytest.raises(AsyncStoreError):
        await upload


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
async def test_cancelled_while_the_storage_is_silent(
    stub: WatchedStub, bucket: Bucket, file: Path, operation: str
) -> None:
    async with objects_of(bucket) as store:
        await store.capabilities()
        stub.faults = [Fault("stall", operation=operation), Fault("stall", operation="AbortMultipartUpload")]
        upload = asyncio.create_task(store.put_file("large", file))
        await stub.asked(operation)
        upload.cancel()
        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError) as caught:
                await upload
    [note] = caught.value.__notes__
    assert ("stays until it is swept" if operation == "CreateMultipartUpload" else "could not be aborted") in note


@pytest.mark.parametrize("code", ["BadDigest", "XAmzContentChecksumMismatch", "IncompleteBody", "OperationAborted"])
@pytest.mark.parametrize("size_bytes", [100, SIZE])
async def test_bytes_that_suffer_on_the_way_are_sent_again(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, file: Path, size_bytes: int, code: str
) -> None:
    os.truncate(file, size_bytes)
    operation = "PutObject" if size_bytes == 100 else "UploadPart"
    damaged: list[Request] = []

    def answer(request: Request) -> Answer | None:
        if request.operation == operation and request.key == "file" and len(damaged) < 2:
            damaged.append(request)
            return Answer(400, f"<Error><Code>{code}</Code></Error>".encode())
        return None

    stub.answer = answer
    async with objects_of(bucket) as store:
        await store.put_file("file", file)
    assert content.objects["file"].body == await contents_of(file)
    assert stub.requests["AbortMultipartUpload"] == 0


@pytest.mark.parametrize(("code", "kind"), [("BadDigest", IntegrityError), ("IncompleteBody", UnavailableError)])
@pytest.mark.parametrize("size_bytes", [100, SIZE])
async def test_bytes_that_suffer_each_time(
    stub: WatchedStub,
    bucket: Bucket,
    content: BucketContent,
    file: Path,
    size_bytes: int,
    code: str,
    kind: type[AsyncStoreError],
) -> None:
    os.truncate(file, size_bytes)
    stub.answer = lambda request: (
        Answer(400, f"<Error><Code>{code}</Code></Error>".encode())
        if request.operation in {"PutObject", "UploadPart"} and request.key == "file"
        else None
    )
    async with objects_of(bucket) as store:
        with pytest.raises(kind, match=code) as caught:
            await store.put_file("file", file, transfer=Transfer(limit=1))
    assert not getattr(caught.value, "answer_lost", False)
    assert len(stub.requests_for("UploadPart")) in {0, 6}
    assert (content.uploads, dict(content.objects)) == ({}, {})


async def test_a_completion_that_was_refused_and_has_landed(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, file: Path
) -> None:
    def answer(request: Request) -> Answer | None:
        if request.operation != "CompleteMultipartUpload" or stub.requests["CompleteMultipartUpload"]:
            return None
        S3Stub.accept(stub, request, lambda *_: None)
        return Answer(503, b"<Error><Code>SlowDown</Code></Error>")

    stub.answer = answer
    async with objects_of(bucket) as store:
        etag = await store.put_file("large", file)
        assert (await store.head("large")).etag == etag
    assert stub.requests["CompleteMultipartUpload"] == 2
    assert content.objects["large"].body == await contents_of(file)
