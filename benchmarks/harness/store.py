"""Any store of asyncstore as a contender, and how long work takes."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from asyncstore import StepLog
from harness.work import TASKS, spread, step_fields
from harness.worker import measured, resident_mib

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncstore import RunLogStore

Figures = dict[str, float]


async def timed(work: Callable[[int], Awaitable[Any]], count: int, tasks: int = TASKS) -> Figures:
    """Measure so many tasks at ``work(0) … work(count - 1)``."""
    with measured() as figures:
        await spread(work, count, tasks)
    return figures


async def timed_alone(work: Callable[[int], Awaitable[Any]], count: int) -> Figures:
    """Measure ``work(0) … work(count - 1)`` one after the other, and the median of what each took."""
    latencies_s = []
    with measured() as figures:
        for number in range(count):
            start = time.perf_counter()
            await work(number)
            latencies_s.append(time.perf_counter() - start)
    return {**figures, "median_s": statistics.median(latencies_s)}


class Asyncstore:
    """
    One of our stores.

    Args:
        store: open.
    """

    def __init__(self, store: RunLogStore) -> None:
        self._store = store
        self._steps: list[StepLog] = []

    async def create(self, run_id: str) -> None:
        """Create a run that is under way."""
        await self._store.create_run_log(run_id, status="PROCESSING")

    async def add(self, run_id: str, count: int, tasks: int = TASKS) -> Figures:
        """Add step logs from so many tasks."""
        steps = self._some_steps(count)
        return await timed(lambda number: self._store.add_step_log(steps[number], run_id), count, tasks)

    async def add_alone(self, run_id: str, count: int) -> Figures:
        """Add step logs one after the other."""
        steps = self._some_steps(count)
        return await timed_alone(lambda number: self._store.add_step_log(steps[number], run_id), count)

    async def rewrite(self, run_id: str, count: int, steps: int) -> Figures:
        """Add the same few step logs over and over from 64 tasks, and tell the memory that is held afterwards."""
        models = self._some_steps(steps)
        figures = await timed(lambda number: self._store.add_step_log(models[number % steps], run_id), count)
        return {**figures, "resident_mib": resident_mib()}

    async def finish(self, run_id: str) -> None:
        """End the run."""
        await self._store.update_run_log_status(run_id, "SUCCESS")

    async def read(self, run_id: str, count: int) -> Figures:
        """Read a run in full, into models."""
        with measured() as figures:
            run_log = await self._store.get_run_log_by_id(run_id)
        found, wanted = run_log.steps, self._some_steps(count)
        if found != {step.internal_name: step for step in wanted}:
            raise ValueError(f"read {len(found)} steps that are not the {count} that were written")
        return figures

    def _some_steps(self, count: int) -> list[StepLog]:
        self._steps += [StepLog(**step_fields(number)) for number in range(len(self._steps), count)]  # type: ignore[arg-type]
        return self._steps[:count]
