"""
Taking turns at an object that several processes change by compare-and-swap.

A storage prefers whoever swaps again at once: he knows what is there, the others have to read it first, and the faster
they are the better their luck. Mostly luck will do, with random waits, and costs least. A writer that has had none
takes a ticket and waits until no older one is left; every writer looks for tickets now and then, and queues up behind
them. Nothing depends on the tickets but who goes first: what must not be lost is guarded by the swap itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING

from asyncstore.errors import AsyncStoreError
from asyncstore.objects.tickets import LONGEST_SLEEP_S, SHORTEST_SLEEP_S, Tickets

if TYPE_CHECKING:
    from asyncstore.objects.base import ObjectStore

__all__ = ["Turns"]

log = logging.getLogger(__name__)

LOOK_EVERY = 8
"""A writer that swaps on end looks for the tickets of others at every such try."""

ON_END_S = 1.0
"""Tries less apart than this are on end: a longer gap lets others in by itself."""

LOSSES = 2
"""After so many lost swaps of one change a writer takes a ticket,"""

PATIENCE_S = 1.0
"""and after so long."""

FIRST_WAIT_S = 0.01
"""Longest of the random waits after a first loss; each further loss doubles it."""

DEADLINE_S = 60.0
"""How long one change is tried."""


class Turns:
    """
    One writer's place among those of one object; used by one task at a time.

    However slow a writer is: once it has a ticket, it waits for those older than its own, each good for one swap, and
    for at most ``LOOK_EVERY`` swaps of each writer that has not looked yet; among writers that are alike, none waits
    for more than that. It needs the right to list and delete there; without it, all is luck, until a change is given
    up after a minute.

    Args:
        store: where the object is.
        prefix: what the keys of tickets begin with; nothing else may begin so.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._tickets = Tickets(store, prefix)
        self._ticket = ""
        self._losses = 0
        self._tries = 0
        self._won_at = 0.0
        self._began_at = 0.0

    async def wait(self) -> None:
        """
        Let others have their turn, before a change is gathered so that more comes along.

        It raises nothing: what is wrong with the storage is told by the swap.
        """
        self._losses = 0
        self._began_at = time.monotonic()
        if self._began_at - self._won_at > ON_END_S:
            self._tries = 0
        await self._let_others()

    async def lost(self) -> bool:
        """Wait until it is time to swap again; ``False`` at once when it is time to give up."""
        tried_s = time.monotonic() - self._began_at
        if tried_s > DEADLINE_S:
            await self.leave()
            return False
        self._losses += 1
        if self._ticket:
            await asyncio.sleep(random.uniform(0, min(SHORTEST_SLEEP_S * self._losses, LONGEST_SLEEP_S)))
        elif self._tickets.removable and (self._losses >= LOSSES or tried_s > PATIENCE_S):
            await self._queue()
        else:
            await asyncio.sleep(random.uniform(0, min(FIRST_WAIT_S * 2**self._losses, PATIENCE_S)))
            await self._let_others()
        return True

    async def won(self) -> None:
        """Note that the change was made, and let the next one have his turn."""
        self._won_at = time.monotonic()
        await self.leave()

    async def leave(self) -> None:
        """Give up one's place, if one has one."""
        ticket, self._ticket = self._ticket, ""
        if ticket:
            await self._tickets.remove(ticket)

    async def _let_others(self) -> None:
        """Now and then look for tickets, and queue up behind them."""
        self._tries += 1
        if self._tries % LOOK_EVERY or not self._tickets.removable:
            return
        try:
            if await self._tickets.look():
                await self._queue()
        except AsyncStoreError as error:
            log.debug("no tickets can be seen at %s: %s", self._tickets, error)

    async def _queue(self) -> None:
        """Take a ticket, and wait until it is the oldest."""
        self._ticket = ticket = self._tickets.new()
        try:
            await self._tickets.take(ticket)
            while time.monotonic() - self._began_at < DEADLINE_S:
                ahead = sum(other < ticket for other in await self._tickets.look())
                if not ahead:
                    break
                await self._tickets.sleep(ahead)
        except AsyncStoreError as error:
            log.debug("no ticket can be had at %s: %s", self._tickets, error)
            await self.leave()
            # Then luck has to do.
            await asyncio.sleep(random.uniform(0, LONGEST_SLEEP_S))
        except BaseException:
            await self.leave()
            raise
