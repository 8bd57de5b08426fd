"""Verbs on single objects; each decides and stores in one step, so that conditions are atomic."""

from __future__ import annotations

import base64
import hashlib
import secrets
import zlib
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from asyncstore.testing.s3_stub._conditions import check_read, check_write, find_range
from asyncstore.testing.s3_stub._messages import Answer, Behaviour, Request, S3Error
from asyncstore.testing.s3_stub._storage import Storage, StoredObject
from asyncstore.testing.s3_stub._xml import document, http_date, iso_date, tag

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["copy_object", "copy_source", "delete_object", "get_object", "kept_headers", "make_stored", "put_object"]

_KEPT = {
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "content-type": "Content-Type",
    "expires": "Expires",
    "x-amz-storage-class": "x-amz-storage-class",
}
_DEFAULT_TYPE = "binary/octet-stream"


def put_object(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Store an object."""
    bucket = storage.bucket(request.bucket)
    if behaviour.demands_conditions and not request.headers.keys() & {"if-match", "if-none-match"}:
        raise S3Error(403, "AccessDenied", "Access Denied")
    check_write(request.headers, bucket.objects.get(request.key), behaviour)
    stored = make_stored(request, behaviour)
    bucket.put(request.key, stored)
    return Answer(200, b"", {"ETag": stored.etag})


def get_object(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Answer with an object or a range of it; HEAD too, whose body the protocol leaves out."""
    stored = storage.bucket(request.bucket).get(request.key)
    if unchanged := check_read(request.headers, stored, behaviour):
        return unchanged
    described = {"ETag": stored.etag, "Last-Modified": http_date(stored.modified), "Accept-Ranges": "bytes"}
    headers = described | stored.headers
    wanted = request.headers.get("range")
    if wanted is None or behaviour.ranges == "ignored" or (span := find_range(wanted, stored.size_bytes)) is None:
        return Answer(200, stored.content, headers)
    headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{stored.size_bytes}"
    return Answer(200 if behaviour.ranges == "plain" else 206, stored.content[slice(*span)], headers)


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
    check_write(request.headers, bucket.objects.get(request.key), behaviour)
    replaces = request.headers.get("x-amz-metadata-directive", "").upper() == "REPLACE"
    headers = kept_headers(request.headers) if replaces else source.headers
    # The MD5 of the bytes, also where the source was uploaded in parts.
    etag = source.etag if "-" not in source.etag else _etag(source.content)
    stored = StoredObject(source.body, source.size_bytes, etag, headers)
    bucket.put(request.key, stored)
    return document("CopyObjectResult", tag("LastModified", iso_date(stored.modified)) + tag("ETag", stored.etag))


def copy_source(storage: Storage, behaviour: Behaviour, request: Request) -> StoredObject:
    """
    Return the object that a copy is made of.

    Raises:
        S3Error: there is none, or it is not the one that was meant.
    """
    # Unlike in a URL's path, "+" is a space here; s5cmd sends it so.
    path = unquote_plus(request.headers["x-amz-copy-source"].partition("?")[0]).removeprefix("/")
    bucket, _, key = path.partition("/")
    found = storage.bucket(bucket).get(key)
    prefix = "x-amz-copy-source-"
    conditions = {name.removeprefix(prefix): value for name, value in request.headers.items() if prefix in name}
    if check_read(conditions, found, behaviour):
        raise S3Error(412, "PreconditionFailed", "The source is the one that was not wanted")
    return found


def make_stored(request: Request, behaviour: Behaviour) -> StoredObject:
    """
    Return the object that a request's body and headers make.

    Raises:
        S3Error: the body is not what its checksum says.
    """
    body = request.body
    digest = hashlib.md5(body, usedforsecurity=False)
    if behaviour.checksums != "ignored":
        _check_sums(request.headers, body, digest.digest(), refused=behaviour.checksums == "refused")
    kept = b"" if behaviour.discards else body
    etag = secrets.token_hex(16) if behaviour.etags == "random" else digest.hexdigest()
    headers = kept_headers(request.headers)
    if behaviour.metadata != "kept":
        headers = _mangled(headers, dropped=behaviour.metadata == "dropped")
    return StoredObject(kept, len(body), f'"{etag}"', headers)


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a write that belong to the object."""
    kept = {"Content-Type": _DEFAULT_TYPE}
    for name, value in headers.items():
        if name.startswith("x-amz-meta-"):
            kept[name] = value
        elif name in _KEPT:
            kept[_KEPT[name]] = value
    encoding = [one.strip() for one in kept.pop("Content-Encoding", "").split(",")]
    if real := ",".join(one for one in encoding if one and one != "aws-chunked"):
        kept["Content-Encoding"] = real
    return kept


def _mangled(headers: Mapping[str, str], *, dropped: bool) -> dict[str, str]:
    prefix = "x-amz-meta-"
    standard = {name: value for name, value in headers.items() if not name.startswith(prefix)}
    user = {name.removeprefix(prefix): value for name, value in headers.items() if name.startswith(prefix)}
    renamed = {f"{prefix}{name.replace('-', '_')}": value for name, value in user.items()}
    return standard if dropped else standard | renamed


def _check_sums(headers: Mapping[str, str], body: bytes, md5: bytes, *, refused: bool) -> None:
    if refused and headers.keys() & {"content-md5", "x-amz-checksum-crc32"}:
        raise S3Error(501, "NotImplemented", "Checksums are not taken here")
    given = headers.get("content-md5")
    if given and given != base64.b64encode(md5).decode():
        raise S3Error(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
    given = headers.get("x-amz-checksum-crc32")
    if given and given != base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode():
        raise S3Error(400, "BadDigest", "The CRC32 you specified did not match what we received.")


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
