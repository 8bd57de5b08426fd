"""Files of a compute data folder into the catalog."""

from __future__ import annotations

import hashlib
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import for_each
from asyncstore._core.threads import in_thread
from asyncstore.catalog._plan import MIB, SMALL_BYTES, batches, ranges
from asyncstore.catalog._scan import Content, LocalFile, check_unchanged, hash_range, read_files
from asyncstore.catalog._tally import of_one_file
from asyncstore.errors import AsyncStoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from asyncstore.catalog._lane import Lane
    from asyncstore.catalog._paths import Place
    from asyncstore.catalog._tally import Tally
    from asyncstore.objects.base import ObjectMeta

__all__ = ["Upload", "hash_file"]

_HASH_STEP = 64 * MIB
"""How much is hashed in one hop to a thread; a cancelled caller waits for no more."""


class Upload:
    """
    Puts files; each is in the catalog whole, with the digest of exactly these bytes, or not at all.

    Args:
        lane: the store and its limits.
        place: where the files go.
        existing: what the run has already, by name.
        synced: name → digest of what the caller got or put before, and need not put again.
        tally: told of each file.
    """

    def __init__(
        self,
        lane: Lane,
        place: Place,
        *,
        existing: Mapping[str, ObjectMeta],
        synced: Mapping[str, str],
        tally: Tally,
    ) -> None:
        self._lane = lane
        self._place = place
        self._existing = existing
        self._synced = synced
        self._tally = tally
        self._digests: dict[str, str] = {}

    async def run(self, files: Sequence[LocalFile]) -> dict[str, str]:
        """Put all files and return the digests of those that are in the catalog now; failures are in the tally."""
        large = sorted((file for file in files if file.size_bytes > SMALL_BYTES), key=lambda file: -file.size_bytes)
        small = [file for file in files if file.size_bytes <= SMALL_BYTES]
        workers = self._lane.workers
        await for_each(self._move, chain(([file] for file in large), batches(small, workers=workers)), limit=workers)
        return self._digests

    async def _move(self, files: list[LocalFile]) -> None:
        if files[0].size_bytes > SMALL_BYTES:
            await self._move_large(files[0])
        else:
            await self._move_small(files)

    async def _move_small(self, files: list[LocalFile]) -> None:
        # A request holds its bytes a second time.
        async with self._lane.budget.claim(2 * sum(file.size_bytes for file in files)):
            contents = await in_thread(read_files, files)
            # Popped one by one, so that what has gone up does not stay in memory.
            for file in reversed(files):
                await self._settle(file, contents.pop())

    async def _settle(self, file: LocalFile, content: Content | AsyncStoreError) -> None:
        if not isinstance(content, Content):
            self._tally.fail(self._place.full_name(file.name), content)
            return
        key = self._place.key(file.name)
        await self._put_unless_there(file, content.digest, lambda: self._lane.put(key, content.data, content.digest))

    async def _move_large(self, file: LocalFile) -> None:
        try:
            digest = await hash_file(file)
        except AsyncStoreError as error:
            self._tally.fail(self._place.full_name(file.name), error)
            return
        await self._put_unless_there(file, digest, lambda: self._put_file(file, digest))

    async def _put_file(self, file: LocalFile, digest: str) -> None:
        key = self._place.key(file.name)

        def verify() -> None:
            with of_one_file():
                check_unchanged(file)

        # The store reads the file in parts of its own, as many at a time as the budget allows; so it gets it all. Each
        # part is held twice: as it was read, and in the request.
        async with self._lane.budget.claim(2 * file.size_bytes):
            await in_thread(verify)
            # Bytes other than those that were hashed must not become an object that no get accepts.
            await self._lane.put_file(key, Path(file.path), digest, verify)

    async def _put_unless_there(self, file: LocalFile, digest: str, put: Callable[[], Awaitable[None]]) -> None:
        name = self._place.full_name(file.name)
        with self._tally.failing(name):
            skipped = await self._is_there(file, digest)
            if not skipped:
                await put()
            self._digests[file.name] = digest
            (self._tally.skip if skipped else self._tally.done)(name)

    async def _is_there(self, file: LocalFile, digest: str) -> bool:
        meta = self._existing.get(file.name)
        if meta is not None and self._synced.get(file.name) == digest:
            return True
        return await self._lane.holds(meta, file.size_bytes, digest)


async def hash_file(file: LocalFile) -> str:
    """
    Return the SHA-256 of a file of any size.

    Raises:
        IntegrityError: it has changed since it was seen.
    """
    digest = hashlib.sha256()
    for start, end in ranges(file.size_bytes, _HASH_STEP):
        await in_thread(hash_range, file, start, end, digest)
    return digest.hexdigest()
