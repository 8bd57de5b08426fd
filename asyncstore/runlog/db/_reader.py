"""Reading rows: one query each, on a connection of the engine's pool."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import func, literal, select

from asyncstore._core.concurrency import shielded
from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore.errors import AsyncStoreError, ConfigurationError, IntegrityError
from asyncstore.runlog._queries import RunQuery, summary_of
from asyncstore.runlog.db._errors import CREATE_TABLES
from asyncstore.runlog.db._rows import ESCAPE, SEPARATOR, fragment_key, row_key
from asyncstore.runlog.db._schema import check_table
from asyncstore.runlog.fragments import Fragment, FragmentKey, Kind, Selection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import datetime

    from sqlalchemy import Row, Select, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from asyncstore.models import RunSummary
    from asyncstore.runlog.db._engine import Database

__all__ = ["Reader", "aware"]

T = TypeVar("T")


class Reader:
    """Reads the rows of one table."""

    def __init__(self, database: Database, table: Table, policy: RetryPolicy) -> None:
        self._database = database
        self._table = table
        self._policy = policy
        self._reading = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def aclose(self) -> None:
        """Wait until what is being read has been read; a connection in use would outlive its engine."""
        await self._quiet.wait()

    async def check(self) -> None:
        """
        Check that the table is there and is fit to be written to.

        Raises:
            ConfigurationError: it is not; the message names the command that makes it.
        """

        async def look(connection: AsyncConnection) -> str:
            return await connection.run_sync(check_table, self._table)

        try:
            problem = await self._connected(look, "opening the run log")
        except TypeError as error:
            raise self._database.edge.refused_option(error) from None
        if problem:
            raise ConfigurationError(f"{problem} in {self._database.location}: {CREATE_TABLES}")

    async def one(self, run_id: str, key: FragmentKey) -> Fragment | None:
        """Return one fragment, ``None`` if it is not there."""
        wanted = row_key(run_id, key)
        columns = self._table.c
        query = self._selecting(run_id).where(
            columns.attribute_type == wanted.attribute_type, columns.attribute_key == wanted.attribute_key
        )
        found = await self._rows(query, f"reading {key.kind} {key.name!r} of run {run_id!r}")
        return _fragment(found[0]) if found else None

    async def matching(self, run_id: str, selection: Selection) -> list[Fragment]:
        """Return the fragments of a run that ``selection`` matches, in creation order."""
        columns = self._table.c
        query = self._selecting(run_id).where(columns.attribute_type.in_(sorted(selection.kinds)))
        prefix = selection.branch
        if prefix and not {SEPARATOR, ESCAPE} & set(prefix):
            query = query.where(func.substr(columns.attribute_key, 1, len(prefix)) == prefix)
        rows = await self._rows(query, f"reading run {run_id!r}")
        return [fragment for fragment in map(_fragment, rows) if selection.matches(fragment.key)]

    async def headers(self, query: RunQuery) -> list[RunSummary]:
        """Return at least the runs that ``query`` wants; status and tag lie in the JSON and are left to the caller."""
        columns = self._table.c
        wanted = (columns.run_id, *_needed(self._table))
        # The kind stands in the statement itself, or the index over headers alone would not be used.
        header = columns.attribute_type == literal(Kind.RUN_LOG.value, literal_execute=True)
        statement = select(*wanted).where(header).order_by(columns.created_at.desc(), columns.run_id.desc())
        if query.since is not None:
            statement = statement.where(columns.created_at >= _naive(query.since))
        if query.until is not None:
            statement = statement.where(columns.created_at < _naive(query.until))
        if query.limit is not None and query.status is None and query.tag is None:
            statement = statement.limit(query.limit)
        return [summary_of(_fragment(row), row.run_id) for row in await self._rows(statement, "listing runs")]

    def _selecting(self, run_id: str) -> Select[Any]:
        columns = self._table.c
        query = select(*_needed(self._table)).where(columns.run_id == run_id)
        return query.order_by(columns.created_at, columns.pk)

    async def _rows(self, query: Select[Any], what: str) -> Sequence[Row[Any]]:
        async def fetch(connection: AsyncConnection) -> Sequence[Row[Any]]:
            return list((await connection.execute(query)).all())

        try:
            return await self._connected(fetch, what)
        except ValueError as error:
            if isinstance(error, AsyncStoreError):
                raise
            raise IntegrityError(f"{what} in {self._database.location} failed: {error}") from error

    async def _connected(self, work: Callable[[AsyncConnection], Awaitable[T]], what: str) -> T:
        async def attempt() -> T:
            with self._database.edge.doing(what):
                async with _checked_out(self._database) as connection:
                    return await work(connection)

        self._reading += 1
        self._quiet.clear()
        try:
            return await retrying(attempt, self._policy)
        finally:
            self._reading -= 1
            if not self._reading:
                self._quiet.set()


def aware(stamp: datetime | None) -> datetime | None:
    """Return a time of the database, which has no zone, as the UTC that it is."""
    return None if stamp is None else stamp.replace(tzinfo=UTC)


@asynccontextmanager
async def _checked_out(database: Database) -> AsyncIterator[AsyncConnection]:
    """Check a connection out; it goes back also when the reader is cancelled, at whatever moment."""
    engine = database.engine
    if engine.dialect.name == "postgresql":
        # A lone SELECT needs no BEGIN and ROLLBACK around it.
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    connection = engine.connect()

    async def start() -> None:
        await connection.start()

    try:
        # Cancelling aiosqlite while it connects would leave its file open.
        await (shielded(start()) if engine.dialect.name == "sqlite" else start())
        yield connection
    finally:
        if connection.sync_connection is not None:
            await shielded(connection.close())


def _needed(table: Table) -> list[Any]:
    return [table.c[name] for name in ("attribute_type", "attribute_key", "attribute_value", "created_at")]


def _fragment(row: Row[Any]) -> Fragment:
    key = fragment_key(row.attribute_type, row.attribute_key or "")
    return Fragment(key, (row.attribute_value or "null").encode(), aware(row.created_at))


def _naive(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)
