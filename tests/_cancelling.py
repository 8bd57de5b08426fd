"""Stopping a coroutine wherever it can be stopped."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

__all__ = ["Stopping", "cancelled_at"]


class Stopping:
    """
    An awaitable that runs a coroutine and calls ``stop`` at its nth await.

    Args:
        inner: the coroutine.
        nth: number of the await, from 1; 0 never calls ``stop``.
        stop: what to call, as soon as the coroutine waits.
    """

    def __init__(self, inner: Coroutine[Any, Any, Any], nth: int, stop: Callable[[], object]) -> None:
        self._inner = inner
        self._nth = nth
        self._stop = stop
        self.awaits = 0

    async def run(self) -> None:
        """Run the coroutine."""
        await self

    def __await__(self) -> Generator[Any, Any, Any]:
        thrown: BaseException | None = None
        try:
            while True:
                try:
                    waited_for = self._inner.send(None) if thrown is None else self._inner.throw(thrown)
                except StopIteration as end:
                    return end.value
                self.awaits += 1
                if self.awaits == self._nth:
                    asyncio.get_running_loop().call_soon(self._stop)
                try:
                    thrown = None
                    yield waited_for
                except BaseException as error:
                    thrown = error
        finally:
            # An error that its own traceback leads to would keep alive whatever the coroutine held.
            thrown = None


async def cancelled_at(nth: int, coroutine: Coroutine[Any, Any, Any]) -> tuple[bool, asyncio.Task[None]]:
    """
    Run a coroutine and cancel it at its nth await.

    Returns:
        Whether it lasted until then, and its task, which is done.
    """
    stopping = Stopping(coroutine, nth, lambda: task.cancel())
    task = asyncio.create_task(stopping.run())
    await asyncio.wait([task])
    return stopping.awaits >= nth, task
