"""Reading rows: one query each, on a connection of the engine's pool."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import func, select

from asyncstore._core.concurrency import shielded, to_its_end
from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore.errors import AsyncStoreError, ConfigurationError, IntegrityError, InvalidValueError
from asyncstore.runlog._parts import Parts
from asyncstore.runlog._queries import RunQuery, summary_of
from asyncstore.runlog.db import _listing
from asyncstore.runlog.db._errors import CREATE_TABLES
from asyncstore.runlog.db._rows import ESCAPE, SEPARATOR, fragment_key, row_key
from asyncstore.runlog.db._schema import check_table
from asyncstore.runlog.fragments import Fragment, FragmentKey, Kind, Selection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Executable, Row, Select, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from asyncstore.models import RunSummary
    from asyncstore.runlog.db._engine import Database

__all__ = ["Reader", "aware", "checked_out", "fragment_in"]

T = TypeVar("T")

log = logging.getLogger(__name__)

HEADERS_AT_ONCE = 1000
"""How many headers are held as text at a time: of 100,000 runs only the summaries are kept."""


_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = _EPOCH.replace(tzinfo=UTC)
_STEP = Kind.STEP_LOG.value
_KINDS = frozenset(kind.value for kind in Kind)


class Reader:
    """Reads the rows of one table."""

    def __init__(self, database: Database, table: Table, policy: RetryPolicy) -> None:
        self._database = database
        self._table = table
        self._policy = policy
        self._reading = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._whole = str(self._selecting("").compile(dialect=database.engine.dialect))

    async def aclose(self) -> None:
        """Wait until what is being read has been read; a connection in use would outlive its engine."""
        await shielded(self._end())

    async def _end(self) -> None:
        await self._quiet.wait()

    async def check(self, policy: RetryPolicy) -> None:
        """
        Check that the table is there and is fit to be written to, trying as long as ``policy`` says.

        Raises:
            ConfigurationError: it is not; the message names the command that makes it.
        """

        async def look(connection: AsyncConnection) -> str:
            return await connection.run_sync(check_table, self._table)

        try:
            problem = await self._connected(look, "opening the run log", policy)
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

    async def whole(self, run_id: str) -> Parts:
        """
        Return all parts of a run.

        asyncpg and sqlite3 give those of 1,000 steps in 2.3 ms, and SQLAlchemy in 3.2 ms. No gain was it to let the
        server join the rows of each kind into arrays or one text: that takes Postgres 1.9 to 2.8 ms and SQLite 1.5 ms,
        where the rows themselves take 1.4 and 1.0 ms.
        """

        async def fetch(connection: AsyncConnection) -> Parts:
            rows = None if self._database.pgbouncer else await _driven(connection, self._whole, run_id)
            return _parts(rows if rows is not None else (await connection.execute(self._selecting(run_id))).all())

        return await self._fetched(fetch, f"reading run {run_id!r}")

    async def headers(self, query: RunQuery) -> list[RunSummary]:
        """Return the runs that ``query`` wants, and perhaps others; those whose header cannot be read are left out."""
        if query.limit == 0:
            return []
        conditions = _listing.filters(query, self._database.engine.dialect)
        try:
            return await self._listed(query, conditions)
        except InvalidValueError as error:
            if not conditions:
                raise
            log.info("status and tag are compared here, a header being no JSON to the database: %s", error)
            return await self._listed(query, None)

    async def _listed(self, query: RunQuery, conditions: Sequence[ColumnElement[bool]] | None) -> list[RunSummary]:
        """List with ``conditions``, or where they are ``None`` compare status and tag of all runs here."""
        decided = conditions or []
        limit = HEADERS_AT_ONCE if query.limit is None or conditions is None else min(query.limit, HEADERS_AT_ONCE)
        statements = [_listing.dated(self._table, query, decided)]
        if _listing.wants_undated(query):
            statements.append(_listing.undated(self._table, decided))

        def is_enough(found: list[RunSummary]) -> bool:
            return query.limit is not None and len(found) >= query.limit

        async def first(connection: AsyncConnection) -> list[RunSummary] | None:
            rows = (await connection.execute(statements[0].limit(limit))).all()
            found = _wanted(rows, query)
            if len(rows) == limit and not is_enough(found):
                return None
            for statement in statements[1:]:
                if not is_enough(found):
                    found += _wanted((await connection.execute(statement)).all(), query)
            return found

        async def every(connection: AsyncConnection) -> list[RunSummary]:
            if connection.dialect.name == "postgresql":
                # What the server is to hand out bit by bit it ties to a transaction.
                await connection.execution_options(isolation_level="READ COMMITTED")
            found: list[RunSummary] = []
            for statement in statements:
                async with connection.stream(statement, execution_options={"yield_per": HEADERS_AT_ONCE}) as result:
                    async for rows in result.partitions():
                        found += _wanted(rows, query)
                        if is_enough(found):
                            return found
            return found

        found = await self._fetched(first, "listing runs")
        # There are more than go into memory at once, or some were handed over for lack of certainty and not wanted.
        return found if found is not None else await self._fetched(every, "listing runs")

    async def looked(
        self, query: Executable, run_id: str, parameters: Mapping[str, Any]
    ) -> list[tuple[Row[Any], Fragment | None]]:
        """Return the rows of a look at a run, each with the fragment in it, ``None`` where it holds none."""

        async def fetch(connection: AsyncConnection) -> Sequence[Row[Any]]:
            return (await connection.execute(query, {"run_id": run_id, **parameters})).all()

        rows = await self._fetched(fetch, f"reading run {run_id!r}")
        return [(row, _fragment(row) if row.attribute_type is not None else None) for row in rows]

    def _selecting(self, run_id: str) -> Select[Any]:
        columns = self._table.c
        query = select(*_needed(self._table)).where(columns.run_id == run_id)
        return query.order_by(columns.created_at, columns.pk)

    async def _rows(self, query: Select[Any], what: str) -> Sequence[Row[Any]]:
        async def fetch(connection: AsyncConnection) -> Sequence[Row[Any]]:
            return list((await connection.execute(query)).all())

        return await self._fetched(fetch, what)

    async def _fetched(self, fetch: Callable[[AsyncConnection], Awaitable[T]], what: str) -> T:
        try:
            return await self._connected(fetch, what)
        except ValueError as error:
            if isinstance(error, AsyncStoreError):
                raise
            raise IntegrityError(f"{what} in {self._database.location} failed: {error}") from error

    async def _connected(
        self, work: Callable[[AsyncConnection], Awaitable[T]], what: str, policy: RetryPolicy | None = None
    ) -> T:
        async def read() -> T:
            async with checked_out(self._database) as connection:
                return await work(connection)

        async def attempt() -> T:
            with self._database.edge.doing(what):
                if self._database.engine.dialect.name != "sqlite":
                    return await read()
                # Cancelled within, SQLAlchemy lets go of the connection while a cursor still holds the file open.
                return await to_its_end(asyncio.create_task(read()))

        self._reading += 1
        self._quiet.clear()
        try:
            return await retrying(attempt, policy or self._policy)
        finally:
            self._reading -= 1
            if not self._reading:
                self._quiet.set()


def aware(stamp: datetime | None) -> datetime | None:
    """Return a time of the database, which has no zone, as the UTC that it is."""
    if stamp is None:
        return None
    # The sum is the same as the other in a sixth of the time.
    return _EPOCH_UTC + (stamp - _EPOCH) if stamp.tzinfo is None else stamp.replace(tzinfo=UTC)


def fragment_in(
    attribute_type: str, attribute_key: str | None, attribute_value: str | None, created_at: datetime | None
) -> Fragment:
    """Return the fragment that a row of these columns holds."""
    key = fragment_key(attribute_type, attribute_key or "")
    return Fragment(key, (attribute_value or "null").encode(), aware(created_at))


@asynccontextmanager
async def checked_out(database: Database) -> AsyncIterator[AsyncConnection]:
    """Check a connection out; it goes back also when the reader is cancelled, at whatever moment."""
    dialect = database.engine.dialect.name
    connection = database.engine.connect()

    async def start() -> None:
        await connection.start()
        if dialect == "postgresql" and not database.pgbouncer:
            # A lone SELECT needs no BEGIN and ROLLBACK around it.
            await connection.execution_options(isolation_level="AUTOCOMMIT")

    try:
        # Cancelling aiosqlite while it connects would leave its file open.
        await (shielded(start()) if dialect == "sqlite" else start())
        yield connection
    finally:
        if connection.sync_connection is not None:
            await shielded(connection.close())


def _needed(table: Table) -> list[Any]:
    return [table.c[name] for name in ("attribute_type", "attribute_key", "attribute_value", "created_at")]


def _fragment(row: Row[Any]) -> Fragment:
    return fragment_in(row.attribute_type, row.attribute_key, row.attribute_value, row.created_at)


def _wanted(rows: Sequence[Row[Any]], query: RunQuery) -> list[RunSummary]:
    """Return the summaries of the runs that ``query`` wants, its limit aside."""
    summaries = (_summary(row) for row in rows)
    return [summary for summary in summaries if summary is not None and query.matches(summary)]


async def _driven(connection: AsyncConnection, statement: str, run_id: str) -> Sequence[Sequence[Any]] | None:
    """Return the rows as the driver gives them, ``None`` if it is another than the two, or no longer connected."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    try:
        match connection.dialect.driver:
            case "asyncpg" if not driver.is_closed():
                rows: Sequence[Sequence[Any]] = await driver.fetch(statement, run_id)
            case "aiosqlite":
                rows = await driver.execute_fetchall(statement, (run_id,))
            case _:
                return None
    except BaseException:
        # The pool does not see what happens to the connection here.
        await shielded(connection.invalidate())
        raise
    return rows


