"""Many requests at once in one thread: how many, in which order, and what each is told, whatever the server does."""

from __future__ import annotations

import hashlib
import itertools
import random
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import (
    AccessDeniedError,
    AsyncStoreError,
    ClosedError,
    ConflictError,
    InvalidValueError,
    NotFoundError,
    UnavailableError,
)
from asyncstore.objects._http import _connection, _driving
from asyncstore.objects._s3._requests import NoConnectionError, Reply, Request
from asyncstore.objects._s3._wire import Errand, Sender, Wire
from tests._http_server import KEYS, PlayedServer, nothing_left, ok, refusing_port, serve_all, wires_made

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncstore.aws.credentials import Credentials
    from tests._http_server import Asked, Peer


@pytest.fixture(autouse=True)
def leaks() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture
def wire_to() -> Iterator[Callable[[str], Wire]]:
    with wires_made(connections=64) as make:
        yield make


class Log:
    """Makes errands, and notes what became of each."""

    def __init__(self, method: str = "GET", *, most_bytes: int | None = None) -> None:
        self._method = method
        self._most_bytes = most_bytes
        self.begun: list[str] = []
        self.told: dict[str, Reply | AsyncStoreError] = {}
        self.settled: Callable[[str], None] = lambda _: None
        self.asked: Callable[[], None] = lambda: None

    @property
    def under_way(self) -> int:
        return len(self.begun) - len(self.told)

    def errands(self, count: int | None) -> Iterator[Errand]:
        for number in itertools.count() if count is None else range(count):
            self.asked()
            key = f"key-{number}"
            self.begun.append(key)
            body = b"" if self._method == "GET" else key.encode()
            request = Request(self._method, key, f"{self._method} {key}", body=body)
            yield Errand(request, lambda outcome, key=key: self.settle(key, outcome), self._most_bytes)  # type: ignore[misc]

    def settle(self, key: str, outcome: Reply | AsyncStoreError) -> None:
        assert key not in self.told
        self.told[key] = outcome
        self.settled(key)

    def kinds(self) -> set[type]:
        return {type(outcome) for outcome in self.told.values()}


def content_of(target: str) -> bytes:
    key = target.rpartition("/")[2]
    return hashlib.sha256(key.encode()).digest() * random.Random(key).choice([0, 1, 3, 1000, 8000])


def content(asked: Asked) -> bytes:
    return ok(content_of(asked.target))


def check_contents(log: Log, count: int) -> None:
    assert len(log.told) == count
    for key, outcome in log.told.items():
        assert isinstance(outcome, Reply), outcome
        assert outcome.body == content_of(f"/bucket/{key}")


def send_many(wire: Wire, log: Log, count: int | None = 100, at_once: Callable[[], int] = lambda: 8) -> None:
    wire.send_many(log.errands(count), lambda: KEYS, at_once)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a host whose name is not known."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    return "http://nowhere.invalid/bucket"


class Provider:
    def wait(self, _: object) -> Credentials:
        return KEYS


def sender_of(wire: Wire) -> Sender:
    return Sender(wire, Provider())  # type: ignore[arg-type]


@pytest.mark.parametrize("framing", ["length", "chunks", "close", "until closed"])
def test_64_at_once_are_answered_in_any_order(wire_to: Callable[[str], Wire], framing: str) -> None:
    def play(peer: Peer) -> None:
        while (asked := peer.request()) is not None:
            peer.pause(random.random() * 0.01)
            body = content_of(asked.target)
            if framing == "length":
                peer.say(ok(body))
            elif framing == "close":
                peer.say(ok(body, "Connection: close\r\n"))
                return
            elif framing == "until closed":
                peer.say(b"HTTP/1.1 200 OK\r\n\r\n" + body)
                return
            else:
                cut = random.randrange(len(body)) if body else 0
                pieces = [piece for piece in (body[:cut], body[cut:], b"") if piece] + [b""]
                peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for piece in pieces:
                    peer.say(b"%x\r\n%b\r\n" % (len(piece), piece))
                    peer.pause(random.random() * 0.001)

    log = Log()
    with PlayedServer(play) as server:
        send_many(wire_to(server.url), log, 400, lambda: 64)
        assert server.connections == 400 if "close" in framing else server.connections <= 64
    check_contents(log, 400)


