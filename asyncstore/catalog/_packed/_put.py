"""Small files into packs, or packs of another run into this one, and at the end an index of them."""

from __future__ import annotations

import contextlib
import secrets
from functools import partial
from typing import TYPE_CHECKING

from asyncstore._core.clock import PROCESS_CLOCK
from asyncstore._core.concurrency import shielded
from asyncstore._core.threads import in_thread
from asyncstore._core.traffic import charge_up
from asyncstore.catalog._local._disk import LocalTurns, mean_bytes
from asyncstore.catalog._metadata import DIGEST_KEY
from asyncstore.catalog._packed._fill import MemoryBody, Stored, fill
from asyncstore.catalog._packed._index import NO_PACK, Index, encode
from asyncstore.catalog._packed._meta import witness
from asyncstore.catalog._packed._names import PACKS, index_name, pack_name, stamp_of
from asyncstore.catalog._packed._read import digest_of
from asyncstore.catalog._packed._shares import packs_of
from asyncstore.catalog._packed._turns import all_of, fail_all, portions
from asyncstore.catalog._paths import folder_of, is_marker
from asyncstore.catalog._plan import total_bytes
from asyncstore.errors import AsyncStoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncstore.catalog._moving._lane import Passage
    from asyncstore.catalog._moving._tally import Tally
    from asyncstore.catalog._paths import Place
    from asyncstore.catalog._plan import PlannedFile
    from asyncstore.objects.base import Transfer

__all__ = ["PackedPut"]

PACKS_AT_ONCE = 3
"""Packs on their way at the same time, as far as there is memory for them: one is filled while others are sent."""

REMOVAL_DEADLINE_S = 1.0
"""How long a put that was given up tries to remove its packs; what is left of them is for sweeping."""

_REQUEST_BYTES = 1024 * 1024
"""What a request holds besides its payload."""


