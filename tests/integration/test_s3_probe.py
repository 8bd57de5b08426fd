"""What the probe finds out about each kind of server, for how many requests, and what is made of it."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import stamina

from asyncstore._core.retry import RetryPolicy
from asyncstore.aws.credentials import CredentialProvider, Credentials
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ClosedError,
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    UnavailableError,
)
from asyncstore.objects._errors import from_s3_code
from asyncstore.objects._s3._bucket import bucket_url
from asyncstore.objects._s3._probe import known_capabilities
from asyncstore.objects.base import FULL, NEW, Capabilities, Condition
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.runlog.chunked import ChunkedS3RunLogStore
from asyncstore.runlog.document import S3RunLogStore
from asyncstore.testing._objects.conditions import ConditionSuite
from asyncstore.testing.s3_stub import Behaviour, Fault, S3Stub
from tests._http_server import tls_server
from tests._surroundings import tls_front

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from asyncstore.objects.base import ObjectStore
    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.s3_stub._messages import Request
    from asyncstore.testing.servers import Bucket

BARE = Capabilities(create=True, match=True, etag_form="bare")
CREATE_ONLY = Capabilities(create=True, match=False)
MATCH_ONLY = Capabilities(create=False, match=True)
NEITHER = Capabilities(create=False, match=False)
MOTO = Capabilities(create=True, match=True, ranges="proper", checksums=False)
RCLONE = Capabilities(create=False, match=False, ranges="plain", checksums=False)
DATA = bytes(range(100))


@pytest.fixture(autouse=True)
def no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=6, cap=True):
        yield


class WatchedStub(S3Stub):
    """Tells when it is asked something."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    def accept(self, request: Request, reply: Any) -> None:
        super().accept(request, reply)
        self.asked.set()


@pytest.fixture
async def stub() -> AsyncIterator[WatchedStub]:
    async with WatchedStub() as stub:
        yield stub


@pytest.fixture
def bucket(stub: S3Stub) -> Bucket:
    # What was found out is kept for the process, and a port may come again.
    return stub.make_bucket(f"test-{uuid.uuid4().hex}")


def objects_of(bucket: Bucket, **options: Any) -> S3ObjectStore:
    return S3ObjectStore(bucket.name, AwsSettings(endpoint_url=bucket.server.endpoint_url), **options)


def keys_in(stub: S3Stub, bucket: Bucket) -> list[str]:
    return sorted(stub.storage.bucket(bucket.name).objects)


