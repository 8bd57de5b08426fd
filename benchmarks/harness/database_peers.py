"""
The peers at a database: SQLAlchemy and the bare drivers.

They write the very JSON that asyncstore has written, into the same table: they make none, and look for nothing that is
there. Only whoever reads a run into models parses it, as asyncstore does.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy import Column, DateTime, Insert, Integer, Sequence, Text, event, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from asyncstore import RunLog, StepLog
from harness.store import Figures, timed, timed_alone
from harness.work import TASKS, step_fields
from harness.worker import measured

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable
    from collections.abc import Sequence as Ordered

    import aiosqlite

Record = tuple[str, str, str, str]
"""run_id, attribute_type, attribute_key and attribute_value of a row."""

LOCK_WAIT_S = 60.0

_REPLACE = (
    "ON CONFLICT (run_id, attribute_type, attribute_key) DO UPDATE SET attribute_value = excluded.attribute_value"
)
_COLUMNS = ("run_id", "attribute_type", "attribute_key", "attribute_value", "created_at")
_INTO = f"INSERT INTO db_log ({', '.join(_COLUMNS)}"
_CLOCK = "clock_timestamp() AT TIME ZONE 'utc'"
POSTGRES_ROW = f"{_INTO}, pk) VALUES ($1, $2, $3, $4, {_CLOCK}, nextval('id_seq')) {_REPLACE}"
POSTGRES_ROWS = (
    f"{_INTO}, pk) SELECT u.*, {_CLOCK}, nextval('id_seq') FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])"
    f" AS u {_REPLACE}"
)
SQLITE_ROW = f"{_INTO}) VALUES (?, ?, ?, ?, ?) {_REPLACE}"
STEPS = "SELECT attribute_key, attribute_value FROM db_log WHERE attribute_type = 'StepLog' AND run_id = {}"


class Base(DeclarativeBase):
    """What the declarative class below is made from."""


class DBLog(Base):
    """The table, as those who use magnus' database store declare it."""

    __tablename__ = "db_log"
    pk = Column(Integer, Sequence("id_seq"), primary_key=True)
    run_id = Column(Text)
    attribute_key = Column(Text)
    attribute_type = Column(Text)
    attribute_value = Column(Text)
    created_at = Column(DateTime, default=lambda: _now())


class Peer(ABC):
    """Rows written and read by hand; a run needs no header."""

    def __init__(self) -> None:
        self._values: list[str] = []

    @abstractmethod
    async def select_steps(self, run_id: str) -> list[tuple[str, str]]:
        """Return name and JSON of the step logs of a run, in any order."""

    async def load(self, run_id: str, count: int) -> None:
        """Take the JSON to write from what asyncstore has written."""
        found = dict(await self.select_steps(run_id))
        self._values = [found[f"step-{number}"] for number in range(count)]

    async def kept(self, run_id: str, count: int) -> int:
        """
        Return how many of the step logs ``0 … count - 1`` stand, whole.

        Raises:
            ValueError: the run has more rows than that.
        """
        rows = await self.select_steps(run_id)
        if len(rows) > count:
            raise ValueError(f"{len(rows)} rows of the {count} step logs of {run_id}")
        found = {}
        for name, value in rows:
            fields = json.loads(value)
            found[name] = {key: fields.get(key) for key in step_fields(0)}
        return sum(found.get(f"step-{number}") == step_fields(number) for number in range(count))

    def _records(self, run_id: str, count: int) -> list[Record]:
        return [(run_id, "StepLog", f"step-{number}", self._values[number]) for number in range(count)]


