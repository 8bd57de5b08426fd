"""Requests over TLS: both ways at once, ends without a word, and certificates that are none of the server's."""

from __future__ import annotations

import os
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import AccessDeniedError, ConfigurationError, UnavailableError
from asyncstore.objects._http import _connection
from asyncstore.objects._s3._requests import NoConnectionError, Reply, Request, Stream
from asyncstore.objects._s3._wire import Errand, Wire
from tests._http_server import KEYS, Peer, PlayedServer, nothing_left, ok, serve_all, tls_server, wires_made

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LARGE = os.urandom(8 * 1024 * 1024)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return tls_server(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls(certificates: tuple[ssl.SSLContext, Path]) -> ssl.SSLContext:
    return certificates[0]


@pytest.fixture(autouse=True)
def leaks() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture
def wire_to(certificates: tuple[ssl.SSLContext, Path]) -> Iterator[Callable[[str], Wire]]:
    with wires_made(certificates[1]) as make:
        yield make


def send(
    wire: Wire,
    method: str = "GET",
    body: bytes | Stream = b"",
    *,
    take: Callable[[memoryview], None] | None = None,
) -> Reply:
    receive = None if take is None else lambda _: take
    return wire.send(Request(method, "key", f"{method} it", body=body), KEYS, check=lambda: None, receive=receive)


def streamed(content: bytes, step: int = 1024 * 1024) -> Stream:
    view = memoryview(content)
    return Stream(len(content), lambda: (view[at : at + step] for at in range(0, len(content), step)))


@pytest.mark.parametrize("step", [1000, 65_537, len(LARGE)])
def test_large_bodies_go_both_ways(wire_to: Callable[[str], Wire], tls: ssl.SSLContext, step: int) -> None:
    content = LARGE if step > 1000 else LARGE[:1_000_000]
    taken = bytearray()
    with PlayedServer(serve_all(lambda asked: ok(asked.body)), tls=tls) as server:
        wire = wire_to(server.url)
        for _ in range(2):
            taken.clear()
            send(wire, "PUT", streamed(content, step), take=taken.extend)
            assert taken == content
        assert send(wire, "PUT", content).body == content
        assert server.connections == 1


def test_many_at_once(wire_to: Callable[[str], Wire], tls: ssl.SSLContext) -> None:
    found: dict[str, object] = {}

    def errands() -> Iterator[Errand]:
        for number in range(100):
            key, body = f"{number}", LARGE[number : number + number * 1000]
            yield Errand(Request("PUT", key, "put", body=body), lambda outcome, key=key: found.update({key: outcome}))  # type: ignore[misc]

    with PlayedServer(serve_all(lambda asked: ok(asked.body[::-1])), tls=tls) as server:
        wire_to(server.url).send_many(errands(), lambda: KEYS, lambda: 16)
        assert server.connections == 16
    for number in range(100):
        outcome = found[f"{number}"]
        assert isinstance(outcome, Reply)
        assert outcome.body == LARGE[number : number + number * 1000][::-1]


def test_an_early_answer_is_heard(wire_to: Callable[[str], Wire], tls: ssl.SSLContext) -> None:
    def play(peer: Peer) -> None:
        peer.head()
        peer.say(ok(b"<Error><Code>AccessDenied</Code></Error>", status=403))
        peer.stay()

    with PlayedServer(play, tls=tls) as server, pytest.raises(AccessDeniedError):
        send(wire_to(server.url), "PUT", streamed(LARGE * 2))


@pytest.mark.parametrize("politely", [True, False])
def test_a_body_of_a_known_size_needs_no_end(
    wire_to: Callable[[str], Wire], tls: ssl.SSLContext, politely: bool
) -> None:
    def play(peer: Peer) -> None:
        peer.request()
        peer.say(ok(b"body", "Connection: close\r\n"))
        end(peer, politely)

    with PlayedServer(play, tls=tls) as server:
        assert send(wire_to(server.url)).body == b"body"


@pytest.mark.parametrize("politely", [True, False])
def test_a_body_until_the_end_is_whole_only_if_the_server_says_so(
    wire_to: Callable[[str], Wire], tls: ssl.SSLContext, politely: bool
) -> None:
    def play(peer: Peer) -> None:
        peer.request()
        peer.say(b"HTTP/1.1 200 OK\r\n\r\nbody")
        end(peer, politely)

    with PlayedServer(play, tls=tls) as server:
        wire = wire_to(server.url)
        if politely:
            assert send(wire).body == b"body"
        else:
            # Anybody on the way could have cut it off.
            with pytest.raises(UnavailableError):
                send(wire)


def end(peer: Peer, politely: bool) -> None:
    assert isinstance(peer.stream, ssl.SSLSocket)
    if politely:
        peer.stream.unwrap()
    peer.close()


@pytest.mark.parametrize("politely", [True, False])
def test_a_connection_that_was_closed_while_it_was_idle_is_not_used(
    wire_to: Callable[[str], Wire], tls: ssl.SSLContext, politely: bool
) -> None:
    over = threading.Event()

    def once(peer: Peer) -> None:
        peer.request()
        peer.say(ok())
        if politely:
            # Without waiting for the client's word.
            peer.stream.settimeout(0)
            with pytest.raises(ssl.SSLError):
                peer.stream.unwrap()  # type: ignore[attr-defined]
        peer.close()
        over.set()

    with PlayedServer(once, serve_all(lambda _: ok(b"x")), tls=tls) as server:
        wire = wire_to(server.url)
        send(wire)
        assert over.wait(30)
        assert send(wire, "POST").body == b"x"
        assert server.connections == 2


def test_what_follows_an_answer_is_not_the_next_one(wire_to: Callable[[str], Wire], tls: ssl.SSLContext) -> None:
    def play(peer: Peer) -> None:
        peer.request()
        raw = ok(bytes(20_000))
        head = raw.index(b"\r\n\r\n") + 4
        peer.say(raw[:head])
        # In the same record as the end of the body, so that no poll tells of it.
        peer.say(raw[head:-1000])
        peer.say(raw[-1000:] + ok(b"surplus"))
        peer.until_closed()

    with PlayedServer(play, serve_all(lambda _: ok(b"second")), tls=tls) as server:
        wire = wire_to(server.url)
        send(wire, take=lambda _: None)
        assert send(wire).body == b"second"


@pytest.mark.parametrize("ends", ["close", "reset"])
@pytest.mark.parametrize("cut", [0, 1, 5])
def test_a_handshake_that_is_cut_off(wire_to: Callable[[str], Wire], tls: ssl.SSLContext, ends: str, cut: int) -> None:
    def play(peer: Peer) -> None:
        peer.stream.recv(10_000)
        peer.say(b"\x16\x03\x03\x00\x7a"[:cut])
        getattr(peer, ends)()

    with PlayedServer(play) as server:
        with pytest.raises(NoConnectionError) as caught:
            send(wire_to(server.url.replace("http:", "https:").replace("127.0.0.1", "localhost")), "POST", b"x")
        assert not caught.value.answer_lost


def test_a_handshake_that_stalls(wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connection, "CONNECT_TIMEOUT_S", 0.2)
    with PlayedServer(Peer.stay) as server, pytest.raises(NoConnectionError, match="no answer in time"):
        send(wire_to(server.url.replace("http:", "https:")))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_without_tls(wire_to: Callable[[str], Wire], host: str) -> None:
    def play(peer: Peer) -> None:
        peer.stream.recv(10_000)
        peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with PlayedServer(play) as server, pytest.raises(NoConnectionError) as caught:
        send(wire_to(f"https://{host}:{server.port}/bucket"), "PUT", b"secret")
    assert "secret" not in str(caught.value)


def test_a_certificate_of_another_name_is_not_trusted(wire_to: Callable[[str], Wire], tls: ssl.SSLContext) -> None:
    with PlayedServer(serve_all(lambda _: ok()), tls=tls) as server:
        with pytest.raises(NoConnectionError, match="certificate is not trusted"):
            send(wire_to(f"https://127.0.0.1:{server.port}/bucket"))
        assert not server.asked


def test_nor_is_one_of_somebody_else(tls: ssl.SSLContext) -> None:
    with PlayedServer(serve_all(lambda _: ok()), tls=tls) as server:
        wire = Wire(server.url, "eu-west-1", None, connections=1)
        with pytest.raises(NoConnectionError, match="certificate is not trusted"):
            send(wire)
        assert not server.asked


def test_certificates_that_are_none(tmp_path: Path) -> None:
    for content in (None, b"", b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"):
        path = tmp_path / "ca.pem"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"ca\.pem"):
            send(Wire("https://localhost/b", "eu-west-1", path, connections=1))


def test_the_server_is_told_which_of_its_names_is_meant(
    wire_to: Callable[[str], Wire], certificates: tuple[ssl.SSLContext, Path], tmp_path: Path
) -> None:
    named: list[str | None] = []
    tls, authority = tls_server(tmp_path)
    tls.sni_callback = lambda _, name, __: named.append(name)
    with PlayedServer(serve_all(lambda _: ok()), tls=tls) as server:
        wire = Wire(server.url, "eu-west-1", authority, connections=1)
        send(wire)
        wire.close()
    assert named == ["localhost"]
