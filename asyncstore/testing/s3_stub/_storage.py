"""Buckets, objects and unfinished uploads, all in memory, used by one thread only."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncstore.testing.s3_stub._messages import S3Error

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BucketContent", "Storage", "StoredObject", "Upload"]


@dataclass(slots=True)
class StoredObject:
    """An object or an uploaded part."""

    body: bytes
    size_bytes: int
    etag: str
    """In quotes."""

    headers: dict[str, str] = field(default_factory=dict)
    """User metadata and the few standard headers that S3 keeps, as they go into an answer."""

    modified: int = field(default_factory=lambda: int(time.time()))
    """In seconds since 1970."""

    @property
    def content(self) -> bytes:
        """Its bytes; zeros if they were discarded."""
        return self.body if len(self.body) == self.size_bytes else bytes(self.size_bytes)


@dataclass(slots=True)
class Upload:
    """A multipart upload that is neither completed nor aborted."""

    key: str
    headers: dict[str, str]
    parts: dict[int, StoredObject] = field(default_factory=dict)


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