class AsyncpgPool(Peer):
    """A pool of asyncpg, and one INSERT for each row; alone, a prepared statement on one connection."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        super().__init__()
        self._url = url
        self._stack = stack
        self._pool: asyncpg.Pool

    async def use(self, pool: int) -> None:
        """Open a pool of so many connections, all connected, in place of the one before."""
        await self._stack.aclose()
        self._pool = await self._stack.enter_async_context(asyncpg.create_pool(self._url, min_size=pool, max_size=pool))

    async def add(self, run_id: str, count: int, tasks: int = TASKS) -> Figures:
        """Add rows from so many tasks, a transaction each."""
        records = self._records(run_id, count)

        async def add(number: int) -> None:
            async with self._pool.acquire() as connection:
                await connection.execute(POSTGRES_ROW, *records[number])

        return await timed(add, count, tasks)

    async def add_alone(self, run_id: str, count: int) -> Figures:
        """Add rows one after the other."""
        records = self._records(run_id, count)
        async with self._pool.acquire() as connection:
            statement = await connection.prepare(POSTGRES_ROW)
            return await timed_alone(lambda number: statement.fetch(*records[number]), count)

    async def select_steps(self, run_id: str) -> list[tuple[str, str]]:
        """Return name and JSON of the step logs of a run, in any order."""
        return [(row[0], row[1]) for row in await self._pool.fetch(STEPS.format("$1"), run_id)]


class AsyncpgBatches(Peer):
    """
    One connection of asyncpg, batches back to back: what no store that awaits single rows can exceed.

    Args:
        connection: open.
        way: ``unnest``, ``executemany`` or ``copy``; the first two upsert, the last can only add.
    """

    def __init__(self, connection: asyncpg.Connection, way: str) -> None:
        super().__init__()
        self._connection = connection
        self._write = {"unnest": self._unnest, "executemany": self._executemany, "copy": self._copy}[way]
        self._numbers: list[int] = []

    async def add(self, run_id: str, count: int, tasks: int = TASKS) -> Figures:
        """Add rows, as many in a batch as the others have tasks."""
        records = self._records(run_id, count)
        draw = f"SELECT nextval('id_seq')::integer FROM generate_series(1, {count})"
        self._numbers = [row[0] for row in await self._connection.fetch(draw)]
        with measured() as figures:
            for start in range(0, count, tasks):
                await self._write(records, start, start + tasks)
        return figures

    async def select_steps(self, run_id: str) -> list[tuple[str, str]]:
        """Return name and JSON of the step logs of a run, in any order."""
        return [(row[0], row[1]) for row in await self._connection.fetch(STEPS.format("$1"), run_id)]

    async def _unnest(self, records: list[Record], start: int, end: int) -> None:
        await self._connection.execute(POSTGRES_ROWS, *map(list, zip(*records[start:end], strict=True)))

    async def _executemany(self, records: list[Record], start: int, end: int) -> None:
        await self._connection.executemany(POSTGRES_ROW, records[start:end])

    async def _copy(self, records: list[Record], start: int, end: int) -> None:
        now = _now()
        rows = [
            (number, *record, now) for number, record in zip(self._numbers[start:end], records[start:end], strict=True)
        ]
        await self._connection.copy_records_to_table("db_log", records=rows, columns=["pk", *_COLUMNS])


class SqlAlchemy(Peer):
    """SQLAlchemy on asyncio: a transaction for each row, and runs read as objects of a declarative class."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        super().__init__()
        self._url = make_url(url)
        self._stack = stack
        self._engine: AsyncEngine
        self._upsert = _upsert(self._url.get_backend_name())

    async def use(self, pool: int) -> None:
        """Make an engine with so many connections, all connected, in place of the one before."""
        await self._stack.aclose()
        driver, options = (
            ("sqlite+aiosqlite", {"timeout": LOCK_WAIT_S})
            if self._url.get_backend_name() == "sqlite"
            else ("postgresql+asyncpg", {})
        )
        self._engine = create_async_engine(
            self._url.set(drivername=driver), pool_size=pool, max_overflow=0, pool_timeout=600, connect_args=options
        )
        self._stack.push_async_callback(self._engine.dispose)
        if driver.startswith("sqlite"):
            event.listen(self._engine.sync_engine, "connect", _flush_each_commit)
        async with AsyncExitStack() as connections:
            for _ in range(pool):
                await connections.enter_async_context(self._engine.connect())

    async def add(self, run_id: str, count: int, tasks: int = TASKS) -> Figures:
        """Add rows from so many tasks, a transaction each."""
        return await timed(self._adding(run_id, count), count, tasks)

    async def add_alone(self, run_id: str, count: int) -> Figures:
        """Add rows one after the other."""
        return await timed_alone(self._adding(run_id, count), count)

    async def read(self, run_id: str, count: int) -> Figures:
        """Read what asyncstore wrote of a run, as objects that hold JSON."""
        with measured() as figures:
            rows = await self._objects(run_id)
        if len(rows) < count:
            raise ValueError(f"read {len(rows)} rows of a run with {count} steps")
        return figures

    async def read_models(self, run_id: str, count: int) -> Figures:
        """Read what asyncstore wrote of a run, and parse the JSON into the run log's models, as asyncstore does."""
        with measured() as figures:
            rows = await self._objects(run_id)
            header = next(row for row in rows if row.attribute_type == "RunLog")
            run_log = RunLog.model_validate_json(str(header.attribute_value))
            steps = (row for row in rows if row.attribute_type == "StepLog")
            parsed = (StepLog.model_validate_json(str(row.attribute_value)) for row in steps)
            run_log.steps = {step.internal_name: step for step in parsed}
        if len(run_log.steps) != count:
            raise ValueError(f"read {len(run_log.steps)} of {count} steps")
        return figures

    async def select_steps(self, run_id: str) -> list[tuple[str, str]]:
        """Return name and JSON of the step logs of a run, in any order."""
        async with AsyncSession(self._engine) as session:
            steps = select(DBLog).where(DBLog.run_id == run_id, DBLog.attribute_type == "StepLog")
            return [(str(row.attribute_key), str(row.attribute_value)) for row in await session.scalars(steps)]

    async def _objects(self, run_id: str) -> Ordered[DBLog]:
        async with AsyncSession(self._engine) as session:
            query = select(DBLog).where(DBLog.run_id == run_id).order_by(DBLog.created_at, DBLog.pk)
            return (await session.scalars(query)).all()

    def _adding(self, run_id: str, count: int) -> Callable[[int], Awaitable[None]]:
        records = [dict(zip(_COLUMNS, record, strict=False)) for record in self._records(run_id, count)]

        async def add(number: int) -> None:
            async with self._engine.begin() as connection:
                await connection.execute(self._upsert, records[number])

        return add


