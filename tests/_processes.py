"""Processes of their own that work on one store side by side, driven over pipes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import IO

    import pytest

    from asyncstore.runlog.base import RunLogStore

__all__ = ["FULL", "Worker", "all_do", "short_or_full", "tell", "worker_process", "worker_processes"]

FULL = os.environ.get("HYPOTHESIS_PROFILE") == "sweep"
"""Whether sweeps are to be long, which is what ``nox -s sweeps`` asks for."""

LINE_LIMIT_BYTES = 1 << 26
SCRIPT = Path(__file__).with_name("_worker.py")


def short_or_full(short: int, full: int) -> int:
    """Return how much a sweep is to do."""
    return full if FULL else short


def tell(capsys: pytest.CaptureFixture[str], figures: str) -> None:
    """Show figures that a test has measured: in a long sweep to whoever runs it, else where the test's output goes."""
    with capsys.disabled() if FULL else contextlib.nullcontext():
        sys.stdout.write(f"\n{figures}\n")


class Worker:
    """A process with a store open in it, doing one job at a time; the jobs are in :mod:`tests._worker`."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors

    async def begin(self, job: str, **arguments: Any) -> None:
        """Have it begin a job."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([job, arguments]).encode() + b"\n")
        await self._process.stdin.drain()

    async def said(self) -> Any:
        """
        Return the next thing that it says: ``{"result": …}`` at the end of a job, or what the job says meanwhile.

        Raises:
            EOFError: it has died, and everything it said before has been returned.
        """
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            await self._process.wait()
            raise EOFError(f"the worker ended with {self._process.returncode}: {self._complaints()}")
        return json.loads(line)

    async def result(self) -> Any:
        """Return what the job under way returns."""
        return (await self.said())["result"]

    async def do(self, job: str, **arguments: Any) -> Any:
        """Have it do a job and return what that returns."""
        await self.begin(job, **arguments)
        return await self.result()

    async def call(self, method: str, *arguments: Any) -> Any:
        """Have it call a method of its store; what it returns or raises comes as a mapping."""
        return await self.do("call", method=method, arguments=list(arguments))

    async def kill(self) -> None:
        """End it as ``kill -9`` does; what it said before can still be read."""
        self._process.kill()
        await self._process.wait()

    async def end(self) -> None:
        """Have it close its store and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert await self._process.wait() == 0, self._complaints()

    async def abandon(self) -> None:
        """End it in whatever state it is."""
        if self._process.returncode is None:
            self._process.kill()
        # Reads the pipes to their ends too, so that nothing of them is left on the loop.
        await self._process.communicate()

    def _complaints(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-3000:]


@asynccontextmanager
async def worker_process(
    store: type[RunLogStore], options: Mapping[str, Any], *, wall_offset_s: int = 0
) -> AsyncIterator[Worker]:
    """
    Run a process with a store open in it within the ``async with`` block.

    Args:
        store: class of the store.
        options: its configuration.
        wall_offset_s: how far the process's clock is ahead.
    """
    async with _starting(store, options, wall_offset_s) as worker:
        assert await worker.result() == "open"
        yield worker


@asynccontextmanager
async def worker_processes(
    count: int, store: type[RunLogStore], options: Mapping[str, Any]
) -> AsyncIterator[list[Worker]]:
    """Run several; see :func:`worker_process`."""
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(_starting(store, options, 0)) for _ in range(count)]
        for worker in workers:
            assert await worker.result() == "open"
        yield workers


@asynccontextmanager
async def _starting(store: type[RunLogStore], options: Mapping[str, Any], wall_offset_s: int) -> AsyncIterator[Worker]:
    job = json.dumps([store.__module__, store.__name__, dict(options), wall_offset_s])
    # The package that is tested, installed or not, whatever folder the tests are run from.
    folders = [Path(asyncstore.__file__).parents[1], Path(__file__).parents[1]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-W", "error", str(SCRIPT), job),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=environment,
            limit=LINE_LIMIT_BYTES,
        )
        worker = Worker(process, errors)
        try:
            yield worker
            if process.returncode is None:
                await worker.end()
        finally:
            await worker.abandon()


async def all_do(workers: list[Worker], job: str, **arguments: Any) -> list[Any]:
    """Have all of them do a job at once, each told as ``writer`` which of them it is, and return what comes of it."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(worker.do(job, writer=f"w{number}", **arguments)) for number, worker in enumerate(workers)
        ]
    return [task.result() for task in tasks]
