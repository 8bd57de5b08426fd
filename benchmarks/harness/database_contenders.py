"""Those who are measured at a database, each a worker of its own: asyncstore, SQLAlchemy and the bare drivers."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sqlite3
import statistics
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiosqlite
import asyncpg

from asyncstore import DBRunLogStore, StepLog
from harness.database_peers import LOCK_WAIT_S, Aiosqlite, AsyncpgBatches, AsyncpgPool, SqlAlchemy, Sqlite3, file_of
from harness.loops import new_runner
from harness.store import Asyncstore, Figures
from harness.work import step_fields
from harness.worker import measured, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

WATCH_DEADLINE_S = 60.0
"""How long after the end of a run its watcher may take to hear of it."""


class DatabaseStore(Asyncstore):
    """
    The store on a database.

    Args:
        store: open.
    """

    def __init__(self, store: DBRunLogStore) -> None:
        super().__init__(store)
        self._watching: asyncio.Task[dict[str, Any]] | None = None

    async def read_each(self, run_ids: Sequence[str], count: int) -> Figures:
        """Read runs in full, one after the other."""
        found, latencies_s = [], []
        with measured() as figures:
            for run_id in run_ids:
                start = time.perf_counter()
                run_log = await self._store.get_run_log_by_id(run_id)
                latencies_s.append(time.perf_counter() - start)
                found.append(run_log.steps)
        wanted = {step.internal_name: step for step in self._some_steps(count)}
        if any(steps != wanted for steps in found):
            raise ValueError(f"a run has other steps than the {count} that were filled in")
        return {**figures, "median_s": statistics.median(latencies_s)}

    async def list_each(self, lists: int, limit: int) -> Figures:
        """List the newest runs, over and over."""
        latencies_s = []
        with measured() as figures:
            for _ in range(lists):
                start = time.perf_counter()
                listed = [run async for run in self._store.list_run_logs(limit=limit)]
                latencies_s.append(time.perf_counter() - start)
                if len({run.run_id for run in listed}) != limit:
                    raise ValueError(f"listed {len(listed)} runs and not {limit}")
        return {**figures, "median_s": statistics.median(latencies_s)}

    async def add_during(self, run_id: str, first: int, start_s: float, seconds: float) -> dict[str, Any]:
        """
        Add step logs one after the other for some time, numbered from ``first`` on.

        Args:
            run_id: the run.
            first: number of the first step log.
            start_s: when to begin, by the clock that is the same for all processes of a machine.
            seconds: how long to go on.
        """
        acknowledged_ns = []
        await asyncio.sleep(start_s - time.monotonic())
        with measured() as figures:
            number, end_ns = first, time.monotonic_ns() + int(seconds * 1e9)
            while time.monotonic_ns() < end_ns:
                await self._store.add_step_log(StepLog(**step_fields(number)), run_id)  # type: ignore[arg-type]
                acknowledged_ns.append(time.monotonic_ns())
                number += 1
        return {**figures, "acknowledged_ns": acknowledged_ns}

    async def watch_begin(self, run_id: str) -> None:
        """Watch a run, and return as soon as its header was seen."""
        began = asyncio.Event()
        self._watching = asyncio.create_task(self._watch(run_id, began))
        await began.wait()

    async def watch_end(self) -> dict[str, Any]:
        """Wait until the watch has seen the end of the run; tell when each part was seen first, and what it cost."""
        assert self._watching is not None
        return await asyncio.wait_for(self._watching, WATCH_DEADLINE_S)

    async def _watch(self, run_id: str, began: asyncio.Event) -> dict[str, Any]:
        seen_ns: dict[str, int] = {}
        try:
            with measured() as figures:
                async for fragment in self._store.watch(run_id):
                    seen_ns.setdefault(fragment.key.name, time.monotonic_ns())
                    began.set()
        finally:
            began.set()
        return {**figures, "seen_ns": seen_ns}


async def open_contender(kind: str, url: str, stack: AsyncExitStack) -> object:
    """Open the one of that kind."""
    match kind:
        case "asyncstore":
            return DatabaseStore(await stack.enter_async_context(DBRunLogStore(connection_string=url)))
        case "sqlalchemy":
            return SqlAlchemy(url, await stack.enter_async_context(AsyncExitStack()))
        case "asyncpg":
            return AsyncpgPool(url, await stack.enter_async_context(AsyncExitStack()))
        case "aiosqlite":
            opened = await stack.enter_async_context(aiosqlite.connect(file_of(url), timeout=LOCK_WAIT_S))
            await opened.execute("PRAGMA synchronous=FULL")
            return Aiosqlite(opened)
        case "sqlite3":
            # Threads use it one after the other.
            lite = sqlite3.connect(file_of(url), timeout=LOCK_WAIT_S, check_same_thread=False)
            stack.enter_context(contextlib.closing(lite))
            lite.execute("PRAGMA synchronous=FULL")
            return Sqlite3(lite)
        case _:
            connection = await asyncpg.connect(url)
            stack.push_async_callback(connection.close)
            return AsyncpgBatches(connection, kind)


def trace_statements(path: Path) -> None:
    """Append every statement that SQLite executes in this process to a file, a line each."""
    connect: Any = sqlite3.connect

    def traced(*args: Any, **options: Any) -> Any:
        connection = connect(*args, **options)
        connection.set_trace_callback(note)
        return connection

    def note(statement: str) -> None:
        with path.open("a") as file:
            file.write(" ".join(statement.split()) + "\n")

    sqlite3.connect = traced


async def run(given: argparse.Namespace) -> None:
    """Open a contender and let it work."""
    async with AsyncExitStack() as stack:
        contender = await open_contender(given.kind, given.url, stack)
        await serve({name: getattr(contender, name) for name in OPERATIONS if hasattr(contender, name)})


KINDS = ("asyncstore", "sqlalchemy", "asyncpg", "unnest", "executemany", "copy", "aiosqlite", "sqlite3")
OPERATIONS = (
    "use", "create", "add", "add_alone", "add_during", "finish", "read", "read_models", "read_each", "list_each",
    "load", "kept", "watch_begin", "watch_end",
)  # fmt: skip


def main() -> None:
    """Read the command line and work."""
    parser = argparse.ArgumentParser(prog="python -m harness.database_contenders")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--url", required=True)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write SQLite's statements there")
    given = parser.parse_args()
    if given.trace:
        trace_statements(given.trace)
    with new_runner(uvloop=given.uvloop) as runner:
        runner.run(run(given))


if __name__ == "__main__":
    main()
