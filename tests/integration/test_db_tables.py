"""Making and checking the table, on SQLite and Postgres; rows of magnus in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import create_async_engine

from asyncstore._core.retry import NO_RETRY
from asyncstore.errors import ConfigurationError, CredentialsError, RunLogNotFoundError, UnavailableError
from asyncstore.models import RunLog, StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables
from tests._magnus_table import MAGNUS_POSTGRES, MAGNUS_SQLITE

if TYPE_CHECKING:
    from pathlib import Path

RunSql: TypeAlias = Callable[..., Awaitable[None]]

STAMP = datetime(2023, 5, 1, 10, 0, 0, 250)


def magnus_rows() -> list[tuple[str, str, str, str]]:
    """Return a run as magnus 0.4 writes it: a header that holds what it held when it was put, steps with one time."""
    step = {"name": "load", "internal_name": "load", "status": "SUCCESS", "step_type": "task", "attempts": []}
    stale = {**step, "status": "PROCESSING"}
    header: dict[str, Any] = {
        "run_id": "old",
        "dag_hash": "d",
        "tag": "t",
        "status": "SUCCESS",
        "steps": {"load": stale},
    }
    nested = {"name": "train", "internal_name": "fan.a.train", "status": "SUCCESS"}
    parts: list[tuple[str, str, Any]] = [
        ("run_log", "RunLog", header),
        ("fan", "StepLog", {**step, "name": "fan", "internal_name": "fan", "step_type": "parallel"}),
        ("fan.a", "BranchLog", {"internal_name": "fan.a", "status": "SUCCESS", "steps": {}}),
        ("fan.a.train", "StepLog", nested),
        ("load", "StepLog", step),
        ("lr", "Parameter", 0.1),
        ("x", "Elsewhere", {}),
    ]
    return [("old", key, kind, json.dumps(value)) for key, kind, value in parts]


@pytest.fixture
def url(empty_url: str) -> str:
    return empty_url


@pytest.fixture
def run_sql(url: str) -> RunSql:
    """Run statements past the store."""

    async def on_postgres(*statements: Any) -> None:
        connection = await asyncpg.connect(url)
        try:
            for statement, *arguments in statements:
                await connection.execute(statement, *arguments)
        finally:
            await connection.close()

    async def on_sqlite(*statements: Any) -> None:
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        for statement, *arguments in statements:
            connection.execute(statement, arguments)
        connection.commit()
        connection.close()

    return on_sqlite if url.startswith("sqlite") else on_postgres


@pytest.fixture
async def old_table(url: str, run_sql: RunSql) -> None:
    """Make magnus' table with a run of magnus in it."""
    if url.startswith("sqlite"):
        statement = (
            "INSERT INTO db_log (run_id, attribute_key, attribute_type, attribute_value, created_at) VALUES (?,?,?,?,?)"
        )
        stamp = STAMP.isoformat(" ")
        await run_sql([MAGNUS_SQLITE], *([statement, *row, stamp] for row in magnus_rows()))
    else:
        statement = "INSERT INTO db_log VALUES (nextval('id_seq'), $1, $2, $3, $4, $5)"
        await run_sql([MAGNUS_POSTGRES], *([statement, *row, STAMP] for row in magnus_rows()))


async def test_making_tables_again_does_no_harm(url: str) -> None:
    await create_tables(url)
    async with DBRunLogStore(connection_string=url) as store:
        await store.create_run_log("run")
        await create_tables(SecretStr(url))
        assert (await store.get_run_log_by_id("run")).run_id == "run"


async def test_several_may_make_the_tables_at_once(url: str) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(create_tables(url))
    async with DBRunLogStore(connection_string=url) as store:
        await store.create_run_log("run")


async def test_a_cancelled_making_of_tables_leaves_no_lock(url: str) -> None:
    await create_tables(url)
    for number in range(60):
        making = asyncio.create_task(create_tables(url))
        await asyncio.sleep(0.0004 * number)
        making.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await making
        if url.startswith("sqlite"):
            take_write_lock(url)
    async with asyncio.timeout(20):
        await create_tables(url)


def take_write_lock(url: str) -> None:
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0)) as connection:
        connection.execute("BEGIN IMMEDIATE")


async def test_a_missing_table_is_one_clear_error(url: str, run_sql: RunSql) -> None:
    await run_sql(["CREATE TABLE something (x INTEGER)"])
    store = DBRunLogStore(connection_string=url)
    with pytest.raises(ConfigurationError, match=r"no table db_log .*'asyncstore db create-tables'"):
        await store.open()
    await create_tables(url)
    await store.open()
    await store.aclose()


async def test_an_older_table_is_refused_until_it_has_the_index(url: str, old_table: None) -> None:
    with pytest.raises(ConfigurationError, match=r"unique index over .*'asyncstore db create-tables'"):
        await DBRunLogStore(connection_string=url).open()


