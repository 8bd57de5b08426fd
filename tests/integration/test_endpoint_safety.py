"""Where signed requests go, and where they do not: TLS, proxies, redirects, names of link-local addresses."""

from __future__ import annotations

import asyncio
import base64
import gc
import ipaddress
import os
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.httpsession import get_cert_path

from asyncstore._core.retry import NO_RETRY
from asyncstore.aws import _endpoints
from asyncstore.aws._endpoints import refuse_link_local_name
from asyncstore.aws.credentials import CredentialProvider
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import AsyncStoreError, ConfigurationError, ConflictError, UnavailableError
from asyncstore.objects._s3._requests import Request
from asyncstore.objects._s3._wire import Wire
from asyncstore.objects.base import NEW, Condition
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.objects.small import Job, SmallGet, SmallPut
from tests._http_server import KEYS, Peer, PlayedServer, ok, serve_all, tls_server
from tests._surroundings import forward_proxy, tls_front

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

    from asyncstore.objects.small import SmallObjects
    from asyncstore.testing.servers import Bucket
    from tests._http_server import Asked

ROLE = "arn:aws:iam::123456789012:role/writer"
LEAVES_SOCKETS = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <(socket|ssl):pytest.PytestUnraisableExceptionWarning"
)
"""botocore leaves the sockets of failed handshakes and of redirects to the garbage collector."""

LARGE_BYTES = 17 * 1024 * 1024


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return tls_server(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(LARGE_BYTES))
    return path


@pytest.fixture
def session_token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session-token")
    return "the-session-token"


async def use_every_verb(store: S3ObjectStore, large: Path) -> None:
    """Put, get, list, copy and delete, small and large, with conditions and without, over each of the engines."""
    etag = await store.put("a", b"1")
    assert (await store.get("a"))[1] == b"1"
    assert (await store.get("a", byte_range=(0, 1), etag=etag))[1] == b"1"
    assert (await store.head("a")).etag == etag
    with pytest.raises(ConflictError):
        await store.put("a", b"2", condition=Condition(etag='"0123"'))
    await store.put("new", b"2", condition=NEW)
    await store.put_file("large", large)
    received = bytearray()
    await store.read_into("large", (0, LARGE_BYTES), lambda block, _: received.extend(block))
    assert received == await asyncio.to_thread(large.read_bytes)
    await store.copy("a", "copy")

    def put_and_get(objects: SmallObjects) -> None:
        objects.run(iter([Job(SmallPut("small", b"3", {}), answers.append)]), lambda: 4)
        objects.run(iter([Job(SmallGet("small", 10), answers.append)]), lambda: 4)

    answers: list[Any] = []
    await store.together(put_and_get, writes=["small"])
    assert answers[1][1] == b"3"
    found = [item.key async for page in store.list("") for item in page]
    assert (
        [item.key for item in (await store.list_folder("")).objects] == found == ["a", "copy", "large", "new", "small"]
    )
    await store.delete(found)
    assert [page async for page in store.list("")] == []


# Certificates and proxies.


@pytest.mark.parametrize("authority", ["alone", "among others", "last"])
async def test_a_private_authority_is_trusted_by_all_engines(
    moto_bucket: Bucket,
    large_file: Path,
    certificates: tuple[ssl.SSLContext, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    authority: str,
) -> None:
    other, ours = [await asyncio.to_thread(Path(name).read_bytes) for name in (get_cert_path(True), certificates[1])]
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(
        {"alone": ours, "among others": other + ours + other, "last": b"# ours\n" + other + ours}[authority]
    )
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    async with (
        tls_front(moto_bucket.server.endpoint_url, certificates[0]) as url,
        S3ObjectStore(moto_bucket.name, AwsSettings(endpoint_url=url)) as store,
    ):
        await use_every_verb(store, large_file)
        assert (await CredentialProvider(AwsSettings(endpoint_url=url, role_arn=ROLE)).get()).token


@LEAVES_SOCKETS
async def test_without_its_certificate_no_engine_says_a_word(certificates: tuple[ssl.SSLContext, Path]) -> None:
    with PlayedServer(serve_all(lambda _: ok()), tls=certificates[0]) as server:
        url = server.url.removesuffix("/bucket")
        with pytest.raises(UnavailableError, match=r"certificate|CERTIFICATE"):
            await CredentialProvider(AwsSettings(endpoint_url=url, role_arn=ROLE)).get()
        async with S3ObjectStore("bucket", AwsSettings(endpoint_url=url), retry=NO_RETRY) as store:
            for asked in (store.get("a"), store.put("a", b"1"), store.delete(["a"]), store.list_folder("")):
                with pytest.raises(UnavailableError, match="certificate is not trusted"):
                    await asked
            with pytest.raises(UnavailableError, match="certificate is not trusted"):
                await anext(store.list(""))
        assert not server.asked
    gc.collect()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_all_engines_go_by_the_proxy_and_none_around_it(
    moto_bucket: Bucket,
    large_file: Path,
    certificates: tuple[ssl.SSLContext, Path],
    monkeypatch: pytest.MonkeyPatch,
    unused_tcp_port: int,
    scheme: str,
) -> None:
    async with (
        tls_front(moto_bucket.server.endpoint_url, certificates[0]) as front,
        forward_proxy(front if scheme == "https" else moto_bucket.server.endpoint_url) as proxy,
    ):
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates[1]))
        monkeypatch.setenv(f"{scheme}_proxy", proxy.url.replace("//", "//user:p%40ss@"))
        # Nobody listens there: only the proxy knows the way.
        url = f"{scheme}://localhost:{unused_tcp_port}"
        async with S3ObjectStore(moto_bucket.name, AwsSettings(endpoint_url=url)) as store:
            await use_every_verb(store, large_file)
        settings = AwsSettings(endpoint_url=url, role_arn=ROLE)
        assert (await CredentialProvider(settings).get()).token
        named = {line.split(" ")[1].removeprefix("http://").partition("/")[0] for line in proxy.asked}
        assert named == {f"localhost:{unused_tcp_port}"}
        known = f"Basic {base64.b64encode(b'user:p@ss').decode()}"
        assert {headers.get("proxy-authorization") for headers in proxy.told} == {known}


