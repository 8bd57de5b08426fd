"""A machine whose clock is wrong: it is found out from what servers say, and whatever is signed is signed by theirs."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.aws.clock import ServerClock
from asyncstore.aws.credentials import CredentialProvider, Credentials, GivenCredentials
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AsyncStoreError,
    ConflictError,
    CredentialsError,
    NotFoundError,
)
from asyncstore.objects.base import Condition
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.objects.small import Job, SmallGet, SmallHead, SmallPut
from asyncstore.testing.s3_stub._messages import Answer, S3Error
from tests._fake_sts import ROLE, FakeSts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from asyncstore.objects.small import SmallVerb
    from asyncstore.testing.s3_stub._messages import Request
    from asyncstore.testing.servers import Bucket
    from tests._watched import WatchedStub

SKEWS = [-5000.0, 5000.0]


@pytest.fixture
def sts(stub: WatchedStub, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSts]:
    """Run an STS with whose clock the stub's agrees; any keys are accepted."""
    with FakeSts() as sts:
        sts.accepts = lambda access_key: True  # type: ignore[method-assign]
        stub.answer = sts.refusal_of
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        yield sts


def objects_of(bucket: Bucket, **keys: Any) -> S3ObjectStore:
    return S3ObjectStore(bucket.name, AwsSettings(endpoint_url=bucket.server.endpoint_url, **keys))


def refused(stub: WatchedStub, sts: FakeSts) -> list[str]:
    return [request.operation for request in stub.seen if sts.refusal_of(request) is not None]


@pytest.mark.parametrize("skew_s", SKEWS)
@pytest.mark.parametrize("role", ["", ROLE])
async def test_everything_goes_on(
    stub: WatchedStub, bucket: Bucket, sts: FakeSts, tmp_path: Path, skew_s: float, role: str
) -> None:
    sts.skew_s = skew_s
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    async with objects_of(bucket, role_arn=role, user_metadata={"team": "a"}) as store:
        etag = await store.put("f/a", b"0123456789", metadata={"k": "v"})
        # Of S3, if STS has not told already.
        assert len(refused(stub, sts)) == (0 if role else 1)
        assert await store.head("f/a") == (await store.get("f/a"))[0]
        meta, data = await store.get("f/a", etag=etag)
        assert (data, meta.etag, meta.size_bytes, meta.metadata["k"], meta.metadata["team"]) == (
            b"0123456789", etag, 10, "v", "a"
        )  # fmt: skip
        assert (await store.get("f/a", byte_range=(2, 4)))[1] == b"23"
        assert (await store.get("f/a", byte_range=(8, 99)))[1] == b"89"
        assert (await store.get("f/a", byte_range=(8, 99)))[0].size_bytes == 10
        with pytest.raises(ConflictError):
            await store.get("f/a", etag='"other"')
        with pytest.raises(NotFoundError):
            await store.get("missing")
        with pytest.raises(NotFoundError):
            await store.head("missing")
        with pytest.raises(AlreadyExistsError):
            await store.put("f/a", b"", condition=Condition(create=True))
        with pytest.raises(ConflictError):
            await store.put("f/a", b"", condition=Condition(etag='"other"'))
        etag = await store.put("f/a", b"other", condition=Condition(etag=etag))
        await store.copy("f/a", "b c&+é")
        folder = await store.list_folder("")
        assert (list(folder.folders), [meta.key for meta in folder.objects]) == (["f/"], ["b c&+é"])
        assert [meta.key async for page in store.list("") for meta in page] == ["b c&+é", "f/a"]
        await store.put_file("large", large)
        await store.read_into("large", (0, 5), lambda _, __: None)
        answers: list[object] = []
        verbs: list[SmallVerb] = [SmallPut("small", b"x", {}), SmallGet("f/a", 100), SmallHead("f/a")]
        jobs = [Job(verb, answers.append) for verb in verbs]
        await store.together(lambda objects: objects.run(iter(jobs), lambda: 3))
        assert not [answer for answer in answers if isinstance(answer, AsyncStoreError)]
        await store.delete(["f/a", "missing", "b c&+é", "large", "small"])
        assert list(await store.list_all("")) == []
        assert len(refused(stub, sts)) == (0 if role else 1)
    assert len(sts.calls) == (2 if role else 0)


@pytest.mark.parametrize("skew_s", SKEWS)
@pytest.mark.parametrize("verb", ["head", "list_folder", "delete", "copy", "get", "list_all", "list_uploads"])
async def test_the_first_request_may_be_any(
    stub: WatchedStub, bucket: Bucket, sts: FakeSts, skew_s: float, verb: str
) -> None:
    async with objects_of(bucket) as store:
        await store.put("key", b"x")
    sts.skew_s = skew_s
    arguments: dict[str, tuple[Any, ...]] = {"copy": ("key", "copy"), "delete": (["key"],)}
    default = ("",) if "list" in verb else ("key",)
    async with objects_of(bucket) as store:
        await getattr(store, verb)(*arguments.get(verb, default))
    assert refused(stub, sts)


