"""
Requests to S3 by our own HTTP: small ones many at once in a thread, and whatever obstore has no way to say.

Bodies go through in blocks, both ways, so memory does not grow with them. Everything here blocks, and may be called
from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, urlsplit

from asyncstore.errors import (
    AsyncStoreError,
    ClosedError,
    ConflictError,
    IntegrityError,
    InvalidValueError,
    UnavailableError,
)
from asyncstore.objects._errors import BODILESS, code_in, from_s3_code, no_answer, transport_reason
from asyncstore.objects._http._bodies import Blocks, Collected, TooLongError
from asyncstore.objects._http._connection import BrokenError, ConnectError
from asyncstore.objects._http._driving import run, run_many
from asyncstore.objects._http._origin import Origin
from asyncstore.objects._http._parsing import MalformedError
from asyncstore.objects._http._pool import Pool
from asyncstore.objects._http._signing import EMPTY_HASH, UNSIGNED, Signer
from asyncstore.objects.bodies import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from asyncstore.aws.credentials import CredentialProvider, Credentials
    from asyncstore.objects._http._bodies import Sink
    from asyncstore.objects._http._connection import Connection, Wait
    from asyncstore.objects._http._parsing import Head

    Receive: TypeAlias = "Callable[[Reply], Callable[[memoryview], None]]"
    """Given an answer without its body, refuses it by an error or returns what takes the blocks of its body."""

__all__ = ["Errand", "NoConnectionError", "Reply", "Request", "Sender", "Stream", "Wire"]

MOST_BYTES = 64 * 1024 * 1024
"""No answer that is kept in memory is longer, whatever the server says."""

MOST_ERROR_BYTES = 1024 * 1024
"""Nor is what it says of an error."""

_READS = {"GET", "HEAD"}
_AGENT = f"asyncstore/{version('asyncstore')}"


class NoConnectionError(UnavailableError):
    """Nothing was sent, for there is no way to the server."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A body of a known size that is read while it is sent."""

    size_bytes: int
    blocks: Callable[[], Iterable[memoryview]]
    """Gives it from its start, anew at each call; each block is valid until the next one is asked for."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a bucket or one of its objects."""

    method: str
    key: str
    """Empty for the bucket."""
    what: str
    """What is asked and where, for errors."""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview | Stream = b""
    body_hash: str = ""
    """SHA-256 of the body in hex, if it is known."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, with a status of success."""

    status: int
    headers: Mapping[str, str]
    """Under names in lower case."""
    body: bytes = b""
    """Empty if somebody received it in blocks."""


@dataclass(frozen=True, slots=True)
class Errand:
    """One of many requests."""

    request: Request
    settle: Callable[[Reply | AsyncStoreError], None]
    """Told what became of it, in the thread that made it."""
    most_bytes: int | None = None
    """A larger body is not received, and the answer that comes is without it."""


