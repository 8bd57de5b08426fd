"""
Being alone at something where the storage honours no conditions.

Whoever wants to shows a ticket first and looks for others' afterwards: of two, at least one sees the other, whatever
the timing, as long as the storage lists what it has acknowledged (Lamport's and Dijkstra's flags). The oldest stays and
waits, the others step back.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from asyncstore.errors import ConflictError
from asyncstore.objects.tickets import Tickets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from asyncstore.objects.base import ObjectStore

__all__ = ["alone_at"]

DEADLINE_S = 60.0
"""How long to wait for others."""


@asynccontextmanager
async def alone_at(store: ObjectStore, prefix: str, taken: Callable[[], Awaitable[bool]]) -> AsyncIterator[bool]:
    """
    Enter alone of all that use the same ``prefix``; gives ``False`` if ``taken()`` says that it is too late.

    Exclusive but for one who stands still for longer than 10 s within: his ticket counts as left behind then.

    Raises:
        ConflictError: others did not leave for a minute.
    """
    tickets = Tickets(store, prefix)
    give_up_at = time.monotonic() + DEADLINE_S
    mine = ""
    try:
        while not await taken():
            mine = mine or await _show(tickets)
            seen = await tickets.look()
            if seen == [mine]:
                # Who was here before us has left, and perhaps done it.
                yield not await taken()
                return
            if not seen or seen[0] != mine:
                shown, mine = mine, ""
                await tickets.remove(shown)
            if time.monotonic() > give_up_at:
                raise ConflictError(f"others have been at {prefix} for {DEADLINE_S:.0f} s: look what is left there")
            await tickets.sleep(len(seen))
        yield False
    finally:
        if mine:
            await tickets.remove(mine)


async def _show(tickets: Tickets) -> str:
    ticket = tickets.new()
    try:
        await tickets.take(ticket)
    except BaseException:
        await tickets.remove(ticket)
        raise
    return ticket
