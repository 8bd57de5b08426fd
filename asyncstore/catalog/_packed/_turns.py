"""Many small things done on the event loop, without holding up others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from asyncstore._core.concurrency import for_each

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from asyncstore.catalog._moving._tally import Tally
    from asyncstore.errors import AsyncStoreError

__all__ = ["all_of", "fail_all", "in_turns", "portions"]

T = TypeVar("T")

TURN = 500
"""Things that are done before others on the loop have a turn."""


async def portions(items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """Yield items in portions, and let others run after each."""
    for start in range(0, len(items), TURN):
        yield items[start : start + TURN]
        await asyncio.sleep(0)


async def in_turns(items: Sequence[T]) -> AsyncIterator[T]:
    """Yield items, and now and then let others run."""
    async for portion in portions(items):
        for item in portion:
            yield item


async def all_of(calls: Sequence[Callable[[], Awaitable[None]]], *, limit: int) -> None:
    """Await all calls, at most ``limit`` at a time; see :func:`asyncstore._core.concurrency.for_each`."""
    if calls:
        await for_each(lambda call: call(), calls, limit=min(limit, len(calls)))


def fail_all(tally: Tally, names: Iterable[str], error: AsyncStoreError) -> None:
    """Note that files failed together; an error that would stop every file is raised."""
    for name in names:
        with tally.failing(name):
            raise error