class Aiosqlite(Peer):
    """One connection of aiosqlite."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        super().__init__()
        self._connection = connection

    async def add_alone(self, run_id: str, count: int) -> Figures:
        """Add rows one after the other, a transaction each."""
        records = self._records(run_id, count)

        async def add(number: int) -> None:
            await self._connection.execute(SQLITE_ROW, (*records[number], _text(_now())))
            await self._connection.commit()

        return await timed_alone(add, count)

    async def select_steps(self, run_id: str) -> list[tuple[str, str]]:
        """Return name and JSON of the step logs of a run, in any order."""
        found = await self._connection.execute_fetchall(STEPS.format("?"), (run_id,))
        return [(row[0], row[1]) for row in found]


class Sqlite3(Peer):
    """One connection of sqlite3: many rows in one transaction, or a row at a time in a thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self._connection = connection

    async def add(self, run_id: str, count: int, tasks: int = TASKS) -> Figures:
        """Add all rows in one transaction."""
        records = [(*record, _text(_now())) for record in self._records(run_id, count)]
        with measured() as figures, self._connection:
            self._connection.executemany(SQLITE_ROW, records)
        return figures

    async def add_alone(self, run_id: str, count: int) -> Figures:
        """Add rows one after the other, each with its commit in a thread."""
        records = self._records(run_id, count)

        def add(number: int) -> None:
            with self._connection:
                self._connection.execute(SQLITE_ROW, (*records[number], _text(_now())))

        return await timed_alone(lambda number: asyncio.to_thread(add, number), count)

    async def select_steps(self, run_id: str) -> list[tuple[str, str]]:
        """Return name and JSON of the step logs of a run, in any order."""
        return self._connection.execute(STEPS.format("?"), (run_id,)).fetchall()


def file_of(url: str) -> str:
    """Return the path in an SQLite URL."""
    return url.removeprefix("sqlite:///")


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _text(time: datetime) -> str:
    return time.isoformat(" ", "microseconds")


def _upsert(dialect: str) -> Insert:
    key = ["run_id", "attribute_type", "attribute_key"]
    if dialect == "sqlite":
        lite = sqlite.insert(DBLog).inline()
        return lite.on_conflict_do_update(index_elements=key, set_={"attribute_value": lite.excluded.attribute_value})
    post = postgresql.insert(DBLog).inline()
    return post.on_conflict_do_update(index_elements=key, set_={"attribute_value": post.excluded.attribute_value})


def _flush_each_commit(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
