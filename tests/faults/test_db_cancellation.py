"""
Callers of a database store cancelled at every await: no connection, transaction or task is left, the store works on.

A cancelled write is there whole or not at all. A caller cancelled before its batch starts is taken out of it; after
that its row is committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy.pool import QueuePool

from asyncstore.errors import AsyncStoreError, ClosedError, RunLogNotFoundError
from asyncstore.models import BranchLog, JobLog, RunLog, StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables
from tests._cancelling import cancelled_at
from tests._processes import FULL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    Work = Callable[[DBRunLogStore, int], Coroutine[Any, Any, None]]
    Landed = Callable[[DBRunLogStore, int], Coroutine[Any, Any, None]]

DEADLINE_S = 60.0
"""After this something is held up for ever; whatever is not needs a fraction of a second."""


def step(name: str, **fields: Any) -> StepLog:
    return StepLog(name=name, internal_name=name, **fields)


async def given_back(store: DBRunLogStore, kept: int) -> None:
    """Wait until all connections of an open store but ``kept`` are back in its pool."""
    pool = store._parts.reader._database.engine.pool
    assert isinstance(pool, QueuePool)
    async with asyncio.timeout(DEADLINE_S):
        # Nobody tells of it.
        while pool.checkedout() > kept:  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class Place:
    """A database, seen past the store."""

    kept = 1
    """Connections that an idle store may keep for its writer."""

    def __init__(self, url: str) -> None:
        self.url = url

    def store(self) -> DBRunLogStore:
        """Return a store on it, not yet open."""
        return DBRunLogStore(connection_string=self.url)

    async def check_quiet(self, store: DBRunLogStore) -> None:
        """Check that an open store, idle, holds no transaction, and no connection but its writer's."""
        raise NotImplementedError

    async def check_free(self) -> None:
        """Check that nobody is connected any more."""
        raise NotImplementedError

    def held(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Hold up everybody who writes the step ``gate`` of the run ``run``, which has to be there."""
        raise NotImplementedError

    async def until_a_writer_waits(self) -> None:
        """Return when a writer is held up."""
        raise NotImplementedError


class PostgresPlace(Place):
    def __init__(self, url: str, admin: asyncpg.Connection) -> None:
        super().__init__(url)
        self._admin = admin

    async def check_quiet(self, store: DBRunLogStore) -> None:
        await given_back(store, self.kept)
        await self._settles("state LIKE '%transaction%'", 0)

    async def check_free(self) -> None:
        await self._settles("true", 0)

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        async with self._admin.transaction():
            locked = await self._admin.fetch("SELECT FROM db_log WHERE attribute_key = 'gate' FOR UPDATE")
            assert len(locked) == 1
            yield

    async def until_a_writer_waits(self) -> None:
        await self._settles("wait_event_type = 'Lock'", 1)

    async def _settles(self, condition: str, expected: int) -> None:
        # A server's process takes note of what its client does some time afterwards.
        query = (
            "SELECT array_agg(application_name || ' ' || state || ' ' || query) FROM pg_stat_activity"
            f" WHERE datname = current_database() AND pid <> pg_backend_pid() AND ({condition})"
        )
        try:
            async with asyncio.timeout(DEADLINE_S):
                while len(found := await self._admin.fetchval(query) or []) != expected:  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise AssertionError(f"there stay {found}") from None


class SqlitePlace(Place):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._threads = set(threading.enumerate())

    @property
    def path(self) -> str:
        """The database's file."""
        return self.url.removeprefix("sqlite:///")

    async def check_quiet(self, store: DBRunLogStore) -> None:
        await given_back(store, 0)
        with contextlib.closing(self._connected(0)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")

    async def check_free(self) -> None:
        for thread in set(threading.enumerate()) - self._threads:
            # The loop keeps its own threads for the next one.
            if not thread.name.startswith("asyncio_"):
                await asyncio.to_thread(thread.join, DEADLINE_S)
                assert not thread.is_alive()
        assert not [link for link in self._open_files() if link.startswith(self.path)]

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        with contextlib.closing(self._connected(5)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

    async def until_a_writer_waits(self) -> None:
        # It has tried and failed by then; what follows depends on nothing more than that it was handed to its thread.
        await asyncio.sleep(0.05)

    def _connected(self, timeout_s: float) -> sqlite3.Connection:
        return sqlite3.connect(self.path, isolation_level=None, timeout=timeout_s)

    def _open_files(self) -> Iterator[str]:
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                yield os.readlink(f"/proc/self/fd/{descriptor}")


@pytest.fixture
async def place(url: str) -> AsyncIterator[Place]:
    if url.startswith("sqlite:"):
        yield SqlitePlace(url)
        return
    admin = await asyncpg.connect(url)
    yield PostgresPlace(url, admin)
    await admin.close()


async def check_no_task_is_left() -> None:
    """Let tasks that are about to end do so, and check that there are no others."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        _, left = await asyncio.wait(others, timeout=DEADLINE_S)
        assert not left, left


async def present(reading: Coroutine[Any, Any, Any]) -> Any:
    """Return what is read, ``None`` if it is not there."""
    try:
        return await reading
    except FileNotFoundError:
        return None


# What is cancelled, and how to see afterwards that it is whole or absent.


@dataclass(frozen=True)
class Case:
    work: Work
    check: Landed | None = None
    prepare: Work | None = None


async def add(store: DBRunLogStore, nth: int) -> None:
    await store.add_step_log(step(f"s{nth}", message="x" * 5000), "run")


async def added(store: DBRunLogStore, nth: int) -> None:
    found = await present(store.get_step_log(f"s{nth}", "run"))
    assert found is None or found.message == "x" * 5000


async def add_nested(store: DBRunLogStore, nth: int) -> None:
    branch = BranchLog(internal_name=f"n{nth}.a", steps={f"n{nth}.a.i": StepLog(name="i", internal_name=f"n{nth}.a.i")})
    await store.add_step_log(step(f"n{nth}", branches={f"n{nth}.a": branch}), "run")


async def nested_added(store: DBRunLogStore, nth: int) -> None:
    run_log = await store.get_run_log_by_id("run")
    if f"n{nth}" in run_log.steps:
        # The step's own row goes first, then all that is in it at once.
        assert {name: list(branch.steps) for name, branch in run_log.steps[f"n{nth}"].branches.items()} in (
            {},
            {f"n{nth}.a": [f"n{nth}.a.i"]},
        )


async def set_parameters(store: DBRunLogStore, nth: int) -> None:
    await store.set_parameters("run", {f"p{nth}-{number}": "x" * 500 for number in range(20)})


async def parameters_set(store: DBRunLogStore, nth: int) -> None:
    found = [key for key in await store.get_parameters("run") if key.startswith(f"p{nth}-")]
    assert len(found) in (0, 20)


async def set_status(store: DBRunLogStore, nth: int) -> None:
    await store.update_run_log_status("run", f"S{nth}")


async def status_set(store: DBRunLogStore, nth: int) -> None:
    status = (await store.get_run_log_by_id("run", full=False)).status
    assert status == "CREATED" or status[0] in "SJ"


async def add_job(store: DBRunLogStore, nth: int) -> None:
    await store.add_job_log(JobLog(status=f"J{nth}"), "run")


async def create(store: DBRunLogStore, nth: int) -> None:
    await store.create_run_log(f"c{nth}", tag="whole")


async def created(store: DBRunLogStore, nth: int) -> None:
    found = await present(store.get_run_log_by_id(f"c{nth}"))
    assert found is None or found.tag == "whole"


async def put_whole(store: DBRunLogStore, nth: int) -> None:
    run_log = RunLog(run_id=f"d{nth}", status="SUCCESS", steps={f"s{n}": step(f"s{n}") for n in range(5)})
    await store.put_run_log(run_log)


async def put_landed(store: DBRunLogStore, nth: int) -> None:
    found = await present(store.get_run_log_by_id(f"d{nth}"))
    assert found is None or len(found.steps) == 5


async def delete(store: DBRunLogStore, nth: int) -> None:
    await store.delete_run_log(f"d{nth}")


async def read_whole(store: DBRunLogStore, nth: int) -> None:
    assert (await store.get_run_log_by_id("run")).run_id == "run"


async def read_header(store: DBRunLogStore, nth: int) -> None:
    assert (await store.get_run_log_by_id("run", full=False)).run_id == "run"


async def read_missing(store: DBRunLogStore, nth: int) -> None:
    with pytest.raises(RunLogNotFoundError):
        await store.get_step_log("s", "nowhere")


async def list_runs(store: DBRunLogStore, nth: int) -> None:
    assert "run" in [summary.run_id async for summary in store.list_run_logs()]


async def watch(store: DBRunLogStore, nth: int) -> None:
    async with contextlib.aclosing(store.watch("run")) as watching:  # type: ignore[type-var]
        async for fragment in watching:
            assert fragment.kind == "RunLog"
            break


CASES = {
    "add a step": Case(add, added),
    "add a step with branches": Case(add_nested, nested_added),
    "set parameters": Case(set_parameters, parameters_set),
    "change the status": Case(set_status, status_set),
    "add a job": Case(add_job),
    "create": Case(create, created),
    "put a whole run": Case(put_whole, put_landed),
    "delete": Case(delete, put_landed, put_whole),
    "read in full": Case(read_whole),
    "read the header": Case(read_header),
    "read what is not there": Case(read_missing),
    "list": Case(list_runs),
    "watch": Case(watch),
}


async def check_cancelled_everywhere(place: Place, case: Case) -> int:
    """Cancel the work at each of its awaits; return how many it has."""
    async with place.store() as store:
        await store.create_run_log("run")
        nth, reached = 0, True
        while reached:
            nth += 1
            async with asyncio.timeout(DEADLINE_S):
                if case.prepare is not None:
                    await case.prepare(store, nth)
                reached, task = await cancelled_at(nth, case.work(store, nth))
                assert task.cancelled() or task.exception() is None, nth
                # What comes later waits for what was begun.
                await store.add_step_log(step("after", message=str(nth)), "run")
                await place.check_quiet(store)
                assert (await store.get_step_log("after", "run")).message == str(nth)
                if case.check is not None:
                    await case.check(store, nth)
    await check_no_task_is_left()
    await place.check_free()
    return nth


@pytest.mark.parametrize("case", CASES)
async def test_a_cancelled_caller_leaves_nothing(place: Place, case: str) -> None:
    assert await check_cancelled_everywhere(place, CASES[case]) > 1


@pytest.mark.parametrize("case", ["add a step", "create", "change the status", "delete"])
async def test_a_cancelled_caller_leaves_nothing_on_other_databases(
    postgres_url: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncstore.runlog.db.store._WRITERS", {})
    await create_tables(postgres_url)
    admin = await asyncpg.connect(postgres_url)
    place = PostgresPlace(postgres_url, admin)
    place.kept = 0
    assert await check_cancelled_everywhere(place, CASES[case]) > 1
    await admin.close()


FIRST = list(CASES) if FULL else ["add a step", "change the status", "create", "read in full", "list"]


@pytest.mark.slow
@pytest.mark.parametrize("case", FIRST)
async def test_a_first_call_that_is_cancelled_leaves_nothing(place: Place, case: str) -> None:
    """The store is fresh each time, so that the call has to connect, and is closed at once after the cancellation."""
    nth, reached = 0, True
    async with place.store() as store:
        await store.create_run_log("run")
    while reached:
        nth += 1
        async with asyncio.timeout(DEADLINE_S):
            async with place.store() as store:
                reached, task = await cancelled_at(nth, CASES[case].work(store, nth))
            assert task.cancelled() or task.exception() is None, nth
            await check_no_task_is_left()
        await place.check_free()
    check = CASES[case].check
    async with place.store() as store:
        if check is not None:
            for number in range(1, nth + 1):
                await check(store, number)
    assert nth > 1


# Opening and closing.


async def test_an_opening_that_is_cancelled_leaves_nothing(place: Place) -> None:
    nth, reached = 0, True
    while reached:
        nth += 1
        store = place.store()
        async with asyncio.timeout(DEADLINE_S):
            reached, task = await cancelled_at(nth, store.open())
            assert task.cancelled() or task.exception() is None, nth
            if reached:
                await check_no_task_is_left()
                await place.check_free()
            await store.aclose()
        await place.check_free()
    # It was open in the end.
    assert nth > 2


@pytest.mark.parametrize("writes", [0, 3])
async def test_a_closing_that_is_cancelled_leaves_nothing(place: Place, writes: int) -> None:
    async with place.store() as store:
        await store.create_run_log("run")
    nth, reached = 0, True
    while reached:
        nth += 1
        async with asyncio.timeout(DEADLINE_S):
            store = await place.store().open()
            await store.get_run_log_by_id("run")
            writing = [
                asyncio.create_task(store.add_step_log(step(f"{nth}-{number}", message="whole"), "run"))
                for number in range(writes)
            ]
            reading = asyncio.create_task(store.get_run_log_by_id("run"))
            await asyncio.sleep(0)
            reached, task = await cancelled_at(nth, store.aclose())
            assert task.cancelled() or task.exception() is None, nth
            outcomes = await asyncio.gather(*writing, reading, return_exceptions=True)
            await check_no_task_is_left()
            await place.check_free()
        assert all(isinstance(outcome, RunLog | AsyncStoreError | None) for outcome in outcomes), outcomes
        async with place.store() as other:
            steps = (await other.get_run_log_by_id("run")).steps
        for number, outcome in enumerate(outcomes[:writes]):
            assert outcome is not None or f"{nth}-{number}" in steps, nth
            assert not isinstance(outcome, ClosedError) or f"{nth}-{number}" not in steps, nth
    assert nth > 1


# Batches.


async def test_a_caller_is_taken_out_before_its_batch_starts_and_committed_afterwards(place: Place) -> None:
    async with place.store() as store, asyncio.timeout(DEADLINE_S):
        await store.create_run_log("run")
        await store.add_step_log(step("gate"), "run")
        async with place.held():
            in_flight = asyncio.create_task(store.add_step_log(step("gate", message="committed"), "run"))
            await place.until_a_writer_waits()
            waiting, kept = (asyncio.create_task(store.add_step_log(step(name), "run")) for name in ("out", "kept"))
            await asyncio.sleep(0)
            for task in (in_flight, waiting):
                task.cancel()
            await asyncio.wait([in_flight, waiting])
            assert in_flight.cancelled()
            assert waiting.cancelled()
            assert not kept.done()
        await kept
        steps = (await store.get_run_log_by_id("run")).steps
        assert {name: found.message for name, found in steps.items()} == {"gate": "committed", "kept": ""}
        await place.check_quiet(store)
    await place.check_free()


async def test_closing_drains_what_was_taken(place: Place) -> None:
    store = await place.store().open()
    async with asyncio.timeout(DEADLINE_S):
        await store.create_run_log("run")
        await store.add_step_log(step("gate"), "run")
        async with place.held():
            writing = [asyncio.create_task(store.add_step_log(step("gate", message="committed"), "run"))]
            await place.until_a_writer_waits()
            writing += [asyncio.create_task(store.add_step_log(step(f"{number}"), "run")) for number in range(20)]
            await asyncio.sleep(0)
            closing = asyncio.create_task(store.aclose())
            await asyncio.sleep(0)
            with pytest.raises(ClosedError):
                await store.add_step_log(step("late"), "run")
            assert not closing.done()
        await closing
        assert await asyncio.gather(*writing) == [None] * 21
    await check_no_task_is_left()
    await place.check_free()
    async with place.store() as store:
        steps = (await store.get_run_log_by_id("run")).steps
        assert list(steps) == ["gate", *(f"{number}" for number in range(20))]
        assert steps["gate"].message == "committed"
