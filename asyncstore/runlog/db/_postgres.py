"""
Writing to Postgres: one statement a batch, straight through asyncpg.

The writer keeps one connection of the engine's pool and talks to the driver's connection in it; a statement alone is
its own transaction, one round trip. Measured on two cores, commits flushed, 64 tasks adding rows of 400 bytes: 30,000
rows/s, and 3,300 in a transaction per row through SQLAlchemy, whose connections take 20–30 % longer for the very same
statements. A batch goes in as arrays for ``unnest``: ``COPY`` into a temporary table and an insert from there take 1.5
times as long for 64 rows, and 1.1 times for 1,000.

A row that is there keeps its ``pk``. An upsert draws a number from the sequence nevertheless, before it can know, and
numbers are 32 bits, while a step is written several times. So the writer remembers the numbers of the rows it has
written and sends them along; only the first rewrite of another writer's row costs one. Looking each row up first would
cost none, but a tenth of the speed, and all of it on a day when the planner takes a wrong index.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import asyncpg

from asyncstore._core.concurrency import shielded
from asyncstore.runlog.db._errors import is_about_numbers
from asyncstore.runlog.db._rows import RowKey
from asyncstore.runlog.db._writer import COMMIT_UNKNOWN, CoreWriter, Fate, inserting, writing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from asyncstore._core.retry import RetryPolicy
    from asyncstore.runlog.db._engine import Database
    from asyncstore.runlog.db._rows import Row

__all__ = ["PostgresWriter"]

# Nothing here looks rows up but the conflict itself: for a run of many rows the planner may take the wrong index.
# Rows come sorted, and in that order they are inserted and their numbers returned.
_WRITE = """
WITH run AS MATERIALIZED (
    SELECT array(
        SELECT greatest(clock_timestamp() AT TIME ZONE 'utc',
                        (SELECT max(d.created_at) FROM {table} AS d WHERE d.run_id = r.run_id))
        FROM unnest($1::text[]) WITH ORDINALITY AS r(run_id, rank) ORDER BY r.rank
    ) AS latest
)
INSERT INTO {table} AS t (pk, run_id, attribute_type, attribute_key, attribute_value, created_at)
OVERRIDING SYSTEM VALUE
SELECT coalesce(i.pk, nextval({sequence})), ($1::text[])[coalesce(i.run, 1)],
       i.attribute_type, i.attribute_key, i.attribute_value,
       run.latest[coalesce(i.run, 1)] + i.position * interval '1 microsecond'
