"""Looking at a run in SQLite: at all of it, but only when somebody has committed to the file since the look before."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import TYPE_CHECKING, Any, TypeVar

from asyncstore._core.concurrency import shielded
from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore._core.threads import in_thread
from asyncstore.errors import ClosedError
from asyncstore.runlog._watch import POLL_FASTEST_S, View
from asyncstore.runlog.db._reader import fragment_in
from asyncstore.runlog.db._sqlite import connect, parsed_time
from asyncstore.runlog.fragments import HEADER, Fragment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from asyncstore.runlog.db._engine import Database

__all__ = ["SqliteView", "WatchedFile"]

T = TypeVar("T")

IN_VAIN_SHARE = 0.1
"""Share of the time that goes into reading a run because something else in the file has changed."""

_RUN = (
    "SELECT pk, attribute_type, attribute_key, attribute_value, created_at FROM db_log WHERE run_id = ?"
    " ORDER BY created_at, pk"
)
_HEADER = (HEADER.kind.value, HEADER.name)


class WatchedFile:
    """
    The connection through which all watches of one store look at an SQLite file.

    SQLite tells a connection whether others have committed since it last asked. So there is one that does nothing
    else, from the first look until the store is closed; it reads in a thread, for one watch at a time.
    """

    def __init__(self, database: Database, policy: RetryPolicy) -> None:
        self._engine = database.engine
        self._edge = database.edge
        self._policy = policy
        self._lock = asyncio.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened = 0
        self._closed = False

    async def reading(self, work: Callable[[sqlite3.Connection], T], what: str) -> T:
        """
        Return ``work(connection)``, called in a thread.

        Raises:
            ClosedError: the store is closed.
        """

        async def attempt() -> T:
            with self._edge.doing(what):
                async with self._lock:
                    return await in_thread(self._read, work)

        return await retrying(attempt, self._policy)

    def state(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Return what is another once anybody has committed to the file."""
        return self._opened, connection.execute("PRAGMA data_version").fetchone()[0]

    async def aclose(self) -> None:
        """Close the connection, after whatever is being read."""
        await shielded(self._close())

    async def _close(self) -> None:
        async with self._lock:
            self._closed = True
            await in_thread(self._disconnect)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise ClosedError("the store was closed")
        try:
            if self._connection is None:
                self._connect()
            assert self._connection is not None
            return work(self._connection)
        except sqlite3.Error:
            self._disconnect()
            raise

    def _connect(self) -> None:
        self._connection = connect(self._engine)
        self._connection.execute("PRAGMA query_only=ON")
        self._opened += 1

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class SqliteView(View):
    """Reads the run when the file has changed, and makes fragments of the rows that have."""

    def __init__(self, file: WatchedFile, run_id: str) -> None:
        self._file = file
        self._run_id = run_id
        self._what = f"reading run {run_id!r}"
        self._state: tuple[int, int] | None = None
        self._digests: dict[int, int] = {}
        self._header: list[Fragment] = []
        self._in_vain_s = 0.0

    async def look(self) -> Iterable[Fragment]:
        return await self._file.reading(self._changes, self._what)

    async def wait(self, least_s: float, most_s: float) -> None:
        began = time.monotonic()
        await asyncio.sleep(min(most_s, max(least_s, self._in_vain_s / IN_VAIN_SHARE)))
        while (left_s := began + most_s - time.monotonic()) > 0:
            if await self._file.reading(self._has_changed, self._what):
                return
            # There is no event to wait for: SQLite tells only those who ask.
            await asyncio.sleep(min(POLL_FASTEST_S, left_s))

    def close(self) -> None:
        """The connection is the store's."""

    def _has_changed(self, connection: sqlite3.Connection) -> bool:
        return self._file.state(connection) != self._state

    def _changes(self, connection: sqlite3.Connection) -> list[Fragment]:
        # Asked first: what is committed after that may be read already, and is read again by the next look.
        state = self._file.state(connection)
        if state == self._state:
            return self._header
        began = time.monotonic()
        digests: dict[int, int] = {}
        found: list[Fragment] = []
        header: list[Fragment] = []
        for row in connection.execute(_RUN, (self._run_id,)).fetchall():
            digests[row[0]] = hash(row)
            is_header = row[1:3] == _HEADER
            if is_header or self._digests.get(row[0]) != digests[row[0]]:
                found.append(_fragment(row))
                header = found[-1:] if is_header else header
        in_vain = len(found) == len(header) and self._header == header
        self._in_vain_s = time.monotonic() - began if in_vain else 0.0
        self._state, self._digests, self._header = state, digests, header
        return found


def _fragment(row: tuple[Any, ...]) -> Fragment:
    _, attribute_type, attribute_key, attribute_value, created_at = row
    return fragment_in(attribute_type, attribute_key, attribute_value, parsed_time(created_at))