# How a server behaves, what is found out, and the puts that conditions take; checksums take one more.
KINDS = {
    "all": (Behaviour(), FULL, 4),
    "random etags": (Behaviour(etags="random"), FULL, 4),
    "no metadata": (Behaviour(metadata="dropped"), FULL, 4),
    "quoted": (Behaviour(match_form="quoted"), FULL, 4),
    "bare": (Behaviour(match_form="bare"), BARE, 5),
    "bare, random etags": (Behaviour(match_form="bare", etags="random"), BARE, 5),
    "no form": (Behaviour(match_form="none"), CREATE_ONLY, 4),
    "none": (Behaviour(ignores_conditions=True), NEITHER, 3),
    "create alone": (Behaviour(ignored_conditions=["if-match"]), CREATE_ONLY, 4),
    "match alone": (Behaviour(ignored_conditions=["if-none-match"]), MATCH_ONLY, 4),
    "match alone, random etags": (Behaviour(ignored_conditions=["if-none-match"], etags="random"), MATCH_ONLY, 4),
    "match alone, bare": (
        Behaviour(ignored_conditions=["if-none-match"], match_form="bare"),
        Capabilities(create=False, match=True, etag_form="bare"),
        6,
    ),
    "501": (Behaviour(conditions_status=501), NEITHER, 3),
    "405": (Behaviour(conditions_status=405), NEITHER, 3),
    "400": (Behaviour(conditions_status=400), NEITHER, 3),
    "403": (Behaviour(conditions_status=403), NEITHER, 3),
    "demanded": (Behaviour(demands_conditions=True), FULL, 4),
    "create alone, 501": (Behaviour(conditions_status=501, ignored_conditions=["if-none-match"]), NEITHER, 3),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_of_server(stub: S3Stub, bucket: Bucket, kind: str) -> None:
    stub.behaviour, expected, puts = KINDS[kind]
    async with objects_of(bucket) as store:
        assert await store.capabilities() == expected
        assert await store.capabilities() == expected
    async with objects_of(bucket) as store:
        assert await store.capabilities() == expected
    assert stub.requests == {"PutObject": puts + 1, "GetObject": 1, "DeleteObjects": 1}
    assert keys_in(stub, bucket) == []


@pytest.mark.parametrize("etags", ["content", "random"])
@pytest.mark.parametrize("form", ["any", "bare", "none"])
@pytest.mark.parametrize(("checksums", "heeded"), [("checked", True), ("ignored", False), ("refused", False)])
@pytest.mark.parametrize(("ranges", "found"), [("honoured", "proper"), ("plain", "plain"), ("ignored", "ignored")])
async def test_ranges_and_checksums(
    stub: S3Stub, bucket: Bucket, *, ranges: Any, found: Any, checksums: Any, heeded: bool, form: Any, etags: Any
) -> None:
    stub.behaviour = Behaviour(ranges=ranges, checksums=checksums, match_form=form, etags=etags)
    conditions = {"any": FULL, "bare": BARE, "none": CREATE_ONLY}[form]
    async with objects_of(bucket) as store:
        assert await store.capabilities() == replace(conditions, ranges=found, checksums=heeded)
    puts = {"any": 5, "bare": 6, "none": 5}[form]
    assert stub.requests == {"PutObject": puts, "GetObject": 1, "DeleteObjects": 1}
    assert keys_in(stub, bucket) == []


@pytest.mark.parametrize(
    ("ranges", "requests"), [("honoured", {"GetObject": 2}), ("plain", {"GetObject": 2}), ("ignored", {"GetObject": 1})]
)
async def test_ranges_are_read_as_was_found_out(stub: S3Stub, bucket: Bucket, ranges: Any, requests: Any) -> None:
    stub.behaviour.ranges = ranges
    async with objects_of(bucket) as store:
        await store.put("key", DATA, condition=NEW)
        await store.capabilities()
    async with objects_of(bucket) as store:
        stub.reset()
        if ranges == "ignored":
            with pytest.raises(IntegrityError, match="the whole object came"):
                await store.get("key", byte_range=(5, 9))
        else:
            for _ in range(2):
                assert (await store.get("key", byte_range=(5, 9)))[1] == DATA[5:9]
        assert stub.requests == requests


async def test_what_a_reader_found_out_about_ranges_is_its_own(stub: S3Stub, bucket: Bucket) -> None:
    stub.behaviour.ranges = "plain"
    async with objects_of(bucket) as store:
        await store.put("key", DATA)
        stub.reset()
        for _ in range(3):
            assert (await store.get("key", byte_range=(5, 9)))[1] == DATA[5:9]
        assert stub.requests == {"GetObject": 4}
        assert known_capabilities((bucket.server.endpoint_url, "eu-west-1", bucket.name)) is None


@pytest.mark.parametrize("given", [{"kms_key_arn": "arn:key", "storage_class": "COLD"}, {}])
async def test_every_write_says_what_a_policy_may_demand(
    stub: S3Stub, bucket: Bucket, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str | None, ...]] = []
    names = ("x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id", "x-amz-storage-class")
    accept = stub.accept

    def note(request: Request, reply: Any) -> None:
        if request.method == "PUT":
            said.append(tuple(request.headers.get(name) for name in names))
        accept(request, reply)

    monkeypatch.setattr(stub, "accept", note)
    settings = AwsSettings(endpoint_url=bucket.server.endpoint_url, **given)  # type: ignore[arg-type]
    async with S3ObjectStore(bucket.name, settings) as store:
        assert await store.capabilities() == FULL
    assert said == [("aws:kms", "arn:key", "COLD") if given else (None, None, None)] * 5
    assert stub.requests == {"PutObject": 5, "GetObject": 1, "DeleteObjects": 1}
    assert keys_in(stub, bucket) == []


