"""A relay before an S3 server whose connections can be cut, as a network's that goes away."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

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
        self._connections: set[asyncio.Task[None]] = set()
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
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def go(self) -> None:
        """Break all connections, and refuse new ones."""
        self._leave()
        if self._connections:
            await asyncio.wait(self._connections)

    def _leave(self) -> None:
        self._goes_at = None
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        self.gone.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await self._relay(reader, writer)
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, on = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, on))
                group.create_task(self._pass(back, writer))
        except* OSError:
            pass
        finally:
            on.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_BLOCK_BYTES):
            writer.write(data)
            await writer.drain()
            self.passed += len(data)
            if self._goes_at is not None and self.passed >= self._goes_at:
                self._leave()
        # Whoever has no more to say is not waited for by the other.
        raise ConnectionResetError("one end has closed")


@contextlib.asynccontextmanager
async def network(upstream: str) -> AsyncIterator[Network]:
    """Run a relay before a server on the running loop, within the block."""
    relay = Network(upstream)
    await relay.come()
    try:
        yield relay
    finally:
        await relay.go()
