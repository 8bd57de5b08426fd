"""Connection strings: from what people write to an async engine, without the password ever being shown."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from asyncstore._core.placeholders import SecretSource, fill, placeholder_names
from asyncstore.errors import ConfigurationError
from asyncstore.runlog.db._errors import DatabaseEdge

if TYPE_CHECKING:
    from sqlalchemy.pool import Pool

__all__ = ["BUSY_TIMEOUT_S", "Database", "locate", "location_of"]

BUSY_TIMEOUT_S = 15.0
"""How long SQLite waits for another process' write before it says "database is locked"."""

CONNECT_TIMEOUT_S = 15.0
STATEMENT_TIMEOUT_S = 60.0
"""Longest that one statement may take on Postgres: a server that went silent is not waited for for ever."""

POOL_SIZE = 5
POOL_OVERFLOW = 5

_ASYNC_DRIVERS = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+psycopg2": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+pysqlite": "sqlite+aiosqlite",
}
_UPSERTING = frozenset({"postgresql", "sqlite", "mysql", "mariadb"})
_SHOWN_OPTIONS = frozenset({"host", "port"})

_PLACEHOLDER_PORT = re.compile(r"^(?P<host>(?!sqlite)[^:]+://(?:[^@]*@)?(?:\[[^\]]*\]|[^/@?:]*)):\$\{[^}]*\}(?=[/?]|$)")
_UNQUOTED = (
    "connection_string holds a password with unquoted special characters: "
    "give it as a ${placeholder}, or percent-encode it"
)


@dataclass(frozen=True, slots=True)
class Database:
    """An engine, and what may be said of where it leads."""

    engine: AsyncEngine = field(repr=False)
    location: str
    edge: DatabaseEdge
    owned: bool

    @classmethod
    def borrowed(cls, engine: AsyncEngine) -> Database:
        """
        Take an engine that the caller made and will dispose of.

        Raises:
            ConfigurationError: all its users share one connection, or its database has no upsert.
        """
        _check_dialect(engine.dialect.name)
        if type(engine.pool).__name__ == "StaticPool":
            raise ConfigurationError(
                f"engine {engine!r}: a database in memory is one connection, which cannot be shared"
            )
        hidden = _hidden(engine.url)
        location = _shown(engine.url, hidden)
        return cls(engine, location, DatabaseEdge(location, hidden), owned=False)

    @classmethod
    async def of(
        cls, connection_string: str, secrets: SecretSource | None, *, poolclass: type[Pool] | None = None
    ) -> Database:
        """
        Fill the placeholders of ``connection_string`` and make an engine, which connects when it is first used.

        Raises:
            ConfigurationError: a secret is missing, or this is not the URL of a database that can be used.
        """
        # A connection string that is one placeholder as a whole is not quoted: there the secret is the URL.
        whole = re.fullmatch(r"\$\{[^}]*\}", connection_string.strip()) is not None
        filled: list[str] = []

        def kept(secret: str) -> str:
            filled.append(secret)
            return secret if whole else _quoted(secret)

        text = await fill(connection_string.strip(), secrets, quote=kept)
        url, connect_args = _driver_options(_parse(text))
        options: dict[str, Any] = {"poolclass": poolclass} if poolclass is not None else _pool_options(url)
        hidden = _hidden(url, *filled)
        location = _shown(url, hidden)
        try:
            # It imports the driver, and for SQLite asks for the working directory.
            engine = await asyncio.to_thread(
                create_async_engine, url, hide_parameters=True, connect_args=connect_args, **options
            )
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise ConfigurationError(
                f"{location}: {url.drivername!r} is no driver that works with asyncio and is installed here: {error}"
            ) from error
        return cls(engine, location, DatabaseEdge(location, hidden), owned=True)


def location_of(connection_string: str) -> str:
    """
    Return what may be shown of a connection string whose placeholders are not filled yet.

    Raises:
        ConfigurationError: it cannot be a database URL.
    """
    text = connection_string.strip()
    if re.fullmatch(r"\$\{[^}]*\}", text):
        return f"database {text}"
    has_placeholders = bool(placeholder_names(text))
    url = _parse(_PLACEHOLDER_PORT.sub(r"\g<host>", text) if has_placeholders else text, checked=not has_placeholders)
    return _shown(url, _hidden(url))


