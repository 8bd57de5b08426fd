"""Making and checking the table, on SQLite and Postgres; rows of magnus in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from asyncstore._core.retry import NO_RETRY
from asyncstore.errors import ConfigurationError, CredentialsError, RunLogNotFoundError, UnavailableError
from asyncstore.models import RunLog, StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables

if TYPE_CHECKING:
    from pathlib import Path

MAGNUS_SQLITE = """
CREATE TABLE db_log (
    pk INTEGER NOT NULL, run_id TEXT, attribute_key TEXT, attribute_type TEXT, attribute_value TEXT,
    created_at DATETIME, PRIMARY KEY (pk)
)
"""
MAGNUS_POSTGRES = """
CREATE SEQUENCE id_seq;
CREATE TABLE db_log (
    pk INTEGER NOT NULL, run_id TEXT, attribute_key TEXT, attribute_type TEXT, attribute_value TEXT,
    created_at TIMESTAMP WITHOUT TIME ZONE, PRIMARY KEY (pk)
)
"""
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


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


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