@pytest.mark.parametrize("exempt", ["example.com,127.0.0.1", "*"])
async def test_hosts_without_a_proxy_are_reached_by_all_engines(
    moto_bucket: Bucket, large_file: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int, exempt: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_tcp_port}")
    monkeypatch.setenv("NO_PROXY", exempt)
    url = moto_bucket.server.endpoint_url
    async with S3ObjectStore(moto_bucket.name, AwsSettings(endpoint_url=url)) as store:
        await use_every_verb(store, large_file)
    assert (await CredentialProvider(AwsSettings(endpoint_url=url, role_arn=ROLE)).get()).token


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
async def test_storage_reads_networks_without_a_proxy(
    stub_bucket: Bucket, large_file: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int, variable: str
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_tcp_port}")
    monkeypatch.setenv(variable, "10.0.0.0/8, 127.0.0.0/8,nonsense/x")
    async with S3ObjectStore(
        stub_bucket.name, AwsSettings(endpoint_url=stub_bucket.server.endpoint_url), retry=NO_RETRY
    ) as store:
        await use_every_verb(store, large_file)


async def test_a_proxy_that_is_none_is_told_at_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://user:hunter2@proxy.invalid")
    with pytest.raises(ConfigurationError, match=r"the proxy .* must be an http:// URL") as caught:
        await S3ObjectStore("bucket", AwsSettings()).open()
    assert "hunter2" not in str(caught.value)


# Redirects.

MOVES = [301, 302, 303, 307, 308]
MOVED = b"<Error><Code>TemporaryRedirect</Code><Message>Ask there.</Message></Error>"
VERBS: dict[str, Callable[[S3ObjectStore], Awaitable[object]]] = {
    "get": lambda store: store.get("k"),
    "range": lambda store: store.get("k", byte_range=(0, 1)),
    "head": lambda store: store.head("k"),
    "put": lambda store: store.put("k", b"data"),
    "delete": lambda store: store.delete(["k"]),
    "copy": lambda store: store.copy("k", "l"),
    "list folder": lambda store: store.list_folder(""),
    "list": lambda store: anext(store.list("")),
    "read": lambda store: store.read_into("k", (0, 1), lambda *_: None),
    "uploads": lambda store: store.list_uploads(""),
}


@asynccontextmanager
async def redirecting(
    status: int, *, named: str = "", scheme: str = "http"
) -> AsyncIterator[tuple[PlayedServer, PlayedServer]]:
    """Run a server that sends everybody on to another host, and that one, which is glad of everything."""
    with PlayedServer(serve_all(lambda _: ok(b"stolen"))) as other:

        def send_on(asked: Asked) -> bytes:
            there = f"{scheme}://{named or f'localhost:{other.port}'}{asked.target}"
            region = "x-amz-bucket-region: eu-central-1\r\n"
            return ok(MOVED, f"Location: {there}\r\nConnection: close\r\n{region}", status=status)

        def play(peer: Peer) -> None:
            if (asked := peer.request()) is not None:
                peer.say(send_on(asked))

        with PlayedServer(play) as first:
            yield first, other


@pytest.mark.parametrize("status", MOVES)
async def test_no_engine_follows_a_redirect_to_another_host(status: int, session_token: str) -> None:
    async with redirecting(status) as (first, other):
        settings = AwsSettings(endpoint_url=f"http://127.0.0.1:{first.port}")
        async with S3ObjectStore("bucket", settings, retry=NO_RETRY) as store:
            for name, ask in VERBS.items():
                with pytest.raises(
                    ConfigurationError, match="the bucket is in region eu-central-1: set region to that"
                ):
                    await ask(store)
                assert not other.asked, name
        assert {asked.headers["x-amz-security-token"] for asked in first.asked} == {session_token}


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_nor_by_way_of_a_proxy(
    session_token: str, certificates: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    async with redirecting(307, named="elsewhere.invalid", scheme=scheme) as (first, _):
        upstream = f"http://127.0.0.1:{first.port}"
        async with (
            tls_front(upstream, certificates[0]) as front,
            forward_proxy(front if scheme == "https" else upstream) as proxy,
        ):
            monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates[1]))
            monkeypatch.setenv(f"{scheme}_proxy", proxy.url)
            async with S3ObjectStore(
                "bucket", AwsSettings(endpoint_url=f"{scheme}://localhost"), retry=NO_RETRY
            ) as store:
                for ask in VERBS.values():
                    with pytest.raises(ConfigurationError, match="eu-central-1"):
                        await ask(store)
            assert first.asked
            assert not [line for line in proxy.asked if "elsewhere" in line]


