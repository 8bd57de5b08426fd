"""
Telling on Postgres that a run has changed: ``NOTIFY`` by those who write, ``LISTEN`` by those who watch.

A notification is a hint and nothing else. It is sent once the write is committed, by a transaction of its own on
another connection: inside the write's own it would make all writers of the server commit one after the other. It holds
a digest of the run's id, so that other roles of the database learn no names.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from asyncstore._core.concurrency import shielded
from asyncstore.errors import AsyncStoreError
from asyncstore.runlog.db._reader import checked_out

if TYPE_CHECKING:
    from collections.abc import Collection

    import asyncpg

    from asyncstore.runlog.db._engine import Database

__all__ = ["CHANNEL", "Listener", "Notifier", "payloads_of"]

CHANNEL = "asyncstore"
ANY_RUN = "*"
"""Payload that stands for every run."""

TELL_EVERY_S = 0.4
"""
Least time between two notifications of a store. Each costs it 0.4 ms, and wakes only those who no longer look by
themselves: a watch that saw a change comes back 0.1, 0.25 and 0.5 s later, so that more would tell it nothing new.
"""

TELL_EVERY_UNPOOLED_S = 1.0
"""The same where each notification needs a new connection."""

TELL_LIMIT_RUNS = 100
"""Of more runs than this a store says that any may have changed."""

TELL_DEADLINE_S = 5.0
"""Longest that the close of a store waits until the last changes are told."""

LISTEN_AGAIN_S = 5.0
"""How long nobody tries to listen after a connection could not be had, or was lost."""

CLOSE_TIMEOUT_S = 2.0

_TELL = f"SELECT pg_notify('{CHANNEL}', payload) FROM unnest($1::text[]) AS payload"

log = logging.getLogger(__name__)


def payloads_of(run_ids: Collection[str]) -> list[str]:
    """Return what a notification says when these runs have changed."""
    return [ANY_RUN] if len(run_ids) > TELL_LIMIT_RUNS else [_digest(run_id) for run_id in run_ids]


class Notifier:
    """
    Tells of changed runs, from a task that exists only while there is something to tell.

    The first change after a quiet time is told at once; what changes within 0.4 s after that is told together.

    Args:
        pooled: whether connections come from a pool; if not, there is a second between notifications.
    """

    def __init__(self, database: Database, *, pooled: bool = True) -> None:
        self._database = database
        self._every_s = TELL_EVERY_S if pooled else TELL_EVERY_UNPOOLED_S
        self._changed: set[str] = set()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def tell(self, run_id: str) -> None:
        """Have it told soon that a run has changed, which is committed; that this fails, nobody learns."""
        if self._closing.is_set():
            return
        self._changed.add(run_id)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._tell_all())

    async def aclose(self) -> None:
        """Tell what has not been told yet, unless that takes long."""
        self._closing.set()
        await shielded(self._finish())

    async def _finish(self) -> None:
        if self._task is None:
            return
        _, late = await asyncio.wait([self._task], timeout=TELL_DEADLINE_S)
        for task in late:
            task.cancel()
            await asyncio.wait([task])

    async def _tell_all(self) -> None:
        while self._changed:
            changed, self._changed = self._changed, set()
            await self._notify(payloads_of(changed))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._every_s)

    async def _notify(self, payloads: list[str]) -> None:
        try:
            with self._database.edge.doing("telling of changes"):
                async with checked_out(self._database) as connection:
                    await connection.exec_driver_sql(_TELL, (payloads,))
                    await connection.commit()
        except AsyncStoreError as error:
            # Whoever watches also looks without being told.
            log.debug("%s", error)


class Listener:
    """
    Hears of changed runs, on one connection while at least one watch waits for them.

    The connection is one of the engine's, made as all others are, but taken out of its pool: it neither counts among
    the pool's nor ever goes back there. While there is none, because it was lost or could not be had, nothing is heard.

    Attributes:
        lost: how many connections were lost.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._closed = False
        self.lost = 0

    def add(self, run_id: str) -> asyncio.Event:
        """Return an event that is set each time when the run has changed; give it back to :meth:`remove`."""
        event = asyncio.Event()
        self._waiting.setdefault(_digest(run_id), set()).add(event)
        return event

    def remove(self, run_id: str, event: asyncio.Event) -> None:
        """Note that nobody waits for this event any more; after the last one the connection is closed."""
        digest = _digest(run_id)
        events = self._waiting.get(digest, set())
        events.discard(event)
        if not events:
            self._waiting.pop(digest, None)
        if not self._waiting:
            self._over.set()

    def listen(self) -> None:
        """See to it that somebody listens, or will be soon."""
        idle = self._task is None or self._task.done()
        if idle and not self._closed and asyncio.get_running_loop().time() >= self._not_before:
            self._over = asyncio.Event()
            self._task = asyncio.create_task(self._listen(self._over))

    async def aclose(self) -> None:
        """Close the connection, also if watches were abandoned, and wake those that wait."""
        self._closed = True
        self._over.set()
        self._hear_all()
        if self._task is not None:
            # Breaks off a connection that is still being made; one that was made is closed all the same.
            self._task.cancel()
            await shielded(_ended(self._task))

    async def _listen(self, over: asyncio.Event) -> None:
        try:
            with self._database.edge.doing("listening for changes"):
                driver = await self._connected()
                try:
                    driver.add_termination_listener(self._lose)
                    await driver.add_listener(CHANNEL, self._hear)
                    # Nobody has heard of what changed before.
                    self._hear_all()
                    await over.wait()
                finally:
                    driver.remove_termination_listener(self._lose)
                    await shielded(_disconnected(driver))
        except AsyncStoreError as error:
            # Whoever watches also looks without being told.
            log.debug("%s", error)
            self._pause()

    async def _connected(self) -> asyncpg.Connection:
        pooled = await self._database.engine.raw_connection()
        driver = pooled.driver_connection
        pooled.detach()
        return driver

    def _lose(self, _connection: object) -> None:
        self.lost += 1
        self._pause()
        self._over.set()
        self._hear_all()

    def _pause(self) -> None:
        self._not_before = asyncio.get_running_loop().time() + LISTEN_AGAIN_S

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if payload == ANY_RUN:
            self._hear_all()
        for event in self._waiting.get(str(payload), ()):
            event.set()

    def _hear_all(self) -> None:
        for events in self._waiting.values():
            for event in events:
                event.set()


def _digest(run_id: str) -> str:
    return blake2b(run_id.encode(), digest_size=8).hexdigest()


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])


async def _disconnected(driver: Any) -> None:
    if not driver.is_closed():
        await driver.close(timeout=CLOSE_TIMEOUT_S)
