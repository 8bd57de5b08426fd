"""
HTTP/1.1 on a connection: requests are cut out of the stream and answered one after another.

A parser of its own instead of a web framework, because the stub must be faster than what is measured against it: large
bodies are received where they are to lie, and sent from there.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast
from urllib.parse import parse_qsl, unquote

from asyncstore.testing.s3_stub._chunks import ChunkDecoder
from asyncstore.testing.s3_stub._messages import Outgoing, Request, S3Error, encode
from asyncstore.testing.s3_stub._sending import Pace, Sender

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from asyncstore.testing.s3_stub._incoming import Incoming
    from asyncstore.testing.s3_stub._messages import Behaviour

    Reply: TypeAlias = Callable[[Any, bool], None]
    """Given an :class:`Outgoing`, which is nobody else's business, and whether the connection is to end."""

__all__ = ["Service", "StubProtocol"]

BUFFER_BYTES = 64 * 1024
"""Longest head, and what a client may send beyond the request that is being answered."""

PACED_SOCKET_BYTES = 32 * 1024

_SINK = memoryview(bytearray(BUFFER_BYTES))


class Service(Protocol):
    """What answers requests."""

    behaviour: Behaviour
    bytes_in: Counter[str]
    bytes_out: Counter[str]

    def begin(self, request: Request) -> None:
        """Give a request whose head has come its operation; one without a name is not counted."""
        ...

    def receive(self, request: Request, size_bytes: int | None) -> Incoming:
        """
        Return where the body of a request is to go; its size is ``None`` if that is not known.

        Raises:
            S3Error: it is not even to be received; the connection ends.
        """
        ...

    def accept(self, request: Request, reply: Reply) -> None:
        """Answer a request by calling ``reply`` once, now or later."""
        ...


