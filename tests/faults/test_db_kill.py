"""
Processes and servers killed under load: what was acknowledged is there, once, whole and in order.

A write that raised :class:`OutcomeUnknownError` is there or not, one that raised :class:`UnavailableError` is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sqlite3
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from asyncstore.runlog.db import DBRunLogStore, create_tables
from asyncstore.testing.postgres import PostgresServer, postgres_server
from tests._impatient import ImpatientDBRunLogStore
from tests._processes import FULL, all_do, short_or_full, tell, worker_processes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests._processes import Worker

    Outcome = dict[str, Any]
    Written = list[tuple[str, int, int]]

VERSIONS = 3
FILLER = "x" * 500


# Postgres.


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server(durable=True) as server:
        yield server


@pytest.fixture
async def url(server: PostgresServer) -> AsyncIterator[str]:
    async with server.database() as url:
        await create_tables(url)
        async with DBRunLogStore(connection_string=url) as store:
            await store.create_run_log("run")
        yield url


def kill(server: PostgresServer) -> None:
    server.kill()
    server.start()


def stop_immediately(server: PostgresServer) -> None:
    """Do what ``pg_ctl stop -m immediate`` does, and start again."""
    start_again_after(server, signal.SIGQUIT)


def restart(server: PostgresServer) -> None:
    """Do what ``pg_ctl restart -m fast`` does."""
    start_again_after(server, signal.SIGINT)


def start_again_after(server: PostgresServer, ending: signal.Signals) -> None:
    postmaster = server._server.get_postmaster_info().process
    assert postmaster is not None
    postmaster.send_signal(ending)
    postmaster.wait()
    server.start()


class Load:
    """Worker processes that write as much as they can, and what came of it."""

    def __init__(self, workers: list[Worker], stop: Path) -> None:
        self._workers = workers
        self._stop = stop
        self.outcomes: list[Outcome] = []

    async def begin(self) -> None:
        for number, worker in enumerate(self._workers):
            shape = {"tasks": 8, "versions": VERSIONS, "runs_every": 5}
            await worker.begin(
                "write_through_faults", run_id="run", writer=f"w{number}", until=str(self._stop), **shape
            )

    async def acknowledged(self, count: int) -> None:
        """Return when each of the workers has had so many more writes acknowledged."""
        for worker in self._workers:
            left = count
            while left:
                left -= (await worker.said())["outcome"] == ""

    async def end(self) -> None:
        """Stop, and gather what came of all writes."""
        self._stop.touch()
        for worker in self._workers:
            while "result" not in (said := await worker.said()):
                pass
            self.outcomes += said["result"]


@contextlib.asynccontextmanager
async def load(
    url: str, processes: int, folder: Path, store: type[DBRunLogStore] = DBRunLogStore
) -> AsyncIterator[Load]:
    """Write from processes within the ``async with`` block."""
    async with worker_processes(processes, store, {"connection_string": url}) as workers:
        load = Load(workers, folder / "stop")
        await load.begin()
        yield load
        await load.end()


async def check_outcomes(url: str, outcomes: list[Outcome]) -> str:
    """Check what is in the database against what the writers were told, and say how it was."""
    async with DBRunLogStore(connection_string=url) as store:
        run_log = await store.get_run_log_by_id("run")
        runs = {summary.run_id: summary async for summary in store.list_run_logs()}
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT run_id, attribute_type, attribute_key, attribute_value FROM db_log")
    await connection.close()
    assert len({tuple(row)[:3] for row in rows}) == len(rows)
    assert all(json.loads(row["attribute_value"]) is not None for row in rows)

    attempted: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if "run" in outcome:
            certain = {"": True, "unavailable": False}.get(outcome["outcome"])
            assert certain in (None, outcome["run"] in runs), outcome
        else:
            attempted.setdefault(outcome["step"], []).append(outcome)
        assert outcome["outcome"] != "unknown" or outcome.get("step", outcome.get("run")) in outcome["key"]
    assert run_log.steps.keys() <= attempted.keys()
    for name, tries in attempted.items():
        check_versions(run_log.steps[name].user_defined_metrics if name in run_log.steps else None, tries)
    check_order(list(run_log.steps), {name: tries for name, tries in attempted.items() if name in run_log.steps})
    longest_s = max(outcome["ended_ns"] - outcome["began_ns"] for outcome in outcomes) / 1e9
    return f"{dict(told(outcomes))}, longest wait {longest_s:.2f} s"


def told(outcomes: list[Outcome]) -> Counter[str]:
    """Count what writers were told."""
    return Counter(outcome["outcome"] or "acknowledged" for outcome in outcomes)


def check_versions(found: Any, tries: list[Outcome]) -> None:
    """Check that a step is the last of its versions that was acknowledged, or a later one that may have landed."""
    possible: set[int | None] = {None}
    for tried in tries:
        match tried["outcome"]:
            case "":
                possible = {tried["version"]}
            case "unknown":
                possible.add(tried["version"])
    assert (None if found is None else found["version"]) in possible, tries
    assert found is None or found["filler"] == FILLER


def check_order(names: list[str], attempted: dict[str, list[Outcome]]) -> None:
    """Check that whatever began after something was acknowledged comes after it."""
    earliest_end_ns = None
    for name in reversed(names):
        first = attempted[name][0]
        assert earliest_end_ns is None or first["began_ns"] <= earliest_end_ns, name
        if first["outcome"] == "":
            ended_ns = first["ended_ns"]
            earliest_end_ns = ended_ns if earliest_end_ns is None else min(earliest_end_ns, ended_ns)


SHORT = [[kill, kill], [stop_immediately, restart]]
LONG = [[kill] * 5, [stop_immediately] * 5, [restart] * 5]


@pytest.mark.slow
@pytest.mark.parametrize("ends", LONG if FULL else SHORT, ids=lambda ends: ends[-1].__name__)
async def test_acknowledged_writes_outlive_the_server(
    ends: list[Callable[[PostgresServer], None]],
    server: PostgresServer,
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with load(url, short_or_full(2, 4), tmp_path) as writers:
        for end in ends:
            await writers.acknowledged(100)
            await asyncio.to_thread(end, server)
        await writers.acknowledged(100)
    tell(capsys, f"{[end.__name__ for end in ends]}: {await check_outcomes(url, writers.outcomes)}")
    # Retries outlast all of this, and each finds out what became of the attempt before.
    assert told(writers.outcomes).keys() == {"acknowledged"}


@pytest.mark.slow
async def test_writes_given_up_are_told_apart(
    server: PostgresServer, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with load(url, short_or_full(2, 4), tmp_path, ImpatientDBRunLogStore) as writers:
        for _ in range(short_or_full(1, 5)):
            await writers.acknowledged(100)
            await asyncio.to_thread(kill, server)
        await writers.acknowledged(100)
    tell(capsys, f"killed, giving up soon: {await check_outcomes(url, writers.outcomes)}")
    assert told(writers.outcomes).keys() >= {"acknowledged", "unavailable"}


async def terminate_backends(connection: asyncpg.Connection, name: str) -> None:
    await connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


async def refuse_for_a_while(connection: asyncpg.Connection, name: str) -> None:
    await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await terminate_backends(connection, name)
    await asyncio.sleep(0.3)
    await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.mark.slow
@pytest.mark.parametrize("end", [terminate_backends, refuse_for_a_while])
async def test_acknowledged_writes_outlive_their_connections(
    end: Any, server: PostgresServer, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = url.partition("?")[0].rpartition("/")[2]
    admin = await asyncpg.connect(server.url)
    async with load(url, 2, tmp_path) as writers:
        for _ in range(short_or_full(3, 20)):
            await writers.acknowledged(20)
            await end(admin, name)
        await writers.acknowledged(20)
    await admin.close()
    tell(capsys, f"{end.__name__}: {await check_outcomes(url, writers.outcomes)}")
    assert told(writers.outcomes).keys() == {"acknowledged"}


# SQLite.


@pytest.fixture
async def file_url(sqlite_url: str) -> str:
    await create_tables(sqlite_url)
    return sqlite_url


def path_of(url: str) -> str:
    return url.removeprefix("sqlite:///")


def check_integrity(url: str) -> None:
    """Check the file, from a connection of its own, which recovers what the dead have left."""
    with contextlib.closing(sqlite3.connect(path_of(url))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        total, distinct = connection.execute(
            "SELECT count(*), count(DISTINCT run_id || '/' || attribute_type || '/' || attribute_key) FROM db_log"
        ).fetchone()
        assert total == distinct


async def write_and_be_killed(worker: Worker, writer: str, dice: random.Random) -> dict[str, int]:
    """Return the last version of each step that the worker said was acknowledged, killed at some moment."""
    acknowledged: dict[str, int] = {}

    def note(said: Any) -> None:
        assert acknowledged.get(said["step"], -1) == said["version"] - 1
        acknowledged[said["step"]] = said["version"]

    await worker.begin("write_until_killed", run_id="run", writer=writer, tasks=8, versions=VERSIONS)
    for _ in range(dice.randrange(200)):
        note(await worker.said())
    # It has gone on meanwhile, and is anywhere in its next transactions.
    await asyncio.sleep(dice.uniform(0, 0.01))
    await worker.kill()
    while True:
        try:
            note(await worker.said())
        except EOFError:
            return acknowledged


@pytest.mark.slow
async def test_a_file_outlives_its_writers(file_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"connection_string": file_url}
    kills = versions = 0
    async with DBRunLogStore(**options) as store:
        await store.create_run_log("run")
    for number in range(short_or_full(3, 50)):
        acknowledged: dict[str, int] = {}
        async with worker_processes(4, DBRunLogStore, options) as workers, asyncio.TaskGroup() as group:
            writers = [
                group.create_task(write_and_be_killed(worker, f"{number}-{place}", random.Random(f"{number}-{place}")))
                for place, worker in enumerate(workers)
            ]
        for writer in writers:
            kills += 1
            acknowledged |= writer.result()
        await asyncio.to_thread(check_integrity, file_url)
        async with DBRunLogStore(**options) as store:
            steps = (await store.get_run_log_by_id("run")).steps
            assert acknowledged.keys() <= steps.keys()
            for name, step in steps.items():
                version = step.user_defined_metrics["version"]
                assert step.message == f"version {version}"
                assert step.user_defined_metrics["filler"] == "x" * 4096
                assert isinstance(version, int)
                assert version - acknowledged.get(name, -1) in (0, 1), name
            # The dead hold no lock.
            await store.delete_run_log("run")
            await store.create_run_log("run")
        versions += sum(acknowledged.values()) + len(acknowledged)
    tell(capsys, f"{kills} writers killed, {versions} acknowledged writes all there")


def check_written(names: list[str], told: list[Any], each: int) -> str:
    """Check that everything is there in an order that fits, and say how long the longest wait was."""
    written: Written = [tuple(item) for result in told for item in result["written"]]
    assert len(written) == each * len(told)
    assert sorted(names) == sorted(name for name, _, _ in written)
    check_order(
        names,
        {name: [{"began_ns": began, "ended_ns": ended, "outcome": ""}] for name, began, ended in written},
    )
    rewritten = [item for result in told for item in result["rewritten"]]
    waits_s = sorted((ended - began) / 1e9 for began, ended in [*((b, e) for _, b, e in written), *rewritten])
    longest = max(max((e - b) / 1e9 for _, b, e in result["written"]) for result in told)
    return f"{len(waits_s)} writes, p50 {waits_s[len(waits_s) // 2]:.3f} s, longest wait {longest:.2f} s"


@pytest.mark.slow
@pytest.mark.parametrize("held_s", [0, 20] if FULL else [1])
async def test_nobody_is_told_that_the_file_is_locked(
    held_s: int, file_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"connection_string": file_url}
    tasks, steps = 50, short_or_full(4, 40)
    async with DBRunLogStore(**options) as store, worker_processes(4, DBRunLogStore, options) as workers:
        await store.create_run_log("run")
        # A locked file would be an error that ends the worker.
        async with asyncio.TaskGroup() as group, locked(path_of(file_url)):
            writing = group.create_task(all_do(workers, "add_steps", run_id="run", tasks=tasks, steps=steps))
            await asyncio.sleep(held_s)
            held_until_ns = time.monotonic_ns()
        names = list((await store.get_run_log_by_id("run")).steps)
    await asyncio.to_thread(check_integrity, file_url)
    assert all(ended_ns > held_until_ns for told in writing.result() for _, _, ended_ns in told["written"])
    figures = check_written(names, writing.result(), tasks * steps)
    tell(capsys, f"4 processes × {tasks} tasks, the lock held by a stranger for {held_s} s: {figures}")


@contextlib.asynccontextmanager
async def locked(path: str) -> AsyncIterator[None]:
    """Hold a file's write lock, as another program does."""
    connecting = asyncio.to_thread(sqlite3.connect, path, timeout=60, isolation_level=None, check_same_thread=False)
    with contextlib.closing(await connecting) as connection:
        await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
        yield
        await asyncio.to_thread(connection.execute, "ROLLBACK")
