"""The one table that turns what databases and their drivers raise into asyncstore's errors."""

from __future__ import annotations

import re
import sqlite3
import ssl
from typing import TYPE_CHECKING, Self

import asyncpg
from sqlalchemy.exc import DBAPIError, NoSuchTableError, SQLAlchemyError

from asyncstore.errors import (
    AccessDeniedError,
    AsyncStoreError,
    ConfigurationError,
    CredentialsError,
    IntegrityError,
    InvalidValueError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["CREATE_TABLES", "DatabaseEdge", "is_about_numbers"]

CREATE_TABLES = "run 'asyncstore db create-tables' on it"
PGBOUNCER = (
    "between here and the server is a pgbouncer in transaction mode, or the like: set 'pgbouncer: true', and on an "
    "engine of your own its statement caches to 0"
)

_FOREIGN = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    sqlite3.Error,
    OSError,
    UnicodeError,
)

_BY_SQLSTATE: dict[str, tuple[type[AsyncStoreError], str]] = {
    # The longest prefix of the SQLSTATE decides.
    "08": (UnavailableError, ""),
    "0A000": (UnavailableError, ""),  # a cached plan that a change of the schema made invalid
    "22": (InvalidValueError, ""),
    "23": (InvalidValueError, ""),
    "26000": (ConfigurationError, PGBOUNCER),
    "25006": (AccessDeniedError, "the database takes no writes from this connection"),
    "28": (CredentialsError, "check user and password of the connection string"),
    "3D000": (ConfigurationError, "check the database's name in the connection string"),
    "3F000": (ConfigurationError, "check the schema's name"),
    "40": (UnavailableError, ""),
    "42501": (AccessDeniedError, "grant the role SELECT, INSERT, UPDATE and DELETE, and USAGE of the sequence"),
    "42703": (ConfigurationError, "the table db_log is not the run log's"),
    "42P05": (ConfigurationError, PGBOUNCER),
    "42P01": (ConfigurationError, CREATE_TABLES),
    "42P10": (ConfigurationError, CREATE_TABLES),
    "53": (UnavailableError, ""),
    "54": (InvalidValueError, "a name is too long for the database's index, or a value too large"),
    "55": (UnavailableError, ""),
    "57": (UnavailableError, ""),
    "58": (UnavailableError, ""),
    "P0": (InvalidValueError, ""),  # what triggers raise
    "XX": (UnavailableError, ""),
    "XX001": (IntegrityError, "the table is damaged: restore it"),
    "XX002": (IntegrityError, "an index is damaged: rebuild it with REINDEX"),
}
_BY_POOLER_TEXT: dict[str, tuple[type[AsyncStoreError], str]] = {
    # Before 1.19 pgbouncer has one SQLSTATE for all that it has to say itself.
    "unsupported startup parameter": (ConfigurationError, PGBOUNCER),
    "authentication failed": (CredentialsError, "check user and password of the connection string"),
    "no such user": (CredentialsError, "check user and password of the connection string"),
    "no such database": (ConfigurationError, "check the database's name in the connection string"),
}
_NUMBER_TAKEN = (
    ConfigurationError,
    "the sequence of pk is behind the table's rows: set it to their highest with setval",
)
_BY_SQLITE_CODE: dict[int, tuple[type[AsyncStoreError], str]] = {
    sqlite3.SQLITE_BUSY: (UnavailableError, "another process holds the file's write lock"),
    sqlite3.SQLITE_LOCKED: (UnavailableError, ""),
    sqlite3.SQLITE_PROTOCOL: (UnavailableError, ""),
    sqlite3.SQLITE_IOERR: (UnavailableError, "look at the disk"),
    sqlite3.SQLITE_FULL: (UnavailableError, "the disk is full"),
    sqlite3.SQLITE_NOMEM: (UnavailableError, ""),
    sqlite3.SQLITE_READONLY: (AccessDeniedError, "the file, or its folder, is not writable"),
    sqlite3.SQLITE_PERM: (AccessDeniedError, ""),
    sqlite3.SQLITE_AUTH: (AccessDeniedError, ""),
    sqlite3.SQLITE_CANTOPEN: (ConfigurationError, "check that the path is a file that this user may open"),
    sqlite3.SQLITE_NOTADB: (ConfigurationError, "the file is not an SQLite database"),
    sqlite3.SQLITE_CORRUPT: (IntegrityError, "the file is damaged: restore it, or try sqlite3's '.recover'"),
    sqlite3.SQLITE_TOOBIG: (InvalidValueError, ""),
    sqlite3.SQLITE_CONSTRAINT: (InvalidValueError, ""),
    sqlite3.SQLITE_MISMATCH: (InvalidValueError, ""),
}
_BY_MYSQL_CODE: dict[int, tuple[type[AsyncStoreError], str]] = {
    1044: (AccessDeniedError, ""),
    1045: (CredentialsError, "check user and password of the connection string"),
    1049: (ConfigurationError, "check the database's name in the connection string"),
    1146: (ConfigurationError, CREATE_TABLES),
    1205: (UnavailableError, ""),
    1213: (UnavailableError, ""),
    1406: (InvalidValueError, ""),
    2002: (UnavailableError, ""),
    2003: (UnavailableError, ""),
    2006: (UnavailableError, ""),
    2013: (UnavailableError, ""),
}