class Wire:
    """
    Sends requests about one bucket and its objects over connections that it keeps.

    Args:
        url: the bucket's; the environment says by which proxy it is reached.
        region: the bucket's.
        ca_bundle: CA certificates to trust instead of botocore's own.
        connections: most connections that are kept.
    """

    def __init__(self, url: str, region: str, ca_bundle: Path | None, *, connections: int) -> None:
        self._url = url
        self._region = region
        self._ca_bundle = ca_bundle
        self._most = connections
        self._lock = threading.Lock()
        self._line: _Line | None = None
        self._closed = False

    def send(
        self, request: Request, keys: Credentials, *, check: Callable[[], None], receive: Receive | None = None
    ) -> Reply:
        """
        Send one request, once.

        Args:
            request: what to ask.
            keys: what signs it.
            check: called every now and then while the request can still be taken back, and between blocks; what it
                raises ends the request and closes its connection.
            receive: takes the body of the answer in blocks; what it raises does so too.

        Raises:
            AsyncStoreError: what S3's answer means, by the table of :mod:`asyncstore.objects._errors`.
            UnavailableError: no answer came, or less than a whole one.
            ClosedError: this was closed.
        """
        line = self._open()
        check()
        outgoing = _Outgoing(request, check)

        def receive_checked(reply: Reply) -> Callable[[memoryview], None]:
            assert receive is not None
            take = receive(reply)

            def take_checked(block: memoryview) -> None:
                self.check_open()
                check()
                take(block)

            return take_checked

        def look() -> None:
            self.check_open()
            if request.method in _READS or not outgoing.gone:
                check()

        connection = line.pool.take()
        try:
            return run(line.exchange(connection, request, outgoing, keys, receive and receive_checked), look)
        finally:
            line.pool.give_back(connection)

    def send_many(self, errands: Iterator[Errand], keys: Callable[[], Credentials], at_once: Callable[[], int]) -> None:
        """
        Send many requests, each once, ``at_once()`` of them at the same time, until there are no more.

        What a function given here raises is raised when those that are under way are settled: none lands later.

        Args:
            errands: asked for the next one whenever there is room.
            keys: gives what signs at this moment.
            at_once: most at the same time at this moment; one is under way in any case.

        Raises:
            ClosedError: this was closed; no errand is settled any more.
        """
        line = self._open()
        ended = False
        under_way = 0
        failures: list[Exception] = []

        def serve(errand: Errand | None) -> Wait[None]:
            nonlocal ended, under_way
            connection = line.pool.take()
            try:
                while errand is not None:
                    outcome: Reply | AsyncStoreError
                    try:
                        outgoing = _Outgoing(errand.request, self.check_open)
                        outcome = yield from line.exchange(
                            connection, errand.request, outgoing, keys(), most_bytes=errand.most_bytes
                        )
                    except AsyncStoreError as error:
                        outcome = error
                    errand.settle(outcome)
                    # Where nothing has to be waited for, as without an address, nobody else asks.
                    self.check_open()
                    if under_way > at_once():
                        return
                    errand = None if ended else next(errands, None)
                    ended = ended or errand is None
            except Exception as error:
                failures.append(error)
                ended = True
            finally:
                under_way -= 1
                line.pool.give_back(connection)

        def begin(count: int) -> Wait[None] | None:
            nonlocal ended, under_way
            try:
                if ended or (count and count >= at_once()):
                    return None
                errand = next(errands, None)
            except Exception as error:
                failures.append(error)
                errand = None
            ended = errand is None
            if ended:
                return None
            under_way += 1
            return serve(errand)

        run_many(begin, self.check_open)
        if failures:
            raise failures[0]

    def close(self) -> None:
        """Close all connections that are idle, and each other one when its request is over."""
        with self._lock:
            self._closed = True
            if self._line is not None:
                self._line.pool.close()

    def check_open(self) -> None:
        """
        Do nothing if requests can be sent.

        Raises:
            ClosedError: this was closed.
        """
        if self._closed:
            raise ClosedError(f"the connections to {self._url} were closed")

    def _open(self) -> _Line:
        with self._lock:
            self.check_open()
            if self._line is None:
                origin = Origin.of(self._url, self._ca_bundle)
                self._line = _Line(self._url, origin, Pool(origin, self._most), Signer(origin.said, self._region))
            return self._line


class Sender:
    """
    Sends the requests of one call to a thread, which may hang up meanwhile.

    Args:
        wire: what sends them.
        provider: whose keys sign each of them: those of the moment. They must have been awaited.
    """

    def __init__(self, wire: Wire, provider: CredentialProvider) -> None:
        self._wire = wire
        self._provider = provider
        self._gone = False

    def send(self, request: Request, receive: Receive | None = None) -> Reply:
        """Send one request, once; see :meth:`Wire.send`."""
        return self._wire.send(request, self._provider.current, check=self.check, receive=receive)

    def send_many(self, errands: Iterator[Errand], at_once: Callable[[], int]) -> None:
        """
        Send many requests; see :meth:`Wire.send_many`.

        Those that are under way when the caller hangs up are settled, and no further ones are sent.
        """
        self._wire.send_many(self._wanted(errands), lambda: self._provider.current, at_once)

    def check(self) -> None:
        """
        Do nothing if somebody still wants what is being done.

        Raises:
            ClosedError: the caller is gone, or the wire was closed.
        """
        if self._gone:
            raise ClosedError("nobody waits for this request any more")
        self._wire.check_open()

    def hang_up(self) -> None:
        """Let what is under way end at its next block."""
        self._gone = True

    def _wanted(self, errands: Iterator[Errand]) -> Iterator[Errand]:
        while not self._gone and (errand := next(errands, None)) is not None:
            yield errand


