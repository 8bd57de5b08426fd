"""
Writing rows: the contract, and the way that works on every database which SQLAlchemy can upsert into.

A writer retries whole transactions, for :class:`UnavailableError` alone. Everything but an insert is idempotent; an
insert must not take its own row, committed though the answer was lost, for somebody else's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sqlalchemy import Insert, delete, func, select, text, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError

from asyncstore._core.concurrency import shielded
from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore.errors import OutcomeUnknownError
from asyncstore.runlog.db._rows import Row, RowKey, stamps
from asyncstore.runlog.db._schema import UNIQUE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from asyncstore.runlog.db._engine import Database

__all__ = ["Change", "CoreWriter", "Writer", "upsert_statement"]

T = TypeVar("T")

Change: TypeAlias = "Callable[[str, datetime | None], str]"
"""Makes a row's new ``attribute_value`` of its present one and its ``created_at`` (UTC without zone)."""


class Writer(ABC):
    """Writes the rows of one table; at most one upsert and one insert run at a time."""

    def __init__(self, database: Database, table: Table, policy: RetryPolicy) -> None:
        self._engine = database.engine
        self._edge = database.edge
        self._table = table
        self._policy = policy

    @abstractmethod
    async def open(self) -> None:
        """Make ready; the table is known to be there."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of every connection."""

    @abstractmethod
    async def upsert(self, rows: Sequence[Row]) -> None:
        """Write rows of different keys in one transaction, all or none; those that are there get a new value alone."""

    @abstractmethod
    async def insert(self, rows: Sequence[Row]) -> set[RowKey]:
        """
        Write those rows whose keys are not there, in one transaction; return the keys of the others.

        Raises:
            OutcomeUnknownError: the answer was lost, and nothing can tell whether the rows landed.
        """

    @abstractmethod
    async def modify(self, key: RowKey, change: Change) -> bool:
        """Change a row that nobody else may change meanwhile; return whether it is there."""

    @abstractmethod
    async def delete(self, run_id: str) -> None:
        """Delete all rows of a run."""

    async def _retrying(self, work: Callable[[], Awaitable[T]], what: str) -> T:
        async def attempt() -> T:
            with self._edge.doing(what):
                return await work()

        return await retrying(attempt, self._policy)

    @staticmethod
    def _unknown(rows: Sequence[Row]) -> OutcomeUnknownError:
        first = rows[0].key
        name = f"{first.attribute_type} {first.attribute_key!r}"
        return OutcomeUnknownError(
            f"the connection was lost while {name} was inserted into run {first.run_id!r}: look whether it is there",
            "/".join(first),
        )


class CoreWriter(Writer):
    """Writes through SQLAlchemy Core alone: a few statements a batch, on whatever database has an upsert."""

    async def open(self) -> None:
        """Nothing is needed: each transaction takes a connection of its own."""

    async def aclose(self) -> None:
        """Nothing is held."""

    async def upsert(self, rows: Sequence[Row]) -> None:
        statement = upsert_statement(self._table, self._engine.dialect.name)

        async def work() -> None:
            async with self._transaction() as connection:
                await connection.execute(statement, await self._stamped(connection, rows))

        await self._retrying(work, f"writing {len(rows)} parts of runs")

    async def insert(self, rows: Sequence[Row]) -> set[RowKey]:
        async def work() -> set[RowKey]:
            async with self._transaction() as connection:
                records = await self._stamped(connection, rows)
                existing = {_key(record) for record in records if not await self._inserted(connection, record)}
                try:
                    await connection.commit()
                except DBAPIError as error:
                    # Nothing could tell at a second attempt whether a row that is there is this one's own.
                    if error.connection_invalidated:
                        raise self._unknown(rows) from error
                    raise
                return existing

        return await self._retrying(work, f"inserting into run {rows[0].key.run_id!r}")

    async def modify(self, key: RowKey, change: Change) -> bool:
        columns = self._table.c
        match = [columns[name] == value for name, value in zip(UNIQUE, key, strict=True)]
        reading = select(columns.attribute_value, columns.created_at).where(*match).with_for_update()

        async def work() -> bool:
            async with self._transaction() as connection:
                row = (await connection.execute(reading)).first()
                if row is None:
                    return False
                await connection.execute(
                    update(self._table)
                    .where(*match)
                    .values(attribute_value=change(row.attribute_value, row.created_at))
                )
                return True

        return await self._retrying(work, f"changing {key.attribute_type} of run {key.run_id!r}")

    async def delete(self, run_id: str) -> None:
        async def work() -> None:
            async with self._transaction() as connection:
                await connection.execute(delete(self._table).where(self._table.c.run_id == run_id))

        await self._retrying(work, f"deleting run {run_id!r}")

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        connection = self._engine.connect()
        try:
            await connection.start()
            yield connection
            await connection.commit()
        finally:
            # Closing rolls back what was not committed.
            if connection.sync_connection is not None:
                await shielded(connection.close())

    async def _stamped(self, connection: AsyncConnection, rows: Sequence[Row]) -> list[dict[str, Any]]:
        runs = {row.key.run_id for row in rows}
        columns = self._table.c
        found = await connection.execute(
            select(columns.run_id, func.max(columns.created_at))
            .where(columns.run_id.in_(runs))
            .group_by(columns.run_id)
        )
        latest: dict[str, datetime | None] = {row[0]: row[1] for row in found}
        clock = _clock(connection.dialect.name)
        now = None if clock is None else await connection.scalar(select(clock))
        return [
            {**row.key._asdict(), "attribute_value": row.attribute_value, "created_at": stamp}
            for row, stamp in stamps(rows, latest, now)
        ]

    async def _inserted(self, connection: AsyncConnection, record: dict[str, Any]) -> bool:
        try:
            async with connection.begin_nested():
                await connection.execute(self._table.insert(), record)
        except IntegrityError:
            return False
        return True


def upsert_statement(table: Table, dialect: str) -> Insert:
    """
    Return the insert that gives a row which is there a new ``attribute_value``, in the words of ``dialect``.

    On MySQL it is the table's unique keys that decide, so the table must have none but the one over (run_id,
    attribute_type, attribute_key).
    """
    if dialect in {"mysql", "mariadb"}:
        insert = mysql.insert(table)
        return insert.on_duplicate_key_update(attribute_value=insert.inserted.attribute_value)
    if dialect == "sqlite":
        lite = sqlite.insert(table)
        return lite.on_conflict_do_update(
            index_elements=UNIQUE, set_={"attribute_value": lite.excluded.attribute_value}
        )
    post = postgresql.insert(table)
    return post.on_conflict_do_update(index_elements=UNIQUE, set_={"attribute_value": post.excluded.attribute_value})


def _key(record: dict[str, Any]) -> RowKey:
    return RowKey(*(record[name] for name in UNIQUE))


def _clock(dialect: str) -> ColumnElement[datetime] | None:
    """Return the database's clock as UTC without zone, ``None`` for SQLite's, which is this machine's."""
    if dialect == "postgresql":
        return text("clock_timestamp() AT TIME ZONE 'utc'")  # type: ignore[return-value]
    return func.utc_timestamp(6) if dialect in {"mysql", "mariadb"} else None
