"""Listing unfinished uploads, and the parts that they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.testing.s3_stub._listing import url_name
from asyncstore.testing.s3_stub._messages import Answer, Behaviour, Request, S3Error
from asyncstore.testing.s3_stub._xml import document, iso_date, tag

if TYPE_CHECKING:
    from asyncstore.testing.s3_stub._storage import Description, Storage, StoredObject, Upload

__all__ = ["list_parts", "list_uploads"]

PAGE_LIMIT = 1000


def list_parts(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """List the parts of an upload, by number."""
    upload_id = request.query["uploadId"]
    upload = storage.bucket(request.bucket).upload(upload_id, request.key)
    limit, marker = _number(request, "max-parts", PAGE_LIMIT), _number(request, "part-number-marker", 0)
    following = [number for number in sorted(upload.parts) if number > marker]
    listed = following[: min(limit, PAGE_LIMIT)]
    about = [
        tag("Bucket", request.bucket) + tag("Key", url_name(request, request.key)) + tag("UploadId", upload_id),
        tag("PartNumberMarker", marker) + tag("MaxParts", min(limit, PAGE_LIMIT)),
        tag("IsTruncated", str(len(listed) < len(following)).lower()),
        _stored_in(upload.description) + _checksums(upload),
    ]
    if listed:
        about.append(tag("NextPartNumberMarker", listed[-1]))
    return document("ListPartsResult", "".join([*about, *(_part(number, upload.parts[number]) for number in listed)]))


def list_uploads(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """List the unfinished uploads of a bucket, by key and then by age."""
    query = request.query
    prefix, limit = query.get("prefix", ""), min(_number(request, "max-uploads", PAGE_LIMIT), PAGE_LIMIT)
    markers = (query.get("key-marker", ""), query.get("upload-id-marker", ""))
    all_uploads = storage.bucket(request.bucket).uploads
    following = sorted(
        (upload.key, upload_id)
        for upload_id, upload in all_uploads.items()
        if upload.key.startswith(prefix) and _is_after((upload.key, upload_id), markers)
    )
    listed = following[:limit]
    truncated = len(listed) < len(following)
    about = [tag("Bucket", request.bucket), tag("Prefix", url_name(request, prefix))]
    about += [tag("KeyMarker", url_name(request, markers[0])), tag("UploadIdMarker", markers[1])]
    about += [tag("MaxUploads", limit), tag("IsTruncated", str(truncated).lower())]
    if truncated and listed:
        about += [tag("NextKeyMarker", url_name(request, listed[-1][0])), tag("NextUploadIdMarker", listed[-1][1])]
    if query.get("encoding-type") == "url":
        about.append(tag("EncodingType", "url"))
    rendered = [_upload(url_name(request, key), upload_id, all_uploads[upload_id]) for key, upload_id in listed]
    return document("ListMultipartUploadsResult", "".join([*about, *rendered]))


def _is_after(one: tuple[str, str], markers: tuple[str, str]) -> bool:
    return one > markers if all(markers) else one[0] > markers[0]


def _number(request: Request, name: str, default: int) -> int:
    given = request.query.get(name) or str(default)
    if not given.isdecimal():
        raise S3Error(400, "InvalidArgument", f"Provided {name} not an integer or within integer range")
    return int(given)


def _part(number: int, part: StoredObject) -> str:
    about = f"{tag('PartNumber', number)}{tag('LastModified', iso_date(part.modified))}{tag('ETag', part.etag)}"
    checksum = tag("ChecksumCRC32", part.checksum) if part.checksum else ""
    return f"<Part>{about}{tag('Size', part.size_bytes)}{checksum}</Part>"


def _upload(name: str, upload_id: str, upload: Upload) -> str:
    about = f"{tag('Key', name)}{tag('UploadId', upload_id)}{tag('Initiated', iso_date(upload.begun))}"
    return f"<Upload>{about}{_stored_in(upload.description)}{_checksums(upload)}</Upload>"


def _stored_in(description: Description) -> str:
    return tag("StorageClass", description.options.get("x-amz-storage-class", "STANDARD"))


def _checksums(upload: Upload) -> str:
    return tag("ChecksumAlgorithm", upload.algorithm) + tag("ChecksumType", "COMPOSITE") if upload.algorithm else ""
