"""
Writing to Postgres: one statement a batch, straight through asyncpg.

Measured on two cores, 64 tasks adding rows of 200 bytes: 35,000–43,000 rows/s with the raw connection, 20–30 % less
when SQLAlchemy's connection runs the same statement and is checked out for each batch, 2,000 in a transaction per row.
A lone row takes 335 µs against 350 µs of the barest upsert, and 580–700 µs through SQLAlchemy. So the writer keeps one
connection of the engine's pool and talks to the driver's connection in it; a statement alone is its own transaction,
one round trip.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from asyncstore._core.concurrency import shielded
from asyncstore.errors import UnavailableError
from asyncstore.runlog.db._writer import CoreWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from asyncstore._core.retry import RetryPolicy
    from asyncstore.runlog.db._engine import Database
    from asyncstore.runlog.db._rows import Row, RowKey

__all__ = ["PostgresWriter"]

# An upsert must not draw a number from the sequence for a row that is there: pk is a 32-bit integer, and a step is
# rewritten often. So each row looks for its old pk first; created_at is taken over by nobody, as only the value is set.
_KEY = "(d.run_id, d.attribute_type, d.attribute_key) = ({0}run_id, {0}attribute_type, {0}attribute_key)"
_COLUMNS = "(pk, run_id, attribute_type, attribute_key, attribute_value, created_at) OVERRIDING SYSTEM VALUE"
_REPLACE = (
    "ON CONFLICT (run_id, attribute_type, attribute_key) DO UPDATE SET attribute_value = excluded.attribute_value"
)
_KEEP = "ON CONFLICT (run_id, attribute_type, attribute_key) DO NOTHING RETURNING pk"

_ONE = """
INSERT INTO {table} AS t {columns}
SELECT coalesce((SELECT d.pk FROM {table} AS d WHERE {key}), nextval({sequence})),
       i.run_id, i.attribute_type, i.attribute_key, i.attribute_value,
       greatest(clock_timestamp() AT TIME ZONE 'utc',
                (SELECT max(d.created_at) FROM {table} AS d WHERE d.run_id = i.run_id) + interval '1 microsecond')
FROM (SELECT $1::text, $2::text, $3::text, $4::text) AS i(run_id, attribute_type, attribute_key, attribute_value)
{conflict}
"""
_MANY = """
WITH item AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::integer[]) WITH ORDINALITY
        AS u(run_id, attribute_type, attribute_key, attribute_value, position, pk, rank)
), run AS MATERIALIZED (
    SELECT r.run_id,
           greatest(clock_timestamp() AT TIME ZONE 'utc',
                    (SELECT max(d.created_at) FROM {table} AS d WHERE d.run_id = r.run_id)) AS latest
    FROM (SELECT DISTINCT run_id FROM item) AS r
)
INSERT INTO {table} AS t {columns}
SELECT coalesce(i.pk, (SELECT d.pk FROM {table} AS d WHERE {key}), nextval({sequence})),
       i.run_id, i.attribute_type, i.attribute_key, i.attribute_value,
       run.latest + i.position * interval '1 microsecond'
