from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.dialects import mysql
from sqlalchemy.pool import NullPool, QueuePool

from asyncstore.errors import AsyncStoreError, ConfigurationError, CredentialsError, InvalidValueError, UnavailableError
from asyncstore.runlog.db import DBRunLogStore
from asyncstore.runlog.db._engine import Database, location_of
from asyncstore.runlog.db._errors import DatabaseEdge
from asyncstore.runlog.db._schema import log_table
from asyncstore.runlog.db._writer import upsert_statement
from asyncstore.runlog.db.settings import EngineSettings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

PASSWORD = "p@ss/w:rd#1"


class Secrets:
    def __init__(self, **values: str) -> None:
        self._values = values

    async def get(self, name: str) -> str:
        try:
            return self._values[name]
        except KeyError:
            raise ConfigurationError(f"there is no secret {name!r}") from None


def accepted(engine: AsyncEngine) -> dict[str, Any]:
    """Return what the driver is called with to connect."""
    called: dict[str, Any] = {}

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
        called.update(options)
        raise OSError("enough is known")

    with pytest.raises(OSError, match="enough"):
        engine.sync_engine.raw_connection()
    return called


async def made(connection_string: str, **secrets: str) -> Database:
    database = await Database.of(connection_string, Secrets(**secrets), poolclass=NullPool)
    await database.engine.dispose()
    return database


