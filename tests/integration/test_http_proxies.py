"""Requests by way of proxies: what those are told, what is kept from them, and what they cannot slip in."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import ConfigurationError, UnavailableError
from asyncstore.objects._http import _connection
from asyncstore.objects._http._origin import Origin, Proxy
from asyncstore.objects._s3._requests import NoConnectionError, Reply, Request
from asyncstore.objects._s3._wire import Wire
from tests._http_server import (
    KEYS,
    Peer,
    PlayedServer,
    nothing_left,
    ok,
    refusing_port,
    serve_all,
    tls_server,
    wires_made,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "user"
PASSWORD = "p@ss word"
QUOTED = f"{NAME}:p%40ss%20word@"
KNOWN = f"Basic {base64.b64encode(f'{NAME}:{PASSWORD}'.encode()).decode()}"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return tls_server(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def leaks() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture
def wire_to(certificates: tuple[ssl.SSLContext, Path]) -> Iterator[Callable[[str], Wire]]:
    with wires_made(certificates[1]) as make:
        yield make


def send(wire: Wire, method: str = "GET", body: bytes = b"") -> Reply:
    return wire.send(Request(method, "a b", f"{method} it", {"x": "y z"}, body=body), KEYS, check=lambda: None)


def tunnel(port: int) -> Callable[[Peer], None]:
    """Return the part of a proxy that has a way to a port."""

    def play(peer: Peer) -> None:
        assert peer.head() is not None
        with socket.create_connection(("127.0.0.1", port)) as server:
            peer.say(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n")
            back = threading.Thread(target=pump, args=(server, peer.stream))
            back.start()
            pump(peer.stream, server)
            back.join()

    return play


def pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def test_on_plain_http_the_proxy_is_told_the_whole_url(
    wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    with PlayedServer(serve_all(lambda asked: ok(asked.body))) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{QUOTED}127.0.0.1:{proxy.port}")
        wire = wire_to("http://storage.invalid:9000/bucket")
        assert send(wire, "PUT", b"1234").body == b"1234"
        assert send(wire, "PUT", b"5678").body == b"5678"
        assert proxy.connections == 1
        for asked in proxy.asked:
            assert asked.target == "http://storage.invalid:9000/bucket/a%20b?x=y%20z"
            assert asked.headers["host"] == "storage.invalid:9000"
            assert asked.headers["proxy-authorization"] == KNOWN
            assert "proxy-authorization" not in asked.headers["authorization"]


def test_a_proxy_that_wants_no_name_is_told_none(
    wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    with PlayedServer(serve_all(lambda _: ok())) as proxy:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.port}")
        send(wire_to("http://storage.invalid/bucket"))
        assert "proxy-authorization" not in proxy.asked[0].headers


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy"])
def test_on_tls_neither_learns_what_the_other_is_told(
    wire_to: Callable[[str], Wire],
    monkeypatch: pytest.MonkeyPatch,
    certificates: tuple[ssl.SSLContext, Path],
    variable: str,
) -> None:
    with (
        PlayedServer(serve_all(lambda asked: ok(asked.body)), tls=certificates[0]) as server,
        PlayedServer(tunnel(server.port)) as proxy,
    ):
        monkeypatch.setenv(variable, f"http://{QUOTED}127.0.0.1:{proxy.port}")
        wire = wire_to(server.url)
        content = bytes(3_000_000)
        assert send(wire, "PUT", content).body == content
        assert send(wire, "PUT", b"x").body == b"x"
        wire.close()
        [asked] = proxy.asked
        assert (asked.method, asked.target) == ("CONNECT", f"localhost:{server.port}")
        assert asked.headers == {"host": f"localhost:{server.port}", "proxy-authorization": KNOWN}
        assert [asked.target for asked in server.asked] == ["/bucket/a%20b?x=y%20z"] * 2
        assert not [asked for asked in server.asked if "proxy-authorization" in asked.headers]
        assert proxy.connections == server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 403 Forbidden\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.invalid/\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200",
        b"",
    ],
)
def test_a_proxy_that_refuses(wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    def play(peer: Peer) -> None:
        peer.head()
        peer.say(answer)

    with PlayedServer(play) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{QUOTED}127.0.0.1:{proxy.port}")
        with pytest.raises(NoConnectionError) as caught:
            send(wire_to("https://storage.invalid/bucket"), "POST", b"x")
        assert not caught.value.answer_lost
        assert not told_of(caught.value)
        assert [asked.method for asked in proxy.asked] == ["CONNECT"]
        assert "authorization" not in proxy.asked[0].headers


@pytest.mark.parametrize("when", ["with the answer", "later"])
def test_what_a_proxy_slips_in_before_the_handshake_is_no_answer(
    wire_to: Callable[[str], Wire],
    monkeypatch: pytest.MonkeyPatch,
    certificates: tuple[ssl.SSLContext, Path],
    when: str,
) -> None:
    with PlayedServer(serve_all(lambda _: ok(b"true")), tls=certificates[0]) as server:

        def play(peer: Peer) -> None:
            peer.head()
            with socket.create_connection(("127.0.0.1", server.port)) as there:
                granted, forged = b"HTTP/1.1 200 OK\r\n\r\n", ok(b"forged")
                if when == "later":
                    peer.say(granted)
                    peer.pause(0.05)
                    granted = b""
                peer.say(granted + forged)
                back = threading.Thread(target=pump, args=(there, peer.stream))
                back.start()
                pump(peer.stream, there)
                back.join()

        with PlayedServer(play) as proxy:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
            with pytest.raises(NoConnectionError):
                send(wire_to(server.url))


def test_a_proxy_that_stalls(wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connection, "CONNECT_TIMEOUT_S", 0.2)
    with PlayedServer(Peer.stay) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(NoConnectionError, match="no answer in time"):
            send(wire_to("https://storage.invalid/bucket"))


def test_a_proxy_that_is_not_there(wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_port() as port:
        monkeypatch.setenv("http_proxy", f"http://{QUOTED}127.0.0.1:{port}")
        with pytest.raises(NoConnectionError, match="connection refused") as caught:
            send(wire_to("http://storage.invalid/bucket"))
        assert not told_of(caught.value)


@pytest.mark.parametrize("exempt", ["127.0.0.1", "*", "localhost,127.0.0.1"])
def test_hosts_that_need_no_proxy(wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch, exempt: str) -> None:
    with PlayedServer(serve_all(lambda _: ok())) as server, PlayedServer(serve_all(lambda _: ok())) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{QUOTED}127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", exempt)
        send(wire_to(server.url))
        assert not proxy.asked
        [asked] = server.asked
        assert asked.target.startswith("/bucket")
        assert "proxy-authorization" not in asked.headers


def test_a_host_is_bracketed_where_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(peer: Peer) -> None:
        peer.head()

    with PlayedServer(play) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(UnavailableError):
            send(Wire("https://[2001:db8::1]/bucket", "eu-west-1", None, connections=1))
        assert proxy.asked[0].target == "[2001:db8::1]:443"


@pytest.mark.parametrize(
    "url",
    [
        f"https://{QUOTED}proxy.invalid:8080",
        f"socks5://{QUOTED}proxy.invalid",
        f"http://{QUOTED}",
        f"http://{QUOTED}proxy.invalid:x",
        f"http://{QUOTED}[proxy.invalid",
    ],
)
def test_a_proxy_that_is_none(wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("http_proxy", url)
    with pytest.raises(ConfigurationError) as caught:
        send(wire_to("http://storage.invalid/bucket"))
    assert not told_of(caught.value)


def test_no_password_is_shown(wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://{QUOTED}proxy.invalid")
    origin = Origin.of("http://storage.invalid/bucket", None)
    assert origin.proxy == Proxy("proxy.invalid", 80, KNOWN)
    assert not [secret for secret in SECRETS if secret in repr(origin)]
    wire = wire_to("http://storage.invalid/bucket")
    line = wire._open()
    assert not [secret for secret in SECRETS if secret in repr([wire, line, line.pool, vars(line.pool)])]


SECRETS = [PASSWORD, "p%40ss", KNOWN.removeprefix("Basic "), KEYS.secret_access_key, str(KEYS.token)]


def told_of(error: BaseException) -> list[str]:
    """Return the secrets that an error and those behind it tell."""
    told = ""
    found: BaseException | None = error
    while found is not None:
        told += f"{found} {found!r}"
        found = found.__cause__ or found.__context__
    return [secret for secret in SECRETS if secret in told]
