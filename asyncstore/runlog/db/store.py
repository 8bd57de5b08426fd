"""
The ``db`` layout: one row of the table ``db_log`` for each fragment, readable by magnus' own queries.

Writes of all tasks are gathered into batches (:class:`~asyncstore._core.groupcommit.GroupCommitter`), one transaction
each; reads take connections from the engine's pool.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncstore._core.concurrency import shielded
from asyncstore._core.groupcommit import GroupCommitter
from asyncstore._core.pace import Pace
from asyncstore._core.retry import DEFAULT_RETRY, RetryPolicy
from asyncstore.errors import ConfigurationError, OutcomeUnknownError, RunLogNotFoundError
from asyncstore.runlog.base import RunLogStore
from asyncstore.runlog.db import _rows
from asyncstore.runlog.db._engine import Database, locate, location_of
from asyncstore.runlog.db._postgres import PostgresWriter
from asyncstore.runlog.db._reader import Reader, aware
from asyncstore.runlog.db._schema import log_table, require_file
from asyncstore.runlog.db._sqlite import SqliteWriter
from asyncstore.runlog.db._watches import Watches, watches_of
from asyncstore.runlog.db._writer import NOBODYS_FAULT, CoreWriter, Writer, inserting, outcome_unknown, writing
from asyncstore.runlog.db.settings import DBSettings
from asyncstore.runlog.fragments import Fragment, FragmentKey, Selection
from asyncstore.runlog.tree import assemble_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from contextlib import AsyncExitStack
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncEngine

    from asyncstore._core.placeholders import SecretSource
    from asyncstore.models import RunLog, RunSummary
    from asyncstore.runlog._queries import RunQuery
    from asyncstore.runlog._watch import View

__all__ = ["DBRunLogStore", "DBSettings"]

BATCH_LIMIT_WRITES = 1000

WORKING_RETRY = RetryPolicy(attempts=None, deadline_s=45.0, initial_delay_s=0.05, max_delay_s=1.0)

_WRITERS: dict[str, type[Writer]] = {"postgresql+asyncpg": PostgresWriter, "sqlite+aiosqlite": SqliteWriter}


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an open store works with."""

    reader: Reader
    watches: Watches
    writer: Writer
    upserts: GroupCommitter[_rows.Write, None]
    inserts: GroupCommitter[_rows.Write, frozenset[_rows.RowKey]]


