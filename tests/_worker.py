"""
A process that works on one store as it is told: a job a line on stdin, what came of it a line on stdout.

:mod:`tests._processes` starts it. It says nothing of its own accord, so a line that was read is a write that was
acknowledged before.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from asyncstore._core import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from asyncstore.runlog.base import RunLogStore

    Say = Callable[[Any], None]
    Job = Callable[..., Coroutine[Any, Any, Any]]

LINE_LIMIT_BYTES = 1 << 26


def say(content: Any) -> None:
    """Write a line at once; whoever reads it knows that all before it has happened."""
    sys.stdout.buffer.write(json.dumps(content).encode() + b"\n")
    sys.stdout.buffer.flush()


class Swaps:
    """When conditional writes of this process were won and how many were lost, seen from outside of the layouts."""

    def __init__(self) -> None:
        self.won_ns: list[int] = []
        self.lost = 0

    def note(self, object_store: Any) -> None:
        """Take note of what the class ``object_store`` puts from now on."""
        put = object_store.put

        async def noting(*args: Any, **options: Any) -> str:
            conditional = "condition" in options
            try:
                etag: str = await put(*args, **options)
            except Exception:
                self.lost += conditional
                raise
            if conditional:
                self.won_ns.append(time.monotonic_ns())
            return etag

        object_store.put = noting


SWAPS = Swaps()


async def add_steps(store: RunLogStore, *, run_id: str, writer: str, tasks: int, steps: int) -> Any:
    """Add steps from many tasks, each task one after the other, and write its first one again with another message."""
    written: list[tuple[str, int, int]] = []
    rewritten: list[tuple[int, int]] = []

    async def write(task: int) -> None:
        for number in range(steps):
            step = store.create_step_log(str(number), f"{writer}-{task}-{number}")
            step.message = f"{writer} wrote {task} {number}"
            began_ns = time.monotonic_ns()
            await store.add_step_log(step, run_id)
            written.append((step.internal_name, began_ns, time.monotonic_ns()))
        step = store.create_step_log("0", f"{writer}-{task}-0")
        step.message = f"{writer} wrote {task} 0 again"
        began_ns = time.monotonic_ns()
        await store.add_step_log(step, run_id)
        rewritten.append((began_ns, time.monotonic_ns()))

    async with asyncio.TaskGroup() as group:
        for task in range(tasks):
            group.create_task(write(task))
    won_ns, SWAPS.won_ns = SWAPS.won_ns, []
    lost, SWAPS.lost = SWAPS.lost, 0
    return {"written": written, "rewritten": rewritten, "won_ns": won_ns, "lost": lost}


async def create_run(store: RunLogStore, *, run_id: str, writer: str, tasks: int) -> list[str]:
    """Create one run from many tasks, and return the tags of those that were told they have."""
    from asyncstore.errors import RunLogExistsError

    async def create(tag: str) -> None:
        try:
            await store.create_run_log(run_id, tag=tag)
        except RunLogExistsError:
            return
        winners.append(tag)

    winners: list[str] = []
    async with asyncio.TaskGroup() as group:
        for task in range(tasks):
            group.create_task(create(f"{writer}-{task}"))
    return winners


async def write_until_killed(store: RunLogStore, *, run_id: str, writer: str, tasks: int, versions: int) -> None:
    """Write steps again and again, a number of versions of each, and say each version once it is acknowledged."""

    async def write(task: int) -> None:
        number = 0
        while True:
            step = store.create_step_log(str(number), f"{writer}-{task}-{number}")
            for version in range(versions):
                step.message = f"version {version}"
                step.user_defined_metrics = {"filler": "x" * 4096, "version": version}
                await store.add_step_log(step, run_id)
                say({"step": step.internal_name, "version": version})
            number += 1

    async with asyncio.TaskGroup() as group:
        for task in range(tasks):
            group.create_task(write(task))


async def write_through_faults(
    store: RunLogStore, *, run_id: str, writer: str, tasks: int, versions: int, runs_every: int, until: str
) -> list[dict[str, Any]]:
    """
    Write steps, and create runs, until there is a file ``until``; return what came of each write, and when.

    An error that says the database was away is an outcome; any other ends the worker.
    """
    from asyncstore.errors import OutcomeUnknownError, UnavailableError

    outcomes: list[dict[str, Any]] = []

    async def tell(write: Coroutine[Any, Any, Any], **what: Any) -> None:
        began_ns = time.monotonic_ns()
        outcome = ""
        key = ""
        try:
            await write
        except OutcomeUnknownError as error:
            outcome, key = "unknown", error.key
        except UnavailableError:
            outcome = "unavailable"
        ended_ns = time.monotonic_ns()
        outcomes.append({**what, "began_ns": began_ns, "ended_ns": ended_ns, "outcome": outcome, "key": key})
        say({"outcome": outcome})

    async def write(task: int) -> None:
        number = 0
        while not os.path.exists(until):  # noqa: ASYNC240 - a microsecond, beside writes that take hundreds
            name = f"{writer}-{task}-{number}"
            for version in range(versions):
                step = store.create_step_log(str(number), name)
                step.user_defined_metrics = {"filler": "x" * 500, "version": version}
                await tell(store.add_step_log(step, run_id), step=name, version=version)
            if number % runs_every == 0:
                await tell(store.create_run_log(name, tag="whole"), run=name)
            number += 1

    async with asyncio.TaskGroup() as group:
        for task in range(tasks):
            group.create_task(write(task))
    return outcomes


async def write_versions(
    store: RunLogStore, *, run_id: str, writer: str, tasks: int, steps: int, versions: int, pause_s: float
) -> list[tuple[str, int, int, int]]:
    """Write each version of each step, at a measured pace; return name, version, beginning and end of each."""
    written = []

    async def write(task: int) -> None:
        for number in range(steps):
            step = store.create_step_log(str(number), f"{writer}-{task}-{number}")
            for version in range(versions):
                step.message = str(version)
                began_ns = time.monotonic_ns()
                await store.add_step_log(step, run_id)
                written.append((step.internal_name, version, began_ns, time.monotonic_ns()))
                await asyncio.sleep(pause_s)

    async with asyncio.TaskGroup() as group:
        for task in range(tasks):
            group.create_task(write(task))
    return written


async def watch(store: RunLogStore, *, run_id: str, cursor: str | None, cursor_every: int) -> None:
    """Say what a watch yields, when, and now and then its cursor."""
    told = 0
    async for fragment in store.watch(run_id, cursor=cursor):
        at_ns = time.monotonic_ns()
        told += 1
        value = fragment.value
        what = value["status"] if fragment.kind == "RunLog" else value["message"]
        place = {} if told % cursor_every else {"cursor": fragment.cursor}
        say({"kind": fragment.kind, "name": fragment.name, "what": what, "at_ns": at_ns, **place})


async def call(store: RunLogStore, *, method: str, arguments: list[Any]) -> Any:
    """Call a method of the store; a step or a run is returned as a mapping, an error as its class and message."""
    from asyncstore.errors import AsyncStoreError

    try:
        result = getattr(store, method)(*arguments)
        if hasattr(result, "__aiter__"):
            return {"result": [str(item) async for item in result]}
        result = await result
    except AsyncStoreError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"result": result.model_dump(mode="json") if hasattr(result, "model_dump") else result}


async def add_parts(store: RunLogStore, *, run_id: str, name: str) -> None:
    """Add a step, a branch of the step ``fan``, and a parameter, one after the other."""
    await store.add_step_log(store.create_step_log(name, name), run_id)
    await store.add_branch_log(store.create_branch_log(f"fan.{name}"), run_id)
    await store.set_parameters(run_id, {name: 1})


JOBS: dict[str, Job] = {
    job.__name__: job
    for job in (
        add_steps,
        create_run,
        write_until_killed,
        write_through_faults,
        write_versions,
        watch,
        call,
        add_parts,
    )
}


async def main(module: str, name: str, options: dict[str, Any]) -> None:
    """Do what stdin says until it ends."""
    from asyncstore.objects.s3 import S3ObjectStore

    SWAPS.note(S3ObjectStore)
    make_store = getattr(importlib.import_module(module), name)
    orders = asyncio.StreamReader(limit=LINE_LIMIT_BYTES)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    async with make_store(**options) as store:
        say({"result": "open"})
        while line := await orders.readline():
            job, arguments = json.loads(line)
            say({"result": await JOBS[job](store, **arguments)})
    transport.close()


if __name__ == "__main__":
    module, name, options, wall_offset_s = json.loads(sys.argv[1])
    # Before any store is imported: they take the process's clock from here.
    clock.PROCESS_CLOCK = clock.HybridClock(lambda: time.time_ns() // 1000 + wall_offset_s * 1_000_000)
    asyncio.run(main(module, name, options))
