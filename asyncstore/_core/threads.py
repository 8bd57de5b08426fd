"""Blocking work in threads, for callers that may be cancelled while the thread still runs."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar

from asyncstore._core.concurrency import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Stop", "in_stoppable_thread", "in_thread"]

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
