"""What all transfers of one catalog share: the store, the limits on what is in flight, and what is remembered of it."""

from __future__ import annotations

import hashlib
import resource
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from asyncstore._core.concurrency import for_each
from asyncstore._core.memory import process_arena
from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore._core.threads import in_thread
from asyncstore._core.traffic import Charge, Rate, Window, charge_down, charge_up, process_budget
from asyncstore.catalog._metadata import stored_digest
from asyncstore.catalog._moving._shares import Share, charge_for_many, most_at_once
from asyncstore.catalog._plan import MIB, Sized, ranges, total_bytes
from asyncstore.errors import AsyncStoreError, ConflictError, NotFoundError, UnavailableError
from asyncstore.objects.base import Transfer
from asyncstore.objects.listed import Listed
from asyncstore.objects.small import Job, SmallHead

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from asyncstore.catalog._cache._known import Known
    from asyncstore.objects.base import ObjectMeta, ObjectStore

__all__ = ["PATIENCE", "Lane", "Passage", "fitting_workers"]

S = TypeVar("S", bound=Sized)

PATIENCE = RetryPolicy(attempts=9, deadline_s=60.0)
"""How long a small object's requests are tried again."""

STREAM_BYTES = 3 * MIB
"""What a request that is streamed holds: a block in the thread, one in the connection, and what the reader lags."""

_REPLACED_RETRIES = 5
"""How often an object that is replaced while it is hashed is looked at again."""

_DESCRIPTORS = 6
"""A worker's connection, file, and the folders that it has open."""

_OTHER_DESCRIPTORS = 40
_LEAST_WORKERS = 2

_FAILED_MOST = 100
"""Failures for the moment, beyond which no more objects are asked for before those have been tried again."""

RATED_S = 0.2
"""For how long small requests are made at once where there is a rate."""


