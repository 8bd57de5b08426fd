"""
Objects: bytes under keys, behind eight verbs.

Keys are ``/``-separated; a store has a bucket or folder and knows nothing of run logs or catalogs. Every verb retries
what is worth retrying itself, so callers never do.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeAlias

from asyncstore._core.resource import Resource
from asyncstore.errors import UnsafePathError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

__all__ = [
    "ANY",
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
    "Ranges",
    "check_key",
    "sent_etag",
]

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


_UNUSABLE = re.compile(r"[\x00-\x1f\x7f]|(?:\A|/)\.{0,2}(?:/|\Z)")

PUT_ID = "asyncstore-put-id"
"""Metadata key of the mark by which a write knows itself again after a lost answer."""

CLOCK_SKEW = timedelta(minutes=15)
"""Furthest that a server's clock and ours may be apart: with more, S3 takes no signature (RequestTimeTooSkewed)."""

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


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """What a store says of an object."""

    key: str
    size_bytes: int
    etag: str
    modified_at: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)
    """User metadata; empty in listings, and always on a folder."""


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
    if _UNUSABLE.search(key):
        raise UnsafePathError(f"key {key!r} is not usable: it must be segments between single slashes, not '.' or '..'")
    return key


class ObjectStore(Resource):
    """
    Bytes under keys. Writes are atomic and durable when they return: no reader ever sees half an object.

    Keys are those that :func:`check_key` lets pass; others raise :class:`UnsafePathError`.

    All verbs raise :class:`AccessDeniedError`, :class:`CredentialsError`, :class:`UnavailableError` (after retries)
    and :class:`ConfigurationError` (no such bucket) beside what each says.
    """

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
        return FULL

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

    @abstractmethod
    async def list_folder(self, prefix: str) -> Listing:
        """Return what lies directly under ``prefix`` (which ends in ``/`` or is empty), not what lies deeper."""

    @abstractmethod
    async def delete(self, keys: Collection[str]) -> None:
        """Delete objects; those that are not there are no error."""

    @abstractmethod
    async def copy(self, source: str, target: str) -> None:
        """
        Copy an object with its metadata inside the storage, replacing ``target``.

        Raises:
            NotFoundError: no such source.
        """

    @abstractmethod
    async def put_file(
        self,
        key: str,
        path: Path,
        *,
        metadata: Mapping[str, str] | None = None,
        verify: Callable[[], None] | None = None,
    ) -> str:
        """
        Write an object from a local file of any size and return its ETag; memory use does not grow with the file.

        ``verify`` is called in a thread when all bytes have been read, and before the object can be seen: what it
        raises is raised, and nothing is written.

        Raises:
            IntegrityError: the file changed while it was read.
            NotFoundError: the file is not there.
        """
