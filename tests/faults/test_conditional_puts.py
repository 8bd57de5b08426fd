"""Conditional puts whose answers are lost: one's own write is never told as a conflict, nor another's as a success."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
import stamina

from asyncstore._core.retry import NO_RETRY, RetryPolicy
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConflictError,
    OutcomeUnknownError,
    UnavailableError,
)
from asyncstore.objects.base import NEW, Condition
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.testing.s3_stub import Fault, S3Stub
from asyncstore.testing.s3_stub._messages import Request
from asyncstore.testing.s3_stub._operations import perform

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

KEY = "some/key"
OURS, THEIRS, FIRST = b"ours", b"theirs", b"first"
RETRY = RetryPolicy(attempts=3)


class MeddledStub(S3Stub):
    """Does what others do in the meantime: ``meanwhile`` is called before the second PUT of the key is looked at."""

    meanwhile: Callable[[], object] | None = None
    puts = 0

    def __init__(self) -> None:
        super().__init__()
        self.has_put = asyncio.Event()

    def accept(self, request: Request, reply: Any) -> None:
        if request.method == "PUT" and request.key == KEY:
            self.puts += 1
            if self.puts == 2 and self.meanwhile is not None:
                self.meanwhile()
        super().accept(request, reply)
        if self.puts:
            self.has_put.set()

    def reset(self) -> None:
        super().reset()
        self.puts = 0

    @property
    def content(self) -> bytes | None:
        found = self.storage.bucket("bucket").objects.get(KEY)
        return None if found is None else found.body

    def theirs(self, replaced: str = "", *, age_s: int = 0) -> str:
        """Put another's object, which says that it has replaced ``replaced``, and return its ETag."""
        mark = {"x-amz-meta-asyncstore-put-id": f"0123:{replaced}"} if replaced else {}
        request = Request("PUT", f"/bucket/{KEY}", {}, mark, THEIRS, operation="PutObject")
        etag = perform(self.storage, self.behaviour, request).headers["ETag"]
        self.storage.bucket("bucket").objects[KEY].modified = int(time.time()) - age_s
        return etag

    def theirs_by_swap(self) -> None:
        """Replace what is there as a compare-and-swap does."""
        self.theirs(self.storage.bucket("bucket").get(KEY).etag.strip('"'))

    def theirs_by_create(self) -> None:
        """Make the key anew, deleting it before."""
        self.theirs("new")

    def delete(self) -> None:
        """Delete the key."""
        self.storage.bucket("bucket").delete(KEY)


@pytest.fixture(autouse=True)
def no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
async def stub() -> AsyncIterator[MeddledStub]:
    async with MeddledStub() as stub:
        stub.make_bucket("bucket")
        yield stub


@pytest.fixture
async def store(stub: MeddledStub) -> AsyncIterator[S3ObjectStore]:
    async with S3ObjectStore("bucket", AwsSettings(endpoint_url=stub.url), retry=RETRY) as store:
        # What the probe asks is not what is tested here.
        await store.capabilities()
        stub.reset()
        yield store


@pytest.fixture(params=["create", "match"])
async def condition(request: pytest.FixtureRequest, stub: MeddledStub, store: S3ObjectStore) -> Condition:
    if request.param == "create":
        return NEW
    etag = await store.put(KEY, FIRST)
    stub.reset()
    return Condition(etag=etag)


def refusal(condition: Condition) -> type[Exception]:
    return AlreadyExistsError if condition.create else ConflictError


@pytest.mark.parametrize("action", ["lose_answer", "error_after"])
async def test_our_own_write_is_recognised(
    stub: MeddledStub, store: S3ObjectStore, condition: Any, action: Any
) -> None:
    stub.faults = [Fault(action, method="PUT", nth=1)]
    etag = await store.put(KEY, OURS, condition=condition, metadata={"a": "b"})
    meta, data = await store.get(KEY)
    assert (meta.etag, data, meta.metadata["a"]) == (etag, OURS, "b")
    assert stub.requests == {"PutObject": 2, "HeadObject": 1, "GetObject": 1}


@pytest.mark.parametrize("action", ["lose_answer", "error_after"])
async def test_our_own_write_is_recognised_when_no_attempt_is_answered(
    stub: MeddledStub, store: S3ObjectStore, condition: Any, action: Any
) -> None:
    stub.faults = [Fault(action, method="PUT")]
    etag = await store.put(KEY, OURS, condition=condition)
    assert ((await store.head(KEY)).etag, stub.content) == (etag, OURS)


