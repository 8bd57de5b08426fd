"""Tickets: empty objects beside one that several processes want to write, which tell who wants to and since when."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from asyncstore._core.clock import PROCESS_CLOCK
from asyncstore._core.concurrency import shielded
from asyncstore.errors import AccessDeniedError, AsyncStoreError

if TYPE_CHECKING:
    from asyncstore.objects.base import ObjectStore

__all__ = ["STALE_S", "Tickets"]

log = logging.getLogger(__name__)

STALE_S = 10.0
"""An oldest ticket that has been there for so long was left behind by a process that died, and is removed."""

SHORTEST_SLEEP_S = 0.01
LONGEST_SLEEP_S = 0.25
"""How long whoever waits sleeps between two looks."""

_STAMP = "%Y%m%dT%H%M%S.%f"


@dataclass(slots=True)
class _Oldest:
    ticket: str
    since: float


class Tickets:
    """
    The tickets under one prefix, as one process sees them.

    Args:
        store: where they are.
        prefix: what their keys begin with; nothing else may begin so.

    Attributes:
        removable: whether tickets can be removed, as far as is known; without that right it is better to take none.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self.removable = True
        self._ignored: set[str] = set()
        self._store = store
        self._prefix = prefix
        self._oldest: _Oldest | None = None
        self._turn_s = SHORTEST_SLEEP_S

    def __repr__(self) -> str:
        return f"<Tickets {self._prefix}>"

    def new(self) -> str:
        """Return a ticket, not yet taken, that comes after all that have been seen."""
        return f"{self._prefix}{PROCESS_CLOCK.now():{_STAMP}}-{secrets.token_hex(4)}"

    async def take(self, ticket: str) -> None:
        """Let the others see a ticket."""
        await self._store.put(ticket, b"")

    async def look(self) -> list[str]:
        """Return the tickets that are there, oldest first; whatever is made from now on comes after them."""
        keys = [meta.key async for page in self._store.list(self._prefix) for meta in page]
        tickets = sorted(set(keys) - self._ignored)
        if tickets:
            with contextlib.suppress(ValueError):
                newest = tickets[-1].removeprefix(self._prefix).partition("-")[0]
                PROCESS_CLOCK.witness(datetime.strptime(newest, _STAMP).replace(tzinfo=UTC))
            await self._watch_oldest(tickets[0])
        return tickets

    async def sleep(self, ahead: int) -> None:
        """Wait for about as long as it takes until ``ahead`` others have had their turn."""
        await asyncio.sleep(random.uniform(0.5, 1) * min(max(self._turn_s * ahead, SHORTEST_SLEEP_S), LONGEST_SLEEP_S))

    async def remove(self, ticket: str) -> None:
        """Remove a ticket, also if the caller is cancelled meanwhile; one that cannot be removed becomes stale."""
        try:
            await shielded(self._remove(ticket))
        except TimeoutError:
            log.warning("removing the ticket %s takes long: it may stay behind for %.0f s", ticket, STALE_S)

    async def _watch_oldest(self, ticket: str) -> None:
        now = time.monotonic()
        if self._oldest is None or self._oldest.ticket != ticket:
            if self._oldest is not None:
                self._turn_s += (now - self._oldest.since - self._turn_s) / 4
            self._oldest = _Oldest(ticket, now)
        elif now - self._oldest.since > STALE_S:
            log.warning("removing %s, which whoever took it has left behind", ticket)
            self._ignored.add(ticket)
            await self._remove(ticket)

    async def _remove(self, ticket: str) -> None:
        try:
            await self._store.delete([ticket])
        except AsyncStoreError as error:
            self.removable = self.removable and not isinstance(error, AccessDeniedError)
            self._ignored.add(ticket)
            log.warning("the ticket %s stays behind: %s", ticket, error)
