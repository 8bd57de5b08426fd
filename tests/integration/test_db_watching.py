"""Watching a run in a database: nothing is passed over, little is read, and nothing stays open."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from contextlib import aclosing, asynccontextmanager, closing
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import asyncpg
import psutil
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from asyncstore.errors import ClosedError, RunLogNotFoundError
from asyncstore.models import PROCESSING, SUCCESS, StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables
from asyncstore.runlog.db._notifying import CHANNEL
from asyncstore.testing.postgres import postgres_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from asyncstore.runlog._watch import View
    from asyncstore.runlog.fragments import Fragment

RUN = "run"
DEADLINE_S = 60.0
"""After this, what was to come has not come; it takes a fraction of a second."""

LONG_S = 3600.0
"""How long who waits in vain would wait."""

INSERT = """
INSERT INTO db_log (pk, run_id, attribute_type, attribute_key, attribute_value, created_at)
VALUES (nextval('id_seq'), 'run', 'StepLog', $1, $2, now() AT TIME ZONE 'utc')
"""
REWRITE = "UPDATE db_log SET attribute_value = $2 WHERE run_id = 'run' AND attribute_key = $1"
LISTENING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"


def step(name: str, message: str = "") -> StepLog:
    return StepLog(name=name, internal_name=name, message=message)


def body(name: str, message: str = "") -> str:
    return json.dumps(step(name, message).model_dump(mode="json"))


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[DBRunLogStore]:
    """Open a store in which one run is under way."""
    await create_tables(url)
    async with DBRunLogStore(connection_string=url, **options) as store:
        await store.create_run_log(RUN, status=PROCESSING)
        yield store


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect without asyncstore."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def viewed(store: DBRunLogStore) -> AsyncIterator[View]:
    with closing(store._view(RUN)) as view:
        yield view


async def seen(view: View) -> list[str]:
    """Look, and return the names of the steps."""
    return [fragment.name for fragment in await view.look() if fragment.kind == "StepLog"]


@asynccontextmanager
async def watched(store: DBRunLogStore) -> AsyncIterator[AsyncGenerator[Fragment, None]]:
    async with aclosing(cast("AsyncGenerator[Fragment, None]", store.watch(RUN))) as watch, asyncio.timeout(DEADLINE_S):
        yield watch


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds that nobody tells of."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.01)


async def insert(connection: asyncpg.Connection) -> None:
    await connection.execute(INSERT, "late", body("late"))


async def insert_in_savepoint(connection: asyncpg.Connection) -> None:
    await connection.execute(INSERT, "early", body("early"))
    async with connection.transaction():
        await connection.execute(INSERT, "late", body("late"))


async def insert_in_many_savepoints(connection: asyncpg.Connection) -> None:
    # More than the server keeps count of for each connection.
    for number in range(100):
        async with connection.transaction():
            await connection.execute(INSERT, f"late-{number}", body(f"late-{number}"))


async def copy(connection: asyncpg.Connection) -> None:
    number = await connection.fetchval("SELECT nextval('id_seq')::integer")
    columns = ["pk", "run_id", "attribute_type", "attribute_key", "attribute_value"]
    records = [(number, RUN, "StepLog", "late", body("late"))]
    await connection.copy_records_to_table("db_log", records=records, columns=columns)


async def rewrite(connection: asyncpg.Connection) -> None:
    await connection.execute(REWRITE, "old", body("old", "rewritten"))


async def rewrite_in_savepoint(connection: asyncpg.Connection) -> None:
    await connection.execute("SELECT txid_current()")
    async with connection.transaction():
        await connection.execute(REWRITE, "old", body("old", "first"))
        await connection.execute(REWRITE, "old", body("old", "rewritten"))


WRITES = [insert, insert_in_savepoint, insert_in_many_savepoints, copy, rewrite, rewrite_in_savepoint]


class TestLateCommits:
    """Rows that were numbered, dated or written before others are seen, though they are committed after them."""

    @pytest.mark.parametrize("write", WRITES)
    async def test_a_transaction_that_is_open_across_looks(
        self, postgres_url: str, write: Callable[[asyncpg.Connection], Awaitable[None]]
    ) -> None:
        async with opened(postgres_url) as store, connected(postgres_url) as slow:
            await store.add_step_log(step("old"), RUN)
            async with watched(store) as watch:
                assert {(await anext(watch)).name for _ in range(2)} == {"run_log", "old"}
                transaction = slow.transaction()
                await transaction.start()
                await write(slow)
                for number in range(3):
                    # Each of them takes a look of its own, and later numbers of all sorts than the slow one's.
                    await store.add_step_log(step(f"quick-{number}"), RUN)
                    assert (await anext(watch)).name == f"quick-{number}"
                await transaction.commit()
                await store.update_run_log_status(RUN, SUCCESS)
                told = [fragment async for fragment in watch]
        names = [fragment.name for fragment in told]
        wanted = {
            "insert_in_savepoint": ["early", "late"],
            "insert_in_many_savepoints": [f"late-{number}" for number in range(100)],
            "rewrite": ["old"],
            "rewrite_in_savepoint": ["old"],
        }.get(write.__name__, ["late"])
        assert names == [*wanted, "run_log"]
        assert [item.value["message"] for item in told if item.name == "old"] == ["rewritten"] * names.count("old")

    async def test_a_transaction_that_was_rolled_back_is_not_seen(self, postgres_url: str) -> None:
        async with opened(postgres_url) as store, connected(postgres_url) as slow, viewed(store) as view:
            assert await seen(view) == []
            transaction = slow.transaction()
            await transaction.start()
            await slow.execute(INSERT, "never", body("never"))
            assert await seen(view) == []
            await transaction.rollback()
            await store.add_step_log(step("a"), RUN)
            assert await seen(view) == ["a"]


class TestWhatIsRead:
    async def test_only_what_has_changed(self, url: str) -> None:
        async with opened(url) as store, viewed(store) as view:
            names = [f"s{number}" for number in range(50)]
            for name in names:
                await store.add_step_log(step(name), RUN)
            assert await seen(view) == names
            assert [fragment.name for fragment in await view.look()] == ["run_log"]
            await store.add_step_log(step("s7", "again"), RUN)
            await store.add_step_log(step("new"), RUN)
            assert await seen(view) == ["s7", "new"]
            assert [fragment.name for fragment in await view.look()] == ["run_log"]

    async def test_what_was_seen_is_not_read_again_while_a_transaction_stays_open(self, postgres_url: str) -> None:
        async with opened(postgres_url) as store, connected(postgres_url) as slow, viewed(store) as view:
            await view.look()
            async with slow.transaction():
                await slow.execute(INSERT, "late", body("late"))
                await store.add_step_log(step("a"), RUN)
                assert await seen(view) == ["a"]
                await store.add_step_log(step("b"), RUN)
                assert await seen(view) == ["b"]
                await store.add_step_log(step("a", "again"), RUN)
                assert await seen(view) == ["a"]
                assert await seen(view) == []
            assert await seen(view) == ["late"]

    async def test_a_run_that_was_made_anew_between_two_looks(self, url: str) -> None:
        async with opened(url) as store, viewed(store) as view:
            await store.add_step_log(step("a"), RUN)
            assert await seen(view) == ["a"]
            await store.delete_run_log(RUN)
            await store.create_run_log(RUN, status=SUCCESS)
            await store.add_step_log(step("b"), RUN)
            found = list(await view.look())
            assert {fragment.name for fragment in found} == {"run_log", "b"}
            assert next(fragment for fragment in found if fragment.name == "run_log").value["status"] == SUCCESS
            await store.delete_run_log(RUN)
            assert list(await view.look()) == []

    async def test_an_older_postgres_is_read_whole(self, postgres_url: str) -> None:
        async with opened(postgres_url) as store:
            pass
        engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"))
        async with DBRunLogStore(engine=engine) as store:
            dialect: Any = engine.dialect
            dialect.server_version_info = (12, 22)
        async with DBRunLogStore(engine=engine) as store, viewed(store) as view:
            await store.add_step_log(step("a"), RUN)
            assert await seen(view) == await seen(view) == ["a"]
        await engine.dispose()

    async def test_a_server_that_was_killed_and_started_again(self) -> None:
        with postgres_server(durable=True) as server:
            async with opened(server.url) as store, watched(store) as watch:
                await anext(watch)
                for number in range(2):
                    await store.add_step_log(step(f"{number}"), RUN)
                    assert (await anext(watch)).name == f"{number}"
                    server.kill()
                    server.start()
                await store.update_run_log_status(RUN, SUCCESS)
                assert [fragment.name async for fragment in watch] == ["run_log"]


class TestWaking:
    async def test_who_waits_is_woken_by_writers_elsewhere(self, url: str) -> None:
        async with opened(url) as store, DBRunLogStore(connection_string=url) as other, viewed(store) as view:
            changes: list[Callable[[], Awaitable[Any]]] = [
                lambda: other.add_step_log(step("a"), RUN),
                lambda: other.set_parameters(RUN, {"a": 1}),
                lambda: other.update_run_log_status(RUN, "PAUSED"),
                lambda: other.delete_run_log(RUN),
                lambda: other.create_run_log(RUN),
            ]
            for change in changes:
                await view.look()
                async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
                    group.create_task(view.wait(0, LONG_S))
                    await change()

    async def test_what_is_told_names_no_run(self, postgres_url: str) -> None:
        told: asyncio.Queue[str] = asyncio.Queue()
        async with opened(postgres_url) as store, connected(postgres_url) as listener:
            await listener.add_listener(CHANNEL, lambda *heard: told.put_nowait(heard[3]))
            async with asyncio.timeout(DEADLINE_S):
                await store.create_run_log("secret-project")
                await store.add_step_log(step("a"), RUN)
                payloads: set[str] = set()
                while len(payloads) < 2:
                    payloads.add(await told.get())
        assert not any("secret" in payload or RUN in payload for payload in payloads)

    async def test_closing_tells_the_last_change(self, postgres_url: str) -> None:
        told: asyncio.Queue[str] = asyncio.Queue()
        await create_tables(postgres_url)
        async with connected(postgres_url) as listener, asyncio.timeout(DEADLINE_S):
            await listener.add_listener(CHANNEL, lambda *heard: told.put_nowait(heard[3]))
            async with DBRunLogStore(connection_string=postgres_url) as store:
                for number in range(3):
                    await store.create_run_log(f"{number}")
            assert len({await told.get() for _ in range(3)}) == 3

    async def test_many_runs_are_told_of_as_one(self, postgres_url: str) -> None:
        told: asyncio.Queue[str] = asyncio.Queue()
        await create_tables(postgres_url)
        async with connected(postgres_url) as listener, asyncio.timeout(DEADLINE_S):
            await listener.add_listener(CHANNEL, lambda *heard: told.put_nowait(heard[3]))
            async with DBRunLogStore(connection_string=postgres_url) as store, asyncio.TaskGroup() as group:
                for number in range(500):
                    group.create_task(store.create_run_log(f"{number}"))
            while await told.get() != "*":
                pass
            assert told.qsize() < 300

    async def test_who_may_not_tell_writes_all_the_same(self, postgres_url: str) -> None:
        await create_tables(postgres_url)
        async with connected(postgres_url) as admin:
            database = await admin.fetchval("SELECT current_database()")
            role = f"mute_{database}"
            await admin.execute("REVOKE EXECUTE ON FUNCTION pg_notify FROM PUBLIC")
            await admin.execute(f"CREATE ROLE {role} LOGIN")
            try:
                await admin.execute(f"GRANT ALL ON db_log, id_seq TO {role}")
                async with opened(postgres_url.replace("//postgres@", f"//{role}@")) as store:
                    await store.add_step_log(step("a"), RUN)
                    async with watched(store) as watch:
                        assert {(await anext(watch)).name for _ in range(2)} == {"run_log", "a"}
            finally:
                await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


class TestListening:
    """There is one connection that listens for as long as anybody waits."""

    @staticmethod
    async def is_heard(admin: asyncpg.Connection, count: int) -> bool:
        return bool(await admin.fetchval(LISTENING) == count)

    async def test_one_connection_while_anybody_waits(self, postgres_url: str) -> None:
        async with opened(postgres_url) as store, connected(postgres_url) as admin:
            assert await self.is_heard(admin, 0)
            async with watched(store) as first, watched(store) as second:
                await asyncio.gather(anext(first), anext(second))
                waiting = [asyncio.create_task(anext(watch)) for watch in (first, second)]
                await until(partial(self.is_heard, admin, 1))
                await store.add_step_log(step("a"), RUN)
                assert {(await task).name for task in waiting} == {"a"}
            await until(partial(self.is_heard, admin, 0))
            async with watched(store) as third:
                await anext(third)
                await store.add_step_log(step("b"), RUN)
                assert {(await anext(third)).name for _ in range(2)} == {"a", "b"}

    async def test_none_for_a_run_that_has_ended(self, postgres_url: str) -> None:
        async with opened(postgres_url) as store, connected(postgres_url) as admin:
            await store.update_run_log_status(RUN, SUCCESS)
            async with watched(store) as watch:
                assert [fragment.name async for fragment in watch] == ["run_log"]
            assert await self.is_heard(admin, 0)

    async def test_none_through_pgbouncer(self, postgres_url: str) -> None:
        async with (
            opened(postgres_url, pgbouncer=True) as store,
            connected(postgres_url) as admin,
            watched(store) as watch,
        ):
            await anext(watch)
            for number in range(2):
                waiting = asyncio.create_task(anext(watch))
                await store.add_step_log(step(f"{number}"), RUN)
                assert (await waiting).name == f"{number}"
                assert await self.is_heard(admin, 0)

    async def test_it_is_made_again_when_it_was_lost(self, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("asyncstore.runlog.db._notifying.LISTEN_AGAIN_S", 0.0)
        end = LISTENING.replace("count(*)", "count(pg_terminate_backend(pid))")
        async with opened(postgres_url) as store, connected(postgres_url) as admin, watched(store) as watch:
            await anext(watch)
            for number in range(3):
                waiting = asyncio.create_task(anext(watch))
                await until(partial(self.is_heard, admin, 1))
                assert await admin.fetchval(end) == 1
                await until(partial(self.is_heard, admin, 1))
                await store.add_step_log(step(f"{number}"), RUN)
                assert (await waiting).name == f"{number}"

    async def test_a_watch_is_told_though_nobody_may_listen(self, postgres_url: str) -> None:
        async with opened(postgres_url) as store, connected(postgres_url) as admin, watched(store) as watch:
            await anext(watch)
            database = await admin.fetchval("SELECT current_database()")
            engine = store._open_parts.reader._database.engine if store._open_parts else None
            assert engine is not None
            held = [await engine.connect() for _ in range(3)]
            await admin.execute(f"ALTER DATABASE {database} WITH CONNECTION LIMIT 0")
            for connection in held:
                await connection.close()
            for number in range(2):
                waiting = asyncio.create_task(anext(watch))
                await store.add_step_log(step(f"{number}"), RUN)
                assert (await waiting).name == f"{number}"

    async def test_the_pool_of_an_engine_that_was_given_stays_free(self, postgres_url: str) -> None:
        await create_tables(postgres_url)
        url = postgres_url.replace("postgresql:", "postgresql+asyncpg:")
        engine = create_async_engine(url, pool_size=2, max_overflow=0, pool_timeout=5)
        async with connected(postgres_url) as admin:
            async with DBRunLogStore(engine=engine) as store:
                await store.create_run_log(RUN, status=PROCESSING)
                async with watched(store) as watch:
                    await anext(watch)
                    waiting = asyncio.create_task(anext(watch))
                    await until(partial(self.is_heard, admin, 1))
                    async with asyncio.TaskGroup() as group:
                        for number in range(20):
                            group.create_task(store.add_step_log(step(f"{number}"), RUN))
                            group.create_task(store.get_run_log_by_id(RUN))
                    names = {(await waiting).name} | {(await anext(watch)).name for _ in range(19)}
                    assert names == {f"{number}" for number in range(20)}
            assert await self.is_heard(admin, 0)
            assert cast("Any", engine.pool).checkedout() == 0
        await engine.dispose()


class TestClosing:
    """A store can be closed whatever has become of its watches."""

    @staticmethod
    async def nothing_is_open(url: str) -> bool:
        if url.startswith("sqlite"):
            path = url.removeprefix("sqlite:///")
            return not [file for file in psutil.Process().open_files() if file.path.startswith(path)]
        async with connected(url) as admin:
            others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            return bool(await admin.fetchval(others) == 1)

    async def test_watches_that_nobody_closed(self, url: str) -> None:
        async with opened(url) as store:
            watch = cast("AsyncGenerator[Fragment, None]", store.watch(RUN))
            await anext(watch)
            with contextlib.suppress(TimeoutError):
                # Long enough that it waits for changes, or is about to.
                await asyncio.wait_for(anext(watch), 0.3)
            abandoned = cast("AsyncGenerator[Fragment, None]", store.watch(RUN))
            await anext(abandoned)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await until(partial(self.nothing_is_open, url))
        with pytest.raises(ClosedError):
            await anext(abandoned)
        await aclosing(watch).__aexit__(None, None, None)

    async def test_a_watch_that_waits_when_the_store_is_closed(self, url: str) -> None:
        async with opened(url) as store:
            watch = cast("AsyncGenerator[Fragment, None]", store.watch(RUN))
            await anext(watch)
            waiting = asyncio.create_task(anext(watch))
            await asyncio.sleep(0.3)
        with pytest.raises(ClosedError):
            await waiting
        await until(partial(self.nothing_is_open, url))

    @pytest.mark.filterwarnings("error")
    async def test_a_watch_cancelled_at_whatever_moment(self, url: str) -> None:
        async with opened(url) as store:
            for turns in range(0, 60, 3):

                async def watch() -> None:
                    async for _ in store.watch(RUN):
                        pass

                task = asyncio.create_task(watch())
                for _ in range(turns):
                    await asyncio.sleep(0)
                await asyncio.sleep(0.02 * (turns % 4))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await store.add_step_log(step("a"), RUN)
            async with viewed(store) as view:
                assert await seen(view) == ["a"]
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await until(partial(self.nothing_is_open, url))
        gc.collect()


async def test_a_file_that_others_write_to_is_read_again(sqlite_url: str, tmp_path: Path) -> None:
    async with opened(sqlite_url) as store, DBRunLogStore(connection_string=sqlite_url) as other, viewed(store) as view:
        await other.add_step_log(step("a"), RUN)
        assert await seen(view) == ["a"]
        # Another run's row in the place of one that was deleted is nothing new here.
        await other.create_run_log("other")
        assert await seen(view) == []
        await other.delete_run_log("other")
        await other.add_step_log(step("b"), RUN)
        assert await seen(view) == ["b"]
        await other.delete_run_log(RUN)
        async with watched(store) as watch:
            with pytest.raises(RunLogNotFoundError):
                await anext(watch)
