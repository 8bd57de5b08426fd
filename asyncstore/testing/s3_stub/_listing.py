"""Listing objects, in both versions of the protocol."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from asyncstore.testing.s3_stub._messages import Answer, Behaviour, Request, S3Error
from asyncstore.testing.s3_stub._xml import document, iso_date, tag

if TYPE_CHECKING:
    from asyncstore.testing.s3_stub._storage import BucketContent, Storage, StoredObject

__all__ = ["list_objects", "list_objects_v2", "url_name"]

PAGE_LIMIT = 1000


@dataclass(slots=True)
class _Page:
    objects: list[tuple[str, StoredObject]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    last: str = ""
    """The last key or folder told."""

    following: str = ""
    """The key to go on with; empty if there is none."""

    def __len__(self) -> int:
        return len(self.objects) + len(self.folders)


def list_objects_v2(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """List objects; the continuation token names the key to go on with."""
    bucket = storage.bucket(request.bucket)
    query = request.query
    token = query.get("continuation-token", "")
    keys = bucket.sorted_keys()
    start = bucket.first_key(_decoded(token)) if token else bisect_right(keys, query.get("start-after", ""))
    page = _page(bucket, request, start)
    extra = tag("KeyCount", len(page))
    if page.following:
        extra += tag("NextContinuationToken", base64.urlsafe_b64encode(page.following.encode()).decode())
    return _rendered(request, behaviour, page, extra)


def list_objects(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """List objects as older clients ask for it."""
    bucket = storage.bucket(request.bucket)
    marker = request.query.get("marker", "")
    start = bisect_right(bucket.sorted_keys(), marker)
    if marker and marker == _folder(marker, request.query.get("prefix", ""), request.query.get("delimiter", "")):
        start = max(start, bucket.first_key(_after(marker)))
    page = _page(bucket, request, start)
    marked = tag("NextMarker", url_name(request, page.last)) if page.following else ""
    return _rendered(request, behaviour, page, tag("Marker", url_name(request, marker)) + marked)


def _page(bucket: BucketContent, request: Request, start: int) -> _Page:
    query = request.query
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    limit = _limit(query.get("max-keys", ""))
    keys = bucket.sorted_keys()
    at = max(start, bucket.first_key(prefix))
    page = _Page()
    while at < len(keys) and keys[at].startswith(prefix) and len(page) < limit:
        key = keys[at]
        folder = _folder(key, prefix, delimiter)
        page.last = folder or key
        if folder:
            page.folders.append(folder)
            at = bucket.first_key(_after(folder))
        else:
            page.objects.append((key, bucket.objects[key]))
            at += 1
    if limit and at < len(keys) and keys[at].startswith(prefix):
        page.following = keys[at]
    return page


def _folder(key: str, prefix: str, delimiter: str) -> str:
    """Return the common prefix under which a key is listed; empty if it is listed itself, as a folder's marker is."""
    cut = key.find(delimiter, len(prefix)) if delimiter else -1
    return key[: cut + len(delimiter)] if cut >= 0 else ""


def _rendered(request: Request, behaviour: Behaviour, page: _Page, extra: str) -> Answer:
    query = request.query
    parts = [tag("Name", request.bucket), tag("Prefix", url_name(request, query.get("prefix", ""))), extra]
    parts += [tag("MaxKeys", _limit(query.get("max-keys", ""))), tag("IsTruncated", str(bool(page.following)).lower())]
    if "delimiter" in query:
        parts.append(tag("Delimiter", url_name(request, query["delimiter"])))
    if query.get("encoding-type") == "url":
        parts.append(tag("EncodingType", "url"))
    parts += [_contents(request, behaviour, key, stored) for key, stored in page.objects]
    parts += [f"<CommonPrefixes>{tag('Prefix', url_name(request, folder))}</CommonPrefixes>" for folder in page.folders]
    return document("ListBucketResult", "".join(parts))


def _contents(request: Request, behaviour: Behaviour, key: str, stored: StoredObject) -> str:
    quotes = "" if behaviour.bare_listing_etags else "&quot;"
    # Most of what a listing costs: only what may hold special characters is looked through for them.
    return (
        f"<Contents>{tag('Key', url_name(request, key))}<LastModified>{iso_date(stored.modified)}</LastModified>"
        f"<ETag>{quotes}{stored.etag[1:-1]}{quotes}</ETag><Size>{stored.content.size_bytes}</Size>"
        f"{_class_tag(stored.description.options.get('x-amz-storage-class', 'STANDARD'))}</Contents>"
    )


@lru_cache(64)
def _class_tag(storage_class: str) -> str:
    return tag("StorageClass", storage_class)


def url_name(request: Request, name: str) -> str:
    """Return a key as the request wants it: percent-encoded, so that XML can hold it, or as it is."""
    return quote(name, safe="/") if request.query.get("encoding-type") == "url" else name


def _after(folder: str) -> str:
    """Return the least string above all that begin with ``folder``."""
    return folder[:-1] + chr(ord(folder[-1]) + 1)


def _limit(given: str) -> int:
    if given and not given.isdecimal():
        raise S3Error(400, "InvalidArgument", "max-keys must be a number")
    return min(int(given or PAGE_LIMIT), PAGE_LIMIT)


def _decoded(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode()
    except (binascii.Error, ValueError) as error:
        raise S3Error(400, "InvalidArgument", "The continuation token provided is incorrect") from error
