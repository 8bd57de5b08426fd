"""Multipart uploads."""

from __future__ import annotations

import re
import secrets
import time
from itertools import pairwise
from typing import TYPE_CHECKING

from asyncstore.testing.s3_stub._checksums import (
    algorithm_of,
    check_algorithm,
    check_named,
    composite,
    crc32_of,
    multipart_etag,
)
from asyncstore.testing.s3_stub._conditions import check_write
from asyncstore.testing.s3_stub._content import Content
from asyncstore.testing.s3_stub._describing import check_demands, describe
from asyncstore.testing.s3_stub._messages import Answer, Behaviour, Request, S3Error
from asyncstore.testing.s3_stub._objects import COPY_LIMIT_BYTES, copy_source, make_stored
from asyncstore.testing.s3_stub._storage import StoredObject, Upload
from asyncstore.testing.s3_stub._xml import document, iso_date, parse, tag

if TYPE_CHECKING:
    from asyncstore.testing.s3_stub._storage import Storage

__all__ = ["abort", "complete", "create", "upload_part", "upload_part_copy"]

PART_LEAST_BYTES = 5 * 1024 * 1024
PART_LIMIT = 10_000

_COPY_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


def create(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Begin an upload."""
    bucket = storage.bucket(request.bucket)
    description = describe(request.headers, behaviour)
    check_demands(description, behaviour)
    algorithm = algorithm_of(request, behaviour)
    # Later ones are above earlier ones, because S3 lists those of a key by age and goes on by id.
    upload_id = f"{time.time_ns():016x}{secrets.token_hex(8)}"
    bucket.uploads[upload_id] = Upload(request.key, description, algorithm)
    about = tag("Bucket", request.bucket) + tag("Key", request.key)
    answer = document("InitiateMultipartUploadResult", about + tag("UploadId", upload_id))
    if algorithm:
        answer.headers |= {"x-amz-checksum-algorithm": algorithm, "x-amz-checksum-type": "COMPOSITE"}
    answer.headers |= description.encryption
    return answer


def upload_part(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Store a part."""
    upload, number = _upload(storage, request), _part_number(request)
    check_algorithm(upload, request.headers, behaviour)
    part = upload.parts[number] = make_stored(request, upload.description, behaviour)
    if not upload.algorithm:
        part.checksum = ""
    checksum = {"x-amz-checksum-crc32": part.checksum} if part.checksum else {}
    return Answer(200, b"", {"ETag": part.etag} | checksum | upload.description.encryption)


def upload_part_copy(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Make a part of an object or a range of it."""
    upload, number = _upload(storage, request), _part_number(request)
    source = copy_source(storage, behaviour, request)
    request.body = source.content.cut(*_copied_range(request, source))
    part = upload.parts[number] = make_stored(request, upload.description, behaviour)
    about = tag("LastModified", iso_date(part.modified)) + tag("ETag", part.etag)
    if upload.algorithm:
        part.checksum = crc32_of(part.content)
        about += tag("ChecksumCRC32", part.checksum)
    return document("CopyPartResult", about)


def complete(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Make the object of the parts that the request names."""
    bucket = storage.bucket(request.bucket)
    upload = _upload(storage, request)
    check_write(request.headers, bucket.objects.get(request.key), behaviour)
    parts = _named_parts(upload, bytes(request.body), behaviour)
    content = Content.joined(part.content for part in parts)
    if request.headers.get("x-amz-mp-object-size", str(content.size_bytes)) != str(content.size_bytes):
        raise S3Error(400, "InvalidRequest", "The provided x-amz-mp-object-size does not match the object's size")
    checksum = composite(upload, parts, behaviour)
    stored = StoredObject(content, multipart_etag(parts), upload.description, checksum)
    if stored.checksum and request.headers.get("x-amz-checksum-crc32", stored.checksum) != stored.checksum:
        raise S3Error(400, "BadDigest", "The CRC32 you specified did not match the calculated checksum.")
    bucket.put(request.key, stored)
    del bucket.uploads[request.query["uploadId"]]
    about = tag("Bucket", request.bucket) + tag("Key", request.key) + tag("ETag", stored.etag)
    if stored.checksum:
        about += tag("ChecksumCRC32", stored.checksum) + tag("ChecksumType", "COMPOSITE")
    answer = document("CompleteMultipartUploadResult", about)
    answer.headers |= upload.description.encryption
    return answer


def abort(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """Forget an upload and its parts."""
    _upload(storage, request)
    del storage.bucket(request.bucket).uploads[request.query["uploadId"]]
    return Answer(204)


def _upload(storage: Storage, request: Request) -> Upload:
    return storage.bucket(request.bucket).upload(request.query["uploadId"], request.key)


def _part_number(request: Request) -> int:
    given = request.query.get("partNumber", "")
    if not given.isdecimal() or not 1 <= int(given) <= PART_LIMIT:
        raise S3Error(400, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
    return int(given)


def _copied_range(request: Request, source: StoredObject) -> tuple[int, int]:
    given = request.headers.get("x-amz-copy-source-range")
    if given is None:
        start, end = 0, source.size_bytes
    elif found := _COPY_RANGE.fullmatch(given):
        start, end = int(found[1]), int(found[2]) + 1
    else:
        about = "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the"
        raise S3Error(400, "InvalidArgument", f"{about} zero-based offsets of the first and last bytes to copy")
    if given is not None and not start < end <= source.size_bytes:
        about = f"Range specified is not valid for source object of size: {source.size_bytes}"
        raise S3Error(400, "InvalidArgument", about)
    if end - start > COPY_LIMIT_BYTES:
        raise S3Error(400, "InvalidRequest", "The specified copy source is larger than the maximum allowable size")
    return start, end


def _named_parts(upload: Upload, body: bytes, behaviour: Behaviour) -> list[StoredObject]:
    listed = [
        (child("PartNumber"), child("ETag").strip('"'), child("ChecksumCRC32")) for child in parse(body, "{*}Part")
    ]
    if not listed or not all(number.isdecimal() for number, _, _ in listed):
        raise S3Error(400, "MalformedXML")
    named = [(int(number), etag, checksum) for number, etag, checksum in listed]
    if any(one[0] >= other[0] for one, other in pairwise(named)):
        raise S3Error(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
    parts = [upload.parts.get(number) for number, _, _ in named]
    found = [part for part, (_, etag, _) in zip(parts, named, strict=True) if part and part.etag.strip('"') == etag]
    if len(found) < len(named):
        raise S3Error(400, "InvalidPart", "One or more of the specified parts could not be found.")
    check_named(upload, [(number, checksum) for number, _, checksum in named], found, behaviour)
    if any(part.size_bytes < PART_LEAST_BYTES for part in found[:-1]):
        raise S3Error(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
    return found
