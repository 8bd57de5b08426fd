"""
The ``chunked-*`` layouts: one object for each fragment, so that writers never meet.

A write is one PUT of a known key. A new fragment is put with ``If-None-Match: *``: only where it turns out to exist
already is its creation time read, and kept, before it is replaced. A full read is one LIST and parallel GETs. When a
run ends, the assembled document is written beside its folder; later reads take from it each fragment whose ETag stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncstore._core.clock import PROCESS_CLOCK
from asyncstore._core.concurrency import both, for_each, map_bounded
from asyncstore._core.groupcommit import GroupCommitter
from asyncstore._core.retry import Contention
from asyncstore._core.threads import in_thread
from asyncstore.errors import (
    AlreadyExistsError,
    AsyncStoreError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    OutcomeUnknownError,
    RunLogNotFoundError,
)
from asyncstore.objects.base import ANY, NEW, Condition
from asyncstore.objects.claims import alone_at
from asyncstore.runlog._assembled import is_current, read_parts, read_whole, write_assembled
from asyncstore.runlog._keys import SUFFIX, ListedKey, decode_object, encode_object
from asyncstore.runlog._on_objects import ObjectRunLogStore, in_folder, on_s3, undecided
from asyncstore.runlog._queries import Candidate, RunQuery, summary_of
from asyncstore.runlog.fragments import HEADER, WHOLE_RUN, Fragment, FragmentKey, Kind, Selection
from asyncstore.runlog.tree import assemble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from asyncstore.models import RunLog, RunSummary, StampedModel
    from asyncstore.objects.base import Capabilities, ObjectMeta, ObjectStore

__all__ = ["ChunkedFileSystemRunLogStore", "ChunkedRunLogStore", "ChunkedS3RunLogStore"]

log = logging.getLogger(__name__)

LOOKS_AGAIN = 2
"""Further looks of a watch for the sake of order, where fragments are written all the time."""

STAMPS_KEPT = 65_536
"""Creation times remembered, of the fragments written or read last."""


@dataclass(frozen=True, slots=True)
class Stamped:
    """A fragment on its way, and its creation time if it turns out to be new."""

    fragment: Fragment
    now: datetime


@dataclass(frozen=True, slots=True)
class Creation(Stamped):
    """A fragment that is not to replace one that is there; the result says whether it was written."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the fragment that is there."""

    key: FragmentKey
    change: Callable[[Fragment], Fragment]


