"""Many small requests from a thread: one contract, whichever store they are made to."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from asyncstore._core.retry import NO_RETRY
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import (
    ClosedError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    UnavailableError,
    UnsafePathError,
)
from asyncstore.objects._s3._volley import Volley
from asyncstore.objects._s3._wire import Sender, Wire
from asyncstore.objects.base import ObjectMeta
from asyncstore.objects.folder import FolderObjectStore
from asyncstore.objects.memory import MemoryObjectStore
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.objects.small import Job, SmallGet, SmallHead, SmallPut
from asyncstore.testing._objects.base import HOSTILE_KEYS
from asyncstore.testing.s3_stub import Fault
from tests._http_server import KEYS, PlayedServer, ok, serve_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path

    from asyncstore.aws.credentials import Credentials
    from asyncstore.objects.base import ObjectStore
    from asyncstore.objects.small import SmallObjects, SmallVerb
    from asyncstore.testing.servers import Bucket
    from tests._http_server import Peer
    from tests._watched import WatchedStub

R = TypeVar("R")

PATIENCE_S = 30


def s3(bucket: Bucket, **options: Any) -> S3ObjectStore:
    return S3ObjectStore(bucket.name, AwsSettings(endpoint_url=bucket.server.endpoint_url), **options)


@pytest.fixture(params=["memory", "folder", "stub", "moto", "rclone"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    made: ObjectStore
    match request.param:
        case "memory":
            made = MemoryObjectStore()
        case "folder":
            made = FolderObjectStore(tmp_path / "objects")
        case name:
            made = s3(request.getfixturevalue({"stub": "stub_bucket"}.get(name, f"{name}_bucket")))
    async with made:
        yield made


def put(key: str, data: bytes = b"data", **metadata: str) -> SmallPut:
    return SmallPut(key, data, metadata, hashlib.sha256(data).hexdigest())


def done(objects: SmallObjects, verbs: Iterable[SmallVerb], at_once: Callable[[], int] = lambda: 8) -> list[Any]:
    """Return the answers in the order of the requests."""
    answers: dict[int, Any] = {}

    def settle(number: int, answer: Any) -> None:
        assert number not in answers
        answers[number] = answer

    listed = list(verbs)
    objects.run((Job(verb, partial(settle, number)) for number, verb in enumerate(listed)), at_once)
    assert len(answers) == len(listed)
    return [answers[number] for number in range(len(listed))]


async def together(store: ObjectStore, *verbs: SmallVerb, at_once: Callable[[], int] = lambda: 8) -> list[Any]:
    writes = [verb.key for verb in verbs if isinstance(verb, SmallPut)]
    return await store.together(lambda objects: done(objects, verbs, at_once), writes=writes)


async def test_what_is_put_is_there(store: ObjectStore) -> None:
    contents = {f"a/{number}": b"%d" % number * number for number in range(100)}
    etags = await together(store, *(put(key, data) for key, data in contents.items()))
    for (key, data), etag in zip(contents.items(), etags, strict=True):
        assert isinstance(etag, str)
        meta, found = await store.get(key)
        assert (found, meta.etag) == (data, etag)
    answers = await together(store, *(SmallGet(key, len(data)) for key, data in contents.items()))
    for (key, data), (meta, found), etag in zip(contents.items(), answers, etags, strict=True):
        assert found == data
        assert (meta.key, meta.size_bytes, meta.etag) == (key, len(data), etag)
    metas = await together(store, *map(SmallHead, contents))
    assert metas == [meta for meta, _ in answers]
    assert metas == [await store.head(key) for key in contents]


async def test_keys_are_what_they_are(store: ObjectStore) -> None:
    keys = [f"a/{number}/{key}" for number, key in enumerate(HOSTILE_KEYS)]
    etags = await together(store, *(put(key, key.encode()) for key in keys))
    assert {type(etag) for etag in etags} == {str}, etags
    assert [data for _, data in await together(store, *(SmallGet(key, 1000) for key in keys))] == [
        key.encode() for key in keys
    ]
    assert [meta.key for meta in await together(store, *map(SmallHead, keys))] == keys
    assert sorted([meta.key async for page in store.list("a/") for meta in page]) == sorted(keys)


async def test_metadata_is_kept_as_it_is(store: ObjectStore) -> None:
    if isinstance(store, FolderObjectStore):
        pytest.skip("a folder keeps none")
    said = {"a": "b  c   d", "sha256": "0" * 64, "empty": "", "odd": "a=b&c+d%20\"'<>;,"}
    await together(store, SmallPut("key", b"x", said))
    [(meta, _), head] = await together(store, SmallGet("key", 1), SmallHead("key"))
    assert dict(meta.metadata) == dict(head.metadata) == said


async def test_each_failure_is_its_own(store: ObjectStore) -> None:
    await together(store, put("there", b"12345"))
    answers = await together(
        store,
        SmallGet("there", 5),
        SmallGet("missing", 5),
        SmallGet("there", 4),
        SmallHead("missing"),
        SmallGet("a/../b", 1),
        put("a//b"),
        SmallHead("/"),
        put("\x00"),
        SmallGet("there", 0),
        SmallHead("there"),
        put("other"),
    )
    kinds: list[type] = [tuple, NotFoundError, ConflictError, NotFoundError, *[UnsafePathError] * 4, ConflictError]
    assert [type(answer) for answer in answers] == [*kinds, ObjectMeta, str]


async def test_empty_objects(store: ObjectStore) -> None:
    assert isinstance((await together(store, put("empty", b"")))[0], str)
    [(meta, data), head] = await together(store, SmallGet("empty", 0), SmallHead("empty"))
    assert (meta.size_bytes, data, head.size_bytes) == (0, b"", 0)


async def test_the_last_of_two_runs_stands(store: ObjectStore) -> None:
    def work(objects: SmallObjects) -> None:
        for content in (b"first", b"second", b"third"):
            done(objects, [put(f"{number}", content) for number in range(10)])

    await store.together(work, writes=[f"{number}" for number in range(10)])
    for number in range(10):
        assert (await store.get(f"{number}"))[1] == b"third"


async def test_what_work_returns_and_raises(store: ObjectStore) -> None:
    assert await store.together(lambda _: "result") == "result"
    assert await store.together(lambda objects: done(objects, [])) == []
    empty: dict[str, str] = {}
    with pytest.raises(KeyError, match="ours"):
        await store.together(lambda _: empty["ours"])


@pytest.mark.parametrize("at_once", [0, 1, 3, 1000])
async def test_jobs_are_asked_for_when_there_is_room(store: ObjectStore, at_once: int) -> None:
    begun: list[str] = []
    settled: list[str] = []

    def jobs() -> Iterator[Job]:
        for number in range(30):
            assert len(begun) - len(settled) < max(1, at_once)
            begun.append(f"{number}")
            yield Job(put(f"{number}"), lambda _, number=number: settled.append(f"{number}"))  # type: ignore[misc]

    await store.together(lambda objects: objects.run(jobs(), lambda: at_once), writes=map(str, range(30)))
    assert sorted(begun) == sorted(settled) == sorted(map(str, range(30)))


async def test_room_may_come_and_go(store: ObjectStore) -> None:
    limits = itertools.cycle([1, 9, 0, 4])
    now = [1]
    under_way = [0]

    def at_once() -> int:
        now[0] = next(limits)
        return now[0]

    def settle(_: object) -> None:
        under_way[0] -= 1

    def jobs() -> Iterator[Job]:
        for number in range(60):
            assert under_way[0] < 9
            under_way[0] += 1
            yield Job(put(f"{number}"), settle)

    await store.together(lambda objects: objects.run(jobs(), at_once), writes=map(str, range(60)))
    assert under_way[0] == 0


@pytest.mark.parametrize("error", [RuntimeError("ours"), NotFoundError("ours")])
@pytest.mark.parametrize("where", ["settle", "jobs", "at_once"])
async def test_what_the_caller_raises_ends_it(store: ObjectStore, error: Exception, where: str) -> None:
    count = itertools.count()

    def fail(place: str) -> None:
        if place == where and next(count) == 5:
            raise error

    def jobs() -> Iterator[Job]:
        for number in range(50):
            fail("jobs")
            yield Job(put(f"{number}"), lambda _: fail("settle"))

    def at_once() -> int:
        fail("at_once")
        return 4

    if where == "at_once" and isinstance(store, FolderObjectStore):
        pytest.skip("one at a time, it does not ask")
    with pytest.raises(type(error), match="ours"):
        await store.together(lambda objects: objects.run(jobs(), at_once), writes=map(str, range(50)))
    # Nothing is on its way any more that could be later than this.
    await together(store, *(put(f"{number}", b"later") for number in range(50)))
    for number in range(50):
        assert (await store.get(f"{number}"))[1] == b"later"


async def test_a_caller_that_is_cancelled_begins_nothing_more(store: ObjectStore) -> None:
    begun: list[int] = []
    reached, cancelled = threading.Event(), threading.Event()

    def jobs() -> Iterator[Job]:
        for number in itertools.count():
            if number == 20:
                reached.set()
                assert cancelled.wait(PATIENCE_S)
            begun.append(number)
            assert number < 1000
            yield Job(put(f"{number % 10}", b"earlier"), lambda _: None)

    def work(objects: SmallObjects) -> None:
        objects.run(jobs(), lambda: 4)

    calling = asyncio.create_task(store.together(work, writes=map(str, range(10))))
    await asyncio.to_thread(reached.wait, PATIENCE_S)
    calling.cancel()
    # Some wait for the thread, and some only tell it.
    await asyncio.wait([calling], timeout=0.5)
    cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await together(store, *(put(f"{number}", b"later") for number in range(10)))
    assert len(begun) < 40
    for number in range(10):
        assert (await store.get(f"{number}"))[1] == b"later"


async def test_nothing_lands_for_a_caller_that_is_gone(store: ObjectStore) -> None:
    landed: list[str] = []
    reached, cancelled = threading.Event(), threading.Event()
    refused: list[ClosedError] = []

    def work(objects: SmallObjects) -> None:
        with objects.landing():
            landed.append("before")
        reached.set()
        assert cancelled.wait(PATIENCE_S)
        try:
            with objects.landing():
                landed.append("after")
        except ClosedError as error:
            refused.append(error)

    async def cancel() -> None:
        await asyncio.to_thread(reached.wait, PATIENCE_S)
        calling.cancel()
        await asyncio.to_thread(cancelled.wait, 0.1)
        cancelled.set()

    calling = asyncio.create_task(store.together(work))
    cancelling = asyncio.create_task(cancel())
    with pytest.raises(asyncio.CancelledError):
        await calling
    await cancelling
    assert landed == ["before"]
    # The thread of a store over a network may still be on its way.
    await asyncio.to_thread(lambda: [event.wait(0.01) for event in [threading.Event()] * 100 if not refused])
    assert len(refused) == 1


async def test_what_is_landing_is_waited_for(store: ObjectStore) -> None:
    landing, go_on = threading.Event(), threading.Event()
    landed: list[str] = []

    def work(objects: SmallObjects) -> None:
        with objects.landing():
            landing.set()
            assert go_on.wait(PATIENCE_S)
            landed.append("whole")

    calling = asyncio.create_task(store.together(work))
    await asyncio.to_thread(landing.wait, PATIENCE_S)
    calling.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not calling.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert landed == ["whole"]


async def test_a_closed_store_does_nothing(store: ObjectStore) -> None:
    await store.aclose()
    try:
        answers = await together(store, put("key"), SmallGet("key", 1))
    except ClosedError:
        return
    assert [type(answer) for answer in answers] == [ClosedError] * 2


async def test_a_store_that_is_closed_meanwhile(store: ObjectStore) -> None:
    reached, closed = threading.Event(), threading.Event()
    answers: list[Any] = []

    def jobs() -> Iterator[Job]:
        for number in range(200):
            if number == 20:
                reached.set()
                assert closed.wait(PATIENCE_S)
            yield Job(put(f"{number}"), answers.append)

    calling = asyncio.create_task(
        store.together(lambda objects: objects.run(jobs(), lambda: 4), writes=map(str, range(200)))
    )
    await asyncio.to_thread(reached.wait, PATIENCE_S)
    closing = asyncio.create_task(store.aclose())
    await asyncio.sleep(0)
    closed.set()
    try:
        await calling
    except ClosedError:
        pass
    else:
        # A folder has nothing that closes.
        assert ClosedError in {type(answer) for answer in answers} or isinstance(store, FolderObjectStore)
    await closing
    assert {type(answer) for answer in answers} <= {str, ClosedError}


# On S3.


async def test_keys_on_their_way_are_taken_until_they_have_landed(stub: WatchedStub, bucket: Bucket) -> None:
    settled: list[Any] = []
    stub.behaviour.latency_s = 0.3
    async with s3(bucket, retry=NO_RETRY) as store:

        def work(objects: SmallObjects) -> None:
            objects.run((Job(put(f"{number}", b"earlier"), settled.append) for number in itertools.count()), lambda: 8)

        calling = asyncio.create_task(store.together(work, writes=map(str, range(8))))
        await stub.asked("PutObject")
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert not settled
        assert {f"{number}" for number in range(8)} >= set(store._abandoned) > set()
        taken = sorted(store._abandoned)
        await together(store, *(put(key, b"later") for key in taken))
        assert set(map(type, settled)) == {str}
        assert not store._abandoned
        for key in taken:
            assert (await store.get(key))[1] == b"later"


async def test_a_request_that_fails_is_not_made_again(stub: WatchedStub, bucket: Bucket) -> None:
    async with s3(bucket) as store:
        stub.faults = [Fault("slow_down", operation="HeadObject", times=5)]
        answers = await together(store, *(SmallHead(f"missing-{number}") for number in range(10)))
        assert stub.requests["HeadObject"] == 10
    assert sorted(type(answer).__name__ for answer in answers) == [*["NotFoundError"] * 5, *["UnavailableError"] * 5]
    assert sum(getattr(answer, "throttled", False) for answer in answers) == 5


async def test_what_is_stored_is_what_was_meant(bucket: Bucket, stub: WatchedStub) -> None:
    settings = AwsSettings(
        endpoint_url=bucket.server.endpoint_url,
        storage_class="STANDARD_IA",
        object_tags={"team": "a b+c"},
        user_metadata={"owner": "x  y"},
    )
    async with S3ObjectStore(bucket.name, settings) as store:
        await together(store, put("key", b"x", sha256="1"))
        [request] = stub.requests_for("PutObject")
    assert request.headers["x-amz-storage-class"] == "STANDARD_IA"
    assert request.headers["x-amz-tagging"] == "team=a%20b%2Bc"
    assert request.headers["x-amz-meta-owner"] == "x  y"
    assert request.headers["x-amz-meta-sha256"] == "1"
    assert request.headers["x-amz-content-sha256"] == hashlib.sha256(b"x").hexdigest()


async def test_no_server(unused_tcp_port: int) -> None:
    settings = AwsSettings(endpoint_url=f"http://127.0.0.1:{unused_tcp_port}")
    async with S3ObjectStore("bucket", settings, retry=NO_RETRY) as store:
        answers = await together(store, *(SmallHead(f"{number}") for number in range(100)))
    assert {type(answer).__mro__[1] for answer in answers} == {UnavailableError}
    assert not [answer for answer in answers if answer.answer_lost]


# What servers say.


def volley_to(server: PlayedServer) -> tuple[Volley, Wire]:
    wire = Wire(server.url, "eu-west-1", None, connections=4)
    return Volley(Sender(wire, Provider()), str, {}, {}), wire  # type: ignore[arg-type]


class Provider:
    def wait(self, _: object) -> Credentials:
        return KEYS


@pytest.mark.parametrize("length", ["9" * 30, "9" * 6000, "-1", "", "5, 5", "x"])
def test_a_size_that_is_none(length: str) -> None:
    raw = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nLast-Modified: Sat, 21 Nov 2026 00:00:00 GMT\r\n\r\n"
    with PlayedServer(serve_all(lambda _: raw.encode())) as server:
        volley, wire = volley_to(server)
        answers = done(volley, [SmallHead("key"), SmallGet("key", 100)])
        wire.close()
    assert [type(answer) for answer in answers] == [IntegrityError, UnavailableError]


def test_a_key_is_on_its_way_until_the_last_write_of_it_is_over() -> None:
    seen: list[tuple[str, ...]] = []

    def play(peer: Peer) -> None:
        while (asked := peer.request()) is not None:
            if asked.body == b"second":
                # When all the others have been answered.
                while len(seen) < 3:
                    peer.pause(0.01)
            peer.say(ok())

    with PlayedServer(play) as server:
        volley, wire = volley_to(server)

        def jobs() -> Iterator[Job]:
            for verb in (put("key", b"second"), put("key", b"first"), SmallGet("key", 0), put("other")):
                yield Job(verb, lambda _: seen.append(tuple(sorted(volley.writing))))

        volley.run(jobs(), lambda: 4)
        wire.close()
    # Each is told when its own is still on its way.
    assert all("key" in keys for keys in seen)
    assert not volley.writing
