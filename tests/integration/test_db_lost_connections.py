"""Connections to Postgres that are lost, before and after the server has done what was asked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from asyncstore._core.retry import NO_RETRY, RetryPolicy
from asyncstore.errors import (
    AccessDeniedError,
    AsyncStoreError,
    OutcomeUnknownError,
    RunLogExistsError,
    UnavailableError,
)
from asyncstore.models import StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SOON = RetryPolicy(attempts=6, deadline_s=20, initial_delay_s=0.01, max_delay_s=0.1)


def step(name: str) -> StepLog:
    return StepLog(name=name, internal_name=name)


async def kill_connections(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()


async def test_connections_that_the_server_closed_are_replaced(postgres_url: str) -> None:
    await create_tables(postgres_url)
    async with DBRunLogStore(connection_string=postgres_url, retry=SOON) as store:
        await store.create_run_log("run")
        for number in range(3):
            await asyncio.gather(*(store.get_run_log_by_id("run") for _ in range(8)))
            await kill_connections(postgres_url)
            await store.add_step_log(step(f"{number}"), "run")
            await kill_connections(postgres_url)
            await store.update_run_log_status("run", "PROCESSING")
        await kill_connections(postgres_url)
        assert len((await store.get_run_log_by_id("run")).steps) == 3
    await kill_connections(postgres_url)


class LosesAnswers(asyncpg.Connection):  # type: ignore[misc]
    """A connection that is lost after the server has run a statement, and before it says so; ``lose`` tells which."""

    lose: ClassVar[str] = ""

    async def fetch(self, query: str, *arguments: Any, **options: Any) -> Any:
        rows = await super().fetch(query, *arguments, **options)
        if LosesAnswers.lose and LosesAnswers.lose in query:
            LosesAnswers.lose = ""
            self.terminate()
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        return rows


@pytest.fixture
async def lossy(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    await create_tables(postgres_url)

    async def connect(*_: Any, **__: Any) -> Any:
        return await asyncpg.connect(postgres_url, connection_class=LosesAnswers)

    engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"), async_creator=connect)
    yield engine
    LosesAnswers.lose = ""
    await engine.dispose()


async def test_a_creator_whose_answer_was_lost_knows_its_own_run(lossy: AsyncEngine) -> None:
    async with DBRunLogStore(engine=lossy, retry=SOON) as store:
        LosesAnswers.lose = "DO NOTHING"
        await store.create_run_log("run")
        assert LosesAnswers.lose == ""
        with pytest.raises(RunLogExistsError):
            await store.create_run_log("run")


async def test_a_write_whose_answer_was_lost_is_written_again(lossy: AsyncEngine) -> None:
    async with DBRunLogStore(engine=lossy, retry=SOON) as store:
        await store.create_run_log("run")
        LosesAnswers.lose = "DO UPDATE"
        await store.add_step_log(step("a"), "run")
        assert LosesAnswers.lose == ""
        assert list((await store.get_run_log_by_id("run")).steps) == ["a"]


async def test_a_write_that_cannot_be_asked_after_has_an_unknown_outcome(lossy: AsyncEngine) -> None:
    async with DBRunLogStore(engine=lossy, retry=NO_RETRY) as store:
        LosesAnswers.lose = "DO NOTHING"
        with pytest.raises(OutcomeUnknownError, match="look whether") as caught:
            await store.create_run_log("run")
        assert caught.value.key == "run/RunLog/run_log"
        LosesAnswers.lose = "DO UPDATE"
        with pytest.raises(OutcomeUnknownError, match="look whether") as caught:
            await store.add_step_log(step("a"), "run")
        assert caught.value.key == "run/StepLog/a"
        assert (await store.get_run_log_by_id("run")).run_id == "run"


async def test_a_database_that_goes_away(postgres_url: str) -> None:
    await create_tables(postgres_url)
    admin = await asyncpg.connect(postgres_url)
    name = await admin.fetchval("SELECT current_database()")
    await admin.close()
    admin = await asyncpg.connect(postgres_url.replace(f"/{name}?", "/postgres?"))
    async with DBRunLogStore(connection_string=postgres_url, retry=SOON) as store:
        await store.create_run_log("run")
        await admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        await admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        results = await asyncio.gather(
            *(store.add_step_log(step(f"{number}"), "run") for number in range(10)), return_exceptions=True
        )
        assert all(isinstance(result, AsyncStoreError) for result in results)
        await admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
        await store.add_step_log(step("a"), "run")
        assert list((await store.get_run_log_by_id("run")).steps) == ["a"]
    await admin.close()


async def test_a_connection_to_a_server_that_takes_no_more_writes_is_given_up(postgres_url: str) -> None:
    await create_tables(postgres_url)
    async with DBRunLogStore(connection_string=postgres_url, retry=SOON) as store:
        await store.create_run_log("run")
        # As on a connection that stays open while its server becomes a standby.
        held = store._parts.writer._raw  # type: ignore[attr-defined]
        await held.execute("SET default_transaction_read_only = on")
        with pytest.raises(AccessDeniedError, match="takes no writes"):
            await store.add_step_log(step("a"), "run")
        await store.add_step_log(step("b"), "run")
        assert list((await store.get_run_log_by_id("run")).steps) == ["b"]


async def test_a_write_that_landed_is_not_said_to_be_refused(lossy: AsyncEngine, postgres_url: str) -> None:
    async with DBRunLogStore(engine=lossy, retry=SOON) as store:
        await store.create_run_log("run")
        admin = await asyncpg.connect(postgres_url)
        name = await admin.fetchval("SELECT current_database()")
        # Whoever connects from now on reaches a server that takes no writes.
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await lossy.dispose()
        LosesAnswers.lose = "DO UPDATE"
        with pytest.raises(OutcomeUnknownError) as caught:
            await store.add_step_log(step("a"), "run")
        assert caught.value.key == "run/StepLog/a"
        assert await admin.fetchval("SELECT count(*) FROM db_log WHERE attribute_key = 'a'") == 1
        await admin.close()


async def test_who_comes_while_the_database_is_away_does_not_begin_to_wait_anew(postgres_url: str) -> None:
    await create_tables(postgres_url)
    short = RetryPolicy(attempts=None, deadline_s=0.5, initial_delay_s=0.05, max_delay_s=0.05)
    admin = await asyncpg.connect(postgres_url)
    name = await admin.fetchval("SELECT current_database()")
    await admin.close()
    admin = await asyncpg.connect(postgres_url.replace(f"/{name}?", "/postgres?"))
    async with DBRunLogStore(connection_string=postgres_url, retry=short) as store:
        await store.create_run_log("run")
        writer = store._parts.writer
        await admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        await admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        with pytest.raises(AsyncStoreError):
            await store.add_step_log(step("first"), "run")
        assert writer._patience().attempts == 1
        with pytest.raises(UnavailableError):
            await store.add_step_log(step("second"), "run")
        await admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
        await store.add_step_log(step("third"), "run")
        assert writer._patience() == short
    await admin.close()
