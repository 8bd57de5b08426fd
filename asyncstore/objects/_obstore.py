"""What S3 and memory have in common: obstore carries whole objects, ranges and listings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from typing import TYPE_CHECKING, Any

import obstore
from obstore import exceptions as obs

from asyncstore._core.retry import DEFAULT_RETRY, RetryPolicy, retrying
from asyncstore.errors import (
    AlreadyExistsError,
    AsyncStoreError,
    ClosedError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)
from asyncstore.objects._errors import from_file_error, from_obstore
from asyncstore.objects.base import ANY, PUT_ID, Condition, Listing, ObjectMeta, ObjectStore, check_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from obstore.store import ObjectStore as ForeignStore

__all__ = ["ObstoreObjectStore", "canonical_etag", "check_runtime"]

PAGE = 1000
_STANDARD_ATTRIBUTES = {
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Type",
    "Storage-Class",
}
_FOREIGN = (obs.BaseError, OSError, NotImplementedError, ValueError)


_runtime_pid = 0
"""The process that runs obstore's threads; a fork would inherit their state and none of them, and wait forever."""


def check_runtime() -> None:
    """
    Refuse a process that was forked from one that had used obstore.

    Raises:
        ClosedError: it was.
    """
    if _runtime_pid not in {0, os.getpid()}:
        raise ClosedError(
            "this process was forked from one that had used object stores, whose threads it lacks: "
            "use the spawn or forkserver start method"
        )


