"""Blocking work in threads, for callers that may be cancelled while the thread still runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from asyncstore._core.concurrency import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_thread"]

P = ParamSpec("P")
R = TypeVar("R")


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """
    Return ``function(*args, **kwargs)``, run in a thread.

    Unlike :func:`asyncio.to_thread`, a cancelled caller waits until the thread is done: whatever it had open is closed,
    and nothing is written behind the back of a caller that has gone on. So give it short work.
    """
    return await to_its_end(asyncio.get_running_loop().run_in_executor(None, lambda: function(*args, **kwargs)))