class DBRunLogStore(RunLogStore):
    """
    Run logs in PostgreSQL, SQLite, or another database that SQLAlchemy reaches from asyncio and that has an upsert.

    The table must be there: :func:`create_tables` or ``asyncstore db create-tables`` makes it; the store never changes
    the schema. ``created_at`` is set by the database's clock, and new rows of a run sort after those that were there.

    A watch on Postgres reads what has changed since its last look, and is woken by stores that write; while watches
    wait, the store has one connection besides those of the pool, which listens. A look takes the server 0.2 ms for a
    run of 1,000 rows, 12 ms for 100,000. On SQLite a watch reads the run when the file has changed, which takes 2 ms
    and 140 ms. On other databases each look reads the run.

    Args:
        secrets: fills the placeholders of ``connection_string``.
        engine: an engine to use instead of a ``connection_string``; it is borrowed and never disposed of. On Postgres
            one of its connections stays checked out while the store is open, so its pool must hold two at least. On
            SQLite writes go to the engine's file on a connection of their own.
        retry: how long to keep trying while the database cannot be reached. The default is 45 s, in which a server
            starts again or another one takes over; but a few seconds while the store opens.
        **options: the keys of :class:`DBSettings`.

    Raises:
        ConfigurationError: an unknown, missing or wrong option, or a connection string that is no usable database URL.
    """

    def __init__(
        self,
        *,
        secrets: SecretSource | None = None,
        engine: AsyncEngine | None = None,
        retry: RetryPolicy | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if engine is not None and "connection_string" in options:
            raise ConfigurationError("run_log_store db: give a connection_string or an engine, not both")
        given = options if engine is None else {**options, "connection_string": ""}
        self._settings = DBSettings.parse(given, "run_log_store db")
        self._secrets = secrets
        self._opening_retry = retry or DEFAULT_RETRY
        self._retry = retry or WORKING_RETRY
        self._borrowed = None if engine is None else Database.borrowed(engine, self._settings)
        self._location = (
            self._borrowed.location if self._borrowed else location_of(self._connection_string, self._settings)
        )
        self._open_parts: _Parts | None = None

    @property
    def location(self) -> str:
        """The database's URL without password and options, or the path of its file."""
        return self._location

    async def _open(self, stack: AsyncExitStack) -> None:
        database = self._borrowed
        if database is None:
            database = await Database.of(self._connection_string, self._secrets, self._settings)
            stack.push_async_callback(lambda: shielded(database.engine.dispose()))
        self._location = database.location
        table = log_table(self._settings.table_schema)
        await asyncio.to_thread(require_file, locate(database.engine.url))
        reader = Reader(database, table, self._retry)
        stack.push_async_callback(reader.aclose)
        await reader.check(self._opening_retry)
        watches = watches_of(database, table, reader, self._retry)
        stack.push_async_callback(watches.aclose)
        writer = _WRITERS.get(database.engine.url.drivername, CoreWriter)(database, table, self._retry)
        stack.push_async_callback(writer.aclose)
        if self.access.allow_write:
            await writer.open()
        self._open_parts = _Parts(reader, watches, writer, *_committers(writer))
        stack.push_async_callback(self._open_parts.inserts.aclose)
        stack.push_async_callback(self._open_parts.upserts.aclose)

    async def _upsert(self, run_id: str, fragments: Sequence[Fragment]) -> None:
        for write in _rows.writes_of(_rows.rows_of(run_id, fragments)):
            await self._parts.upserts.submit(write)
        self._tell(run_id)

    async def _insert(self, run_id: str, fragments: Sequence[Fragment]) -> Collection[FragmentKey]:
        existing: set[FragmentKey] = set()
        for write in _rows.writes_of(_rows.rows_of(run_id, fragments)):
            refused = await self._parts.inserts.submit(write)
            existing |= {_rows.fragment_key(key.attribute_type, key.attribute_key) for key in refused}
        self._tell(run_id)
        return existing

    async def _read(self, run_id: str, key: FragmentKey) -> Fragment | None:
        return await self._parts.reader.one(run_id, key)

    async def _scan(
        self, run_id: str, selection: Selection, known: Mapping[FragmentKey, Fragment] | None = None
    ) -> Sequence[Fragment]:
        return await self._parts.reader.matching(run_id, selection)

    async def _read_whole(self, run_id: str) -> RunLog | None:
        return assemble_parts(await self._parts.reader.whole(run_id), where=self._where(run_id))

    async def _headers(self, query: RunQuery) -> Collection[RunSummary]:
        return await self._parts.reader.headers(query)

    async def _delete(self, run_id: str) -> None:
        await self._parts.writer.delete(run_id)
        self._tell(run_id)

    async def _modify(self, run_id: str, key: FragmentKey, change: Callable[[Fragment], Fragment]) -> None:
        def changed(value: str, created_at: datetime | None) -> str:
            return change(Fragment(key, value.encode(), aware(created_at))).body.decode()

        # Tasks of this process wait for each other here, and not with a connection in hand.
        async with self._changing.setdefault((run_id, key), asyncio.Lock()):
            if not await self._parts.writer.modify(_rows.row_key(run_id, key), changed):
                raise RunLogNotFoundError(run_id, self.location)
        self._tell(run_id)

    def _view(self, run_id: str) -> View:
        return self._parts.watches.view(run_id) or super()._view(run_id)

    def _tell(self, run_id: str) -> None:
        # What was committed while the store began to close is no failure.
        if self._open_parts is not None:
            self._open_parts.watches.tell(run_id)

    @property
    def _connection_string(self) -> str:
        return self._settings.connection_string.get_secret_value()

    @property
    def _parts(self) -> _Parts:
        self._check_open()
        assert self._open_parts is not None
        return self._open_parts


def _committers(
    writer: Writer,
) -> tuple[GroupCommitter[_rows.Write, None], GroupCommitter[_rows.Write, frozenset[_rows.RowKey]]]:
    async def upsert(batch: Sequence[_rows.Write]) -> Sequence[OutcomeUnknownError | None]:
        try:
            await writer.upsert(_rows.last_writes(batch))
        except OutcomeUnknownError as error:
            return [_own_unknown(writing(write), write, error) for write in batch]
        return [None] * len(batch)

    async def insert(batch: Sequence[_rows.Write]) -> Sequence[OutcomeUnknownError | frozenset[_rows.RowKey]]:
        try:
            return _rows.refused(batch, await writer.insert(_rows.first_writes(batch)))
        except OutcomeUnknownError as error:
            return [_own_unknown(inserting(write), write, error) for write in batch]

    limits: dict[str, Any] = {
        "batch_limit": BATCH_LIMIT_WRITES,
        "weigh": _rows.weight,
        "weight_limit": _rows.WRITE_LIMIT_BYTES,
        "splits": _may_be_one_writers_fault,
    }
    # SQLite's thread needs the interpreter lock between its calls, so that its commits overlap with nothing.
    pace = None if isinstance(writer, SqliteWriter) else Pace()
    return GroupCommitter(upsert, **limits, pace=pace), GroupCommitter(insert, **limits)


def _own_unknown(what: str, write: _rows.Write, error: OutcomeUnknownError) -> OutcomeUnknownError:
    """Return what one caller of a batch is told: the key is that of the caller's own row."""
    own = outcome_unknown(what, write[0].key.path)
    own.__cause__ = error.__cause__
    return own


def _may_be_one_writers_fault(error: Exception) -> bool:
    return not isinstance(error, NOBODYS_FAULT)
