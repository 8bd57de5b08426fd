"""Blocking work in threads, for callers that may be cancelled while the thread still runs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar

from asyncstore._core.concurrency import settle, to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Stop", "in_own_thread", "in_stoppable_thread", "in_thread"]

Stop: TypeAlias = "Callable[[], bool]"
"""Tells work in a thread that nobody waits for it any more."""

P = ParamSpec("P")
R = TypeVar("R")


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """
    Return ``function(*args, **kwargs)``, run in a thread.

    Unlike :func:`asyncio.to_thread`, a cancelled caller waits until the thread is done: whatever it had open is closed,
    and nothing is written behind the back of a caller that has gone on. So give it short work.
    """
    return await to_its_end(asyncio.get_running_loop().run_in_executor(None, lambda: function(*args, **kwargs)))


async def in_stoppable_thread(function: Callable[[Stop], R]) -> R:
    """
    Return ``function(stop)``, run in a thread; long work asks ``stop()`` now and then, and ends if it says so.

    Like :func:`in_thread` it waits for the thread when the caller is cancelled, so asking every few blocks keeps that
    short.
    """
    stopped = threading.Event()
    work = asyncio.get_running_loop().run_in_executor(None, lambda: function(stopped.is_set))
    return await to_its_end(work, on_cancel=stopped.set)


def in_own_thread(function: Callable[[], R]) -> asyncio.Future[R]:
    """Return a future for what ``function()`` returns or raises in a thread of its own, which ends with it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[R] = loop.create_future()

    def run() -> None:
        outcome: tuple[R | None, BaseException | None]
        try:
            outcome = function(), None
        except BaseException as error:
            outcome = None, error
        # Where the loop is closed nobody waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, future, *outcome)

    threading.Thread(target=run, daemon=True).start()
    return future
