"""
One connection: how it is made, and how a request and its answer go over it.

Nothing here blocks: what has to wait is a generator that yields its connection, which says by ``waits_for`` what for.
:mod:`asyncstore.objects._http._driving` waits, and goes on with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import ssl
from collections.abc import Generator
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from asyncstore.objects._http._parsing import CHUNKED, UNTIL_CLOSED, Head, MalformedError, body_bytes, parse_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from asyncstore.objects._http._bodies import Sink
    from asyncstore.objects._http._origin import Origin

Addresses: TypeAlias = "Sequence[tuple[int, tuple[object, ...]]]"
"""Families and addresses of a host, as ``socket.getaddrinfo`` finds them."""

Body: TypeAlias = "bytes | memoryview | Iterable[memoryview]"
"""What is sent after a head: at once, or block by block."""

__all__ = [
    "CONNECT_TIMEOUT_S",
    "READ",
    "READ_TIMEOUT_S",
    "TURN",
    "WRITE",
    "Addresses",
    "Body",
    "BrokenError",
    "ConnectError",
    "Connection",
    "Wait",
]

R = TypeVar("R")

READ = select.POLLIN
WRITE = select.POLLOUT
TURN = 0
"""For nothing, but that others have gone on that are ready as well."""

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
"""How long nothing may come or go, in the middle of a request."""

BUFFER_BYTES = 64 * 1024
"""What is received at a time beside large bodies; no head is longer."""

MOST_INTERIM = 20
"""Answers that only say that the real one is to come (status 1xx), or lines after a last chunk: no server has more."""

_INTERIM = b"HTTP/1.1 1"
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")

Wait: TypeAlias = Generator["Connection", None, R]
"""Something that goes on, each time that the connection which it yielded is ready, until it returns."""


class ConnectError(Exception):
    """There is no way to the server: nothing was sent."""


class BrokenError(Exception):
    """The connection ended before the answer did."""


class Connection:
    """
    A connection to a server, which is made when it is first used. One request at a time goes over it.

    Args:
        origin: the server.
        addresses: finds those of a host and a port.
    """

    def __init__(self, origin: Origin, addresses: Callable[[str, int], Addresses]) -> None:
        self._origin = origin
        self._addresses = addresses
        self._socket: socket.socket | None = None
        self._raw = bytearray(BUFFER_BYTES)
        self._buffer = memoryview(self._raw)
        self._start = 0
        self._end = 0
        self._interim = 0
        self._direct = False
        self.waits_for = READ
        """What it has to be ready for, to go on."""
        self.patience_s = CONNECT_TIMEOUT_S
        """How long it may take until then."""

    @property
    def closed(self) -> bool:
        """Whether it must be made before the next request."""
        return self._socket is None

    def fileno(self) -> int:
        """Return its descriptor, -1 if it has none."""
        return -1 if self._socket is None else self._socket.fileno()

    def idle(self) -> bool:
        """Tell whether it waits for a request, and the server has neither closed it nor said anything."""
        if self._socket is None or self._start < self._end:
            return False
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return False
        poller = select.poll()
        poller.register(self._socket, READ)
        return not poller.poll(0)

    def close(self) -> None:
        """Close it; a second call does nothing, and the next request makes it anew."""
        found, self._socket = self._socket, None
        if found is not None:
            with contextlib.suppress(OSError):
                found.close()
        self._start = self._end = 0

    def exchange(
        self,
        method: str,
        head: bytes,
        body: Body,
        sink_of: Callable[[Head, int], Sink],
    ) -> Wait[Head]:
        """
        Send a request and receive the answer, and return what stands at its head.

        However this ends but by returning, the connection is closed.

        Args:
            method: of the request.
            head: the request up to its body.
            body: as many bytes as the head says; blocks are asked for one by one, each when the one before has gone.
            sink_of: given the head of the answer, and as far as that says it the size of its body, or else -1, says
                what takes the body.

        Raises:
            ConnectError: nothing was sent.
            BrokenError: less came than a whole answer.
            MalformedError: what came is no answer.
            TimeoutError: nothing happened for too long.
        """
        # An early answer needs the room behind the last one.
        self._start = self._end = self._interim = 0
        self._direct = False
        try:
            if self._socket is None:
                yield from self._open()
            whole = yield from self._send_all(head, body)
            answer = yield from self._receive(method, sink_of)
        except BaseException:
            self.close()
            raise
        if not (whole and answer.lasting) or self._start < self._end or (self._direct and not self.idle()):
            self.close()
        if not whole and answer.status < 300:
            raise BrokenError("the server said yes before it had all of the request")
        return answer

    def _open(self) -> Wait[None]:
        self.patience_s = CONNECT_TIMEOUT_S
        try:
            yield from self._connect()
            if self._origin.tls is not None:
                if self._origin.proxy is not None:
                    yield from self._tunnel()
                yield from self._secure(self._origin.tls)
        except (OSError, UnicodeError, BrokenError, MalformedError) as error:
            raise ConnectError(repr(error)) from error
        self.patience_s = READ_TIMEOUT_S

    def _connect(self) -> Wait[None]:
        failure: OSError | None = None
        for family, address in self._addresses(*self._origin.next_hop):
            self._socket = socket.socket(family, socket.SOCK_STREAM)
            self._socket.setblocking(False)
            # Head and body may go out in two pieces: the second would wait 40 ms for word on the first.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                state = self._socket.connect_ex(address)
                if state == errno.EINPROGRESS:
                    yield from self._ready(WRITE)
                    state = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if state:
                    raise OSError(state, os.strerror(state))
            except OSError as error:
                self.close()
                failure = error
            else:
                return
        raise failure or OSError("the host has no address")

    def _tunnel(self) -> Wait[None]:
        origin = self._origin
        assert origin.proxy is not None
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        there = f"{host}:{origin.port}"
        known = f"Proxy-Authorization: {origin.proxy.authorization}\r\n" if origin.proxy.authorization else ""
        yield from self._send([f"CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n{known}\r\n".encode()])
        answer = yield from self._receive_head()
        if not 200 <= answer.status < 300:
            raise BrokenError(f"the proxy answers {answer.status}")
        if self._start < self._end:
            # It would be taken for an answer of the server, though no certificate has vouched for it.
            raise BrokenError("the proxy says more than that there is a way")

    def _secure(self, tls: ssl.SSLContext) -> Wait[None]:
        assert self._socket is not None
        # With a name that none can have, the socket would be lost.
        self._origin.host.encode("idna")
        self._socket = tls.wrap_socket(
            self._socket,
            server_hostname=self._origin.host,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
        )
        while True:
            try:
                self._socket.do_handshake()
            except ssl.SSLWantReadError:
                yield from self._ready(READ)
            except ssl.SSLWantWriteError:
                yield from self._ready(WRITE)
            else:
                return

    def _ready(self, what: int) -> Wait[None]:
        self.waits_for = what
        yield self

    def _send_all(self, head: bytes, body: Body) -> Wait[bool]:
        """Send a request; return whether all of it has gone, and not an answer come before that."""
        if isinstance(body, bytes | memoryview):
            # A few that are ready leave together: the server is woken up once for all of them.
            yield from self._ready(TURN)
            return (yield from self._send([head, body]))
        waiting: bytes | memoryview = head
        for block in body:
            if not (yield from self._send([waiting, block])):
                return False
            waiting = b""
        return not waiting or (yield from self._send([waiting]))

    def _send(self, pieces: list[bytes | memoryview]) -> Wait[bool]:
        assert self._socket is not None
        left = [piece for piece in pieces if piece]
        left_bytes = sum(map(len, left))
        while left_bytes:
            try:
                # Sockets on TLS cannot send several pieces in one call.
                sent = self._socket.send(left[0]) if self._origin.tls else self._socket.sendmsg(left)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                yield from self._ready(READ | WRITE)
                if self._answered_early():
                    return False
            except OSError:
                # It may have said why before it closed the connection.
                return False
            else:
                left_bytes -= sent
                if left_bytes:
                    while sent >= len(left[0]):
                        sent -= len(left.pop(0))
                    left[0] = memoryview(left[0])[sent:]
        return True

    def _answered_early(self) -> bool:
        """Receive what is there, if anything; return whether something is, or the end."""
        assert self._socket is not None
        if self._end == BUFFER_BYTES:
            return True
        try:
            received = self._socket.recv_into(self._buffer[self._end :])
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError:
            return True
        self._end += received
        return not received or self._skip_interim()

    def _skip_interim(self) -> bool:
        """Skip what only says that the answer is to come; return whether the answer itself has begun."""
        while self._raw.startswith(_INTERIM, self._start, self._end):
            end = self._raw.find(b"\r\n\r\n", self._start, self._end)
            if end < 0:
                return False
            self._note_interim(parse_head(bytes(self._buffer[self._start : end])))
            self._start = end + 4
        begun = bytes(self._buffer[self._start : self._end][: len(_INTERIM)])
        return not _INTERIM.startswith(begun)

    def _note_interim(self, answer: Head) -> None:
        self._interim += 1
        if self._interim > MOST_INTERIM or answer.status == 101:
            raise MalformedError(f"the server answers {answer.status}, and does not come to the point")

    def _receive(self, method: str, sink_of: Callable[[Head, int], Sink]) -> Wait[Head]:
        answer = yield from self._receive_head()
        while answer.status < 200:
            self._note_interim(answer)
            answer = yield from self._receive_head()
        size_bytes = body_bytes(method, answer)
        sink = sink_of(answer, max(size_bytes, -1))
        try:
            if size_bytes == CHUNKED:
                yield from self._receive_chunks(sink)
            elif size_bytes == UNTIL_CLOSED:
                yield from self._receive_rest(sink)
                answer = answer._replace(lasting=False)
            else:
                yield from self._receive_exactly(size_bytes, sink)
        except BrokenError:
            # What came is good, and may be gone on from.
            sink.end()
            raise
        sink.end()
        return answer

    def _receive_head(self) -> Wait[Head]:
        sought = self._start
        while (end := self._raw.find(b"\r\n\r\n", sought, self._end)) < 0:
            sought = max(self._start, self._end - 3)
            moved = yield from self._receive_more()
            sought -= moved
        head = bytes(self._buffer[self._start : end])
        self._start = end + 4
        return parse_head(head)

    def _receive_more(self) -> Wait[int]:
        """Receive something behind what is in the buffer; return by how much that was moved to the front."""
        moved = self._start
        held = self._end - self._start
        if held == BUFFER_BYTES:
            raise MalformedError("the answer has a head without end")
        if moved:
            self._raw[:held] = self._raw[self._start : self._end]
            self._start, self._end = 0, held
        received = yield from self._receive_into(self._buffer[self._end :], first=True)
        if received <= 0:
            raise BrokenError("the server closed the connection before its answer was whole")
        self._end += received
        return moved

    def _receive_rest(self, sink: Sink) -> Wait[None]:
        while (received := (yield from self._receive_some(sink.room()))) > 0:
            sink.add(received)
        if received:
            raise BrokenError("the connection broke before the server had closed it")

    def _receive_exactly(self, size_bytes: int, sink: Sink) -> Wait[None]:
        while size_bytes:
            received = yield from self._receive_some(sink.room()[:size_bytes])
            if received <= 0:
                raise BrokenError(f"the server closed the connection {size_bytes} bytes early")
            size_bytes -= received
            sink.add(received)

    def _receive_chunks(self, sink: Sink) -> Wait[None]:
        while True:
            line = yield from self._receive_line()
            said = line.partition(b";")[0].rstrip(b" \t")
            if not _CHUNK_SIZE.fullmatch(said):
                raise MalformedError(f"the answer has a chunk without a size: {said[:100]!r}")
            size_bytes = int(said, 16)
            if not size_bytes:
                break
            yield from self._receive_exactly(size_bytes, sink)
            if (yield from self._receive_line()):
                raise MalformedError("the answer has a chunk that is longer than it says")
        for _ in range(MOST_INTERIM):
            if not (yield from self._receive_line()):
                return
        raise MalformedError("the answer has lines without end behind its last chunk")

    def _receive_line(self) -> Wait[bytes]:
        while (end := self._raw.find(b"\r\n", self._start, self._end)) < 0:
            yield from self._receive_more()
        line = bytes(self._buffer[self._start : end])
        self._start = end + 2
        return line

    def _receive_some(self, room: memoryview) -> Wait[int]:
        """Receive one byte at least, of the buffer first; return how many, or else as :meth:`_receive_into` does."""
        held = min(self._end - self._start, len(room))
        if held:
            room[:held] = self._buffer[self._start : self._start + held]
            self._start += held
            return held
        self._direct = True
        return (yield from self._receive_into(room, first=False))

    def _receive_into(self, room: memoryview, *, first: bool) -> Wait[int]:
        """Return how many bytes came, 0 if the server closed the connection, -1 if it broke."""
        assert self._socket is not None
        if first and self._origin.tls is None:
            # An answer never is there yet.
            yield from self._ready(READ)
        while True:
            try:
                return self._socket.recv_into(room)
            except (BlockingIOError, ssl.SSLWantReadError):
                yield from self._ready(READ)
            except ssl.SSLWantWriteError:
                yield from self._ready(WRITE)
            except OSError:
                # A reset connection, or one on TLS that ended without a word.
                return -1
