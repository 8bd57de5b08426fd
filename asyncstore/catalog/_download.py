"""Objects of the catalog into a compute data folder."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import for_each, shielded
from asyncstore._core.threads import in_stoppable_thread, in_thread
from asyncstore._core.traffic import charge_down
from asyncstore.catalog._folders import Folders
from asyncstore.catalog._land import check_digest, make_folder, write_file
from asyncstore.catalog._landing import Landing
from asyncstore.catalog._metadata import mode_of, mtime_ns_of, stored_digest
from asyncstore.catalog._mover import REMEMBERED_AT_ONCE, Mover, Outcome
from asyncstore.catalog._paths import folder_of, is_marker
from asyncstore.catalog._plan import RANGE_BYTES, SMALL_BYTES, ranges
from asyncstore.catalog._tally import FileError, of_one_file
from asyncstore.errors import AsyncStoreError, ClosedError, ConflictError, IntegrityError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore._core.threads import Stop
    from asyncstore.catalog._lane import Passage
    from asyncstore.catalog._paths import Place
    from asyncstore.catalog._plan import PlannedFile
    from asyncstore.catalog._tally import Tally
    from asyncstore.objects.base import BlockingObjects, ObjectMeta

__all__ = ["Download"]

RANGES_AT_ONCE = 16

RESUME_WORTH_BYTES = 256 * 1024 * 1024
"""What has arrived of a file is kept if it is so much and the transfer is given up."""


@dataclass(frozen=True, slots=True)
class _Landed:
    """A small file that is here now."""

    digest: str
    meta: ObjectMeta


class Download:
    """
    Gets objects; each file appears whole and verified, or not at all.

    Args:
        passage: the way to the store.
        place: where the objects are.
        root: the folder they go to, a real path.
        keep_times: whether files get the modification times that they were put with.
        tally: told of each file.
    """

    def __init__(self, passage: Passage, place: Place, *, root: str, keep_times: bool, tally: Tally) -> None:
        self._passage = passage
        self._place = place
        self._root = root
        self._keep_times = keep_times
        self._tally = tally
        self.digests: dict[str, str] = {}
        """Of what is here now, by name; failures are in the tally."""
        self._versions: list[tuple[str, str, int, str]] = []

    async def run(self, files: Sequence[PlannedFile]) -> None:
        """Get all objects."""
        mover = Mover(
            self._passage,
            self._tally,
            name_of=lambda file: self._place.full_name(file.name),
            charge=charge_down,
            move=self._get,
            note=lambda file, landed: self._note(file, landed.digest, landed.meta),
            move_large=self._get_large,
            after_batch=self._remember_many,
        )
        try:
            await mover.run(files)
        finally:
            await self._remember()

    def _get(self, file: PlannedFile, objects: BlockingObjects) -> Outcome[_Landed]:
        try:
            meta, data = objects.get(file.source, SMALL_BYTES)
        except AsyncStoreError as error:
            return error
        digest = hashlib.sha256(data).hexdigest()
        with objects.landing():
            try:
                self._land(file, meta, data, digest)
            except AsyncStoreError as error:
                return FileError(error)
        return _Landed(digest, meta)

    def _land(self, file: PlannedFile, meta: ObjectMeta, data: bytes | memoryview, digest: str) -> None:
        if is_marker(file.name):
            make_folder(self._root, folder_of(file.name))
            return
        check_digest(file.name, digest, stored_digest(meta))
        with Folders(self._root) as folders:
            write_file(folders, file.name, data, mode=mode_of(meta), mtime_ns=self._time_of(meta))

    async def _get_large(self, file: PlannedFile) -> None:
        # Some servers write ETags otherwise in listings, so the ranges are pinned to what HEAD says.
        meta = await self._passage.lane.head(file.source)
        name = self._place.full_name(file.name)
        arrival = _LargeArrival(self._passage, self._root, name, file.name, meta, self._tally)
        digest = await arrival.fetch(mode_of(meta), self._time_of(meta))
        self._note(file, digest, meta)

    def _note(self, file: PlannedFile, digest: str, meta: ObjectMeta) -> None:
        if not is_marker(file.name):
            self.digests[file.name] = digest
        self._versions.append((file.source, meta.etag, meta.size_bytes, digest))
        self._tally.done(self._place.full_name(file.name))

    async def _remember_many(self) -> None:
        if len(self._versions) >= REMEMBERED_AT_ONCE:
            await self._remember()

    async def _remember(self) -> None:
        versions, self._versions = self._versions, []
        await self._passage.lane.remember(versions)

    def _time_of(self, meta: ObjectMeta) -> int | None:
        return mtime_ns_of(meta) if self._keep_times else None


class _LargeArrival:
    """A large file on its way here, in ranges; what an earlier transfer left of the same version is gone on with."""

    def __init__(self, passage: Passage, root: str, full_name: str, name: str, meta: ObjectMeta, tally: Tally) -> None:
        self._passage = passage
        self._root = root
        self._full_name = full_name
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
            running.arrived(index)
            self._advance(index)
        missing = [index for index in range(len(self._parts)) if index not in kept]

        async def fetch(index: int) -> None:
            await self._fetch_range(index)
            running.arrived(index)
            await running.catch_up()

        await for_each(fetch, missing, limit=max(1, min(RANGES_AT_ONCE, self._passage.lane.workers, len(missing))))
        with of_one_file():
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

    async def _fetch_range(self, index: int) -> None:
        start, end = self._parts[index]
        total = 0

        def take(block: memoryview, offset: int) -> None:
            nonlocal total
            with of_one_file():
                self._landing.write(block, offset)
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
        self._tally.advance(self._full_name, end - start)


class _StaleError(Exception):
    """What an earlier transfer left here is not what it should be."""


class _RunningDigest:
    """Hashes a file in order while its ranges arrive in any order, from the page cache instead of from memory."""

    def __init__(self, landing: Landing, parts: Sequence[tuple[int, int]]) -> None:
        self._landing = landing
        self._parts = parts
        self._waiting: set[int] = set()
        self._next = 0
        self._busy = False
        self._digest = hashlib.sha256()

    def arrived(self, index: int) -> None:
        """Take note of a range that is written."""
        self._waiting.add(index)

    async def catch_up(self) -> None:
        """Hash what is complete, unless another caller is at it."""
        if self._busy:
            return
        self._busy = True
        try:
            while self._next in self._waiting:
                await in_stoppable_thread(self._hash_next)
        finally:
            self._busy = False

    def hexdigest(self) -> str:
        """Return the digest of all, once every range has arrived."""
        assert self._next == len(self._parts)
        return self._digest.hexdigest()

    def _hash_next(self, stop: Stop) -> None:
        while self._next in self._waiting and not stop():
            start, end = self._parts[self._next]
            self._landing.hash_range(start, end, self._digest)
            self._waiting.remove(self._next)
            self._next += 1