@pytest.mark.parametrize(
    ("written", "driver"),
    [
        ("postgresql://u@h/d", "postgresql+asyncpg"),
        ("postgres://u@h/d", "postgresql+asyncpg"),
        ("postgresql+psycopg2://u@h/d", "postgresql+asyncpg"),
        ("postgresql+asyncpg://u@h/d", "postgresql+asyncpg"),
        ("sqlite:///x.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:///x.db", "sqlite+aiosqlite"),
    ],
)
async def test_urls_are_rewritten_to_their_async_driver(written: str, driver: str) -> None:
    assert (await made(written)).engine.url.drivername == driver


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "not a database URL"),
        ("scott", "not a database URL"),
        ("mssql+aioodbc://u:tiger@h/d", "not supported"),
        ("mysql+nothing://u:tiger@h/d", "driver"),
        ("postgresql+pg8000://u:tiger@h/d", "asyncio"),
        ("sqlite://", "buffered"),
        ("sqlite:///:memory:", "buffered"),
        (f"postgresql://u:{PASSWORD}@h/d", "percent-encode"),
        ("postgresql://u:a@b@h/d", "percent-encode"),
        ("postgresql://u:tiger@w:rd/x?y@h/d", "percent-encode"),
        ("postgresql://u:tiger@w:rd/x?y@h:${port}/d", "percent-encode"),
        ("postgresql://u:tiger@h:port/d", "not a database URL"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_opened(written: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        DBRunLogStore(connection_string=written)
    shown = "".join(traceback.format_exception(caught.value))
    assert "tiger" not in str(caught.value)
    assert "w:rd" not in shown


async def test_a_password_is_quoted_and_stays_hidden() -> None:
    database = await made("postgresql://scott:${password}@host:5433/name?connect_timeout=3", password=PASSWORD)
    assert database.engine.url.password == PASSWORD
    assert database.location == "postgresql+asyncpg://scott:***@host:5433/name"
    assert PASSWORD not in repr(database)


@pytest.mark.parametrize("secret", ["scott:ss/w:rd#1", "scott+a:tiger b", "scott:tiger"])
async def test_no_secret_is_shown_wherever_it_was_filled_in(secret: str) -> None:
    for written in (
        "postgresql://${creds}@host/name",
        "postgresql://${creds}:x@host/name",
        "postgresql://scott@host/${creds}",
        "postgresql://scott@${creds}/name",
        "postgresql://scott@host/name?host=${creds}",
    ):
        database = await made(written, creds=secret)
        with pytest.raises(AsyncStoreError) as caught, database.edge.doing("reading"):
            raise OSError(f"no role {secret!r} or {quote(secret, safe='')!r}")
        shown = database.location + repr(database) + "".join(traceback.format_exception(caught.value))
        assert not [text for text in (secret, quote(secret, safe=""), quote(secret, safe=" +")) if text in shown]
        assert database.location.startswith("postgresql+asyncpg://")
        assert "***" in database.location


async def test_a_password_among_the_options_is_not_shown() -> None:
    database = await made("postgresql://scott@host/name?password=p%40ss")
    for written in ("p@ss", "p%40ss"):
        assert written not in str(database.edge.translate(OSError(f"cannot log in with {written}"), "reading"))


@pytest.mark.parametrize(
    "written",
    [
        "postgresql://u:${password}@host:${port}/name",
        "postgresql://host:${port}/name",
        "postgresql://u:${password}@[::1]:${port}/name?connect_timeout=3",
        "postgresql://u:${password}@${host}:${port}",
    ],
)
async def test_the_port_may_be_a_placeholder(written: str) -> None:
    assert "${port}" not in DBRunLogStore(connection_string=written).location
    assert (await made(written, password=PASSWORD, host="host", port="5433")).engine.url.port == 5433


def test_a_port_that_is_a_placeholder_leaves_paths_alone() -> None:
    assert DBRunLogStore(connection_string="sqlite:////a@b:${port}/x.db").location == "/a@b:${port}/x.db"


async def test_a_whole_connection_string_may_be_one_secret() -> None:
    database = await made("${dsn}", dsn="postgresql://scott:p%40ss@host/name")
    assert database.engine.url.password == "p@ss"
    assert location_of("${dsn}") == "database ${dsn}"


async def test_a_secret_that_is_no_url_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        await made("${dsn}", dsn=PASSWORD)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_nothing_shows_the_password() -> None:
    store = DBRunLogStore(connection_string="postgresql://scott:tiger@host/name?password=tiger")
    assert "tiger" not in repr(store) + store.location + repr(vars(store))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "'connection_string' is required"),
        ({"conection_string": "sqlite:///x"}, "did you mean 'connection_string'"),
        ({"connection_string": 7}, "connection_string"),
    ],
)
def test_options_are_checked_when_the_store_is_made(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        DBRunLogStore(**options)


async def test_behind_pgbouncer_nothing_is_prepared_pooled_or_set_for_long() -> None:
    settings = EngineSettings(pgbouncer=True, durability="relaxed")
    database = await Database.of("postgresql://scott@host/name?application_name=a", None, settings)
    assert isinstance(database.engine.pool, NullPool)
    options = accepted(database.engine)
    assert options["statement_cache_size"] == options["prepared_statement_cache_size"] == 0
    assert options["prepared_statement_name_func"]() == ""
    assert options["server_settings"] == {"application_name": "a"}
    assert "true" in database.transaction_setting
    assert "'off'" in database.transaction_setting


async def test_without_pgbouncer_no_transaction_needs_a_setting() -> None:
    relaxed = await Database.of("postgresql://h/d?application_name=a", None, EngineSettings(durability="relaxed"))
    assert accepted(relaxed.engine)["server_settings"] == {"application_name": "a", "synchronous_commit": "off"}
    full = await Database.of("postgresql://h/d", None)
    assert "server_settings" not in accepted(full.engine)
    assert relaxed.transaction_setting == full.transaction_setting == ""


async def test_the_pool_is_as_large_as_was_asked_for() -> None:
    for url in ("postgresql://h/d", "sqlite:///x.db"):
        for settings, size in ((EngineSettings(), 5), (EngineSettings(pool_size=3), 3)):
            pool = (await Database.of(url, None, settings)).engine.pool
            assert isinstance(pool, QueuePool)
            assert (pool.size(), pool._max_overflow) == (size, size)


@pytest.mark.parametrize(
    ("error", "family", "said"),
    [
        (asyncpg.InvalidSQLStatementNameError("x"), ConfigurationError, "'pgbouncer: true'"),
        (asyncpg.DuplicatePreparedStatementError("x"), ConfigurationError, "'pgbouncer: true'"),
        (asyncpg.ProtocolViolationError("unsupported startup parameter: x"), ConfigurationError, "'pgbouncer: true'"),
        (asyncpg.ProtocolViolationError("SASL authentication failed"), CredentialsError, "user and password"),
        (asyncpg.ProtocolViolationError("no such user: x"), CredentialsError, "user and password"),
        (asyncpg.ProtocolViolationError("no such database: x"), ConfigurationError, "database's name"),
        (asyncpg.ProtocolViolationError("no more connections allowed"), UnavailableError, "no more"),
    ],
)
def test_what_pgbouncer_says_is_told_by_family(error: Exception, family: type[AsyncStoreError], said: str) -> None:
    translated = DatabaseEdge("here").translate(error, "reading")
    assert type(translated) is family
    assert said in str(translated)


def test_what_drivers_raise_is_told_by_family() -> None:
    edge = DatabaseEdge("here")
    families = {
        asyncpg.InvalidPasswordError("x"): CredentialsError,
        asyncpg.InvalidCatalogNameError("x"): ConfigurationError,
        asyncpg.SerializationError("x"): UnavailableError,
        asyncpg.DeadlockDetectedError("x"): UnavailableError,
        asyncpg.LockNotAvailableError("x"): UnavailableError,
        asyncpg.AdminShutdownError("x"): UnavailableError,
        asyncpg.ConnectionDoesNotExistError("x"): UnavailableError,
        asyncpg.InterfaceError("connection is closed"): UnavailableError,
        asyncpg.CharacterNotInRepertoireError("x"): InvalidValueError,
        ConnectionRefusedError("x"): UnavailableError,
        asyncpg.UndefinedTableError("x"): ConfigurationError,
    }
    for error, family in families.items():
        assert type(edge.translate(error, "reading")) is family


def test_a_cause_that_holds_the_password_is_not_chained() -> None:
    edge = DatabaseEdge("here", ("tiger",))
    with pytest.raises(AsyncStoreError) as caught, edge.doing("reading"):
        raise OSError("cannot log in with tiger")
    assert "tiger" not in "".join(traceback.format_exception(caught.value))
    assert "***" in str(caught.value)


def test_mysql_upserts_by_its_unique_key() -> None:
    statement = str(upsert_statement(log_table(), "mysql").compile(dialect=mysql.dialect()))
    assert "ON DUPLICATE KEY UPDATE attribute_value = " in statement
    assert statement.count("created_at") == 1
