"""
The ``chunked-*`` layouts: one object for each fragment, so that writers never meet.

A write is one PUT of a known key. A new fragment is put with ``If-None-Match: *``: only where it turns out to exist
already is its creation time read, and kept, before it is replaced. A full read is one LIST and parallel GETs. When a
run ends, the assembled document is written beside its folder; later reads take from it each fragment whose ETag stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from asyncstore._core.clock import PROCESS_CLOCK
from asyncstore._core.concurrency import both, map_bounded
from asyncstore._core.retry import Contention
from asyncstore.errors import (
    AlreadyExistsError,
    AsyncStoreError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    RunLogNotFoundError,
)
from asyncstore.objects.base import ANY, NEW, Condition
from asyncstore.runlog._json import parse_json
from asyncstore.runlog._keys import SUFFIX, ListedKey, decode_object, encode_object, relative_key
from asyncstore.runlog._on_objects import ObjectRunLogStore, in_folder, on_s3
from asyncstore.runlog._queries import RunQuery, summary_of
from asyncstore.runlog.fragments import HEADER, WHOLE_RUN, Fragment, FragmentKey, Selection
from asyncstore.runlog.tree import flatten, nest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from asyncstore.models import RunSummary
    from asyncstore.objects.base import ObjectMeta, ObjectStore

__all__ = ["ChunkedFileSystemRunLogStore", "ChunkedRunLogStore", "ChunkedS3RunLogStore"]

log = logging.getLogger(__name__)

ETAGS = "_etags"
"""Key of the assembled document under which it keeps the ETags of the fragments it holds."""

CREATOR = "asyncstore-creator"
"""Metadata key of the mark by which a creator knows its own write, where the storage ignores conditions."""

SETTLE_S = 0.1
"""Least time a creator waits there before it looks whose write stands."""

SETTLE_LOOKS = 10
"""How often it looks, while it sees nothing at all."""

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

    def __init__(self, objects: ObjectStore, *, prefix: str = "", limit: int = 64, owned: bool = False) -> None:
        super().__init__(objects, prefix=prefix, limit=limit, owned=owned)
        self._stamps: OrderedDict[str, datetime] = OrderedDict()

    # The six verbs.

    async def _upsert(self, run_id: str, fragments: Sequence[Fragment]) -> None:
        async def write(stamped: Stamped) -> None:
            await self._submit(self._keys.fragment(run_id, stamped.fragment.key), stamped)

        if any(fragment.key == HEADER for fragment in fragments):
            await self._make_room(run_id)
        await map_bounded(write, _stamped(fragments), limit=self._limit)

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
        if selection == WHOLE_RUN and known is None:
            listed, known = await both(lambda: self._list(run_id, selection), lambda: self._read_document(run_id))
        else:
            listed = await self._list(run_id, selection)
        by_object = {self._keys.fragment(run_id, key): fragment for key, fragment in (known or {}).items()}

        async def load(item: tuple[ObjectMeta, ListedKey]) -> Fragment | None:
            meta, listed_key = item
            held = by_object.get(meta.key)
            if held is not None and held.etag == meta.etag:
                self._witness(meta.key, held)
                return held
            return await self._fetch(meta.key, listed_key)

        loaded = await map_bounded(load, listed, limit=self._limit)
        return [fragment for fragment in loaded if fragment is not None and selection.matches(fragment.key)]

    async def _headers(self, query: RunQuery) -> Collection[RunSummary]:
        listing = await self._objects.list_folder(self._keys.prefix)
        run_ids = [folder.removeprefix(self._keys.prefix).rstrip("/") for folder in listing.folders]

        async def load(run_id: str) -> RunSummary | None:
            try:
                header = await self._read(run_id, HEADER)
                return None if header is None else summary_of(header, run_id)
            except IntegrityError:
                log.warning("run %r is left out of the list: its header is not readable", run_id, exc_info=True)
                return None

        summaries = await map_bounded(load, run_ids, limit=self._limit)
        return [summary for summary in summaries if summary is not None]

    async def _delete(self, run_id: str) -> None:
        header = self._keys.fragment(run_id, HEADER)
        # Where keys are files, the folder of a run called like the document may stand in its place.
        with contextlib.suppress(NotFoundError):
            await self._objects.delete([(await self._objects.head(self._keys.document(run_id))).key])
        async for page in self._objects.list(self._keys.run(run_id)):
            await self._objects.delete([meta.key for meta in page if meta.key != header])
        # The header goes last: a deletion that died half-way leaves a run that can be seen, and deleted again.
        await self._objects.delete([header])
        for object_key in [key for key in self._stamps if key.startswith(self._keys.run(run_id))]:
            del self._stamps[object_key]

    async def _run_ended(self, run_id: str) -> None:
        """Write the assembled document; the run is complete without it, so a failure is logged and not raised."""
        try:
            fragments = await self._scan(run_id, WHOLE_RUN)
            tree = nest(fragments)
            if tree is None:
                return
            tree[ETAGS] = {relative_key(item.key): item.etag for item in fragments}
            text = json.dumps(tree, separators=(",", ":")).encode()
            await self._objects.put(self._keys.document(run_id), text)
        except AsyncStoreError:
            log.warning("run %r has ended, but its assembled document could not be written", run_id, exc_info=True)

    # Writing.

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
        while True:
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
            except (AlreadyExistsError, ConflictError, NotFoundError):
                if not await contention.wait():
                    raise
                continue
            self._remember(object_key, stamp)
            return outcomes

    async def _put_new(self, object_key: str, stamped: Stamped) -> tuple[bool, datetime]:
        """Put a fragment that is not known to exist; where it does, return the creation time to replace it with."""
        fragment, stamp = stamped.fragment, stamped.now
        try:
            await self._objects.put(object_key, encode_object(fragment, stamp), condition=NEW)
        except AlreadyExistsError:
            existing = await self._fetch(object_key, ListedKey.of(fragment.key))
            return False, (existing and existing.created_at) or stamp
        self._remember(object_key, stamp)
        return True, stamp

    async def _stamp_to_keep(self, object_key: str, key: FragmentKey) -> datetime | None:
        """Where the storage would not refuse to replace an earlier version, look for one first."""
        if (await self._objects.capabilities()).create:
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
                return await self._create_by_turns(run_id, stamped)
            created: bool = await self._submit(object_key, Creation(fragment, stamp))
            return created
        try:
            await self._objects.put(object_key, encode_object(fragment, stamp), condition=NEW)
        except AlreadyExistsError:
            return False
        self._remember(object_key, stamp)
        return True

    async def _create_by_turns(self, run_id: str, stamped: Stamped) -> bool:
        """
        Look, write, wait, and look again whose write stands (Fischer's algorithm).

        Exclusive as long as no creator takes longer from its look to the end of its write than the others wait.
        """
        object_key = self._keys.fragment(run_id, HEADER)
        async with self._changing.setdefault((run_id, HEADER), asyncio.Lock()):
            if await self._fetch(object_key, ListedKey.of(HEADER)) is not None:
                return False
            mark, started = secrets.token_hex(16), time.monotonic()
            data = encode_object(stamped.fragment, stamped.now)
            await self._objects.put(object_key, data, metadata={CREATOR: mark})
            settle_s = max(SETTLE_S, 4 * (time.monotonic() - started))
            if await self._creator(object_key, settle_s) != mark:
                return False
            self._remember(object_key, stamped.now)
            return True

    async def _creator(self, object_key: str, settle_s: float) -> str | None:
        """Return the mark on what stands after a wait; such storage may lose sight of it meanwhile, so look again."""
        for _ in range(SETTLE_LOOKS):
            await asyncio.sleep(settle_s)
            with contextlib.suppress(NotFoundError):
                return (await self._objects.head(object_key)).metadata.get(CREATOR)
        return None

    async def _make_room(self, run_id: str) -> None:
        """
        Where this run's folder would have the name of another's assembled document, remove that.

        Where keys are files one name cannot be both, and the document can be done without.
        """
        other = run_id.removesuffix(SUFFIX)
        if other != run_id and await self._read_document(other):
            await self._objects.delete([self._keys.document(other)])

    # Reading.

    async def _list(self, run_id: str, selection: Selection) -> list[tuple[ObjectMeta, ListedKey]]:
        found = []
        async for page in self._objects.list(self._keys.selection(run_id, selection)):
            for meta in page:
                listed = self._keys.parse(run_id, meta.key)
                if listed is None or listed.kind not in selection.kinds:
                    continue
                key = listed.fragment_key
                if key is None or selection.matches(key):
                    found.append((meta, listed))
        return found

    async def _fetch(self, object_key: str, listed: ListedKey) -> Fragment | None:
        try:
            meta, data = await self._objects.get(object_key)
        except NotFoundError:
            return None
        fragment = decode_object(listed, data, meta.etag)
        self._witness(object_key, fragment)
        return fragment

    async def _read_document(self, run_id: str) -> dict[FragmentKey, Fragment]:
        """Return what the assembled document holds, each fragment with the ETag it had; nothing if there is none."""
        try:
            _, data = await self._objects.get(self._keys.document(run_id))
            tree = parse_json(data, f"document of run {run_id!r}")
            etags = tree.pop(ETAGS, {}) if isinstance(tree, dict) else {}
            fragments = flatten(tree) if etags else []
        except NotFoundError:
            return {}
        except IntegrityError:
            log.warning("the assembled document of run %r is not readable; its fragments are read instead", run_id)
            return {}
        return {
            item.key: Fragment(item.key, item.body, item.created_at, etags.get(relative_key(item.key), ""))
            for item in fragments
        }

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


def _stamped(fragments: Sequence[Fragment]) -> list[Stamped]:
    """Stamp in order what will be written in parallel."""
    return [Stamped(fragment, PROCESS_CLOCK.now()) for fragment in fragments]


class ChunkedS3RunLogStore(ChunkedRunLogStore):
    """
    The ``chunked-s3`` layout: ``s3://<bucket>/<prefix>/<run_id>/<Kind>/<encoded name>.json``.

    Works on every S3 server. Where the server ignores conditional writes (it is asked once, at the first write),
    creating a run is exclusive within a process; among processes the store looks, writes, waits and looks again whose
    write stands. The first write of a fragment then costs a look besides.
    """

    def __init__(self, **options: object) -> None:
        super().__init__(**on_s3("chunked-s3", options))


class ChunkedFileSystemRunLogStore(ChunkedRunLogStore):
    """The ``chunked-fs`` layout: ``<log_folder>/<run_id>/<Kind>/<encoded name>.json``, also on a shared folder."""

    def __init__(self, **options: object) -> None:
        super().__init__(**in_folder("chunked-fs", options))