@dataclass(frozen=True, slots=True)
class Lane:
    """
    An object store, used by at most ``workers`` requests at a time and fewer if it asks for that.

    Args:
        store: the store.
        workers: most requests in flight.
        known: remembers digests between calls and processes; ``None`` remembers nothing.
        place: tells this storage from others in what is remembered.
        journals: where unfinished uploads are remembered.
    """

    store: ObjectStore
    workers: int
    known: Known | None = None
    place: str = ""
    journals: Path | None = None
    window: Window = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", Window(self.workers))

    @asynccontextmanager
    async def request(self, charge: Charge, *, on_retry: Callable[[], None] | None = None) -> AsyncIterator[None]:
        """Make a request, or several one after another, within the block; what it raises tells the window."""
        async with self.window.request() as number, process_budget().claim(charge):
            try:
                yield
            except UnavailableError as error:
                if error.throttled:
                    self.window.refused(number)
                if on_retry is not None:
                    on_retry()
                raise
            self.window.served()

    async def head(self, key: str) -> ObjectMeta:
        """Describe an object."""
        async with self.request(charge_down(0)):
            return await self.store.head(key)

    async def head_or_none(self, key: str) -> ObjectMeta | None:
        """Describe an object, ``None`` if it is not there."""
        try:
            return await self.head(key)
        except NotFoundError:
            return None

    @asynccontextmanager
    async def share(self, items: deque[S], charge: Charge, *, threads: int = 1) -> AsyncIterator[Share[S]]:
        """Hold, within the block, one thread's share of what may be under way, for many small requests."""
        wanted = max(1, min(len(items), self.workers // threads, most_at_once(charge)))
        budget = process_budget()
        async with self.window.several(wanted) as granted:
            charged = charge_for_many(charge, granted, budget.memory_bytes)
            async with budget.claim(charged):
                yield Share(items, granted, wanted, charged.memory_bytes, window=self.window, budget=budget)

    async def heads(self, keys: Sequence[str]) -> dict[str, ObjectMeta]:
        """Describe those of many objects that are there."""
        waiting = deque(map(_Asked, keys))
        found: dict[str, ObjectMeta] = {}
        again: list[str] = []

        def settle(key: str, answer: ObjectMeta | AsyncStoreError) -> None:
            if not isinstance(answer, AsyncStoreError):
                found[key] = answer
            elif not isinstance(answer, NotFoundError):
                again.append(key)

        def jobs(share: Share[_Asked]) -> Iterator[Job]:
            while not (share.over() or len(again) > _FAILED_MOST):
                try:
                    key = share.items.popleft().key
                except IndexError:
                    return
                self.window.begin()
                yield Job(SmallHead(key), partial(settle, key))

        async def retry(key: str) -> None:
            described = await retrying(partial(self.head_or_none, key), PATIENCE)
            if described is not None:
                found[key] = described

        while waiting:
            async with self.share(waiting, charge_down(0)) as share:
                await self.store.together(lambda objects: objects.run(jobs(share), share.at_once))
            failed, again[:] = list(again), []
            if failed:
                await for_each(retry, failed, limit=min(self.workers, len(failed)))
        return found

    async def digests(self, metas: Sequence[ObjectMeta], *, compute: bool = True) -> dict[str, str]:
        """
        Return the SHA-256 of objects by key, without those that are gone or that others are replacing.

        It is what is remembered of the very version, or else what the metadata says, or else (a folder, another tool's
        object, and only if ``compute``) that of the bytes.
        """
        found, rest = await in_thread(self.at_hand, metas)
        return found | await self.looked_up(rest, compute=compute) if rest else found

    async def looked_up(self, rest: Sequence[ObjectMeta], *, compute: bool = True) -> dict[str, str]:
        """
        Return what :meth:`digests` does of those that are not at hand, and remember it.

        An object may have been replaced since it was described: the digest is then that of the newer version.
        """
        described = await self.heads([meta.key for meta in rest if not meta.metadata])
        news = [(meta, stored_digest(meta)) for meta in described.values()]
        if compute:
            foreign = [described.get(meta.key, meta) for meta in rest]
            there = [meta for meta in foreign if meta.metadata or meta.key in described]
            news += await self._computed_all([meta for meta in there if not stored_digest(meta)])
        news = [(meta, digest) for meta, digest in news if digest]
        await self.remember((meta.key, meta.etag, meta.size_bytes, digest) for meta, digest in news)
        return {meta.key: digest for meta, digest in news}

    def at_hand(self, metas: Sequence[ObjectMeta]) -> tuple[dict[str, str], Sequence[ObjectMeta]]:
        """Return the digests that need no request, by key, and what is left; reads the cache."""
        said = () if isinstance(metas, Listed) else ((meta.key, stored_digest(meta)) for meta in metas if meta.metadata)
        found = {key: digest for key, digest in said if digest}
        asked = [meta for meta in metas if meta.key not in found] if found else metas
        if self.known is not None:
            found |= self.known.digests_at(self.place, asked)
        return found, [] if len(found) == len(metas) else [meta for meta in asked if meta.key not in found]

    async def remember(self, objects: Iterable[tuple[str, str, int, str]]) -> None:
        """Remember digests of objects: key, ETag, size in bytes, SHA-256."""
        listed = [one for one in objects if one[1]]
        if self.known is not None and listed:
            await in_thread(self.known.remember_objects, self.place, listed)

    async def _computed_all(self, metas: Sequence[ObjectMeta]) -> list[tuple[ObjectMeta, str]]:
        found: list[tuple[ObjectMeta, str]] = []

        async def compute(meta: ObjectMeta) -> None:
            for _ in range(_REPLACED_RETRIES):
                try:
                    found.append((meta, await self._computed(meta)))
                except ConflictError:
                    again = await self.head_or_none(meta.key)
                    if again is None:
                        return
                    meta = again
                except NotFoundError:
                    return
                else:
                    return

        if metas:
            await for_each(compute, metas, limit=min(self.workers, len(metas)))
        return found

    async def _computed(self, meta: ObjectMeta) -> str:
        digest = hashlib.sha256()
        for start, end in ranges(meta.size_bytes):
            if meta.size_bytes <= MIB:
                async with self.request(charge_down(meta.size_bytes, meta.size_bytes)):
                    _, data = await self.store.get(meta.key, etag=meta.etag)
                await in_thread(digest.update, data)
            else:
                transfer = Transfer(lambda size: self.request(charge_down(size, STREAM_BYTES)))
                await self.store.read_into(
                    meta.key, (start, end), lambda block, _: digest.update(block), etag=meta.etag, transfer=transfer
                )
        return digest.hexdigest()


class Passage:
    """
    One transfer's way through a lane: its rate, its memory, and who is told of attempts that failed.

    Args:
        lane: what it goes through.
        bytes_s: most bytes a second, ``None`` for no limit.
        on_retry: called for each attempt that failed and is made again.
    """

    def __init__(self, lane: Lane, *, bytes_s: float | None, on_retry: Callable[[], None]) -> None:
        self.lane = lane
        self._rate = Rate(bytes_s)
        self._on_retry = on_retry
        # Held for as long as this moves something.
        self._arena = process_arena()

    def uploads(self, advanced: Callable[[int], None], *, limit: int) -> Transfer:
        """Return how the parts of a large upload go."""
        return Transfer(self._admit_up, advanced, min(limit, self.lane.workers), self.lane.journals)

    def downloads(self) -> Transfer:
        """Return how the ranges of a large download go."""
        return Transfer(self._admit_down)

    def copies(self) -> Transfer:
        """Return how the requests of a copy inside the storage go; none of them moves a payload."""
        return Transfer(lambda _: self.lane.request(charge_up(0), on_retry=self._on_retry), limit=self.lane.workers)

    @asynccontextmanager
    async def share(self, waiting: deque[S], charge: Charge, *, threads: int) -> AsyncIterator[Share[S]]:
        """
        Hold, within the block, the share of one of some threads, for small requests about what waits.

        Where there is a rate only as much waits in the share as it lets pass soon; what is left in the end is put back.
        """
        items = waiting
        if (bytes_s := self._rate.bytes_s) is not None:
            items = deque([waiting.popleft()])
            left = int(bytes_s * RATED_S) - items[0].size_bytes
            while waiting and left >= waiting[0].size_bytes:
                left -= waiting[0].size_bytes
                items.append(waiting.popleft())
            # Before anything is held that others wait for.
            await self._rate.take(total_bytes(items))
        try:
            async with self.lane.share(items, charge, threads=threads) as share:
                yield share
        finally:
            if items is not waiting:
                waiting.extendleft(reversed(items))

    @asynccontextmanager
    async def alone(self, charge: Charge, payload_bytes: int) -> AsyncIterator[Transfer]:
        """
        Hold one request's place while something is made ready and moved, by one request after another.

        Gives how these go, which take no more of the limits.
        """
        await self._rate.take(payload_bytes)
        async with self.lane.request(charge, on_retry=self._on_retry):
            yield Transfer(self._admit_next, limit=1)

    def throttled(self) -> None:
        """Note that the storage wanted fewer requests, where that is no error of the whole call."""
        self.lane.window.refused(self.lane.window.begun)

    @asynccontextmanager
    async def _admit_next(self, _: int) -> AsyncIterator[None]:
        try:
            yield
        except UnavailableError as error:
            if error.throttled:
                self.throttled()
            self._on_retry()
            raise

    @asynccontextmanager
    async def _admit_up(self, size_bytes: int) -> AsyncIterator[None]:
        await self._rate.take(size_bytes)
        async with self.lane.request(charge_up(size_bytes, STREAM_BYTES), on_retry=self._on_retry):
            yield

    @asynccontextmanager
    async def _admit_down(self, size_bytes: int) -> AsyncIterator[None]:
        await self._rate.take(size_bytes)
        async with self.lane.request(charge_down(size_bytes, STREAM_BYTES), on_retry=self._on_retry):
            yield


def fitting_workers(wanted: int) -> int:
    """Return how many of ``wanted`` requests the process has descriptors for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(_LEAST_WORKERS, (soft - _OTHER_DESCRIPTORS) // _DESCRIPTORS))


class _Asked(NamedTuple):
    """An object to describe."""

    key: str

    @property
    def size_bytes(self) -> int:
        """Describing it moves nothing."""
        return 0
