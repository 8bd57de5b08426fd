"""
Objects: bytes under keys, behind eight verbs.

Keys are ``/``-separated; a store has a bucket or folder and knows nothing of run logs or catalogs. Every verb retries
what is worth retrying itself, so callers never do.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, TypeVar

from asyncstore._core.concurrency import to_its_end
from asyncstore._core.resource import Resource
from asyncstore._core.threads import in_own_thread, in_thread
from asyncstore.errors import UnsafePathError
from asyncstore.names import has_control
from asyncstore.objects.small import BridgedObjects

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Collection,
        Iterable,
        Mapping,
        Sequence,
    )
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime
    from pathlib import Path

    from asyncstore.objects.bodies import FileBody
    from asyncstore.objects.small import SmallObjects

__all__ = [
    "ALONE",
    "ANY",
    "BLOCK_BYTES",
    "CLOCK_SKEW",
    "FULL",
    "NEW",
    "PUT_ID",
    "Capabilities",
    "Condition",
    "ETagForm",
    "Listing",
    "ObjectMeta",
    "ObjectStore",
    "PendingUpload",
    "Ranges",
    "Sink",
    "Transfer",
    "check_key",
    "sent_etag",
]

R = TypeVar("R")

ETagForm: TypeAlias = Literal["quoted", "bare"]
"""How an ETag goes into ``If-Match``: in its quotes, as HTTP has it, or without them, as some servers want it."""

Ranges: TypeAlias = Literal["proper", "plain", "ignored"]
"""What a read of a range is answered with: the range, the range with the status of a whole object, a whole object."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for a put to happen."""

    create: bool = False
    """The key must not exist."""
    etag: str = ""
    """The object must still have this ETag."""


PUT_ID = "asyncstore-put-id"
"""Metadata key of the mark by which a write knows itself again after a lost answer."""

CLOCK_SKEW = timedelta(minutes=15)
"""Furthest that a server's clock and ours may be apart: with more, S3 takes no signature (RequestTimeTooSkewed)."""

BLOCK_BYTES = 1024 * 1024
"""How much of a large object is in memory at a time for each request."""

ANY = Condition()
NEW = Condition(create=True)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a storage honours; conditions also between processes."""

    create: bool
    """A put that wants a new key is refused where the key exists."""
    match: bool
    """A put that wants an ETag is refused where the object has another one, and done where it has it."""
    etag_form: ETagForm = "quoted"
    """The form in which it must say that ETag; the store sees to it by itself."""
    ranges: Ranges = "proper"
    """How ranges are read; the store sees to it by itself, and cannot read them where they are ignored."""
    checksums: bool = True
    """A put whose checksum header contradicts its bytes is refused; false also where that could not be found out."""


FULL = Capabilities(create=True, match=True)
NO_CHECKSUMS = Capabilities(create=True, match=True, checksums=False)

Sink: TypeAlias = "Callable[[memoryview, int], None]"
"""Takes a block of an object and the offset of its first byte."""


@asynccontextmanager
async def _admit_all(_: int) -> AsyncIterator[None]:
    yield


def _say_nothing(_: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Transfer:
    """How the requests of a large transfer fit in with everything else that goes on."""

    admit: Callable[[int], AbstractAsyncContextManager[None]] = _admit_all
    """Entered around each attempt of each request, with the bytes that it moves; waits until it may be made."""
    advanced: Callable[[int], None] = _say_nothing
    """Called on the loop with the bytes of each part that the storage has, also one that it had from before."""
    limit: int = 8
    """Most requests at the same time."""
    journals: Path | None = None
    """Folder that remembers unfinished uploads, so that a later one goes on where this one stopped."""


ALONE = Transfer()


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """A multipart upload that was begun and is not over."""

    key: str
    upload_id: str
    begun_at: datetime


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """What a store says of an object."""

    key: str
    size_bytes: int
    etag: str
    modified_at: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)
    """User metadata; not in listings of S3, and in a folder only what stands for a file's mode."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies directly under a prefix."""

    folders: Sequence[str]
    """Prefixes, each ending in ``/``."""
    objects: Sequence[ObjectMeta]


def sent_etag(etag: str, form: ETagForm) -> str:
    """Return a quoted ETag in the form in which a server wants it."""
    return etag if form == "quoted" else etag.strip('"')


def check_key(key: str) -> str:
    """
    Return ``key`` if every storage can hold it as it is.

    Raises:
        UnsafePathError: a segment is empty, ``.`` or ``..``, or the key holds a control character.
    """
    inside = f"/{key}/"
    if "//" in inside or "/./" in inside or "/../" in inside or has_control(key):
        raise UnsafePathError(f"key {key!r} is not usable: it must be segments between single slashes, not '.' or '..'")
    return key