class _Line:
    """The way to a bucket: what is sent there, and what an answer means."""

    def __init__(self, url: str, origin: Origin, pool: Pool, signer: Signer) -> None:
        self.pool = pool
        self._signer = signer
        self._base = quote(urlsplit(url).path, safe="/~%")
        proxy = origin.proxy
        self._target_prefix = origin.target_prefix
        self._unsigned = f"User-Agent: {_AGENT}\r\n"
        if self._target_prefix and proxy is not None and proxy.authorization:
            self._unsigned += f"Proxy-Authorization: {proxy.authorization}\r\n"
        self._unsigned_lines = self._unsigned.count("\n")

    def exchange(
        self,
        connection: Connection,
        request: Request,
        outgoing: _Outgoing,
        keys: Credentials,
        receive: Receive | None = None,
        most_bytes: int | None = None,
    ) -> Wait[Reply]:
        """Send a request, and judge the answer."""
        incoming = _Incoming(receive, most_bytes)
        head, body = self._head(request, outgoing, keys), outgoing.body()
        try:
            answer = yield from connection.exchange(request.method, head, body, incoming.sink)
        except ConnectError as error:
            raise NoConnectionError(f"{request.what}: {transport_reason(str(error))}") from error
        except TooLongError as error:
            if most_bytes is None:
                raise _lost(error, request.what) from error
            raise ConflictError(f"{request.what}: more than {most_bytes} bytes come, and no end of them") from error
        except (BrokenError, MalformedError, TimeoutError) as error:
            raise _lost(error, request.what) from error
        except _TooLargeError as error:
            return error.reply
        finally:
            if isinstance(body, Generator):
                body.close()
        said = incoming.body
        if _is_failure(answer.status):
            code = code_in(said.decode(errors="replace"))
            raise from_s3_code(code, answer.status, request.what, bodiless=request.method in BODILESS)
        return Reply(answer.status, answer.headers, said)

    def _head(self, request: Request, outgoing: _Outgoing, keys: Credentials) -> bytes:
        path = f"{self._base}/{quote(request.key, safe='/~')}" if request.key else self._base or "/"
        query = ""
        if request.query:
            pairs = [(quote(name, safe="-_.~"), quote(said, safe="-_.~")) for name, said in request.query.items()]
            query = "&".join([f"{name}={said}" for name, said in sorted(pairs)])
        headers = {name.lower(): said for name, said in request.headers.items()}
        if outgoing.size_bytes or request.method not in _READS:
            headers["content-length"] = str(outgoing.size_bytes)
        said = self._signer.signed(request.method, path, query, headers, outgoing.hash, keys)
        target = f"{self._target_prefix}{path}?{query}" if query else f"{self._target_prefix}{path}"
        lines = "".join([f"{name}: {value}\r\n" for name, value in said.items()])
        head = f"{request.method} {target} HTTP/1.1\r\n{lines}{self._unsigned}\r\n".encode("ascii", "replace")
        # What servers, files and the environment say must not be taken for more than the value that it is.
        count = len(said) + self._unsigned_lines + 2
        if head.count(b"\r") != count or head.count(b"\n") != count or b"\0" in head or not lines.isascii():
            raise InvalidValueError(f"{request.what}: a header, or what signs it, holds what no header can hold")
        return head


class _TooLargeError(Exception):
    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


class _Incoming:
    """Where the body of an answer goes."""

    __slots__ = ("_collected", "_most_bytes", "_receive")

    def __init__(self, receive: Receive | None, most_bytes: int | None) -> None:
        self._receive = receive
        self._most_bytes = most_bytes
        self._collected: Collected | None = None

    @property
    def body(self) -> bytes:
        return b"" if self._collected is None else self._collected.body

    def sink(self, head: Head, size_bytes: int) -> Sink:
        most_bytes = MOST_BYTES
        if _is_failure(head.status):
            most_bytes = MOST_ERROR_BYTES
        elif self._receive is not None:
            take = self._receive(Reply(head.status, head.headers))
            return Blocks(take, BLOCK_BYTES if size_bytes < 0 else min(BLOCK_BYTES, size_bytes))
        elif self._most_bytes is not None:
            if size_bytes > self._most_bytes:
                raise _TooLargeError(Reply(head.status, head.headers))
            most_bytes = self._most_bytes
        self._collected = Collected(size_bytes, most_bytes)
        return self._collected


class _Outgoing:
    """
    The body of a request on its way.

    The last byte of one that is read meanwhile leaves when the source has said that all was well: until then the server
    has no whole body to keep. ``gone`` says whether it has, or will have: the request cannot be taken back any more.
    """

    __slots__ = ("_check", "_request", "gone", "hash", "size_bytes")

    def __init__(self, request: Request, check: Callable[[], None]) -> None:
        self._request = request
        self._check = check
        body = request.body
        if isinstance(body, Stream):
            # Its hash would have to be known before the first block.
            self.size_bytes, self.hash, self.gone = body.size_bytes, UNSIGNED, False
        else:
            digest = request.body_hash or (sha256(body).hexdigest() if body else EMPTY_HASH)
            self.size_bytes, self.hash, self.gone = len(body), digest, True

    def body(self) -> bytes | memoryview | Iterable[memoryview]:
        """Return it, to be sent from its start."""
        body = self._request.body
        if not isinstance(body, Stream):
            return body
        blocks = self._read(body)
        # Without a body the headers are all, so it is read before they go out.
        return blocks if body.size_bytes else list(blocks)

    def _read(self, stream: Stream) -> Iterator[memoryview]:
        left = stream.size_bytes
        last = b""
        what = self._request.what
        for block in stream.blocks():
            if len(block) > left:
                raise IntegrityError(f"{what}: there is more to send than there should be")
            left -= len(block)
            if block and not left:
                last, block = bytes(block[-1:]), block[:-1]
            self._check()
            yield block
        if left:
            raise IntegrityError(f"{what}: there is less to send than there should be, by {left} bytes")
        if last:
            self._check()
            self.gone = True
            yield memoryview(last)


def _is_failure(status: int) -> bool:
    return not 200 <= status < 300


def _lost(error: Exception, what: str) -> UnavailableError:
    return no_answer(f"{what}: {transport_reason(str(error))}", sent=True)
