"""Lifetime: everything that holds connections or tasks is opened and closed in one way."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

from asyncstore.errors import ClosedError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Resource"]

_open: WeakSet[Resource] = WeakSet()
_inherited: list[object] = []


def _keep_what_is_the_parents() -> None:
    """
    Let nothing be collected in a forked child that the parent has open.

    Drivers end connections that nobody holds any more, and loops close what they wait on, which the parent shares.
    """
    _inherited.extend((resource, resource._stack) for resource in _open)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_what_is_the_parents)


class Resource(ABC):
    """
    Something opened with ``async with`` (or :meth:`open`) and closed with :meth:`aclose`; both are idempotent.

    Constructors store settings and do no I/O. Subclasses push what they make on the stack given to :meth:`_open`; it is
    closed in reverse order, also when opening fails half-way. What a caller passed in is never pushed, so never closed.

    A resource belongs to the event loop and the process that opened it.
    """

    __slots__ = ("__weakref__", "_loop", "_opening", "_pid", "_stack", "_state")

    def __init__(self) -> None:
        self._state = "new"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Lock | None = None
        self._pid = 0
        self._stack: AsyncExitStack | None = None

    @abstractmethod
    async def _open(self, stack: AsyncExitStack) -> None:
        """Make what is needed and push its closing on ``stack``."""

    async def open(self) -> Self:
        """
        Open; a second call does nothing.

        Raises:
            ClosedError: it was closed before, or is open on another loop or in another process.
        """
        if self._state == "new":
            self._opening = self._opening or asyncio.Lock()
            async with self._opening:
                if self._state == "new":
                    await self._open_once()
        self._check_open()
        return self

    async def aclose(self) -> None:
        """Close and wait until all is released; a second call does nothing, nor does closing what never opened."""
        stack, self._stack = self._stack, None
        self._state = "closed"
        if stack is not None and self._pid == os.getpid():
            try:
                await stack.aclose()
            finally:
                _open.discard(self)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state}>"

    async def _open_once(self) -> None:
        _open.add(self)
        async with AsyncExitStack() as stack:
            await self._open(stack)
            if self._state == "closed":
                raise ClosedError(f"{type(self).__name__} was closed while it was being opened")
            self._stack = stack.pop_all()
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._state = "open"

    def _check_open(self) -> None:
        if self._state != "open":
            advice = "it was closed" if self._state == "closed" else "enter it with 'async with' first"
            raise ClosedError(f"{type(self).__name__} is not open: {advice}")
        # The fork comes first: a process that was forked has a loop of its own, too.
        if self._pid != os.getpid():
            raise ClosedError(f"{type(self).__name__} was opened before a fork: open one in this process")
        if self._loop is not asyncio.get_running_loop():
            raise ClosedError(f"{type(self).__name__} was opened on another event loop: open one per loop")
