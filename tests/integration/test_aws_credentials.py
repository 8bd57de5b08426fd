"""Where credentials come from, and how they stay fresh; STS is moto's, or one that does as it is told."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from asyncstore.aws.credentials import EARLY_SHARE, CredentialProvider, Credentials, GivenCredentials
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import (
    AccessDeniedError,
    AsyncStoreError,
    ClosedError,
    ConfigurationError,
    CredentialsError,
    UnavailableError,
)
from tests._fake_sts import ROLE, FakeSts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncstore.testing.servers import S3Server

CALLERS = 200


async def test_default_chain_reads_the_environment() -> None:
    found = await CredentialProvider(AwsSettings()).get()
    assert (found.access_key_id, found.secret_access_key, found.token) == ("accesskey1", "secretkey1", None)


async def test_named_variables_and_session_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MY_ID", "MY_SECRET", "MY_TOKEN"):
        monkeypatch.setenv(name, name.lower())
    settings = AwsSettings(
        use_credentials=True,
        aws_access_key_name="MY_ID",
        aws_secret_access_key_name="MY_SECRET",
        aws_session_key_name="MY_TOKEN",
    )
    assert await CredentialProvider(settings).get() == Credentials("my_id", "my_secret", "my_token")


async def test_missing_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsError, match=r"lacks AWS_SECRET_ACCESS_KEY$"):
        await CredentialProvider(AwsSettings(use_credentials=True)).get()


async def test_profile_of_the_configured_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE")
    file = tmp_path / "credentials"
    file.write_text("[team]\naws_access_key_id = team-id\naws_secret_access_key = team-secret\n")
    settings = AwsSettings(aws_profile="team", aws_credentials_file=str(file))
    assert (await CredentialProvider(settings).get()).access_key_id == "team-id"


async def test_unknown_profile_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="aws_profile 'nobody' does not exist"):
        await CredentialProvider(AwsSettings(aws_profile="nobody")).get()


async def test_credentials_file_of_the_environment_counts_unless_another_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for name in ("inherited", "given"):
        text = f"[default]\naws_access_key_id = {name}\naws_secret_access_key = secret\n"
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "inherited"))
    assert (await CredentialProvider(AwsSettings()).get()).access_key_id == "inherited"
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = AwsSettings(aws_credentials_file="~/given")
    assert (await CredentialProvider(settings).get()).access_key_id == "given"


async def test_unknown_profile_of_the_environment_harms_only_who_uses_it(
    moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigurationError, match="AWS_PROFILE"):
        await CredentialProvider(AwsSettings()).get()
    settings = AwsSettings(use_credentials=True, endpoint_url=moto.endpoint_url, role_arn=ROLE)
    assert (await CredentialProvider(settings).get()).token


async def test_role_is_assumed_and_kept(moto: S3Server) -> None:
    settings = AwsSettings(endpoint_url=moto.endpoint_url, role_arn=ROLE, session_duration_in_seconds=900)
    provider = CredentialProvider(settings)
    found = await provider.get()
    assert found.token
    assert found.expires_at is not None
    assert found.expires_at - datetime.now(UTC) <= timedelta(seconds=900)
    assert await provider.get() is found


async def test_sts_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncstore.aws.credentials.DELAYS_S", (0.01, 0.01))
    settings = AwsSettings(endpoint_url="http://127.0.0.1:9", role_arn=ROLE)
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await CredentialProvider(settings).get()


# How they stay fresh


class GatedSts(FakeSts):
    """Answers while its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()

    def answer(self, asked: dict[str, str], headers: dict[str, str]) -> tuple[int, str]:
        self.asked.set()
        assert self.gate.wait(60)
        return super().answer(asked, headers)


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatedSts]:
    with GatedSts() as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        yield sts
        sts.gate.set()


@pytest.fixture
def provider(sts: GatedSts) -> CredentialProvider:
    return CredentialProvider(AwsSettings(role_arn=ROLE))


def go_on_waiting() -> None:
    """Wait for as long as it takes."""


