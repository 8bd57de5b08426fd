"""
What S3 and memory have in common: obstore carries whole objects, ranges and listings.

Its blocking functions are called from threads of our own; :mod:`asyncstore._core.bridge` says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore import exceptions as obs

from asyncstore._core.bridge import CallPool
from asyncstore._core.retry import DEFAULT_RETRY, RetryPolicy, retrying
from asyncstore._core.threads import in_thread
from asyncstore.errors import (
    AsyncStoreError,
    ClosedError,
    ConflictError,
    IntegrityError,
    InvalidValueError,
    NotFoundError,
)
from asyncstore.objects._errors import from_obstore, shows_secrets
from asyncstore.objects._putids import MarkedPut, put_marked
from asyncstore.objects.base import (
    ALONE,
    ANY,
    PUT_ID,
    Condition,
    Listing,
    ObjectMeta,
    ObjectStore,
    Transfer,
    check_key,
)
from asyncstore.objects.bodies import PathBody

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
    from contextlib import AsyncExitStack

    from obstore.store import ObjectStore as ForeignStore

    from asyncstore.objects.bodies import FileBody

__all__ = ["ObstoreObjectStore", "canonical_etag"]

R = TypeVar("R")

PAGE = 1000
_STANDARD_ATTRIBUTES = {
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Type",
    "Storage-Class",
}
"""What obstore calls the headers that it sends and reads as such, whatever the case of their letters."""

_FOREIGN = (obs.BaseError, OSError, NotImplementedError, ValueError)


_runtime_pid = 0
"""The process that runs obstore's threads; a fork would inherit their state and none of them, and wait forever."""


def _take_runtime() -> None:
    global _runtime_pid
    if _runtime_pid not in {0, os.getpid()}:
        raise ClosedError(
            "this process was forked from one that had used object stores, whose threads it lacks: "
            "use the spawn or forkserver start method"
        )
    _runtime_pid = os.getpid()


