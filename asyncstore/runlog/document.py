"""
The one-document layouts: a run is ``<prefix>/<run_id>.json``, changed by compare-and-swap on its ETag.

Changes that queue up in one process while a PUT is in flight go out together in the next. A swap that somebody else won
is made again on what is there now, so nothing is lost however many processes write, and :mod:`asyncstore.objects.turns`
sees to it that each of them gets its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from asyncstore._core.clock import PROCESS_CLOCK
from asyncstore._core.groupcommit import GroupCommitter
from asyncstore._core.threads import in_thread
from asyncstore.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AsyncStoreError,
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    OutcomeUnknownError,
    RunLogNotFoundError,
)
from asyncstore.models import RunLog
from asyncstore.objects.base import NEW, Condition
from asyncstore.objects.turns import Turns
from asyncstore.runlog._json import parse_json
from asyncstore.runlog._keys import SUFFIX
from asyncstore.runlog._on_objects import ObjectRunLogStore, in_folder, on_s3, undecided
from asyncstore.runlog._queries import Candidate, RunQuery, summary_of
from asyncstore.runlog.encoding import validate_json
from asyncstore.runlog.fragments import HEADER, Fragment, FragmentKey, Selection
from asyncstore.runlog.tree import assemble, flatten, read_header, write_document

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AsyncExitStack

    from asyncstore.models import RunSummary
    from asyncstore.objects.base import ObjectStore

__all__ = ["DocumentRunLogStore", "FileSystemRunLogStore", "S3RunLogStore"]

R = TypeVar("R")

DOCUMENTS_KEPT = 16
"""Documents remembered between changes, of the runs written last."""

TURNS_KEPT = 256
"""Runs of which this process remembers how crowded they were, of those written last."""

HEADER_BYTES = 16 * 1024
"""How much of a document is read for its header alone, which stands at its beginning."""

LARGE_BYTES = 128 * 1024
"""Documents above this are parsed and written in a thread, as that takes milliseconds."""

Fragments = dict[FragmentKey, Fragment]

Change = Callable[[Fragments, OutcomeUnknownError | None], Any]
"""Changes fragments in place; it is told if a swap was tried before whose outcome nobody knows."""


@dataclass(frozen=True, slots=True)
class Document:
    """A run's fragments as they stood at one ETag; ``etag`` is empty where there is no document yet."""

    fragments: Fragments
    etag: str = ""


NO_DOCUMENT = Document({})


@dataclass(slots=True)
class Pending:
    """A change on its way; it is not made, and not made again, once its caller is gone."""

    change: Change
    abandoned: bool = False


