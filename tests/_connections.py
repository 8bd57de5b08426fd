"""Connections that tests accept: each served by a task of its own, none left open when its server goes."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["Connections", "Pair", "both_ways", "closing"]

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Connections:
    """
    Serves connections, and owns them; what ``asyncio.start_server`` is to call for each.

    Args:
        serve: what to do with one; it is closed at the end, however that comes.
    """

    def __init__(self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self._serve = serve
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one that has been accepted."""
        task = asyncio.get_running_loop().create_task(self._one(reader, writer))
        self._tasks.add(task)
        # Also where it is cancelled before its first step.
        task.add_done_callback(partial(self._ended, writer))

    def cut(self) -> None:
        """Break all that there are."""
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        """Break all that there are, and wait until they are gone."""
        self.cut()
        while self._tasks:
            await asyncio.wait(self._tasks)
        # The transports' last step is one of the loop's.
        await asyncio.sleep(0)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await self._serve(reader, writer)
            writer.close()
            await writer.wait_closed()

    def _ended(self, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        writer.transport.abort()
        self._tasks.discard(task)


@asynccontextmanager
async def closing(opening: Awaitable[Pair]) -> AsyncIterator[Pair]:
    """Hold a connection open for the block; what was written is delivered, unless the block is left by an error."""
    reader, writer = await opening
    try:
        yield reader, writer
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    finally:
        writer.transport.abort()


async def both_ways(*passing: Awaitable[None]) -> None:
    """Pass bytes on until one end has no more to say: the other is not waited for then."""
    tasks = [asyncio.ensure_future(one) for one in passing]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
