"""Stopping a call at any await of any task that it makes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["cancelled_at_any"]


class _Awaits:
    """Counts awaits, and calls ``stop`` soon after the nth."""

    def __init__(self, nth: int, stop: Callable[[], object]) -> None:
        self._nth = nth
        self._stop = stop
        self.count = 0

    def task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        """Make a task whose awaits count."""
        return asyncio.Task(_Counted(coroutine, self), loop=loop, **options)

    def note(self) -> None:
        """Count one more."""
        self.count += 1
        if self.count == self._nth:
            asyncio.get_running_loop().call_soon(self._stop)


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine each of whose awaits is noted."""

    def __init__(self, inner: Coroutine[Any, Any, Any], awaits: _Awaits) -> None:
        self._inner = inner
        self._awaits = awaits

    def __repr__(self) -> str:
        return f"<counted {self._inner!r}>"

    def __await__(self) -> Any:
        return self._inner.__await__()

    def send(self, value: Any) -> Any:
        """Go on."""
        waited_for = self._inner.send(value)
        self._awaits.note()
        return waited_for

    def throw(self, *error: Any) -> Any:
        """Go on with an error."""
        waited_for = self._inner.throw(*error)
        self._awaits.note()
        return waited_for

    def close(self) -> None:
        """End."""
        self._inner.close()


async def cancelled_at_any(
    nth: int, coroutine: Coroutine[Any, Any, Any], *, again_s: float = 0.0
) -> tuple[bool, asyncio.Task[Any], float]:
    """
    Run a coroutine and cancel it at the nth await that it and all tasks made by it come to, from 1.

    Args:
        nth: number of the await.
        coroutine: what is run.
        again_s: after so many seconds it is cancelled once more, and again and again until it ends; 0 is once only.

    Returns:
        Whether it lasted until then, its task, which is done, and how many seconds after its cancellation it was.
    """
    loop = asyncio.get_running_loop()
    stopped_at = 0.0

    def stop() -> None:
        nonlocal stopped_at
        stopped_at = stopped_at or loop.time()
        task.cancel()
        if again_s and not task.done():
            loop.call_later(again_s, stop)

    awaits = _Awaits(nth, stop)
    usual = loop.get_task_factory()
    loop.set_task_factory(awaits.task)
    try:
        task = loop.create_task(coroutine)
        await asyncio.wait([task])
    finally:
        loop.set_task_factory(usual)
    return bool(stopped_at), task, loop.time() - stopped_at if stopped_at else 0.0
