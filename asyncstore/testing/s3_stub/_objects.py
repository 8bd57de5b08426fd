"""Verbs on single objects; each decides and stores in one step, so that conditions are atomic."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from asyncstore.testing.s3_stub._checksums import check_body, checksum_header
from asyncstore.testing.s3_stub._conditions import check_read, check_write, find_range
from asyncstore.testing.s3_stub._describing import check_demands, describe
from asyncstore.testing.s3_stub._messages import Answer, Behaviour, Request, S3Error
from asyncstore.testing.s3_stub._storage import Description, Storage, StoredObject
from asyncstore.testing.s3_stub._xml import document, http_date, iso_date, tag

if TYPE_CHECKING:
    from asyncstore.testing.s3_stub._content import Content

__all__ = [
    "COPY_LIMIT_BYTES",
    "copy_object",
    "copy_source",
    "delete_object",
    "get_object",
    "make_stored",
    "put_object",
    "source_name",
]

COPY_LIMIT_BYTES = 5 * 1024**3
"""Largest object that CopyObject takes, and largest range that UploadPartCopy takes."""

# Of its own, so that nobody's seed repeats an ETag; they are no secrets, for which the system is asked each time.
_ETAGS = random.Random()


def put_object(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Store an object."""
    bucket = storage.bucket(request.bucket)
    if behaviour.demands_conditions and not request.headers.keys() & {"if-match", "if-none-match"}:
        raise S3Error(403, "AccessDenied", "Access Denied")
    description = describe(request.headers, behaviour)
    check_demands(description, behaviour)
    check_write(request.headers, bucket.objects.get(request.key), behaviour)
    stored = make_stored(request, description, behaviour)
    bucket.put(request.key, stored)
    headers = {"ETag": stored.etag}
    if stored.checksum or description.options:
        headers |= checksum_header(stored) | description.encryption
    return Answer(200, b"", headers)


def get_object(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Answer with an object or a range of it; HEAD too, whose body the protocol leaves out."""
    stored = storage.bucket(request.bucket).get(request.key)
    if unchanged := check_read(request.headers, stored, behaviour):
        return unchanged
    headers = {"ETag": stored.etag, "Last-Modified": http_date(stored.modified), "Accept-Ranges": "bytes"}
    headers |= stored.description.headers
    if stored.description.options or stored.description.tags:
        headers |= _extras(stored.description)
    wanted = request.headers.get("range")
    if wanted is None or behaviour.ranges == "ignored" or (span := find_range(wanted, stored.size_bytes)) is None:
        if stored.checksum and request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
            headers |= checksum_header(stored)
        return Answer(200, stored.content, headers)
    headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{stored.size_bytes}"
    return Answer(200 if behaviour.ranges == "plain" else 206, stored.content.cut(*span), headers)


def delete_object(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Delete an object, which need not exist unless a condition says so."""
    bucket = storage.bucket(request.bucket)
    check_write(request.headers, bucket.objects.get(request.key), behaviour)
    bucket.delete(request.key)
    return Answer(204)


def copy_object(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Copy an object, from any bucket."""
    source = copy_source(storage, behaviour, request)
    bucket = storage.bucket(request.bucket)
    if source.size_bytes > COPY_LIMIT_BYTES:
        about = f"larger than the maximum allowable size for a copy source: {COPY_LIMIT_BYTES}"
        raise S3Error(400, "InvalidRequest", f"The specified copy source is {about}")
    description = _copied(source.description, describe(request.headers, behaviour), request)
    check_demands(description, behaviour)
    check_write(request.headers, bucket.objects.get(request.key), behaviour)
    # The MD5 of the bytes, also where the source was uploaded in parts.
    kept = source.etag if "-" not in source.etag else ""
    checksum = "" if "-" in source.checksum else source.checksum
    stored = StoredObject(source.content, _etag(source.content, description, behaviour, kept), description, checksum)
    bucket.put(request.key, stored)
    answer = document("CopyObjectResult", tag("LastModified", iso_date(stored.modified)) + tag("ETag", stored.etag))
    answer.headers |= description.encryption
    return answer


def copy_source(storage: Storage, behaviour: Behaviour, request: Request) -> StoredObject:
    """
    Return the object that a copy is made of.

    Raises:
        S3Error: there is none, or it is not the one that was meant.
    """
    bucket, key = source_name(request)
    found = storage.bucket(bucket).get(key)
    prefix = "x-amz-copy-source-"
    conditions = {name.removeprefix(prefix): value for name, value in request.headers.items() if prefix in name}
    if check_read(conditions, found, behaviour):
        raise S3Error(412, "PreconditionFailed", "The source is the one that was not wanted")
    return found


def source_name(request: Request) -> tuple[str, str]:
    """Return bucket and key of what a copy is made of."""
    # Unlike in a URL's path, "+" is a space here; s5cmd sends it so.
    path = unquote_plus(request.headers["x-amz-copy-source"].partition("?")[0]).removeprefix("/")
    bucket, _, key = path.partition("/")
    return bucket, key


def make_stored(request: Request, description: Description, behaviour: Behaviour) -> StoredObject:
    """
    Return the object that a request's body makes.

    Raises:
        S3Error: the body is not what its checksums say.
    """
    content = request.content
    checksum = check_body(request.headers, content, behaviour)
    return StoredObject(content, _etag(content, description, behaviour), description, checksum)


def _etag(content: Content, description: Description, behaviour: Behaviour, known: str = "") -> str:
    """Return the ETag of bytes; ``known`` is their MD5 in that form, if one has it."""
    if behaviour.etags == "random" or "aws:kms" in description.options.values():
        return f'"{_ETAGS.getrandbits(128):032x}"'
    return known or f'"{content.md5().hex()}"'


def _copied(source: Description, given: Description, request: Request) -> Description:
    directives = [request.headers.get(f"x-amz-{what}-directive", "").upper() for what in ("metadata", "tagging")]
    return replace(
        given,
        headers=given.headers if directives[0] == "REPLACE" else source.headers,
        tags=given.tags if directives[1] == "REPLACE" else source.tags,
    )


def _extras(description: Description) -> dict[str, str]:
    extras = {name: value for name, value in description.options.items() if value != "STANDARD"}
    return extras | ({"x-amz-tagging-count": str(len(description.tags))} if description.tags else {})
