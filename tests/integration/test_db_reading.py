"""Reading a run in full from a database: whole, at once, and as it stands there, whoever wrote it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from asyncstore._core.retry import NO_RETRY
from asyncstore.errors import ConfigurationError, IntegrityError, RunLogNotFoundError
from asyncstore.models import JobLog, RunLog, StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables
from asyncstore.runlog.fragments import WHOLE_RUN
from asyncstore.runlog.tree import assemble
from asyncstore.testing._runlog.base import branch, step
from asyncstore.testing._runlog.parts import nested_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STAMP = datetime(2023, 5, 1, 10, 0, 0, 250)


@pytest.fixture
async def store(url: str) -> AsyncIterator[DBRunLogStore]:
    async with DBRunLogStore(connection_string=url, retry=NO_RETRY) as store:
        yield store


def async_url(url: str) -> str:
    return url.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:")


async def write_rows(url: str, *rows: tuple[str | None, str, str | None, Any]) -> None:
    """Write rows of key, kind, value and time past the store."""
    engine = create_async_engine(async_url(url))
    number = "nextval('id_seq')" if engine.dialect.name == "postgresql" else "NULL"
    statement = sa.text(
        f"INSERT INTO db_log (pk, run_id, attribute_key, attribute_type, attribute_value, created_at)"
        f" VALUES ({number}, 'run', :key, :kind, :value, :time)"
    )
    async with engine.begin() as connection:
        for key, kind, value, time in rows:
            text = time.isoformat(" ") if isinstance(time, datetime) and engine.dialect.name == "sqlite" else time
            await connection.execute(statement, {"key": key, "kind": kind, "value": value, "time": text})
    await engine.dispose()


def header(**fields: Any) -> str:
    return json.dumps({"run_id": "run", **fields})


def step_text(name: str, **fields: Any) -> str:
    return json.dumps({"name": name, "internal_name": name, **fields})


async def test_a_run_is_read_as_its_parts_say(store: DBRunLogStore) -> None:
    run_log = nested_run()
    await store.put_run_log(run_log)
    await store.add_job_log(JobLog(status="SUCCESS"), run_log.run_id)
    await store.set_parameters(run_log.run_id, {"é\x1f": [1, None]}, "fan.a")
    found = await store.get_run_log_by_id(run_log.run_id)
    assert found == assemble(await store._scan(run_log.run_id, WHOLE_RUN))
    assert found.job == JobLog(status="SUCCESS")
    for one in (found, *found.walk_steps(), *found.walk_branches()):
        assert one.created_at is not None
        assert one.created_at.tzinfo is UTC


async def test_an_empty_run_and_none_at_all(store: DBRunLogStore) -> None:
    await store.create_run_log("run")
    assert (await store.get_run_log_by_id("run")).steps == {}
    with pytest.raises(RunLogNotFoundError):
        await store.get_run_log_by_id("other")


async def test_rows_of_others_are_read_in_their_order(url: str, store: DBRunLogStore) -> None:
    await write_rows(
        url,
        ("late", "StepLog", step_text("late"), STAMP + timedelta(seconds=1)),
        ("run_log", "RunLog", header(tag="t", steps={"old": {"name": "old", "internal_name": "old"}}), STAMP),
        ("early", "StepLog", step_text("early", branches={"early.b": {"internal_name": "early.b"}}), STAMP),
        ("undated", "StepLog", step_text("undated"), None),
        ("p", "Parameter", None, STAMP),
        ("q", "Parameter", "", None),
        (None, "Parameter", "1", STAMP),
        ("x", "Elsewhere", "no JSON", STAMP),
    )
    found = await store.get_run_log_by_id("run")
    assert found == assemble(await store._scan("run", WHOLE_RUN))
    assert list(found.steps) == ["old", "undated", "early", "late"]
    assert found.parameters == {"q": None, "p": None, "": 1}
    assert (found.steps["early"].created_at, found.steps["undated"].created_at) == (STAMP.replace(tzinfo=UTC), None)
    assert found.steps["early"].branches == {}


@pytest.mark.parametrize("value", [None, "", "null", "{", '{"name":"torn"}', "[]"])
async def test_a_torn_part_is_named(url: str, store: DBRunLogStore, value: str | None) -> None:
    await store.create_run_log("run")
    await store.add_step_log(step("a"), "run")
    await write_rows(url, ("torn", "StepLog", value, STAMP))
    await store.add_step_log(step("b"), "run")
    with pytest.raises(IntegrityError, match=r"StepLog 'torn'|steps\.torn"):
        await store.get_run_log_by_id("run")
    assert (await store.get_step_log("b", "run")) == step("b")


@pytest.mark.parametrize("time", ["yesterday", 1682935200])
async def test_what_is_no_time_is_an_integrity_error(sqlite_url: str, time: object) -> None:
    await create_tables(sqlite_url)
    await write_rows(sqlite_url, ("run_log", "RunLog", header(), time))
    async with DBRunLogStore(connection_string=sqlite_url, retry=NO_RETRY) as store:
        with pytest.raises(IntegrityError, match="reading run 'run'"):
            await store.get_run_log_by_id("run")


async def test_a_failed_read_gives_its_connection_up(url: str, store: DBRunLogStore) -> None:
    await store.create_run_log("run")
    engine = create_async_engine(async_url(url))
    async with engine.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE db_log RENAME TO elsewhere"))
    for _ in range(20):
        with pytest.raises(ConfigurationError, match="create-tables"):
            await store.get_run_log_by_id("run")
    async with engine.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO db_log"))
    await engine.dispose()
    assert (await store.get_run_log_by_id("run")).run_id == "run"


class Noting(asyncpg.Connection):  # type: ignore[misc]
    """A connection that notes what is asked of it."""

    async def fetch(self, query: str, *arguments: Any, **options: Any) -> Any:
        queries.append(query)
        return await super().fetch(query, *arguments, **options)


queries: list[str] = []


async def test_a_run_is_read_with_one_query(postgres_url: str) -> None:
    await create_tables(postgres_url)
    engine = create_async_engine(async_url(postgres_url), connect_args={"connection_class": Noting})
    async with DBRunLogStore(engine=engine) as store:
        await store.put_run_log(RunLog(run_id="run", steps={"a": StepLog(name="a", internal_name="a")}))
        await store.add_branch_log(branch("a.b"), "run")
        queries.clear()
        assert list((await store.get_run_log_by_id("run")).steps["a"].branches) == ["a.b"]
        assert len(queries) == 1
    await engine.dispose()


@pytest.mark.parametrize(("driver", "options"), [("psycopg", {}), ("asyncpg", {"pgbouncer": True})])
async def test_what_sqlalchemy_reads_is_the_same(postgres_url: str, driver: str, options: dict[str, Any]) -> None:
    pytest.importorskip(driver, reason=f"{driver} is not installed")
    await create_tables(postgres_url)
    async with DBRunLogStore(connection_string=postgres_url) as store:
        await store.put_run_log(nested_run())
        expected = await store.get_run_log_by_id(nested_run().run_id)
    url = postgres_url.replace("postgresql:", f"postgresql+{driver}:")
    async with DBRunLogStore(connection_string=url, **options) as store:
        found = await store.get_run_log_by_id(nested_run().run_id)
    assert found == expected
    assert [one.created_at for one in found.walk_steps()] == [one.created_at for one in expected.walk_steps()]