async def test_a_table_of_somebody_else_is_refused(url: str, run_sql: RunSql) -> None:
    await run_sql(["CREATE TABLE db_log (pk INTEGER, line TEXT)"])
    with pytest.raises(ConfigurationError, match="run_id"):
        await create_tables(url)
    with pytest.raises(ConfigurationError, match="lacks the columns"):
        await DBRunLogStore(connection_string=url).open()


async def test_duplicates_in_an_older_table_are_named_with_a_way_out(
    url: str, old_table: None, run_sql: RunSql
) -> None:
    again = (
        "INSERT INTO db_log SELECT 99, run_id, attribute_key, attribute_type, attribute_value, created_at FROM db_log "
        "WHERE attribute_key = 'load'"
    )
    await run_sql([again])
    with pytest.raises(
        ConfigurationError, match=r"1 parts .*StepLog 'load' of run 'old'.*DELETE FROM db_log"
    ) as caught:
        await create_tables(url)
    advice = str(caught.value).split("with ")[1].split(", then")[0]
    await run_sql([advice])
    await create_tables(url)
    async with DBRunLogStore(connection_string=url) as store:
        assert (await store.get_step_log("load", "old")).status == "SUCCESS"


async def test_rows_that_are_no_part_of_a_run_do_no_harm(url: str, old_table: None, run_sql: RunSql) -> None:
    # Without a value in one of its columns a row is no duplicate to a unique index, and no part of a run either.
    await run_sql(
        ["INSERT INTO db_log (pk, run_id) VALUES (50, 'x')"], ["INSERT INTO db_log (pk, run_id) VALUES (51, 'y')"]
    )
    await create_tables(url)
    async with DBRunLogStore(connection_string=url) as store:
        assert (await store.get_step_log("load", "old")).status == "SUCCESS"


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("CREATE INDEX db_log_order ON db_log (created_at)", r"db_log_order is an index over \(created_at\): an index"),
        (
            "CREATE INDEX db_log_fragment ON db_log (run_id)",
            r"an index over \(run_id\): a unique index over \(run_id, a",
        ),
        ("CREATE INDEX db_log_order ON db_log (lower(run_id))", "db_log_order is an index over .an expression."),
        ("CREATE INDEX db_log_order ON db_log (run_id, created_at) WHERE pk > 0", "of some rows only: an index over"),
        ("CREATE TABLE db_log_runs (x INTEGER)", "something else is called db_log_runs, as the index over .created_at"),
    ],
)
async def test_a_name_that_is_taken_is_told(
    url: str, old_table: None, run_sql: RunSql, index: str, message: str
) -> None:
    await run_sql([index])
    with pytest.raises(ConfigurationError, match=rf"{message}.*'asyncstore db create-tables' on it again"):
        await create_tables(url)
    # All or nothing.
    with pytest.raises(ConfigurationError, match="lacks the unique index"):
        await DBRunLogStore(connection_string=url).open()


async def test_indexes_of_other_names_do_as_well(url: str, old_table: None, run_sql: RunSql) -> None:
    await run_sql(
        ["CREATE UNIQUE INDEX a ON db_log (attribute_key, run_id, attribute_type)"],
        ["CREATE INDEX b ON db_log (run_id, created_at)"],
    )
    await create_tables(url)
    async with DBRunLogStore(connection_string=url) as store:
        await store.create_run_log("run")
    names = "SELECT name FROM pragma_index_list('db_log')"
    if not url.startswith("sqlite"):
        names = "SELECT indexname::text FROM pg_indexes WHERE tablename = 'db_log' AND indexname <> 'db_log_pkey'"
    assert sorted(await fetched(url, names)) == [("a",), ("b",), ("db_log_runs",)]


@pytest.mark.parametrize(
    "index",
    [
        "CREATE UNIQUE INDEX a ON db_log (run_id, attribute_type, attribute_key) WHERE pk > 0",
        "CREATE INDEX a ON db_log (run_id, attribute_type, attribute_key)",
        "CREATE UNIQUE INDEX a ON db_log (run_id, attribute_type, lower(attribute_key))",
    ],
)
async def test_an_index_that_is_not_enough(url: str, old_table: None, run_sql: RunSql, index: str) -> None:
    await run_sql([index])
    with pytest.raises(ConfigurationError, match="lacks the unique index"):
        await DBRunLogStore(connection_string=url).open()
    await create_tables(url)
    async with DBRunLogStore(connection_string=url) as store:
        await store.create_run_log("run")