async def test_our_own_write_is_recognised_where_names_of_metadata_change(
    stub: MeddledStub, store: S3ObjectStore, condition: Any
) -> None:
    stub.behaviour.metadata = "renamed"
    stub.faults = [Fault("lose_answer", method="PUT", nth=1)]
    await store.put(KEY, OURS, condition=condition)
    assert stub.content == OURS


async def test_without_metadata_nobody_knows(stub: MeddledStub, store: S3ObjectStore, condition: Any) -> None:
    stub.behaviour.metadata = "dropped"
    stub.faults = [Fault("lose_answer", method="PUT", nth=1)]
    with pytest.raises(OutcomeUnknownError) as caught:
        await store.put(KEY, OURS, condition=condition)
    assert (caught.value.key, stub.content) == (KEY, OURS)


async def test_ours_has_landed_and_was_replaced(stub: MeddledStub, store: S3ObjectStore, condition: Any) -> None:
    stub.faults = [Fault("lose_answer", method="PUT", nth=1)]
    stub.meanwhile = stub.theirs_by_swap
    with pytest.raises(OutcomeUnknownError) as caught:
        await store.put(KEY, OURS, condition=condition)
    assert (caught.value.key, stub.content) == (KEY, THEIRS)


async def test_ours_has_landed_and_was_replaced_without_a_condition(
    stub: MeddledStub, store: S3ObjectStore, condition: Any
) -> None:
    stub.faults = [Fault("lose_answer", method="PUT", nth=1)]
    stub.meanwhile = stub.theirs
    with pytest.raises(OutcomeUnknownError):
        await store.put(KEY, OURS, condition=condition)


async def test_ours_has_landed_and_was_deleted(stub: MeddledStub, store: S3ObjectStore, condition: Any) -> None:
    stub.faults = [Fault("lose_answer", method="PUT", nth=1)]
    stub.meanwhile = stub.delete
    if condition.create:
        await store.put(KEY, OURS, condition=condition)
        assert stub.content == OURS
    else:
        with pytest.raises(OutcomeUnknownError):
            await store.put(KEY, OURS, condition=condition)


@pytest.mark.parametrize("action", ["lose_request", "internal_error"])
async def test_another_was_quicker(stub: MeddledStub, store: S3ObjectStore, condition: Any, action: Any) -> None:
    stub.faults = [Fault(action, method="PUT", nth=1)]
    stub.meanwhile = stub.theirs_by_create if condition.create else stub.theirs_by_swap
    with pytest.raises(refusal(condition)):
        await store.put(KEY, OURS, condition=condition)
    assert stub.content == THEIRS


async def test_another_was_quicker_than_the_first_attempt(
    stub: MeddledStub, store: S3ObjectStore, condition: Any
) -> None:
    if condition.create:
        stub.theirs_by_create()
    else:
        stub.theirs_by_swap()
    stub.faults = [Fault("lose_answer", method="PUT", nth=1)]
    with pytest.raises(refusal(condition)):
        await store.put(KEY, OURS, condition=condition)
    assert stub.content == THEIRS


@pytest.mark.parametrize("replaced", ["", "0987"])
async def test_what_has_long_been_there_is_not_ours(
    stub: MeddledStub, store: S3ObjectStore, condition: Any, replaced: str
) -> None:
    stub.theirs(replaced, age_s=3600)
    stub.faults = [Fault("lose_answer", method="PUT", nth=1)]
    with pytest.raises(refusal(condition)):
        await store.put(KEY, OURS, condition=condition)


@pytest.mark.parametrize("replaced", ["", "0987"])
async def test_what_is_young_may_have_replaced_ours(
    stub: MeddledStub, store: S3ObjectStore, condition: Any, replaced: str
) -> None:
    stub.theirs(replaced, age_s=60)
    stub.faults = [Fault("lose_answer", method="PUT", nth=1)]
    with pytest.raises(OutcomeUnknownError):
        await store.put(KEY, OURS, condition=condition)


@pytest.mark.parametrize("action", ["slow_down", "conflict"])
async def test_an_attempt_that_was_not_carried_out_leaves_no_doubt(
    stub: MeddledStub, store: S3ObjectStore, condition: Any, action: Any
) -> None:
    stub.faults = [Fault(action, method="PUT", nth=1)]
    stub.meanwhile = stub.theirs
    with pytest.raises(refusal(condition)):
        await store.put(KEY, OURS, condition=condition)
    assert stub.requests == {"PutObject": 2}


@pytest.mark.parametrize("action", ["slow_down", "conflict"])
async def test_attempts_that_were_never_carried_out_are_no_unknown_outcome(
    stub: MeddledStub, store: S3ObjectStore, condition: Any, action: Any
) -> None:
    stub.faults = [Fault(action, method="PUT")]
    with pytest.raises(UnavailableError):
        await store.put(KEY, OURS, condition=condition)
    assert stub.requests == {"PutObject": 3}