async def test_waiting_tasks_share_one_renewal(sts: GatedSts, provider: CredentialProvider) -> None:
    sts.gate.clear()
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(provider.get()) for _ in range(CALLERS)]
        await asyncio.to_thread(sts.asked.wait)
        sts.gate.set()
    assert len({call.result().access_key_id for call in calls}) == 1
    assert (sts.granted, sts.most_at_once) == (1, 1)


async def test_threads_and_tasks_of_any_loop_share_one_renewal(sts: GatedSts, provider: CredentialProvider) -> None:
    sts.gate.clear()
    with ThreadPoolExecutor(20) as pool:
        waits = [asyncio.wrap_future(pool.submit(provider.wait, go_on_waiting)) for _ in range(10)]
        waits += [asyncio.wrap_future(pool.submit(asyncio.run, provider.get())) for _ in range(10)]
        own = asyncio.create_task(provider.get())
        await asyncio.to_thread(sts.asked.wait)
        sts.gate.set()
        keys = {(await wait).access_key_id for wait in [*waits, own]}
    assert (len(keys), sts.granted) == (1, 1)


async def test_a_caller_that_is_cancelled_does_not_disturb_the_others(
    sts: GatedSts, provider: CredentialProvider
) -> None:
    sts.gate.clear()
    first, second = asyncio.create_task(provider.get()), asyncio.create_task(provider.get())
    await asyncio.to_thread(sts.asked.wait)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    sts.gate.set()
    assert (await second).access_key_id
    assert len(sts.calls) == 1


async def test_a_thread_may_give_up(sts: GatedSts, provider: CredentialProvider) -> None:
    sts.gate.clear()

    def check() -> None:
        if sts.asked.is_set():
            raise ClosedError("enough")

    with pytest.raises(ClosedError, match="enough"):
        await asyncio.to_thread(provider.wait, check)
    sts.gate.set()
    assert (await provider.get()).access_key_id
    assert len(sts.calls) == 1


def make_due(provider: CredentialProvider) -> None:
    """Let it be time for an early renewal."""
    provider._due_s = time.time() - 1


async def until_renewed(provider: CredentialProvider) -> None:
    """Wait until no renewal is under way, and what there is to say of it is said."""
    while provider._flight is not None:
        await provider.aclose()
    for thread in threading.enumerate():
        if thread.name == "asyncstore-credentials":
            await asyncio.to_thread(thread.join)


async def test_nobody_waits_for_an_early_renewal(sts: GatedSts, provider: CredentialProvider) -> None:
    old = await provider.get()
    make_due(provider)
    sts.gate.clear()
    sts.asked.clear()
    for _ in range(CALLERS):
        assert await provider.get() is old
    assert await asyncio.to_thread(provider.wait, go_on_waiting) is old
    await asyncio.to_thread(sts.asked.wait)
    sts.gate.set()
    await until_renewed(provider)
    new = await provider.get()
    assert new is not old
    assert (sts.granted, sts.most_at_once) == (2, 1)


async def test_an_early_renewal_that_fails_harms_nobody_and_is_tried_again(
    sts: GatedSts, provider: CredentialProvider, caplog: pytest.LogCaptureFixture
) -> None:
    old = await provider.get()
    for status, code in ((503, "ServiceUnavailable"), (403, "AccessDenied"), (400, "ExpiredToken")):
        sts.refuses = lambda _, refusal=(status, code): refusal  # type: ignore[misc]
        make_due(provider)
        assert await provider.get() is old
        await until_renewed(provider)
        assert await provider.get() is old
    # Once each, and not at every request.
    assert (sts.granted, len(sts.calls)) == (1, 4)
    assert [record.levelno for record in caplog.records if record.name == "asyncstore.aws.credentials"] == [
        logging.WARNING
    ] * 3
    sts.refuses = lambda _: None
    make_due(provider)
    await provider.get()
    await until_renewed(provider)
    assert await provider.get() is not old