class ObstoreObjectStore(ObjectStore):
    """
    The verbs on one of obstore's stores; subclasses make it in ``_open`` and set ``_store``.

    Args:
        limit: most requests at the same time; further ones wait for their turn.
        retry: how long to keep trying.
    """

    def __init__(self, *, limit: int, retry: RetryPolicy = DEFAULT_RETRY) -> None:
        super().__init__()
        self._limit = limit
        self._retry = retry
        self._attributes: Mapping[str, str] = {}
        self._tags: dict[str, str] | None = None
        self._store: ForeignStore
        self._pool: CallPool
        self._abandoned: dict[str, set[asyncio.Future[None]]] = {}
        # Drawn once: asking the system for randomness lets go of the interpreter lock, and to get it back takes long.
        self._put_ids = ""
        self._puts = itertools.count()

    async def _open(self, stack: AsyncExitStack) -> None:
        _take_runtime()
        self._put_ids = secrets.token_hex(16)
        self._pool = CallPool(self._limit, self.location)
        stack.push_async_callback(self._pool.aclose)

    async def _begin(self, *keys: str, writes: bool = False) -> None:
        """
        Check that a call with these keys can be made, and make it possible.

        A write waits for earlier ones of its keys that are still under way though their callers were cancelled: none of
        them may land after it.
        """
        self._check_open()
        for key in keys:
            check_key(key)
        if writes and self._abandoned:
            for key in keys:
                while ends := self._abandoned.get(key):
                    await asyncio.wait(ends)

    async def put(
        self, key: str, data: bytes, *, condition: Condition = ANY, metadata: Mapping[str, str] | None = None
    ) -> str:
        """Write an object; see :meth:`ObjectStore.put`."""
        await self._begin(key, writes=True)
        if metadata:
            self._check_metadata(metadata)
        if condition is ANY:
            return await retrying(lambda: self._put_once(key, data, "overwrite", metadata), self._retry)
        return await self._put_conditionally(key, data, condition, dict(metadata or {}))

    def _check_metadata(self, metadata: Mapping[str, str]) -> None:
        """
        Do nothing if obstore keeps all of this as metadata.

        Raises:
            InvalidValueError: it would not.
        """
        for name in metadata:
            if name.title() in _STANDARD_ATTRIBUTES:
                raise InvalidValueError(f"the metadata name {name!r} is taken: it is a header's")

    async def get(
        self, key: str, *, byte_range: tuple[int, int] | None = None, etag: str = ""
    ) -> tuple[ObjectMeta, bytes]:
        """Read an object; see :meth:`ObjectStore.get`."""
        await self._begin(key)
        return await retrying(lambda: self._get_once(key, byte_range, etag), self._retry)

    async def head(self, key: str) -> ObjectMeta:
        """Describe an object; see :meth:`ObjectStore.head`."""
        await self._begin(key)
        return await retrying(lambda: self._head_once(key), self._retry)

    async def _head_once(self, key: str) -> ObjectMeta:
        return await self._called("head", key, lambda: self._head_now(key))

    def _head_now(self, key: str) -> ObjectMeta:
        """Describe an object, blocking; obstore's own errors leave it."""
        result = obstore.get(self._store, key, options={"head": True})  # type: ignore[typeddict-unknown-key, unused-ignore]
        return _meta(result.meta, result.attributes)

    async def list(self, prefix: str) -> AsyncGenerator[Sequence[ObjectMeta], None]:
        """List objects; see :meth:`ObjectStore.list`."""
        stream: Any = None
        last: str | None = None

        def ask() -> list[ObjectMeta]:
            nonlocal stream
            if stream is None:
                stream = obstore.list(self._store, prefix or None, offset=last, chunk_size=PAGE)
            try:
                return [_meta(item) for item in next(stream, ())]
            except BaseException:
                # What was listed stays listed: the next attempt goes on after it.
                stream = None
                raise

        while True:
            await self._begin()
            page = await retrying(lambda: self._called("list", prefix, ask), self._retry)
            if not page:
                return
            last = page[-1].key
            yield page

    async def list_folder(self, prefix: str) -> Listing:
        """List one level; see :meth:`ObjectStore.list_folder`."""
        await self._begin()
        return await retrying(lambda: self._list_folder_once(prefix), self._retry)

    async def _list_folder_once(self, prefix: str) -> Listing:
        def ask() -> Listing:
            found = obstore.list_with_delimiter(self._store, prefix or None)
            folders = [f"{folder.rstrip('/')}/" for folder in found["common_prefixes"]]
            return Listing(folders, [_meta(item) for item in found["objects"]])

        return await self._called("list", prefix, ask)

    async def delete(self, keys: Collection[str]) -> None:
        """Delete objects; see :meth:`ObjectStore.delete`."""
        listed = list(keys)
        await self._begin(*listed, writes=True)
        for start in range(0, len(listed), PAGE):
            await retrying(lambda batch=listed[start : start + PAGE]: self._delete_once(batch), self._retry)  # type: ignore[misc]

    async def copy(
        self, source: str, target: str, *, meta: ObjectMeta | None = None, transfer: Transfer = ALONE
    ) -> None:
        """Copy an object; see :meth:`ObjectStore.copy`."""
        await self._begin(source, target, writes=True)

        def ask() -> None:
            obstore.copy(self._store, source, target)

        async def once() -> None:
            async with transfer.admit(0):
                await self._called("copy", source, ask, writes=[target])

        await retrying(once, self._retry)

    async def put_file(
        self,
        key: str,
        file: Path | FileBody,
        *,
        metadata: Mapping[str, str] | None = None,
        transfer: Transfer = ALONE,
    ) -> str:
        """Write a file; see :meth:`ObjectStore.put_file`."""
        await self._begin(key)
        body = await in_thread(PathBody.of, file) if isinstance(file, Path) else file
        data = await in_thread(lambda: b"".join(map(bytes, body.blocks(0, body.size_bytes))))
        async with transfer.admit(len(data)):
            etag = await self.put(key, data, metadata=metadata)
        transfer.advanced(len(data))
        return etag

    async def _put_once(self, key: str, data: bytes, mode: Any, metadata: Mapping[str, str] | None) -> str:
        return await self._called("put", key, lambda: self._put_now(key, data, mode, metadata), writes=[key])

    def _put_now(self, key: str, data: bytes | memoryview, mode: Any, metadata: Mapping[str, str] | None) -> str:
        """Put an object, blocking; obstore's own errors leave it."""
        attributes = {**self._attributes, **(metadata or {})} or None
        result = obstore.put(
            self._store,
            key,
            data,
            mode=mode,
            attributes=attributes,
            tags=self._tags,
            use_multipart=False,  # type: ignore[arg-type, unused-ignore]
        )
        return canonical_etag(result["e_tag"])

    async def _put_conditionally(self, key: str, data: bytes, condition: Condition, metadata: dict[str, str]) -> str:
        mode = await self._mode(key, condition)
        write = MarkedPut(key, condition, f"{self._put_ids}-{next(self._puts):x}")
        metadata[PUT_ID] = write.mark
        first: AsyncStoreError | None = None
        try:
            return await self._put_once(key, data, mode, metadata)
        except AsyncStoreError as error:
            first = error

        async def put() -> str:
            nonlocal first
            if first is not None:
                error, first = first, None
                raise error
            return await self._put_once(key, data, mode, metadata)

        return await put_marked(write, put, lambda: self.head(key), self._retry)

    async def _mode(self, key: str, condition: Condition) -> Any:
        """Return obstore's mode for a put of ``key`` on ``condition``."""
        return "create" if condition.create else {"e_tag": condition.etag}

    def _if_match(self, etag: str) -> str:
        """Return what a read of one version says in ``If-Match``; nothing where it had better not say it."""
        return etag

    async def _get_once(self, key: str, byte_range: tuple[int, int] | None, etag: str) -> tuple[ObjectMeta, bytes]:
        options: Any = {}
        if byte_range is not None:
            options["range"] = byte_range
        if etag and (said := self._if_match(etag)):
            options["if_match"] = said

        def ask() -> tuple[ObjectMeta, bytes]:
            result = obstore.get(self._store, key, options=options)
            meta = _meta(result.meta, result.attributes)
            # Some servers ignore If-Match and Range, so what came is checked against what was asked.
            if etag and meta.etag != etag:
                raise ConflictError(f"get {self._at(key)}: it was replaced meanwhile")
            data = bytes(result.bytes())
            start, end = byte_range or (0, meta.size_bytes)
            if len(data) != min(end, meta.size_bytes) - start:
                raise IntegrityError(f"get {self._at(key)}: {len(data)} bytes came instead of {end - start}")
            return meta, data

        return await self._called("get", key, ask)

    async def _delete_once(self, keys: Sequence[str]) -> None:
        def ask() -> None:
            obstore.delete(self._store, list(keys))

        with contextlib.suppress(NotFoundError):
            await self._called("delete", keys[0], ask, writes=keys)

    async def _called(self, verb: str, key: str, ask: Callable[[], R], *, writes: Collection[str] = ()) -> R:
        """
        Return what ``ask`` returns, called in a thread; ``verb`` and ``key`` say in errors what it was about.

        If the caller is cancelled meanwhile, the keys in ``writes`` take no other write until the call is over.
        """
        call = self._pool.call(lambda: self._translated(verb, key, ask))
        try:
            return await call
        except asyncio.CancelledError:
            end = self._pool.abandon(call)
            if end is not None:
                self._abandon(writes, end)
            raise

    def _translated(self, verb: str, key: str, ask: Callable[[], R]) -> R:
        try:
            return ask()
        except _FOREIGN as error:
            if isinstance(error, AsyncStoreError):
                raise
            failure, cause = from_obstore(error, f"{verb} {self._at(key)}"), error
        # Not from within the handler, where it would be chained to what must not be seen.
        if shows_secrets(cause):
            raise failure
        raise failure from cause

    def _abandon(self, keys: Collection[str], end: asyncio.Future[None]) -> None:
        def forget(_: object) -> None:
            for key in keys:
                self._abandoned[key].discard(end)
                if not self._abandoned[key]:
                    del self._abandoned[key]

        for key in keys:
            self._abandoned.setdefault(key, set()).add(end)
        end.add_done_callback(forget)

    def _at(self, key: str) -> str:
        return f"{self.location}/{key}"


def canonical_etag(etag: str | None) -> str:
    """Return an ETag in quotes, as HTTP has it: rclone leaves them off in listings, so equal ones would differ."""
    return f'"{etag.strip(chr(34))}"' if etag else ""


def _meta(item: Any, attributes: Mapping[str, str] | None = None) -> ObjectMeta:
    metadata = {key: value for key, value in (attributes or {}).items() if key not in _STANDARD_ATTRIBUTES}
    return ObjectMeta(item["path"], item["size"], canonical_etag(item["e_tag"]), item["last_modified"], metadata)
