"""Multipart uploads."""

from __future__ import annotations

import hashlib
import secrets
from itertools import pairwise
from typing import TYPE_CHECKING

from asyncstore.testing.s3_stub._conditions import check_write, find_range
from asyncstore.testing.s3_stub._messages import Answer, Behaviour, Request, S3Error
from asyncstore.testing.s3_stub._objects import copy_source, kept_headers, make_stored
from asyncstore.testing.s3_stub._storage import StoredObject, Upload
from asyncstore.testing.s3_stub._xml import document, iso_date, parse, tag

if TYPE_CHECKING:
    from asyncstore.testing.s3_stub._storage import Storage

__all__ = ["abort", "complete", "create", "list_parts", "list_uploads", "upload_part", "upload_part_copy"]

PART_LEAST_BYTES = 5 * 1024 * 1024
PART_LIMIT = 10_000


def create(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """Begin an upload."""
    upload_id = secrets.token_hex(16)
    storage.bucket(request.bucket).uploads[upload_id] = Upload(request.key, kept_headers(request.headers))
    about = tag("Bucket", request.bucket) + tag("Key", request.key)
    return document("InitiateMultipartUploadResult", about + tag("UploadId", upload_id))


def upload_part(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Store a part."""
    upload = _upload(storage, request)
    part = upload.parts[_part_number(request)] = make_stored(request, behaviour)
    return Answer(200, b"", {"ETag": part.etag})


def upload_part_copy(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Make a part of an object or a range of it."""
    upload = _upload(storage, request)
    source = copy_source(storage, behaviour, request)
    span = find_range(request.headers.get("x-amz-copy-source-range", ""), source.size_bytes)
    request.body = source.content[slice(*(span or (0, source.size_bytes)))]
    part = upload.parts[_part_number(request)] = make_stored(request, behaviour)
    return document("CopyPartResult", tag("LastModified", iso_date(part.modified)) + tag("ETag", part.etag))


def complete(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Make the object of the parts that the request names."""
    bucket = storage.bucket(request.bucket)
    upload = _upload(storage, request)
    check_write(request.headers, bucket.objects.get(request.key), behaviour)
    parts = _named_parts(upload, request.body)
    digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    etag = f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'
    size_bytes = sum(part.size_bytes for part in parts)
    bucket.put(request.key, StoredObject(b"".join(part.body for part in parts), size_bytes, etag, upload.headers))
    del bucket.uploads[request.query["uploadId"]]
    about = tag("Bucket", request.bucket) + tag("Key", request.key)
    return document("CompleteMultipartUploadResult", about + tag("ETag", etag))


def abort(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """Forget an upload and its parts."""
    _upload(storage, request)
    del storage.bucket(request.bucket).uploads[request.query["uploadId"]]
    return Answer(204)


def list_parts(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """List the parts of an upload, all of them on one page."""
    upload = _upload(storage, request)
    about = tag("Bucket", request.bucket) + tag("Key", request.key) + tag("UploadId", request.query["uploadId"])
    parts = [_described(number, upload.parts[number]) for number in sorted(upload.parts)]
    return document("ListPartsResult", f"{about}{tag('IsTruncated', 'false')}{''.join(parts)}")


def list_uploads(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """List the unfinished uploads of a bucket, all of them on one page."""
    prefix = request.query.get("prefix", "")
    uploads = sorted((upload.key, one) for one, upload in storage.bucket(request.bucket).uploads.items())
    listed = [
        f"<Upload>{tag('Key', key)}{tag('UploadId', upload_id)}</Upload>"
        for key, upload_id in uploads
        if key.startswith(prefix)
    ]
    about = tag("Bucket", request.bucket) + tag("IsTruncated", "false")
    return document("ListMultipartUploadsResult", about + "".join(listed))


def _upload(storage: Storage, request: Request) -> Upload:
    return storage.bucket(request.bucket).upload(request.query["uploadId"], request.key)


def _described(number: int, part: StoredObject) -> str:
    about = f"{tag('PartNumber', number)}{tag('LastModified', iso_date(part.modified))}"
    return f"<Part>{about}{tag('ETag', part.etag)}{tag('Size', part.size_bytes)}</Part>"


def _part_number(request: Request) -> int:
    given = request.query.get("partNumber", "")
    if not given.isdecimal() or not 1 <= int(given) <= PART_LIMIT:
        raise S3Error(400, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
    return int(given)


def _named_parts(upload: Upload, body: bytes) -> list[StoredObject]:
    listed = [(child("PartNumber"), child("ETag").strip('"')) for child in parse(body, "{*}Part")]
    if not listed or not all(number.isdecimal() for number, _ in listed):
        raise S3Error(400, "MalformedXML")
    named = [(int(number), etag) for number, etag in listed]
    if any(one[0] >= other[0] for one, other in pairwise(named)):
        raise S3Error(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
    parts = [upload.parts.get(number) for number, _ in named]
    found = [part for part, (_, etag) in zip(parts, named, strict=True) if part and part.etag.strip('"') == etag]
    if len(found) < len(named):
        raise S3Error(400, "InvalidPart", "One or more of the specified parts could not be found.")
    if any(part.size_bytes < PART_LEAST_BYTES for part in found[:-1]):
        raise S3Error(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
    return found
