"""
The one-document layouts: a run is ``<prefix>/<run_id>.json``, changed by compare-and-swap on its ETag.

Changes that queue up in one process while a PUT is in flight go out together in the next. A swap that somebody else won
is made again on what is there now, after a short random wait, so nothing is lost however many processes write.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from asyncstore._core.clock import PROCESS_CLOCK
from asyncstore._core.concurrency import map_bounded
from asyncstore._core.retry import Contention
from asyncstore.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AsyncStoreError,
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    RunLogNotFoundError,
)
from asyncstore.objects.base import NEW, Condition
from asyncstore.runlog._json import parse_json
from asyncstore.runlog._keys import SUFFIX
from asyncstore.runlog._on_objects import ObjectRunLogStore, in_folder, on_s3
from asyncstore.runlog._queries import RunQuery, summary_of
from asyncstore.runlog.fragments import HEADER, Fragment, FragmentKey, Selection
from asyncstore.runlog.tree import flatten, nest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from contextlib import AsyncExitStack

    from asyncstore.models import RunSummary
    from asyncstore.objects.base import ObjectMeta, ObjectStore

__all__ = ["DocumentRunLogStore", "FileSystemRunLogStore", "S3RunLogStore"]

DOCUMENTS_KEPT = 16
"""Documents remembered between changes, of the runs written last."""

Fragments = dict[FragmentKey, Fragment]


@dataclass(frozen=True, slots=True)
class Document:
    """A run's fragments as they stood at one ETag; ``etag`` is empty where there is no document yet."""

    fragments: Fragments
    etag: str = ""


NO_DOCUMENT = Document({})


