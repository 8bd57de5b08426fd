"""A relay before PostgreSQL's Unix socket that cuts a connection at a chosen byte."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, urlsplit

from tests._connections import Connections, both_ways, closing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Relay", "postgres_relay"]

Direction = Literal["up", "down"]
SOCKET = ".s.PGSQL.5432"


@dataclass
class Relay:
    """Passes on what clients and the server say, and counts it."""

    upstream: str
    url: str
    """The server's, by way of the relay."""
    passed: dict[Direction, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    """Bytes passed on since :meth:`arm`: to the server, and to the clients."""
    cut: bool = False
    """Whether a connection has been cut since then."""
    answers: bytes = b""
    """What the server has said since then."""
    _at: tuple[Direction, int] | None = None
    _mark: bytes = b""

    def arm(self, direction: Direction | None = None, at: int = 0, *, mark: bytes = b"") -> None:
        """
        Count from here; cut the next connection that would bring one direction over ``at`` bytes.

        Up to there everything is delivered. What comes after a cut is passed on again.

        Args:
            direction: what to cut, if anything.
            at: how many bytes of it are delivered.
            mark: cut before these bytes, of what the server says.
        """
        self.passed = {"up": 0, "down": 0}
        self.cut = False
        self.answers = b""
        self._at = None if direction is None else (direction, at)
        self._mark = mark

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        async with closing(asyncio.open_unix_connection(self.upstream)) as (back, on):
            await both_ways(self._pass("up", reader, on), self._pass("down", back, writer))

    async def _pass(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                left = self._left(direction, data)
                self.passed[direction] += left
                writer.write(data[:left])
                await writer.drain()
                if left < len(data):
                    self._at = None
                    self._mark = b""
                    self.cut = True
                    return

    def _left(self, direction: Direction, data: bytes) -> int:
        """Return how many bytes of these are to be delivered."""
        left = len(data)
        if self._at is not None and self._at[0] == direction:
            left = min(left, self._at[1] - self.passed[direction])
        if direction == "down":
            self.answers += data
            if self._mark and self._mark in data:
                left = min(left, data.index(self._mark))
        return left


@contextlib.asynccontextmanager
async def postgres_relay(url: str) -> AsyncIterator[Relay]:
    """Run a relay before the server of ``url`` on the running loop, within the ``async with`` block."""
    folder = parse_qs(urlsplit(url).query)["host"][0]
    with tempfile.TemporaryDirectory(prefix="relay-") as own:
        relay = Relay(str(Path(folder, SOCKET)), url.replace(folder, own))
        connections = Connections(relay.serve)
        server = await asyncio.start_unix_server(connections, str(Path(own, SOCKET)))
        try:
            yield relay
        finally:
            server.close()
            await connections.aclose()