async def test_a_renewal_that_fails_is_told_to_all_who_wait(sts: GatedSts, provider: CredentialProvider) -> None:
    sts.refuses = lambda _: (403, "AccessDenied")
    sts.latency_s = 0.1
    told: list[object] = []
    for _ in range(2):
        asked = [asyncio.to_thread(provider.wait, go_on_waiting), *(provider.get() for _ in range(CALLERS))]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {AccessDeniedError}
        told += outcomes
    assert len(sts.calls) == 1
    # Each has an error of its own: they are raised in several threads, and take notes.
    assert len({id(outcome) for outcome in told}) == len(told)


async def test_credentials_in_doubt_are_used_until_there_are_others(
    sts: GatedSts, provider: CredentialProvider
) -> None:
    old = await provider.get()
    provider._given_s -= 60
    sts.gate.clear()
    sts.asked.clear()
    doubts = [asyncio.create_task(provider.renew(old, in_doubt=True)) for _ in range(CALLERS)]
    await asyncio.to_thread(sts.asked.wait)
    assert await provider.get() is old
    sts.gate.set()
    new = (await asyncio.gather(*doubts))[0]
    assert await provider.get() is new is not old
    # Whoever doubted the old ones and comes late.
    assert await provider.renew(old, in_doubt=True) is new
    # They get the same answer, so it is not for the keys, now or later.
    for age_s in (0, 10, 600):
        provider._given_s -= age_s
        with pytest.raises(CredentialsError, match="not the reason"):
            await provider.renew(new, in_doubt=True)
    assert await provider.get() is new
    assert sts.granted == 2


async def test_credentials_in_doubt_are_doubted_again_if_others_fared_better(
    sts: GatedSts, provider: CredentialProvider
) -> None:
    for granted in (2, 3):
        found = await provider.get()
        provider._given_s -= 600
        await asyncio.to_thread(provider.wait_renewed, found, go_on_waiting, in_doubt=True)
        assert sts.granted == granted


async def test_credentials_in_doubt_stay_where_there_are_no_others(sts: GatedSts, provider: CredentialProvider) -> None:
    old = await provider.get()
    provider._given_s -= 60
    sts.refuses = lambda _: (503, "ServiceUnavailable")
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await provider.renew(old, in_doubt=True)
        assert await provider.get() is old
    assert len(sts.calls) == 2


async def test_whoever_writes_the_log_holds_nobody_up(provider: CredentialProvider, sts: GatedSts) -> None:
    await provider.get()
    held: list[bool] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            held.append(provider._lock.locked())

    handler = Handler()
    logger = logging.getLogger("asyncstore.aws.credentials")
    logger.addHandler(handler)
    try:
        sts.refuses = lambda _: (503, "ServiceUnavailable")
        make_due(provider)
        await provider.get()
        await until_renewed(provider)
    finally:
        logger.removeHandler(handler)
    assert held == [False]


async def test_what_has_expired_is_not_at_hand(provider: CredentialProvider) -> None:
    await provider.get()
    provider._until_s = time.time() + 0.1
    provider._take_failure(UnavailableError("STS is down"))
    assert provider._due_s == provider._until_s


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_renewal_under_way_is_not_waited_for_in_a_forked_process(sts: GatedSts, provider: CredentialProvider) -> None:
    sts.gate.clear()
    waiting = threading.Thread(target=provider.wait, args=(go_on_waiting,))
    waiting.start()
    assert sts.asked.wait(60)
    child = os.fork()
    if child == 0:
        deadline_s = time.monotonic() + 20

        def check() -> None:
            if time.monotonic() > deadline_s:
                os._exit(1)

        try:
            os._exit(0 if provider.wait(check).access_key_id else 2)
        finally:
            os._exit(3)
    sts.gate.set()
    assert os.waitpid(child, 0)[1] == 0
    waiting.join()
    assert len(sts.calls) == 2