class DocumentRunLogStore(ObjectRunLogStore):
    """
    Runs as documents of any :class:`ObjectStore` that honours conditional writes; see :class:`ObjectRunLogStore`.

    Writing to a run that does not exist raises :class:`RunLogNotFoundError`, since there is no document to change.
    """

    def __init__(self, objects: ObjectStore, **place: Any) -> None:
        super().__init__(objects, **place)
        self._documents: OrderedDict[str, Document] = OrderedDict()
        self._turns: OrderedDict[str, Turns] = OrderedDict()
        self._may_swap = False

    async def _open(self, stack: AsyncExitStack) -> None:
        await super()._open(stack)
        if not self.access.allow_write:
            return
        # Whoever opens a place without runs is going to write there. Others may be there to read, and reading must not
        # ask for more than that, so they are told when they write.
        with contextlib.suppress(AccessDeniedError):
            if await self._is_empty():
                await self._require_conditions()

    async def _require_conditions(self) -> None:
        if self._may_swap:
            return
        able = await self._objects.capabilities()
        if not (able.create and able.match):
            raise ConfigurationError(
                f"{self.location} ignores conditional writes, so one document per run would lose updates: "
                "use the layout 'chunked-s3' there"
            )
        self._may_swap = True

    async def _is_empty(self) -> bool:
        async with aclosing(self._objects.list(self._keys.prefix)) as pages:
            async for _ in pages:
                return False
        return True

    # The six verbs.

    async def _upsert(self, run_id: str, fragments: Sequence[Fragment]) -> None:
        def change(document: Fragments, unknown: OutcomeUnknownError | None) -> None:
            self._require_header(run_id, document, fragments)
            for fragment in fragments:
                first = document[fragment.key].created_at if fragment.key in document else PROCESS_CLOCK.now()
                document[fragment.key] = replace(fragment, created_at=first)

        await self._change(run_id, change)

    async def _insert(self, run_id: str, fragments: Sequence[Fragment]) -> Collection[FragmentKey]:
        mine: Fragments = {}

        def change(document: Fragments, unknown: OutcomeUnknownError | None) -> set[FragmentKey]:
            self._require_header(run_id, document, fragments)
            there = {fragment.key for fragment in fragments if fragment.key in document}
            if unknown is not None:
                # A part that is there may be what an earlier swap brought, of which nobody knows whether it was made.
                there = {key for key in there if key not in mine or not _same(document[key], mine[key])}
                if there & mine.keys():
                    raise unknown
            for fragment in fragments:
                if fragment.key not in document:
                    stamp = fragment.created_at or PROCESS_CLOCK.now()
                    mine[fragment.key] = document[fragment.key] = replace(fragment, created_at=stamp, etag="")
            return there

        result: set[FragmentKey] = await self._change(run_id, change)
        return result

    async def _modify(self, run_id: str, key: FragmentKey, change: Callable[[Fragment], Fragment]) -> None:
        def apply(document: Fragments, unknown: OutcomeUnknownError | None) -> None:
            if key not in document:
                raise RunLogNotFoundError(run_id, self.location)
            document[key] = replace(change(document[key]), created_at=document[key].created_at)

        await self._change(run_id, apply)

    async def _read(self, run_id: str, key: FragmentKey) -> Fragment | None:
        if key == HEADER:
            return await self._load_header(run_id)
        return (await self._load(run_id)).fragments.get(key)

    async def _scan(
        self, run_id: str, selection: Selection, known: Mapping[FragmentKey, Fragment] | None = None
    ) -> Sequence[Fragment]:
        held = next(iter((known or {}).values()), None)
        if held is not None and held.etag and await self._stands(run_id, held.etag):
            return [fragment for key, fragment in (known or {}).items() if selection.matches(key)]
        document = await self._load(run_id)
        return [
            replace(fragment, etag=document.etag)
            for key, fragment in document.fragments.items()
            if selection.matches(key)
        ]

    async def _stands(self, run_id: str, etag: str) -> bool:
        try:
            return (await self._objects.head(self._keys.document(run_id))).etag == etag
        except NotFoundError:
            return False

    async def _read_whole(self, run_id: str) -> RunLog | None:
        try:
            _, data = await self._objects.get(self._keys.document(run_id))
        except NotFoundError:
            return None
        try:
            run_log = validate_json(RunLog, data, self._where(run_id))
        except IntegrityError:
            # Other tools leave out, or write as null, what these models insist on.
            return assemble((await self._parsed(run_id, data)).values(), where=self._where(run_id))
        for model in (run_log, *run_log.walk_steps(), *run_log.walk_branches()):
            if model.created_at is not None:
                PROCESS_CLOCK.witness(model.created_at)
        return run_log

    async def _headers(self, query: RunQuery) -> Collection[RunSummary]:
        listing = await self._objects.list_folder(self._keys.prefix)
        candidates = [
            Candidate(meta.key.removeprefix(self._keys.prefix).removesuffix(SUFFIX), meta.modified_at)
            for meta in listing.objects
            if meta.key.endswith(SUFFIX) and meta.size_bytes
        ]

        async def load(candidate: Candidate) -> RunSummary | None:
            try:
                header = await self._load_header(candidate.run_id)
            except IntegrityError:
                # Some other tool's JSON file beside the logs is not a run.
                return None
            return None if header is None else summary_of(header, candidate.run_id, candidate.written_at)

        return await self._load_newest(candidates, query, load)

    async def _delete(self, run_id: str) -> None:
        self._documents.pop(run_id, None)
        tickets = [meta.key async for page in self._objects.list(self._keys.tickets(run_id)) for meta in page]
        await self._objects.delete([self._keys.document(run_id), *tickets])

    # Compare and swap.

    async def _change(self, run_id: str, change: Change) -> Any:
        pending = Pending(change)
        try:
            return await self._submit(run_id, pending)
        except asyncio.CancelledError:
            pending.abandoned = True
            raise

    def _require_header(self, run_id: str, document: Fragments, fragments: Sequence[Fragment]) -> None:
        if HEADER not in document and all(fragment.key != HEADER for fragment in fragments):
            raise RunLogNotFoundError(run_id, self.location)

    def _make_writer(self, queue: str) -> GroupCommitter[Any, Any]:
        turns = self._turns_at(queue)
        return GroupCommitter(
            partial(self._commit, turns, queue), before=turns.wait, on_idle=partial(self._forget, queue)
        )

    def _turns_at(self, run_id: str) -> Turns:
        turns = self._turns.pop(run_id, None) or Turns(self._objects, self._keys.tickets(run_id))
        self._turns[run_id] = turns
        if len(self._turns) > TURNS_KEPT:
            self._turns.popitem(last=False)
        return turns

    async def _commit(self, turns: Turns, run_id: str, batch: Sequence[Pending]) -> Sequence[Any]:
        document = self._documents.get(run_id)
        remembered = document is not None
        unknown: OutcomeUnknownError | None = None
        try:
            await self._require_conditions()
            while True:
                if document is None:
                    with undecided(unknown):
                        document = await self._load(run_id)
                outcomes, changed = _apply(document.fragments, batch, unknown)
                if changed == document.fragments and not remembered:
                    return outcomes
                if changed != document.fragments:
                    try:
                        await self._swap(run_id, Document(changed, document.etag))
                    except (ConflictError, AlreadyExistsError, NotFoundError, OutcomeUnknownError) as error:
                        unknown = error if isinstance(error, OutcomeUnknownError) else unknown
                        # What was remembered may be old; that is no sign of a crowd.
                        if not remembered and not await turns.lost():
                            raise unknown or error from error
                    else:
                        await turns.won()
                        return outcomes
                # Without a swap nothing tells that what is remembered has gone stale: it is read before it is believed.
                document, remembered = None, False
        finally:
            await turns.leave()

    async def _swap(self, run_id: str, document: Document) -> None:
        self._documents.pop(run_id, None)
        condition = Condition(etag=document.etag) if document.etag else NEW
        fragments = list(document.fragments.values())
        size_bytes = sum(len(fragment.body) for fragment in fragments)
        text = await _off_loop(size_bytes, lambda: write_document(fragments))
        assert text is not None, "every change sees to it that there is a header"
        etag = await self._objects.put(self._keys.document(run_id), text, condition=condition)
        self._documents[run_id] = Document(document.fragments, etag)
        if len(self._documents) > DOCUMENTS_KEPT:
            self._documents.popitem(last=False)

    async def _load(self, run_id: str) -> Document:
        try:
            meta, data = await self._objects.get(self._keys.document(run_id))
        except NotFoundError:
            return NO_DOCUMENT
        return Document(await self._parsed(run_id, data), meta.etag)

    async def _load_header(self, run_id: str) -> Fragment | None:
        try:
            meta, data = await self._objects.get(self._keys.document(run_id), byte_range=(0, HEADER_BYTES))
        except NotFoundError:
            return None
        header = read_header(data)
        if header is None and meta.size_bytes <= len(data):
            header = (await self._parsed(run_id, data)).get(HEADER)
        return header or (await self._load(run_id)).fragments.get(HEADER)

    async def _parsed(self, run_id: str, data: bytes) -> Fragments:
        fragments = await _off_loop(len(data), lambda: _parse(data, self._where(run_id)))
        for fragment in fragments.values():
            if fragment.created_at is not None:
                PROCESS_CLOCK.witness(fragment.created_at)
        return fragments