def locate(url: URL) -> str | None:
    """Return the path of an SQLite database's file, ``None`` for a URI and for other databases."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith("file:"):
        return None
    return url.database


def _parse(text: str, *, checked: bool = True) -> URL:
    scheme, _, rest = text.partition("://")
    if rest.count("@") > 1 and not scheme.startswith("sqlite"):
        raise ConfigurationError(_UNQUOTED)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Neither the text nor the error may be shown: either can hold the password.
        raise ConfigurationError(
            "connection_string is not a database URL, such as postgresql://user:${password}@host/name or sqlite:///path"
        ) from None
    if "@" in (url.host or "") or (url.host and "@" in (url.database or "")):
        raise ConfigurationError(_UNQUOTED)
    url = url.set(drivername=_ASYNC_DRIVERS.get(url.drivername, url.drivername))
    if checked:
        _check_url(url)
    return url


def _check_url(url: URL) -> None:
    _check_dialect(url.get_backend_name())
    if url.get_backend_name() == "sqlite" and (url.database or ":memory:") == ":memory:":
        raise ConfigurationError("an SQLite run log needs a file: for one in memory use the 'buffered' store")
    try:
        is_async = url.get_dialect().is_async
    except (NoSuchModuleError, ImportError) as error:
        raise ConfigurationError(f"connection_string: there is no driver {url.drivername!r} here: {error}") from error
    if not is_async:
        raise ConfigurationError(
            f"connection_string: driver {url.drivername!r} does not work with asyncio; name one that does, such as "
            "postgresql+asyncpg, sqlite+aiosqlite or mysql+asyncmy"
        )


def _check_dialect(name: str) -> None:
    if name not in _UPSERTING:
        raise ConfigurationError(
            f"connection_string: {name!r} databases are not supported; {', '.join(sorted(_UPSERTING))} are"
        )


def _driver_options(url: URL) -> tuple[URL, dict[str, Any]]:
    if url.get_backend_name() == "sqlite":
        return url, {"timeout": BUSY_TIMEOUT_S}
    if url.drivername != "postgresql+asyncpg":
        return url, {}
    return _asyncpg_options(url)


def _asyncpg_options(url: URL) -> tuple[URL, dict[str, Any]]:
    """Take out of the URL what asyncpg knows by another name than libpq, or wants as a number."""
    query = {name: str(value) for name, value in url.query.items() if isinstance(value, str)}
    options: dict[str, Any] = {
        "timeout": _number(query, "connect_timeout", CONNECT_TIMEOUT_S),
        "command_timeout": _number(query, "command_timeout", STATEMENT_TIMEOUT_S),
    }
    if "sslmode" in query:
        options["ssl"] = query["sslmode"]
    if "application_name" in query:
        options["server_settings"] = {"application_name": query["application_name"]}
    if "0" in {query.get("prepared_statement_cache_size"), query.get("statement_cache_size")}:
        # Behind pgbouncer in transaction mode no statement survives its transaction.
        options |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    taken = ["connect_timeout", "command_timeout", "sslmode", "application_name", "statement_cache_size"]
    return url.difference_update_query(taken), options


def _number(query: dict[str, str], name: str, default: float) -> float:
    try:
        return float(query.get(name, default)) or default
    except ValueError:
        raise ConfigurationError(f"connection_string: {name} must be a number of seconds") from None


def _pool_options(url: URL) -> dict[str, Any]:
    options: dict[str, Any] = {"pool_size": POOL_SIZE, "max_overflow": POOL_OVERFLOW}
    if url.get_backend_name() in {"mysql", "mariadb"}:
        # MySQL drops idle connections, and tells only whoever uses one next.
        options["pool_pre_ping"] = True
    return options


def _hidden(url: URL, *secrets: str) -> tuple[str, ...]:
    """Return what may not be shown, raw and quoted: passwords and whatever was filled in."""
    options = [value for name, values in url.normalized_query.items() if "pass" in name for value in values]
    texts = {text for secret in (url.password, *options, *secrets) if secret for text in (secret, _quoted(secret))}
    return tuple(sorted(texts, key=len, reverse=True))


def _shown(url: URL, hidden: tuple[str, ...]) -> str:
    def masked(text: str) -> str:
        for secret in hidden:
            text = text.replace(secret, "***")
        return text

    if url.get_backend_name() == "sqlite":
        return masked(url.database or "sqlite")
    options = {
        name: tuple(map(masked, found)) for name, found in url.normalized_query.items() if name in _SHOWN_OPTIONS
    }
    shown = url.set(
        username=masked(url.username or "") or None,
        host=masked(url.host or "") or None,
        database=masked(url.database or "") or None,
        query=options,
    )
    # The mask is rendered as the parts are, quoted.
    return shown.render_as_string(hide_password=True).replace(_quoted("***"), "***")


def _quoted(secret: str) -> str:
    return quote(secret, safe="")