async def test_what_only_obstore_reaches_is_not_taken_for_a_server_in_trouble(
    stub: S3Stub,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    tls, authority = tls_server(tmp_path)
    # Which certificates the system trusts is nothing to botocore, and to our own wire.
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with caplog.at_level(logging.INFO, "asyncstore"):
        async with (
            tls_front(stub.url, tls) as url,
            S3ObjectStore(bucket.name, AwsSettings(endpoint_url=url)) as store,
        ):
            assert await store.capabilities() == replace(FULL, checksums=False)
    assert stub.requests == {"PutObject": 4, "DeleteObjects": 1}
    assert [record.message.partition(" in ")[0] for record in caplog.records] == [
        "what becomes of ranges",
        "what becomes of checksums",
    ]


async def test_who_may_not_read_has_ranges_left_open(stub: S3Stub, bucket: Bucket) -> None:
    stub.behaviour = Behaviour(denied_operations=["GetObject"], ranges="plain")
    async with objects_of(bucket) as store:
        assert await store.capabilities() == FULL
        stub.behaviour.denied_operations = []
        await store.put("key", DATA)
        assert (await store.get("key", byte_range=(5, 9)))[1] == DATA[5:9]


async def test_a_store_closed_meanwhile_finds_out_nothing(
    stub: S3Stub, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = asyncio.Event()
    accept = stub.accept

    def note(request: Request, reply: Any) -> None:
        if request.method == "GET":
            reading.set()
        accept(request, reply)

    monkeypatch.setattr(stub, "accept", note)
    stub.behaviour.latency_s = 0.02
    async with objects_of(bucket) as store:
        probe = asyncio.create_task(store.capabilities())
        await reading.wait()
    with pytest.raises(ClosedError):
        await probe
    assert known_capabilities((bucket.server.endpoint_url, "eu-west-1", bucket.name)) is None


async def test_given_credentials_are_those_of_all_requests(
    stub: S3Stub, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    stub.behaviour = Behaviour(denied=["accesskey1", ""], ranges="plain")
    settings = AwsSettings(endpoint_url=bucket.server.endpoint_url)

    class Given(CredentialProvider):
        async def get(self) -> Credentials:
            self._current = Credentials("given", "secret")
            return self._current

    async with S3ObjectStore(bucket.name, settings, credentials=Given(settings)) as store:
        assert await store.capabilities() == replace(FULL, ranges="plain")
        await store.put("key", DATA)
        # By one engine, and by the other.
        assert (await store.get("key"))[1] == DATA
        assert (await store.get("key", byte_range=(5, 9)))[1] == DATA[5:9]


# rclone checks signatures: a path spelled otherwise than it was signed would leave its ranges open.
@pytest.mark.parametrize("prefix", ["", "tëam ~+&=?#!*'(),:;@/%41/"])
async def test_real_servers(moto_bucket: Bucket, rclone_bucket: Bucket, prefix: str) -> None:
    for bucket, expected in ((moto_bucket, MOTO), (rclone_bucket, RCLONE)):
        async with objects_of(bucket, probe_prefix=prefix) as store:
            assert await store.capabilities() == expected
            assert [page async for page in store.list("")] == []


async def test_aws_itself_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    async with S3ObjectStore("bucket", AwsSettings(), retry=RetryPolicy(attempts=1)) as store:
        assert await store.capabilities() == FULL


@pytest.mark.parametrize("form", ["any", "quoted", "bare"])
async def test_the_form_found_out_is_used(stub: S3Stub, bucket: Bucket, form: Any) -> None:
    stub.behaviour.match_form = form
    async with objects_of(bucket) as store:
        first = await store.put("key", b"first")
        second = await store.put("key", DATA, condition=Condition(etag=first))
        with pytest.raises(ConflictError):
            await store.put("key", b"third", condition=Condition(etag=first))
        stub.reset()
        assert (await store.get("key", etag=second))[1] == DATA
        assert (await store.get("key", etag=second, byte_range=(5, 9)))[1] == DATA[5:9]
        with pytest.raises(ConflictError):
            await store.get("key", etag=first)
        assert stub.requests == {"GetObject": 3}


@pytest.mark.parametrize("ranges", ["honoured", "plain"])
@pytest.mark.parametrize("form", ["any", "quoted", "bare", "none"])
async def test_a_reader_reads_one_version_without_a_probe(stub: S3Stub, bucket: Bucket, form: Any, ranges: Any) -> None:
    async with objects_of(bucket) as writer:
        etag = await writer.put("key", DATA)
    stub.behaviour = Behaviour(match_form=form, ranges=ranges, read_only=["accesskey1"])
    stub.reset()
    async with objects_of(bucket) as store:
        with pytest.raises(ConflictError):
            await store.get("key", etag='"0"')
        for _ in range(2):
            assert (await store.get("key", etag=etag))[1] == DATA
            assert (await store.get("key", byte_range=(5, 9), etag=etag))[1] == DATA[5:9]
            with pytest.raises(ConflictError):
                await store.get("key", etag='"0"')
            with pytest.raises(ConflictError):
                await store.get("key", byte_range=(5, 9), etag='"0"')
        with pytest.raises(NotFoundError):
            await store.get("nothing", etag=etag)
        await store.head("key")
        await store.list_folder("")
        assert [meta.key async for page in store.list("") for meta in page] == ["key"]
    assert {name for name in stub.requests if not name.startswith(("Get", "Head", "List"))} == set()


async def test_readers_at_once_find_out_together(stub: S3Stub, bucket: Bucket) -> None:
    async with objects_of(bucket) as writer:
        etag = await writer.put("key", DATA)
    stub.behaviour = Behaviour(match_form="bare", latency_s=0.01)
    async with objects_of(bucket) as store, asyncio.TaskGroup() as group:
        reads = [group.create_task(store.get("key", etag=etag)) for _ in range(20)]
    assert [read.result()[1] for read in reads] == [DATA] * 20


@pytest.mark.asyncio
class TestConditions(ConditionSuite):
    # The suite puts without conditions too.
    @pytest.fixture(params=sorted(KINDS.keys() - {"demanded"}))
    def make_store(self, request: pytest.FixtureRequest, stub: S3Stub, bucket: Bucket) -> Callable[[], ObjectStore]:
        stub.behaviour = KINDS[request.param][0]
        return partial(objects_of, bucket)


@pytest.mark.parametrize("action", ["slow_down", "internal_error", "conflict", "lose_request"])
@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5, 6, 7])
async def test_a_server_in_trouble_decides_nothing(stub: S3Stub, bucket: Bucket, action: Any, nth: int) -> None:
    stub.faults = [Fault(action, nth=nth)]
    async with objects_of(bucket) as store:
        assert await store.capabilities() == FULL
    assert keys_in(stub, bucket) == []


@pytest.mark.parametrize("etags", ["content", "random"])
@pytest.mark.parametrize("form", ["quoted", "bare"])
@pytest.mark.parametrize("action", ["lose_answer", "error_after"])
async def test_lost_answers_decide_nothing(stub: S3Stub, bucket: Bucket, action: Any, form: Any, etags: Any) -> None:
    stub.behaviour = Behaviour(match_form=form, etags=etags)
    for nth in range(1, 10):
        fresh = stub.make_bucket(f"{bucket.name[:40]}-{nth}")
        stub.faults = [Fault(action, nth=nth)]
        async with objects_of(fresh) as store:
            assert (nth, await store.capabilities()) == (nth, Capabilities(create=True, match=True, etag_form=form))
        assert keys_in(stub, fresh) == []


@pytest.mark.parametrize("action", ["slow_down", "lose_answer"])
async def test_a_failed_probe_is_made_again(stub: S3Stub, bucket: Bucket, action: Any) -> None:
    stub.faults = [Fault(action, method="PUT")]
    async with objects_of(bucket, retry=RetryPolicy(attempts=2)) as store:
        with pytest.raises(UnavailableError):
            await store.capabilities()
        stub.faults = []
        assert await store.capabilities() == FULL
    assert keys_in(stub, bucket) == []


async def test_calls_that_wait_for_a_failing_probe_fail_with_it(stub: S3Stub, bucket: Bucket) -> None:
    stub.faults = [Fault("internal_error")]
    stub.behaviour.latency_s = 0.01
    async with objects_of(bucket, retry=RetryPolicy(attempts=2)) as store:
        calls = [asyncio.create_task(store.capabilities()) for _ in range(20)]
        await asyncio.wait(calls)
        assert {type(call.exception()) for call in calls} == {UnavailableError}
    assert stub.requests["PutObject"] == 2


async def test_a_probe_that_is_cancelled_leaves_nothing_and_another_goes_on(stub: WatchedStub, bucket: Bucket) -> None:
    stub.behaviour.latency_s = 0.05
    async with objects_of(bucket) as store, objects_of(bucket) as other:
        first = asyncio.create_task(store.capabilities())
        await stub.asked.wait()
        second = asyncio.create_task(other.capabilities())
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == FULL
    assert keys_in(stub, bucket) == []


async def test_threads_with_loops_of_their_own_share_one_probe(s3_stub: StubServer, stub_bucket: Bucket) -> None:
    threads = 4
    found: list[Capabilities] = []
    barrier = threading.Barrier(threads)

    async def ask() -> None:
        async with objects_of(stub_bucket) as store, objects_of(stub_bucket) as other:
            await asyncio.to_thread(barrier.wait)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one.capabilities()) for one in (store, other) for _ in range(5)]
            found.extend(task.result() for task in tasks)

    s3_stub.configure(latency_s=0.02)
    async with asyncio.TaskGroup() as group:
        for _ in range(threads):
            group.create_task(asyncio.to_thread(asyncio.run, ask()))
    assert found == [FULL] * threads * 10
    assert s3_stub.requests == {"PutObject": 5, "GetObject": 1, "DeleteObjects": 1}


