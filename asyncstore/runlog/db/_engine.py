"""
Connection strings: from what people write to an async engine, without the password ever being shown.

**pgbouncer.** In transaction mode it may hand a client another connection of the server's between any two
transactions. asyncpg prepares and runs a statement in two steps, and may close an older one in between: outside of an
explicit transaction that ends the implicit one, and the second step reaches a server that has never seen the statement
(measured: of 160 clients of 4 connections 152 fail). So whoever reads or writes there does so within BEGIN and COMMIT.
The statements are unnamed. Unique names, which SQLAlchemy recommends, work within transactions too, but nobody
deallocates them: of 800 queries 588 left one in the memory of a server's connection, for as long as that lives.

**Durability.** On Postgres a role, a database or the server may have ``synchronous_commit`` off, and a commit be
acknowledged before it is on the disk. Each connection raises ``off`` to ``on`` when it is made, and leaves all other
values as they are: ``local`` is on the disk too, and ``remote_apply`` is more than ``on``. Behind pgbouncer, where
others get the connection next, nothing may be set for longer than a transaction: there it goes along with BEGIN.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AssertionPool, NullPool, QueuePool, StaticPool

from asyncstore._core.placeholders import SecretSource, fill, placeholder_names
from asyncstore.errors import ConfigurationError
from asyncstore.runlog.db._errors import DatabaseEdge
from asyncstore.runlog.db.settings import Durability, EngineSettings

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, Pool

__all__ = ["BUSY_TIMEOUT_S", "Database", "locate", "location_of"]

BUSY_TIMEOUT_S = 15.0
"""How long SQLite waits for another process' write before it says "database is locked"."""

CONNECT_TIMEOUT_S = 15.0
STATEMENT_TIMEOUT_S = 60.0
"""Longest that one statement may take on Postgres: a server that went silent is not waited for for ever."""

_DEFAULTS = EngineSettings()

_SYNCHRONOUS_COMMIT: dict[Durability, str] = {
    "full": (
        "SELECT set_config('synchronous_commit',"
        " coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), {local})"
    ),
    "relaxed": "SELECT set_config('synchronous_commit', 'off', {local})",
}

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
    pgbouncer: bool = False
    """Whether every statement needs an explicit transaction, and nothing may be set or listened to for longer."""
    durability: Durability = "full"
    """What was asked for; a borrowed engine's is its owner's."""

    @property
    def isolation_level(self) -> str:
        """What each connection that writes must be set to, ``""`` if to nothing: a borrowed engine may have any."""
        # Not on the engine: where two of SQLAlchemy's engines share a pool, the older one's level goes before.
        return "" if self.owned or self.engine.dialect.name == "sqlite" else "READ COMMITTED"

    @property
    def transaction_setting(self) -> str:
        """The statement that each transaction which writes must begin with, ``""`` if none."""
        if not (self.pgbouncer and self.owned):
            return ""
        return _SYNCHRONOUS_COMMIT[self.durability].format(local="true")

    @classmethod
    def borrowed(cls, engine: AsyncEngine, settings: EngineSettings = _DEFAULTS) -> Database:
        """
        Take an engine that the caller made and will dispose of.

        Whatever its isolation level, writes here read what is committed: they rely on nothing more, and would be
        refused for conflicts at stricter levels, and not be atomic where each statement commits itself.

        Raises:
            ConfigurationError: it is no async engine, all its users share one connection, its pool is too small, its
                database has no upsert, or something is set that only its owner can set.
        """
        if not isinstance(engine, AsyncEngine):
            raise ConfigurationError(
                f"engine: a {type(engine).__module__}.{type(engine).__name__} is no AsyncEngine; "
                "make one with sqlalchemy.ext.asyncio.create_async_engine"
            )
        _check_dialect(engine.dialect.name)
        hidden = _hidden(engine.url)
        location = _shown(engine.url, hidden)
        foreign = sorted({"pool_size", "durability"} & settings.model_fields_set)
        if foreign:
            raise ConfigurationError(
                f"{' and '.join(foreign)} cannot be set for an engine that is passed in ({location}): "
                "set it on the engine, or give a connection_string instead"
            )
        _check_choices(engine.url.get_backend_name(), settings)
        _check_pool(engine, location)
        return cls(engine, location, DatabaseEdge(location, hidden), owned=False, pgbouncer=settings.pgbouncer)

    @classmethod
    async def of(
        cls,
        connection_string: str,
        secrets: SecretSource | None,
        settings: EngineSettings = _DEFAULTS,
        *,
        poolclass: type[Pool] | None = None,
    ) -> Database:
        """
        Fill the placeholders of ``connection_string`` and make an engine, which connects when it is first used.

        Raises:
            ConfigurationError: a secret is missing, this is not the URL of a database that can be used, or the database
                cannot be used as ``settings`` say.
        """
        # A connection string that is one placeholder as a whole is not quoted: there the secret is the URL.
        whole = re.fullmatch(r"\$\{[^}]*\}", connection_string.strip()) is not None
        filled: list[str] = []

        def kept(secret: str) -> str:
            filled.append(secret)
            return secret if whole else _quoted(secret)

        text = await fill(connection_string.strip(), secrets, quote=kept)
        url, connect_args = _driver_options(_parse(text), settings)
        _check_choices(url.get_backend_name(), settings)
        options: dict[str, Any] = {"poolclass": poolclass} if poolclass is not None else _pool_options(url, settings)
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
        if url.get_backend_name() == "postgresql" and url.drivername != "postgresql+asyncpg" and not settings.pgbouncer:
            event.listen(engine.sync_engine, "connect", _Settling(settings.durability))
        edge = DatabaseEdge(location, hidden)
        return cls(engine, location, edge, owned=True, pgbouncer=settings.pgbouncer, durability=settings.durability)