@LEAVES_SOCKETS
@pytest.mark.parametrize("status", MOVES)
async def test_nor_does_who_assumes_roles(status: int, session_token: str) -> None:
    async with redirecting(status) as (first, other):
        settings = AwsSettings(endpoint_url=f"http://127.0.0.1:{first.port}", role_arn=ROLE)
        with pytest.raises(AsyncStoreError):
            await CredentialProvider(settings).get()
        assert first.asked
        assert not other.asked
    gc.collect()


async def test_an_endpoint_is_reached_however_its_host_is_spelled(stub_bucket: Bucket) -> None:
    port = stub_bucket.server.endpoint_url.rpartition(":")[2]
    for host in ("localhost", "LocalHost", "127.1", "0x7f.0.0.1", "[::ffff:127.0.0.1]"):
        settings = AwsSettings(endpoint_url=f"http://{host}:{port}")
        async with S3ObjectStore(stub_bucket.name, settings, retry=NO_RETRY) as store:
            await store.put(host, b"1")
            await anext(store.list(""))


# Addresses.


def resolving_to(address: str) -> Callable[..., list[tuple[Any, ...]]]:
    real = socket.getaddrinfo

    def look_up(host: str, port: object, **options: Any) -> list[tuple[Any, ...]]:
        return real(address if host == "storage.example" else host, port, **options)  # type: ignore[arg-type]

    return look_up


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1"])
async def test_a_name_of_a_link_local_address_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to(address))
    with pytest.raises(ConfigurationError, match=r"storage.example has a link-local address.* allow_link_local: true"):
        refuse_link_local_name("https://storage.example/bucket")
    wire = Wire("https://storage.example/bucket", "eu-west-1", None, connections=1)
    with pytest.raises(ConfigurationError, match=r"storage.example has a link-local address"):
        wire.send(Request("GET", "k", "get"), KEYS, check=lambda: None)


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1"])
async def test_a_store_at_a_name_of_a_link_local_address_does_not_open(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to(address))
    settings = AwsSettings(endpoint_url="https://storage.example")
    with pytest.raises(ConfigurationError, match=r"storage.example has a link-local address.* allow_link_local: true"):
        await S3ObjectStore("bucket", settings).open()
    with pytest.raises(ConfigurationError, match=r"storage.example has a link-local address"):
        await CredentialProvider(settings, role_arn=ROLE).get()


async def test_a_session_token_is_not_given_to_whom_hosts_under_a_name_could_be_taken_for(
    stub_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = stub_bucket.server.endpoint_url.replace("127.0.0.1", "storage.example")
    # Only we resolve it so: obstore cannot reach it.
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to("127.0.0.1"))
    settings = AwsSettings(endpoint_url=url, insecure=True)
    async with S3ObjectStore(stub_bucket.name, settings, retry=NO_RETRY) as store:
        with pytest.raises(UnavailableError):
            await store.put("k", b"1")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    async with S3ObjectStore(stub_bucket.name, settings, retry=NO_RETRY) as store:
        await store.put("k", b"1")
        assert (await store.head("k")).size_bytes == 1
        assert (await store.get("k"))[1] == b"1"
        await store.delete(["k"])


async def test_unless_that_is_allowed(stub_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_endpoints, "_LINK_LOCAL", (ipaddress.ip_network("127.0.0.0/8"),))
    url = stub_bucket.server.endpoint_url.replace("127.0.0.1", "localhost")
    with pytest.raises(ConfigurationError, match="localhost has a link-local address"):
        await S3ObjectStore(stub_bucket.name, AwsSettings(endpoint_url=url)).open()
    settings = AwsSettings(endpoint_url=url, allow_link_local=True)
    async with S3ObjectStore(stub_bucket.name, settings) as store:
        await store.put("k", b"1")
        assert [page async for page in store.list("")]


async def test_other_names_are_nobody_s_business(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_link_local_name("http://localhost:1/")
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to("not an address"))
    refuse_link_local_name("http://storage.example:1/")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "[::1]"])
async def test_an_address_has_no_subdomains(host: str) -> None:
    settings = AwsSettings(endpoint_url=f"http://{host}", addressing_style="virtual")
    with pytest.raises(ConfigurationError, match="addressing_style 'virtual' needs an endpoint with a name"):
        await S3ObjectStore("bucket", settings).open()
