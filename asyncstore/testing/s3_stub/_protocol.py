"""
HTTP/1.1 on a connection: requests are cut out of the stream and answered one after another.

A parser of its own instead of a web framework, because the stub must be faster than what is measured against it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias, cast
from urllib.parse import parse_qsl, unquote

from asyncstore.testing.s3_stub._chunks import ChunkDecoder
from asyncstore.testing.s3_stub._messages import Request, S3Error, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    Reply: TypeAlias = Callable[[bytes, bool], None]
    Accept: TypeAlias = Callable[[Request, Reply], None]

__all__ = ["StubProtocol"]

HEAD_LIMIT_BYTES = 64 * 1024
AHEAD_LIMIT_BYTES = 1024 * 1024
"""What a client may send beyond the request that is being answered."""


class StubProtocol(asyncio.Protocol):
    """
    One connection.

    Args:
        accept: takes a request and a function to be called once, now or later, with the answer's bytes and whether the
            connection is to end.
    """

    def __init__(self, accept: Accept) -> None:
        self._accept = accept
        self._buffer = bytearray()
        self._head: tuple[str, str, dict[str, str]] | None = None
        self._length = 0
        self._chunks: ChunkDecoder | None = None
        self._last = False
        self._answering = False
        self._advancing = False
        self._congested = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take what the client sends."""
        self._buffer += data
        if not self._answering:
            self._advance()
        elif len(self._buffer) > AHEAD_LIMIT_BYTES:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        """Answer no more until the client reads."""
        self._congested = True

    def resume_writing(self) -> None:
        """Go on."""
        self._congested = False
        self._advance()

    def _advance(self) -> None:
        if self._advancing:
            return
        self._advancing = True
        try:
            while not (self._answering or self._congested or self._transport.is_closing()):
                request = self._next_request()
                if request is None:
                    break
                self._answering = True
                self._accept(request, self._reply)
        except S3Error as error:
            self._transport.write(encode(error.answer))
            self._transport.close()
        finally:
            self._advancing = False

    def _reply(self, data: bytes, ends: bool) -> None:
        self._answering = False
        if self._transport.is_closing():
            return
        if data:
            self._transport.write(data)
        if ends or self._last:
            self._transport.close()
            return
        self._transport.resume_reading()
        self._advance()

    def _next_request(self) -> Request | None:
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > HEAD_LIMIT_BYTES:
                    raise S3Error(400, "RequestHeaderSectionTooLarge")
                return None
            self._read_head(end)
        body = self._read_body()
        if body is None or self._head is None:
            return None
        (method, target, headers), self._head = self._head, None
        if "x-amz-decoded-content-length" in headers:
            body = _without_aws_chunks(body, headers["x-amz-decoded-content-length"])
        return _request(method, target, headers, body)

    def _read_head(self, end: int) -> None:
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        try:
            method, target, version = lines[0].split(" ")
            pairs = (line.split(":", 1) for line in lines[1:])
            headers = {name.lower(): value.strip() for name, value in pairs}
            self._length = int(headers.get("content-length", 0))
            if self._length < 0:
                raise ValueError(f"Content-Length: {self._length}")
        except ValueError as error:
            raise S3Error(400, "BadRequest") from error
        self._head = method, target, headers
        self._last = version == "HTTP/1.0" or headers.get("connection", "").lower() == "close"
        self._chunks = ChunkDecoder() if headers.get("transfer-encoding", "").lower() == "chunked" else None
        if headers.get("expect", "").lower() == "100-continue" and not self._buffer:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self) -> bytes | None:
        if self._chunks is not None:
            return self._chunks.body if self._chunks.feed(self._buffer) else None
        if len(self._buffer) < self._length:
            return None
        body = bytes(memoryview(self._buffer)[: self._length])
        del self._buffer[: self._length]
        return body


def _request(method: str, target: str, headers: dict[str, str], body: bytes) -> Request:
    path, _, query = target.partition("?")
    try:
        if "%" in path:
            path = unquote(path, errors="strict")
        asked = dict(parse_qsl(query, keep_blank_values=True, errors="strict")) if query else {}
    except UnicodeDecodeError as error:
        raise S3Error(400, "InvalidURI", "The URI is not UTF-8") from error
    return Request(method, path, asked, headers, body)


def _without_aws_chunks(body: bytes, length: str) -> bytes:
    decoder = ChunkDecoder()
    if not decoder.feed(bytearray(body)) or str(len(decoder.body)) != length:
        raise S3Error(400, "IncompleteBody", "The chunks do not make up x-amz-decoded-content-length")
    return decoder.body