class PackedPut:
    """
    Puts files into packs; none of them is in the catalog before all are, and each then holds exactly the bytes hashed.

    Args:
        passage: the way to the store.
        place: the folder whose packs and index these are.
        tally: told of each file.
        top: what comes before the names of local files in their paths.
        prefix: what the planned names begin with, and those in the index do not.
    """

    def __init__(self, passage: Passage, place: Place, tally: Tally, *, top: str = "", prefix: str = "") -> None:
        self._passage = passage
        self._place = place
        self._tally = tally
        self._top = top
        self._prefix = prefix
        self._stamp = stamp_of(PROCESS_CLOCK.now())
        self._id = secrets.token_hex(8)
        self._packs: list[str] = []
        self._sent: list[str] = []
        self._stored: dict[int, Stored] = {}
        self._empty: list[PlannedFile] = []
        self.digests: dict[str, str] = {}
        """Of what is in the catalog now, by planned name; failures are in the tally."""

    async def run(self, uploads: Sequence[PlannedFile], copies: Sequence[PlannedFile] = ()) -> None:
        """Put all files: ``uploads`` from here, ``copies`` out of packs of another run."""
        if not uploads and not copies:
            return
        turns = LocalTurns(PACKS_AT_ONCE, mean_bytes(uploads))
        work = [partial(self._put_pack, turns, files) for files in packs_of(self._with_bytes(uploads))]
        sources: dict[str, list[PlannedFile]] = {}
        for file in self._with_bytes(copies):
            sources.setdefault(file.pack, []).append(file)
        copying = [partial(self._copy_pack, source, files) for source, files in sources.items()]
        try:
            workers = self._passage.lane.workers
            packing = [partial(all_of, work, limit=PACKS_AT_ONCE), partial(all_of, copying, limit=workers)]
            await all_of([*packing, self._witness], limit=3)
        except BaseException:
            await self._remove_packs()
            raise
        await self._write_index()

    def _with_bytes(self, files: Iterable[PlannedFile]) -> list[PlannedFile]:
        """Return the files that are not empty folders, which need no pack."""
        found = []
        for file in files:
            if is_marker(file.name):
                self._empty.append(file)
            else:
                found.append(file)
        return found

    async def _put_pack(self, turns: LocalTurns, files: Sequence[PlannedFile]) -> None:
        number = self._new_pack()
        size_bytes = total_bytes(files)
        async with self._passage.alone(charge_up(size_bytes, size_bytes + _REQUEST_BYTES), size_bytes) as transfer:
            landed = await self._fill_and_send(turns, number, files, transfer)
        self._note(number, landed)
        if (known := self._passage.lane.known) is not None:
            rows = [file.here for file in landed.files if file.here]
            await in_thread(known.remember_files, zip(rows, landed.digests, strict=True))

    async def _fill_and_send(
        self, turns: LocalTurns, number: int, files: Sequence[PlannedFile], transfer: Transfer
    ) -> Stored:
        """Return what is stored then; failures are in the tally."""
        filled = await turns.run(partial(fill, files, self._top))
        for file, failure in filled.failed:
            with self._tally.failing(file.name):
                raise failure
        if filled.data:
            # Beside the reading of another pack: to hash needs no interpreter lock.
            digest = await in_thread(digest_of, filled.data)
            body = MemoryBody(self._packs[number], filled.data, digest)
            try:
                await self._passage.lane.store.put_file(
                    self._key(body.name), body, metadata={DIGEST_KEY: digest}, transfer=transfer
                )
                self._sent.append(body.name)
            except AsyncStoreError as error:
                fail_all(self._tally, (file.name for file in filled.landed.files), error)
                return Stored()
        return filled.landed

    async def _copy_pack(self, source: str, files: Sequence[PlannedFile]) -> None:
        number = self._new_pack()
        if any(file.size_bytes for file in files):
            target = self._key(self._packs[number])
            try:
                await self._passage.lane.store.copy(source, target, transfer=self._passage.copies())
                self._sent.append(self._packs[number])
            except AsyncStoreError as error:
                fail_all(self._tally, (file.name for file in files), error)
                return
        self._note(number, Stored(files, [file.offset for file in files], [file.digest for file in files]))

    async def _witness(self) -> None:
        """Look at what indices there are: this one is to come after them, also where its plan was made elsewhere."""
        async for page in self._passage.lane.store.list(self._key("")):
            witness(meta.key for meta in page)

    def _note(self, number: int, stored: Stored) -> None:
        if stored.files:
            self._stored[number] = stored
            size_bytes = total_bytes(stored.files)
            self._tally.advance_all(size_bytes, stored.files[-1].name)

    async def _write_index(self) -> None:
        if not self._stored and not self._empty:
            return
        data = memoryview(await in_thread(self._encoded))
        digest = await in_thread(digest_of, data)
        # Of now, not of when the put began: the put that ends last is the one that counts.
        name = index_name(stamp_of(PROCESS_CLOCK.now()), self._id)
        async with self._passage.alone(charge_up(len(data), 2 * len(data)), len(data)) as transfer:
            body = MemoryBody(name, data)
            await self._passage.lane.store.put_file(
                self._key(name), body, metadata={DIGEST_KEY: digest}, transfer=transfer
            )
        for stored in self._stored.values():
            self.digests.update(zip((file.name for file in stored.files), stored.digests, strict=True))
            async for files in portions(stored.files):
                self._tally.done_all([file.name for file in files])

    def _encoded(self) -> bytes:
        # In the order of packs, which is that of names.
        columns = [stored for _, stored in sorted(self._stored.items())]
        used = [
            number for number, stored in sorted(self._stored.items()) if any(file.size_bytes for file in stored.files)
        ]
        places = {number: place for place, number in enumerate(used)}
        files = [file for stored in columns for file in stored.files]
        index = Index(
            packs=[self._packs[number] for number in used],
            names=list(map(self._short, files)),
            numbers=[
                places[number] if file.size_bytes else NO_PACK
                for number, stored in sorted(self._stored.items())
                for file in stored.files
            ],
            offsets=[offset for stored in columns for offset in stored.offsets],
            sizes=[file.size_bytes for file in files],
            digests="".join(digest for stored in columns for digest in stored.digests),
            modes=[file.mode for file in files],
            mtimes_ns=[file.mtime_ns for file in files],
            empty=sorted(folder_of(self._short(file)) for file in self._empty),
        )
        return encode(index)

    def _new_pack(self) -> int:
        self._packs.append(pack_name(self._stamp, self._id, len(self._packs)))
        return len(self._packs) - 1

    def _key(self, name: str) -> str:
        return f"{self._place.root}{PACKS}{name}"

    def _short(self, file: PlannedFile) -> str:
        return file.name[len(self._prefix) :] if self._prefix else file.name

    async def _remove_packs(self) -> None:
        # Nothing names them yet. To delete one that the storage may still be taking is to wait for that.
        unsure = [[name] for name in self._packs if name not in self._sent]
        removals = [partial(self._delete, names) for names in ([self._sent] if self._sent else []) + unsure]
        with contextlib.suppress(AsyncStoreError, TimeoutError):
            await shielded(all_of(removals, limit=1 + PACKS_AT_ONCE), deadline_s=REMOVAL_DEADLINE_S)

    async def _delete(self, names: Sequence[str]) -> None:
        await self._passage.lane.store.delete([self._key(name) for name in names])