class _Settling:
    """Sets ``synchronous_commit`` on new connections of drivers other than asyncpg."""

    def __init__(self, durability: Durability) -> None:
        self._statement = _SYNCHRONOUS_COMMIT[durability].format(local="false")

    def __call__(self, connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute(self._statement)
        cursor.close()
        connection.commit()


class _Connector:
    """
    Opens asyncpg's connections; a cancelled caller leaves none behind.

    Args:
        first: a statement to run on each new one, ``""`` for none.
        limit: most of them at a time; 0 for any number.
    """

    def __init__(self, first: str, limit: int) -> None:
        self._first = first
        self._free = asyncio.Semaphore(limit) if limit else None

    async def __call__(self, *arguments: Any, **options: Any) -> asyncpg.Connection:
        if self._free is None:
            return await self._connect(*arguments, **options)
        await self._free.acquire()
        try:
            driver = await self._connect(*arguments, **options)
        except BaseException:
            self._free.release()
            raise
        driver.add_termination_listener(self._release)
        return driver

    async def _connect(self, *arguments: Any, **options: Any) -> asyncpg.Connection:
        driver = await asyncpg.connect(*arguments, **options)
        try:
            if self._first:
                await driver.execute(self._first)
        except BaseException:
            driver.terminate()
            raise
        return driver

    def _release(self, _: asyncpg.Connection) -> None:
        assert self._free is not None
        self._free.release()


def location_of(connection_string: str, settings: EngineSettings = _DEFAULTS) -> str:
    """
    Return what may be shown of a connection string whose placeholders are not filled yet.

    Raises:
        ConfigurationError: it cannot be a database URL, or that of a database to be used as ``settings`` say.
    """
    text = connection_string.strip()
    if re.fullmatch(r"\$\{[^}]*\}", text):
        return f"database {text}"
    has_placeholders = bool(placeholder_names(text))
    url = _parse(_PLACEHOLDER_PORT.sub(r"\g<host>", text) if has_placeholders else text, checked=not has_placeholders)
    _check_choices(url.get_backend_name(), settings)
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


def _check_choices(backend: str, settings: EngineSettings) -> None:
    if settings.pgbouncer and backend != "postgresql":
        raise ConfigurationError(f"pgbouncer: true is for Postgres, and this database is {backend}")
    if settings.durability == "relaxed" and backend not in {"postgresql", "sqlite"}:
        raise ConfigurationError(f"durability: relaxed is for Postgres and SQLite, and this database is {backend}")


def _check_pool(engine: AsyncEngine, location: str) -> None:
    pool = engine.pool
    if isinstance(pool, StaticPool | AssertionPool):
        raise ConfigurationError(
            f"engine of {location}: all that use its {type(pool).__name__} share one connection; "
            "a run log needs a pool of several, and a database in memory cannot have one"
        )
    if engine.url.drivername == "postgresql+asyncpg" and isinstance(pool, QueuePool):
        overflow = pool._max_overflow
        if overflow >= 0 and pool.size() + overflow < 2:
            raise ConfigurationError(
                f"engine of {location}: its pool holds one connection, which the writer keeps for itself; "
                "make it with a pool_size of 2 at least"
            )


def _driver_options(url: URL, settings: EngineSettings) -> tuple[URL, dict[str, Any]]:
    if url.get_backend_name() == "sqlite":
        return url, {"timeout": BUSY_TIMEOUT_S}
    if url.get_driver_name().startswith("psycopg") and settings.pgbouncer:
        return url, {"prepare_threshold": None}
    if url.drivername != "postgresql+asyncpg":
        return url, {}
    url, options = _asyncpg_options(url)
    if settings.pgbouncer:
        connector = _Connector("", 2 * settings.pool_size)
        return url, {**options, **_UNPREPARED, "async_creator_fn": connector}
    if settings.durability == "relaxed":
        server_settings = {**options.get("server_settings", {}), "synchronous_commit": "off"}
        return url, {**options, "server_settings": server_settings}
    return url, {**options, "async_creator_fn": _Connector(_SYNCHRONOUS_COMMIT["full"].format(local="false"), 0)}


def _unnamed() -> str:
    return ""


_UNPREPARED = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": _unnamed,
}


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


def _pool_options(url: URL, settings: EngineSettings) -> dict[str, Any]:
    if settings.pgbouncer:
        return {"poolclass": NullPool}
    options: dict[str, Any] = {"pool_size": settings.pool_size, "max_overflow": settings.pool_size}
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
