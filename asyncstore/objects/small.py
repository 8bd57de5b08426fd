"""Many small requests: what they are, who makes them, and how a store makes them that has no way of its own."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from asyncstore.errors import AsyncStoreError, ClosedError, ConflictError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from asyncstore.objects.base import ObjectMeta, ObjectStore

__all__ = [
    "Answer",
    "BridgedObjects",
    "Job",
    "SmallGet",
    "SmallHead",
    "SmallObjects",
    "SmallPut",
    "SmallVerb",
    "check_size",
]


class SmallPut(NamedTuple):
    """An object to write; it is answered with the ETag."""

    key: str
    data: bytes | memoryview
    metadata: Mapping[str, str]
    digest: str = ""
    """SHA-256 of the data in hex, if it is known."""


class SmallGet(NamedTuple):
    """
    An object to read; it is answered with its description and its bytes.

    If it is larger than ``most_bytes``, which it was not when it was listed, it is answered with
    :class:`ConflictError`.
    """

    key: str
    most_bytes: int


class SmallHead(NamedTuple):
    """An object to describe, with its metadata; it is answered with that."""

    key: str


SmallVerb: TypeAlias = SmallPut | SmallGet | SmallHead
Answer: TypeAlias = "str | tuple[ObjectMeta, bytes | memoryview] | ObjectMeta | AsyncStoreError"


class Job(NamedTuple):
    """One of many small requests."""

    verb: SmallVerb
    settle: Callable[[Any], None]
    """Called in the thread with the :data:`Answer`, which is an error where it failed."""


class SmallObjects(Protocol):
    """Many small requests made by code in a thread: single attempts, which are never retried."""

    def run(self, jobs: Iterator[Job], at_once: Callable[[], int]) -> None:
        """
        Do jobs until there are no more.

        Args:
            jobs: asked for the next one whenever there is room.
            at_once: most at the same time at this moment; one is begun at least, where none is under way.

        Raises:
            ClosedError: the store was closed.
        """
        ...

    def landing(self) -> AbstractContextManager[None]:
        """
        Do in the block what must not happen after the caller was cancelled and has gone on, such as writing a file.

        Raises:
            ClosedError: the caller is gone.
        """
        ...


def check_size(meta: ObjectMeta, most_bytes: int) -> None:
    """Raise :class:`ConflictError` if an object has become larger than ``most_bytes``."""
    if meta.size_bytes > most_bytes:
        raise ConflictError(
            f"get {meta.key}: it has grown to {meta.size_bytes} bytes since it was listed: get it again"
        )


class BridgedObjects:
    """Small requests to a store that has no way of its own for them: made on its loop, waited for in the thread."""

    def __init__(self, store: ObjectStore, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop
        self._abandoned = False
        self._calls: set[asyncio.Task[Any]] = set()
        self._done: SimpleQueue[tuple[Job, asyncio.Task[Any]]] = SimpleQueue()

    def run(self, jobs: Iterator[Job], at_once: Callable[[], int]) -> None:
        """Do jobs; see :class:`SmallObjects`."""
        under_way, more = 0, True
        try:
            while more or under_way:
                if more and (not under_way or under_way < at_once()):
                    job = None if self._abandoned else next(jobs, None)
                    more = job is not None
                    if job is not None:
                        self._loop.call_soon_threadsafe(self._begin, job)
                        under_way += 1
                else:
                    ended, call = self._done.get()
                    under_way -= 1
                    ended.settle(_outcome(call))
        finally:
            if under_way:
                # The caller's own error: nothing may land when it has been told.
                self._loop.call_soon_threadsafe(self._cancel)
                for _ in range(under_way):
                    _, call = self._done.get()
                    _ = call.cancelled() or call.exception()

    @contextmanager
    def landing(self) -> Iterator[None]:
        """Do what must not happen late; see :class:`SmallObjects`. The caller waits for the thread."""
        if self._abandoned:
            raise ClosedError("the caller was cancelled")
        yield

    def abandon(self) -> None:
        """End the calls that are under way, and make no further ones; called on the loop."""
        self._abandoned = True
        self._cancel()

    def _cancel(self) -> None:
        for call in self._calls:
            call.cancel()

    def _begin(self, job: Job) -> None:
        # On the loop: nothing comes between this and what cancels it.
        call = self._loop.create_task(self._made(job.verb))
        self._calls.add(call)
        call.add_done_callback(lambda call: self._end(job, call))

    def _end(self, job: Job, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        self._done.put((job, call))

    async def _made(self, verb: SmallVerb) -> Any:
        if self._abandoned:
            raise ClosedError("the caller was cancelled")
        match verb:
            case SmallPut(key, data, metadata):
                return await self._store.put(key, bytes(data), metadata=metadata)
            case SmallGet(key, most_bytes):
                meta, read = await self._store.get(key)
                check_size(meta, most_bytes)
                return meta, read
            case SmallHead(key):
                return await self._store.head(key)


def _outcome(call: asyncio.Task[Any]) -> Any:
    try:
        return call.result()
    except asyncio.CancelledError:
        return ClosedError("the caller was cancelled")
    except AsyncStoreError as error:
        return error