async def test_small_ones_may_be_the_first(stub: WatchedStub, bucket: Bucket, sts: FakeSts) -> None:
    sts.skew_s = SKEWS[0]
    answers: list[object] = []
    jobs = [Job(SmallHead("missing"), answers.append), Job(SmallPut("small", b"x", {}), answers.append)]
    async with objects_of(bucket) as store:
        await store.together(lambda objects: objects.run(iter(jobs), lambda: 1))
    assert sorted(type(answer).__name__ for answer in answers) == ["NotFoundError", "str"]


async def test_many_may_be_the_first(stub: WatchedStub, bucket: Bucket, sts: FakeSts) -> None:
    async with objects_of(bucket) as store:
        await store.put("key", b"x")
    sts.skew_s = SKEWS[1]
    stub.behaviour.latency_s = 0.1
    answers: list[object] = []
    jobs = [Job(SmallHead("key"), answers.append) for _ in range(20)]
    async with objects_of(bucket) as store, asyncio.TaskGroup() as group:
        group.create_task(store.together(lambda objects: objects.run(iter(jobs), lambda: 20)))
        for number in range(20):
            group.create_task(store.list_uploads(f"{number}/"))
            group.create_task(store.get("key"))
    assert not [answer for answer in answers if isinstance(answer, AsyncStoreError)]
    assert len(refused(stub, sts)) > 10


async def test_what_is_denied_is_denied(stub: WatchedStub, bucket: Bucket) -> None:
    stub.answer = lambda _: S3Error(403, "AccessDenied").answer
    async with objects_of(bucket) as store:
        for ask in (lambda: store.head("key"), lambda: store.get("key"), lambda: store.list_uploads("")):
            with pytest.raises(AccessDeniedError):
                await ask()


async def test_a_server_that_is_never_content(stub: WatchedStub, bucket: Bucket) -> None:
    """The error says by how much the clocks differ, and the server is not asked for ever."""

    def refuse(_: Request) -> Answer:
        said = "2001-01-01T00:00:00Z"
        return Answer(403, f"<Error><Code>RequestTimeTooSkewed</Code><ServerTime>{said}</ServerTime></Error>".encode())

    stub.answer = refuse
    async with objects_of(bucket) as store:
        for ask in (lambda: store.put("key", b"x"), lambda: store.list_uploads("")):
            stub.seen.clear()
            with pytest.raises(CredentialsError, match=r"this machine's clock is \d{9} s ahead of the server's"):
                await ask()
            assert len(stub.seen) <= 4


@pytest.mark.parametrize("skew_s", SKEWS)
@pytest.mark.parametrize("session_s", [900.0, 3.0])
async def test_sessions_end_by_the_servers_clock(sts: FakeSts, skew_s: float, session_s: float) -> None:
    sts.skew_s, sts.session_s = skew_s, session_s
    provider = CredentialProvider(AwsSettings(role_arn=ROLE))
    found = await provider.get()
    assert abs(provider.clock.skew_s - skew_s) < 5
    assert sts.accepts(found.access_key_id)
    for _ in range(50):
        assert await provider.get() is found
    assert (sts.granted, len(sts.calls)) == (1, 2)
    if session_s < 900:
        # A second more, for times are told in whole ones.
        await asyncio.sleep(session_s + 1)
        assert await provider.get() is not found
        # The clock is known by now.
        assert (sts.granted, len(sts.calls)) == (2, 3)


@pytest.mark.parametrize("skew_s", [-1200.0, 1200.0])
async def test_a_server_with_another_clock_than_the_one_that_gives_sessions(
    stub: WatchedStub, bucket: Bucket, sts: FakeSts, skew_s: float
) -> None:
    servers = FakeSts()
    servers.skew_s, servers.accepts = skew_s, lambda access_key: True  # type: ignore[method-assign]
    stub.answer = servers.refusal_of
    async with objects_of(bucket, role_arn=ROLE) as store:
        for _ in range(3):
            await store.put("key", b"x")
            await store.list_all("")
        keys = await store._credentials.get()
        assert keys.expires_at is not None
        # By the clock of STS, and of this machine.
        assert 0 < store._credentials._until_s - time.time() <= sts.session_s
        assert abs(store._credentials.clock.skew_s - skew_s) < 5
        assert len(refused(stub, servers)) == 1
    assert len(sts.calls) == 1


