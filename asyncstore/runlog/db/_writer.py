"""
Writing rows: the contract, and the way that works on every database which SQLAlchemy can upsert into.

A writer retries whole transactions, for :class:`UnavailableError` alone. Everything but an insert is idempotent; an
insert must not take its own row, committed though the answer was lost, for somebody else's.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sqlalchemy import Insert, delete, exists, func, select, text, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError

from asyncstore._core.concurrency import shielded
from asyncstore._core.retry import NO_RETRY, RetryPolicy, retrying
from asyncstore.errors import (
    AccessDeniedError,
    ConfigurationError,
    CredentialsError,
    OutcomeUnknownError,
    UnavailableError,
)
from asyncstore.runlog.db._rows import Row, RowKey, stamps
from asyncstore.runlog.db._schema import UNIQUE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from asyncstore.runlog.db._engine import Database

__all__ = [
    "COMMIT_UNKNOWN",
    "NOBODYS_FAULT",
    "Change",
    "CoreWriter",
    "Fate",
    "Writer",
    "changing",
    "deleting",
    "inserting",
    "outcome_unknown",
    "upsert_statement",
    "writing",
]

T = TypeVar("T")

NOBODYS_FAULT = (AccessDeniedError, ConfigurationError, CredentialsError, OutcomeUnknownError, UnavailableError)
"""Errors that are about the database and not about a row, so that no other row would fare better."""

COMMIT_UNKNOWN = frozenset({"40003", "08007"})
"""SQLSTATEs that say that nobody knows whether the transaction was committed."""

Change: TypeAlias = "Callable[[str, datetime | None], str]"
"""Makes a row's new ``attribute_value`` of its present one and its ``created_at`` (UTC without zone)."""


class Fate:
    """What is known of a write that has failed: whether it may have been committed all the same."""

    __slots__ = ("may_have_landed",)

    def __init__(self) -> None:
        self.may_have_landed = False


class Writer(ABC):
    """Writes the rows of one table; at most one upsert and one insert run at a time."""

    def __init__(self, database: Database, table: Table, policy: RetryPolicy) -> None:
        self._engine = database.engine
        self._edge = database.edge
        self._isolation_level = database.isolation_level
        self._transaction_setting = database.transaction_setting
        self._table = table
        self._policy = policy
        self._away_since_s: float | None = None
        self._failed_s = 0.0

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

    async def _retrying(self, work: Callable[[Fate], Awaitable[T]], what: str, key: str) -> T:
        """
        Return ``work(fate)``, made anew while the database cannot be reached.

        Raises:
            OutcomeUnknownError: it was given up, and one of the attempts may have been committed.
        """
        fate = Fate()

        async def attempt() -> T:
            try:
                with self._edge.doing(what):
                    result = await work(fate)
            except UnavailableError:
                self._failed_s = time.monotonic()
                self._away_since_s = self._away_since_s or self._failed_s
                raise
            self._away_since_s = None
            return result

        try:
            return await retrying(attempt, self._patience())
        except NOBODYS_FAULT as error:
            if fate.may_have_landed:
                raise outcome_unknown(what, key) from error
            raise

    def _patience(self) -> RetryPolicy:
        """Return how long to keep trying: what comes while the database is away does not begin to wait anew."""
        now_s = time.monotonic()
        if self._away_since_s is None or now_s - self._failed_s > self._policy.deadline_s:
            self._away_since_s = None
            return self._policy
        left_s = self._policy.deadline_s - (now_s - self._away_since_s)
        return replace(self._policy, deadline_s=left_s) if left_s > 0 else NO_RETRY


