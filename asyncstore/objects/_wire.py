"""
Requests to S3 that obstore has no way to make, or makes slower: signed by botocore, and sent without a client of its.

Such a client takes 0.4 s of CPU to make, for service models that a request spelled out by hand has no use for; this
takes 1 ms a request, and 20 ms more for each connection on TLS. Bodies go through in blocks, both ways, so memory does
not grow with them. Everything here blocks, and may be called from any thread.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, urlsplit

from botocore.auth import UNSIGNED_PAYLOAD, S3SigV4Auth
from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
    AWSRequest,
)
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, SSLError
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.httpsession import URLLib3Session
from botocore.response import StreamingBody
from botocore.utils import get_environ_proxies
from urllib3.exceptions import HTTPError

from asyncstore.errors import ClosedError, IntegrityError, UnavailableError
from asyncstore.objects._errors import BODILESS, code_in, from_s3_code, no_answer, transport_reason
from asyncstore.objects.bodies import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from asyncstore.aws.credentials import CredentialProvider, Credentials

    Receive: TypeAlias = "Callable[[Reply], Callable[[memoryview], None]]"
    """Given an answer without its body, refuses it by an error or returns what takes the blocks of its body."""

__all__ = ["CONNECT_TIMEOUT_S", "READ_TIMEOUT_S", "NoConnectionError", "Reply", "Request", "Sender", "Stream", "Wire"]

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60

PIECE_BYTES = 64 * 1024
"""Most that is handed to a connection at once: each piece has the read timeout to leave in, and may be the last."""


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
    body: bytes | Stream = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, with a status of success."""

    status: int
    headers: Mapping[str, str]
    """Under names in lower case."""
    body: bytes = b""
    """Empty if somebody received it in blocks."""


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
        self._connections = connections
        self._lock = threading.Lock()
        self._session: Any = None
        self._closed = False

    def send(
        self, request: Request, credentials: Credentials, *, check: Callable[[], None], receive: Receive | None = None
    ) -> Reply:
        """
        Send one request, once.

        Args:
            request: what to ask.
            credentials: whose keys sign it.
            check: called between blocks; what it raises ends the request and closes its connection.
            receive: takes the body of the answer in blocks; what it raises does so too.

        Raises:
            AsyncStoreError: what S3's answer means, by the table of :mod:`asyncstore.objects._errors`.
            UnavailableError: no answer came, or less than a whole one.
            ClosedError: this was closed.
        """
        session = self._open_session()
        check()
        outgoing = _Outgoing(request, check) if isinstance(request.body, Stream) else None
        prepared = self._signed(request, outgoing, credentials)
        try:
            with outgoing or contextlib.nullcontext():
                reply = self._read(session.send(prepared), check, receive)
        except (BotoCoreError, HTTPError) as error:
            if outgoing is not None and outgoing.failure is not None:
                raise outgoing.failure from outgoing.failure.__cause__
            raise _lost(error, request.what) from error
        if _is_failure(reply.status):
            # Not raised where the answer is at hand: that would hold its connection for as long as the error is kept.
            code = code_in(reply.body.decode(errors="replace"))
            raise from_s3_code(code, reply.status, request.what, bodiless=request.method in BODILESS)
        return reply

    def close(self) -> None:
        """Close all connections that are idle, and each other one when its request is over."""
        with self._lock:
            self._closed = True
            if self._session is not None:
                self._session.close()

    def check_open(self) -> None:
        """
        Do nothing if requests can be sent.

        Raises:
            ClosedError: this was closed.
        """
        if self._closed:
            raise ClosedError(f"the connections to {self._url} were closed")

    def _open_session(self) -> Any:
        with self._lock:
            self.check_open()
            if self._session is None:
                self._session = _Session(
                    verify=str(self._ca_bundle) if self._ca_bundle else True,
                    proxies=get_environ_proxies(self._url),
                    timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
                    max_pool_connections=self._connections,
                    # Headers and body go out in two pieces: the second would wait 40 ms for word on the first.
                    socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
                )
            return self._session

    def _signed(self, request: Request, outgoing: _Outgoing | None, credentials: Credentials) -> Any:
        headers = dict(request.headers)
        if outgoing is not None:
            headers["Content-Length"] = str(outgoing.size_bytes)
        data = request.body if outgoing is None else outgoing
        asked = AWSRequest(request.method, self._address(request), headers=headers, data=data, stream_output=True)
        keys = ReadOnlyCredentials(credentials.access_key_id, credentials.secret_access_key, credentials.token)
        _Signer(keys, "s3", self._region).add_auth(asked)
        return asked.prepare()

    def _address(self, request: Request) -> str:
        if request.key:
            address = f"{self._url}/{quote(request.key, safe='/~')}"
        else:
            address = self._url if urlsplit(self._url).path else f"{self._url}/"
        pairs = [f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in request.query.items()]
        return f"{address}?{'&'.join(pairs)}" if pairs else address

    def _read(self, answer: Any, check: Callable[[], None], receive: Receive | None) -> Reply:
        reply = Reply(answer.status_code, {name.lower(): value for name, value in answer.headers.items()})
        try:
            if receive is None or _is_failure(reply.status):
                return Reply(reply.status, reply.headers, answer.content)
            take = receive(reply)
            body = StreamingBody(answer.raw, reply.headers.get("content-length"))
            while block := body.read(BLOCK_BYTES):
                self.check_open()
                check()
                take(memoryview(block))
        except BaseException:
            # What is left of the body must not be taken for the answer to the next request.
            answer.raw.close()
            raise
        return reply


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


