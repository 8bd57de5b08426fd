"""A request to S3 as HTTP has it, and what an answer to it means."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from urllib.parse import quote, urlsplit

from asyncstore.errors import ConflictError, IntegrityError, InvalidValueError, UnavailableError
from asyncstore.objects._errors import (
    BODILESS,
    code_in,
    from_s3_code,
    no_answer,
    region_in,
    server_time_s,
    transport_reason,
)
from asyncstore.objects._http._bodies import Blocks, Collected, TooLongError
from asyncstore.objects._http._connection import BrokenError, ConnectError
from asyncstore.objects._http._parsing import MalformedError
from asyncstore.objects._http._signing import EMPTY_HASH, UNSIGNED, header_lines
from asyncstore.objects.bodies import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from asyncstore.aws.credentials import Credentials
    from asyncstore.errors import AsyncStoreError
    from asyncstore.objects._http._bodies import Sink
    from asyncstore.objects._http._connection import Body, Connection, Wait
    from asyncstore.objects._http._origin import Origin
    from asyncstore.objects._http._parsing import Head
    from asyncstore.objects._http._pool import Pool
    from asyncstore.objects._http._signing import Signer

    Receive: TypeAlias = "Callable[[Reply], Callable[[memoryview], None]]"
    """Given an answer without its body, refuses it by an error or returns what takes the blocks of its body."""

__all__ = ["READS", "Line", "NoConnectionError", "Outgoing", "Reply", "Request", "Stream"]

MOST_BYTES = 64 * 1024 * 1024
"""No answer that is kept in memory is longer, whatever the server says."""

MOST_ERROR_BYTES = 1024 * 1024
"""Nor is what it says of an error."""

MOST_SKEW_S = 900.0
"""How far from its own S3 lets the time of a signature be."""

READS = {"GET", "HEAD"}
"""Methods that change nothing."""

_NOTHING: Mapping[str, str] = {}

_AGENT = f"asyncstore/{version('asyncstore')}"


class NoConnectionError(UnavailableError):
    """Nothing was sent, for there is no way to the server."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A body of a known size that is read while it is sent."""

    size_bytes: int
    blocks: Callable[[], Iterable[memoryview]]
    """Gives it from its start, anew at each call; each block is valid until the next one is asked for."""


class Request(NamedTuple):
    """What is asked of a bucket or one of its objects."""

    method: str
    key: str
    """Empty for the bucket."""
    what: str
    """What is asked and where, for errors."""
    query: Mapping[str, str] = _NOTHING
    headers: Mapping[str, str] = _NOTHING
    body: bytes | memoryview | Stream = b""
    body_hash: str = ""
    """SHA-256 of the body in hex, if it is known."""


class Reply(NamedTuple):
    """What came back, with a status of success."""

    status: int
    headers: Mapping[str, str]
    """Under names in lower case."""
    data: bytes | memoryview = b""
    """The body; empty if somebody received it in blocks."""

    @property
    def body(self) -> bytes:
        """The body; copied, so large ones are better had as :attr:`data`."""
        return bytes(self.data)


class Line:
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
        outgoing: Outgoing,
        keys: Credentials,
        receive: Receive | None = None,
        most_bytes: int | None = None,
    ) -> Wait[Reply]:
        """Send a request, and judge the answer."""
        incoming = _Incoming(receive, most_bytes)
        signed_s = self._signer.now_s()
        head, body = self._head(request, outgoing, keys, signed_s), outgoing.body()
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
        reply = Reply(answer.status, answer.headers, incoming.body)
        if _is_failure(answer.status):
            raise _refusal(request, answer, reply.body.decode(errors="replace"), signed_s)
        return reply

    def _head(self, request: Request, outgoing: Outgoing, keys: Credentials, at_s: float) -> bytes:
        path = f"{self._base}/{quote(request.key, safe='/~')}" if request.key else self._base or "/"
        query = ""
        if request.query:
            pairs = [(quote(name, safe="-_.~"), quote(said, safe="-_.~")) for name, said in request.query.items()]
            query = "&".join([f"{name}={said}" for name, said in sorted(pairs)])
        headers = request.headers
        if outgoing.size_bytes or request.method not in READS:
            headers = {**headers, "content-length": str(outgoing.size_bytes)}
        said = self._signer.signed(request.method, path, query, headers, outgoing.hash, keys, at_s)
        target = f"{self._target_prefix}{path}?{query}" if query else f"{self._target_prefix}{path}"
        head = f"{request.method} {target} HTTP/1.1\r\n{header_lines(said)}{self._unsigned}\r\n"
        # What servers, files and the environment say must not be taken for more than the value that it is. Lines are
        # split at more than CR and LF here, which no header may hold either.
        if len(head.splitlines()) != len(said) + self._unsigned_lines + 2 or "\0" in head or not head.isascii():
            raise InvalidValueError(f"{request.what}: a header, or what signs it, holds what no header can hold")
        return head.encode()


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
    def body(self) -> bytes | memoryview:
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


class Outgoing:
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

    def body(self) -> Body:
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


def _refusal(request: Request, answer: Head, said: str, signed_s: float) -> AsyncStoreError:
    """Return what an answer means, with this body, to a request that was signed at that time."""
    code, server_s = code_in(said), server_time_s(said, answer.headers.get("date", ""))
    if not code and answer.status == 403 and request.method == "HEAD" and server_s is not None:
        # Its body would have said so.
        code = "RequestTimeTooSkewed" if abs(server_s - signed_s) > MOST_SKEW_S else ""
    bodiless, region = request.method in BODILESS, answer.headers.get("x-amz-bucket-region") or region_in(said)
    return from_s3_code(code, answer.status, request.what, bodiless=bodiless, server_s=server_s, region=region)


def _is_failure(status: int) -> bool:
    return not 200 <= status < 300


def _lost(error: Exception, what: str) -> UnavailableError:
    return no_answer(f"{what}: {transport_reason(str(error))}", sent=True)