class ChunkedRunLogStore(ObjectRunLogStore):
    """Fragments as objects of any :class:`ObjectStore`; see :class:`ObjectRunLogStore`."""

    def __init__(self, objects: ObjectStore, **place: Any) -> None:
        super().__init__(objects, **place)
        self._stamps: OrderedDict[str, datetime] = OrderedDict()
        self._able: Capabilities | None = None

    # The six verbs.

    async def _upsert(self, run_id: str, fragments: Sequence[Fragment]) -> None:
        async def write(stamped: Stamped) -> None:
            await self._submit(self._keys.fragment(run_id, stamped.fragment.key), stamped)

        if len(fragments) == 1 and fragments[0].key.kind is not Kind.RUN_LOG:
            # By far the most frequent write.
            await write(*_stamped(fragments))
            return
        if any(fragment.key == HEADER for fragment in fragments):
            await self._make_room(run_id)
        await for_each(write, _stamped(fragments), limit=min(self._limit, len(fragments)))

    async def _insert(self, run_id: str, fragments: Sequence[Fragment]) -> Collection[FragmentKey]:
        async def create(stamped: Stamped) -> FragmentKey | None:
            return None if await self._create(run_id, stamped) else stamped.fragment.key

        stamped = _stamped(fragments)
        headers = [item for item in stamped if item.fragment.key == HEADER]
        others = [item for item in stamped if item.fragment.key != HEADER]
        found = await map_bounded(create, others, limit=self._limit)
        found += await map_bounded(create, headers, limit=1)
        return {key for key in found if key is not None}

    async def _modify(self, run_id: str, key: FragmentKey, change: Callable[[Fragment], Fragment]) -> None:
        if not await self._submit(self._keys.fragment(run_id, key), Change(key, change)):
            raise RunLogNotFoundError(run_id, self.location)

    async def _read(self, run_id: str, key: FragmentKey) -> Fragment | None:
        return await self._fetch(self._keys.fragment(run_id, key), ListedKey.of(key))

    async def _scan(
        self, run_id: str, selection: Selection, known: Mapping[FragmentKey, Fragment] | None = None
    ) -> Sequence[Fragment]:
        async with aclosing(self._objects.list(self._keys.selection(run_id, selection))) as pages:
            return await self._load_pages(run_id, selection, await _next(pages), pages, known or {})

    async def _look(self, run_id: str, known: Mapping[FragmentKey, Fragment]) -> Sequence[Fragment]:
        """
        Scan for a watch: nothing is seen without what was acknowledged before it.

        The pages of a listing are no snapshot, and what is fetched may be newer than what was listed. So such a look is
        followed by another one, which sees everything that was there before whatever the first one saw.
        """
        seen, settled = await self._look_once(run_id, known)
        if seen.keys() == known.keys() and all(seen[key] is fragment for key, fragment in known.items()):
            return list(seen.values())
        newest = max(
            (item.created_at for key, item in seen.items() if key not in known and item.created_at), default=None
        )
        for _ in range(LOOKS_AGAIN):
            if settled:
                break
            again, settled = await self._look_once(run_id, seen)
            # What came later may have left others unseen in its turn: it is for the next look.
            seen = {
                key: item
                for key, item in again.items()
                if settled or key in seen or newest is None or item.created_at is None or item.created_at <= newest
            }
        return list(seen.values())

    async def _look_once(
        self, run_id: str, known: Mapping[FragmentKey, Fragment]
    ) -> tuple[dict[FragmentKey, Fragment], bool]:
        """Return what is there, and whether it is what was there at one moment."""
        async with aclosing(self._objects.list(self._keys.run(run_id))) as pages:
            listed = [page async for page in pages]
        metas = [meta for page in listed for meta in page]
        loaded = await map_bounded(self._loader(run_id, WHOLE_RUN, known), metas, limit=self._limit)
        as_listed = all(item is None or item.etag == meta.etag for item, meta in zip(loaded, metas, strict=True))
        return {item.key: item for item in loaded if item is not None}, as_listed and len(listed) <= 1

    async def _read_whole(self, run_id: str) -> RunLog | None:
        async with aclosing(self._objects.list(self._keys.run(run_id))) as pages:
            first, text = await both(lambda: _next(pages), lambda: self._document_text(run_id))
            parts: Mapping[FragmentKey, Fragment] = {}
            if text is not None:
                # Parsed while the rest is listed.
                rest, (run_log, held) = await both(
                    partial(_all, pages), partial(in_thread, read_whole, text, self._where(run_id))
                )
                first = [*first, *rest]
                if run_log is not None and is_current(held, self._etags(run_id, first)):
                    self._witness_run(run_id, run_log)
                    return run_log
                parts = self._parts(run_id, text)
            fragments = await self._load_pages(run_id, WHOLE_RUN, first, pages, parts)
        return assemble(fragments, where=self._where(run_id))

    async def _headers(self, query: RunQuery) -> Collection[RunSummary]:
        listing = await self._objects.list_folder(self._keys.prefix)
        # The assembled document was written after its run was created; of a run without one nothing is known.
        written = {meta.key: meta.modified_at for meta in listing.objects}
        run_ids = [folder.removeprefix(self._keys.prefix).rstrip("/") for folder in listing.folders]
        candidates = [Candidate(run_id, written.get(self._keys.document(run_id))) for run_id in run_ids]

        async def load(candidate: Candidate) -> RunSummary | None:
            run_id = candidate.run_id
            try:
                header = await self._read(run_id, HEADER)
                return None if header is None else summary_of(header, run_id)
            except IntegrityError:
                log.warning("run %r is left out of the list: its header is not readable", run_id, exc_info=True)
                return None

        return await self._load_newest(candidates, query, load)

    async def _delete(self, run_id: str) -> None:
        header = self._keys.fragment(run_id, HEADER)
        await self._delete_document(run_id)
        async for page in self._objects.list(self._keys.run(run_id)):
            await self._objects.delete([meta.key for meta in page if meta.key != header])
        # The header goes last: a deletion that died half-way leaves a run that can be seen, and deleted again.
        await self._objects.delete([header])
        # Once more, for the run may have ended meanwhile.
        await self._delete_document(run_id)
        tickets = [meta.key async for page in self._objects.list(self._keys.tickets(run_id)) for meta in page]
        await self._objects.delete(tickets)
        for object_key in [key for key in self._stamps if key.startswith(self._keys.run(run_id))]:
            del self._stamps[object_key]

    async def _delete_document(self, run_id: str) -> None:
        # Where keys are files, the folder of a run called like the document may stand in its place.
        with contextlib.suppress(NotFoundError):
            await self._objects.delete([(await self._objects.head(self._keys.document(run_id))).key])

    async def _run_ended(self, run_id: str) -> None:
        """Write the assembled document; the run is complete without it, so a failure is logged and not raised."""
        try:
            earlier = await self._document_text(run_id)
            text = write_assembled(await self._scan(run_id, WHOLE_RUN, self._parts(run_id, earlier)))
            if text is not None:
                await self._objects.put(self._keys.document(run_id), text)
        except AsyncStoreError:
            log.warning("run %r has ended, but its assembled document could not be written", run_id, exc_info=True)

    # Writing.

    def _make_writer(self, queue: str) -> GroupCommitter[Any, Any]:
        return GroupCommitter(partial(self._commit, queue), inline=True, on_idle=partial(self._forget, queue))

    async def _commit(self, queue: str, batch: Sequence[Stamped | Change]) -> Sequence[bool]:
        """Of plain writes to one fragment that queued up, only the last goes out."""
        last = batch[-1]
        if type(last) is Stamped and all(type(item) is Stamped for item in batch):
            await self._put_last(queue, last)
            return [True] * len(batch)
        return await self._put_changed(queue, batch)

    async def _put_last(self, object_key: str, stamped: Stamped) -> None:
        stamp = self._stamps.get(object_key)
        if stamp is None:
            stamp = await self._stamp_to_keep(object_key, stamped.fragment.key)
        if stamp is None:
            created, stamp = await self._put_new(object_key, stamped)
            if created:
                return
        await self._objects.put(object_key, encode_object(stamped.fragment, stamp))
        self._remember(object_key, stamp)

    async def _put_changed(self, object_key: str, batch: Sequence[Stamped | Change]) -> Sequence[bool]:
        """Make changes that depend on what is there, by compare-and-swap where the storage can do it."""
        first = batch[0]
        key = first.key if isinstance(first, Change) else first.fragment.key
        able = await self._objects.capabilities()
        contention = Contention()
        unknown: OutcomeUnknownError | None = None
        while True:
            with undecided(unknown):
                found = await self._fetch(object_key, ListedKey.of(key))
            outcomes, changed = _apply(found, batch)
            if changed is None or changed == found:
                return outcomes
            condition = ANY
            if found is None and able.create:
                condition = NEW
            elif found is not None and able.match:
                condition = Condition(etag=found.etag)
            stamp = changed.created_at or PROCESS_CLOCK.now()
            try:
                await self._objects.put(object_key, encode_object(changed, stamp), condition=condition)
            except (AlreadyExistsError, ConflictError, NotFoundError, OutcomeUnknownError) as error:
                # Made again, a change that has landed after all does no harm.
                unknown = error if isinstance(error, OutcomeUnknownError) else unknown
                if not await contention.wait():
                    raise unknown or error from error
                continue
            self._remember(object_key, stamp)
            return outcomes

    async def _put_new(self, object_key: str, stamped: Stamped) -> tuple[bool, datetime]:
        """Put a fragment that is not known to exist; where it does, return the creation time to replace it with."""
        fragment, stamp = stamped.fragment, stamped.now
        try:
            await self._objects.put(object_key, encode_object(fragment, stamp), condition=NEW)
        except (AlreadyExistsError, OutcomeUnknownError) as error:
            # Also where it may have landed: put again as it is, it does no harm.
            with undecided(error if isinstance(error, OutcomeUnknownError) else None):
                existing = await self._fetch(object_key, ListedKey.of(fragment.key))
            return False, (existing and existing.created_at) or stamp
        self._remember(object_key, stamp)
        return True, stamp

    async def _stamp_to_keep(self, object_key: str, key: FragmentKey) -> datetime | None:
        """Where the storage would not refuse to replace an earlier version, look for one first."""
        if self._able is None:
            self._able = await self._objects.capabilities()
        if self._able.create:
            return None
        existing = await self._fetch(object_key, ListedKey.of(key))
        return existing.created_at if existing else None

    async def _create(self, run_id: str, stamped: Stamped) -> bool:
        fragment, stamp = stamped.fragment, stamped.now
        object_key = self._keys.fragment(run_id, fragment.key)
        if fragment.key == HEADER:
            await self._make_room(run_id)
        if not (await self._objects.capabilities()).create:
            if fragment.key == HEADER:
                return await self._create_alone(run_id, stamped)
            created: bool = await self._submit(object_key, Creation(fragment, stamp))
            return created
        try:
            await self._objects.put(object_key, encode_object(fragment, stamp), condition=NEW)
        except AlreadyExistsError:
            return False
        self._remember(object_key, stamp)
        return True

    async def _create_alone(self, run_id: str, stamped: Stamped) -> bool:
        object_key = self._keys.fragment(run_id, HEADER)

        async def is_there() -> bool:
            return await self._fetch(object_key, ListedKey.of(HEADER)) is not None

        async with (
            self._changing.setdefault((run_id, HEADER), asyncio.Lock()),
            alone_at(self._objects, self._keys.tickets(run_id), is_there) as free,
        ):
            if free:
                await self._objects.put(object_key, encode_object(stamped.fragment, stamped.now))
                self._remember(object_key, stamped.now)
            return free

    async def _make_room(self, run_id: str) -> None:
        """
        Where this run's folder would have the name of another's assembled document, remove that.

        Where keys are files one name cannot be both, and the document can be done without.
        """
        other = run_id.removesuffix(SUFFIX)
        if other != run_id and self._parts(other, await self._document_text(other)):
            await self._objects.delete([self._keys.document(other)])

    # Reading.

    async def _load_pages(
        self,
        run_id: str,
        selection: Selection,
        page: Sequence[ObjectMeta],
        pages: AsyncIterator[Sequence[ObjectMeta]],
        known: Mapping[FragmentKey, Fragment],
    ) -> list[Fragment]:
        """Fetch what is listed, each page while the next one is asked for; not what is ``known`` by its ETag."""
        load = self._loader(run_id, selection, known)
        found: list[Fragment] = []
        while page:
            page, loaded = await both(partial(_next, pages), partial(map_bounded, load, page, limit=self._limit))
            found += [item for item in loaded if item is not None]
        return found

    def _loader(
        self, run_id: str, selection: Selection, known: Mapping[FragmentKey, Fragment]
    ) -> Callable[[ObjectMeta], Awaitable[Fragment | None]]:
        """Return what gives the fragment of a listed object, if it is selected."""
        by_object = {self._keys.fragment(run_id, key): fragment for key, fragment in known.items()}

        async def load(meta: ObjectMeta) -> Fragment | None:
            listed = self._keys.parse(run_id, meta.key)
            if listed is None or listed.kind not in selection.kinds:
                return None
            key = listed.fragment_key
            if key is not None and not selection.matches(key):
                return None
            held = by_object.get(meta.key)
            if held is not None and held.etag == meta.etag:
                self._witness(meta.key, held)
                return held
            found = await self._fetch(meta.key, listed)
            return found if found is not None and selection.matches(found.key) else None

        return load

    async def _fetch(self, object_key: str, listed: ListedKey) -> Fragment | None:
        try:
            meta, data = await self._objects.get(object_key)
        except NotFoundError:
            return None
        fragment = decode_object(listed, data, meta.etag)
        self._witness(object_key, fragment)
        return fragment

    async def _document_text(self, run_id: str) -> bytes | None:
        try:
            _, text = await self._objects.get(self._keys.document(run_id))
        except NotFoundError:
            return None
        return text

    def _parts(self, run_id: str, text: bytes | None) -> Mapping[FragmentKey, Fragment]:
        """Return what the assembled document holds, nothing if there is none that can be read."""
        try:
            return {} if text is None else read_parts(text, self._where(run_id))
        except IntegrityError as error:
            log.warning("the assembled document of run %r is of no use, its fragments are: %s", run_id, error)
            return {}

    def _etags(self, run_id: str, listed: Sequence[ObjectMeta]) -> dict[str, str]:
        folder = self._keys.run(run_id)
        return {meta.key.removeprefix(folder): meta.etag for meta in listed}

    def _witness_run(self, run_id: str, run_log: RunLog) -> None:
        parts: list[tuple[FragmentKey, StampedModel]] = [(HEADER, run_log)]
        parts += [(FragmentKey(Kind.STEP_LOG, step.internal_name), step) for step in run_log.walk_steps()]
        parts += [(FragmentKey(Kind.BRANCH_LOG, item.internal_name), item) for item in run_log.walk_branches()]
        for key, model in parts:
            if model.created_at is not None:
                self._remember(self._keys.fragment(run_id, key), model.created_at)
                PROCESS_CLOCK.witness(model.created_at)

    def _witness(self, object_key: str, fragment: Fragment) -> None:
        if fragment.created_at is not None:
            self._remember(object_key, fragment.created_at)
            PROCESS_CLOCK.witness(fragment.created_at)

    def _remember(self, object_key: str, stamp: datetime) -> None:
        self._stamps[object_key] = stamp
        self._stamps.move_to_end(object_key)
        if len(self._stamps) > STAMPS_KEPT:
            self._stamps.popitem(last=False)