class S3RunLogStore(DocumentRunLogStore):
    """
    The ``s3`` layout: ``s3://<bucket>/<prefix>/<run_id>.json``, readable by magnus.

    The endpoint must honour conditional writes, otherwise it is refused with advice: when the store opens where there
    are no runs yet, else with the first write, since reading must not need leave to write.

    Requests: a change is one PUT for all that queued up in this process, and a GET besides where another process has
    written since; eight processes that write all the time cost about three requests a swap. A full read is one GET, and
    so is ``full=False``, of the first 16 KiB (two where another tool wrote the document). Listing is one LIST for each
    1,000 runs and a GET of 16 KiB for each run looked at: all of them, or with ``limit`` about as many as are asked
    for, by when their documents were last written. A watch looks with one HEAD, and reads the document when it has
    changed: at most 1,200 requests a minute while the run goes on, 12 while nothing happens.
    """

    def __init__(self, **options: object) -> None:
        super().__init__(**on_s3("s3", options))


class FileSystemRunLogStore(DocumentRunLogStore):
    """The ``file-system`` layout: ``<log_folder>/<run_id>.json``, readable by magnus and runnable."""

    def __init__(self, **options: object) -> None:
        super().__init__(**in_folder("file-system", options))


async def _off_loop(size_bytes: int, work: Callable[[], R]) -> R:
    return work() if size_bytes < LARGE_BYTES else await in_thread(work)


def _parse(data: bytes, where: str) -> Fragments:
    tree = parse_json(data, where)
    if not isinstance(tree, dict) or "run_id" not in tree:
        raise IntegrityError(f"{where} is not a run log")
    return {fragment.key: fragment for fragment in flatten(tree)}


def _same(found: Fragment, written: Fragment) -> bool:
    return found.created_at == written.created_at and found.value == written.value


def _apply(
    before: Fragments, batch: Sequence[Pending], unknown: OutcomeUnknownError | None
) -> tuple[list[Any], Fragments]:
    """Return each change's result or error, and the fragments after all that succeeded."""
    after = dict(before)
    outcomes: list[Any] = []
    for pending in batch:
        try:
            outcomes.append(None if pending.abandoned else pending.change(after, unknown))
        except AsyncStoreError as error:
            outcomes.append(error)
    return outcomes, after
