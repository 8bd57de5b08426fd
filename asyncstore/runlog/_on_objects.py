"""What the layouts on object stores share: where they write, and one queue for each object they write to."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypedDict

from asyncstore._core.concurrency import for_each
from asyncstore._core.groupcommit import GroupCommitter
from asyncstore.objects.folder import FolderObjectStore
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.runlog._keys import RunKeys
from asyncstore.runlog.base import RunLogStore
from asyncstore.runlog.settings import FolderRunLogSettings, S3RunLogSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AsyncExitStack

    from asyncstore.objects.base import ObjectStore

__all__ = ["ObjectRunLogStore", "in_folder", "on_s3"]


class Place(TypedDict):
    """Arguments of :class:`ObjectRunLogStore` for a place that a configuration names."""

    objects: ObjectStore
    prefix: str
    limit: int
    owned: bool


class ObjectRunLogStore(RunLogStore):
    """
    A run-log store on any :class:`ObjectStore`.

    Args:
        objects: where the objects go; borrowed, so open it before and close it afterwards, unless ``owned``.
        prefix: what all keys begin with.
        limit: most requests in flight for one call.
        owned: open and close ``objects`` together with this store.
    """

    def __init__(self, objects: ObjectStore, *, prefix: str = "", limit: int = 64, owned: bool = False) -> None:
        super().__init__()
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
    async def _commit(self, queue: str, batch: Sequence[Any]) -> Sequence[Any]:
        """Write what was queued; ``queue`` names the object, or the run, that all of ``batch`` is for."""

    async def _submit(self, queue: str, item: Any) -> Any:
        """Queue ``item`` behind whatever is being written in the same queue, and return its result once written."""
        writer = self._writers.get(queue)
        if writer is None:
            writer = self._writers[queue] = GroupCommitter(
                lambda batch: self._commit(queue, batch), on_idle=lambda: self._forget(queue)
            )
        return await writer.submit(item)

    def _forget(self, queue: str) -> None:
        self._writers.pop(queue, None)

    async def _drain(self) -> None:
        writers = list(self._writers.values())
        await for_each(GroupCommitter.aclose, writers, limit=max(1, len(writers)))


def on_s3(layout: str, options: Mapping[str, object]) -> Place:
    """Return the bucket and prefix that ``options`` name."""
    settings = S3RunLogSettings.parse(options, f"run log store {layout!r}")
    prefix = RunKeys.under(settings.prefix).prefix
    objects = S3ObjectStore(settings.s3_bucket, settings, probe_prefix=prefix)
    return Place(objects=objects, prefix=prefix, limit=settings.max_concurrency, owned=True)


def in_folder(layout: str, options: Mapping[str, object]) -> Place:
    """Return the folder that ``options`` name."""
    settings = FolderRunLogSettings.parse(options, f"run log store {layout!r}")
    objects = FolderObjectStore(settings.log_folder)
    return Place(objects=objects, prefix="", limit=settings.max_concurrency, owned=True)