class ObstoreObjectStore(ObjectStore):
    """The verbs on one of obstore's stores; subclasses make it in ``_open`` and set ``_store``."""

    def __init__(self, *, retry: RetryPolicy = DEFAULT_RETRY) -> None:
        super().__init__()
        self._retry = retry
        self._attributes: Mapping[str, str] = {}
        self._store: ForeignStore

    async def put(
        self, key: str, data: bytes, *, condition: Condition = ANY, metadata: Mapping[str, str] | None = None
    ) -> str:
        """Write an object; see :meth:`ObjectStore.put`."""
        self._check_open()
        check_key(key)
        if condition is ANY:
            return await retrying(lambda: self._put_once(key, data, "overwrite", metadata), self._retry)
        return await self._put_conditionally(key, data, condition, dict(metadata or {}))

    async def get(
        self, key: str, *, byte_range: tuple[int, int] | None = None, etag: str = ""
    ) -> tuple[ObjectMeta, bytes]:
        """Read an object; see :meth:`ObjectStore.get`."""
        self._check_open()
        check_key(key)
        return await retrying(lambda: self._get_once(key, byte_range, etag), self._retry)

    async def head(self, key: str) -> ObjectMeta:
        """Describe an object; see :meth:`ObjectStore.head`."""
        self._check_open()
        check_key(key)
        return await retrying(lambda: self._head_once(key), self._retry)

    async def list(self, prefix: str) -> AsyncIterator[Sequence[ObjectMeta]]:
        """List objects; see :meth:`ObjectStore.list`."""
        self._check_open()
        stream: Any = None
        last: str | None = None

        async def next_page() -> list[ObjectMeta]:
            nonlocal stream
            if stream is None:
                stream = obstore.list(self._store, prefix or None, offset=last, chunk_size=PAGE)
            try:
                with self._translated("list", prefix):
                    return [_meta(item) for item in await stream.__anext__()]
            except StopAsyncIteration:
                return []
            except UnavailableError:
                # What was listed stays listed: the next attempt goes on after it.
                stream = None
                raise

        while page := await retrying(next_page, self._retry):
            last = page[-1].key
            yield page

    async def list_folder(self, prefix: str) -> Listing:
        """List one level; see :meth:`ObjectStore.list_folder`."""
        self._check_open()

        async def once() -> Listing:
            with self._translated("list", prefix):
                found = await obstore.list_with_delimiter_async(self._store, prefix or None)
            folders = [f"{folder.rstrip('/')}/" for folder in found["common_prefixes"]]
            return Listing(folders, [_meta(item) for item in found["objects"]])

        return await retrying(once, self._retry)

    async def delete(self, keys: Collection[str]) -> None:
        """Delete objects; see :meth:`ObjectStore.delete`."""
        self._check_open()
        listed = [check_key(key) for key in keys]
        for start in range(0, len(listed), PAGE):
            await retrying(lambda batch=listed[start : start + PAGE]: self._delete_once(batch), self._retry)  # type: ignore[misc]

    async def copy(self, source: str, target: str) -> None:
        """Copy an object; see :meth:`ObjectStore.copy`."""
        self._check_open()
        check_key(source)
        check_key(target)

        async def once() -> None:
            with self._translated("copy", source):
                await obstore.copy_async(self._store, source, target)

        await retrying(once, self._retry)

    async def put_file(
        self,
        key: str,
        path: Path,
        *,
        metadata: Mapping[str, str] | None = None,
        verify: Callable[[], None] | None = None,
    ) -> str:
        """Write a file; see :meth:`ObjectStore.put_file`."""

        def read() -> bytes:
            data = path.read_bytes()
            if verify is not None:
                verify()
            return data

        try:
            data = await asyncio.to_thread(read)
        except OSError as error:
            if isinstance(error, AsyncStoreError):
                raise
            raise from_file_error(error, f"read {path}") from error
        return await self.put(key, data, metadata=metadata)

    async def _put_once(self, key: str, data: bytes, mode: Any, metadata: Mapping[str, str] | None, **more: Any) -> str:
        attributes = {**self._attributes, **(metadata or {})} or None
        with self._translated("put", key):
            result = await obstore.put_async(
                self._store, key, data, mode=mode, attributes=attributes, use_multipart=False, **more
            )
        return canonical_etag(result["e_tag"])

    async def _put_conditionally(self, key: str, data: bytes, condition: Condition, metadata: dict[str, str]) -> str:
        put_id = metadata[PUT_ID] = secrets.token_hex(16)
        mode = "create" if condition.create else {"e_tag": condition.etag}
        lost = False

        async def once() -> str:
            nonlocal lost
            try:
                return await self._put_once(key, data, mode, metadata)
            except UnavailableError as error:
                lost = lost or error.answer_lost
                raise
            except (AlreadyExistsError, ConflictError, NotFoundError):
                # The refusal may be the echo of our own earlier attempt, whose answer was lost.
                if lost and (etag := await self._etag_if_mine(key, put_id)):
                    return etag
                raise

        try:
            return await retrying(once, self._retry)
        except UnavailableError as error:
            if not lost:
                raise
            raise OutcomeUnknownError(f"{error}; the write may have landed", key) from error

    async def _etag_if_mine(self, key: str, put_id: str) -> str | None:
        try:
            meta = await self.head(key)
        except NotFoundError:
            return None
        return meta.etag if meta.metadata.get(PUT_ID) == put_id else None

    async def _get_once(self, key: str, byte_range: tuple[int, int] | None, etag: str) -> tuple[ObjectMeta, bytes]:
        options: Any = {}
        if byte_range is not None:
            options["range"] = byte_range
        if etag:
            options["if_match"] = etag
        with self._translated("get", key):
            result = await obstore.get_async(self._store, key, options=options)
            meta = _meta(result.meta, result.attributes)
            # Some servers ignore If-Match and Range, so what came is checked against what was asked.
            if etag and meta.etag != etag:
                raise ConflictError(f"get {self._at(key)}: it was replaced meanwhile")
            data = bytes(await result.bytes_async())
        start, end = byte_range or (0, meta.size_bytes)
        if len(data) != min(end, meta.size_bytes) - start:
            raise IntegrityError(f"get {self._at(key)}: {len(data)} bytes came instead of {end - start}")
        return meta, data

    async def _head_once(self, key: str) -> ObjectMeta:
        with self._translated("head", key):
            result = await obstore.get_async(self._store, key, options={"head": True})  # type: ignore[typeddict-unknown-key, unused-ignore]
            return _meta(result.meta, result.attributes)

    async def _delete_once(self, keys: Sequence[str]) -> None:
        with self._translated("delete", keys[0]), contextlib.suppress(NotFoundError):
            await obstore.delete_async(self._store, list(keys))

    def _at(self, key: str) -> str:
        return f"{self.location}/{key}"

    @contextlib.contextmanager
    def _translated(self, verb: str, key: str) -> Iterator[None]:
        global _runtime_pid
        check_runtime()
        _runtime_pid = os.getpid()
        try:
            yield
        except _FOREIGN as error:
            if isinstance(error, NotFoundError | ConflictError | IntegrityError):
                raise
            raise from_obstore(error, f"{verb} {self._at(key)}") from error


def canonical_etag(etag: str | None) -> str:
    """Return an ETag in quotes, as HTTP has it: rclone leaves them off in listings, so equal ones would differ."""
    return f'"{etag.strip(chr(34))}"' if etag else ""


def _meta(item: Any, attributes: Mapping[str, str] | None = None) -> ObjectMeta:
    metadata = {key: value for key, value in (attributes or {}).items() if key not in _STANDARD_ATTRIBUTES}
    return ObjectMeta(item["path"], item["size"], canonical_etag(item["e_tag"]), item["last_modified"], metadata)