class DocumentRunLogStore(ObjectRunLogStore):
    """
    Runs as documents of any :class:`ObjectStore` that honours conditional writes; see :class:`ObjectRunLogStore`.

    Writing to a run that does not exist raises :class:`RunLogNotFoundError`, since there is no document to change.
    """

    def __init__(self, objects: ObjectStore, *, prefix: str = "", limit: int = 64, owned: bool = False) -> None:
        super().__init__(objects, prefix=prefix, limit=limit, owned=owned)
        self._documents: OrderedDict[str, Document] = OrderedDict()

    async def _open(self, stack: AsyncExitStack) -> None:
        await super()._open(stack)
        await self._require_conditions()

    async def _require_conditions(self) -> None:
        try:
            able = await self._objects.capabilities()
        except AccessDeniedError:
            # Whoever may not write needs no conditional writes; reading must not ask for more than reading.
            return
        if not (able.create and able.match):
            raise ConfigurationError(
                f"{self.location} ignores conditional writes, so one document per run would lose updates: "
                "use the layout 'chunked-s3' there"
            )

    # The six verbs.

    async def _upsert(self, run_id: str, fragments: Sequence[Fragment]) -> None:
        def change(document: Fragments) -> None:
            self._require_header(run_id, document, fragments)
            for fragment in fragments:
                first = document[fragment.key].created_at if fragment.key in document else PROCESS_CLOCK.now()
                document[fragment.key] = replace(fragment, created_at=first)

        await self._submit(run_id, change)

    async def _insert(self, run_id: str, fragments: Sequence[Fragment]) -> Collection[FragmentKey]:
        def change(document: Fragments) -> set[FragmentKey]:
            self._require_header(run_id, document, fragments)
            there = {fragment.key for fragment in fragments if fragment.key in document}
            for fragment in fragments:
                if fragment.key not in there:
                    document[fragment.key] = replace(fragment, created_at=PROCESS_CLOCK.now())
            return there

        result: set[FragmentKey] = await self._submit(run_id, change)
        return result

    async def _modify(self, run_id: str, key: FragmentKey, change: Callable[[Fragment], Fragment]) -> None:
        def apply(document: Fragments) -> None:
            if key not in document:
                raise RunLogNotFoundError(run_id, self.location)
            document[key] = replace(change(document[key]), created_at=document[key].created_at)

        await self._submit(run_id, apply)

    async def _read(self, run_id: str, key: FragmentKey) -> Fragment | None:
        return (await self._load(run_id)).fragments.get(key)

    async def _scan(
        self, run_id: str, selection: Selection, known: Mapping[FragmentKey, Fragment] | None = None
    ) -> Sequence[Fragment]:
        document = await self._load(run_id)
        return [fragment for key, fragment in document.fragments.items() if selection.matches(key)]

    async def _headers(self, query: RunQuery) -> Collection[RunSummary]:
        listing = await self._objects.list_folder(self._keys.prefix)

        async def load(meta: ObjectMeta) -> RunSummary | None:
            run_id = meta.key.removeprefix(self._keys.prefix).removesuffix(SUFFIX)
            try:
                header = (await self._load(run_id)).fragments.get(HEADER)
            except IntegrityError:
                # Some other tool's JSON file beside the logs is not a run.
                return None
            return None if header is None else summary_of(header, run_id, meta.modified_at)

        documents = [meta for meta in listing.objects if meta.key.endswith(SUFFIX)]
        summaries = await map_bounded(load, documents, limit=self._limit)
        return [summary for summary in summaries if summary is not None]

    async def _delete(self, run_id: str) -> None:
        self._documents.pop(run_id, None)
        await self._objects.delete([self._keys.document(run_id)])

    # Compare and swap.

    def _require_header(self, run_id: str, document: Fragments, fragments: Sequence[Fragment]) -> None:
        if HEADER not in document and all(fragment.key != HEADER for fragment in fragments):
            raise RunLogNotFoundError(run_id, self.location)

    async def _commit(self, queue: str, batch: Sequence[Callable[[Fragments], Any]]) -> Sequence[Any]:
        run_id = queue
        document = self._documents.get(run_id)
        remembered = document is not None
        contention = Contention()
        while True:
            if document is None:
                document = await self._load(run_id)
            outcomes, changed = _apply(document.fragments, batch)
            if changed == document.fragments and not remembered:
                return outcomes
            if changed != document.fragments:
                try:
                    await self._swap(run_id, Document(changed, document.etag))
                except (ConflictError, AlreadyExistsError, NotFoundError):
                    if not await contention.wait():
                        raise
                else:
                    return outcomes
            # Without a swap nothing tells that what is remembered has gone stale, so it is read before it is believed.
            document, remembered = None, False

    async def _swap(self, run_id: str, document: Document) -> None:
        self._documents.pop(run_id, None)
        condition = Condition(etag=document.etag) if document.etag else NEW
        text = json.dumps(nest(document.fragments.values()), separators=(",", ":")).encode()
        etag = await self._objects.put(self._keys.document(run_id), text, condition=condition)
        self._documents[run_id] = Document(document.fragments, etag)
        if len(self._documents) > DOCUMENTS_KEPT:
            self._documents.popitem(last=False)

    async def _load(self, run_id: str) -> Document:
        try:
            meta, data = await self._objects.get(self._keys.document(run_id))
        except NotFoundError:
            return NO_DOCUMENT
        tree = parse_json(data, f"run log {run_id!r} in {self.location}")
        if not isinstance(tree, dict) or "run_id" not in tree:
            raise IntegrityError(f"{self._keys.document(run_id)!r} in {self.location} is not a run log")
        fragments = {fragment.key: fragment for fragment in flatten(tree)}
        for stamp in [fragment.created_at for fragment in fragments.values() if fragment.created_at]:
            PROCESS_CLOCK.witness(stamp)
        return Document(fragments, meta.etag)


class S3RunLogStore(DocumentRunLogStore):
    """
    The ``s3`` layout: ``s3://<bucket>/<prefix>/<run_id>.json``, readable by magnus.

    The endpoint must honour conditional writes; it is asked when the store opens, and refused with advice otherwise.
    """

    def __init__(self, **options: object) -> None:
        super().__init__(**on_s3("s3", options))


class FileSystemRunLogStore(DocumentRunLogStore):
    """The ``file-system`` layout: ``<log_folder>/<run_id>.json``, readable by magnus and runnable."""

    def __init__(self, **options: object) -> None:
        super().__init__(**in_folder("file-system", options))


def _apply(before: Fragments, changes: Sequence[Callable[[Fragments], Any]]) -> tuple[list[Any], Fragments]:
    """Return each change's result or error, and the fragments after all that succeeded."""
    after = dict(before)
    outcomes: list[Any] = []
    for change in changes:
        try:
            outcomes.append(change(after))
        except AsyncStoreError as error:
            outcomes.append(error)
    return outcomes, after