class DatabaseEdge:
    """
    Translates what is raised within a ``with edge.doing("…"):`` block, and keeps passwords out of it.

    Args:
        where: the database's location, for messages.
        hidden: texts that no message may hold. A cause that does is not chained.
    """

    def __init__(self, where: str, hidden: tuple[str, ...] = ()) -> None:
        self._where = where
        self._hidden = tuple(text for text in hidden if text)

    def doing(self, what: str) -> _Crossing:
        """Return the context manager for one piece of work; ``what`` says in messages what was asked."""
        return _Crossing(self, what)

    def translate(self, error: BaseException, what: str) -> AsyncStoreError:
        """Return the error of ours that says the same."""
        family, advice = _family(error)
        reason = self._reason(error)
        return family(f"{what} in {self._where} failed: {reason}{f'; {advice}' if advice else ''}")

    def refused_option(self, error: TypeError) -> ConfigurationError:
        """Return what to raise if connecting found the driver to take no such argument, which came from the URL."""
        return ConfigurationError(f"{self._where}: the driver takes no such option: {self._reason(error)}")

    def reveals(self, error: BaseException) -> bool:
        """Tell whether a hidden text stands in the error, or in one that it is chained to."""
        return any(text in str(cause) for cause in _chain(error) for text in self._hidden)

    def _reason(self, error: BaseException) -> str:
        text = str(_root(error)).strip()
        for hidden in self._hidden:
            text = text.replace(hidden, "***")
        return text.splitlines()[0][:300] if text else type(error).__name__


class _Crossing:
    """One piece of work at the edge; a class because it stands around every statement."""

    __slots__ = ("_edge", "_what")

    def __init__(self, edge: DatabaseEdge, what: str) -> None:
        self._edge = edge
        self._what = what

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(exc, _FOREIGN) and not isinstance(exc, AsyncStoreError):
            raise self._edge.translate(exc, self._what) from (None if self._edge.reveals(exc) else exc)


def _family(error: BaseException) -> tuple[type[AsyncStoreError], str]:
    for cause in _chain(error):
        known = _known(cause)
        if known is not None:
            return known
    return AsyncStoreError, ""


def _known(cause: BaseException) -> tuple[type[AsyncStoreError], str] | None:
    sqlstate = getattr(cause, "sqlstate", None)
    if isinstance(sqlstate, str):
        if sqlstate == "23505" and is_about_numbers(cause):
            return _NUMBER_TAKEN
        if sqlstate == "08P01":
            for said, known in _BY_POOLER_TEXT.items():
                if said in str(cause):
                    return known
        for length in (5, 2):
            if sqlstate[:length] in _BY_SQLSTATE:
                return _BY_SQLSTATE[sqlstate[:length]]
    code = getattr(cause, "sqlite_errorcode", None)
    if isinstance(code, int):
        return _BY_SQLITE_CODE.get(code & 0xFF) or _by_sqlite_text(cause)
    if isinstance(cause, DBAPIError):
        number = cause.orig.args[0] if cause.orig is not None and cause.orig.args else None
        if isinstance(number, int) and number in _BY_MYSQL_CODE:
            return _BY_MYSQL_CODE[number]
        return (UnavailableError, "") if cause.connection_invalidated else None
    return _by_type(cause)


def is_about_numbers(cause: BaseException) -> bool:
    """Tell whether it is the primary key that a row violates: no row is to blame for its number, which we gave it."""
    source = getattr(cause, "diag", cause)
    # 'Key (pk)=(17) already exists.', in the server's language; who may not read the table is not told.
    columns = re.search(r"\((.*?)\)=\(", str(getattr(source, "detail", "") or getattr(source, "message_detail", "")))
    if columns is not None:
        return columns[1] == "pk"
    return str(getattr(source, "constraint_name", "")).endswith("_pkey")


def _by_sqlite_text(cause: BaseException) -> tuple[type[AsyncStoreError], str] | None:
    # SQLite has one code for every statement that does not fit the schema.
    if "no such table" in str(cause) or "ON CONFLICT" in str(cause):
        return ConfigurationError, CREATE_TABLES
    return None


def _by_type(cause: BaseException) -> tuple[type[AsyncStoreError], str] | None:
    match cause:
        case NoSuchTableError():
            return ConfigurationError, CREATE_TABLES
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError() | ssl.SSLSyscallError():
            return UnavailableError, "the connection was lost"
        case ssl.SSLError():
            return ConfigurationError, "check the TLS settings of the connection string"
        case UnicodeError():
            return InvalidValueError, ""
        case asyncpg.InterfaceError() if isinstance(cause, ValueError):
            return ConfigurationError, "check the connection string"
        case OSError() | asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return UnavailableError, "check that the database runs and can be reached"
        case _:
            return (UnavailableError, "") if type(cause).__name__ == "TimeoutError" else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it wraps, innermost first: the driver knows best."""
    causes: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in causes:
        causes.append(current)
        inner = getattr(current, "orig", None)
        current = inner if isinstance(inner, BaseException) else current.__cause__
    yield from reversed(causes)


def _root(error: BaseException) -> BaseException:
    return next(_chain(error))
