"""The work that is measured, the same for everybody: step logs, and the tasks that get through them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TASKS = 64
"""Tasks that share a piece of work, unless said otherwise, and most requests in flight for a peer."""


def step_fields(number: int) -> dict[str, str]:
    """Return the fields of one step log."""
    name = f"step-{number}"
    return {"name": name, "internal_name": name, "status": "SUCCESS", "message": "m" * 200}


async def spread(work: Callable[[int], Awaitable[Any]], count: int, tasks: int = TASKS) -> float:
    """Await ``work(0) … work(count - 1)`` from so many tasks and return the seconds it took."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await work(number)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(worker())
    return time.perf_counter() - start
