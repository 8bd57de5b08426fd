"""Requests over connections to servers that close, break, stall, hurry and trickle; nothing stays open after any."""

from __future__ import annotations

import itertools
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import AccessDeniedError, AsyncStoreError, ClosedError, UnavailableError
from asyncstore.objects._http import _connection
from asyncstore.objects._http._pool import Pool
from asyncstore.objects._s3._requests import NoConnectionError, Request, Stream
from asyncstore.objects._s3._wire import Wire
from tests._http_server import (
    KEYS,
    PATIENCE_S,
    PlayedServer,
    deaf_port,
    nothing_left,
    ok,
    refusing_port,
    serve_all,
    wires_made,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncstore.objects._s3._requests import Reply
    from tests._http_server import Peer

LARGE = bytes(16 * 1024 * 1024)
"""More than the buffers of both ends of a connection hold."""

METHODS = ["GET", "HEAD", "PUT", "POST", "DELETE"]


@pytest.fixture(autouse=True)
def leaks() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture
def wire_to() -> Iterator[Callable[[str], Wire]]:
    with wires_made() as make:
        yield make


def send(
    wire: Wire,
    method: str = "GET",
    body: bytes | Stream = b"",
    *,
    key: str = "key",
    take: Callable[[memoryview], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Reply:
    receive = None if take is None else lambda _: take
    return wire.send(Request(method, key, f"{method} it", body=body), KEYS, check=check, receive=receive)


def streamed(content: bytes, *, step: int = 1024 * 1024) -> Stream:
    view = memoryview(content)
    return Stream(len(content), lambda: (view[at : at + step] for at in range(0, len(content), step)))


def test_one_connection_does_for_many_requests(wire_to: Callable[[str], Wire]) -> None:
    with PlayedServer(serve_all(lambda asked: ok(asked.body[::-1]))) as server:
        wire = wire_to(server.url)
        for method in METHODS * 2:
            assert send(wire, method, b"abc").status == 200 if method == "HEAD" else True
            if method != "HEAD":
                assert send(wire, method, b"abc").body == b"cba"
        assert server.connections in {1, 1 + 2}
    assert {asked.headers["authorization"].split(" ")[0] for asked in server.asked} == {"AWS4-HMAC-SHA256"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_connection_that_was_closed_while_it_was_idle_is_not_used(
    wire_to: Callable[[str], Wire], method: str, end: str
) -> None:
    over = threading.Event()

    def once(peer: Peer) -> None:
        peer.request()
        peer.say(ok())
        getattr(peer, end)()
        over.set()

    with PlayedServer(once, serve_all(lambda _: ok())) as server:
        wire = wire_to(server.url)
        send(wire)
        assert over.wait(PATIENCE_S)
        send(wire, method)
        assert [asked.method for asked in server.asked] == ["GET", method]
        assert server.connections == 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_connection_that_is_closed_on_a_request_loses_its_answer_and_sends_it_once(
    wire_to: Callable[[str], Wire], method: str, end: str
) -> None:
    def play(peer: Peer) -> None:
        peer.request()
        peer.say(ok())
        peer.request()
        getattr(peer, end)()

    with PlayedServer(play, serve_all(lambda _: ok())) as server:
        wire = wire_to(server.url)
        send(wire)
        with pytest.raises(UnavailableError) as caught:
            send(wire, method)
        assert caught.value.answer_lost
        assert not isinstance(caught.value, NoConnectionError)
        assert [asked.method for asked in server.asked] == ["GET", method]
        # The next one has a connection of its own.
        send(wire, method)
        assert server.connections == 2


def after_accepting(peer: Peer) -> None:
    pass


def after_the_head(peer: Peer) -> None:
    peer.head()


def after_some_of_the_body(peer: Peer) -> None:
    asked = peer.head()
    assert asked is not None
    peer.read(int(asked.headers["content-length"]) // 2)


def after_the_request(peer: Peer) -> None:
    peer.request()


def within_the_head_of_the_answer(peer: Peer) -> None:
    peer.request()
    peer.say(b"HTTP/1.1 200 OK\r\nContent-Le")


def before_the_body_of_the_answer(peer: Peer) -> None:
    peer.request()
    peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")


def within_the_body_of_the_answer(peer: Peer) -> None:
    peer.request()
    peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123456789")


def within_a_chunk(peer: Peer) -> None:
    peer.request()
    peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n123456789")


def before_the_last_chunk(peer: Peer) -> None:
    peer.request()
    peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")


PHASES = [
    after_accepting,
    after_the_head,
    after_some_of_the_body,
    after_the_request,
    within_the_head_of_the_answer,
    before_the_body_of_the_answer,
    within_the_body_of_the_answer,
    within_a_chunk,
    before_the_last_chunk,
]


# One that ends while it is idle is not used any more.
@pytest.mark.parametrize(
    ("phase", "used"),
    [(phase, used) for phase in PHASES for used in (False, True) if (phase, used) != (PHASES[0], True)],
)
@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("size", [10, len(LARGE)], ids=["small", "large"])
def test_a_connection_that_ends_in_the_middle(
    wire_to: Callable[[str], Wire], phase: Callable[[Peer], None], end: str, used: bool, size: int
) -> None:
    def play(peer: Peer) -> None:
        if used:
            peer.request()
            peer.say(ok())
        phase(peer)
        getattr(peer, end)()

    body = streamed(LARGE) if size > 10 else LARGE[:10]
    with PlayedServer(play) as server:
        wire = wire_to(server.url)
        if used:
            send(wire)
        with pytest.raises(UnavailableError) as caught:
            send(wire, "PUT", body)
        # It may be told before anything was sent.
        assert caught.value.answer_lost or (phase is after_accepting and isinstance(caught.value, NoConnectionError))
        assert server.connections == 1


def test_what_has_come_of_a_body_is_handed_on_before_the_error(wire_to: Callable[[str], Wire]) -> None:
    taken = bytearray()
    with PlayedServer(within_the_body_of_the_answer) as server, pytest.raises(UnavailableError):
        send(wire_to(server.url), take=taken.extend)
    assert taken == b"123456789"


@pytest.mark.parametrize("ends", ["close", "reset", "stay"])
@pytest.mark.parametrize(("status", "kind"), [(403, AccessDeniedError), (503, UnavailableError)])
@pytest.mark.parametrize("streams", [False, True], ids=["at once", "in blocks"])
def test_an_early_answer_is_heard(
    wire_to: Callable[[str], Wire], ends: str, status: int, kind: type[AsyncStoreError], streams: bool
) -> None:
    def play(peer: Peer) -> None:
        peer.head()
        peer.read(1000)
        peer.say(ok(b"<Error><Code>Why</Code></Error>", status=status))
        getattr(peer, ends)()

    with PlayedServer(play, serve_all(lambda _: ok())) as server:
        wire = wire_to(server.url)
        with pytest.raises(kind, match=rf"Why \({status}\)"):
            send(wire, "PUT", streamed(LARGE) if streams else LARGE)
        # What it had not read of the body is never taken for a request.
        send(wire)
        assert [asked.method for asked in server.asked] == ["PUT", "GET"]
        assert server.connections == 2


@pytest.mark.parametrize("ends", ["close", "stay"])
def test_a_yes_before_the_body_has_gone_is_none(wire_to: Callable[[str], Wire], ends: str) -> None:
    def play(peer: Peer) -> None:
        peer.head()
        peer.say(ok())
        getattr(peer, ends)()

    with PlayedServer(play) as server, pytest.raises(UnavailableError) as caught:
        send(wire_to(server.url), "PUT", streamed(LARGE))
    assert caught.value.answer_lost


@pytest.mark.parametrize("cut", [0, 5, 25])
def test_a_server_may_say_in_the_middle_of_a_body_that_it_goes_on_reading(
    wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    monkeypatch.setattr(_connection, "READ_TIMEOUT_S", 2)
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"

    def play(peer: Peer) -> None:
        peer.head()
        peer.read(1000)
        peer.say(interim[: cut or len(interim)])
        rest = peer.read(len(LARGE) - 1000)
        peer.say(interim[cut or len(interim) :])
        peer.say(ok(b"%d" % len(rest)))

    with PlayedServer(play) as server:
        assert send(wire_to(server.url), "PUT", streamed(LARGE)).body == b"%d" % (len(LARGE) - 1000)


def test_an_answer_that_filled_the_buffer_is_no_early_answer_to_the_next_request(
    wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "READ_TIMEOUT_S", 2)
    said = threading.Event()

    def play(peer: Peer) -> None:
        peer.head()
        peer.say(ok(bytes(80_000)))
        said.set()
        peer.read(2)
        peer.request()
        peer.say(ok(b"all of it"))

    def late() -> Iterator[memoryview]:
        yield memoryview(b"x")
        assert said.wait(PATIENCE_S)
        yield memoryview(b"y")

    with PlayedServer(play) as server:
        wire = wire_to(server.url)
        assert len(send(wire, "PUT", Stream(2, late)).body) == 80_000
        assert send(wire, "PUT", streamed(LARGE)).body == b"all of it"
        assert server.connections == 1


def test_what_follows_an_answer_is_not_the_next_one(wire_to: Callable[[str], Wire]) -> None:
    step = threading.Event()

    def play(peer: Peer) -> None:
        peer.request()
        peer.say(ok(b"first")[:-5])
        assert step.wait(PATIENCE_S)
        peer.say(b"first" + ok(b"surplus"))
        peer.until_closed()

    def take(_: memoryview) -> None:
        pass

    with PlayedServer(play, serve_all(lambda _: ok(b"second"))) as server:
        wire = wire_to(server.url)
        step.set()
        send(wire, take=take)
        assert send(wire).body == b"second"


# Stalls.


def never(peer: Peer) -> None:
    peer.until_closed()


def not_to_the_end(peer: Peer) -> None:
    peer.request()
    peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123")
    peer.until_closed()


@pytest.mark.parametrize("play", [never, not_to_the_end])
def test_a_server_that_stalls(
    wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch, play: Callable[[Peer], None]
) -> None:
    monkeypatch.setattr(_connection, "READ_TIMEOUT_S", 0.2)
    with PlayedServer(play) as server, pytest.raises(UnavailableError, match="no answer in time") as caught:
        send(wire_to(server.url))
    assert caught.value.answer_lost


def test_a_server_that_does_not_read(wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connection, "READ_TIMEOUT_S", 0.2)
    with (
        PlayedServer(lambda peer: peer.stay()) as server,
        pytest.raises(UnavailableError, match="no answer in time") as caught,
    ):
        send(wire_to(server.url), "PUT", streamed(LARGE))
    assert caught.value.answer_lost


def test_a_host_that_does_not_answer(wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connection, "CONNECT_TIMEOUT_S", 0.2)
    with deaf_port() as port:
        with pytest.raises(NoConnectionError, match="no answer in time") as caught:
            send(wire_to(f"http://127.0.0.1:{port}/bucket"))
        assert not caught.value.answer_lost


def test_a_server_that_trickles_is_left_when_nobody_waits_any_more(wire_to: Callable[[str], Wire]) -> None:
    trickled = itertools.count()

    def play(peer: Peer) -> None:
        peer.request()
        peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n")
        for _ in range(400):
            peer.say(b"x")
            next(trickled)
            peer.pause(0.01)

    def check() -> None:
        if next(trickled) > 20:
            raise ClosedError("nobody waits")

    with PlayedServer(play) as server, pytest.raises(ClosedError):
        send(wire_to(server.url), check=check)


def test_interim_answers_without_end(wire_to: Callable[[str], Wire]) -> None:
    def play(peer: Peer) -> None:
        peer.request()
        while True:
            peer.say(b"HTTP/1.1 100 Continue\r\n\r\n")

    with PlayedServer(play) as server, pytest.raises(UnavailableError):
        send(wire_to(server.url))


# Ways to the server.


def addresses_are(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    found = [(socket.AF_INET, ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(Pool, "_addresses", lambda *_: found)


def test_of_several_addresses_the_first_that_takes_it(
    wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "CONNECT_TIMEOUT_S", 0.2)
    with refusing_port() as refusing, deaf_port() as deaf, PlayedServer(serve_all(lambda _: ok(b"x"))) as server:
        addresses_are(monkeypatch, refusing, deaf, server.port, refusing)
        assert send(wire_to("http://somewhere/bucket")).body == b"x"
        assert server.asked[0].headers["host"] == "somewhere"


def test_if_none_takes_it_nothing_was_sent(wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_port() as refusing:
        for ports, match in (([refusing, refusing], "connection refused"), ([], "no address")):
            addresses_are(monkeypatch, *ports)
            with pytest.raises(NoConnectionError, match=match) as caught:
                send(wire_to("http://somewhere/bucket"), "PUT", b"x")
            assert not caught.value.answer_lost


@pytest.mark.parametrize("host", ["a..b", "." + "x" * 70 + ".invalid"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_host_that_is_none(wire_to: Callable[[str], Wire], host: str, scheme: str) -> None:
    with pytest.raises(NoConnectionError):
        send(wire_to(f"{scheme}://{host}/bucket"))


def test_a_name_that_no_certificate_can_have(wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    with PlayedServer(never) as server:
        addresses_are(monkeypatch, server.port)
        for host in ("a..b", "x" * 70):
            with pytest.raises(NoConnectionError):
                send(wire_to(f"https://{host}/bucket"))


# Errors of others.


@pytest.mark.parametrize("where", ["take", "receive", "blocks", "check", "too few", "too many"])
def test_an_error_of_the_callers_ends_the_request(wire_to: Callable[[str], Wire], where: str) -> None:
    class OurError(Exception):
        pass

    def fail(*_: object) -> None:
        raise OurError

    def blocks() -> Iterator[memoryview]:
        yield memoryview(bytes(100))
        raise OurError

    bodies = {
        "blocks": Stream(200, blocks),
        "too few": Stream(200, lambda: [memoryview(bytes(100))]),
        "too many": Stream(200, lambda: [memoryview(bytes(300))]),
    }
    request = Request("PUT", "key", "put it", body=bodies.get(where, b"x"))
    receive = {"take": lambda _: fail, "receive": fail}.get(where)
    with PlayedServer(serve_all(lambda _: ok(b"body"))) as server:
        wire = wire_to(server.url)
        send(wire)
        with pytest.raises((OurError, AsyncStoreError)):
            wire.send(request, KEYS, check=fail if where == "check" else lambda: None, receive=receive)  # type: ignore[arg-type]
        assert not [asked for asked in server.asked if asked.method == "PUT" and len(asked.body) >= 200]
        assert send(wire).body == b"body"


def test_a_closed_wire_sends_nothing_and_keeps_nothing(wire_to: Callable[[str], Wire]) -> None:
    with PlayedServer(serve_all(lambda _: ok())) as server:
        wire = wire_to(server.url)
        send(wire)
        wire.close()
        wire.close()
        with pytest.raises(ClosedError):
            send(wire)
        with pytest.raises(ClosedError):
            wire.send_many(iter([]), lambda: KEYS, lambda: 1)
        assert len(server.asked) == 1


def test_a_wire_that_is_closed_meanwhile(wire_to: Callable[[str], Wire]) -> None:
    asked = threading.Event()

    def play(peer: Peer) -> None:
        peer.request()
        asked.set()
        peer.until_closed()

    with PlayedServer(play) as server:
        wire = wire_to(server.url)

        def close() -> None:
            assert asked.wait(PATIENCE_S)
            wire.close()

        closing = threading.Thread(target=close)
        closing.start()
        with pytest.raises(ClosedError):
            send(wire)
        closing.join()


def test_no_secret_is_told() -> None:
    with refusing_port() as port:
        wire = Wire(f"http://127.0.0.1:{port}/bucket", "eu-west-1", None, connections=1)
        with pytest.raises(NoConnectionError) as caught:
            send(wire)
        told = "".join(map(repr, [caught.value, caught.value.__cause__, wire, wire._line, vars(wire)]))
    assert KEYS.token
    assert not [secret for secret in (KEYS.secret_access_key, KEYS.token) if secret in told]
