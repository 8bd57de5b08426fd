"""Event loops that follow each other, run side by side, and are left behind by a fork."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import ClosedError
from asyncstore.models import StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

DEADLINE_S = 60

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.fixture(params=["sqlite_url", "postgres_url", "pgbouncer_url"])
def empty(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def behind_pgbouncer(request: pytest.FixtureRequest) -> bool:
    return "pgbouncer" in request.node.name


@pytest.fixture
async def url(empty: str, behind_pgbouncer: bool) -> str:
    await create_tables(empty, pgbouncer=behind_pgbouncer)
    return empty


@pytest.fixture
def make(url: str, behind_pgbouncer: bool) -> Callable[[], DBRunLogStore]:
    return lambda: DBRunLogStore(connection_string=url, pgbouncer=behind_pgbouncer)


def step(name: str) -> StepLog:
    return StepLog(name=name, internal_name=name)


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    """Do what ``asyncio.run`` does, in a thread of its own, whose failure is this one's."""
    failures: list[BaseException] = []

    def body() -> None:
        try:
            asyncio.run(asyncio.wait_for(main(), DEADLINE_S))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def test_loops_one_after_the_other_each_with_a_store(make: Callable[[], DBRunLogStore]) -> None:
    async def first() -> None:
        async with make() as store:
            await store.create_run_log("run")
            await store.add_step_log(step("first"), "run")

    async def second() -> None:
        async with make() as store:
            await store.add_step_log(step("second"), "run")
            assert list((await store.get_run_log_by_id("run")).steps) == ["first", "second"]

    run(first)
    run(second)


def test_a_store_does_not_survive_its_loop(make: Callable[[], DBRunLogStore]) -> None:
    store = make()

    async def first() -> None:
        async with store:
            await store.create_run_log("run")

    async def second() -> None:
        with pytest.raises(ClosedError, match="it was closed"):
            await store.get_run_log_by_id("run")
        with pytest.raises(ClosedError, match="it was closed"):
            await store.open()
        await store.aclose()

    run(first)
    run(second)


def test_a_store_says_that_it_belongs_to_another_loop(make: Callable[[], DBRunLogStore]) -> None:
    store = make()

    async def opener() -> None:
        await store.open()
        await store.create_run_log("run")
        await asyncio.to_thread(run, stranger)
        # The stranger has done no harm.
        await store.add_step_log(step("a"), "run")
        await store.aclose()

    async def stranger() -> None:
        for call in (
            store.get_run_log_by_id("run"),
            store.add_step_log(step("b"), "run"),
            store.create_run_log("other"),
            store.set_parameters("run", {"a": 1}),
            store.delete_run_log("run"),
            store.open(),
        ):
            with pytest.raises(ClosedError, match="another event loop"):
                await call
        with pytest.raises(ClosedError, match="another event loop"):
            await anext(store.list_run_logs())

    run(opener)

    async def after() -> None:
        async with make() as other:
            assert list((await other.get_run_log_by_id("run")).steps) == ["a"]

    run(after)


def test_two_loops_in_two_threads(make: Callable[[], DBRunLogStore]) -> None:
    async def prepare() -> None:
        async with make() as store:
            await store.create_run_log("run")

    run(prepare)
    together = threading.Barrier(2)

    def working(letter: str) -> Callable[[], Coroutine[object, object, None]]:
        async def work() -> None:
            async with make() as store:
                await asyncio.to_thread(together.wait, DEADLINE_S)
                async with asyncio.TaskGroup() as group:
                    for number in range(50):
                        group.create_task(store.add_step_log(step(f"{letter}{number}"), "run"))
                        group.create_task(store.set_parameters("run", {f"{letter}{number}": number}))
                assert len((await store.get_run_log_by_id("run")).steps) >= 50

        return work

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(run, working("a")))
            group.create_task(asyncio.to_thread(run, working("b")))
        async with make() as store:
            found = await store.get_run_log_by_id("run")
            assert len(found.steps) == len(found.parameters) == 100

    run(both)