async def test_a_profile_with_a_role(sts: FakeSts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sts.skew_s = SKEWS[0]
    config = tmp_path / "config"
    config.write_text(
        "[profile base]\naws_access_key_id = base\naws_secret_access_key = secret\n"
        f"[profile team]\nrole_arn = {ROLE}\nsource_profile = base\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    found = await CredentialProvider(AwsSettings(aws_profile="team")).get()
    assert found.access_key_id == "ASIA0000000000000001"
    assert len(sts.calls) == 2


async def test_wrong_keys_are_told_from_a_wrong_clock(sts: FakeSts) -> None:
    sts.refuses = lambda _: (403, "SignatureDoesNotMatch")
    with pytest.raises(CredentialsError, match="SignatureDoesNotMatch"):
        await CredentialProvider(AwsSettings(role_arn=ROLE)).get()
    assert len(sts.calls) == 1


def test_a_clock_takes_no_notice_of_what_may_be_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    clock = ServerClock()
    assert not clock.learn(1029.0)
    assert (clock.skew_s, clock.is_far_off) == (0.0, False)
    assert clock.learn(1100.0)
    assert (clock.now_s(), clock.is_far_off) == (1100.0, False)
    assert not clock.learn(1099.0)
    assert clock.learn(0.0)
    assert clock.is_far_off
    # It was set right meanwhile.
    assert clock.learn(1001.0)
    assert clock.now_s() == 1000.0


def tells_by_date_alone(sts: FakeSts, *, date: bool = True) -> Callable[[Request], Answer | None]:
    """Return what servers answer that have no ``<ServerTime>``: MinIO, Ceph, rclone."""

    def answer(request: Request) -> Answer | None:
        refusal = sts.refusal_of(request)
        body = b"<Error><Code>RequestTimeTooSkewed</Code></Error>"
        return refusal and Answer(refusal.status, body, refusal.headers if date else {})

    return answer


@pytest.mark.parametrize("skew_s", SKEWS)
@pytest.mark.parametrize("verb", ["put", "get", "head", "list_folder", "delete", "copy"])
async def test_the_date_of_a_refusal_is_enough(
    stub: WatchedStub, bucket: Bucket, sts: FakeSts, skew_s: float, verb: str
) -> None:
    async with objects_of(bucket) as store:
        await store.put("key", b"x")
        stub.seen.clear()
        sts.skew_s = skew_s
        stub.answer = tells_by_date_alone(sts)
        arguments: dict[str, tuple[Any, ...]] = {
            "copy": ("key", "copy"),
            "delete": (["key"],),
            "list_folder": ("",),
            "put": ("key", b"y"),
        }
        await getattr(store, verb)(*arguments.get(verb, ("key",)))
        # By obstore, which does not see the date, and by our own request, which goes by it from then on.
        assert len(refused(stub, sts)) == 2
        await store.put("key", b"z")
        assert (await store.get("key"))[1] == b"z"
        assert len(refused(stub, sts)) == 2


async def test_a_server_that_does_not_tell_the_time_is_not_asked_for_ever(
    stub: WatchedStub, bucket: Bucket, sts: FakeSts
) -> None:
    sts.skew_s = SKEWS[1]
    stub.answer = tells_by_date_alone(sts, date=False)
    async with objects_of(bucket) as store:
        for ask in (lambda: store.put("key", b"x"), lambda: store.get("key"), lambda: store.list_folder("")):
            stub.seen.clear()
            with pytest.raises(CredentialsError, match="this machine's clock is wrong"):
                await ask()
            assert len(stub.seen) == 2


@pytest.mark.parametrize("skew_s", SKEWS)
async def test_a_clock_may_jump_before_a_head(stub: WatchedStub, bucket: Bucket, sts: FakeSts, skew_s: float) -> None:
    """The answer to a HEAD has no body, so a wrong clock looks like a missing permission."""
    async with objects_of(bucket) as store:
        await store.put("key", b"x")
        for sts.skew_s in (0.0, skew_s, 0.0, -skew_s):
            assert (await store.head("key")).size_bytes == 1
    assert len(refused(stub, sts)) > 0


async def test_what_is_denied_by_a_clock_that_is_far_off_is_asked_once(
    stub: WatchedStub, bucket: Bucket, sts: FakeSts
) -> None:
    sts.skew_s = SKEWS[0]
    async with objects_of(bucket) as store:
        await store.put("key", b"x")
        stub.answer = lambda _: S3Error(403, "AccessDenied").answer
        stub.seen.clear()
        with pytest.raises(AccessDeniedError):
            await store.head("key")
        assert len(stub.seen) == 1


def test_what_keys_have_left_is_told_by_the_clock_of_whoever_gave_them() -> None:
    keys = Credentials("A", "b", "t", datetime.now(UTC) + timedelta(seconds=900))
    provider = GivenCredentials(AwsSettings(), keys)
    provider.clock.learn(time.time() + 1200)
    assert 890 < provider.seconds_left(keys) <= 900
    assert provider.seconds_left(Credentials("A", "b")) == math.inf
