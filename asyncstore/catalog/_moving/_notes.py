"""What is to be remembered of a transfer, written while the transfer goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from asyncstore._core.concurrency import both

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["Notes"]

PORTION = 1000
"""Notes that are worth a write."""

T = TypeVar("T")


class Notes(Generic[T]):
    """
    Notes, written in portions by one writer, so that little is left to write when the transfer is over.

    Args:
        write: writes some.
    """

    def __init__(self, write: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: list[T] = []
        self._enough = asyncio.Event()
        self._over = False

    def add(self, note: T) -> None:
        """Have one written, soon or when the transfer is over."""
        self._waiting.append(note)
        if len(self._waiting) >= PORTION:
            self._enough.set()

    async def during(self, work: Callable[[], Awaitable[None]]) -> None:
        """Await ``work`` and write meanwhile; what is left is written when it is over, however it ends."""

        async def working() -> None:
            try:
                await work()
            finally:
                self._over = True
                self._enough.set()

        try:
            await both(working, self._keep_up)
        finally:
            await self._write_all()

    async def _keep_up(self) -> None:
        while not self._over:
            await self._enough.wait()
            self._enough.clear()
            await self._write_all()

    async def _write_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            await self._write(waiting)