FROM item AS i JOIN run USING (run_id)
ORDER BY i.rank
{conflict}
"""
_RESERVE = """
SELECT CASE WHEN EXISTS (SELECT FROM {table} AS d WHERE {key}) THEN NULL ELSE nextval({sequence}) END
FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS i(run_id, attribute_type, attribute_key, rank)
ORDER BY i.rank
"""
_LANDED = "SELECT pk FROM {table} WHERE pk = ANY($1::integer[])"
_ENDS_CONNECTION = frozenset({"08", "57"})
"""Classes of SQLSTATE after which a connection is of no more use."""

_SEQUENCE = "SELECT pg_get_serial_sequence($1, 'pk')"


class PostgresWriter(CoreWriter):
    """
    Upserts and inserts as single statements over arrays; changes and deletions as any other database.

    Rows go in sorted by key, so that no two batches wait for each other in a circle. The connection is let go of when
    it breaks, and when a statement on it was cancelled.
    """

    def __init__(self, database: Database, table: Table, policy: RetryPolicy) -> None:
        super().__init__(database, table, policy)
        self._lock = asyncio.Lock()
        self._held: AsyncConnection | None = None
        names = database.engine.dialect.identifier_preparer
        self._name = names.format_table(table)
        self._sequence = _literal(f"{names.quote_schema(table.schema)}.id_seq" if table.schema else "id_seq")

    async def open(self) -> None:
        """Find out which sequence numbers the rows: magnus' own, or that of a ``serial`` or identity column."""

        async def find() -> str | None:
            async with self._driver() as driver:
                found: str | None = await driver.fetchval(_SEQUENCE, self._name)
                return found

        sequence = await self._retrying(find, "looking for the sequence of pk")
        self._sequence = _literal(sequence) if sequence is not None else self._sequence

    async def aclose(self) -> None:
        """Give the connection back to the pool."""
        held, self._held = self._held, None
        if held is not None:
            await shielded(held.close())

    async def upsert(self, rows: Sequence[Row]) -> None:
        lone = len(rows) == 1
        statement = self._sql(_ONE if lone else _MANY, _REPLACE)
        arguments = [*rows[0].key, rows[0].attribute_value] if lone else _arrays(rows, [None] * len(rows))

        async def work() -> None:
            async with self._driver() as driver:
                await driver.fetch(statement, *arguments)

        await self._retrying(work, f"writing {len(rows)} parts of runs")

    async def insert(self, rows: Sequence[Row]) -> set[RowKey]:
        """
        Reserve the rows' numbers first: by them a second attempt knows its own rows from those of others.

        Raises:
            OutcomeUnknownError: the answer was lost, and the database could not be reached again to ask.
        """
        what = f"inserting into run {rows[0].key.run_id!r}"
        numbers = await self._retrying(lambda: self._reserve(rows), what)
        new = {number: row for row, number in zip(rows, numbers, strict=True) if number is not None}
        if not new:
            return {row.key for row in rows}
        attempts = 0

        async def work() -> set[int]:
            nonlocal attempts
            async with self._driver() as driver:
                attempts += 1
                landed = await driver.fetch(self._sql(_MANY, _KEEP), *_arrays(list(new.values()), list(new)))
                if attempts > 1:
                    landed = await driver.fetch(self._sql(_LANDED), list(new))
                return {row[0] for row in landed}

        try:
            own = await self._retrying(work, what)
        except UnavailableError as error:
            if attempts:
                raise self._unknown(rows) from error
            raise
        return {row.key for row in rows} - {new[number].key for number in own}

    async def _reserve(self, rows: Sequence[Row]) -> list[int | None]:
        async with self._driver() as driver:
            keys = [list(column) for column in zip(*(row.key for row in rows), strict=True)]
            return [row[0] for row in await driver.fetch(self._sql(_RESERVE), *keys)]

    def _sql(self, statement: str, conflict: str = "") -> str:
        return statement.format(
            table=self._name, columns=_COLUMNS, sequence=self._sequence, key=_KEY.format("i."), conflict=conflict
        )

    @asynccontextmanager
    async def _driver(self) -> AsyncIterator[asyncpg.Connection]:
        async with self._lock:
            driver = await self._checked_out()
            sound = False
            try:
                yield driver
                sound = True
            except asyncpg.PostgresError as error:
                # The server has answered, and goes on serving this connection unless it says otherwise.
                sound = str(error.sqlstate)[:2] not in _ENDS_CONNECTION
                raise
            finally:
                if not sound or driver.is_closed():
                    await shielded(self._let_go())

    async def _checked_out(self) -> asyncpg.Connection:
        """Return the driver's connection, of the pool's connections the first that is not closed."""
        while True:
            if self._held is None:
                connection = self._engine.connect()
                await connection.start()
                self._held = connection
            driver: Any = (await self._held.get_raw_connection()).driver_connection
            if not driver.is_closed():
                return driver
            await self._let_go()

    async def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            await held.invalidate()
            await held.close()


def _arrays(rows: Sequence[Row], numbers: Sequence[int | None]) -> list[Any]:
    order = sorted(range(len(rows)), key=lambda position: rows[position].key)
    columns = zip(*((*rows[position].key, rows[position].attribute_value) for position in order), strict=True)
    return [*map(list, columns), [position + 1 for position in order], [numbers[position] for position in order]]


def _literal(name: str) -> str:
    quoted = name.replace("'", "''")
    return f"'{quoted}'::regclass"
