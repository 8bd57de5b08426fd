"""Secrets of AWS Secrets Manager: moto's, seen through a relay that notes what it is asked."""

from __future__ import annotations

import asyncio
import base64
import copy
import http.client
import json
import logging
import pickle
import re
import traceback
import uuid
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import boto3
import botocore.session
import pytest

import asyncstore
from asyncstore._core.placeholders import fill
from asyncstore.errors import (
    AccessDeniedError,
    AsyncStoreError,
    ConfigurationError,
    CredentialsError,
    UnavailableError,
)
from asyncstore.models import StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables
from asyncstore.secrets import AwsSecretsManagerSecrets
from asyncstore.services import open_services
from tests._http_server import Asked, PlayedServer, refusing_port, serve_all, tls_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncstore.testing.servers import Bucket, S3Server

CANARY = "canary-0e4c1f"
ROLE = "arn:aws:iam::123456789012:role/reader"
NOT_TEXT = b"\xff\xfe" + CANARY.encode()


class Relay:
    """Passes requests on to moto, and remembers them."""

    def __init__(self, moto: S3Server) -> None:
        self._moto = urlsplit(moto.endpoint_url).netloc
        self._server = PlayedServer(serve_all(self._pass_on))
        self.asked: list[Asked] = []
        self.refused = ""
        self.always = True
        self.date = ""

    def __enter__(self) -> Relay:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    @property
    def url(self) -> str:
        return self._server.url.removesuffix("/bucket")

    @property
    def reads(self) -> list[Asked]:
        """What was asked of Secrets Manager."""
        return [asked for asked in self.asked if "x-amz-target" in asked.headers]

    def _pass_on(self, asked: Asked) -> bytes:
        self.asked.append(asked)
        if self.refused and "x-amz-target" in asked.headers:
            code, self.refused = self.refused, self.refused if self.always else ""
            return _said(400, json.dumps({"__type": code}).encode(), f"Date: {self.date}\r\n" if self.date else "")
        connection = http.client.HTTPConnection(self._moto)
        connection.request(asked.method, asked.target, asked.body, asked.headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return _said(answer.status, body)


def _said(status: int, body: bytes, more: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


@pytest.fixture
def relay(moto: S3Server) -> Iterator[Relay]:
    with Relay(moto) as relay:
        yield relay


class Vault:
    """Makes secrets, each with a name of its own."""

    def __init__(self, moto: S3Server) -> None:
        self._moto = moto

    def client(self, region: str = "eu-west-1") -> Any:
        keys = {"aws_access_key_id": self._moto.access_key, "aws_secret_access_key": self._moto.secret_key}
        return boto3.client("secretsmanager", endpoint_url=self._moto.endpoint_url, region_name=region, **keys)

    def store(self, value: object, name: str = "", region: str = "eu-west-1") -> str:
        held = {"SecretBinary": value} if isinstance(value, bytes) else {"SecretString": _text(value)}
        name = name or f"team/{uuid.uuid4().hex}"
        return str(self.client(region).create_secret(Name=name, **held)["ARN"])

    def replace(self, arn: str, value: object) -> str:
        return str(self.client().put_secret_value(SecretId=arn, SecretString=_text(value))["VersionId"])


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.fixture
def vault(moto: S3Server) -> Vault:
    return Vault(moto)


def provider(relay: Relay, arn: str, **options: object) -> AwsSecretsManagerSecrets:
    return AwsSecretsManagerSecrets(secret_arn=arn, endpoint_url=relay.url, **options)


def key_of(asked: Asked) -> str:
    found = re.search(r"Credential=([^/]+)/", asked.headers["authorization"])
    assert found is not None
    return found[1]


async def test_two_hundred_askers_share_one_request(vault: Vault, relay: Relay) -> None:
    secrets = provider(relay, vault.store({"user": "scott", "password": "p@ss"}))
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(secrets.get("password")) for _ in range(200)]
    assert {one.result() for one in asking} == {"p@ss"}
    assert await secrets.get("user") == "scott"
    assert len(relay.reads) == 1
    await secrets.aclose()


async def test_values_that_are_no_strings_are_given_as_json(vault: Vault, relay: Relay) -> None:
    async with provider(relay, vault.store({"port": 5432, "tls": True, "hosts": ["a", "ü"], "none": None})) as secrets:
        found = [await secrets.get(name) for name in ("port", "tls", "hosts")]
        assert found == ["5432", "true", '["a", "ü"]']
        with pytest.raises(ConfigurationError, match="secret 'none' not found in arn:aws:secretsmanager:eu-west-1:"):
            await secrets.get("none")


async def test_numbers_are_given_as_they_were_written(vault: Vault, relay: Relay) -> None:
    held = '"pin": 1.10, "e": 1e3, "big": 123456789012345678901234567890.0, "all": {"a": [0.10, true, null, "é"]}'
    text = f'{{{held}, "x": NaN}}'
    async with provider(relay, vault.store(text)) as secrets:
        found = [await secrets.get(name) for name in ("pin", "e", "big", "all", "x")]
    assert found == ["1.10", "1e3", "123456789012345678901234567890.0", '{"a": [0.10, true, null, "é"]}', "NaN"]
    long = "9" * 5000
    async with provider(relay, vault.store(f'{{"a": {long}}}')) as secrets:
        assert await secrets.get("a") == long


@pytest.mark.parametrize(
    ("secret", "region", "host"),
    [
        (
            "arn:aws:secretsmanager:eu-west-1:123456789012:secret:rds!db-2f1c7a3e-1111-AbCdEf",
            "",
            "eu-west-1.amazonaws.com",
        ),
        ("rds!cluster-2f1c7a3e", "eu-west-1", "eu-west-1.amazonaws.com"),
        ("arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:x-AbCdEf", "", "cn-north-1.amazonaws.com.cn"),
        ("arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:x", "", "us-gov-west-1.amazonaws.com"),
        ("arn:aws-iso:secretsmanager:us-iso-east-1:123456789012:secret:x-AbCdEf", "", "us-iso-east-1.c2s.ic.gov"),
        ("x", "us-isob-east-1", "us-isob-east-1.sc2s.sgov.gov"),
        ("x", "us-isof-south-1", "us-isof-south-1.csp.hci.ic.gov"),
        ("x", "eu-isoe-west-1", "eu-isoe-west-1.cloud.adc-e.uk"),
        ("arn:aws-eusc:secretsmanager:eusc-de-east-1:123456789012:secret:x-AbCdEf", "", "eusc-de-east-1.amazonaws.eu"),
    ],
)
def test_where_a_secret_is(secret: str, region: str, host: str) -> None:
    options = {"region": region} if region else {}
    settings = AwsSecretsManagerSecrets(secret_arn=secret, **options)._settings
    assert settings.endpoint == f"https://secretsmanager.{host}"
    session = botocore.session.Session()
    known = session.create_client("secretsmanager", settings.region, aws_access_key_id="a", aws_secret_access_key="b")
    assert known.meta.endpoint_url == settings.endpoint


async def test_a_secret_that_rds_manages(vault: Vault, relay: Relay) -> None:
    name = f"rds!db-{uuid.uuid4()}"
    arn = vault.store({"username": "postgres", "password": "p"}, name)
    for secret in (name, arn):
        async with provider(relay, secret) as secrets:
            assert await secrets.get("password") == "p"


@pytest.mark.parametrize("text", ["p@ss:w/rd", '"quoted"', "12", "[1]", "{broken", "[" * 50_000])
async def test_plain_text_is_found_under_the_secrets_name(vault: Vault, relay: Relay, text: str) -> None:
    name = uuid.uuid4().hex
    async with provider(relay, vault.store(text, f"prod/{name}")) as secrets:
        assert await secrets.get(f"prod/{name}") == text
        assert await secrets.get(name) == text
        with pytest.raises(ConfigurationError, match=f"no JSON object and thus the secret 'prod/{name}' as a whole"):
            await secrets.get("password")


async def test_a_secret_can_be_named_without_its_arn(vault: Vault, relay: Relay) -> None:
    name = f"plain-{uuid.uuid4().hex}"
    vault.store("text", name)
    async with provider(relay, name) as secrets:
        assert await secrets.get(name) == "text"


async def test_bytes_that_are_text(vault: Vault, relay: Relay) -> None:
    async with provider(relay, vault.store(b'{"token": "t"}')) as secrets:
        assert await secrets.get("token") == "t"


async def test_bytes_that_are_no_text(vault: Vault, relay: Relay) -> None:
    with pytest.raises(ConfigurationError, match="it is binary, and no text in UTF-8") as caught:
        await provider(relay, vault.store(NOT_TEXT)).open()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_refreshed_on_request_alone(vault: Vault, relay: Relay) -> None:
    arn = vault.store({"token": "one"})
    async with provider(relay, arn) as secrets:
        vault.replace(arn, {"token": "two"})
        assert await secrets.get("token") == "one"
        await secrets.refresh()
        assert await secrets.get("token") == "two"


async def test_those_who_refresh_together_share_requests(vault: Vault, relay: Relay) -> None:
    async with provider(relay, vault.store({"token": "one"})) as secrets, asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(secrets.refresh())
    # That of the opening, one, and another for those who asked when it had begun.
    assert len(relay.reads) <= 3


async def test_a_refresh_that_fails_leaves_what_was_read(vault: Vault, relay: Relay) -> None:
    async with provider(relay, vault.store({"token": "one"})) as secrets:
        relay.refused = "AccessDeniedException"
        with pytest.raises(AccessDeniedError):
            await secrets.refresh()
        assert await secrets.get("token") == "one"
        relay.refused = ""
        await secrets.refresh()


@pytest.mark.parametrize(
    ("code", "kind", "told"),
    [
        ("AccessDeniedException", AccessDeniedError, "allow secretsmanager:GetSecretValue"),
        ("DecryptionFailure", AccessDeniedError, "allow kms:Decrypt"),
        ("com.amazonaws.secretsmanager#InvalidRequestException", ConfigurationError, "scheduled for deletion"),
        ("InvalidParameterException", ConfigurationError, "mend secret_arn"),
        ("ExpiredTokenException", CredentialsError, "have expired"),
        ("UnrecognizedClientException", CredentialsError, "not known there"),
        ("ValidationException", ConfigurationError, "ValidationException"),
    ],
)
async def test_refusals_say_what_to_do(relay: Relay, code: str, kind: type[AsyncStoreError], told: str) -> None:
    relay.refused = code
    with pytest.raises(kind, match=told) as caught:
        await provider(relay, "prod/db").open()
    assert str(caught.value).startswith(f"get secret prod/db in eu-west-1 at {relay.url}: ")


async def test_a_secret_that_is_not_there(vault: Vault, relay: Relay) -> None:
    arn = vault.store("x")
    vault.client().delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
    with pytest.raises(ConfigurationError, match=r"there is none: mend secret_arn, .*ResourceNotFoundException"):
        await provider(relay, arn).open()


async def test_what_answers_may_be_something_else() -> None:
    with PlayedServer(serve_all(lambda _: _said(200, b"<html>"))) as server:
        secrets = AwsSecretsManagerSecrets(secret_arn="a", endpoint_url=server.url)
        with pytest.raises(ConfigurationError, match="mend endpoint_url"):
            await secrets.open()


async def test_a_busy_server_is_asked_again(vault: Vault, relay: Relay) -> None:
    arn = vault.store({"token": "one"})
    busy = serve_all(lambda _: _said(400, b'{"__type":"ThrottlingException"}'))
    with PlayedServer(busy, serve_all(relay._pass_on)) as server:
        url = server.url.removesuffix("/bucket")
        async with AwsSecretsManagerSecrets(secret_arn=arn, endpoint_url=url) as secrets:
            assert await secrets.get("token") == "one"
        assert server.connections == 2


async def test_a_session_that_has_expired_is_renewed_once(vault: Vault, relay: Relay) -> None:
    async with provider(relay, vault.store({"token": "t"}), role_arn=ROLE) as secrets:
        relay.refused, relay.always = "ExpiredTokenException", False
        # Credentials that are refused as soon as they are given are not renewed.
        secrets._credentials._given_s -= 10
        await secrets.refresh()
    first, refused, again = [asked.headers["x-amz-security-token"] for asked in relay.reads]
    assert first == refused != again
    assert sum(b"Action=AssumeRole" in asked.body for asked in relay.asked) == 2


async def test_a_clock_that_is_wrong_is_set_right(vault: Vault, relay: Relay) -> None:
    arn = vault.store({"token": "t"})
    server_time = datetime.now(UTC) + timedelta(hours=2)
    relay.refused, relay.always, relay.date = "InvalidSignatureException", False, format_datetime(server_time, True)
    async with provider(relay, arn) as secrets:
        assert await secrets.get("token") == "t"
    signed = [datetime.strptime(asked.headers["x-amz-date"], "%Y%m%dT%H%M%S%z") for asked in relay.reads]
    assert timedelta(minutes=119) < signed[1] - signed[0] < timedelta(minutes=121)


async def test_nothing_is_sent_where_a_redirect_leads(relay: Relay) -> None:
    with PlayedServer(serve_all(lambda _: _said(307, b"", f"Location: {relay.url}/\r\n"))) as server:
        secrets = AwsSecretsManagerSecrets(secret_arn="a", endpoint_url=server.url)
        with pytest.raises(ConfigurationError, match=r"mend endpoint_url \[HTTP \(307\)\]"):
            await secrets.open()
    assert relay.asked == []


async def test_certificates_of_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, authority = tls_server(tmp_path)
    answer = json.dumps({"Name": "a", "SecretString": '{"token": "t"}'}).encode()
    with PlayedServer(serve_all(lambda _: _said(200, answer)), tls=context) as server:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", server.url)
        # An endpoint without TLS of another service has no say.
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        async with AwsSecretsManagerSecrets(secret_arn="a") as secrets:
            assert await secrets.get("token") == "t"
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "nowhere.pem"))
        with pytest.raises(ConfigurationError, match=r"AWS_CA_BUNDLE .*nowhere.pem cannot be read"):
            await AwsSecretsManagerSecrets(secret_arn="a").open()


