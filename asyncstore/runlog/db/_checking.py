"""
Checking a database: whether it can be reached, holds the table as it must be, and lets it be used.

Only the catalog is asked, besides a write lock that is taken and let go of on SQLite: nothing is written. Whether a
pooler stands between is told by the number of the server's process: what the connection was told at its beginning is
the pooler's invention, what the server itself says is not.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from asyncstore._core.concurrency import shielded
from asyncstore._core.findings import Finding, disk_finding
from asyncstore._core.threads import in_thread
from asyncstore.runlog.db._engine import Database, locate
from asyncstore.runlog.db._errors import CREATE_TABLES
from asyncstore.runlog.db._present import look
from asyncstore.runlog.db._schema import UNIQUE, log_table, require_file
from asyncstore.runlog.db.settings import DBSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Table

    from asyncstore._core.access import Access
    from asyncstore._core.placeholders import SecretSource
    from asyncstore.runlog.db._present import Present

__all__ = ["check_database"]

TIMEOUT_S = 30.0
LOCK_TIMEOUT_S = 2.0
"""How long the write lock of a file is waited for: longer than anybody should hold it."""

_READING = ("SELECT",)
_WRITING = ("INSERT", "UPDATE", "DELETE")
_PRIVILEGES = "SELECT has_table_privilege(current_user, to_regclass(:table), :privilege)"
_SEQUENCE = "SELECT has_sequence_privilege(current_user, pg_get_serial_sequence(:table, 'pk'), 'USAGE')"
_OWN_SEQUENCE = "SELECT has_sequence_privilege(current_user, to_regclass(:sequence), 'USAGE')"
_STATE = "SELECT current_user::text, pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on'"


async def check_database(options: Mapping[str, Any], secrets: SecretSource | None, access: Access) -> list[Finding]:
    """
    Return what was found of a run log's database.

    Args:
        options: the keys of :class:`DBSettings`.
        secrets: fills the placeholders of the connection string.
        access: what the configuration allows to be done.

    Raises:
        ConfigurationError: the options are wrong, or there is no such database.
        CredentialsError: user or password are not accepted.
        UnavailableError: the database cannot be reached in time.
    """
    settings = DBSettings.parse(options, "run_log_store db")
    written = settings.connection_string.get_secret_value()
    database = await Database.of(written, secrets, settings, poolclass=NullPool)
    table = log_table(settings.table_schema)
    try:
        with database.edge.doing("checking the run log"):
            async with asyncio.timeout(TIMEOUT_S):
                if database.engine.dialect.name == "sqlite":
                    return await in_thread(_check_file, database, table, access)
                return await _check_server(database, table, access)
    finally:
        await shielded(database.engine.dispose())


async def _check_server(database: Database, table: Table, access: Access) -> list[Finding]:
    connection = database.engine.connect()
    try:
        await connection.start()
        return await connection.run_sync(_server_findings, database, table, access)
    finally:
        if connection.sync_connection is not None:
            await shielded(connection.close())


def _server_findings(connection: Connection, database: Database, table: Table, access: Access) -> list[Finding]:
    findings = [Finding("connect", "ok", database.location)]
    present = look(connection, table)
    findings += _table_findings(present, table)
    if connection.dialect.name == "postgresql":
        findings += _rights(connection, table, access) if present else []
        findings.append(_pooler(connection, database))
    connection.rollback()
    return findings


def _table_findings(present: Present | None, table: Table) -> list[Finding]:
    """Return what is to be said of the table that is there, and of its indexes."""
    if present is None:
        return [Finding("table", "missing", f"there is no table {table.fullname}: {CREATE_TABLES}")]
    if columns := present.missing_columns(table):
        lacks = f"table {table.fullname} lacks the columns {', '.join(columns)}"
        return [Finding("table", "missing", f"{lacks}: it is not the run log's")]
    found = [Finding("table", "ok", table.fullname)]
    unique = next(index for index in table.indexes if index.unique)
    if any(index.serves_as(unique) for index in present.indexes):
        found.append(Finding("unique index", "ok"))
    else:
        over = f"the unique index over ({', '.join(UNIQUE)}) is missing"
        found.append(Finding("unique index", "missing", f"{over}: {CREATE_TABLES}"))
    slow = [
        str(index.name)
        for index in sorted(table.indexes, key=lambda index: str(index.name))
        if not index.unique and not any(known.serves_as(index) for known in present.indexes)
    ]
    if slow:
        found.append(Finding("other indexes", "note", f"reads are slow without {', '.join(slow)}: {CREATE_TABLES}"))
    else:
        found.append(Finding("other indexes", "ok"))
    return found


def _rights(connection: Connection, table: Table, access: Access) -> list[Finding]:
    role, is_standby, is_read_only = connection.execute(text(_STATE)).one()
    name = connection.dialect.identifier_preparer.format_table(table)
    who = connection.dialect.identifier_preparer.quote(role)
    findings = []
    if is_standby or is_read_only:
        why = "the server is a standby" if is_standby else "transactions are read-only by default"
        findings.append(
            Finding("writable", "missing" if access.allow_write else "note", f"{why}: nothing can be written")
        )
    for privilege in (*_READING, *_WRITING):
        allowed = access.allow_read if privilege in _READING else access.allow_write
        granted = connection.execute(text(_PRIVILEGES), {"table": name, "privilege": privilege}).scalar()
        findings.append(_right(privilege.lower(), privilege, bool(granted), f"{privilege} ON {name} TO {who}", allowed))
    sequence = next(iter(table.metadata._sequences.values()))
    named = connection.dialect.identifier_preparer.format_sequence(sequence)
    usable = connection.execute(text(_OWN_SEQUENCE), {"sequence": named}).scalar()
    if usable is None:
        usable = connection.execute(text(_SEQUENCE), {"table": name}).scalar()
    # Tables that others have made may count in another way.
    granted = usable is None or bool(usable)
    findings.append(_right("sequence", "USAGE", granted, f"USAGE ON SEQUENCE {named} TO {who}", access.allow_write))
    return findings


def _right(check: str, privilege: str, granted: bool, grant: str, allowed: bool) -> Finding:
    if granted:
        return Finding(check, "ok")
    if not allowed:
        return Finding(check, "skipped", "the configuration does not allow it either")
    statement = {"sql": f"GRANT {grant};"}
    return Finding(check, "missing", f"{privilege} is missing: GRANT {grant}", privilege, statement)


def _pooler(connection: Connection, database: Database) -> Finding:
    driver: Any = connection.connection.driver_connection
    if not hasattr(driver, "get_server_pid"):
        return Finding("pgbouncer", "skipped", "this driver does not tell whether a pooler stands between")
    said = connection.execute(text("SELECT pg_backend_pid()")).scalar()
    if driver.get_server_pid() == said:
        if database.pgbouncer:
            return Finding("pgbouncer", "note", "no pooler stands between: without 'pgbouncer: true' it is faster")
        return Finding("pgbouncer", "ok", "no pooler stands between")
    if database.pgbouncer:
        return Finding("pgbouncer", "ok", "a pooler stands between, and nothing is kept for longer than a transaction")
    return Finding("pgbouncer", "note", "a pooler stands between: if it is in transaction mode, set 'pgbouncer: true'")


def _check_file(database: Database, table: Table, access: Access) -> list[Finding]:
    """Check an SQLite file, blocking."""
    path = locate(database.engine.url)
    require_file(path)
    findings = [Finding("connect", "ok", database.location)]
    engine = create_engine(
        database.engine.url.set(drivername="sqlite"), poolclass=NullPool, connect_args={"timeout": LOCK_TIMEOUT_S}
    )
    with engine.connect() as connection:
        findings += _table_findings(look(connection, table), table)
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        connection.rollback()
        findings.append(_journal(str(mode), access))
        findings.append(_write_lock(connection) if access.allow_write else _not_written("write"))
    if path is not None:
        folder = os.path.dirname(os.path.abspath(path))
        findings.append(_folder(folder) if access.allow_write else _not_written("folder"))
        findings.append(disk_finding(folder))
    return findings


def _journal(mode: str, access: Access) -> Finding:
    if mode == "wal":
        return Finding("WAL", "ok")
    if not access.allow_write:
        return Finding("WAL", "note", f"the journal is {mode!r}: readers wait while others write")
    return Finding("WAL", "note", f"the journal is {mode!r}; the first store that opens makes it a write-ahead log")


def _write_lock(connection: Connection) -> Finding:
    driver: Any = connection.connection.driver_connection
    try:
        driver.execute("BEGIN IMMEDIATE")
        driver.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            return Finding("write", "note", f"another process holds the write lock for {LOCK_TIMEOUT_S:.0f} s")
        return Finding("write", "missing", f"the file cannot be written: {error}")
    return Finding("write", "ok")


def _folder(folder: str) -> Finding:
    if os.access(folder, os.W_OK | os.X_OK):
        return Finding("folder", "ok", folder)
    return Finding("folder", "missing", f"{folder} is not writable, and the write-ahead log lies beside the file")


def _not_written(check: str) -> Finding:
    return Finding(check, "skipped", "the configuration allows no writing")