async def test_an_index_that_was_not_built_to_its_end(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(MAGNUS_POSTGRES)
        await connection.execute("INSERT INTO db_log (pk, run_id) VALUES (1, 'a'), (2, 'a')")
        with contextlib.suppress(asyncpg.UniqueViolationError):
            await connection.execute(
                "CREATE UNIQUE INDEX CONCURRENTLY db_log_fragment ON db_log (run_id, attribute_type, attribute_key)"
                " NULLS NOT DISTINCT"
            )
        await connection.execute("UPDATE db_log SET attribute_key = pk::text")
        with pytest.raises(ConfigurationError, match="lacks the unique index"):
            await DBRunLogStore(connection_string=postgres_url).open()
        with pytest.raises(ConfigurationError, match=r"db_log_fragment is a unique index .* not built to its end"):
            await create_tables(postgres_url)
        await connection.execute("DROP INDEX db_log_fragment")
        await create_tables(postgres_url)
    finally:
        await connection.close()


async def test_a_constraint_that_is_checked_at_commit_is_none_to_rely_on(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(MAGNUS_POSTGRES)
    unique = "UNIQUE (run_id, attribute_type, attribute_key)"
    await connection.execute(f"ALTER TABLE db_log ADD CONSTRAINT late {unique} DEFERRABLE INITIALLY DEFERRED")
    await connection.close()
    with pytest.raises(ConfigurationError, match="lacks the unique index"):
        await DBRunLogStore(connection_string=postgres_url).open()


async def test_tables_that_are_complete_are_only_looked_at(url: str) -> None:
    await create_tables(url)
    async with asyncio.timeout(10), locked(url):
        await create_tables(url)


@contextlib.asynccontextmanager
async def locked(url: str) -> AsyncIterator[None]:
    """Let nobody else write."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
            file.execute("BEGIN IMMEDIATE")
            yield
        return
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE db_log IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def test_a_look_at_the_table_is_one_statement(url: str) -> None:
    await create_tables(url)
    scheme, _, rest = url.partition(":")
    engine = create_async_engine(f"{'sqlite+aiosqlite' if scheme == 'sqlite' else 'postgresql+asyncpg'}:{rest}")
    statements: list[str] = []
    sa.event.listen(engine.sync_engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    async with DBRunLogStore(engine=engine):
        assert len(statements) == 1
    await engine.dispose()


async def test_rows_without_a_name_are_no_duplicates(url: str, old_table: None, run_sql: RunSql) -> None:
    await run_sql(
        *(
            [f"INSERT INTO db_log (pk, run_id, attribute_type, attribute_value) VALUES ({pk}, 'old', 'note', 'x')"]
            for pk in (101, 102)
        )
    )
    await create_tables(url)
    assert len(await fetched(url, "SELECT pk FROM db_log WHERE attribute_type = 'note'")) == 2


async def test_rows_of_magnus_are_read(url: str, old_table: None) -> None:
    await create_tables(url)
    async with DBRunLogStore(connection_string=url) as store:
        run_log = await store.get_run_log_by_id("old")
        assert run_log.parameters == {"lr": 0.1}
        assert run_log.steps["load"].status == "SUCCESS"
        assert list(run_log.steps["fan"].branches["fan.a"].steps) == ["fan.a.train"]
        assert run_log.created_at == STAMP.replace(tzinfo=UTC)
        assert [summary.run_id async for summary in store.list_run_logs(tag="t")] == ["old"]
        await store.add_step_log(StepLog(name="late", internal_name="late"), "old")
        late = await store.get_step_log("late", "old")
        assert late.created_at is not None
        assert late.created_at > datetime.now(UTC).replace(year=2025)


async def test_rows_are_read_by_magnus_queries(url: str, run_sql: RunSql) -> None:
    await create_tables(url)
    async with DBRunLogStore(connection_string=url) as store:
        await store.create_run_log("run", tag="t")
        await store.set_parameters("run", {"lr": {"é": [1, None]}})
        for name in "cab":
            await store.add_step_log(StepLog(name=name, internal_name=name), "run")
    table = sa.table("db_log", *map(sa.column, ("run_id", "attribute_key", "attribute_type", "attribute_value")))
    ordered = sa.select(table).order_by(sa.column("created_at")).where(table.c.run_id == "run")
    rows = await fetched(url, str(ordered.compile(compile_kwargs={"literal_binds": True})))
    assert [row[1] for row in rows] == ["run_log", "lr", "c", "a", "b"]
    assert [row[2] for row in rows] == ["RunLog", "Parameter", "StepLog", "StepLog", "StepLog"]
    assert json.loads(rows[0][3])["tag"] == "t"
    assert json.loads(rows[1][3]) == {"é": [1, None]}


async def fetched(url: str, statement: str) -> list[tuple[Any, ...]]:
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        rows = connection.execute(statement).fetchall()
        connection.close()
        return rows
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def test_listings_use_the_index_over_headers(url: str) -> None:
    await create_tables(url)
    async with DBRunLogStore(connection_string=url) as store:
        for run_id in ("first", "second", "third"):
            await store.create_run_log(run_id, tag=run_id)
        listed = [summary async for summary in store.list_run_logs()]
        assert [summary.run_id for summary in listed] == ["third", "second", "first"]
        newer = store.list_run_logs(since=listed[1].created_at, limit=1)
        assert [summary.run_id async for summary in newer] == ["third"]
        older = store.list_run_logs(until=listed[1].created_at)
        assert [summary.run_id async for summary in older] == ["first"]
        assert [summary.run_id async for summary in store.list_run_logs(tag="first", limit=1)] == ["first"]


async def test_a_schema_of_its_own(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute('CREATE SCHEMA "Team logs"')
    await create_tables(postgres_url, schema="Team logs")
    await create_tables(postgres_url, schema="Team logs")
    async with DBRunLogStore(connection_string=postgres_url, schema="Team logs") as store:
        await store.create_run_log("run")
        await store.put_run_log(RunLog(run_id="run", steps={"a": StepLog(name="a", internal_name="a")}))
        assert list((await store.get_run_log_by_id("run")).steps) == ["a"]
    assert await connection.fetchval('SELECT count(*) FROM "Team logs".db_log') == 2
    await connection.close()


async def test_a_table_numbered_by_a_serial_column(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        "CREATE TABLE db_log (pk INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run_id TEXT, attribute_key TEXT,"
        " attribute_type TEXT, attribute_value TEXT, created_at TIMESTAMP,"
        " UNIQUE (run_id, attribute_type, attribute_key))"
    )
    async with DBRunLogStore(connection_string=postgres_url) as store:
        await store.create_run_log("run")
        await store.set_parameters("run", {"a": 1, "b": 2})
        await store.set_parameters("run", {"a": 3})
        assert await store.get_parameters("run") == {"a": 3, "b": 2}
    assert await connection.fetchval("SELECT max(pk) FROM db_log") == 3
    await connection.close()


async def test_a_file_or_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no folder"):
        await create_tables(f"sqlite:///{tmp_path}/missing/run.db")
    with pytest.raises(ConfigurationError, match="no folder"):
        await DBRunLogStore(connection_string=f"sqlite:///{tmp_path}/missing/run.db").open()
    with pytest.raises(ConfigurationError, match="no database file"):
        await DBRunLogStore(connection_string=f"sqlite:///{tmp_path}/run.db").open()
    assert not os.listdir(tmp_path)


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "run.db").write_text("hello " * 1000)
    with pytest.raises(ConfigurationError, match="not an SQLite database"):
        await DBRunLogStore(connection_string=f"sqlite:///{tmp_path}/run.db").open()


async def test_a_server_that_is_down(unused_tcp_port: int) -> None:
    store = DBRunLogStore(connection_string=f"postgresql://u:tiger@127.0.0.1:{unused_tcp_port}/d", retry=NO_RETRY)
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1") as caught:
        await store.open()
    assert "tiger" not in str(caught.value)


async def test_a_host_that_is_not_known() -> None:
    store = DBRunLogStore(connection_string="postgresql://u@no-such-host.invalid/d", retry=NO_RETRY)
    with pytest.raises(UnavailableError, match="no-such-host"):
        await store.open()


async def test_a_database_or_role_that_is_not_there(postgres_url: str) -> None:
    head, _, query = postgres_url.partition("?")
    with pytest.raises(ConfigurationError, match="no_such_database"):
        await DBRunLogStore(connection_string=f"{head.rpartition('/')[0]}/no_such_database?{query}").open()
    name = head.rpartition("/")[2]
    with pytest.raises(CredentialsError, match="nobody"):
        await DBRunLogStore(connection_string=f"postgresql://nobody@/{name}?{query}").open()


async def test_an_option_that_the_driver_does_not_know(postgres_url: str) -> None:
    with pytest.raises(ConfigurationError, match="no_such_option"):
        await DBRunLogStore(connection_string=f"{postgres_url}&no_such_option=1").open()
    with pytest.raises(ConfigurationError, match=r"takes no such option.*sslrootcert"):
        await create_tables(f"{postgres_url}&sslrootcert=x")


async def test_options_in_libpqs_words(postgres_url: str) -> None:
    await create_tables(f"{postgres_url}&sslmode=prefer&connect_timeout=10&application_name=pipelines")
    options = "&prepared_statement_cache_size=0&application_name=pipelines"
    async with DBRunLogStore(connection_string=postgres_url + options) as store:
        await store.create_run_log("run")
        with pytest.raises(RunLogNotFoundError):
            await store.get_run_log_by_id("other")
