"""A canary secret in every key, token and URL: in no log, repr, error, pickle or output, whatever succeeds or fails."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import pickle
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

import asyncpg
import pytest
import yaml

import asyncstore
from asyncstore._core.retry import NO_RETRY
from asyncstore.aws.credentials import CredentialProvider
from asyncstore.aws.settings import AwsSettings
from asyncstore.cli._app import run
from asyncstore.errors import AsyncStoreError, ConfigurationError, CredentialsError
from asyncstore.models import StepLog
from asyncstore.objects.base import NEW
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.runlog.db import DBRunLogStore, create_tables
from asyncstore.secrets import AwsSecretsManagerSecrets, DotenvSecrets, EnvSecrets
from asyncstore.services import open_services
from tests._canaries import Canaries, spellings
from tests._http_server import Peer, PlayedServer, ok, refusing_port, serve_all, tls_server
from tests._postgres_roles import login_role
from tests._surroundings import forward_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from asyncstore.testing.postgres import PostgresServer
    from asyncstore.testing.servers import Bucket, S3Server
    from tests._http_server import Asked

ROLE = "arn:aws:iam::123456789012:role/writer"
SECRET_KEY = "canary-Key/of+AWS=40&chars"
TOKEN = "canary-Token//of++AWS=="
PASSWORD = "canary-p@ss/w:rd#1 of DB"
PROXY_PASSWORD = "canary-p@ss:of/proxy"


@pytest.fixture
def canaries() -> Iterator[Canaries]:
    """Listen to all loggers, and fail if a secret was seen anywhere."""
    found = Canaries()
    with found.listening():
        yield found
    assert found.found() == []


@pytest.fixture
def keys(canaries: Canaries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    canaries.add("secret key", SECRET_KEY)
    canaries.add("session token", TOKEN)


# What looks for canaries finds them.


@pytest.mark.parametrize("secret", [SECRET_KEY, TOKEN, PASSWORD])
def test_a_canary_is_found_wherever_it_is(secret: str) -> None:
    name, coded = "scott", base64.b64encode
    for text in (
        secret,
        f"postgresql://scott:{quote(secret, safe='')}@host",
        *(coded(f"{'x' * length}:{secret}:y".encode()).decode() for length in range(4)),
        repr({"a": secret}),
        json.dumps([secret]),
        secret.encode().hex(),
    ):
        canaries = Canaries()
        canaries.add(name, secret)
        canaries.saw("somewhere", f"before {text} after")
        assert canaries.found(), text
    assert not any(len(written) < 8 for written in spellings(secret))


def hide(error: Exception) -> None:
    try:
        raise error
    except Exception:
        raise KeyError("harmless")  # noqa: B904


def test_a_canary_is_found_behind_an_error_and_in_a_log() -> None:
    canaries = Canaries()
    canaries.add("password", PASSWORD)
    with canaries.listening():
        logging.getLogger("botocore.parsers").debug("body: %r", {"x": PASSWORD})
    assert [line for line in canaries.found() if "log of botocore.parsers" in line]
    for hidden in (ValueError(PASSWORD), ExceptionGroup("x", [ValueError(PASSWORD)])):
        canaries = Canaries()
        canaries.add("password", PASSWORD)
        with canaries.raising("it", KeyError):
            hide(hidden)
        assert canaries.found()


# S3.


async def use_stores(canaries: Canaries, options: dict[str, Any], folder: Path) -> None:
    """Log a run, move files there and back, and look at all objects on the way."""
    (folder / "data" / "sub").mkdir(parents=True)
    (folder / "data" / "a.csv").write_text("1")
    (folder / "data" / "sub" / "b.bin").write_bytes(bytes(17 * 1024 * 1024))
    shown = {"prefix": "p", **options}
    stores: list[Any] = [asyncstore.ChunkedS3RunLogStore(**shown), asyncstore.S3RunLogStore(**{**shown, "prefix": "d"})]
    for store in stores:
        canaries.saw_object("a store", store)
        async with store:
            await store.create_run_log("r")
            await store.add_step_log(StepLog(name="a", internal_name="a"), "r")
            await store.set_parameters("r", {"lr": 0.1})
            await store.update_run_log_status("r", "SUCCESS")
            canaries.saw("a run log", (await store.get_run_log_by_id("r")).model_dump_json())
            assert [found.run_id async for found in store.list_run_logs()] == ["r"]
            canaries.saw_object("an open store", store)
            canaries.saw("what a store holds", f"{vars(store)!r}")
            with canaries.raising("a missing step", AsyncStoreError):
                await store.get_step_log("b", "r")
            await store.delete_run_log("r")
        canaries.saw_object("a closed store", store)
    catalog = asyncstore.S3Catalog(**shown, compute_data_folder=str(folder / "data"))
    canaries.saw_object("a catalog", catalog)
    async with catalog:
        canaries.saw_object("an open catalog", catalog)
        for record in await catalog.put("**", "r"):
            canaries.saw_object("a record", record)
        await catalog.get("**", "r")
        with suppress(AsyncStoreError):
            await catalog.sync_between_runs("r", "s")
        await catalog.delete("r")


async def test_s3_stores_at_work(canaries: Canaries, keys: None, stub_bucket: Bucket, tmp_path: Path) -> None:
    await use_stores(canaries, dict(stub_bucket.options), tmp_path)


async def test_s3_stores_with_a_role(canaries: Canaries, keys: None, moto_bucket: Bucket, tmp_path: Path) -> None:
    options = {**moto_bucket.options, "role_arn": ROLE, "multipart_upload_role_arn": f"{ROLE}-multipart"}
    provider = CredentialProvider(AwsSettings(endpoint_url=moto_bucket.server.endpoint_url, role_arn=ROLE))
    found = await provider.get()
    canaries.add("the role's secret key", found.secret_access_key)
    canaries.add("the role's token", found.token)
    canaries.saw_object("credentials", found)
    canaries.saw_object("a provider", provider)
    canaries.saw("what a provider holds", f"{vars(provider)!r}")
    with suppress(CredentialsError):
        await use_stores(canaries, options, tmp_path)


async def test_links_and_forms(canaries: Canaries, keys: None, stub_bucket: Bucket) -> None:
    async with asyncstore.S3Catalog(**stub_bucket.options) as catalog:
        link = await catalog.presign_put("data/a", "r")
        form = await catalog.presign_post("data/", "r", max_size=10, content_types=["text/csv"])
    canaries.add("link's signature", dict(parse_qsl(urlsplit(link.url).query))["X-Amz-Signature"])
    canaries.add("form's signature", form.forms["text/csv"]["x-amz-signature"])
    for given in (link, form):
        canaries.saw_object(type(given).__name__, given, pickled=False)


def echo(asked: Asked) -> str:
    """Say what S3 says of a signature that does not match, which is all that the request said."""
    heard = "\n".join(f"{name}:{said}" for name, said in asked.headers.items())
    coded = " ".join(f"{byte:02x}" for byte in heard.encode())
    return (
        f"<?xml version='1.0'?><Error><Code>{{code}}</Code><Message>It does not match.\n\n'{heard}'</Message>"
        f"<Token-0>{asked.headers.get('x-amz-security-token', '')}</Token-0>"
        f"<StringToSign>{heard}</StringToSign><CanonicalRequest>{asked.method}\n{asked.target}\n{heard}"
        f"</CanonicalRequest><CanonicalRequestBytes>{coded}</CanonicalRequestBytes></Error>"
    )


ANSWERS = {
    "wrong key": (403, "SignatureDoesNotMatch"),
    "expired": (400, "ExpiredToken"),
    "wrong token": (400, "InvalidToken"),
    "denied": (403, "AccessDenied"),
    "no such bucket": (404, "NoSuchBucket"),
    "moved": (301, "PermanentRedirect"),
    "failed": (500, "InternalError"),
    "busy": (503, "SlowDown"),
    "nonsense": (418, "Teapot"),
}


async def fail_with_all_verbs(canaries: Canaries, store: S3ObjectStore, folder: Path) -> None:
    large = folder / "large"
    await asyncio.to_thread(large.write_bytes, bytes(17 * 1024 * 1024))
    verbs: dict[str, Callable[[], Awaitable[object]]] = {
        "get": lambda: store.get("k"),
        "range": lambda: store.get("k", byte_range=(0, 1), etag='"e"'),
        "head": lambda: store.head("k"),
        "put": lambda: store.put("k", b"1"),
        "create": lambda: store.put("k", b"1", condition=NEW),
        "delete": lambda: store.delete(["k"]),
        "copy": lambda: store.copy("k", "l"),
        "list": lambda: anext(store.list("")),
        "list folder": lambda: store.list_folder(""),
        "read": lambda: store.read_into("k", (0, 1), lambda *_: None),
        "multipart": lambda: store.put_file("k", large),
        "uploads": lambda: store.list_uploads(""),
    }
    for name, ask in verbs.items():
        try:
            await ask()
        except AsyncStoreError as error:
            canaries.saw_error(name, error)


@pytest.mark.parametrize("failure", ANSWERS)
async def test_a_server_that_repeats_what_it_hears(
    canaries: Canaries, keys: None, tmp_path: Path, failure: str
) -> None:
    status, code = ANSWERS[failure]
    answer = serve_all(lambda asked: ok(echo(asked).replace("{code}", code).encode(), status=status))
    with PlayedServer(answer) as server:
        settings = AwsSettings(endpoint_url=f"http://127.0.0.1:{server.port}")
        async with S3ObjectStore("bucket", settings, retry=NO_RETRY) as store:
            await fail_with_all_verbs(canaries, store, tmp_path)
        with suppress(AsyncStoreError):
            canaries.saw_object("a provider", store._credentials)
        provider = CredentialProvider(settings, role_arn=ROLE)
        with canaries.raising("a role", AsyncStoreError):
            await provider.get()
        canaries.saw_object("a provider", provider)


@pytest.mark.parametrize("play", ["nobody", "cut off", "no HTTP", "no TLS", "untrusted"])
async def test_servers_that_do_not_answer(canaries: Canaries, keys: None, tmp_path: Path, play: str) -> None:
    def end(peer: Peer) -> None:
        if play == "no TLS":
            peer.read(100)
        else:
            peer.request()
        peer.say(b"SSH-2.0-OpenSSH\r\n" if play == "no HTTP" else b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1")

    scheme = "https" if play in {"no TLS", "untrusted"} else "http"
    tls = tls_server(tmp_path)[0] if play == "untrusted" else None
    with refusing_port() as nobody, PlayedServer(end, tls=tls) as server:
        host = f"localhost:{nobody if play == 'nobody' else server.port}"
        async with S3ObjectStore("bucket", AwsSettings(endpoint_url=f"{scheme}://{host}"), retry=NO_RETRY) as store:
            await fail_with_all_verbs(canaries, store, tmp_path)


async def test_requests_that_are_cancelled(canaries: Canaries, keys: None, tmp_path: Path) -> None:
    arrived = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stall(peer: Peer) -> None:
        peer.head()
        loop.call_soon_threadsafe(arrived.set)
        peer.stay()

    with PlayedServer(stall) as server:
        settings = AwsSettings(endpoint_url=f"http://127.0.0.1:{server.port}")
        async with S3ObjectStore("bucket", settings, retry=NO_RETRY) as store:
            for ask in (lambda: store.put("k", b"1"), lambda: store.get("k"), lambda: store.list_uploads("")):
                arrived.clear()
                task = asyncio.ensure_future(ask())
                await arrived.wait()
                task.cancel()
                with canaries.raising("a cancelled request", asyncio.CancelledError):
                    await task
                canaries.saw("a task", repr(task))
            server.over.set()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_passwords_of_proxies(
    canaries: Canaries, keys: None, stub_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str
) -> None:
    canaries.add("proxy's password", PROXY_PASSWORD)

    def name_proxy(url: str) -> None:
        monkeypatch.setenv(f"{scheme}_proxy", url.replace("//", f"//user:{quote(PROXY_PASSWORD, safe='')}@"))

    if scheme == "http":
        async with forward_proxy(stub_bucket.server.endpoint_url) as proxy:
            name_proxy(proxy.url)
            await use_stores(canaries, dict(stub_bucket.options), tmp_path)
    # Nobody resolves it: the proxies are asked.
    settings = AwsSettings(endpoint_url=f"{scheme}://storage.invalid", insecure=True)

    def refuse(peer: Peer) -> None:
        asked = peer.request()
        assert asked is not None
        peer.say(ok(repr(asked.headers).encode(), status=407))

    async def fail() -> None:
        async with S3ObjectStore("bucket", settings, retry=NO_RETRY) as store:
            await fail_with_all_verbs(canaries, store, tmp_path)
        with canaries.raising("a role", AsyncStoreError):
            await CredentialProvider(settings, role_arn=ROLE).get()

    with PlayedServer(refuse) as server, refusing_port() as nobody:
        for port in (server.port, nobody):
            name_proxy(f"http://127.0.0.1:{port}")
            await fail()
    for url in ("socks5://proxy.invalid", "http://[proxy.invalid", "http://proxy.invalid:port"):
        name_proxy(url)
        with canaries.raising("a proxy that is none", AsyncStoreError):
            await fail()


SECRET_URL = "https://user:canary-password@storage.example"


async def test_passwords_in_endpoints_and_secrets_under_wrong_keys(
    canaries: Canaries, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    canaries.add("endpoint's password", "canary-password")
    canaries.add("secret under a wrong key", SECRET_KEY)
    wrong: list[dict[str, Any]] = [
        {"endpoint_url": SECRET_URL},
        {"endpoint_url": SECRET_URL.replace("https", "ftp")},
        {"endpoint_url": f"{SECRET_URL}:port"},
        {"aws_secret_access_key": SECRET_KEY},
        {"region": SECRET_KEY},
        {"session_duration_in_seconds": SECRET_KEY},
        {"max_concurrency": [SECRET_KEY]},
        {"object_tags": SECRET_KEY},
        {"addressing_style": SECRET_KEY},
        {"storage_class": f"{SECRET_KEY}\n"},
        {"s3_bucket": ["b", SECRET_KEY]},
    ]
    for options in wrong:
        given = {"s3_bucket": "b", **options}
        for make in (asyncstore.ChunkedS3RunLogStore, asyncstore.S3RunLogStore, asyncstore.S3Catalog):
            with canaries.raising(f"{make.__name__} with {list(options)}", ConfigurationError):
                make(**given)
        path = tmp_path / "asyncstore.yaml"
        await asyncio.to_thread(path.write_text, yaml.safe_dump({"catalog": {"type": "s3", "config": given}}))
        with canaries.raising(f"services with {list(options)}", ConfigurationError):
            await open_services(path).open()
    monkeypatch.setenv("AWS_ENDPOINT_URL", SECRET_URL)
    with canaries.raising("an endpoint of the environment", ConfigurationError):
        await S3ObjectStore("bucket", AwsSettings()).open()
    with canaries.raising("an endpoint for roles", ConfigurationError):
        await CredentialProvider(AwsSettings(), role_arn=ROLE).get()


# Credentials.


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, "<AssumeRoleResponse><AssumeRoleResult><Credentials><SecretAccessKey>{0}</SecretAccessKey>"),
        (200, "<AssumeRoleResponse><AssumeRoleResult><Credentials><Expiration>{0}</Expiration></Credentials>"),
        (403, "<ErrorResponse><Error><Code>AccessDenied</Code></Error><SecretAccessKey>{0}"),
        (500, "{0}"),
    ],
)
async def test_what_sts_says_amiss(canaries: Canaries, keys: None, status: int, body: str) -> None:
    canaries.add("the role's secret key", "canary-of-the-role")
    with PlayedServer(serve_all(lambda _: ok(body.format("canary-of-the-role").encode(), status=status))) as server:
        settings = AwsSettings(endpoint_url=f"http://127.0.0.1:{server.port}", role_arn=ROLE)
        with canaries.raising("a role", AsyncStoreError):
            await CredentialProvider(settings).get()


async def test_credentials_of_files(canaries: Canaries, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    canaries.add("file's secret key", SECRET_KEY)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    for text in (
        f"[default]\naws_access_key_id = AKIA\naws_secret_access_key = {SECRET_KEY}\n",
        f"[default\naws_secret_access_key = {SECRET_KEY}\n",
        f"[default]\naws_secret_access_key = {SECRET_KEY}\n",
        f"[default]\n{SECRET_KEY}\n",
    ):
        file.write_text(text)
        provider = CredentialProvider(AwsSettings(aws_credentials_file=str(file)))
        try:
            canaries.saw_object("credentials", await provider.get())
        except AsyncStoreError as error:
            canaries.saw_error("a file of credentials", error)
        canaries.saw_object("a provider", provider)
        canaries.saw("what a provider holds", f"{vars(provider)!r}")


# Databases and secrets.


@pytest.fixture
async def role(canaries: Canaries, postgres_url: str) -> AsyncIterator[str]:
    """Make a role that must log in with its password, and its URL with a placeholder for that."""
    canaries.add("database's password", PASSWORD)
    async with login_role(postgres_url, PASSWORD) as url:
        yield url


async def use_database(canaries: Canaries, store: DBRunLogStore) -> None:
    async with store:
        await store.create_run_log("r")
        with canaries.raising("a run twice", AsyncStoreError):
            await store.create_run_log("r")
        await store.add_step_log(StepLog(name="a", internal_name="a"), "r")
        canaries.saw("a run log", (await store.get_run_log_by_id("r")).model_dump_json())
        canaries.saw("what a store holds", f"{vars(store)!r}")
        canaries.saw_object("an open store", store, pickled="$" in str(store))
        await store.delete_run_log("r")


async def test_passwords_of_databases(
    canaries: Canaries, role: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("password", PASSWORD)
    dotenv = tmp_path / ".env"
    dotenv.write_text(f'password="{PASSWORD}"\n')
    filled = role.replace("${password}", quote(PASSWORD, safe=""))
    for secrets in (EnvSecrets(), DotenvSecrets(location=str(dotenv))):
        async with secrets:
            canaries.saw_object("secrets", secrets)
            await create_tables(role, secrets=secrets)
            store = DBRunLogStore(connection_string=role, secrets=secrets)
            canaries.saw_object("a store", store)
            await use_database(canaries, store)
            with canaries.raising("a missing secret", ConfigurationError):
                await secrets.get("nobody")
    # A password that stands in the configuration itself is what its pickle is for, and shows nowhere else.
    plain = DBRunLogStore(connection_string=filled)
    canaries.saw_object("a store", plain, pickled=False)
    await use_database(canaries, plain)
    for wrong in (
        filled.replace("canary", "other-canary"),
        filled.replace("host=", "host=/nowhere"),
        filled.replace("/test_", "/no_such_"),
        filled.replace(quote(PASSWORD, safe=""), PASSWORD),
        f"{filled}&nonsense=1",
        f"x{filled}",
    ):
        with canaries.raising(f"a database at {wrong[:25]}", AsyncStoreError):
            await DBRunLogStore(connection_string=wrong).open()
        with suppress(AsyncStoreError):
            await create_tables(wrong)


async def test_a_database_that_goes_away(canaries: Canaries, role: str, postgres: PostgresServer) -> None:
    filled = role.replace("${password}", quote(PASSWORD, safe=""))
    await create_tables(filled)
    async with DBRunLogStore(connection_string=filled) as store:
        await store.create_run_log("r")
        connection = await asyncpg.connect(postgres.url)
        await connection.execute(f"ALTER ROLE {urlsplit(filled).username} PASSWORD 'changed'")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", urlsplit(filled).username
        )
        await connection.close()
        with canaries.raising("a database that went away", AsyncStoreError):
            async with asyncio.timeout(20):
                await store.add_step_log(StepLog(name="a", internal_name="a"), "r")


async def test_secrets_of_secrets_manager(canaries: Canaries, keys: None, moto: S3Server) -> None:
    canaries.add("stored secret", PASSWORD)
    name = f"canary-{uuid.uuid4().hex}"
    await _make_secret(moto, name, json.dumps({"password": PASSWORD}))
    given = {"secret_arn": name, "endpoint_url": moto.endpoint_url}
    secrets = AwsSecretsManagerSecrets(**given)
    async with secrets:
        assert await secrets.get("password") == PASSWORD
        with canaries.raising("a missing secret", ConfigurationError):
            await secrets.get("nobody")
        canaries.saw_object("open secrets", secrets)
        canaries.saw("what secrets hold", f"{vars(secrets)!r}")
    with canaries.raising("no such secret", AsyncStoreError):
        await AwsSecretsManagerSecrets(**{**given, "secret_arn": "nobody"}).open()


async def _make_secret(moto: S3Server, name: str, text: str) -> None:
    body = json.dumps({"Name": name, "SecretString": text, "ClientRequestToken": uuid.uuid4().hex})
    parts = urlsplit(moto.endpoint_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    signed = "AWS4-HMAC-SHA256 Credential=accesskey1/20261121/eu-west-1/secretsmanager/aws4_request, SignedHeaders=, "
    head = (
        f"POST / HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: application/x-amz-json-1.1\r\nX-Amz-Target: secretsmanager.CreateSecret\r\n"
        f"Authorization: {signed}Signature=0\r\n\r\n"
    )
    writer.write(f"{head}{body}".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 200"), answer


# The command line.


def commanded(canaries: Canaries, capsys: pytest.CaptureFixture[str], services: dict[str, Any], *arguments: str) -> int:
    Path("asyncstore.yaml").write_text(yaml.safe_dump(services))
    code = run([*arguments, "--config", "asyncstore.yaml"])
    printed = capsys.readouterr()
    canaries.saw(f"output of {' '.join(arguments[:2])}", printed.out)
    canaries.saw(f"errors of {' '.join(arguments[:2])}", printed.err)
    return code


S3_COMMANDS = [
    ["config", "check"],
    ["config", "check", "--json"],
    ["runs", "list"],
    ["catalog", "put", "r", "**", "--debug"],
    ["catalog", "list", "r", "--json"],
    ["catalog", "get", "r", "**", "--json"],
    ["stores", "list", "--json"],
    ["runs", "show", "nobody", "--debug"],
]
DATABASE_COMMANDS = [["config", "check", "--json"], ["runs", "list", "--debug"], ["db", "create-tables", "--debug"]]


@pytest.mark.parametrize("state", ["works", "denied", "down", "no such secret"])
def test_the_command_line(
    canaries: Canaries,
    keys: None,
    stub_bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    state: str,
) -> None:
    canaries.add("database's password", PASSWORD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("password", PASSWORD)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("1")
    denied = serve_all(lambda asked: ok(echo(asked).replace("{code}", "AccessDenied").encode(), status=403))
    with PlayedServer(denied) as server, refusing_port() as nobody:
        port = {"denied": server.port, "down": nobody}.get(state)
        s3 = {**stub_bucket.options, **({"endpoint_url": f"http://127.0.0.1:{port}"} if port else {})}
        placeholder = "${nobody}" if state == "no such secret" else "${password}"
        database = f"postgresql://scott:{placeholder}@127.0.0.1:{nobody}/logs"
        services: dict[str, Any] = {
            "run_log_store": {"type": "chunked-s3", "config": s3},
            "catalog": {"type": "s3", "config": {**s3, "compute_data_folder": "data"}},
            "secrets": {"type": "env-secrets"},
        }
        # Where nobody answers, they would be patient.
        for command in S3_COMMANDS if state != "down" else [["catalog", "list", "r", "--debug"]]:
            code = commanded(canaries, capsys, services, *command)
            assert state != "works" or command[-1] == "--debug" or code == 0, command
        services["run_log_store"] = {"type": "db", "config": {"connection_string": database}}
        if state != "works":
            for command in DATABASE_COMMANDS:
                assert commanded(canaries, capsys, services, *command) > 0


def test_pickles_of_stores_hold_what_was_configured_alone(canaries: Canaries, keys: None, stub_bucket: Bucket) -> None:
    stores = [
        asyncstore.ChunkedS3RunLogStore(**stub_bucket.options),
        asyncstore.S3RunLogStore(**stub_bucket.options),
        asyncstore.S3Catalog(**stub_bucket.options),
        AwsSettings(use_credentials=True),
        CredentialProvider(AwsSettings(role_arn=ROLE)),
    ]
    for store in stores:
        canaries.saw_object(type(store).__name__, store)
        with suppress(TypeError, AttributeError, pickle.PicklingError):
            canaries.saw(f"pickle of {type(store).__name__}", pickle.dumps(store))
