"""A large object on its way into a compute data folder: in ranges side by side, hashed in order, resumed if cut off."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import zlib
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import for_each, shielded
from asyncstore._core.threads import in_thread
from asyncstore.catalog._local._land import check_digest
from asyncstore.catalog._local._landing import Landing
from asyncstore.catalog._metadata import stored_digest
from asyncstore.catalog._moving._tally import of_one_file
from asyncstore.catalog._plan import RANGE_BYTES, ranges
from asyncstore.errors import ClosedError, ConflictError, IntegrityError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.catalog._moving._lane import Passage
    from asyncstore.catalog._moving._tally import Tally
    from asyncstore.objects.base import ObjectMeta

__all__ = ["LargeArrival"]

RANGES_AT_ONCE = 16

RANGES_AHEAD = 16
"""
How far ranges may run ahead of those that are hashed.

Hashing takes longest beside a fast server, and would be left for the end alone if the others took its core before; and
what has just arrived is still in the page cache.
"""

RESUME_WORTH_BYTES = 256 * 1024 * 1024
"""What has arrived of a file is kept if it is so much and the transfer is given up."""


class LargeArrival:
    """A large file on its way here, in ranges; what an earlier transfer left of the same version is gone on with."""

    def __init__(self, passage: Passage, root: str, name: str, meta: ObjectMeta, tally: Tally) -> None:
        self._passage = passage
        self._root = root
        self._name = name
        self._meta = meta
        self._tally = tally
        self._parts = ranges(meta.size_bytes)
        self._expected = stored_digest(meta)
        self._opened: Landing | None = None
        self._verified = 0

    async def fetch(self, mode: int | None, mtime_ns: int | None) -> str:
        """Bring the file here and return its digest."""
        try:
            return await self._fetch_once(mode, mtime_ns)
        except _StaleError:
            return await self._fetch_once(mode, mtime_ns)

    async def _fetch_once(self, mode: int | None, mtime_ns: int | None) -> str:
        try:
            with of_one_file(alone=True):
                await in_thread(self._open)
            digest = await self._fill()
            with of_one_file():
                await in_thread(self._landing.commit, mode, mtime_ns)
        except BaseException as error:
            await self._leave(error)
            raise
        return digest

    def _open(self) -> None:
        # Kept here, and not returned: a caller cancelled meanwhile would not get it.
        meta = self._meta
        self._opened = Landing.open(self._root, self._name, meta.size_bytes, meta.etag, step=RANGE_BYTES)

    @property
    def _landing(self) -> Landing:
        assert self._opened is not None
        return self._opened

    async def _leave(self, error: BaseException) -> None:
        landing, self._opened = self._opened, None
        if landing is None:
            return
        keeps = not isinstance(error, Exception) or isinstance(error, ClosedError | UnavailableError)
        worth = keeps and self._verified >= RESUME_WORTH_BYTES
        await shielded(in_thread(landing.close if worth else landing.discard))

    async def _fill(self) -> str:
        kept = await self._kept()
        running = _RunningDigest(self._landing, self._parts)
        for index in kept:
            running.landed(index, self._parts[index][1])
            self._advance(index)
        missing = [index for index in range(len(self._parts)) if index not in kept]

        async def fetch(index: int) -> None:
            await running.near(index)
            await self._fetch_range(index, running)
            await running.catch_up()

        await for_each(fetch, missing, limit=max(1, min(RANGES_AT_ONCE, self._passage.lane.workers, len(missing))))
        await running.catch_up()
        digest = running.hexdigest()
        try:
            check_digest(self._name, digest, self._expected)
        except IntegrityError as error:
            if kept:
                # What was left here may have been spoilt since, by a power failure say: once more, from the start.
                raise _StaleError from error
            raise
        return digest

    async def _kept(self) -> set[int]:
        """Return the ranges that are here; without a digest to check the whole by, each is looked at again."""
        kept = set(self._landing.kept)
        if kept and not self._expected:
            kept = {index for index in kept if await in_thread(self._landing.check_range, index)}
        return kept

    async def _fetch_range(self, index: int, running: _RunningDigest) -> None:
        start, end = self._parts[index]
        total = 0

        def take(block: memoryview, offset: int) -> None:
            nonlocal total
            with of_one_file():
                self._landing.write(block, offset)
            running.wrote(index, block, offset)
            if not self._expected:
                total = zlib.crc32(block, 0 if offset == start else total)

        store = self._passage.lane.store
        where = f"{store.location}/{self._meta.key}"
        meta = await store.read_into(
            self._meta.key, (start, end), take, etag=self._meta.etag, transfer=self._passage.downloads()
        )
        if meta.etag != self._meta.etag or meta.size_bytes != self._meta.size_bytes:
            raise ConflictError(f"{where} was replaced while it was read: get it again")
        with of_one_file():
            await in_thread(self._landing.finish_range, index, total)
        self._advance(index)

    def _advance(self, index: int) -> None:
        start, end = self._parts[index]
        self._verified += end - start
        self._tally.advance(self._name, end - start)


class _StaleError(Exception):
    """What an earlier transfer left here is not what it should be."""


class _RunningDigest:
    """
    Hashes a file in order while its ranges arrive in any order.

    A block that arrives where the hash has come to is hashed from memory, by whoever brings it; the others when it is
    their turn, from the page cache.
    """

    def __init__(self, landing: Landing, parts: Sequence[tuple[int, int]]) -> None:
        self._landing = landing
        self._parts = parts
        self._landed = [start for start, _ in parts]
        self._index = 0
        self._position = 0
        self._busy = False
        self._lock = threading.Lock()
        self._moved = asyncio.Event()
        self._digest = hashlib.sha256()

    def landed(self, index: int, end: int) -> None:
        """Take note that a range is written up to ``end``; in any thread."""
        with self._lock:
            self._landed[index] = end

    def wrote(self, index: int, block: memoryview, offset: int) -> None:
        """Take note of a block that was written behind what there was of its range; in any thread, blocks."""
        self.landed(index, offset + len(block))
        if self._claim(offset):
            try:
                self._digest.update(block)
                self._move(len(block))
            finally:
                self._busy = False

    async def near(self, index: int) -> None:
        """Wait until a range is not too far ahead of what is hashed; hash if nobody does."""
        while index - self._index > RANGES_AHEAD:
            await self._hash()
            if index - self._index > RANGES_AHEAD:
                self._moved.clear()
                await self._moved.wait()

    async def catch_up(self) -> None:
        """Hash what is there, now that another range is, unless another caller is at it."""
        # Whoever brought it may have hashed some.
        self._moved.set()
        await self._hash()

    async def _hash(self) -> None:
        while self._behind() and self._claim():
            try:
                with of_one_file():
                    await in_thread(self._hash_range)
            finally:
                self._busy = False
                self._moved.set()

    def hexdigest(self) -> str:
        """Return the digest of all, once every range has arrived."""
        assert self._index == len(self._parts)
        return self._digest.hexdigest()

    def _behind(self) -> bool:
        return self._index < len(self._parts) and self._landed[self._index] > self._position

    def _claim(self, offset: int | None = None) -> bool:
        """Become the one that hashes, if nobody does; if ``offset`` is given, only if that is where to go on."""
        with self._lock:
            claimed = not self._busy and offset in {None, self._position}
            self._busy = self._busy or claimed
            return claimed

    def _move(self, size_bytes: int) -> None:
        self._position += size_bytes
        if self._position == self._parts[self._index][1]:
            self._index += 1

    def _hash_range(self) -> None:
        """Hash what is there of the next range."""
        end = self._landed[self._index]
        self._landing.hash_range(self._position, end, self._digest)
        self._move(end - self._position)