def _apply(found: Fragment | None, batch: Sequence[Stamped | Change]) -> tuple[list[bool], Fragment | None]:
    """Return what became of each item, and the fragment after all of them, with the creation time of the first."""
    outcomes = []
    current = found
    for item in batch:
        if isinstance(item, Change):
            outcomes.append(current is not None)
            changed = None if current is None else item.change(current)
        else:
            outcomes.append(type(item) is Stamped or current is None)
            changed = item.fragment if outcomes[-1] else current
        if changed is not None:
            first = current.created_at if current is not None else getattr(item, "now", None)
            current = replace(changed, created_at=first, etag=current.etag if current is not None else "")
    return outcomes, current


async def _all(pages: AsyncIterator[Sequence[ObjectMeta]]) -> list[ObjectMeta]:
    return [meta async for page in pages for meta in page]


async def _next(pages: AsyncIterator[Sequence[ObjectMeta]]) -> Sequence[ObjectMeta]:
    async for page in pages:
        return page
    return ()


def _stamped(fragments: Sequence[Fragment]) -> list[Stamped]:
    """Stamp in order what will be written in parallel, but for what has been stored elsewhere and brings its time."""
    return [Stamped(fragment, fragment.created_at or PROCESS_CLOCK.now()) for fragment in fragments]