def test_bodies_go_where_they_belong(wire_to: Callable[[str], Wire]) -> None:
    log = Log("PUT")
    with PlayedServer(serve_all(lambda asked: ok(asked.body))) as server:
        send_many(wire_to(server.url), log, 300, lambda: 64)
        assert sorted(asked.body for asked in server.asked) == sorted(key.encode() for key in log.begun)
    assert {key: outcome.body for key, outcome in log.told.items() if isinstance(outcome, Reply)} == {
        key: key.encode() for key in log.begun
    }


def test_there_are_never_more_at_once_than_at_that_moment(wire_to: Callable[[str], Wire]) -> None:
    log = Log()
    most = [0, 0, 0]

    def phase() -> int:
        return min(2, len(log.told) // 100)

    def at_once() -> int:
        return (8, 2, 32)[phase()]

    def asked() -> None:
        assert log.under_way < at_once()
        most[phase()] = max(most[phase()], log.under_way + 1)

    log.asked = asked
    with PlayedServer(serve_all(content)) as server:
        send_many(wire_to(server.url), log, 300, at_once)
    check_contents(log, 300)
    assert most == [8, 2, 32]


@pytest.mark.parametrize("at_once", [lambda: 0, lambda: -1], ids=["none", "fewer"])
def test_one_at_a_time_is_the_least(wire_to: Callable[[str], Wire], at_once: Callable[[], int]) -> None:
    log = Log()

    def asked() -> None:
        assert not log.under_way

    log.asked = asked
    with PlayedServer(serve_all(content)) as server:
        send_many(wire_to(server.url), log, 20, at_once)
    check_contents(log, 20)


def test_none_more_while_there_is_no_room(wire_to: Callable[[str], Wire]) -> None:
    log = Log()

    def at_once() -> int:
        return 0 if log.under_way else 8

    with PlayedServer(serve_all(content)) as server:
        send_many(wire_to(server.url), log, 50, at_once)
        assert server.connections == 1
    check_contents(log, 50)


def test_no_errands(wire_to: Callable[[str], Wire]) -> None:
    with PlayedServer(serve_all(content)) as server:
        send_many(wire_to(server.url), Log(), 0)
        assert not server.connections


@pytest.mark.parametrize("error", [RuntimeError("ours"), StopIteration("ours"), NotFoundError("ours")])
@pytest.mark.parametrize("at", [0, 30, 99])
def test_what_settling_raises_ends_all(wire_to: Callable[[str], Wire], error: Exception, at: int) -> None:
    log = Log()
    begun = 0

    def settled(key: str) -> None:
        nonlocal begun
        if key == f"key-{at}":
            begun = len(log.begun)
            raise error

    log.settled = settled
    with PlayedServer(serve_all(content)) as server:
        wire = wire_to(server.url)
        # A StopIteration must not pass for the end of the one that raised it.
        with pytest.raises(type(error), match="ours"):
            send_many(wire, log)
        # Those that were under way are told too, and nothing of them is left.
        assert log.told.keys() == set(log.begun)
        assert len(log.begun) == begun
        again = Log()
        send_many(wire, again)
    check_contents(again, 100)


def test_what_the_errands_raise_ends_all(wire_to: Callable[[str], Wire]) -> None:
    log = Log()

    def asked() -> None:
        if len(log.begun) == 30:
            raise RuntimeError("ours")

    log.asked = asked
    with PlayedServer(serve_all(content)) as server, pytest.raises(RuntimeError, match="ours"):
        send_many(wire_to(server.url), log)
    assert len(log.told) == 30


def test_an_error_that_a_request_meets_before_it_is_sent_is_its_own(wire_to: Callable[[str], Wire]) -> None:
    told: list[object] = []
    requests = [
        Request("GET", "a", "get a"),
        Request("PUT", "b", "put b", headers={"x-amz-meta-a": "b\r\nx: y"}),
        Request("GET", "c", "get c"),
    ]
    with PlayedServer(serve_all(lambda asked: ok(asked.target.encode()))) as server:
        wire = wire_to(server.url)
        wire.send_many((Errand(request, told.append) for request in requests), lambda: KEYS, lambda: 1)
        assert len(server.asked) == 2
    assert [type(outcome) for outcome in told] == [Reply, InvalidValueError, Reply]


def test_a_wire_that_is_closed_meanwhile_settles_nothing_more(wire_to: Callable[[str], Wire]) -> None:
    log = Log()
    with PlayedServer(serve_all(content)) as server:
        wire = wire_to(server.url)

        def settled(_: str) -> None:
            if len(log.told) == 50:
                wire.close()

        log.settled = settled
        with pytest.raises(ClosedError):
            send_many(wire, log, None)
    assert 50 <= len(log.told) < 100


def test_who_hangs_up_is_told_of_those_that_are_under_way(wire_to: Callable[[str], Wire]) -> None:
    log = Log("PUT")
    with PlayedServer(serve_all(lambda asked: ok(asked.body))) as server:
        sender = sender_of(wire_to(server.url))

        def settled(_: str) -> None:
            if len(log.told) == 50:
                sender.hang_up()
                log.asked = pytest.fail

        log.settled = settled
        sender.send_many(log.errands(None), lambda: 8)
        assert sorted(asked.body.decode() for asked in server.asked) == sorted(log.begun)
    assert set(log.told) == set(log.begun)
    assert log.kinds() == {Reply}
    assert 50 <= len(log.told) <= 58


def test_connections_that_are_refused(wire_to: Callable[[str], Wire]) -> None:
    log = Log("PUT")
    with refusing_port() as port:
        send_many(wire_to(f"http://127.0.0.1:{port}/bucket"), log, 1000, lambda: 64)
    assert len(log.told) == 1000
    assert log.kinds() == {NoConnectionError}
    assert not [error for error in log.told.values() if isinstance(error, UnavailableError) and error.answer_lost]


def test_hanging_up_ends_what_never_waits(wire_to: Callable[[str], Wire], nowhere: str) -> None:
    log = Log()
    sender = sender_of(wire_to(nowhere))

    def settled(_: str) -> None:
        if len(log.told) == 20:
            sender.hang_up()

    log.settled = settled
    sender.send_many(log.errands(None), lambda: 4)
    assert log.kinds() == {NoConnectionError}
    assert 20 <= len(log.told) <= 24


def test_so_does_closing(wire_to: Callable[[str], Wire], nowhere: str) -> None:
    log = Log()
    wire = wire_to(nowhere)

    def settled(_: str) -> None:
        if len(log.told) == 20:
            wire.close()
        assert len(log.told) < 1000

    log.settled = settled
    with pytest.raises(ClosedError):
        send_many(wire, log, None, lambda: 4)


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_server_that_closes_each_connection_without_a_word(wire_to: Callable[[str], Wire], end: str) -> None:
    def play(peer: Peer) -> None:
        asked = peer.request()
        assert asked is not None
        peer.say(content(asked))
        peer.stream.shutdown(1)
        # What comes now is not read: it is lost.
        peer.until_closed()
        getattr(peer, end)()

    log = Log()
    with PlayedServer(play) as server:
        send_many(wire_to(server.url), log, 200, lambda: 8)
    assert len(log.told) == 200
    for key, outcome in log.told.items():
        if isinstance(outcome, Reply):
            assert outcome.body == content_of(key)
        else:
            assert isinstance(outcome, UnavailableError)
            assert outcome.answer_lost
    assert sum(isinstance(outcome, Reply) for outcome in log.told.values()) >= 8


def test_those_that_stall_hold_up_no_others(wire_to: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connection, "READ_TIMEOUT_S", 0.5)
    monkeypatch.setattr(_driving, "SLICE_S", 0.01)

    def play(peer: Peer) -> None:
        while (asked := peer.request()) is not None:
            if asked.target.endswith("0"):
                peer.stay()
                return
            peer.say(content(asked))

    log = Log()
    with PlayedServer(play) as server:
        send_many(wire_to(server.url), log, 100, lambda: 8)
    stalled = {key for key, outcome in log.told.items() if isinstance(outcome, AsyncStoreError)}
    assert stalled == {f"key-{number}" for number in range(0, 100, 10)}
    assert log.kinds() == {Reply, UnavailableError}


@pytest.mark.parametrize("size", [0, 10, 100, 70_000, 200_000])
@pytest.mark.parametrize("framing", ["length", "chunks", "until closed"])
def test_a_body_that_is_larger_than_expected_is_a_conflict(
    wire_to: Callable[[str], Wire], size: int, framing: str
) -> None:
    def answer(peer: Peer) -> None:
        while peer.request() is not None:
            body = bytes(size)
            if framing == "length":
                peer.say(ok(body))
            elif framing == "chunks":
                peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                peer.say(b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if size else b"0\r\n\r\n")
            else:
                peer.say(b"HTTP/1.1 200 OK\r\n\r\n" + body)
                return

    log = Log(most_bytes=100)
    with PlayedServer(answer) as server:
        send_many(wire_to(server.url), log, 3, lambda: 1)
    for outcome in log.told.values():
        if size <= 100:
            assert isinstance(outcome, Reply)
            assert outcome.body == bytes(size)
        elif isinstance(outcome, Reply):
            # Its headers, or its length, say it.
            assert int(outcome.headers.get("content-length", len(outcome.body))) > 100
        else:
            assert isinstance(outcome, ConflictError)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(404, "NoSuchKey", NotFoundError), (403, "AccessDenied", AccessDeniedError), (503, "SlowDown", UnavailableError)],
)
def test_an_error_is_itself_however_little_was_expected(
    wire_to: Callable[[str], Wire], status: int, code: str, kind: type
) -> None:
    body = f"<Error><Code>{code}</Code><Message>{'x' * 1000}</Message></Error>".encode()
    log = Log(most_bytes=10)
    with PlayedServer(serve_all(lambda _: ok(body, status=status))) as server:
        send_many(wire_to(server.url), log, 10, lambda: 2)
    assert log.kinds() == {kind}


def test_threads_share_a_wire(wire_to: Callable[[str], Wire]) -> None:
    logs = [Log() for _ in range(4)]
    with PlayedServer(serve_all(content)) as server:
        wire = wire_to(server.url)
        threads = [threading.Thread(target=send_many, args=(wire, log)) for log in logs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.connections <= 32
    for log in logs:
        check_contents(log, 100)


def test_what_follows_an_answer_is_not_the_next_one(wire_to: Callable[[str], Wire]) -> None:
    def play(peer: Peer) -> None:
        asked = peer.request()
        assert asked is not None
        raw = ok(b"content of " + asked.target.encode())
        head = raw.index(b"\r\n\r\n") + 4
        peer.say(raw[:head])
        peer.pause(0.02)
        peer.say(raw[head:] + ok(b"surplus"))
        peer.until_closed()

    log = Log()
    with PlayedServer(play) as server:
        send_many(wire_to(server.url), log, 20, lambda: 2)
    for key, outcome in log.told.items():
        assert isinstance(outcome, Reply)
        assert outcome.body == f"content of /bucket/{key}".encode()
