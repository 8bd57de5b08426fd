"""A relay before an S3 server whose connections can be cut, as a network's that goes away."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests._connections import Connections, both_ways, closing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Network", "network"]

_BLOCK_BYTES = 1 << 18


class Network:
    """
    Passes bytes on to a server until it is to be gone; then connections break and new ones are refused.

    Attributes:
        url: the server's, by way of this.
        passed: bytes passed on in both directions since :meth:`arm`.
        gone: set when it is.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self._server: asyncio.Server | None = None
        self._connections = Connections(self._serve)
        self._goes_at: int | None = None
        self._port = 0
        self.passed = 0
        self.gone = asyncio.Event()

    @property
    def url(self) -> str:
        """Where clients are to connect."""
        return f"http://127.0.0.1:{self._port}"

    def arm(self, at: int | None = None) -> None:
        """Count from here, and go away when so many bytes have been passed on."""
        self.passed = 0
        self._goes_at = at

    async def come(self) -> None:
        """Take connections, at the same address as before."""
        self.gone.clear()
        self._server = await asyncio.start_server(self._connections, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def go(self) -> None:
        """Break all connections, and refuse new ones."""
        self._leave()
        await self._connections.aclose()

    def _leave(self) -> None:
        self._goes_at = None
        if self._server is not None:
            self._server.close()
        self._connections.cut()
        self.gone.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with closing(asyncio.open_connection(self._upstream.hostname, self._upstream.port)) as (back, on):
            await both_ways(self._pass(reader, on), self._pass(back, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_BLOCK_BYTES):
            writer.write(data)
            await writer.drain()
            self.passed += len(data)
            if self._goes_at is not None and self.passed >= self._goes_at:
                self._leave()


@contextlib.asynccontextmanager
async def network(upstream: str) -> AsyncIterator[Network]:
    """Run a relay before a server on the running loop, within the block."""
    relay = Network(upstream)
    await relay.come()
    try:
        yield relay
    finally:
        await relay.go()
