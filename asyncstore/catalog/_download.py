"""Objects of the catalog into a compute data folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import for_each, shielded
from asyncstore._core.threads import in_thread
from asyncstore.catalog._land import Arrival, Landing, check_digest, write_files
from asyncstore.catalog._lane import stored_digest
from asyncstore.catalog._plan import SMALL_BYTES, batches, ranges
from asyncstore.catalog._tally import of_one_file
from asyncstore.catalog._upload import hash_file
from asyncstore.errors import AsyncStoreError, ConflictError, IntegrityError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncstore.catalog._lane import Lane
    from asyncstore.catalog._paths import Place
    from asyncstore.catalog._scan import LocalFile
    from asyncstore.catalog._tally import Tally
    from asyncstore.objects.base import ObjectMeta

__all__ = ["Download", "Wanted"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object to get, by its name under the place."""

    name: str
    meta: ObjectMeta

    @property
    def size_bytes(self) -> int:
        """How many bytes it had when it was listed."""
        return self.meta.size_bytes


class Download:
    """
    Gets objects; each file appears whole and verified, or not at all, and one that is the same already is left alone.

    Args:
        lane: the store and its limits.
        place: where the objects are.
        root: the folder they go to, a real path.
        present: what is there already, by name.
        tally: told of each file.
    """

    def __init__(self, lane: Lane, place: Place, *, root: str, present: Mapping[str, LocalFile], tally: Tally) -> None:
        self._lane = lane
        self._place = place
        self._root = root
        self._present = present
        self._tally = tally
        self._digests: dict[str, str] = {}

    async def run(self, wanted: Sequence[Wanted]) -> dict[str, str]:
        """Get all objects and return the digests of those that are here now; failures are in the tally."""
        large = sorted((item for item in wanted if item.size_bytes > SMALL_BYTES), key=lambda item: -item.size_bytes)
        small = [item for item in wanted if item.size_bytes <= SMALL_BYTES]
        workers = self._lane.workers
        await for_each(self._move, chain(([item] for item in large), batches(small, workers=workers)), limit=workers)
        return self._digests

    async def _move(self, wanted: list[Wanted]) -> None:
        if wanted[0].size_bytes > SMALL_BYTES:
            await self._move_large(wanted[0])
        else:
            await self._move_small(wanted)

    async def _move_small(self, wanted: list[Wanted]) -> None:
        # The engine's buffers and our copies of them are there side by side for a moment.
        async with self._lane.budget.claim(2 * sum(item.size_bytes for item in wanted)):
            arrivals = [found for item in wanted if (found := await self._fetch(item)) is not None]
            outcomes = await in_thread(write_files, self._root, arrivals) if arrivals else []
            names = [arrival.name for arrival in arrivals]
            arrivals.clear()
        for name, outcome in zip(names, outcomes, strict=True):
            self._note(name, outcome)

    def _note(self, name: str, outcome: str | AsyncStoreError) -> None:
        full_name = self._place.full_name(name)
        with self._tally.failing(full_name), of_one_file():
            if isinstance(outcome, AsyncStoreError):
                raise outcome
            self._digests[name] = outcome
            self._tally.done(full_name)

    async def _fetch(self, item: Wanted) -> Arrival | None:
        """Return an object's bytes, ``None`` if there is nothing to write."""
        with self._tally.failing(self._place.full_name(item.name)):
            if not await self._is_here(item):
                meta, data = await self._lane.get(item.meta.key)
                return Arrival(item.name, data, stored_digest(meta))
            self._tally.skip(self._place.full_name(item.name))
        return None

    async def _is_here(self, item: Wanted) -> bool:
        file = self._present.get(item.name)
        if file is None or file.size_bytes != item.size_bytes:
            return False
        try:
            digest = await self._lane.digest(item.meta)
        except (ConflictError, NotFoundError):
            # Others are at it: the fetch decides.
            return False
        try:
            same = await hash_file(file) == digest
        except AsyncStoreError:
            # It changed or went away, or may not be read: whatever it is, it is to be replaced.
            return False
        if same:
            self._digests[item.name] = digest
        return same

    async def _move_large(self, listed: Wanted) -> None:
        name = self._place.full_name(listed.name)
        with self._tally.failing(name):
            # Some servers write ETags otherwise in listings, so the ranges are pinned to what HEAD says.
            item = Wanted(listed.name, await self._lane.head(listed.meta.key))
            if await self._is_here(item):
                self._tally.skip(name)
                return
            landing = Landing.of(self._root, item.name)
            try:
                self._digests[item.name] = await self._fetch_large(item, landing)
            except BaseException:
                await shielded(in_thread(landing.discard))
                raise
            self._tally.done(name)

    async def _fetch_large(self, item: Wanted, landing: Landing) -> str:
        with of_one_file():
            await in_thread(landing.create)
        parts = ranges(item.size_bytes)
        running = _RunningDigest(landing, parts)

        async def fetch(index: int) -> None:
            start, end = parts[index]
            # The engine's buffer and our copy of it are there side by side for a moment.
            async with self._lane.budget.claim(2 * (end - start)):
                data = await self._fetch_range(item, start, end)
                with of_one_file():
                    await in_thread(landing.write, data, start)
            self._tally.advance(self._place.full_name(item.name), end - start)
            with of_one_file():
                await running.arrived(index)

        await for_each(fetch, range(len(parts)), limit=min(self._lane.workers, len(parts)))
        digest = running.hexdigest()
        check_digest(item.name, digest, stored_digest(item.meta))
        with of_one_file():
            await in_thread(landing.commit)
        return digest

    async def _fetch_range(self, item: Wanted, start: int, end: int) -> bytes:
        where = f"{self._lane.store.location}/{item.meta.key}"
        meta, data = await self._lane.get(item.meta.key, byte_range=(start, end), etag=item.meta.etag)
        if meta.etag != item.meta.etag or meta.size_bytes != item.size_bytes:
            raise ConflictError(f"{where} was replaced while it was read: get it again")
        if len(data) != end - start:
            raise IntegrityError(f"{where} came short: {len(data)} bytes instead of {end - start}")
        return data


class _RunningDigest:
    """Hashes a file in order while its ranges arrive in any order, from the page cache instead of from memory."""

    def __init__(self, landing: Landing, parts: Sequence[tuple[int, int]]) -> None:
        self._landing = landing
        self._parts = parts
        self._waiting: set[int] = set()
        self._next = 0
        self._busy = False
        self._digest = hashlib.sha256()

    async def arrived(self, index: int) -> None:
        """Take note of a range that is written, and hash what is complete up to it unless another caller is at it."""
        self._waiting.add(index)
        if self._busy:
            return
        self._busy = True
        try:
            while self._next in self._waiting:
                start, end = self._parts[self._next]
                await in_thread(self._landing.hash, start, end, self._digest)
                self._waiting.remove(self._next)
                self._next += 1
        finally:
            self._busy = False

    def hexdigest(self) -> str:
        """Return the digest of all, once every range has arrived."""
        assert self._next == len(self._parts)
        return self._digest.hexdigest()