class ObjectStore(Resource):
    """
    Bytes under keys. Writes are atomic and durable when they return: no reader ever sees half an object.

    Keys are those that :func:`check_key` lets pass; others raise :class:`UnsafePathError`.

    All verbs raise :class:`AccessDeniedError`, :class:`CredentialsError`, :class:`UnavailableError` (after retries)
    and :class:`ConfigurationError` (no such bucket) beside what each says.

    Attributes:
        lasting: False where the objects are gone with the store, so that nothing is worth being remembered of them.
    """

    lasting: ClassVar[bool] = True

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the objects lie (``s3://bucket``, ``/folder``), for messages and records."""

    async def capabilities(self) -> Capabilities:
        """
        Return what the storage can do beyond plain puts and gets, asking it on the first call.

        Where that can only be found out by writing, and writing is denied, everything is said to be honoured: the next
        conditional write is denied too, or finds out. No reading verb asks.
        """
        return NO_CHECKSUMS

    @abstractmethod
    async def put(
        self, key: str, data: bytes, *, condition: Condition = ANY, metadata: Mapping[str, str] | None = None
    ) -> str:
        """
        Write an object and return its ETag.

        Raises:
            AlreadyExistsError: ``condition`` wants a new key, and it exists.
            ConflictError: the object's ETag is not the one that ``condition`` wants.
            OutcomeUnknownError: with a condition: an answer was lost, and it cannot be told whether the object was
                written; it may have been, and replaced since.
        """

    @abstractmethod
    async def get(
        self, key: str, *, byte_range: tuple[int, int] | None = None, etag: str = ""
    ) -> tuple[ObjectMeta, bytes]:
        """
        Return an object's description and bytes, or those of ``byte_range`` (start, end exclusive).

        Raises:
            NotFoundError: no such key.
            ConflictError: the object no longer has ``etag``.
        """

    @abstractmethod
    async def head(self, key: str) -> ObjectMeta:
        """
        Return an object's description with its metadata.

        Raises:
            NotFoundError: no such key.
        """

    @abstractmethod
    def list(self, prefix: str) -> AsyncGenerator[Sequence[ObjectMeta], None]:
        """Yield every object whose key begins with ``prefix`` (which ends in ``/`` or is empty), page by page."""

    async def list_all(self, prefix: str, *, cuts: Sequence[str] = ()) -> Sequence[ObjectMeta]:
        """
        Return every object whose key begins with ``prefix``; see :meth:`list`.

        A storage that can be asked for ranges of keys is asked for several of them at the same time, if there is much
        to list. ``cuts`` are keys in order that these are to end with, such that there may be about as many objects
        between any two; without them it is found out what to ask for.
        """
        return [meta async for page in self.list(prefix) for meta in page]

    @abstractmethod
    async def list_folder(self, prefix: str) -> Listing:
        """Return what lies directly under ``prefix`` (which ends in ``/`` or is empty), not what lies deeper."""

    @abstractmethod
    async def delete(self, keys: Collection[str]) -> None:
        """Delete objects; those that are not there are no error."""

    @abstractmethod
    async def copy(
        self, source: str, target: str, *, meta: ObjectMeta | None = None, transfer: Transfer = ALONE
    ) -> None:
        """
        Copy an object of any size with its metadata inside the storage, replacing ``target``.

        ``meta`` is what :meth:`head` says of the source, if the caller knows it already.

        Raises:
            NotFoundError: no such source.
        """

    @abstractmethod
    async def put_file(
        self,
        key: str,
        file: Path | FileBody,
        *,
        metadata: Mapping[str, str] | None = None,
        transfer: Transfer = ALONE,
    ) -> str:
        """
        Write an object from a local file of any size and return its ETag; memory use does not grow with the file.

        Raises:
            IntegrityError: the file changed while it was read; nothing is written.
            NotFoundError: the file is not there.
        """

    async def read_into(
        self, key: str, byte_range: tuple[int, int], sink: Sink, *, etag: str = "", transfer: Transfer = ALONE
    ) -> ObjectMeta:
        """
        Read a range of an object, block by block, and return its description.

        ``sink(block, offset)`` is called in a thread for each block in order; ``offset`` counts from the object's
        start. After a failure it goes on where it stopped. If this raises, some blocks may have been given.

        Raises:
            NotFoundError: no such key.
            ConflictError: the object no longer has ``etag``.
            IntegrityError: what came is not the range that was asked for.
        """
        start, end = byte_range
        meta: ObjectMeta | None = None
        async with transfer.admit(end - start):
            while meta is None or start < end:
                piece = start, min(start + BLOCK_BYTES, end)
                meta, data = await self.get(key, byte_range=piece, etag=etag or (meta.etag if meta else ""))
                await in_thread(sink, memoryview(data), start)
                start = piece[1]
        return meta

    async def together(self, work: Callable[[SmallObjects], R], *, writes: Iterable[str] = ()) -> R:
        """
        Return what ``work(objects)`` returns, called in a thread: one hop for many small objects.

        ``writes`` are all keys that it may put. When the caller is cancelled, no further jobs are begun.
        """
        bridge = BridgedObjects(self, asyncio.get_running_loop())
        # Not in the loop's own threads: the verbs that it waits for may need one of those.
        return await to_its_end(in_own_thread(lambda: work(bridge)), on_cancel=bridge.abandon)

    async def list_uploads(self, prefix: str) -> Sequence[PendingUpload]:
        """Return uploads of keys that begin with ``prefix`` that were begun and neither finished nor aborted."""
        return ()

    async def abort_upload(self, upload: PendingUpload) -> None:
        """Abort an upload and free its parts; one that is over already is no error."""