async def test_a_probe_object_that_stays_is_told_once(
    stub: S3Stub, bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    stub.behaviour.denied_operations = ["DeleteObjects", "DeleteObject"]
    for _ in range(3):
        async with objects_of(bucket, probe_prefix="team/") as store:
            assert await store.capabilities() == FULL
    [key] = keys_in(stub, bucket)
    assert key.startswith("team/.asyncstore-probe-")
    assert [f"the probe object {key} stays" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("behaviour", [Behaviour(read_only=["accesskey1"]), Behaviour(denied_operations=["PutObject"])])
async def test_who_may_not_write_is_told_by_the_write_itself(
    stub: S3Stub, bucket: Bucket, behaviour: Behaviour
) -> None:
    stub.behaviour = behaviour
    async with objects_of(bucket) as store:
        assert await store.capabilities() == FULL
        for condition in (NEW, Condition(etag='"0"')):
            with pytest.raises(AccessDeniedError, match=f"put s3://{bucket.name}/some/key.* a permission is missing"):
                await store.put("some/key", b"", condition=condition)
        # Nothing was found out, and nothing stays so.
        place = (bucket.server.endpoint_url, "eu-west-1", bucket.name)
        assert known_capabilities(place) is None
        stub.behaviour = Behaviour(match_form="bare")
        etag = await store.put("some/key", b"", condition=NEW)
        await store.put("some/key", b"1", condition=Condition(etag=etag))
        assert known_capabilities(place) == BARE


async def test_another_store_may_write_where_the_first_may_not(
    stub: S3Stub, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.behaviour = Behaviour(read_only=["accesskey1"], latency_s=0.01, ignores_conditions=True)
    async with objects_of(bucket) as reader:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "writer")
        async with objects_of(bucket) as writer, asyncio.TaskGroup() as group:
            first = group.create_task(reader.capabilities())
            await asyncio.sleep(0)
            second = group.create_task(writer.capabilities())
        assert (first.result(), second.result()) == (FULL, NEITHER)
        assert await reader.capabilities() == NEITHER


async def test_who_may_write_only_there_finds_out_there(stub: S3Stub, bucket: Bucket) -> None:
    stub.behaviour.writable = "^team/run/"
    async with objects_of(bucket, probe_prefix="team/") as store:
        assert await store.capabilities() == FULL
        await store.put("team/run/a", b"1", condition=NEW)
        with pytest.raises(AlreadyExistsError):
            await store.put("team/run/a", b"2", condition=NEW)
        assert known_capabilities((bucket.server.endpoint_url, "eu-west-1", bucket.name)) == FULL
    assert keys_in(stub, bucket) == ["team/run/a"]


@pytest.mark.parametrize("condition", [NEW, Condition(etag='"0"')])
async def test_conditions_that_would_be_ignored_only_there_are_refused(
    stub: S3Stub, bucket: Bucket, condition: Condition
) -> None:
    stub.behaviour = Behaviour(writable="^team/run/", ignores_conditions=True)
    async with objects_of(bucket, probe_prefix="team/") as store:
        assert await store.capabilities() == FULL
        with pytest.raises(ConfigurationError, match="conditions are ignored there"):
            await store.put("team/run/a", b"1", condition=condition)
        assert await store.capabilities() == NEITHER
    assert keys_in(stub, bucket) == []


@pytest.mark.parametrize("ignores", [True, False])
async def test_a_condition_of_which_nothing_can_be_found_out_is_not_relied_on(
    stub: S3Stub, bucket: Bucket, ignores: bool
) -> None:
    stub.behaviour = Behaviour(writable=r"\.json$", ignores_conditions=ignores)
    async with objects_of(bucket) as store:
        assert await store.capabilities() == FULL
        etag = await store.put("run.json", b"1")
        for condition in (NEW, Condition(etag=etag)):
            with pytest.raises(AccessDeniedError, match="at least beside it"):
                await store.put("run.json", b"2", condition=condition)
        assert (await store.get("run.json"))[1] == b"1"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"endpoint_url": "http://host:9/s3/"}, "http://host:9/s3/b"),
        ({"endpoint_url": "http://host:9/s3", "addressing_style": "virtual"}, "http://b.host:9/s3"),
        ({}, "https://b.s3.eu-west-1.amazonaws.com"),
    ],
)
def test_where_a_bucket_is(given: dict[str, Any], url: str) -> None:
    assert bucket_url(AwsSettings(insecure=True, **given), "b") == url


