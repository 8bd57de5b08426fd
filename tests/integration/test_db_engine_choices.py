"""What people may choose about the engine: pool size, durability, or an engine of their own."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AssertionPool, NullPool, StaticPool

from asyncstore._core.retry import NO_RETRY
from asyncstore.errors import ConfigurationError
from asyncstore.models import StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from asyncstore.runlog.db._sqlite import SqliteWriter

AUDIT = """
CREATE TABLE seen (operation text, setting text);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO seen VALUES (tg_op, current_setting('synchronous_commit'));
    RETURN NULL;
END $$;
CREATE TRIGGER see AFTER INSERT OR UPDATE OR DELETE ON db_log FOR EACH STATEMENT EXECUTE FUNCTION see();
"""


def step(name: str) -> StepLog:
    return StepLog(name=name, internal_name=name)


def with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+asyncpg://").replace("sqlite://", "sqlite+aiosqlite://")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def settings_seen(url: str, postgres_url: str, default: str, **options: Any) -> set[tuple[str, str]]:
    """Write in every way to a database of that ``synchronous_commit``; return what each statement was run with."""
    async with connected(postgres_url) as connection:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = {default}")
    await create_tables(url, pgbouncer=options.get("pgbouncer", False))
    async with connected(postgres_url) as connection:
        await connection.execute(AUDIT)
    async with DBRunLogStore(connection_string=url, **options) as store:
        await store.create_run_log("run")
        await asyncio.gather(*(store.add_step_log(step(f"{number}"), "run") for number in range(10)))
        await asyncio.gather(*(store.update_run_log_status("run", status) for status in ("PROCESSING", "SUCCESS")))
        await store.delete_run_log("run")
    async with connected(postgres_url) as connection:
        return {(row["operation"], row["setting"]) for row in await connection.fetch("SELECT * FROM seen")}


DURABILITIES = [
    ("off", {}, "on"),
    ("off", {"durability": "full"}, "on"),
    ("local", {"durability": "full"}, "local"),
    ("remote_apply", {"durability": "full"}, "remote_apply"),
    ("on", {"durability": "relaxed"}, "off"),
]


@pytest.mark.parametrize(("default", "options", "used"), DURABILITIES)
async def test_writes_are_as_durable_as_was_asked_for(
    postgres_url: str, default: str, options: dict[str, str], used: str
) -> None:
    seen = await settings_seen(postgres_url, postgres_url, default, **options)
    assert seen == {("INSERT", used), ("UPDATE", used), ("DELETE", used)}


@pytest.mark.parametrize(("default", "options", "used"), DURABILITIES)
async def test_writes_through_pgbouncer_are_as_durable_as_was_asked_for(
    pgbouncer_url: str, postgres_url: str, default: str, options: dict[str, str], used: str
) -> None:
    seen = await settings_seen(pgbouncer_url, postgres_url, default, pgbouncer=True, **options)
    assert seen == {("INSERT", used), ("UPDATE", used), ("DELETE", used)}
    # Whoever gets the connections next finds them as they were.
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(current_setting(pgbouncer_url)) for _ in range(12)]
    assert {task.result() for task in tasks} == {default}


async def current_setting(url: str) -> str:
    async with connected(url) as connection, connection.transaction():
        rows = await connection.fetchrow("SELECT current_setting('synchronous_commit'), pg_sleep(0.01)")
        return str(rows[0])


async def test_a_setting_that_the_server_reloads_does_not_reach_a_store_that_is_open(postgres_url: str) -> None:
    await create_tables(postgres_url)
    async with connected(postgres_url) as admin:
        await admin.execute(AUDIT)
        assert await admin.fetchval("SHOW synchronous_commit") == "off", "the test server's default"
        async with DBRunLogStore(connection_string=postgres_url) as store:
            await store.create_run_log("run")
            await admin.fetchval("SELECT pg_reload_conf()")
            await store.add_step_log(step("a"), "run")
        assert {row[0] for row in await admin.fetch("SELECT setting FROM seen")} == {"on"}


@pytest.mark.parametrize(("options", "level"), [({}, 2), ({"durability": "full"}, 2), ({"durability": "relaxed"}, 1)])
async def test_sqlite_is_synced_as_was_asked_for(sqlite_url: str, options: dict[str, Any], level: int) -> None:
    await create_tables(sqlite_url)
    async with DBRunLogStore(connection_string=sqlite_url, **options) as store:
        await store.create_run_log("run")
        assert store._open_parts is not None
        writer: SqliteWriter = store._open_parts.writer  # type: ignore[assignment]

        def look() -> int:
            assert isinstance(writer._connection, sqlite3.Connection)
            found: int = writer._connection.execute("PRAGMA synchronous").fetchone()[0]
            return found

        assert await writer._in_thread(look) == level
        assert (await store.get_run_log_by_id("run")).run_id == "run"


async def test_a_store_keeps_within_its_pool(postgres_url: str) -> None:
    await create_tables(postgres_url)
    done = asyncio.Event()

    async def most() -> int:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        counts = [0]
        async with connected(postgres_url) as admin:
            while not done.is_set():
                counts.append(await admin.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {others}"))
        return max(counts)

    async with DBRunLogStore(connection_string=postgres_url, pool_size=2, retry=NO_RETRY) as store:
        await store.create_run_log("run")
        async with asyncio.TaskGroup() as looking:
            watching = looking.create_task(most())
            async with asyncio.TaskGroup() as group:
                for _ in range(100):
                    group.create_task(store.get_run_log_by_id("run"))
                for _ in range(10):
                    group.create_task(store.update_run_log_status("run", "PROCESSING"))
            done.set()
        assert 2 <= watching.result() <= 4


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("sqlite:///x.db", {"pgbouncer": True}, "is for Postgres"),
        ("mysql+asyncmy://h/d", {"durability": "relaxed"}, "is for Postgres and SQLite"),
        ("mysql+asyncmy://u:${password}@h/d", {"durability": "relaxed"}, "is for Postgres and SQLite"),
        ("mysql+asyncmy://u:${password}@h/d", {"pgbouncer": True}, "is for Postgres"),
        ("postgresql://h/d", {"pool_size": 1}, "pool_size"),
        ("postgresql://h/d", {"durability": "off"}, "durability"),
    ],
)
def test_choices_that_cannot_be_kept_are_refused(url: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        DBRunLogStore(connection_string=url, **options)


async def use(store: DBRunLogStore) -> None:
    async with store:
        await store.create_run_log("run")
        await asyncio.gather(*(store.add_step_log(step(f"{number}"), "run") for number in range(20)))
        await asyncio.gather(*(store.set_parameters("run", {f"p{number}": number}) for number in range(20)))
        await asyncio.gather(*(store.update_run_log_status("run", "PROCESSING") for _ in range(5)))
        reads = await asyncio.gather(*(store.get_run_log_by_id("run") for _ in range(20)))
        assert {len(read.steps) for read in reads} == {20}
        assert {len(read.parameters) for read in reads} == {20}
        await store.delete_run_log("run")


@pytest.fixture
def engine_log() -> Iterator[logging.Logger]:
    """Give SQLAlchemy's logger a handler, without which it would write to whatever is the standard output now."""
    logger = logging.getLogger("sqlalchemy.engine.Engine")
    handler = logging.NullHandler()
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    "options",
    [
        {"poolclass": NullPool},
        {"pool_size": 2, "max_overflow": 0},
        {"pool_size": 1, "max_overflow": 1},
        {"isolation_level": "AUTOCOMMIT"},
        {"isolation_level": "SERIALIZABLE"},
        {"echo": True},
    ],
)
async def test_engines_of_all_kinds_are_borrowed(
    url: str, options: dict[str, Any], engine_log: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_async_engine(with_driver(url), **options)
    await use(DBRunLogStore(engine=engine, retry=NO_RETRY))
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()
    assert ("SELECT" in caplog.text) == ("echo" in options)


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE"])
@pytest.mark.parametrize("by", ["create_engine", "execution_options"])
async def test_the_level_of_an_engine_is_not_that_of_its_writes(postgres_url: str, level: str, by: str) -> None:
    """A change is a read and a write in one transaction, and waits for others instead of being refused."""
    await create_tables(postgres_url)
    async with connected(postgres_url) as admin:
        await admin.execute(
            "CREATE TABLE seen (level text, single bool);"
            "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES "
            "(current_setting('transaction_isolation'), statement_timestamp() = transaction_timestamp());"
            "RETURN NULL; END $$;"
            "CREATE TRIGGER see AFTER UPDATE ON db_log FOR EACH STATEMENT EXECUTE FUNCTION see();"
        )
    if by == "create_engine":
        engine = create_async_engine(with_driver(postgres_url), isolation_level=level)
    else:
        engine = create_async_engine(with_driver(postgres_url)).execution_options(isolation_level=level)
    async with DBRunLogStore(engine=engine, retry=NO_RETRY) as one, DBRunLogStore(engine=engine, retry=NO_RETRY) as two:
        await one.create_run_log("run")
        async with asyncio.TaskGroup() as group:
            for store in (one, two):
                for number in range(20):
                    group.create_task(store.update_run_log_status("run", f"{number}"))
        assert (await one.get_run_log_by_id("run")).status != "CREATED"
    async with connected(postgres_url) as admin:
        seen = await admin.fetch("SELECT level, bool_or(single) AS single FROM seen GROUP BY level")
        assert [(row["level"], row["single"]) for row in seen] == [("read committed", False)]
    await engine.dispose()


async def test_engines_that_cannot_work_are_refused(url: str) -> None:
    name = with_driver(url)
    for poolclass in (StaticPool, AssertionPool):
        engine = create_async_engine(name, poolclass=poolclass)
        with pytest.raises(ConfigurationError, match="share one connection"):
            DBRunLogStore(engine=engine)
    synchronous = create_engine("sqlite://")
    with pytest.raises(ConfigurationError, match="create_async_engine"):
        DBRunLogStore(engine=synchronous)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="create_async_engine"):
        DBRunLogStore(engine=url)  # type: ignore[arg-type]