async def test_it_is_time_for_renewal_at_random(provider: CredentialProvider) -> None:
    shares = []
    for _ in range(50):
        now_s = time.time()
        expires_at = datetime.fromtimestamp(now_s + 1000, UTC)
        given = GivenCredentials(AwsSettings(), Credentials("id", "secret", "token", expires_at))
        shares.append((now_s + 1000 - given._due_s) / 1000)
    assert len(set(shares)) == len(shares)
    assert EARLY_SHARE[0] - 0.01 <= min(shares) < max(shares) <= EARLY_SHARE[1] + 0.01


async def test_those_that_are_refused_are_renewed_once(sts: GatedSts, provider: CredentialProvider) -> None:
    old = await provider.get()
    provider._given_s -= 60
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(provider.renew(old)) for _ in range(CALLERS)]
    assert len({call.result().access_key_id for call in calls}) == 1
    new = await provider.get()
    # Those that were refused a while ago.
    assert await provider.renew(old) is new
    assert await asyncio.to_thread(provider.wait_renewed, old, go_on_waiting) is new
    assert sts.granted == 2
    with pytest.raises(CredentialsError, match="as soon as they were given"):
        await provider.renew(new)


async def test_there_may_be_no_others() -> None:
    provider = CredentialProvider(AwsSettings())
    found = await provider.get()
    provider._given_s -= 60
    with pytest.raises(CredentialsError, match="there are no others"):
        await provider.renew(found)
    assert await provider.get() == found


async def test_what_was_given_is_given_and_nothing_else() -> None:
    keys = Credentials("id", "secret")
    provider = GivenCredentials(AwsSettings(role_arn=ROLE), keys)
    assert await provider.get() is keys
    provider._given_s -= 60
    with pytest.raises(CredentialsError):
        await provider.renew(keys)
    with pytest.raises(TypeError):
        pickle.dumps(provider)


async def test_a_pickled_provider_is_its_settings(sts: GatedSts, provider: CredentialProvider) -> None:
    found = await provider.get()
    pickled = pickle.dumps(provider)
    assert found.access_key_id.encode() not in pickled
    again = pickle.loads(pickled)
    assert (await again.get()).access_key_id != found.access_key_id
    assert sts.calls[0]["RoleArn"] == sts.calls[1]["RoleArn"]
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(found)


async def test_what_it_shows_of_itself(provider: CredentialProvider) -> None:
    assert repr(provider) == f"<CredentialProvider default chain as {ROLE}: none yet>"
    found = await provider.get()
    assert repr(provider).startswith(f"<CredentialProvider default chain as {ROLE}: ")
    assert repr(provider).endswith(" s left>")
    for shown in (repr(provider), repr(found), str(found)):
        assert found.secret_access_key not in shown
        assert str(found.token) not in shown


async def test_closing_waits_a_moment_and_not_for_ever(sts: GatedSts, provider: CredentialProvider) -> None:
    await provider.aclose()
    sts.gate.clear()
    call = asyncio.create_task(provider.get())
    await asyncio.to_thread(sts.asked.wait)
    await provider.aclose()
    assert not call.done()
    sts.gate.set()
    assert (await call).access_key_id
    await provider.aclose()


async def test_threads_that_cannot_be_started(provider: CredentialProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(UnavailableError, match="can't start new thread"):
            await provider.get()
    assert (await provider.get()).access_key_id


async def test_what_is_not_foreseen_is_told_as_well(
    provider: CredentialProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = threading.Event()
    calls: list[None] = []

    def fail(*_: object) -> None:
        calls.append(None)
        assert fails.wait(60)
        raise MemoryError("no more")

    monkeypatch.setattr("asyncstore.aws.credentials.base_credentials", fail)
    waiting = asyncio.create_task(provider.get())
    await asyncio.sleep(0)
    closing = asyncio.create_task(provider.aclose())
    await asyncio.sleep(0)
    fails.set()
    await closing
    for call in (waiting, provider.get()):
        with pytest.raises(MemoryError):
            await call
    assert len(calls) == 1
    monkeypatch.undo()
    with pytest.raises(AsyncStoreError):
        await CredentialProvider(AwsSettings(aws_profile="nobody")).get()
