"""
A proxy in front of a real server that can lose answers after the server has acted.

That is the fault which tells a careful client from a careless one: the write has landed, and the client does not know.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


__all__ = ["LossyProxy", "lossy_proxy"]


@dataclass
class LossyProxy:
    """Forwards each request whole, and counts them."""

    upstream: str
    """URL of the server behind."""
    loses: Callable[[int, str], bool]
    """Given a request's number (from 1) and its first line, tells whether its answer is to be lost."""
    url: str = ""
    """Where clients are to connect."""
    requests: list[str] = field(default_factory=list)
    """First lines of all requests so far."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while request := await _read_message(reader, writer):
                line = request.split(b"\r\n", 1)[0].decode()
                self.requests.append(line)
                answer = await self._forward(request)
                if self.loses(len(self.requests), line):
                    break
                writer.write(answer)
                await writer.drain()
                if request[:5] == b"HEAD " or not answer:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _forward(self, request: bytes) -> bytes:
        address = urlsplit(self.upstream)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        head, _, body = request.partition(b"\r\n\r\n")
        kept = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"connection:", b"expect:"))]
        writer.write(b"\r\n".join([*kept, b"Connection: close"]) + b"\r\n\r\n" + body)
        await writer.drain()
        try:
            return await reader.read(-1)
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def lossy_proxy(upstream: str, loses: Callable[[int, str], bool]) -> AsyncIterator[LossyProxy]:
    """
    Run a proxy before ``upstream`` on the running loop, within the ``async with`` block.

    Args:
        upstream: URL of the server behind, ``http`` only.
        loses: given a request's number (from 1) and its first line, tells whether its answer is to be lost.
    """
    proxy = LossyProxy(upstream, loses)
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await proxy.handle(reader, writer)
        finally:
            connections.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    proxy.url = f"http://{host}:{port}"
    try:
        yield proxy
    finally:
        server.close()
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections)


async def _read_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    if b"expect: 100-continue" in head.lower():
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return head + await reader.readexactly(length)
