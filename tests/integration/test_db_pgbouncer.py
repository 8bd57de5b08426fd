"""A real pgbouncer in transaction mode, which has fewer connections to the server than there are clients."""

from __future__ import annotations

import asyncio
from types import NoneType
from typing import TYPE_CHECKING

import asyncpg
import pytest

from asyncstore._core.retry import NO_RETRY, RetryPolicy
from asyncstore.errors import ConfigurationError, InvalidValueError, OutcomeUnknownError, UnavailableError
from asyncstore.models import StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables
from asyncstore.testing.pgbouncer import is_installed, pgbouncer_server

if TYPE_CHECKING:
    from asyncstore.testing.pgbouncer import PgBouncer
    from asyncstore.testing.postgres import PostgresServer

pytestmark = pytest.mark.skipif(not is_installed(), reason="there is no pgbouncer on this machine")

PATIENT = RetryPolicy(attempts=12, deadline_s=30, initial_delay_s=0.02, max_delay_s=0.5)

AUDIT = """
CREATE TABLE seen (pid integer, prepared bigint);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO seen SELECT pg_backend_pid(), (SELECT count(*) FROM pg_prepared_statements WHERE name <> '');
    RETURN NULL;
END $$;
CREATE TRIGGER see AFTER INSERT ON db_log FOR EACH STATEMENT EXECUTE FUNCTION see();
"""


def step(name: str) -> StepLog:
    return StepLog(name=name, internal_name=name)


def through(url: str, retry: RetryPolicy = NO_RETRY, *, pool_size: int = 5) -> DBRunLogStore:
    return DBRunLogStore(connection_string=url, pgbouncer=True, retry=retry, pool_size=pool_size)


async def execute(url: str, statements: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statements)
    await connection.close()


async def test_stores_that_share_connections_lose_nothing(postgres: PostgresServer, postgres_url: str) -> None:
    with pgbouncer_server(postgres, pool_size=3) as bouncer:
        url = bouncer.url_of(postgres_url)
        await create_tables(url, pgbouncer=True)
        await execute(postgres_url, AUDIT)
        async with through(url) as a, through(url) as b, through(url) as c, through(url) as d:
            await a.create_run_log("run")

            async def work(store: DBRunLogStore, name: str) -> None:
                for number in range(5):
                    await store.add_step_log(step(f"{name}-{number}"), "run")
                    assert (await store.get_step_log(f"{name}-{number}", "run")).name == f"{name}-{number}"
                await store.set_parameters("run", {name: 1})

            async with asyncio.TaskGroup() as group:
                for letter, store in zip("abcd", (a, b, c, d), strict=True):
                    for number in range(32):
                        group.create_task(work(store, f"{letter}{number}"))
            found = await d.get_run_log_by_id("run")
            assert len(found.steps) == 4 * 32 * 5
            assert len(found.parameters) == 4 * 32
        seen = await asyncpg.connect(postgres_url)
        assert 2 <= await seen.fetchval("SELECT count(DISTINCT pid) FROM seen") <= 3
        await seen.close()


async def test_one_writer_moves_between_connections_and_leaves_nothing_on_them(
    pgbouncer_url: str, postgres_url: str
) -> None:
    await create_tables(pgbouncer_url, pgbouncer=True)
    await execute(postgres_url, AUDIT)
    async with through(pgbouncer_url) as writer, through(pgbouncer_url) as other:
        await writer.create_run_log("run")
        for number in range(20):
            await asyncio.gather(
                writer.add_step_log(step(f"{number}"), "run"), *(other.get_run_log_by_id("run") for _ in range(6))
            )
    seen = await asyncpg.connect(postgres_url)
    assert await seen.fetchval("SELECT count(DISTINCT pid) FROM seen") > 1
    assert await seen.fetchval("SELECT sum(prepared) FROM seen") == 0
    await seen.close()


