"""The numbers (pk) of rows on Postgres: remembered, so that rewrites draw no new ones, and never trusted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from asyncstore.errors import RunLogExistsError
from asyncstore.models import StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def step(name: str, message: str = "") -> StepLog:
    return StepLog(name=name, internal_name=name, message=message)


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    await create_tables(postgres_url)
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def store(postgres_url: str, connection: asyncpg.Connection) -> AsyncIterator[DBRunLogStore]:
    async with DBRunLogStore(connection_string=postgres_url) as store:
        await store.create_run_log("run")
        yield store


async def test_rewrites_draw_no_numbers(store: DBRunLogStore, connection: asyncpg.Connection) -> None:
    for number in range(10):
        await asyncio.gather(*(store.add_step_log(step(name, f"{number}"), "run") for name in "abc"))
        await store.update_run_log_status("run", "PROCESSING")
    assert await connection.fetchval("SELECT last_value FROM id_seq") == 4
    assert await connection.fetchval("SELECT count(*) FROM db_log") == 4


async def test_a_number_that_is_anothers_by_now_is_given_up(
    postgres_url: str, store: DBRunLogStore, connection: asyncpg.Connection
) -> None:
    await store.add_step_log(step("mine"), "run")
    # As after a restore from an older copy.
    await connection.execute("TRUNCATE db_log; SELECT setval('id_seq', 1, false)")
    async with DBRunLogStore(connection_string=postgres_url) as other:
        await other.create_run_log("run")
        await asyncio.gather(*(other.add_step_log(step(f"{number}"), "run") for number in range(5)))
    writes = [store.add_step_log(step(name, "again"), "run") for name in ("new", "mine", "newer")]
    await asyncio.gather(*writes)
    steps = (await store.get_run_log_by_id("run")).steps
    assert set(steps) == {*map(str, range(5)), "new", "mine", "newer"}
    assert steps["mine"].message == "again"


async def test_stores_that_remember_the_same_number_both_write(
    postgres_url: str, store: DBRunLogStore, connection: asyncpg.Connection
) -> None:
    async with DBRunLogStore(connection_string=postgres_url) as other:
        for _ in range(100):
            await asyncio.gather(*(each.add_step_log(step("both"), "run") for each in (store, other)))
            await connection.execute("DELETE FROM db_log WHERE attribute_key = 'both'")


async def test_rows_that_a_trigger_passes_over_are_no_error(
    store: DBRunLogStore, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "CREATE TRIGGER same BEFORE UPDATE ON db_log FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    )
    await store.add_step_log(step("a"), "run")
    await store.add_step_log(step("a"), "run")
    await asyncio.gather(*(store.add_step_log(step(name), "run") for name in "xayz"))
    assert set((await store.get_run_log_by_id("run")).steps) == set("axyz")


async def test_a_creator_whose_number_a_trigger_changed_knows_its_own_run(
    store: DBRunLogStore, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "CREATE FUNCTION renumber() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN NEW.pk = NEW.pk + 1000; RETURN NEW; END $$;"
        "CREATE TRIGGER renumber BEFORE INSERT ON db_log FOR EACH ROW EXECUTE FUNCTION renumber()"
    )
    await store.create_run_log("other")
    with pytest.raises(RunLogExistsError):
        await store.create_run_log("other")


async def test_numbers_may_be_of_64_bits(store: DBRunLogStore, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "ALTER TABLE db_log ALTER pk TYPE bigint; ALTER SEQUENCE id_seq AS bigint; SELECT setval('id_seq', 2147483647)"
    )
    await store.create_run_log("other")
    for _ in range(2):
        await store.add_step_log(step("a"), "other")
        await asyncio.gather(*(store.add_step_log(step(name), "other") for name in "abc"))
    assert set((await store.get_run_log_by_id("other")).steps) == set("abc")
