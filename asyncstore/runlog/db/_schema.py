"""
The table ``db_log``: its definition, its check, and :func:`create_tables`, the only code that makes or changes it.

The columns are those of magnus. What magnus' table lacks are the indexes: a unique one over (run_id, attribute_type,
attribute_key), on which every write relies; one over (run_id, created_at), for reading a run in order; and one for
listing runs. MySQL cannot index Text columns: there, make the table by hand, with ``VARCHAR`` for the three names,
with ``COLLATE utf8mb4_bin`` (others take ``a`` and ``A`` for one name), and ``DATETIME(6)`` for ``created_at``.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    Index,
    Integer,
    MetaData,
    Sequence,
    Table,
    Text,
    create_engine,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.pool import NullPool

from asyncstore._core.concurrency import shielded
from asyncstore._core.retry import retrying
from asyncstore._core.threads import in_thread
from asyncstore.errors import ConfigurationError
from asyncstore.runlog.db._engine import BUSY_TIMEOUT_S, Database, locate
from asyncstore.runlog.db._errors import CREATE_TABLES

if TYPE_CHECKING:
    from pydantic import SecretStr
    from sqlalchemy.engine.interfaces import ReflectedIndex

    from asyncstore._core.placeholders import SecretSource

__all__ = ["UNIQUE", "check_table", "create_tables", "log_table", "require_file"]

UNIQUE = ("run_id", "attribute_type", "attribute_key")
"""The columns of the unique index."""

_ADVISORY_LOCK = 0x61737473
"""Any number, as long as everybody who makes the tables takes the same."""

_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "fuse.sshfs", "fuse.s3fs"})


def log_table(schema: str | None = None) -> Table:
    """Return the definition of the table, with its indexes."""
    metadata = MetaData(schema=schema or None)
    table = Table(
        "db_log",
        metadata,
        Column("pk", Integer, Sequence("id_seq", metadata=metadata), primary_key=True),
        Column("run_id", Text),
        Column("attribute_key", Text),
        Column("attribute_type", Text),
        Column("attribute_value", Text),
        Column("created_at", DateTime),
    )
    Index("db_log_fragment", *(table.c[name] for name in UNIQUE), unique=True)
    Index("db_log_order", table.c.run_id, table.c.created_at)
    headers = text("attribute_type = 'RunLog'")
    Index("db_log_runs", table.c.created_at, table.c.run_id, postgresql_where=headers, sqlite_where=headers)
    return table


async def create_tables(
    connection_string: str | SecretStr, *, secrets: SecretSource | None = None, schema: str | None = None
) -> None:
    """
    Make the table and indexes that :class:`DBRunLogStore` needs, or add what an older table lacks; harmless to repeat.

    Args:
        connection_string: as for :class:`DBRunLogStore`; an SQLite file is made if its folder exists.
        secrets: fills the ``${name}`` placeholders of the connection string.
        schema: the schema that the table is to lie in, if not the database's default; it must exist.

    Raises:
        ConfigurationError: the connection string is wrong, or holds an option that the driver does not know, or an
            older table holds duplicates, which the message says how to remove.
        UnavailableError: the database cannot be reached.
    """
    written = connection_string if isinstance(connection_string, str) else connection_string.get_secret_value()
    database = await Database.of(written, secrets, poolclass=NullPool)
    try:
        await asyncio.to_thread(_require_folder, locate(database.engine.url))
        await retrying(lambda: _create(database, log_table(schema)))
    finally:
        await shielded(database.engine.dispose())


def check_table(connection: Connection, table: Table) -> str:
    """Say what is wrong with the table that the database holds, ``""`` if nothing is."""
    inspector = inspect(connection)
    if not inspector.has_table(table.name, schema=table.schema):
        return f"there is no table {table.fullname}"
    missing = _missing_columns(connection, table)
    if missing:
        return f"table {table.fullname} lacks the columns {', '.join(missing)}"
    if not _has_index(connection, table, UNIQUE, unique=True):
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
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        _create_missing(connection, table, database.location)
        connection.commit()


async def _create_on_server(database: Database, table: Table) -> None:
    connection = database.engine.connect()
    try:
        await connection.start()
        if connection.dialect.name == "postgresql":
            await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
        await connection.run_sync(_create_missing, table, database.location)
        await connection.commit()
    finally:
        if connection.sync_connection is not None:
            await shielded(connection.close())


def _create_missing(connection: Connection, table: Table, where: str) -> None:
    if not inspect(connection).has_table(table.name, schema=table.schema):
        table.metadata.create_all(connection)
        return
    missing = _missing_columns(connection, table)
    if missing:
        raise ConfigurationError(
            f"{where} has a table {table.fullname} that is not the run log's: it lacks the columns {', '.join(missing)}"
        )
    _refuse_duplicates(connection, table, where)
    for index in table.indexes:
        if not _has_index(connection, table, [column.name for column in index.columns], unique=bool(index.unique)):
            index.create(connection)


def _missing_columns(connection: Connection, table: Table) -> list[str]:
    present = {column["name"] for column in inspect(connection).get_columns(table.name, schema=table.schema)}
    return [column.name for column in table.columns if column.name not in present]


def _has_index(connection: Connection, table: Table, columns: list[str] | tuple[str, ...], *, unique: bool) -> bool:
    inspector = inspect(connection)
    indexes = inspector.get_indexes(table.name, schema=table.schema)
    if not unique:
        return any(index["column_names"] == list(columns) for index in indexes)
    whole = [set(index["column_names"]) for index in indexes if index["unique"] and not _is_partial(index)]
    constraints = inspector.get_unique_constraints(table.name, schema=table.schema)
    return set(columns) in [*whole, *(set(constraint["column_names"]) for constraint in constraints)]


def _is_partial(index: ReflectedIndex) -> bool:
    return any(name.endswith("_where") for name in index.get("dialect_options", {}))


def _refuse_duplicates(connection: Connection, table: Table, where: str) -> None:
    key = [table.c[name] for name in UNIQUE]
    count = select(func.count()).select_from(
        select(*key).group_by(*key).having(func.count() > 1).subquery(),
    )
    number = connection.scalar(count) or 0
    if not number:
        return
    first = connection.execute(select(*key).group_by(*key).having(func.count() > 1).order_by(*key).limit(1)).one()
    raise ConfigurationError(
        f"{where}: table {table.fullname} holds {number} parts of runs more than once, the first being "
        f"{first.attribute_type} {first.attribute_key!r} of run {first.run_id!r}. Decide which rows to keep, for "
        f"instance the last of each with DELETE FROM {table.fullname} WHERE pk NOT IN "
        f"(SELECT max(pk) FROM {table.fullname} GROUP BY {', '.join(UNIQUE)}), then {CREATE_TABLES} again"
    )