class StubProtocol(asyncio.BufferedProtocol):
    """One connection to a service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._request: Request | None = None
        self._body: Incoming | None = None
        self._left = 0
        self._decoders: list[ChunkDecoder] = []
        self._chunked = self._placeable = self._placing = self._last = self._ends = self._lingering = False
        self._answering = self._advancing = False
        self._pace_in = Pace(self._rate)
        self._paused = self._pacing = False
        self._transport: asyncio.Transport
        self._sender: Sender

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._sender = Sender(self._transport, Pace(self._rate), self._service.bytes_out, self._sent)
        if self._rate():
            own: socket.socket = transport.get_extra_info("socket")
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                own.setsockopt(socket.SOL_SOCKET, option, PACED_SOCKET_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._sender.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to receive what the client sends."""
        if self._lingering:
            return _SINK
        if self._placing and self._body is not None:
            room = self._body.room()
            limit = min(self._left, self._pace_in.step_bytes())
            return room if len(room) <= limit else room[:limit]
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == BUFFER_BYTES:
            kept = self._end - self._start
            self._view[:kept] = self._view[self._start : self._end]
            self._start, self._end = 0, kept
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take what the client sent."""
        if self._lingering:
            return
        if self._placing and self._body is not None:
            self._body.received(nbytes)
            self._came(nbytes)
            if self._left:
                return
        else:
            self._end += nbytes
        self._advance()

    def pause_writing(self) -> None:
        """Answer no more until the client reads."""
        self._sender.pause()

    def resume_writing(self) -> None:
        """Go on."""
        self._sender.resume()
        self._advance()

    def _rate(self) -> float:
        return self._service.behaviour.bandwidth_bytes_s

    def _advance(self) -> None:
        if self._advancing:
            return
        self._advancing = True
        try:
            while not (self._answering or self._sender.congested or self._lingering or self._transport.is_closing()):
                if (self._request is None and not self._read_head()) or not self._read_body():
                    break
                self._dispatch()
        except S3Error as error:
            self._refuse(error)
        finally:
            self._advancing = False
        self._regulate()

    def _regulate(self) -> None:
        paused = self._pacing or (self._end - self._start == BUFFER_BYTES and not self._lingering)
        if paused is not self._paused and not self._transport.is_closing():
            self._paused = paused
            (self._transport.pause_reading if paused else self._transport.resume_reading)()

    def _dispatch(self) -> None:
        request, self._request = cast("Request", self._request), None
        if self._body is not None:
            if self._decoders:
                _check_decoded(self._decoders, request)
            request.body, self._body, self._placing = self._body.content(), None, False
        self._answering = True
        self._service.accept(request, self._reply)

    def _reply(self, answer: Outgoing, ends: bool) -> None:
        if self._transport.is_closing():
            self._answering = False
            return
        self._ends = ends or self._last
        self._sender.send(answer)

    def _sent(self) -> None:
        self._answering = False
        if self._ends:
            self._transport.close()
        else:
            self._advance()

    def _refuse(self, error: S3Error) -> None:
        self._transport.write(encode(error.answer).head)
        # A close while bytes come would reset the connection, and the client might not see the answer.
        self._lingering = True
        self._transport.write_eof()

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n", self._start, self._end)
        if end < 0:
            if self._end - self._start == BUFFER_BYTES:
                raise S3Error(400, "RequestHeaderSectionTooLarge")
            return False
        lines = self._buffer[self._start : end].decode("latin-1").split("\r\n")
        self._start = end + 4
        try:
            method, target, version = lines[0].split(" ")
            pairs = (line.split(":", 1) for line in lines[1:])
            headers = {name.lower(): value.strip() for name, value in pairs}
            self._left = int(headers.get("content-length", 0))
            if self._left < 0:
                raise ValueError(f"Content-Length: {self._left}")
        except ValueError as error:
            raise S3Error(400, "BadRequest") from error
        self._last = version == "HTTP/1.0" or headers.get("connection", "").lower() == "close"
        self._request = _request(method, target, headers)
        self._expect_body(self._request)
        return True

    def _expect_body(self, request: Request) -> None:
        self._service.begin(request)
        headers = request.headers
        self._chunked = chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        wrapped = "x-amz-decoded-content-length" in headers
        self._decoders = []
        if not (self._left or chunked):
            return
        # Copying a small one is cheaper than receiving it by itself.
        self._placeable = not (chunked or wrapped) and self._left > BUFFER_BYTES // 2
        self._body = body = self._service.receive(request, self._left if self._placeable else None)
        if wrapped:
            self._decoders.append(ChunkDecoder(body.take))
        if chunked:
            self._decoders.append(ChunkDecoder(self._decoders[0].feed if wrapped else body.take))
        if "expect" in headers and headers["expect"].lower() == "100-continue" and self._start == self._end:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self) -> bool:
        """Take what has come of the body, and tell whether it is complete."""
        if self._body is None:
            return True
        here = self._view[self._start : self._end]
        if self._chunked:
            self._start += (used := self._decoders[-1].feed(here))
            self._count(used)
            return self._decoders[-1].ended
        here = here[: self._left]
        if len(here):
            (self._decoders[0].feed if self._decoders else self._body.take)(here)
            self._start += len(here)
            self._came(len(here))
        self._placing = self._left > 0 and self._placeable
        return not self._left

    def _came(self, size_bytes: int) -> None:
        self._left -= size_bytes
        self._count(size_bytes)

    def _count(self, size_bytes: int) -> None:
        if self._request is not None and self._request.operation:
            self._service.bytes_in[self._request.operation] += size_bytes
        self._pace_in.moved(size_bytes)
        if not self._pacing:
            self._keep_pace()

    def _keep_pace(self) -> None:
        wait_s = self._pace_in.wait_s()
        if wait_s:
            asyncio.get_running_loop().call_later(wait_s, self._keep_pace)
        if self._pacing is not (wait_s > 0):
            self._pacing = wait_s > 0
            self._regulate()


def _request(method: str, target: str, headers: dict[str, str]) -> Request:
    path, _, query = target.partition("?")
    try:
        if "%" in path:
            path = unquote(path, errors="strict")
        asked = dict(parse_qsl(query, keep_blank_values=True, errors="strict")) if query else {}
    except UnicodeDecodeError as error:
        raise S3Error(400, "InvalidURI", "The URI is not UTF-8") from error
    return Request(method, path, asked, headers)


def _check_decoded(decoders: list[ChunkDecoder], request: Request) -> None:
    for decoder in decoders:
        if not decoder.ended:
            raise S3Error(400, "IncompleteBody", "The last chunk did not come")
        request.headers |= decoder.trailers
    wanted = request.headers.get("x-amz-decoded-content-length")
    if wanted is not None and str(decoders[0].size_bytes) != wanted:
        raise S3Error(400, "IncompleteBody", "The chunks do not make up x-amz-decoded-content-length")