FROM run, unnest($2::integer[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::bigint[])
    AS i(run, attribute_type, attribute_key, attribute_value, position, pk)
ON CONFLICT (run_id, attribute_type, attribute_key) {conflict}
"""
_WRITE_ONE = """
INSERT INTO {table} AS t (pk, run_id, attribute_type, attribute_key, attribute_value, created_at)
OVERRIDING SYSTEM VALUE
VALUES (coalesce($5::bigint, nextval({sequence})), $1, $2, $3, $4,
        greatest(clock_timestamp() AT TIME ZONE 'utc',
                 (SELECT max(d.created_at) FROM {table} AS d WHERE d.run_id = $1) + interval '1 microsecond'))
ON CONFLICT (run_id, attribute_type, attribute_key) {conflict}
"""
_REPLACE = "DO UPDATE SET attribute_value = excluded.attribute_value RETURNING pk"
_KEEP = "DO NOTHING RETURNING run_id, attribute_type, attribute_key"
_RESERVE = """
SELECT CASE WHEN EXISTS (
    SELECT FROM {table} AS d
    WHERE (d.run_id, d.attribute_type, d.attribute_key) = (i.run_id, i.attribute_type, i.attribute_key)
) THEN NULL ELSE nextval({sequence}) END
FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS i(run_id, attribute_type, attribute_key, rank)
ORDER BY i.rank
"""
_LANDED = "SELECT run_id, attribute_type, attribute_key FROM {table} WHERE pk = ANY($1::bigint[])"
_NO_ANSWER = ("08", "57P", *COMMIT_UNKNOWN)
"""Beginnings of the SQLSTATEs that leave open whether a statement was committed; all others say that it was not."""

_ENDS_CONNECTION = (*_NO_ANSWER, "25006")
"""
Beginnings of the SQLSTATEs after which a connection is of no more use. One that leads to a server which has become a
standby stays open, and writes would fail on it for ever.
"""
_NUMBERS_KEPT = 16384
"""Rows whose numbers the writer remembers: a few MiB."""

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
        self._raw: asyncpg.Connection | None = None
        self._numbers: OrderedDict[RowKey, int] = OrderedDict()
        self._begin = f"BEGIN; {database.transaction_setting}" if database.pgbouncer else ""
        names = database.engine.dialect.identifier_preparer
        self._name = names.format_table(table)
        self._number_rows_from(f"{names.quote_schema(table.schema)}.id_seq" if table.schema else "id_seq")

    async def open(self) -> None:
        """Find out which sequence numbers the rows: magnus' own, or that of a ``serial`` or identity column."""

        async def find(fate: Fate) -> list[Any]:
            return await self._fetch(fate, _SEQUENCE, self._name)

        (found,) = await self._retrying(find, "looking for the sequence of pk", "")
        if found[0] is not None:
            self._number_rows_from(found[0])

    async def aclose(self) -> None:
        """Give the connection back to the pool."""
        held, self._held, self._raw = self._held, None, None
        if held is not None:
            await shielded(held.close())

    async def upsert(self, rows: Sequence[Row]) -> None:
        order = sorted(rows)

        async def work(fate: Fate) -> None:
            known = [self._numbers.get(row.key) for row in order]
            try:
                await self._write(rows, order, known, fate)
            except asyncpg.UniqueViolationError as error:
                if not any(known) or not is_about_numbers(error):
                    raise
                # Where rows were deleted, or a sequence was set back, a number may be another row's by now.
                self._forget({row.key for row in order})
                await self._write(rows, order, [None] * len(order), fate)

        await self._retrying(work, writing(rows), rows[0].key.path)

    async def insert(self, rows: Sequence[Row]) -> set[RowKey]:
        """
        Reserve the rows' numbers first: by them a second attempt knows its own rows from those of others.

        Raises:
            OutcomeUnknownError: the answer was lost, and the database could not be reached again to ask.
        """
        what, key = inserting(rows), rows[0].key.path
        numbers = await self._retrying(lambda _: self._reserve(rows), what, key)
        new = {row.key: number for row, number in zip(rows, numbers, strict=True) if number is not None}
        if not new:
            return {row.key for row in rows}
        order = sorted(row for row in rows if row.key in new)
        arguments = _arrays(rows, order, [new[row.key] for row in order])

        async def work(fate: Fate) -> list[Any]:
            if not fate.may_have_landed:
                return await self._fetch(fate, self._keep, *arguments)
            # An attempt before, whose connection was lost, may even be under way still.
            with contextlib.suppress(asyncpg.UniqueViolationError):
                await self._fetch(fate, self._keep, *arguments)
            return await self._fetch(fate, self._landed, list(new.values()))

        own = {RowKey(*row) for row in await self._retrying(work, what, key)}
        self._remember((row_key, number) for row_key, number in new.items() if row_key in own)
        return {row.key for row in rows} - own

    async def delete(self, run_id: str) -> None:
        await super().delete(run_id)
        self._forget({key for key in self._numbers if key.run_id == run_id})

    async def _write(self, rows: Sequence[Row], order: Sequence[Row], known: Sequence[int | None], fate: Fate) -> None:
        if len(order) == 1:
            statement = self._replace_one
            arguments = [*order[0].key, order[0].attribute_value, *known]
        else:
            statement, arguments = self._replace, _arrays(rows, order, known)
        written = await self._fetch(fate, statement, *arguments)
        # A trigger may have passed over rows; which ones, nobody says.
        if len(written) == len(order):
            found = zip(order, known, written, strict=True)
            self._remember((row.key, record[0]) for row, number, record in found if number is None)

    async def _reserve(self, rows: Sequence[Row]) -> list[int | None]:
        # A number that was drawn and not used does no harm, so the fate of this is of no interest.
        keys = [list(column) for column in zip(*(row.key for row in rows), strict=True)]
        return [row[0] for row in await self._fetch(Fate(), self._reserving, *keys)]

    def _number_rows_from(self, sequence: str) -> None:
        def sql(statement: str, conflict: str = "") -> str:
            return statement.format(table=self._name, sequence=_literal(sequence), conflict=conflict)

        self._replace, self._replace_one = sql(_WRITE, _REPLACE), sql(_WRITE_ONE, _REPLACE)
        self._keep, self._reserving, self._landed = sql(_WRITE, _KEEP), sql(_RESERVE), sql(_LANDED)

    def _remember(self, written: Iterable[tuple[RowKey, int]]) -> None:
        self._numbers.update(written)
        while len(self._numbers) > _NUMBERS_KEPT:
            self._numbers.popitem(last=False)

    def _forget(self, keys: Iterable[RowKey]) -> None:
        for key in keys:
            self._numbers.pop(key, None)

    async def _fetch(self, fate: Fate, statement: str, *arguments: Any) -> list[Any]:
        """Return what a statement returns, which is a transaction by itself."""
        async with self._lock:
            driver = self._raw
            if driver is None or driver.is_closed():
                driver = await self._checked_out()
            serves = False
            try:
                fetch = self._enclosed(driver) if self._begin else driver.fetch
                found: list[Any] = await fetch(statement, *arguments)
                serves = True
            except asyncpg.PostgresError as error:
                state = str(error.sqlstate)
                serves = not state.startswith(_ENDS_CONNECTION)
                fate.may_have_landed = fate.may_have_landed or state.startswith(_NO_ANSWER)
                raise
            except Exception:
                fate.may_have_landed = True
                raise
            finally:
                if not serves or driver.is_closed():
                    await shielded(self._let_go())
            return found

    def _enclosed(self, driver: asyncpg.Connection) -> Callable[..., Awaitable[list[Any]]]:
        """Return what runs a statement in an explicit transaction."""

        async def fetch(statement: str, *arguments: Any) -> list[Any]:
            await driver.execute(self._begin)
            try:
                found: list[Any] = await driver.fetch(statement, *arguments)
                await driver.execute("COMMIT")
            except asyncpg.PostgresError as error:
                if not str(error.sqlstate).startswith(_ENDS_CONNECTION):
                    await driver.execute("ROLLBACK")
                raise
            return found

        return fetch

    async def _checked_out(self) -> asyncpg.Connection:
        """Return the driver's connection, of the pool's connections the first that is not closed."""
        while True:
            await self._let_go()
            connection = self._engine.connect()
            await connection.start()
            self._held = connection
            driver: Any = (await connection.get_raw_connection()).driver_connection
            if not driver.is_closed():
                self._raw = driver
                return driver

    async def _let_go(self) -> None:
        held, self._held, self._raw = self._held, None, None
        if held is not None:
            await held.invalidate()
            await held.close()


def _arrays(rows: Sequence[Row], order: Sequence[Row], numbers: Sequence[int | None]) -> list[Any]:
    """Return the columns of ``order``, and where in ``rows`` each stands; what says nothing is left to defaults."""
    places = {row.key: place for place, row in enumerate(rows, 1)}
    keys, values = zip(*order, strict=True)
    run_ids, kinds, names = zip(*keys, strict=True)
    runs = {run_id: place for place, run_id in enumerate(dict.fromkeys(run_ids), 1)}
    return [
        list(runs),
        [runs[run_id] for run_id in run_ids] if len(runs) > 1 else None,
        kinds,
        names,
        values,
        [places[key] for key in keys],
        numbers if any(numbers) else None,
    ]


def _literal(name: str) -> str:
    quoted = name.replace("'", "''")
    return f"'{quoted}'::regclass"
