"""Buckets, objects and unfinished uploads, all in memory, used by one thread only."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncstore.testing.s3_stub._messages import S3Error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.testing.s3_stub._content import Content

__all__ = ["BucketContent", "Description", "Storage", "StoredObject", "Upload"]


@dataclass(slots=True)
class Description:
    """What a write says of its object."""

    headers: dict[str, str] = field(default_factory=dict)
    """User metadata and the few standard headers that S3 keeps, as they go into an answer."""

    options: dict[str, str] = field(default_factory=dict)
    """Storage class and encryption, as headers; a copy does not take them over."""

    tags: dict[str, str] = field(default_factory=dict)
    """By name."""

    @property
    def encryption(self) -> dict[str, str]:
        """The headers that tell of it, which also the answers to writes have."""
        return {name: value for name, value in self.options.items() if "encryption" in name} if self.options else {}


@dataclass(slots=True)
class StoredObject:
    """An object or an uploaded part."""

    content: Content
    etag: str
    """In quotes."""

    description: Description = field(default_factory=Description)

    checksum: str = ""
    """Its CRC32 in Base64 if it came with one, and behind it the number of parts that it was made of."""

    modified: int = field(default_factory=lambda: int(time.time()))
    """In seconds since 1970."""

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        return self.content.size_bytes

    @property
    def body(self) -> bytes:
        """Its bytes in one piece."""
        return bytes(self.content)

    @property
    def headers(self) -> dict[str, str]:
        """What it was given as metadata."""
        return self.description.headers


@dataclass(slots=True)
class Upload:
    """A multipart upload that is neither completed nor aborted."""

    key: str
    description: Description = field(default_factory=Description)
    algorithm: str = ""
    """``CRC32``, or empty if parts have no checksums."""

    parts: dict[int, StoredObject] = field(default_factory=dict)
    begun: int = field(default_factory=lambda: int(time.time()))
    """In seconds since 1970."""


class BucketContent:
    """The objects and uploads of one bucket."""

    def __init__(self) -> None:
        self.objects: dict[str, StoredObject] = {}
        self.uploads: dict[str, Upload] = {}
        self._sorted: list[str] = []
        self._added: list[str] = []
        self._removed = False

    def get(self, key: str) -> StoredObject:
        """
        Return an object.

        Raises:
            S3Error: there is none.
        """
        found = self.objects.get(key)
        if found is None:
            raise S3Error(404, "NoSuchKey", "The specified key does not exist.")
        return found

    def put(self, key: str, stored: StoredObject) -> None:
        """Store an object."""
        if key not in self.objects:
            self._added.append(key)
        self.objects[key] = stored

    def delete(self, key: str) -> None:
        """Delete an object, which need not exist."""
        if self.objects.pop(key, None) is not None:
            self._removed = True

    def upload(self, upload_id: str, key: str) -> Upload:
        """
        Return an unfinished upload.

        Raises:
            S3Error: there is none.
        """
        found = self.uploads.get(upload_id)
        if found is None or found.key != key:
            raise S3Error(404, "NoSuchUpload", "The specified multipart upload does not exist.")
        return found

    def sorted_keys(self) -> Sequence[str]:
        """Return the keys in the order of their UTF-8 bytes, which is the order of code points."""
        if self._added:
            # Two sorted runs: the sort only merges them.
            self._sorted += sorted(self._added)
            self._sorted.sort()
        if self._removed:
            # A key that was removed and came back is there twice.
            self._sorted = [key for key in dict.fromkeys(self._sorted) if key in self.objects]
        self._added, self._removed = [], False
        return self._sorted

    def first_key(self, prefix: str) -> int:
        """Return where in the sorted keys the first one is that is ``prefix`` or above."""
        return bisect_left(self.sorted_keys(), prefix)


class Storage:
    """All buckets."""

    def __init__(self) -> None:
        self.buckets: dict[str, BucketContent] = {}

    def bucket(self, name: str) -> BucketContent:
        """
        Return a bucket.

        Raises:
            S3Error: there is none.
        """
        found = self.buckets.get(name)
        if found is None:
            raise S3Error(404, "NoSuchBucket", "The specified bucket does not exist.")
        return found
