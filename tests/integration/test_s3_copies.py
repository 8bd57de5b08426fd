"""Copies of objects that are too large for one request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import stamina

from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import ConflictError, NotFoundError, UnavailableError
from asyncstore.objects import s3
from asyncstore.objects._large import _copies
from asyncstore.objects.base import Transfer
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.testing.s3_stub import Behaviour, Fault
from asyncstore.testing.s3_stub._content import Content
from asyncstore.testing.s3_stub._messages import Answer
from asyncstore.testing.s3_stub._storage import StoredObject
from tests._watched import WatchedStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from asyncstore.testing.s3_stub._messages import Request
    from asyncstore.testing.s3_stub._storage import BucketContent
    from asyncstore.testing.servers import Bucket

MIB = 1024 * 1024
GIB = 1024 * MIB
DATA = bytes(range(256)) * (12 * MIB // 256) + b"end"


@pytest.fixture(autouse=True)
def no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=6, cap=True):
        yield


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_copies, "COPY_PART_BYTES", 5 * MIB)
    monkeypatch.setattr(s3, "COPY_LIMIT_BYTES", 11 * MIB)


@pytest.fixture
async def stub() -> AsyncIterator[WatchedStub]:
    async with WatchedStub(behaviour=Behaviour(etags="random")) as stub:
        yield stub


@pytest.fixture
async def store(bucket: Bucket) -> AsyncIterator[S3ObjectStore]:
    async with S3ObjectStore(bucket.name, AwsSettings(endpoint_url=bucket.server.endpoint_url)) as store:
        yield store


@pytest.mark.parametrize("known", [True, False])
async def test_above_5_gib(stub: WatchedStub, store: S3ObjectStore, content: BucketContent, known: bool) -> None:
    content.put("a", StoredObject(Content.zeros(5 * GIB + 1), '"a"'))
    advanced: list[int] = []
    meta = await store.head("a") if known else None
    await store.copy("a", "b", meta=meta, transfer=Transfer(advanced=advanced.append))
    assert (await store.head("b")).size_bytes == sum(advanced) == 5 * GIB + 1
    assert stub.requests["UploadPartCopy"] == 6
    assert stub.requests["CopyObject"] == (not known)


async def test_5_gib(stub: WatchedStub, store: S3ObjectStore, content: BucketContent) -> None:
    content.put("a", StoredObject(Content.zeros(5 * GIB), '"a"'))
    await store.copy("a", "b", meta=await store.head("a"))
    assert stub.requests["CopyObject"] == 1


@pytest.mark.parametrize("fault", ["internal_error", "lose_answer", "error_after"])
async def test_troubles_that_pass(
    stub: WatchedStub, store: S3ObjectStore, content: BucketContent, small_parts: None, fault: Any
) -> None:
    await store.put("a", DATA)
    stub.faults = [
        Fault(fault, operation=operation, nth=1) for operation in ("UploadPartCopy", "CompleteMultipartUpload")
    ]
    await store.copy("a", "b", meta=await store.head("a"))
    assert (await store.get("b"))[1] == DATA
    assert content.uploads == {}


async def test_errors_with_the_status_of_success(stub: WatchedStub, store: S3ObjectStore, small_parts: None) -> None:
    await store.put("a", DATA)
    told: list[str] = []

    def answer(request: Request) -> Answer | None:
        if request.operation in {"UploadPartCopy", "CopyObject"} and request.operation not in told:
            told.append(request.operation)
            return Answer(200, b"<Error><Code>SlowDown</Code></Error>")
        return None

    stub.answer = answer
    await store.copy("a", "b", meta=await store.head("a"))
    settings = store._settings.model_copy(update={"storage_class": "COLD"})
    async with S3ObjectStore(store._bucket, settings) as other:
        await other.copy("a", "c")
    assert (await store.get("b"))[1] == (await store.get("c"))[1] == DATA
    assert told == ["UploadPartCopy", "CopyObject"]


@pytest.mark.parametrize("match_form", ["quoted", "bare"])
async def test_a_source_replaced_meanwhile(
    stub: WatchedStub, store: S3ObjectStore, content: BucketContent, small_parts: None, match_form: Any
) -> None:
    stub.behaviour.match_form = match_form
    await store.capabilities()
    await store.put("a", DATA)
    meta = await store.head("a")
    await store.copy("a", "b", meta=meta)

    def replace(request: Request) -> None:
        if request.operation == "UploadPartCopy":
            content.objects["a"].etag = '"another"'

    stub.after = replace
    with pytest.raises(ConflictError):
        await store.copy("a", "c", meta=meta, transfer=Transfer(limit=1))
    assert content.uploads == {}
    assert "c" not in content.objects


async def test_a_copy_that_fails_leaves_nothing(
    stub: WatchedStub, store: S3ObjectStore, content: BucketContent, small_parts: None
) -> None:
    await store.put("a", DATA)
    stub.faults = [Fault("internal_error", operation="UploadPartCopy", nth=number) for number in range(2, 50)]
    with pytest.raises(UnavailableError, match="copy s3://"):
        await store.copy("a", "b", meta=await store.head("a"))
    assert content.uploads == {}


async def test_versions_are_not_mixed_where_conditions_are_ignored(
    stub: WatchedStub, store: S3ObjectStore, content: BucketContent, small_parts: None
) -> None:
    stub.behaviour.ignores_conditions = True
    assert not (await store.capabilities()).match
    await store.put("a", DATA)
    await store.put("other", DATA[::-1])
    meta = await store.head("a")
    told: list[bool] = []

    def replace(request: Request) -> None:
        if request.operation == "UploadPartCopy":
            told.append("x-amz-copy-source-if-match" in request.headers)
            content.objects["a"] = content.objects["other"]

    stub.after = replace
    with pytest.raises(ConflictError, match="replaced meanwhile"):
        await store.copy("a", "b", meta=meta, transfer=Transfer(limit=1))
    # Servers differ in which conditions they heed.
    assert told
    assert all(told)
    assert content.uploads == {}
    assert "b" not in content.objects


async def test_conditions_in_a_form_that_the_server_does_not_know(
    stub: WatchedStub, store: S3ObjectStore, content: BucketContent, small_parts: None
) -> None:
    await store.put("a", DATA)
    stub.behaviour.match_form = "bare"
    # Nobody has asked yet which form it wants.
    await store.copy("a", "b", meta=await store.head("a"))
    settings = store._settings.model_copy(update={"user_metadata": {"team": "blue"}})
    async with S3ObjectStore(store._bucket, settings) as other:
        await other.copy("a", "c")
    assert (await store.get("b"))[1] == (await store.get("c"))[1] == DATA
    assert content.uploads == {}
    assert any("x-amz-copy-source-if-match" in request.headers for request in stub.requests_for("CopyObject"))


async def test_onto_itself(stub: WatchedStub, store: S3ObjectStore, content: BucketContent) -> None:
    await store.put("a", DATA, metadata={"k": "v"})
    before = await store.head("a")
    await store.copy("a", "a")
    assert await store.head("a") == before
    with pytest.raises(NotFoundError):
        await store.copy("nothing", "nothing")
    assert stub.requests["CopyObject"] == 0