async def test_a_lone_writer_and_reader_wait_for_no_second_connection(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """A store that held a transaction open while it waited for another would hang for ever."""
    with pgbouncer_server(postgres, pool_size=1) as bouncer:
        url = bouncer.url_of(postgres_url)
        await create_tables(url, pgbouncer=True)
        async with through(url, pool_size=2) as store:
            await store.create_run_log("run")
            await asyncio.gather(*(store.add_step_log(step(f"{number}"), "run") for number in range(20)))
            await asyncio.gather(*(store.update_run_log_status("run", "PROCESSING") for _ in range(5)))
            reads = await asyncio.gather(*(store.get_run_log_by_id("run") for _ in range(20)))
            assert all(len(read.steps) == 20 for read in reads)
            assert [summary.run_id async for summary in store.list_run_logs(status="PROCESSING")] == ["run"]


async def test_a_store_opens_no_more_connections_than_twice_its_pool(
    postgres: PostgresServer, postgres_url: str
) -> None:
    with pgbouncer_server(postgres, client_limit=4) as bouncer:
        url = bouncer.url_of(postgres_url)
        await create_tables(url, pgbouncer=True)
        async with through(url, pool_size=2) as store:
            await store.create_run_log("run")
            reads = await asyncio.gather(*(store.get_run_log_by_id("run") for _ in range(100)))
            assert {read.run_id for read in reads} == {"run"}
            cancelled = [asyncio.create_task(store.get_run_log_by_id("run")) for _ in range(20)]
            for number, task in enumerate(cancelled):
                await asyncio.wait([task], timeout=0.0005 * number)
                task.cancel()
            await asyncio.gather(*cancelled, return_exceptions=True)
            assert (await store.get_run_log_by_id("run")).run_id == "run"


async def test_pgbouncer_killed_under_load(postgres: PostgresServer, postgres_url: str) -> None:
    acknowledged: set[str] = set()
    unknown: set[str] = set()
    enough = [asyncio.Event() for _ in range(3)]

    with pgbouncer_server(postgres, pool_size=3) as bouncer:
        url = bouncer.url_of(postgres_url)
        await create_tables(url, pgbouncer=True)
        async with through(url, PATIENT) as one, through(url, PATIENT) as other:
            await one.create_run_log("run")

            async def work(store: DBRunLogStore, task: str) -> None:
                for number in range(100):
                    name = f"{task}-{number}"
                    try:
                        await store.add_step_log(step(name), "run")
                    except (UnavailableError, OutcomeUnknownError):
                        unknown.add(name)
                    else:
                        acknowledged.add(name)
                    for part, event in enumerate(enough, 1):
                        if len(acknowledged) + len(unknown) >= part * 250:
                            event.set()

            async def disturb() -> None:
                for event in enough:
                    await event.wait()
                    bouncer.kill()
                    await asyncio.to_thread(bouncer.start)

            async with asyncio.TaskGroup() as group:
                group.create_task(disturb())
                for number in range(5):
                    group.create_task(work(one, f"one{number}"))
                    group.create_task(work(other, f"other{number}"))
            found = set((await other.get_run_log_by_id("run")).steps)
    assert acknowledged <= found
    assert found <= acknowledged | unknown
    assert len(acknowledged) + len(unknown) == 1000
    assert len(acknowledged) >= 900


async def test_without_the_option_the_error_names_it(pgbouncer_url: str) -> None:
    await create_tables(pgbouncer_url, pgbouncer=True)
    stores = [DBRunLogStore(connection_string=pgbouncer_url, retry=NO_RETRY) for _ in range(2)]

    async def use(store: DBRunLogStore) -> None:
        try:
            await store.open()
            for number in range(20):
                await store.create_run_log(f"{id(store)}-{number}")
                await store.get_run_log_by_id(f"{id(store)}-{number}")
        finally:
            await store.aclose()

    outcomes = await asyncio.gather(*map(use, stores), return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, ConfigurationError)]
    assert errors
    assert all("'pgbouncer: true'" in str(error) for error in errors)


async def test_startup_parameters_that_pgbouncer_refuses(pgbouncer_url: str) -> None:
    store = DBRunLogStore(connection_string=pgbouncer_url, durability="relaxed")
    with pytest.raises(ConfigurationError, match="'pgbouncer: true'"):
        await store.open()


async def test_the_application_name_reaches_the_server(pgbouncer: PgBouncer, postgres_url: str) -> None:
    url = pgbouncer.url_of(postgres_url)
    await create_tables(f"{url}&application_name=nightly", pgbouncer=True)
    async with through(f"{url}&application_name=nightly"):
        admin = await asyncpg.connect(postgres_url)
        names = await admin.fetch("SELECT application_name FROM pg_stat_activity WHERE datname = current_database()")
        await admin.close()
    assert "nightly" in {row[0] for row in names}


async def test_a_refused_row_is_rolled_back_and_its_connection_used_again(
    pgbouncer_url: str, postgres_url: str
) -> None:
    await create_tables(pgbouncer_url, pgbouncer=True)
    await execute(postgres_url, "ALTER TABLE db_log ADD CHECK (attribute_key <> 'bad')")
    async with through(pgbouncer_url) as store:
        await store.create_run_log("run")
        names = ["a", "b", "bad", "c", "d"]
        outcomes = await asyncio.gather(
            *(store.add_step_log(step(name), "run") for name in names), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [NoneType, NoneType, InvalidValueError, NoneType, NoneType]
        await store.add_step_log(step("after"), "run")
        assert list((await store.get_run_log_by_id("run")).steps) == ["a", "b", "c", "d", "after"]