@pytest.mark.parametrize("code", ["BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"])
def test_wrong_checksums_are_told_in_one_word(code: str) -> None:
    assert isinstance(from_s3_code(code, 400, "put"), IntegrityError)


async def test_a_missing_bucket_is_told_as_such(stub: S3Stub) -> None:
    async with S3ObjectStore("no-such-bucket", AwsSettings(endpoint_url=stub.url)) as store:
        with pytest.raises(ConfigurationError, match="the bucket does not exist"):
            await store.capabilities()


@pytest.mark.parametrize("layout", [ChunkedS3RunLogStore, S3RunLogStore])
async def test_layouts_on_a_server_that_wants_bare_etags(stub: S3Stub, bucket: Bucket, layout: Any) -> None:
    stub.behaviour.match_form = "bare"
    async with layout(**bucket.options) as store:
        await store.create_run_log("run")
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(store.add_step_log(store.create_step_log(f"s{number}", f"s{number}"), "run"))
        await store.update_run_log_status("run", "SUCCESS")
        run_log = await store.get_run_log_by_id("run")
        assert (len(run_log.steps), run_log.status) == (20, "SUCCESS")


@pytest.mark.parametrize("layout", [ChunkedS3RunLogStore, S3RunLogStore])
async def test_layouts_for_a_reader(stub: S3Stub, bucket: Bucket, layout: Any) -> None:
    async with layout(**bucket.options) as store:
        await store.create_run_log("run")
        await store.add_step_log(store.create_step_log("a", "a"), "run")
    # The same objects under a name of which nothing was found out.
    fresh = f"test-{uuid.uuid4().hex}"
    stub.storage.buckets[fresh] = stub.storage.bucket(bucket.name)
    stub.behaviour.read_only = ["accesskey1"]
    async with layout(**{**bucket.options, "s3_bucket": fresh}) as store:
        assert list((await store.get_run_log_by_id("run")).steps) == ["a"]
        with pytest.raises(AccessDeniedError) as caught:
            await store.add_step_log(store.create_step_log("b", "b"), "run")
        assert "probe" not in str(caught.value)
        assert "/run" in str(caught.value)
        with pytest.raises(AccessDeniedError):
            await store.create_run_log("other")
