"""Sessions that end while they are used: nobody notices, and STS is asked as seldom as can be."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

import asyncstore
from asyncstore.aws.credentials import CredentialProvider
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import AsyncStoreError, CredentialsError, UnavailableError
from asyncstore.objects.base import Condition
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.objects.small import Job, SmallGet, SmallHead, SmallPut
from asyncstore.testing.s3_stub._messages import Answer, Behaviour
from tests._fake_sts import ROLE, FakeSts
from tests._processes import short_or_full, tell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from asyncstore.objects.small import SmallObjects, SmallVerb
    from asyncstore.testing.servers import Bucket
    from tests._watched import WatchedStub

MIB = 1024 * 1024
LARGE = 17 * MIB
WORKERS = 200
SESSION_S = 5.0


@pytest.fixture
def sts(stub: WatchedStub) -> Iterator[FakeSts]:
    """Run an STS whose sessions alone the stub accepts."""
    with FakeSts() as sts:
        stub.answer = sts.refusal_of
        yield sts


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Return a file that goes up in parts."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(LARGE)
    return path


@asynccontextmanager
async def store_with(bucket: Bucket, sts: FakeSts) -> AsyncIterator[S3ObjectStore]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        settings = AwsSettings(endpoint_url=bucket.server.endpoint_url, role_arn=ROLE)
        async with S3ObjectStore(bucket.name, settings) as store:
            yield store


async def read_range(store: S3ObjectStore) -> None:
    read = bytearray()
    await store.read_into("there", (1, 3), lambda block, _: read.extend(block))
    assert read == b"he"


async def small(store: S3ObjectStore) -> None:
    answers: list[object] = []
    verbs: list[SmallVerb] = [SmallPut("small", b"x", {}), SmallGet("there", 100), SmallHead("there")]
    jobs = [Job(verb, answers.append) for verb in verbs]
    await store.together(lambda objects: objects.run(iter(jobs), lambda: 3))
    assert not [answer for answer in answers if isinstance(answer, AsyncStoreError)]


async def pages(store: S3ObjectStore) -> None:
    assert [meta.key async for page in store.list("") for meta in page] == ["there"]


async def copied_and_deleted(store: S3ObjectStore) -> None:
    await store.copy("there", "copy")
    await store.delete(["copy"])


VERBS: dict[str, Callable[[S3ObjectStore, Path], Awaitable[object]]] = {
    "put": lambda store, _: store.put("key", b"x"),
    "create": lambda store, _: store.put("key", b"x", condition=Condition(create=True)),
    "get": lambda store, _: store.get("there"),
    "range": lambda store, _: store.get("there", byte_range=(1, 3)),
    "head": lambda store, _: store.head("there"),
    "list": lambda store, _: pages(store),
    "list folder": lambda store, _: store.list_folder(""),
    "delete": lambda store, _: store.delete(["there"]),
    "copy": lambda store, _: store.copy("there", "copy"),
    "read in blocks": lambda store, _: read_range(store),
    "upload in parts": lambda store, large: store.put_file("large", large),
    "list uploads": lambda store, _: store.list_uploads(""),
    "small ones": lambda store, _: small(store),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_keys_that_are_refused_are_renewed_once(
    stub: WatchedStub, bucket: Bucket, sts: FakeSts, large: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncstore.aws.credentials.GIVEN_ANEW_S", 0.0)
    stub.behaviour = Behaviour(ranges="honoured")
    async with store_with(bucket, sts) as store:
        await store.put("there", b"there")
        await store.capabilities()
        sts.revoke()
        await VERBS[verb](store, large)
        assert sts.granted == 2
        # Both engines have the new keys.
        await store.put("after", b"")
        await read_range(store) if verb != "delete" else await store.list_uploads("")
    assert (sts.granted, sts.most_at_once) == (2, 1)


async def test_two_hundred_that_are_refused_renew_once(
    bucket: Bucket, sts: FakeSts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncstore.aws.credentials.GIVEN_ANEW_S", 0.0)
    sts.latency_s = 0.1
    async with store_with(bucket, sts) as store:
        await store.put("there", b"there")
        sts.revoke()
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(store.put(f"{number}", b"x") if number % 2 else read_range(store))
    assert (sts.granted, len(sts.calls), sts.most_at_once) == (2, 2, 1)


async def test_keys_that_are_refused_anew_are_not_renewed_for_ever(
    stub: WatchedStub, bucket: Bucket, sts: FakeSts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncstore.aws.credentials.GIVEN_ANEW_S", 0.0)
    async with store_with(bucket, sts) as store:
        sts.accepts = lambda access_key: False  # type: ignore[method-assign]
        # A HEAD is not told the reason, and one renewal shows that others fare no better.
        attempts: list[tuple[Callable[[], Awaitable[object]], int]] = [
            (lambda: store.put("key", b"x"), 2),
            (lambda: read_range(store), 2),
            (lambda: store.head("key"), 1),
        ]
        for attempt, renewals in attempts:
            before = sts.granted
            with pytest.raises(AsyncStoreError, match=r"ExpiredToken|HTTP 400"):
                await attempt()
            assert sts.granted - before == renewals


def seal(stub: WatchedStub, sts: FakeSts) -> None:
    """Let the HEAD of one object be refused as S3 does where the customer keeps its key for encryption, without it."""
    stub.answer = lambda request: (
        Answer(400, b"") if request.method == "HEAD" and request.key == "sealed" else sts.refusal_of(request)
    )


async def test_one_object_that_gives_no_reason_costs_one_renewal_and_nobody_else(
    stub: WatchedStub, bucket: Bucket, sts: FakeSts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncstore.aws.credentials.GIVEN_ANEW_S", 0.0)
    seal(stub, sts)
    async with store_with(bucket, sts) as store:
        await store.put("there", b"there")
        for _ in range(3):
            with pytest.raises(AsyncStoreError, match="HTTP 400"):
                await store.head("sealed")
            await store.head("there")
        await small_head(store, "sealed")
        assert sts.granted == 2


async def test_one_object_that_gives_no_reason_while_sts_is_down(
    stub: WatchedStub, bucket: Bucket, sts: FakeSts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncstore.aws.credentials.GIVEN_ANEW_S", 0.0)
    seal(stub, sts)
    async with store_with(bucket, sts) as store:
        await store.put("there", b"there")
        sts.refuses = lambda _: (503, "ServiceUnavailable")
        refused = asyncio.create_task(store.head("sealed"))
        while len(sts.calls) < 2:
            await store.put("there", b"there")
        await store.put("there", b"there")
        await store.head("there")
        refused.cancel()


async def small_head(store: S3ObjectStore, key: str) -> None:
    answers: list[object] = []
    await store.together(lambda objects: objects.run(iter([Job(SmallHead(key), answers.append)]), lambda: 1))
    assert [str(answer).endswith("HTTP 400") for answer in answers] == [True]


async def test_keys_refused_as_soon_as_they_are_given_are_not_renewed(bucket: Bucket, sts: FakeSts) -> None:
    async with store_with(bucket, sts) as store:
        sts.revoke()
        for _ in range(3):
            with pytest.raises(CredentialsError, match="the credentials have expired"):
                await store.put("key", b"x")
    assert sts.granted == 1


async def test_a_renewal_that_fails_is_tried_again_for_whoever_waits(
    bucket: Bucket, sts: FakeSts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncstore.aws.credentials.GIVEN_ANEW_S", 0.0)
    sts.refuses = lambda count: (503, "ServiceUnavailable") if count in {1, 2} else None
    async with store_with(bucket, sts) as store:
        await store.put("key", b"x")
        sts.revoke()
        await store.put("key", b"y")
        await read_range_of(store, "key")
    assert (sts.granted, len(sts.calls)) == (2, 4)


async def read_range_of(store: S3ObjectStore, key: str) -> None:
    await store.read_into(key, (0, 1), lambda _, __: None)


async def test_sessions_of_900_s_serve_a_day(sts: FakeSts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks now and then has keys that work, at two thirds of a session's life for each call at least."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
    provider = CredentialProvider(AwsSettings(role_arn=ROLE))
    hours = short_or_full(3, 24)
    for minute in range(hours * 60):
        sts.skew_s = provider._source_clock.skew_s = minute * 60.0
        assert sts.accepts((await provider.get()).access_key_id)
        while provider._flight is not None:
            await provider.aclose()
    assert hours * 3600 / 900 <= sts.granted <= hours * 3600 / (900 * 0.65) + 1
    assert len(sts.calls) == sts.granted


async def test_catalogs_and_run_logs_do_not_notice(
    stub: WatchedStub, bucket: Bucket, sts: FakeSts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
    monkeypatch.chdir(tmp_path)
    sts.session_s, stub.behaviour = 2.0, Behaviour(latency_s=0.05)
    (tmp_path / "data").mkdir()
    for number in range(200):
        (tmp_path / "data" / f"{number}").write_bytes(bytes(100))
    rounds = 0
    async with (
        asyncstore.S3Catalog(**bucket.options, role_arn=ROLE, compute_data_folder="data") as catalog,
        asyncstore.ChunkedS3RunLogStore(**bucket.options, role_arn=ROLE) as runs,
    ):
        while sts.granted < 6:
            rounds += 1
            run_id = f"run-{rounds}"
            await runs.create_run_log(run_id)
            assert len(await catalog.put("**", run_id)) == 200
            assert len(await catalog.get("**", run_id, local_folder=tmp_path / f"copy-{rounds}")) == 200
            await runs.set_parameters(run_id, {"x": rounds})
            assert (await runs.get_run_log_by_id(run_id)).parameters == {"x": rounds}
    # Each of the two has a provider of its own.
    assert sts.most_at_once <= 2


class Load:
    """Workers that use a store in all ways until it is over, and what has gone wrong for them."""

    def __init__(self, store: S3ObjectStore, large: Path, duration_s: float) -> None:
        self._store = store
        self._large = large
        self._end_s = time.monotonic() + duration_s
        self.done: Counter[str] = Counter()
        self.failures: deque[BaseException] = deque()

    async def run(self) -> None:
        await self._store.put("there", bytes(100))
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(number))

    def _goes_on(self) -> bool:
        return time.monotonic() < self._end_s

    async def _work(self, number: int) -> None:
        ways = [self._by_obstore, self._by_wire, self._conditionally]
        way = self._in_parts if number < 2 else self._together if number < 4 else ways[number % 3]
        while self._goes_on():
            try:
                await way(f"{number}")
            except AsyncStoreError as error:
                self.failures.append(error)
            self.done[way.__name__] += 1

    async def _by_obstore(self, key: str) -> None:
        await self._store.put(key, bytes(100))
        await self._store.get(key)
        await self._store.head(key)
        await self._store.delete([key])

    async def _by_wire(self, key: str) -> None:
        await self._store.read_into("there", (0, 100), lambda _, __: None)
        async for _ in self._store.list(f"{key}/"):
            pass
        await self._store.list_uploads(f"{key}/")

    async def _conditionally(self, key: str) -> None:
        etag = await self._store.put(key, bytes(10), condition=Condition(create=True))
        await self._store.put(key, bytes(11), condition=Condition(etag=etag))
        await self._store.copy(key, f"{key}-copy")
        await self._store.delete([key, f"{key}-copy"])

    async def _in_parts(self, key: str) -> None:
        await self._store.put_file(key, self._large)

    async def _together(self, key: str) -> None:
        """Make one call to a thread that lasts as long as everything."""
        await self._store.together(lambda objects: self._volley(objects, key))

    def _volley(self, objects: SmallObjects, key: str) -> None:
        def settle(answer: object) -> None:
            self.done["small"] += 1
            if isinstance(answer, UnavailableError):
                # Each is a single attempt; whoever makes many tries these again.
                self.done["small ones to try again"] += 1
            elif isinstance(answer, AsyncStoreError):
                self.failures.append(answer)

        def jobs() -> Iterator[Job]:
            while self._goes_on():
                yield Job(SmallPut(f"{key}-small", bytes(100), {}), settle)
                yield Job(SmallHead("there"), settle)

        objects.run(jobs(), lambda: 4)


@pytest.mark.parametrize("failing", [0.0, 0.5])
async def test_sessions_that_end_all_the_time(
    stub: WatchedStub,
    bucket: Bucket,
    sts: FakeSts,
    large: Path,
    capsys: pytest.CaptureFixture[str],
    failing: float,
) -> None:
    duration_s = short_or_full(12, 60)
    sts.session_s, sts.latency_s = SESSION_S, 0.05
    chance = random.Random(1)
    stub.behaviour = Behaviour(latency_s=0.05, discards=True, etags="random", checksums="ignored")
    async with store_with(bucket, sts) as store:
        await store.capabilities()
        sts.refuses = lambda _: (503, "ServiceUnavailable") if chance.random() < failing else None
        load = Load(store, large, duration_s)
        await load.run()
    tell(
        capsys,
        f"{duration_s} s, STS failing {failing:.0%}: {sts.granted} sessions by {len(sts.calls)} calls, "
        f"{sts.most_at_once} at once at most; {dict(load.done)}; {len(load.failures)} failures",
    )
    assert not load.failures
    assert 2 <= sts.granted <= math.ceil(duration_s / 3) + 1
    assert sts.most_at_once == 1
    assert load.done["small"] > 2 * duration_s