class ChunkedS3RunLogStore(ChunkedRunLogStore):
    """
    The ``chunked-s3`` layout: ``s3://<bucket>/<prefix>/<run_id>/<Kind>/<encoded name>.json``.

    Works on every S3 server. Where the server ignores conditional writes (it is asked once, at the first write),
    creators of a run show each other tickets (:mod:`asyncstore.objects.claims`): one wins as long as the server lists
    what it has acknowledged and no creator stands still for 10 s in between. The first write of a fragment then costs a
    look besides.

    Requests: a write is one PUT, and three where the fragment was written by another process and not read by this one,
    since its creation time is to be kept. A full read is one LIST for each 1,000 fragments and a GET for each; of a run
    that has ended, one GET in place of those. Listing is one LIST for each 1,000 folders and documents and a GET of the
    header of each run looked at: all of them, or with ``limit`` those under way and about as many as are asked for, by
    when their documents were written. A watch looks with one LIST for each 1,000 fragments and reads what has changed:
    at most 600 looks a minute while the run goes on, 12 while nothing happens.
    """

    def __init__(self, **options: object) -> None:
        super().__init__(**on_s3("chunked-s3", options))


class ChunkedFileSystemRunLogStore(ChunkedRunLogStore):
    """The ``chunked-fs`` layout: ``<log_folder>/<run_id>/<Kind>/<encoded name>.json``, also on a shared folder."""

    def __init__(self, **options: object) -> None:
        super().__init__(**in_folder("chunked-fs", options))
