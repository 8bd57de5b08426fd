"""Each configuration key of AWS does what it says; STS is moto's where the protocol counts, elsewhere a fake one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest

from asyncstore.aws.credentials import NO_PROFILE, CredentialProvider, Credentials
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import AccessDeniedError, AsyncStoreError, ConfigurationError, CredentialsError
from asyncstore.objects.s3 import SINGLE_PUT_LIMIT_BYTES, S3ObjectStore
from asyncstore.testing.s3_stub._messages import S3Error
from tests._canaries import Canaries
from tests._fake_metadata import FakeMetadata
from tests._fake_sts import CANARY, ROLE, FakeSts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from asyncstore.testing.servers import Bucket, S3Server
    from tests._watched import WatchedStub

    Write = Callable[..., None]

UPLOADER = "arn:aws:iam::123456789012:role/uploader"
CONTAINER_PATH = "/v2/credentials/1"


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSts]:
    with FakeSts() as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        yield sts


@pytest.fixture
def metadata() -> Iterator[FakeMetadata]:
    with FakeMetadata() as server:
        yield server


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the keys out of the environment."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home directory, where AWS' files are looked for."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AWS_CONFIG_FILE")
    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE")
    (tmp_path / ".aws").mkdir()
    return tmp_path


@pytest.fixture
def write(home: Path) -> Write:
    """Return what writes a file below ``~/.aws``."""

    def write(name: str, text: str, **values: object) -> None:
        (home / ".aws" / name).write_text(textwrap.dedent(text).format(**values))

    return write


def keys_of(name: str, *, token: bool = False) -> str:
    more = f"aws_session_token = token-of-{name}\n" if token else ""
    return f"aws_access_key_id = {name}\naws_secret_access_key = secret-of-{name}\n{more}"


async def found_by(**keys: Any) -> Credentials:
    return await CredentialProvider(AwsSettings(**keys)).get()


def soon(seconds: float = 300) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)


def handed_out(key: str, expires_at: datetime, *, token: str = "Token") -> dict[str, str]:
    """Return credentials as a metadata service says them."""
    return {
        "Code": "Success",
        "AccessKeyId": key,
        "SecretAccessKey": f"secret-of-{key}",
        token: f"token-of-{key}",
        "Expiration": expires_at.isoformat().replace("+00:00", "Z"),
    }


# aws_profile


async def test_a_named_profile_of_the_home_directory(write: Write) -> None:
    write("credentials", f"[default]\n{keys_of('default')}\n[team]\n{keys_of('team')}aws_session_token = t\n")
    assert await found_by(aws_profile="team") == Credentials("team", "secret-of-team", "t")


@pytest.mark.usefixtures("no_keys")
async def test_an_empty_profile_is_the_default_chain(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("credentials", f"[default]\n{keys_of('default')}\n[team]\n{keys_of('team')}\n")
    assert (await found_by(aws_profile="")).access_key_id == "default"
    monkeypatch.setenv("AWS_PROFILE", "team")
    assert (await found_by()).access_key_id == "team"


async def test_a_profile_with_a_role(write: Write, sts: FakeSts) -> None:
    write("credentials", f"[base]\n{keys_of('base')}\n")
    write("config", "[profile team]\nrole_arn = {role}\nsource_profile = base\n", role=ROLE)
    provider = CredentialProvider(AwsSettings(aws_profile="team"))
    found = await provider.get()
    assert (found.access_key_id, len(sts.calls)) == ("ASIA0000000000000001", 1)
    assert (sts.calls[0]["RoleArn"], sts.calls[0]["asker"]) == (ROLE, "base")
    assert found.expires_at is not None
    assert abs(found.expires_at - datetime.now(UTC) - timedelta(seconds=900)) < timedelta(seconds=30)
    for _ in range(100):
        assert await provider.get() is found
    # botocore itself would ask anew at each of these: 900 s are within its 15 minutes.
    assert len(sts.calls) == 1


async def test_a_profile_with_a_role_of_a_role(write: Write, sts: FakeSts) -> None:
    write("credentials", f"[base]\n{keys_of('base')}\n")
    roles = "[profile middle]\nrole_arn = {role}\nsource_profile = base\n"
    write("config", f"{roles}[profile team]\nrole_arn = {{role}}2\nsource_profile = middle\n", role=ROLE)
    await found_by(aws_profile="team")
    assert [call["asker"] for call in sts.calls] == ["base", "ASIA0000000000000001"]


async def test_a_profile_with_a_program(write: Write, home: Path) -> None:
    expires_at = soon()
    told = {**handed_out("program", expires_at, token="SessionToken"), "Version": 1}
    script, runs = home / "keys.py", home / "runs"
    script.write_text(f"open({str(runs)!r}, 'a').write('.')\nprint({json.dumps(told)!r})\n")
    write("config", "[profile team]\ncredential_process = {python} {script}\n", python=sys.executable, script=script)
    assert await found_by(aws_profile="team") == Credentials(
        "program", "secret-of-program", "token-of-program", expires_at
    )
    assert runs.read_text() == "."


@pytest.mark.parametrize("printed", ["no JSON", '{"Version": 2}', '{"Version": 1}', "", "[]"])
async def test_a_program_that_prints_nonsense(write: Write, home: Path, printed: str) -> None:
    script = home / "keys.py"
    script.write_text(f"print({printed!r})\n")
    write("config", "[profile team]\ncredential_process = {python} {script}\n", python=sys.executable, script=script)
    with pytest.raises(CredentialsError, match="no AWS credentials"):
        await found_by(aws_profile="team")


async def test_a_program_that_is_not_there(write: Write) -> None:
    write("config", "[profile team]\ncredential_process = no-such-program\n")
    with pytest.raises(CredentialsError, match="no-such-program"):
        await found_by(aws_profile="team")


async def test_a_profile_with_a_web_identity(write: Write, home: Path, sts: FakeSts) -> None:
    (home / "token").write_text("the-web-token")
    write(
        "config",
        "[profile team]\nrole_arn = {role}\nweb_identity_token_file = {file}\n",
        role=ROLE,
        file=home / "token",
    )
    found = await found_by(aws_profile="team")
    assert found.access_key_id == "ASIA0000000000000001"
    [call] = sts.calls
    assert (call["Action"], call["WebIdentityToken"]) == ("AssumeRoleWithWebIdentity", "the-web-token")


async def test_a_profile_that_wants_a_code_asks_nobody(write: Write, sts: FakeSts) -> None:
    write("credentials", f"[base]\n{keys_of('base')}\n")
    write(
        "config",
        "[profile team]\nrole_arn = {role}\nsource_profile = base\nmfa_serial = arn:aws:iam::1:mfa/me\n",
        role=ROLE,
    )
    with pytest.raises(CredentialsError, match="wants an MFA code"):
        await found_by(aws_profile="team")
    assert not sts.calls


async def test_a_profile_of_single_sign_on(
    write: Write, home: Path, metadata: FakeMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_url, expires_at = "https://example.awsapps.com/start", soon(3600)
    # botocore has looked at the home directory when it was imported.
    cache = home / ".aws" / "sso" / "cache"
    monkeypatch.setattr("botocore.credentials.SSOProvider._SSO_TOKEN_CACHE_DIR", str(cache))
    monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", metadata.url)
    write(
        "config",
        """
        [profile team]
        sso_start_url = {start_url}
        sso_region = eu-west-1
        sso_account_id = 123456789012
        sso_role_name = reader
        """,
        start_url=start_url,
    )
    with pytest.raises(CredentialsError, match="run 'aws sso login --profile team'"):
        await found_by(aws_profile="team")
    cache.mkdir(parents=True)
    token = {
        "startUrl": start_url,
        "region": "eu-west-1",
        "accessToken": "sso-token",
        "expiresAt": expires_at.isoformat(),
    }
    (cache / f"{hashlib.sha1(start_url.encode()).hexdigest()}.json").write_text(json.dumps(token))
    given = {"accessKeyId": "sso", "secretAccessKey": "s", "sessionToken": "t"}
    given["expiration"] = int(expires_at.timestamp() * 1000)  # type: ignore[assignment]
    metadata.answers["/federation/credentials"] = {"roleCredentials": given}
    assert await found_by(aws_profile="team") == Credentials("sso", "s", "t", expires_at)
    assert metadata.asked[-1][1]["x-amz-sso_bearer_token"] == "sso-token"


async def test_a_profile_that_is_half_there(write: Write) -> None:
    write("credentials", "[team]\naws_access_key_id = id\n")
    with pytest.raises(CredentialsError, match="aws_secret_access_key"):
        await found_by(aws_profile="team")


async def test_a_configuration_that_is_none(write: Write) -> None:
    write("credentials", "[team\naws_secret_access_key = secret-canary\n")
    with pytest.raises(ConfigurationError, match=r"parse config file: .*\.aws/credentials") as caught:
        await found_by(aws_profile="team")
    canaries = Canaries()
    canaries.add("secret", "secret-canary")
    canaries.saw_error("unreadable file", caught.value)
    assert not canaries.found()


# aws_credentials_file


@pytest.mark.usefixtures("no_keys")
async def test_the_credentials_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"[default]\n{keys_of('old')}")
    provider = CredentialProvider(AwsSettings(aws_credentials_file=str(file)))
    old = await provider.get()
    file.write_text(f"[default]\n{keys_of('new')}")
    assert await provider.get() is old
    provider._given_s -= 2
    assert (await provider.renew(old)).access_key_id == "new"


# use_credentials and its names


async def test_the_session_token_goes_with_every_request(
    stub: WatchedStub, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-token")
    settings = AwsSettings(use_credentials=True, endpoint_url=bucket.server.endpoint_url)
    async with S3ObjectStore(bucket.name, settings) as store:
        await store.put("key", b"x")
        await store.read_into("key", (0, 1), lambda _, __: None)
    assert stub.requests_for("GetObject")
    assert {request.headers.get("x-amz-security-token") for request in stub.seen} == {"the-token"}


async def test_use_credentials_looks_nowhere_else(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("credentials", f"[default]\n{keys_of('default')}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert (await found_by()).access_key_id == "default"
    with pytest.raises(CredentialsError, match="lacks AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        await found_by(use_credentials=True)


@pytest.mark.parametrize("key", ["aws_access_key_name", "aws_secret_access_key_name"])
async def test_a_name_that_is_not_set_is_told(key: str) -> None:
    with pytest.raises(CredentialsError, match=r"lacks MY_NAME$"):
        await found_by(use_credentials=True, **{key: "MY_NAME"})


# role_arn, on top of each


def _from_environment(_: Write, __: FakeMetadata, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setenv("MY_ID", "named")
    patch.setenv("MY_TOKEN", "token-of-named")
    return {"use_credentials": True, "aws_access_key_name": "MY_ID", "aws_session_key_name": "MY_TOKEN"}


def _from_profile(write: Write, _: FakeMetadata, __: pytest.MonkeyPatch) -> dict[str, Any]:
    write("credentials", f"[team]\n{keys_of('named', token=True)}\n")
    return {"aws_profile": "team"}


def _from_file(write: Write, _: FakeMetadata, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.delenv("AWS_ACCESS_KEY_ID")
    write("other", f"[default]\n{keys_of('named', token=True)}\n")
    return {"aws_credentials_file": "~/.aws/other"}


def _from_chain(_: Write, __: FakeMetadata, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setenv("AWS_ACCESS_KEY_ID", "named")
    patch.setenv("AWS_SESSION_TOKEN", "token-of-named")
    return {}


def _from_container(_: Write, metadata: FakeMetadata, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.delenv("AWS_ACCESS_KEY_ID")
    metadata.answers[CONTAINER_PATH] = handed_out("named", soon())
    patch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{metadata.url}{CONTAINER_PATH}")
    return {}


@pytest.mark.parametrize("source", [_from_environment, _from_profile, _from_file, _from_chain, _from_container])
async def test_a_role_on_top_of_any_credentials(
    source: Any, write: Write, metadata: FakeMetadata, sts: FakeSts, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await found_by(role_arn=ROLE, **source(write, metadata, monkeypatch))
    assert found.access_key_id == "ASIA0000000000000001"
    asked = [(call["RoleArn"], call["asker"], call["token"]) for call in sts.calls]
    assert asked == [(ROLE, "named", "token-of-named")]


async def test_a_role_assumed_with_a_session_token_by_moto(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-token")
    settings = AwsSettings(
        use_credentials=True, endpoint_url=moto.endpoint_url, role_arn=ROLE, role_session_name="nightly@team"
    )
    assert await arn_of(await CredentialProvider(settings).get(), moto) == role_session_arn("nightly@team")


async def arn_of(keys: Credentials, moto: S3Server) -> str:
    """Return who STS says these keys are."""

    def ask() -> str:
        client = botocore.session.Session(session_vars=NO_PROFILE).create_client(
            "sts",
            region_name=moto.region,
            endpoint_url=moto.endpoint_url,
            aws_access_key_id=keys.access_key_id,
            aws_secret_access_key=keys.secret_access_key,
            aws_session_token=keys.token,
        )
        return str(client.get_caller_identity()["Arn"])

    return await asyncio.to_thread(ask)


def role_session_arn(name: str) -> str:
    return f"arn:aws:sts::123456789012:assumed-role/writer/{name}"


async def test_sessions_are_named_after_the_host(sts: FakeSts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Büro (2).example.org" + "x" * 80)
    await found_by(role_arn=ROLE)
    [name] = [call["RoleSessionName"] for call in sts.calls]
    assert name == ("asyncstore-B-ro--2-.example.org" + "x" * 80)[:64]
    assert re.fullmatch(r"[\w+=,.@-]{2,64}", name, re.ASCII)


async def test_sessions_are_named_as_configured(sts: FakeSts) -> None:
    await found_by(role_arn=ROLE, role_session_name="nightly")
    assert sts.calls[0]["RoleSessionName"] == "nightly"


@pytest.mark.parametrize("name", ["x", "a b", "ü" * 4, "y" * 65, "a/b", "ab\n"])
def test_a_session_name_that_sts_refuses_is_refused_here(name: str) -> None:
    with pytest.raises(ConfigurationError, match="role_session_name"):
        AwsSettings.parse({"role_session_name": name}, "store")


@pytest.mark.parametrize("seconds", [900, 3600])
async def test_the_duration_of_sessions(sts: FakeSts, moto: S3Server, seconds: int, monkeypatch: Any) -> None:
    await found_by(role_arn=ROLE, session_duration_in_seconds=seconds)
    assert sts.calls[0]["DurationSeconds"] == str(seconds)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.endpoint_url)
    found = await found_by(role_arn=ROLE, session_duration_in_seconds=seconds)
    assert found.expires_at is not None
    assert abs((found.expires_at - datetime.now(UTC)).total_seconds() - seconds) < 60


async def test_the_region_is_that_of_every_signature(stub: WatchedStub, bucket: Bucket, sts: FakeSts) -> None:
    settings = AwsSettings(endpoint_url=bucket.server.endpoint_url, region="ap-south-1", role_arn=ROLE)
    async with S3ObjectStore(bucket.name, settings) as store:
        await store.put("key", b"x")
        await store.read_into("key", (0, 1), lambda _, __: None)
    assert {request.headers["authorization"].split("/")[2] for request in stub.seen} == {"ap-south-1"}
    assert [call["region"] for call in sts.calls] == ["ap-south-1"]


@pytest.mark.parametrize(
    ("status", "code", "kind", "told"),
    [
        (403, "AccessDenied", AccessDeniedError, "trust relationship"),
        (403, "ExpiredToken", CredentialsError, "does not accept the credentials: AssumeRole"),
        (403, "InvalidClientTokenId", CredentialsError, "InvalidClientTokenId"),
        (400, "ValidationError", ConfigurationError, "refuses AssumeRole"),
    ],
)
async def test_what_sts_refuses(sts: FakeSts, status: int, code: str, kind: type[Exception], told: str) -> None:
    sts.refuses = lambda _: (status, code)
    with pytest.raises(kind, match=told):
        await found_by(role_arn=ROLE)
    assert len(sts.calls) == 1


# Web identity, containers, instances


@pytest.mark.usefixtures("no_keys")
async def test_web_identity_of_the_environment(moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("the-web-token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_ROLE_SESSION_NAME", "pod")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.endpoint_url)
    found = await found_by()
    assert found.access_key_id.startswith("ASIA")
    assert found.expires_at is not None
    assert await arn_of(found, moto) == role_session_arn("pod")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "missing"))
    with pytest.raises(CredentialsError, match="missing"):
        await found_by()


@pytest.mark.usefixtures("no_keys")
async def test_container_role(metadata: FakeMetadata, monkeypatch: pytest.MonkeyPatch) -> None:
    expires_at = soon()
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{metadata.url}{CONTAINER_PATH}")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-token")
    metadata.answers[CONTAINER_PATH] = handed_out("container", expires_at)
    provider = CredentialProvider(AwsSettings())
    found = await provider.get()
    assert found == Credentials("container", "secret-of-container", "token-of-container", expires_at)
    assert await provider.get() is found
    # Once, though they last less than 15 minutes.
    assert [headers["authorization"] for _, headers in metadata.asked] == ["container-token"]


def on_an_instance(metadata: FakeMetadata, monkeypatch: pytest.MonkeyPatch, expires_at: datetime) -> str:
    """Let this be an instance with a role, and return the path of its keys."""
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
    role = "/latest/meta-data/iam/security-credentials/"
    path = f"{role}my-role"
    metadata.answers |= {
        "/latest/api/token": "imds-token",
        role: "my-role",
        path: handed_out("instance", expires_at),
    }
    return path


@pytest.mark.usefixtures("no_keys")
@pytest.mark.parametrize("seconds", [300, 3600])
async def test_instance_role_expires_when_it_does(
    metadata: FakeMetadata, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    expires_at = soon(seconds)
    path = on_an_instance(metadata, monkeypatch, expires_at)
    found = await found_by()
    assert found == Credentials("instance", "secret-of-instance", "token-of-instance", expires_at)
    assert [asked for asked, _ in metadata.asked].count(path) == 1


@pytest.mark.usefixtures("no_keys")
async def test_an_instance_may_give_keys_beyond_their_expiry(
    metadata: FakeMetadata, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = on_an_instance(metadata, monkeypatch, soon(-300))
    provider = CredentialProvider(AwsSettings())
    found = await provider.get()
    assert (found.access_key_id, found.token) == ("instance", "token-of-instance")
    assert found.expires_at is not None
    assert timedelta(minutes=4) < found.expires_at - datetime.now(UTC) <= timedelta(minutes=5)
    assert await provider.get() is found
    assert [asked for asked, _ in metadata.asked].count(path) == 1
    told = [record.getMessage() for record in caplog.records if record.name.startswith("asyncstore")]
    assert len(told) == 1
    assert "they are used for now" in told[0]


@pytest.mark.usefixtures("no_keys")
async def test_credentials_that_have_expired_already(metadata: FakeMetadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{metadata.url}{CONTAINER_PATH}")
    metadata.answers[CONTAINER_PATH] = handed_out("container", soon(-60))
    with pytest.raises(CredentialsError, match="that were given have expired at"):
        await found_by()


@pytest.mark.usefixtures("no_keys")
async def test_nothing_anywhere() -> None:
    with pytest.raises(CredentialsError, match="no AWS credentials found: set AWS_ACCESS_KEY_ID"):
        await found_by()


# multipart_upload_role_arn


async def test_uploads_in_parts_have_a_role_of_their_own(
    stub: WatchedStub, bucket: Bucket, sts: FakeSts, tmp_path: Path
) -> None:
    files = {name: tmp_path / name for name in ("small", "large")}
    for path, size in zip(files.values(), (SINGLE_PUT_LIMIT_BYTES, SINGLE_PUT_LIMIT_BYTES + 1), strict=True):
        with path.open("wb") as file:
            file.truncate(size)
    settings = AwsSettings(
        endpoint_url=bucket.server.endpoint_url,
        role_arn=ROLE,
        multipart_upload_role_arn=UPLOADER,
        # Told in copies by requests of our own.
        user_metadata={"team": "a"},
    )
    async with S3ObjectStore(bucket.name, settings) as store:
        await store.put_file("small", files["small"])
        assert [call["RoleArn"] for call in sts.calls] == [ROLE]
        await store.put_file("large", files["large"])
        await store.put("key", b"x")
        await store.read_into("large", (0, 1), lambda _, __: None)
        await store.list_uploads("")
        await store.copy("key", "copy")
        await store.delete(["copy"])
    roles = {f"ASIA{number:016}": call["RoleArn"] for number, call in enumerate(sts.calls, 1)}
    assert sorted(roles.values()) == [UPLOADER, ROLE]
    users: dict[str, set[str]] = {ROLE: set(), UPLOADER: set()}
    for request in stub.seen:
        users[roles[request.access_key]].add(request.operation)
    assert users[UPLOADER] == {
        "CreateMultipartUpload",
        "UploadPart",
        "CompleteMultipartUpload",
        "ListMultipartUploads",
    }
    assert users[ROLE] >= {"PutObject", "GetObject", "HeadObject", "CopyObject", "DeleteObjects"}
    assert not users[ROLE] & users[UPLOADER]


async def test_without_such_a_role_parts_have_the_other_one(
    stub: WatchedStub, bucket: Bucket, sts: FakeSts, tmp_path: Path
) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(SINGLE_PUT_LIMIT_BYTES + 1)
    settings = AwsSettings(endpoint_url=bucket.server.endpoint_url, role_arn=ROLE)
    async with S3ObjectStore(bucket.name, settings) as store:
        await store.put_file("large", tmp_path / "large")
    assert {request.access_key for request in stub.seen} == {"ASIA0000000000000001"}
    assert len(sts.calls) == 1


# Secrets


def _web_identity(write: Write, home: Path) -> dict[str, Any]:
    (home / "token").write_text(f"web-{CANARY}-token")
    write(
        "config",
        "[profile team]\nrole_arn = {role}\nweb_identity_token_file = {file}\n",
        role=ROLE,
        file=home / "token",
    )
    return {"aws_profile": "team"}


def _program(write: Write, home: Path) -> dict[str, Any]:
    told = {**handed_out(f"{CANARY}-program", soon(), token="SessionToken"), "AccessKeyId": "x", "Version": 1}
    (home / "keys.py").write_text(f"print({json.dumps(told)!r})")
    write(
        "config",
        "[profile team]\ncredential_process = {python} {script}\n",
        python=sys.executable,
        script=home / "keys.py",
    )
    return {"aws_profile": "team"}


def _broken_program(write: Write, home: Path) -> dict[str, Any]:
    (home / "keys.py").write_text(f'print(\'{{"SecretAccessKey": "{CANARY}"\')')
    write(
        "config",
        "[profile team]\ncredential_process = {python} {script}\n",
        python=sys.executable,
        script=home / "keys.py",
    )
    return {"aws_profile": "team"}


def _chain_of_roles(write: Write, _: Path) -> dict[str, Any]:
    write(
        "credentials",
        f"[base]\naws_access_key_id = base\naws_secret_access_key = {CANARY}\naws_session_token = {CANARY}-t\n",
    )
    write("config", "[profile team]\nrole_arn = {role}\nsource_profile = base\n", role=ROLE)
    return {"aws_profile": "team"}


@pytest.mark.parametrize("source", [_web_identity, _program, _broken_program, _chain_of_roles])
@pytest.mark.parametrize("refused", [False, True])
async def test_secrets_are_seen_nowhere(source: Any, write: Write, home: Path, sts: FakeSts, refused: bool) -> None:
    canaries = Canaries()
    canaries.add("secret", CANARY + "-")
    canaries.add("own", CANARY.ljust(12, "-"))
    sts.refuses = lambda _: (403, "AccessDenied") if refused else None
    provider = CredentialProvider(AwsSettings(role_arn=ROLE, **source(write, home)))
    with canaries.listening():
        try:
            found = await provider.get()
        except (CredentialsError, AccessDeniedError) as error:
            canaries.saw_error("provider", error)
        else:
            canaries.saw_object("keys", found)
            assert CANARY in f"{found.secret_access_key} {found.token}"
    canaries.saw_object("provider", provider)
    assert not canaries.found()


async def test_what_a_container_says_is_seen_nowhere(
    metadata: FakeMetadata, sts: FakeSts, monkeypatch: pytest.MonkeyPatch
) -> None:
    canaries = Canaries()
    canaries.add("secret", f"secret-of-{CANARY}")
    canaries.add("token", f"token-of-{CANARY}")
    canaries.add("authorization", f"container-{CANARY}")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{metadata.url}{CONTAINER_PATH}")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", f"container-{CANARY}")
    told = handed_out(CANARY, soon())
    with canaries.listening():
        for said in (told, json.dumps(told)[:-1], {**told, "Expiration": None}, {**told, "Expiration": "soon"}, None):
            metadata.answers[CONTAINER_PATH] = said
            provider = CredentialProvider(AwsSettings(role_arn=ROLE))
            try:
                canaries.saw_object("keys", await provider.get())
            except CredentialsError as error:
                canaries.saw_error("provider", error)
            canaries.saw_object("provider", provider)
    assert sts.granted == 1
    assert not canaries.found()


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "SignatureDoesNotMatch", "AccessDenied"])
async def test_what_s3_sends_back_is_seen_nowhere(
    stub: WatchedStub, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    canaries = Canaries()
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, f"{name}/{CANARY}+==")
        canaries.add(name, f"{name}/{CANARY}+==")
    token = f"AWS_SESSION_TOKEN/{CANARY}+=="
    shown = {
        "SignatureDoesNotMatch": f"<CanonicalRequest>x-amz-security-token:{token}</CanonicalRequest>",
        "AccessDenied": "",
    }.get(code, f"<Token-0>{token}</Token-0>")
    stub.answer = lambda _: S3Error(403 if "Token" not in code else 400, code, shown).answer
    with canaries.listening():
        async with S3ObjectStore(bucket.name, AwsSettings(endpoint_url=bucket.server.endpoint_url)) as store:
            asked: list[Callable[[], Awaitable[object]]] = [
                lambda: store.put("key", b"x"),
                lambda: store.get("key"),
                lambda: store.head("key"),
                lambda: store.delete(["key"]),
                lambda: store.list_folder(""),
                lambda: store.list_uploads(""),
            ]
            for ask in asked:
                with pytest.raises(AsyncStoreError) as caught:
                    await ask()
                canaries.saw_error(code, caught.value)
                assert code in str(caught.value) or "HTTP 40" in str(caught.value)
    assert not canaries.found()
