"""Many writers, cancelled callers, borrowed engines: on SQLite and Postgres."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

import asyncstore.runlog
from asyncstore._core.retry import RetryPolicy
from asyncstore.errors import (
    ClosedError,
    ConfigurationError,
    InvalidValueError,
    RunLogExistsError,
    RunLogNotFoundError,
)
from asyncstore.models import RunLog, StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables
from asyncstore.runlog.db._sqlite import SqliteWriter
from asyncstore.runlog.encoding import fragment_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SOON = RetryPolicy(attempts=6, deadline_s=20, initial_delay_s=0.01, max_delay_s=0.1)

WORKER = """
import asyncio, sys
from asyncstore.models import StepLog
from asyncstore.runlog.db import DBRunLogStore

async def task(store, name):
    for number in range(STEPS):
        step = f"{name}-{number}"
        await store.add_step_log(StepLog(name=step, internal_name=step), "run")
        await store.set_run_config("run", {step: number})

async def main(url, process):
    async with DBRunLogStore(connection_string=url) as store:
        sys.stdin.readline()
        async with asyncio.TaskGroup() as group:
            for number in range(TASKS):
                group.create_task(task(store, f"{process}-{number}"))

asyncio.run(main(*sys.argv[1:]))
"""


def step(name: str, **fields: Any) -> StepLog:
    return StepLog(name=name, internal_name=name, **fields)


@pytest.fixture
async def store(url: str) -> AsyncIterator[DBRunLogStore]:
    async with DBRunLogStore(connection_string=url, retry=SOON) as store:
        await store.create_run_log("run")
        yield store


def checked_out(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


def engine_of(store: DBRunLogStore) -> AsyncEngine:
    return store._parts.reader._database.engine


async def test_64_tasks_lose_nothing_and_keep_their_order(store: DBRunLogStore) -> None:
    async def task(number: int) -> None:
        for index in range(20):
            await store.add_step_log(step(f"{number}-{index}"), "run")

    async with asyncio.TaskGroup() as group:
        for number in range(64):
            group.create_task(task(number))
    names = list((await store.get_run_log_by_id("run")).steps)
    assert len(names) == 64 * 20
    for number in range(64):
        assert [name for name in names if name.startswith(f"{number}-")] == [f"{number}-{index}" for index in range(20)]


async def test_processes_write_at_once(url: str, store: DBRunLogStore) -> None:
    tasks, steps = 4, 15
    code = WORKER.replace("TASKS", str(tasks)).replace("STEPS", str(steps))
    environment = {**os.environ, "PYTHONPATH": str(Path(asyncstore.runlog.__path__[0]).parents[1])}
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, url, str(process),
            stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment,
        )
        for process in range(4)
    ]  # fmt: skip
    outcomes = await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
    assert [error.decode() for _, error in outcomes] == [""] * 4
    run_log = await store.get_run_log_by_id("run")
    assert len(run_log.steps) == 4 * tasks * steps
    assert len(run_log.run_config) == 4 * tasks * steps
    for process in range(4):
        for task in range(tasks):
            own = [name for name in run_log.steps if name.startswith(f"{process}-{task}-")]
            assert own == [f"{process}-{task}-{number}" for number in range(steps)]


async def test_rewriting_keeps_place_and_number(store: DBRunLogStore, url: str) -> None:
    for name in ("b", "a"):
        await store.add_step_log(step(name), "run")
    before = (await store.get_step_log("b", "run")).created_at
    for _ in range(3):
        await store.add_step_log(step("b", message="again"), "run")
    await store.add_step_log(step("c"), "run")
    steps = (await store.get_run_log_by_id("run")).steps
    assert list(steps) == ["b", "a", "c"]
    assert steps["b"].message == "again"
    assert steps["b"].created_at == before
    if url.startswith("postgres"):
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT last_value FROM id_seq") == 4
        await connection.close()


async def test_what_is_written_after_sorts_after_though_the_clock_was_set_back(store: DBRunLogStore, url: str) -> None:
    await store.add_step_log(step("first"), "run")
    future = "UPDATE db_log SET created_at = '2999-01-01 00:00:00.000000' WHERE attribute_key = 'first'"
    connection = await create_async_engine(with_driver(url)).connect()
    await connection.exec_driver_sql(future)
    await connection.commit()
    await connection.close()
    await connection.engine.dispose()
    for name in ("z", "a"):
        await store.add_step_log(step(name), "run")
    await store.put_run_log(RunLog(run_id="run", steps={name: step(name) for name in ("y", "x")}))
    assert list((await store.get_run_log_by_id("run")).steps) == ["first", "z", "a", "y", "x"]


async def test_a_bad_row_fails_its_own_caller_alone(postgres_url: str) -> None:
    await create_tables(postgres_url)
    async with DBRunLogStore(connection_string=postgres_url) as store:
        fragment = fragment_of(step("a"))
        # Past the checks that keep such names from the store.
        runs = [f"run-{number}" for number in range(40)] + ["bad\x00run"]
        written = await asyncio.gather(*(store._upsert(run, [fragment]) for run in runs), return_exceptions=True)
        assert written[:40] == [None] * 40
        assert isinstance(written[40], InvalidValueError)
        found = await asyncio.gather(*(store._insert(run, [fragment]) for run in runs), return_exceptions=True)
        assert list(found[:40]) == [{fragment.key}] * 40
        assert isinstance(found[40], InvalidValueError)


async def test_of_many_creators_one_wins(store: DBRunLogStore, url: str) -> None:
    async with DBRunLogStore(connection_string=url) as other:
        creators = [where.create_run_log("new") for where in (store, other) * 8]
        outcomes = await asyncio.gather(*creators, return_exceptions=True)
    assert sum(isinstance(outcome, RunLog) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, RunLogExistsError) for outcome in outcomes) == 15


async def test_changes_of_one_header_through_two_stores_are_all_kept(store: DBRunLogStore, url: str) -> None:
    async with DBRunLogStore(connection_string=url) as other, asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task((store, other)[number % 2].set_run_config("run", {str(number): number}))
    assert len(await store.get_run_config("run")) == 40
    with pytest.raises(RunLogNotFoundError):
        await store.set_run_config("other", {})


async def test_cancelled_callers_leave_nothing(store: DBRunLogStore) -> None:
    async def everything(number: int) -> None:
        await store.add_step_log(step(f"{number}"), "run")
        await store.get_run_log_by_id("run")
        await store.update_run_log_status("run", "PROCESSING")
        await store.create_run_log(f"run-{number}")

    for storm, wait_s in enumerate((0, 0, 0.001, 0.002, 0.005, 0.01, 0.02)):
        tasks = [asyncio.create_task(everything(30 * storm + number)) for number in range(30)]
        await asyncio.sleep(wait_s)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError | NoneType) for outcome in outcomes)
    await store.add_step_log(step("after"), "run")
    assert "after" in (await store.get_run_log_by_id("run")).steps
    held = 0 if isinstance(store._parts.writer, SqliteWriter) else 1
    assert checked_out(engine_of(store)) == held


async def test_a_closed_store_leaves_no_thread_or_connection(url: str) -> None:
    before = set(threading.enumerate())
    async with DBRunLogStore(connection_string=url) as store:
        await store.create_run_log("new")
        await asyncio.gather(*(store.get_run_log_by_id("new") for _ in range(20)))
        engine = engine_of(store)
    assert checked_out(engine) == 0
    with pytest.raises(ClosedError):
        await store.get_run_log_by_id("new")
    del engine, store
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith(("asyncstore-sqlite", "Thread-")):
            thread.join(5)
            assert not thread.is_alive()


async def test_writes_taken_before_closing_are_committed(url: str) -> None:
    store = await DBRunLogStore(connection_string=url).open()
    await store.create_run_log("new")
    writes = [asyncio.create_task(store.add_step_log(step(f"{number}"), "new")) for number in range(50)]
    await asyncio.sleep(0)
    await store.aclose()
    assert await asyncio.gather(*writes) == [None] * 50
    async with DBRunLogStore(connection_string=url) as store:
        assert len((await store.get_run_log_by_id("new")).steps) == 50


def test_two_loops_in_a_row(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/run.db"

    async def use(run_id: str) -> list[str]:
        async with DBRunLogStore(connection_string=url) as store:
            await store.create_run_log(run_id)
            return [summary.run_id async for summary in store.list_run_logs()]

    asyncio.run(create_tables(url))
    assert asyncio.run(use("first")) == ["first"]
    assert asyncio.run(use("second")) == ["second", "first"]
    left_open = DBRunLogStore(connection_string=url)
    runner = asyncio.Runner()
    runner.run(left_open.open())
    with pytest.raises(ClosedError, match="another event loop"):
        asyncio.run(left_open.get_run_log_by_id("first"))
    runner.run(left_open.aclose())
    runner.close()


def with_driver(url: str) -> str:
    return url.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:")


async def test_an_engine_of_the_caller_is_borrowed(url: str) -> None:
    engine = create_async_engine(with_driver(url))
    with pytest.raises(ConfigurationError, match="not both"):
        DBRunLogStore(engine=engine, connection_string=url)
    async with DBRunLogStore(engine=engine) as store:
        await store.create_run_log("new")
    assert checked_out(engine) == 0
    async with engine.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM db_log")).scalar() == 1
    await engine.dispose()


async def test_an_engine_of_one_connection_is_refused() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(ConfigurationError, match="one connection"):
        DBRunLogStore(engine=engine)
    await engine.dispose()
