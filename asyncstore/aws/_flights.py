"""Waiting for a renewal of credentials, which many may do at once; an error of it is raised as one of each's own."""

from __future__ import annotations

import asyncio
import copy
from concurrent.futures import wait as wait_for
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from asyncstore.aws._keys import Credentials

__all__ = ["awaited", "raise_own", "waited"]

CHECK_S = 0.1
"""How often a thread that waits asks whether it should."""


async def awaited(flight: Future[Credentials]) -> Credentials:
    """Return what a renewal gives; whoever waits may be cancelled without harm to it."""
    try:
        return await asyncio.wrap_future(flight)
    except Exception as error:
        raise_own(error)


def waited(flight: Future[Credentials], check: Callable[[], None]) -> Credentials:
    """Do what :func:`awaited` does, blocking; ``check`` is called every 0.1 s, and what it raises ends the wait."""
    while not flight.done():
        check()
        wait_for([flight], CHECK_S)
    error = flight.exception()
    if error is not None:
        raise_own(error)
    return flight.result()


def raise_own(error: BaseException) -> NoReturn:
    """Raise an error that others raise, too, as one of one's own: raising changes its traceback, and it takes notes."""
    try:
        own = copy.copy(error)
    except Exception:
        # It is foreign, and cannot be made from its arguments.
        own = None
    if own is None:
        raise error
    raise own from error