async def test_a_pool_of_one_connection_is_refused_where_the_writer_keeps_it(postgres_url: str) -> None:
    engine = create_async_engine(with_driver(postgres_url), pool_size=1, max_overflow=0)
    with pytest.raises(ConfigurationError, match="pool_size of 2"):
        DBRunLogStore(engine=engine)


async def test_a_pool_of_one_connection_is_enough_on_sqlite(sqlite_url: str) -> None:
    await create_tables(sqlite_url)
    engine = create_async_engine(with_driver(sqlite_url), pool_size=1, max_overflow=0)
    await use(DBRunLogStore(engine=engine, retry=NO_RETRY))
    await engine.dispose()


@pytest.mark.parametrize("options", [{"pool_size": 5}, {"durability": "full"}, {"durability": "relaxed"}])
async def test_what_belongs_to_an_engine_is_set_on_it(url: str, options: dict[str, Any]) -> None:
    engine = create_async_engine(with_driver(url))
    with pytest.raises(ConfigurationError, match="set it on the engine"):
        DBRunLogStore(engine=engine, **options)


@pytest.mark.parametrize("name", [lambda: "", lambda: f"__asyncpg_{uuid.uuid4()}__"], ids=["unnamed", "named"])
async def test_an_engine_through_pgbouncer(pgbouncer_url: str, name: Callable[[], str]) -> None:
    """Named statements are what SQLAlchemy recommends for pgbouncer; they live no longer than a transaction."""
    await create_tables(pgbouncer_url, pgbouncer=True)
    options = {"statement_cache_size": 0, "prepared_statement_cache_size": 0, "prepared_statement_name_func": name}
    engine = create_async_engine(with_driver(pgbouncer_url), connect_args=options)
    async with DBRunLogStore(engine=engine, pgbouncer=True, retry=NO_RETRY) as other:
        await other.create_run_log("other")
        async with asyncio.TaskGroup() as group:
            group.create_task(use(DBRunLogStore(engine=engine, pgbouncer=True, retry=NO_RETRY)))
            for _ in range(100):
                group.create_task(other.get_run_log_by_id("other"))
    await engine.dispose()


async def test_an_engine_on_psycopg(postgres_url: str) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    await create_tables(postgres_url)
    engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    await use(DBRunLogStore(engine=engine, retry=NO_RETRY))
    await engine.dispose()


@pytest.mark.parametrize(("durability", "used"), [("full", "on"), ("relaxed", "off")])
async def test_a_connection_string_for_psycopg(postgres_url: str, durability: str, used: str) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    url = postgres_url.replace("postgresql:", "postgresql+psycopg_async:")
    seen = await settings_seen(url, postgres_url, "off", durability=durability)
    assert {setting for _, setting in seen} == {used}


async def test_a_connection_string_for_psycopg_through_pgbouncer(pgbouncer_url: str) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    url = pgbouncer_url.replace("postgresql:", "postgresql+psycopg_async:")
    await create_tables(url, pgbouncer=True)
    await use(DBRunLogStore(connection_string=url, pgbouncer=True, retry=NO_RETRY))
