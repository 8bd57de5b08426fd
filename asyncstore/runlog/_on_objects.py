"""What the layouts on object stores share: where they write, and one queue for each object they write to."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

from asyncstore._core.clock import FOLLOWED_AHEAD
from asyncstore._core.concurrency import for_each, map_bounded
from asyncstore._core.groupcommit import GroupCommitter
from asyncstore.errors import OutcomeUnknownError, UnavailableError
from asyncstore.objects.base import CLOCK_SKEW
from asyncstore.objects.folder import FolderObjectStore
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.runlog._keys import RunKeys
from asyncstore.runlog.base import RunLogStore
from asyncstore.runlog.settings import FolderRunLogSettings, S3RunLogSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
    from contextlib import AsyncExitStack
    from datetime import timedelta

    from asyncstore.models import RunSummary
    from asyncstore.objects.base import ObjectStore
    from asyncstore.runlog._queries import Candidate, RunQuery

__all__ = ["ObjectRunLogStore", "in_folder", "on_s3", "undecided"]


class Place(TypedDict):
    """Arguments of :class:`ObjectRunLogStore` for a place that a configuration names."""

    objects: ObjectStore
    prefix: str
    limit: int
    owned: bool
    skew: timedelta


class ObjectRunLogStore(RunLogStore):
    """
    A run-log store on any :class:`ObjectStore`.

    Args:
        objects: where the objects go; borrowed, so open it before and close it afterwards, unless ``owned``.
        prefix: what all keys begin with.
        limit: most requests in flight for one call.
        owned: open and close ``objects`` together with this store.
        skew: how far the clocks of writers may be ahead of the storage's.
    """

    def __init__(
        self,
        objects: ObjectStore,
        *,
        prefix: str = "",
        limit: int = 64,
        owned: bool = False,
        skew: timedelta = FOLLOWED_AHEAD,
    ) -> None:
        super().__init__()
        self._skew = skew
        self._objects = objects
        self._keys = RunKeys.under(prefix)
        self._limit = limit
        self._owned = owned
        self._writers: dict[str, GroupCommitter[Any, Any]] = {}

    @property
    def location(self) -> str:
        """Bucket or folder, and prefix."""
        return f"{self._objects.location}/{self._keys.prefix}".rstrip("/")

    async def _open(self, stack: AsyncExitStack) -> None:
        if self._owned:
            await stack.enter_async_context(self._objects)
        stack.push_async_callback(self._drain)

    @abstractmethod
    def _make_writer(self, queue: str) -> GroupCommitter[Any, Any]:
        """Make what writes one queue, which is named by the object, or the run, that all in it is for."""

    async def _submit(self, queue: str, item: Any) -> Any:
        """Queue ``item`` behind whatever is being written in the same queue, and return its result once written."""
        writer = self._writers.get(queue)
        if writer is None:
            writer = self._writers[queue] = self._make_writer(queue)
        return await writer.submit(item)

    async def _load_newest(
        self,
        candidates: Collection[Candidate],
        query: RunQuery,
        load: Callable[[Candidate], Awaitable[RunSummary | None]],
    ) -> list[RunSummary]:
        """Load what ``query`` wants, newest first, and no more than it takes to know that."""
        ordered = query.in_order([replace(candidate, skew=self._skew) for candidate in candidates])
        found: list[RunSummary] = []
        for start in range(0, len(ordered), self._limit):
            if query.is_settled(found, ordered[start]):
                break
            loaded = await map_bounded(load, ordered[start : start + self._limit], limit=self._limit)
            found += [summary for summary in loaded if summary is not None]
        return found

    def _forget(self, queue: str) -> None:
        writer = self._writers.get(queue)
        if writer is not None and not writer.busy:
            del self._writers[queue]

    async def _drain(self) -> None:
        writers = list(self._writers.values())
        await for_each(GroupCommitter.aclose, writers, limit=max(1, len(writers)))


@contextmanager
def undecided(unknown: OutcomeUnknownError | None) -> Iterator[None]:
    """Where a write before this look has an outcome that nobody knows, say so if the look fails."""
    try:
        yield
    except UnavailableError as error:
        if unknown is None:
            raise
        raise unknown from error


def on_s3(layout: str, options: Mapping[str, object]) -> Place:
    """Return the bucket and prefix that ``options`` name."""
    settings = S3RunLogSettings.parse(options, f"run log store {layout!r}")
    prefix = RunKeys.under(settings.prefix).prefix
    objects = S3ObjectStore(settings.s3_bucket, settings, probe_prefix=prefix)
    return Place(objects=objects, prefix=prefix, limit=settings.max_concurrency, owned=True, skew=CLOCK_SKEW)


def in_folder(layout: str, options: Mapping[str, object]) -> Place:
    """Return the folder that ``options`` name."""
    settings = FolderRunLogSettings.parse(options, f"run log store {layout!r}")
    objects = FolderObjectStore(settings.log_folder)
    return Place(objects=objects, prefix="", limit=settings.max_concurrency, owned=True, skew=FOLLOWED_AHEAD)