async def test_one_doubtful_attempt_among_others_stays_doubtful(
    stub: MeddledStub, store: S3ObjectStore, condition: Any
) -> None:
    stub.faults = [Fault("lose_answer", method="PUT", nth=1), Fault("conflict", method="PUT", nth=2)]
    stub.meanwhile = stub.theirs_by_swap
    with pytest.raises(OutcomeUnknownError):
        await store.put(KEY, OURS, condition=condition)


@pytest.mark.parametrize("answer", ["denied", "slow_down", "internal_error", "lose_answer"])
async def test_what_is_there_cannot_be_asked(
    stub: MeddledStub, store: S3ObjectStore, condition: Any, answer: Any
) -> None:
    stub.faults = [Fault("lose_answer", method="PUT", nth=1)]
    if answer == "denied":
        stub.behaviour.denied_operations = ["HeadObject"]
    else:
        stub.faults = [*stub.faults, Fault(answer, method="HEAD")]
    with pytest.raises(OutcomeUnknownError) as caught:
        await store.put(KEY, OURS, condition=condition)
    assert (caught.value.key, stub.content) == (KEY, OURS)


async def test_asking_what_is_there_is_retried(stub: MeddledStub, store: S3ObjectStore, condition: Any) -> None:
    stub.faults = [Fault("lose_answer", method="PUT", nth=1), Fault("slow_down", method="HEAD", times=2)]
    await store.put(KEY, OURS, condition=condition)
    assert stub.content == OURS


async def test_a_later_attempt_that_is_denied_tells_nothing_of_the_first(
    stub: MeddledStub, store: S3ObjectStore, condition: Any
) -> None:
    def deny() -> None:
        stub.behaviour.denied_operations = ["PutObject"]

    stub.faults = [Fault("lose_answer", method="PUT", nth=1)]
    stub.meanwhile = deny
    await store.put(KEY, OURS, condition=condition)
    assert stub.content == OURS


@pytest.mark.parametrize("action", ["lose_answer", "lose_request"])
async def test_denied_and_out_of_sight(stub: MeddledStub, store: S3ObjectStore, condition: Any, action: Any) -> None:
    def deny() -> None:
        stub.behaviour.denied_operations = ["PutObject", "HeadObject"]

    stub.faults = [Fault(action, method="PUT", nth=1)]
    stub.meanwhile = deny
    with pytest.raises(OutcomeUnknownError) as caught:
        await store.put(KEY, OURS, condition=condition)
    assert isinstance(caught.value.__cause__, AccessDeniedError)


async def test_an_answer_that_breaks_off_after_its_head_is_an_answer(
    stub: MeddledStub, store: S3ObjectStore, condition: Any
) -> None:
    stub.faults = [Fault("truncate", method="PUT", nth=1)]
    etag = await store.put(KEY, OURS, condition=condition)
    assert ((await store.head(KEY)).etag, stub.content) == (etag, OURS)
    assert stub.requests["PutObject"] == 1


async def test_a_refusal_that_breaks_off_is_a_refusal(stub: MeddledStub, store: S3ObjectStore, condition: Any) -> None:
    stub.theirs()
    stub.faults = [Fault("truncate", method="PUT", nth=1)]
    with pytest.raises((refusal(condition), OutcomeUnknownError)):
        await store.put(KEY, OURS, condition=condition)
    assert stub.content == THEIRS


async def test_one_attempt_alone_asks_too(stub: MeddledStub, condition: Any) -> None:
    stub.faults = [Fault("lose_answer", method="PUT", nth=1)]
    async with S3ObjectStore("bucket", AwsSettings(endpoint_url=stub.url), retry=NO_RETRY) as store:
        await store.put(KEY, OURS, condition=condition)
    assert stub.content == OURS


async def test_cancelled_while_it_waits_for_an_answer(stub: MeddledStub, store: S3ObjectStore, condition: Any) -> None:
    stub.faults = [Fault("stall", method="PUT", nth=1)]
    task = asyncio.create_task(store.put(KEY, OURS, condition=condition))
    stub.has_put.clear()
    await stub.has_put.wait()
    assert stub.content == OURS
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await store.get(KEY))[1] == OURS


async def test_cancelled_between_two_attempts(stub: MeddledStub, store: S3ObjectStore, condition: Any) -> None:
    task = asyncio.create_task(store.put(KEY, OURS, condition=condition))
    stub.meanwhile = task.cancel
    stub.faults = [Fault("lose_answer", method="PUT", nth=1)]
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stub.content == OURS
    with pytest.raises(refusal(condition)):
        await store.put(KEY, b"again", condition=condition)