class _Session(URLLib3Session):  # type: ignore[misc]
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Those behind proxies are made of the same.
        self._pool_classes_by_scheme.update(http=_Pool, https=_SecurePool)


class _Patient:
    """A connection whose time to connect is not, as long as it is new, the time for each of its writes too."""

    sock: socket.socket

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.sock.settimeout(READ_TIMEOUT_S)


class _Connection(_Patient, AWSHTTPConnection):  # type: ignore[misc]
    pass


class _SecureConnection(_Patient, AWSHTTPSConnection):  # type: ignore[misc]
    pass


class _Pool(AWSHTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _Connection


class _SecurePool(AWSHTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _SecureConnection


class _Signer(S3SigV4Auth):  # type: ignore[misc]
    """Signs what is sent in blocks by its headers alone; its hash would have to be known before the first block."""

    def payload(self, request: AWSRequest) -> str:
        return UNSIGNED_PAYLOAD if isinstance(request.data, _Outgoing) else str(super().payload(request))


class _Outgoing:
    """
    A streamed body on its way, as urllib3 takes it; ``failure`` is what broke it off.

    Its last byte leaves when the source has said that all was well: until then the server has no whole body to keep.
    """

    def __init__(self, request: Request, check: Callable[[], None]) -> None:
        assert isinstance(request.body, Stream)
        self.size_bytes = request.body.size_bytes
        self.failure: Exception | None = None
        self._what = request.what
        self._stream = request.body
        self._check = check
        self._pieces: Iterator[memoryview | bytes] = self._read()

    def __enter__(self) -> None:
        if self.size_bytes == 0:
            # Without a body the headers are all, so it is read before they go out.
            self._pieces = iter(list(self._pieces))

    def __exit__(self, *_: object) -> None:
        if isinstance(self._pieces, Generator):
            self._pieces.close()

    def __iter__(self) -> Iterator[memoryview | bytes]:
        try:
            yield from self._pieces
        except Exception as error:
            # urllib3 and botocore make errors of their own of it. That nobody wants the rest is none: the server has
            # closed the connection, and urllib3 reads what it may have said before.
            self.failure = error
            raise

    def _read(self) -> Iterator[memoryview | bytes]:
        left = self.size_bytes
        last = b""
        for block in self._stream.blocks():
            if len(block) > left:
                raise IntegrityError(f"{self._what}: there is more to send than there should be")
            left -= len(block)
            if block and not left:
                last, block = bytes(block[-1:]), block[:-1]
            for start in range(0, len(block), PIECE_BYTES):
                self._check()
                yield block[start : start + PIECE_BYTES]
        if left:
            raise IntegrityError(f"{self._what}: there is less to send than there should be, by {left} bytes")
        if last:
            self._check()
            yield last


def _is_failure(status: int) -> bool:
    return not 200 <= status < 300


def _lost(error: Exception, what: str) -> UnavailableError:
    # botocore's own text says less than that of the error which it is made of.
    said = f"{error!r} {getattr(error, 'kwargs', {}).get('error', '')!r}"
    untrusted = isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in said
    message = f"{what}: {transport_reason(said)}"
    if untrusted or (isinstance(error, BotoConnectionError) and not isinstance(error, SSLError)):
        return NoConnectionError(message)
    return no_answer(message, sent=True)
