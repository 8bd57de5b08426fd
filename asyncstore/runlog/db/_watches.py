"""What the watches of one open store share, for each kind of database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.runlog.db._notifying import Listener, Notifier
from asyncstore.runlog.db._watching import PostgresView, has_horizon
from asyncstore.runlog.db._watching_file import SqliteView, WatchedFile

if TYPE_CHECKING:
    from sqlalchemy import Table

    from asyncstore._core.retry import RetryPolicy
    from asyncstore.runlog._watch import View
    from asyncstore.runlog.db._engine import Database
    from asyncstore.runlog.db._reader import Reader

__all__ = ["Watches", "watches_of"]


class Watches:
    """Makes views, and lets others know of changes; this one does neither: every look is at the whole run."""

    def view(self, run_id: str) -> View | None:
        """Return what a watch is to look with, ``None`` if nothing spares it reading the whole run."""
        return None

    def tell(self, run_id: str) -> None:
        """Let watches in other processes know that a run has changed, which is committed."""

    async def aclose(self) -> None:
        """Tell what has not been told yet, and let go of every connection, also if watches were abandoned."""


class PostgresWatches(Watches):
    """Looks at what has changed; changes are told, unless the driver or a pooler is in the way."""

    def __init__(self, database: Database, table: Table, reader: Reader) -> None:
        names = database.engine.dialect.identifier_preparer
        self._database = database
        self._table = names.format_table(table)
        self._reader = reader
        self._looks_whole = not has_horizon(database)
        is_asyncpg = database.engine.url.drivername == "postgresql+asyncpg"
        self._notifier = Notifier(database, pooled=not database.pgbouncer) if is_asyncpg else None
        # Behind a pooler the connection that listens would be somebody else's a moment later.
        self._listener = Listener(database) if is_asyncpg and not database.pgbouncer else None

    def view(self, run_id: str) -> View | None:
        if self._looks_whole:
            return None
        return PostgresView(self._reader, self._table, run_id, self._listener)

    def tell(self, run_id: str) -> None:
        if self._notifier is not None:
            self._notifier.tell(run_id)

    async def aclose(self) -> None:
        try:
            if self._listener is not None:
                await self._listener.aclose()
        finally:
            if self._notifier is not None:
                await self._notifier.aclose()


class SqliteWatches(Watches):
    """Looks when the file has changed."""

    def __init__(self, database: Database, policy: RetryPolicy) -> None:
        self._file = WatchedFile(database, policy)

    def view(self, run_id: str) -> View | None:
        return SqliteView(self._file, run_id)

    async def aclose(self) -> None:
        await self._file.aclose()


def watches_of(database: Database, table: Table, reader: Reader, policy: RetryPolicy) -> Watches:
    """Return what fits the database, to which a connection was made."""
    if database.engine.dialect.name == "postgresql":
        return PostgresWatches(database, table, reader)
    if database.engine.url.drivername == "sqlite+aiosqlite":
        return SqliteWatches(database, policy)
    return Watches()
