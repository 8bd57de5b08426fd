"""Connections to one server that are kept for the next request."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

from asyncstore.objects._http._connection import Connection

if TYPE_CHECKING:
    from asyncstore.objects._http._connection import Addresses
    from asyncstore.objects._http._origin import Origin

__all__ = ["Pool"]

ADDRESSES_S = 30.0
"""How long the addresses of the server are remembered."""


class Pool:
    """
    Connections to one server. Any thread may use it.

    Args:
        origin: the server.
        most: connections that are kept, at most.
    """

    def __init__(self, origin: Origin, most: int) -> None:
        self._origin = origin
        self._most = most
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False
        self._known: tuple[float, Addresses] = (0.0, ())

    def __repr__(self) -> str:
        return f"<Pool {self._origin.said}: {len(self._idle)} idle connections>"

    def take(self) -> Connection:
        """Return a connection that nobody else has, the one that was used last if there are some."""
        while True:
            with self._lock:
                found = self._idle.pop() if self._idle else None
            if found is None:
                return Connection(self._origin, self._addresses)
            if found.idle():
                return found
            found.close()

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for others, if it is of use."""
        with self._lock:
            keeps = not (self._closed or connection.closed) and len(self._idle) < self._most
            if keeps:
                self._idle.append(connection)
        if not keeps:
            connection.close()

    def close(self) -> None:
        """Close all that are idle, and each other one when it is given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _addresses(self, host: str, port: int) -> Addresses:
        until_s, addresses = self._known
        now_s = time.monotonic()
        if now_s > until_s:
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (socket.gaierror, UnicodeError) as error:
                raise OSError(f"dns error: {error}") from error
            # At each look-up: what a name means may change after it was first asked for.
            self._origin.check_addresses(str(address[0]) for *_, address in found)
            addresses = [(family, address) for family, _, _, _, address in found]
            self._known = (now_s + ADDRESSES_S, addresses)
        return addresses
