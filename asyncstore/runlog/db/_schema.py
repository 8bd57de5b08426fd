"""Checking that a database holds the table ``db_log``, and :func:`create_tables`, the only code that changes it."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Table, create_engine, event, text
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateIndex

from asyncstore._core.concurrency import shielded
from asyncstore._core.retry import retrying
from asyncstore._core.threads import in_thread
from asyncstore.errors import ConfigurationError
from asyncstore.runlog.db._engine import BUSY_TIMEOUT_S, Database, locate
from asyncstore.runlog.db._errors import CREATE_TABLES
from asyncstore.runlog.db._present import look
from asyncstore.runlog.db._table import (
    UNIQUE,
    definitions,
    log_table,
    require_schemas,
    select_duplicates,
    without_duplicates,
)
from asyncstore.runlog.db.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import Sequence as Many
    from typing import Any

    from pydantic import SecretStr
    from sqlalchemy import Dialect
    from sqlalchemy.schema import ExecutableDDLElement

    from asyncstore._core.placeholders import SecretSource

__all__ = ["UNIQUE", "check_table", "create_tables", "log_table", "require_file"]

_ADVISORY_LOCK = 0x61737473
"""Any number, as long as everybody who makes the tables takes the same."""

BUILD_TIMEOUT_S = 3600.0
"""Longest that the building of one index may take: of ten million rows, on a slow disk, minutes."""

LOCK_TIMEOUT_S = 10
"""Longest that making an index waits for transactions that write: all later writers queue behind it meanwhile."""

_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "fuse.sshfs", "fuse.s3fs"})


async def create_tables(
    connection_string: str | SecretStr,
    *,
    secrets: SecretSource | None = None,
    schema: str | None = None,
    pgbouncer: bool = False,
) -> None:
    """
    Make the table and indexes that :class:`DBRunLogStore` needs, or add what an older table lacks; harmless to repeat.

    Where nothing is missing it only reads the database's catalog, so then the role needs no right to change the schema.
    An older table is searched for duplicates once, without a lock. Then the missing indexes are built in one
    transaction: on Postgres that waits 10 s at most for transactions that write, and until all are built the table can
    be read but not written to (SQLite: its file). For a large table in use, take the statements of ``asyncstore db
    sql`` instead, and run each by itself as ``CREATE INDEX CONCURRENTLY``.

    Args:
        connection_string: as for :class:`DBRunLogStore`; an SQLite file is made if its folder exists.
        secrets: fills the ``${name}`` placeholders of the connection string.
        schema: the schema that the table is to lie in, if not the database's default; it must exist.
        pgbouncer: whether the connection string leads to a pgbouncer in transaction mode.

    Raises:
        ConfigurationError: the connection string is wrong, or holds an option that the driver does not know; the table
            is not the run log's, or another index has the name of one of its indexes; or an older table holds
            duplicates, which the message says how to remove.
        UnavailableError: the database cannot be reached, or somebody writes to an older table all the time.
    """
    written = connection_string if isinstance(connection_string, str) else connection_string.get_secret_value()
    database = await Database.of(written, secrets, EngineSettings(pgbouncer=pgbouncer), poolclass=NullPool)
    event.listen(database.engine.sync_engine, "do_connect", _allow_for_building)
    try:
        require_schemas(database.engine.dialect.name, schema)
        await asyncio.to_thread(_require_folder, locate(database.engine.url))
        await retrying(lambda: _create(database, log_table(schema)))
    finally:
        await shielded(database.engine.dispose())


def check_table(connection: Connection, table: Table) -> str:
    """Say what is wrong with the table that the database holds, ``""`` if nothing is."""
    present = look(connection, table)
    if present is None:
        return f"there is no table {table.fullname}"
    missing = present.missing_columns(table)
    if missing:
        return f"table {table.fullname} lacks the columns {', '.join(missing)}"
    unique = next(index for index in table.indexes if index.unique)
    if not any(index.serves_as(unique) for index in present.indexes):
        return f"table {table.fullname} lacks the unique index over ({', '.join(UNIQUE)})"
    return ""


def require_file(path: str | None) -> None:
    """
    Check, with blocking calls, that an SQLite file is there and lies where SQLite's locks work.

    Raises:
        ConfigurationError: it is not, or does not.
    """
    _require_folder(path)
    if path is not None and not os.path.exists(path):
        raise ConfigurationError(f"there is no database file {path!r}: to make it, {CREATE_TABLES}")


def _require_folder(path: str | None) -> None:
    if path is None:
        return
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ConfigurationError(f"there is no folder {folder!r} for the database file: make it, or correct the path")
    kind = _file_system_of(folder)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"{folder!r} is a network file system ({kind}), on which SQLite loses data: use a local disk, or Postgres"
        )


def _file_system_of(folder: str) -> str:
    """Return the type of the mount that holds ``folder``, ``""`` where the system does not say."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            points = [line.split()[1:3] for line in mounts]
    except OSError:
        return ""
    real = os.path.realpath(folder)
    holding = [(point, kind) for point, kind in points if real == point or real.startswith(point.rstrip("/") + "/")]
    return max(holding, key=lambda mount: len(mount[0]), default=("", ""))[1]