async def test_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = json.dumps({"Name": "a", "SecretString": '{"token": "t"}'}).encode()
    with PlayedServer(serve_all(lambda _: _said(200, answer))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/bucket"))
        endpoint = "http://secrets.invalid"
        async with AwsSecretsManagerSecrets(secret_arn="a", endpoint_url=endpoint, insecure=True) as secrets:
            assert await secrets.get("token") == "t"
    assert [asked.target for asked in proxy.asked] == ["http://secrets.invalid/"]


async def test_nobody_answers() -> None:
    with refusing_port() as port:
        secrets = AwsSecretsManagerSecrets(secret_arn="a", endpoint_url=f"http://127.0.0.1:{port}")
        with pytest.raises(UnavailableError, match="it cannot be reached"):
            await secrets.open()


# What each key does: the key that signs, the region and the version are in what the server is asked.


async def test_secret_version_id(vault: Vault, relay: Relay) -> None:
    arn = vault.store({"token": "one"})
    first = str(vault.client().get_secret_value(SecretId=arn)["VersionId"])
    vault.replace(arn, {"token": "two"})
    async with provider(relay, arn, secret_version_id=first) as secrets:
        assert await secrets.get("token") == "one"
    async with provider(relay, arn) as secrets:
        assert await secrets.get("token") == "two"


async def test_region_of_a_name(vault: Vault, relay: Relay) -> None:
    name = f"there-{uuid.uuid4().hex}"
    vault.store("text", name, region="us-west-2")
    async with provider(relay, name, region="us-west-2") as secrets:
        assert await secrets.get(name) == "text"
    with pytest.raises(ConfigurationError, match="in eu-west-1"):
        await provider(relay, name).open()


async def test_an_arn_says_the_region(vault: Vault, relay: Relay) -> None:
    arn = vault.store({"token": "t"}, region="us-west-2")
    async with provider(relay, arn) as secrets:
        assert await secrets.get("token") == "t"
    assert "/us-west-2/secretsmanager/" in relay.reads[0].headers["authorization"]
    with pytest.raises(ConfigurationError, match="secret_arn is in us-west-2, and region says eu-central-1"):
        provider(relay, arn, region="eu-central-1")


async def test_profile_of_the_credentials_file(vault: Vault, relay: Relay, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[team]\naws_access_key_id = team-id\naws_secret_access_key = team-secret\n")
    arn = vault.store({"token": "t"})
    async with provider(relay, arn, aws_profile="team", aws_credentials_file=str(file)):
        assert key_of(relay.reads[0]) == "team-id"
    with pytest.raises(ConfigurationError, match="aws_profile 'team' does not exist"):
        await provider(relay, arn, aws_profile="team").open()


async def test_named_variables(vault: Vault, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MY_ID", "MY_KEY", "MY_TOKEN"):
        monkeypatch.setenv(name, name.lower())
    named = {
        "aws_access_key_name": "MY_ID",
        "aws_secret_access_key_name": "MY_KEY",
        "aws_session_key_name": "MY_TOKEN",
    }
    arn = vault.store({"token": "t"})
    async with provider(relay, arn, use_credentials=True, **named):
        assert key_of(relay.reads[0]) == "my_id"
        assert relay.reads[0].headers["x-amz-security-token"] == "my_token"
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(CredentialsError, match="lacks MY_KEY"):
        await provider(relay, arn, use_credentials=True, **named).open()
    # The names alone change nothing.
    async with provider(relay, arn, **named):
        assert key_of(relay.reads[-1]) == "accesskey1"


async def test_a_role_is_assumed_for_its_time(vault: Vault, relay: Relay) -> None:
    arn = vault.store({"token": "t"})
    named = {"role_arn": ROLE, "session_duration_in_seconds": 1800, "role_session_name": "nightly"}
    async with provider(relay, arn, **named) as secrets:
        assert await secrets.get("token") == "t"
    (assumed,) = [parse_qs(asked.body.decode()) for asked in relay.asked if b"Action=AssumeRole" in asked.body]
    said = [assumed[name] for name in ("RoleArn", "DurationSeconds", "RoleSessionName")]
    assert said == [[ROLE], ["1800"], ["nightly"]]
    assert key_of(relay.reads[0]) != "accesskey1"
    assert relay.reads[0].headers["x-amz-security-token"]


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL"])
async def test_endpoint_of_the_environment(
    vault: Vault, relay: Relay, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, relay.url)
    async with AwsSecretsManagerSecrets(secret_arn=vault.store({"token": "t"})) as secrets:
        assert await secrets.get("token") == "t"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "'secret_arn' is required"),
        ({"secret_arn": "arn:aws:s3:::bucket"}, "it must be the ARN or the name of a secret"),
        ({"secret_arn": "a b"}, "it must be the ARN or the name of a secret"),
        ({"secret_arn": "a", "secret_version_id": "1\n2"}, "it must be the id of a version"),
        ({"secret_arn": "a", "secret_versions_id": "1"}, "unknown key 'secret_versions_id', did you mean"),
        ({"secret_arn": "a", "endpoint_url": "ftp://x"}, "'endpoint_url': "),
        ({"secret_arn": "a", "endpoint_url": "http://169.254.169.254"}, "'endpoint_url': "),
    ],
)
def test_wrong_keys(options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        AwsSecretsManagerSecrets(**options)


async def test_placeholders_of_a_configuration(vault: Vault, relay: Relay, moto_bucket: Bucket, tmp_path: Path) -> None:
    arn = vault.store({"folder": str(tmp_path), "team": "blue", "bucket": moto_bucket.name})
    await create_tables(f"sqlite:///{tmp_path}/runs.db")
    config = {
        "secrets": {"type": "aws-secrets-manager", "config": {"secret_arn": arn, "endpoint_url": relay.url}},
        "run_log_store": {"type": "db", "config": {"connection_string": "sqlite:///${folder}/runs.db"}},
        "catalog": {
            "type": "s3",
            "config": {**moto_bucket.options, "s3_bucket": "${bucket}", "prefix": "of-${team}"},
        },
    }
    async with open_services(config) as services:
        await services.run_log_store.create_run_log("r")
        assert services.catalog.location == f"s3://{moto_bucket.name}/of-blue"
        assert await fill("${team}!", services.secrets) == "blue!"
    assert len(relay.reads) == 1


async def test_a_connection_string_of_a_database_server(vault: Vault, relay: Relay, postgres_url: str) -> None:
    user = f"scott@home/{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f'CREATE ROLE "{user}" LOGIN SUPERUSER')
    secrets = provider(relay, vault.store({"user": user}))
    url = re.sub(r"//postgres:?@", "//${user}@", postgres_url)
    assert url != postgres_url
    try:
        await create_tables(url, secrets=secrets)
        async with DBRunLogStore(connection_string=url, secrets=secrets) as store:
            await store.create_run_log("r")
            await store.add_step_log(StepLog(name="s", internal_name="s"), "r")
            assert list((await store.get_run_log_by_id("r")).steps) == ["s"]
    finally:
        await secrets.aclose()
        await connection.execute(f'REASSIGN OWNED BY "{user}" TO postgres')
        await connection.execute(f'DROP ROLE "{user}"')
        await connection.close()
    assert len(relay.reads) == 1


async def test_values_show_nowhere(vault: Vault, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    arn = vault.store({"password": CANARY})
    binary = vault.store(NOT_TEXT)
    told: list[str] = []
    caplog.clear()
    async with provider(relay, arn, role_arn=ROLE) as secrets:
        assert await secrets.get("password") == CANARY
        with pytest.raises(ConfigurationError) as caught:
            await secrets.get("pass")
        told += ["".join(traceback.format_exception(caught.value)), repr(secrets), str(secrets), repr(vars(secrets))]
        pickled = pickle.dumps(secrets)
        async with pickle.loads(pickled) as again, copy.copy(secrets) as copied:
            assert await again.get("password") == await copied.get("password") == CANARY
    with pytest.raises(ConfigurationError) as caught:
        await provider(relay, binary).open()
    told += ["".join(traceback.format_exception(caught.value)), pickled.decode("latin-1"), caplog.text]
    hidden = {CANARY, base64.b64encode(CANARY.encode()).decode(), base64.b64encode(NOT_TEXT).decode(), "secretkey1"}
    # The role's token, which the answer of STS held.
    hidden.add(relay.reads[0].headers["x-amz-security-token"])
    found = [secret for secret in sorted(hidden) for text in told if secret in text]
    assert found == []


def test_exported_where_the_others_are() -> None:
    assert asyncstore.AwsSecretsManagerSecrets is AwsSecretsManagerSecrets
