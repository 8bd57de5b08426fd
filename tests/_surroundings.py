"""What stands between people and their storage: a TLS front with a private certificate, and a forward proxy."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests._connections import Connections, both_ways, closing

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

__all__ = ["ForwardProxy", "forward_proxy", "tls_front"]


@asynccontextmanager
async def tls_front(url: str, tls: ssl.SSLContext) -> AsyncIterator[str]:
    """Run a server before a plain one that speaks TLS, and give its URL; it is called ``localhost``."""
    parts = urlsplit(url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with closing(asyncio.open_connection(parts.hostname, parts.port)) as (back, on):
            await both_ways(_pass(reader, on), _pass(back, writer))

    async with _served(serve, tls) as port:
        yield f"https://localhost:{port}"


@dataclass
class ForwardProxy:
    """Passes on requests of whole URLs, and makes tunnels: all of them to one server, whatever host they name."""

    upstream: str
    """URL of that server."""
    url: str = ""
    """Its own."""
    asked: list[str] = field(default_factory=list)
    """First lines of all that it was asked."""
    told: list[dict[str, str]] = field(default_factory=list)
    """Headers that came with them, under names in lower case."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                raw = await reader.readuntil(b"\r\n\r\n")
                first, *lines = raw[:-4].decode("latin-1").split("\r\n")
                headers = {name.lower(): said for name, said in (line.split(": ", 1) for line in lines)}
                self.asked.append(first)
                self.told.append(headers)
                method, target, _ = first.split(" ")
                if method == "CONNECT":
                    await self._tunnel(reader, writer)
                    return
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                path = target.removeprefix(f"http://{urlsplit(target).netloc}")
                assert path.startswith("/"), "a proxy is told whole URLs"
                kept = [line for line in lines if not line.lower().startswith(("connection:", "proxy-"))]
                head = "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""])
                await self._forward(head.encode("latin-1") + body, writer)
                # The server has said that it closes the connection, and so is this one.
                return

    async def _forward(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        async with closing(self._connect()) as (back, on):
            on.write(request)
            await on.drain()
            await _pass(back, writer)

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with closing(self._connect()) as (back, on):
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await both_ways(_pass(reader, on), _pass(back, writer))

    def _connect(self) -> asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        parts = urlsplit(self.upstream)
        return asyncio.ensure_future(asyncio.open_connection(parts.hostname, parts.port))


@asynccontextmanager
async def forward_proxy(upstream: str) -> AsyncIterator[ForwardProxy]:
    """Run a forward proxy that knows the way to one server alone."""
    proxy = ForwardProxy(upstream)
    async with _served(proxy.serve) as port:
        proxy.url = f"http://127.0.0.1:{port}"
        yield proxy


@asynccontextmanager
async def _served(serve: object, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    connections = Connections(serve)  # type: ignore[arg-type]
    server = await asyncio.start_server(connections, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await connections.aclose()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
