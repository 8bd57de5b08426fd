"""Bounded concurrency: a fixed set of workers pulls from an iterator; one failure stops the rest."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

__all__ = ["both", "ended", "for_each", "map_bounded", "settle", "shielded", "side_by_side", "to_its_end"]

T = TypeVar("T")
R = TypeVar("R")

CLEANUP_DEADLINE_S = 30.0
"""Longest that cleaning up may hold up a cancelled caller."""


async def for_each(work: Callable[[T], Awaitable[None]], items: Iterable[T], *, limit: int) -> None:
    """
    Await ``work(item)`` for every item, at most ``limit`` at a time.

    Items are pulled from ``items`` as workers come free, so a long iterable is neither copied nor turned into tasks.
    The first failure cancels the other workers and is raised itself, not wrapped in a group.
    """
    if limit == 1:
        for item in items:
            await work(item)
        return
    iterator = iter(items)
    failures: list[Exception] = []

    async def worker() -> None:
        try:
            for item in iterator:
                await work(item)
        except Exception as error:
            failures.append(error)
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                # Nobody cancelled this worker, so a group would take it for one that is done.
                failures.append(RuntimeError("work ended in a cancellation that nobody asked for"))
                raise failures[-1] from error
            raise

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(limit):
                group.create_task(worker())
    except* Exception:
        pass
    if failures:
        raise failures[0]


async def map_bounded(work: Callable[[T], Awaitable[R]], items: Iterable[T], *, limit: int) -> list[R]:
    """Return what ``work`` returns for each item, in the order of ``items``; see :func:`for_each`."""
    listed = list(items)
    if len(listed) == 1:
        return [await work(listed[0])]
    results: dict[int, R] = {}

    async def keep(index: int) -> None:
        results[index] = await work(listed[index])

    await for_each(keep, range(len(listed)), limit=min(limit, len(listed)))
    return [results[index] for index in range(len(listed))]


async def both(first: Callable[[], Awaitable[T]], second: Callable[[], Awaitable[R]]) -> tuple[T, R]:
    """Await two calls at the same time; if one fails the other is cancelled, and its error is raised itself."""
    calls: list[Callable[[], Awaitable[Any]]] = [first, second]
    one, other = await map_bounded(lambda call: call(), calls, limit=2)
    return one, other


async def side_by_side(*calls: Callable[[], Awaitable[None]]) -> None:
    """Await calls at the same time; if one fails the others are cancelled, and its error is raised itself."""
    await for_each(lambda call: call(), calls, limit=len(calls))


async def shielded(cleanup: Awaitable[None], *, deadline_s: float = CLEANUP_DEADLINE_S) -> None:
    """
    Run ``cleanup`` to its end though the caller is cancelled meanwhile, but no longer than ``deadline_s``.

    A cancellation that arrives meanwhile is raised when the cleanup is over.

    Raises:
        TimeoutError: the cleanup took too long and was cancelled.
    """

    async def bounded() -> None:
        async with asyncio.timeout(deadline_s):
            await cleanup

    task = asyncio.create_task(bounded())
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except Exception:
            break
    if cancelled is not None:
        if not task.cancelled():
            task.exception()
        raise cancelled
    task.result()


async def to_its_end(work: asyncio.Future[T], *, on_cancel: Callable[[], None] | None = None) -> T:
    """
    Return what ``work``, a task or future of the caller's, comes to; a caller cancelled meanwhile waits for its end.

    Unlike :func:`shielded` it sets no deadline before the caller is cancelled. ``on_cancel`` is called then, before
    the wait.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        if not work.done():
            with contextlib.suppress(TimeoutError):
                await shielded(ended(work))
        raise
    finally:
        work.cancel()


def settle(future: asyncio.Future[T], result: T, error: BaseException | None) -> None:
    """Give a future what a call in a thread has come to: its error, or else its result; nothing if it is done."""
    if future.done():
        return
    if isinstance(error, StopIteration):
        error = RuntimeError(f"a call raised {error!r}, which no future can hold")
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


async def ended(work: asyncio.Future[T]) -> None:
    """Wait until ``work`` is over, whatever it has come to."""
    await asyncio.wait([work])
    if not work.cancelled():
        work.exception()