class CoreWriter(Writer):
    """Writes through SQLAlchemy Core alone: a few statements a batch, on whatever database has an upsert."""

    async def open(self) -> None:
        """Nothing is needed: each transaction takes a connection of its own."""

    async def aclose(self) -> None:
        """Nothing is held."""

    async def upsert(self, rows: Sequence[Row]) -> None:
        statement = upsert_statement(self._table, self._engine.dialect.name)

        async def work(fate: Fate) -> None:
            async with self._transaction(fate) as connection:
                await connection.execute(statement, await self._stamped(connection, rows))

        await self._retrying(work, writing(rows), rows[0].key.path)

    async def insert(self, rows: Sequence[Row]) -> set[RowKey]:
        what, key = inserting(rows), rows[0].key.path

        async def work(fate: Fate) -> set[RowKey]:
            try:
                async with self._transaction(fate) as connection:
                    records = await self._stamped(connection, rows)
                    return {_key(record) for record in records if not await self._inserted(connection, record)}
            except DBAPIError as error:
                # Nothing could tell at a second attempt whether a row that is there is this one's own.
                if fate.may_have_landed:
                    raise outcome_unknown(what, key) from error
                raise

        return await self._retrying(work, what, key)

    async def modify(self, key: RowKey, change: Change) -> bool:
        columns = self._table.c
        match = self._matching(key)
        reading = select(columns.attribute_value, columns.created_at).where(*match).with_for_update()

        async def work(fate: Fate) -> bool:
            async with self._transaction(fate) as connection:
                row = (await connection.execute(reading)).first()
                if row is None:
                    return False
                await connection.execute(
                    update(self._table)
                    .where(*match)
                    .values(attribute_value=change(row.attribute_value, row.created_at))
                )
                return True

        return await self._retrying(work, changing(key), key.path)

    async def delete(self, run_id: str) -> None:
        async def work(fate: Fate) -> None:
            async with self._transaction(fate) as connection:
                await connection.execute(delete(self._table).where(self._table.c.run_id == run_id))

        await self._retrying(work, deleting(run_id), run_id)

    @asynccontextmanager
    async def _transaction(self, fate: Fate) -> AsyncIterator[AsyncConnection]:
        connection = self._engine.connect()
        try:
            await connection.start()
            if self._isolation_level:
                await connection.execution_options(isolation_level=self._isolation_level)
            if self._transaction_setting:
                await connection.exec_driver_sql(self._transaction_setting)
            yield connection
            try:
                await connection.commit()
            except Exception as error:
                fate.may_have_landed = fate.may_have_landed or not _is_refusal(error)
                raise
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

    def _matching(self, key: RowKey) -> list[ColumnElement[bool]]:
        return [self._table.c[name] == value for name, value in zip(UNIQUE, key, strict=True)]

    async def _inserted(self, connection: AsyncConnection, record: dict[str, Any]) -> bool:
        try:
            async with connection.begin_nested():
                await connection.execute(self._table.insert(), record)
        except IntegrityError:
            if await connection.scalar(select(exists().where(*self._matching(_key(record))))):
                return False
            raise
        return True


def writing(rows: Sequence[Row]) -> str:
    """Say what an upsert does, for messages."""
    return f"writing {len(rows)} parts of runs"


def inserting(rows: Sequence[Row]) -> str:
    """Say what an insert does, for messages."""
    return f"inserting into run {rows[0].key.run_id!r}"


def changing(key: RowKey) -> str:
    """Say what a change does, for messages."""
    return f"changing {key.attribute_type} of run {key.run_id!r}"


def deleting(run_id: str) -> str:
    """Say what a deletion does, for messages."""
    return f"deleting run {run_id!r}"


def outcome_unknown(what: str, key: str) -> OutcomeUnknownError:
    """Return what to raise where a write was given up, and may have been committed."""
    return OutcomeUnknownError(f"the connection was lost while {what}: look whether {key!r} is there", key)


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


def _is_refusal(error: Exception) -> bool:
    """Tell whether an error of a commit is the database's own word that nothing was committed."""
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return False
    return getattr(error.orig, "sqlstate", None) not in COMMIT_UNKNOWN


def _key(record: dict[str, Any]) -> RowKey:
    return RowKey(*(record[name] for name in UNIQUE))


def _clock(dialect: str) -> ColumnElement[datetime] | None:
    """Return the database's clock as UTC without zone, ``None`` for SQLite's, which is this machine's."""
    if dialect == "postgresql":
        return text("clock_timestamp() AT TIME ZONE 'utc'")  # type: ignore[return-value]
    return func.utc_timestamp(6) if dialect in {"mysql", "mariadb"} else None