FORKING = """
import asyncio, gc, multiprocessing, os, sys, threading

from asyncstore.errors import ClosedError
from asyncstore.models import StepLog
from asyncstore.runlog.db import DBRunLogStore

url, behind_pgbouncer, way = sys.argv[1], sys.argv[2] == "True", sys.argv[3]
named = f"{url}&application_name=parent" if url.startswith("postgresql") else url
# More than are ever wanted at once, so that the pool itself closes none: it closes those that come back last, whichever
# they are, and what is missing afterwards is to be the child's doing.
store = DBRunLogStore(connection_string=named, pgbouncer=behind_pgbouncer, pool_size=16)


def step(name):
    return StepLog(name=name, internal_name=name)


async def refused(call):
    try:
        await call
    except ClosedError as error:
        assert "fork" in str(error), error
    else:
        raise AssertionError(f"{call} worked")


async def child():
    await refused(store.get_run_log_by_id("run"))
    await refused(store.add_step_log(step("a"), "run"))
    await refused(store.create_run_log("other"))
    await refused(store.open())
    await refused(store.list_run_logs().__anext__())
    await store.aclose()
    async with DBRunLogStore(connection_string=url, pgbouncer=behind_pgbouncer) as own:
        await own.add_step_log(step(f"child-{way}"), "run")
        assert "before" in (await own.get_run_log_by_id("run")).steps


def in_child():
    global store
    asyncio.run(child())
    if way == "collected":
        store = None
        gc.collect()


def in_thread():
    # Else asyncio refuses to run a second loop while this process's own is running, though it is the parent's.
    thread = threading.Thread(target=in_child)
    failed = []
    threading.excepthook = lambda args: (sys.__excepthook__(*args[:3]), failed.append(1))
    thread.start()
    thread.join()
    if failed:
        os._exit(1)


async def before():
    await store.open()
    await store.create_run_log("run")
    await asyncio.gather(*(store.get_run_log_by_id("run") for _ in range(4)))
    await store.add_step_log(step("before"), "run")
    return await pids()


async def after(ended, own):
    # Writes go on while the child lives.
    await store.add_step_log(step("meanwhile"), "run")
    assert await asyncio.to_thread(ended) == 0
    await asyncio.gather(*(store.add_step_log(step(f"after-{n}"), "run") for n in range(20)))
    await asyncio.gather(*(store.update_run_log_status("run", "SUCCESS") for n in range(3)))
    # At once and more than before, so that each connection is used: one that the child ended is gone then.
    reads = await asyncio.gather(*(store.get_run_log_by_id("run") for _ in range(8)))
    wanted = {"before", f"child-{way}", "meanwhile", *(f"after-{n}" for n in range(20))}
    assert {frozenset(read.steps) for read in reads} == {frozenset(wanted)}, [sorted(r.steps) for r in reads]
    assert own <= await pids(), "connections of the parent were lost"
    await store.aclose()
    print("well")


def fork():
    if way == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=in_thread)
        process.start()
        return lambda: process.join() or process.exitcode
    number = os.fork()
    if not number:
        in_thread()
        if way == "teardown":
            sys.exit(0)
        os._exit(0)
    return lambda: os.waitpid(number, 0)[1]


async def parent():
    own = await before()
    await after(fork(), own)


async def pids():
    if not url.startswith("postgresql") or behind_pgbouncer:
        return set()
    import asyncpg
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                                  " AND application_name = 'parent'")
    await connection.close()
    return {row[0] for row in rows}


if way == "teardown":
    # To take down the interpreter, the child must not come out through the parent's loop while that runs.
    runner = asyncio.Runner()
    own = runner.run(before())
    runner.run(asyncio.wait_for(after(fork(), own), 40))
    runner.close()
else:
    asyncio.run(asyncio.wait_for(parent(), 40))
"""


@needs_fork
@pytest.mark.parametrize("way", ["at-once", "collected", "teardown", "multiprocessing"])
def test_a_fork_after_use(url: str, behind_pgbouncer: bool, way: str, tmp_path: Path) -> None:
    script = tmp_path / "forking.py"
    script.write_text(FORKING)
    # Python warns of forks in processes with threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(script), url, str(behind_pgbouncer), way]
    done = subprocess.run(
        command, timeout=DEADLINE_S, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