def _parts(rows: Sequence[Sequence[Any]]) -> Parts:
    """Sort the rows of a run, which come in creation order, by what they hold."""
    parts = Parts()
    if rows and (rows[0][3] is None or rows[-1][3] is None):
        # Databases differ in where they put those that do not say when they were made.
        rows = sorted(rows, key=lambda row: row[3] is not None)
    # Nearly all rows are steps, and by columns they take a third of the time.
    steps = [row for row in rows if row[0] == _STEP]
    if steps:
        _, keys, values, times = zip(*steps, strict=True)
        parts.steps = dict(zip(_filled(keys, ""), zip(_bodies(values), _times(times), strict=True), strict=True))
    others = [row for row in rows if row[0] != _STEP and row[0] in _KINDS]
    if others:
        kinds, keys, values, times = zip(*others, strict=True)
        names = map(fragment_key, kinds, _filled(keys, ""))
        for key, body, stamp in zip(names, _bodies(values), _times(times), strict=True):
            parts.add(key, (body, stamp))
    return parts


def _bodies(values: Sequence[str | None]) -> Iterable[bytes]:
    return map(str.encode, _filled(values, "null"))


def _times(times: Sequence[Any]) -> Iterable[datetime | None]:
    """Return times of the database, the undated first, as :func:`aware` does."""
    undated = times.count(None)
    if undated < len(times) and not isinstance(times[undated], datetime):
        # SQLite holds text, or what others have put there.
        times = [*times[:undated], *map(datetime.fromisoformat, map(str, times[undated:]))]
    return map(aware, times)


def _filled(texts: Sequence[str | None], filling: str) -> Iterable[str]:
    return [text or filling for text in texts]


def _summary(row: Row[Any]) -> RunSummary | None:
    try:
        return summary_of(_fragment(row), row.run_id)
    except IntegrityError:
        log.warning("run %r is left out of the list: its header is not readable", row.run_id, exc_info=True)
        return None