async def _create(database: Database, table: Table) -> None:
    try:
        with database.edge.doing("creating the tables"):
            if database.engine.dialect.name == "sqlite":
                # Cancelled at the wrong moment, aiosqlite would leave its connection open, and with it the write lock.
                await in_thread(_create_in_file, database, table)
            else:
                await _create_on_server(database, table)
    except TypeError as error:
        raise database.edge.refused_option(error) from None


def _create_in_file(database: Database, table: Table) -> None:
    url = database.engine.url.set(drivername="sqlite")
    options = {"timeout": BUSY_TIMEOUT_S}
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=options)
    with engine.connect() as connection:
        _create_missing(connection, table, database.location)


async def _create_on_server(database: Database, table: Table) -> None:
    # At stricter levels a transaction that waited for the lock would not see what was made meanwhile.
    connection = database.engine.execution_options(isolation_level="READ COMMITTED").connect()
    try:
        await connection.start()
        await connection.run_sync(_create_missing, table, database.location)
    finally:
        if connection.sync_connection is not None:
            await shielded(connection.close())


def _create_missing(connection: Connection, table: Table, where: str) -> None:
    missing = _missing(connection, table, where)
    lacking = [element.element for element in missing if isinstance(element, CreateIndex)]
    if len(lacking) == len(missing) and any(index.unique for index in lacking):
        _refuse_duplicates(connection, table, where)
    connection.rollback()
    if not missing:
        return
    _lock(connection)
    for element in _missing(connection, table, where):
        _execute(connection, element, table, where)
    connection.commit()


def _missing(connection: Connection, table: Table, where: str) -> Many[ExecutableDDLElement]:
    present = look(connection, table)
    if present is None:
        return definitions(table, connection.dialect)
    columns = present.missing_columns(table)
    if columns:
        raise ConfigurationError(
            f"{where} has a table {table.fullname} that is not the run log's: it lacks the columns {', '.join(columns)}"
        )
    try:
        return [CreateIndex(index) for index in present.missing_indexes(table)]
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: table {table.fullname}: {error}, then {CREATE_TABLES} again") from None


def _lock(connection: Connection) -> None:
    """Begin the transaction that changes the schema; only one at a time does, and what it waits for is limited."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")


def _execute(connection: Connection, element: ExecutableDDLElement, table: Table, where: str) -> None:
    try:
        connection.execute(element)
    except IntegrityError:
        # They came after the look at the table.
        connection.rollback()
        _refuse_duplicates(connection, table, where)
        raise
    except (OperationalError, ProgrammingError) as error:
        if isinstance(element, CreateIndex) and _is_name_taken(error):
            raise ConfigurationError(
                f"{where}: something else is called {element.element.name}, as the index over "
                f"({', '.join(column.name for column in element.element.columns)}) of {table.fullname} must be: "
                f"rename it, then {CREATE_TABLES} again"
            ) from error
        raise


def _is_name_taken(error: OperationalError | ProgrammingError) -> bool:
    return getattr(error.orig, "sqlstate", "") == "42P07" or "already" in str(error.orig)


def _refuse_duplicates(connection: Connection, table: Table, where: str) -> None:
    name = connection.dialect.identifier_preparer.format_table(table)
    # Counted after grouping: so many groups hold more than one row.
    first = connection.execute(text(f"{select_duplicates(name, 'count(*) OVER ()')} LIMIT 1")).first()
    if first is None:
        return
    remedy = " ".join(without_duplicates(name).splitlines())
    raise ConfigurationError(
        f"{where}: table {table.fullname} holds {first.number} parts of runs more than once, the first being "
        f"{first.attribute_type} {first.attribute_key!r} of run {first.run_id!r}. Decide which rows to keep, for "
        f"instance the last of each with {remedy}, then {CREATE_TABLES} again"
    )


def _allow_for_building(_dialect: Dialect, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
    """Give statements on new connections the time that building an index takes."""
    if "command_timeout" in options:
        options["command_timeout"] = max(options["command_timeout"], BUILD_TIMEOUT_S)
