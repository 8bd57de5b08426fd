"""Content-MD5, CRC32 of bodies and of multipart uploads; other checksums are not known."""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import TYPE_CHECKING

from asyncstore.testing.s3_stub._messages import Behaviour, Request, S3Error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncstore.testing.s3_stub._content import Content
    from asyncstore.testing.s3_stub._storage import StoredObject, Upload

__all__ = [
    "algorithm_of",
    "check_algorithm",
    "check_body",
    "check_named",
    "checksum_header",
    "composite",
    "crc32_of",
    "multipart_etag",
]

CRC32 = "x-amz-checksum-crc32"
_NOT_SUMS = {"algorithm", "type", "mode"}


def check_body(headers: Mapping[str, str], content: Content, behaviour: Behaviour) -> str:
    """
    Return the CRC32 that a body came with; empty if it came with none, or they are ignored.

    Raises:
        S3Error: the body is not what its checksums say, or they are refused.
    """
    crc32, md5 = headers.get(CRC32, ""), headers.get("content-md5", "")
    if behaviour.checksums == "ignored" or not (crc32 or md5):
        return ""
    if behaviour.checksums == "refused":
        raise S3Error(501, "NotImplemented", "Checksums are not taken here")
    if md5 and md5 != base64.b64encode(content.md5()).decode():
        raise S3Error(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
    if crc32 and crc32 != crc32_of(content):
        raise S3Error(400, "BadDigest", "The CRC32 you specified did not match what we received.")
    return crc32


def crc32_of(content: Content) -> str:
    """Return the CRC32 of bytes as headers have it."""
    return _encoded(content.crc32())


def algorithm_of(request: Request, behaviour: Behaviour) -> str:
    """
    Return the algorithm with which an upload is begun, or nothing.

    Raises:
        S3Error: it is another than CRC32 of parts.
    """
    asked = request.headers.get("x-amz-checksum-algorithm", "").upper()
    if not asked or behaviour.checksums == "ignored":
        return ""
    if behaviour.checksums == "refused" or asked != "CRC32":
        raise S3Error(501, "NotImplemented", "This stub knows no such checksum")
    if request.headers.get("x-amz-checksum-type", "COMPOSITE").upper() != "COMPOSITE":
        raise S3Error(501, "NotImplemented", "This stub knows only checksums of parts")
    return asked


def check_algorithm(upload: Upload, headers: Mapping[str, str], behaviour: Behaviour) -> None:
    """
    Check that a part comes with the kind of checksum that its upload was begun with.

    Where that is none, one that AWS's SDKs add by themselves is let pass, or their users could upload no parts.

    Raises:
        S3Error: it comes with another one, or with one and should not, or with none and should.
    """
    if behaviour.checksums != "checked":
        return
    prefix = "x-amz-checksum-"
    sums = [name.removeprefix(prefix) for name in headers if name.startswith(prefix)]
    given = next((name for name in sums if name not in _NOT_SUMS), "null")
    expected = upload.algorithm.lower() or "null"
    if given != expected and (upload.algorithm or "x-amz-sdk-checksum-algorithm" not in headers):
        about = f"expected checksum Type: {expected}, actual checksum Type: {given}"
        raise S3Error(400, "InvalidRequest", f"Checksum Type mismatch occurred, {about}")


def check_named(
    upload: Upload, named: Sequence[tuple[int, str]], parts: Sequence[StoredObject], behaviour: Behaviour
) -> None:
    """
    Check the checksums with which a completion names its parts, as pairs of number and checksum.

    Raises:
        S3Error: one is missing or wrong, and they are not ignored.
    """
    if behaviour.checksums == "ignored":
        return
    for (number, given), part in zip(named, parts, strict=True):
        if upload.algorithm and not given:
            about = "The upload was created using a crc32 checksum. The complete request must include the checksum"
            raise S3Error(400, "InvalidRequest", f"{about} for each part. It was missing for part {number}.")
        if given and given != part.checksum:
            raise S3Error(400, "InvalidPart", "One or more of the specified parts have another checksum.")


def composite(upload: Upload, parts: Sequence[StoredObject], behaviour: Behaviour) -> str:
    """Return the checksum of the object that parts make up: that of theirs, and how many they are; or nothing."""
    if not upload.algorithm or behaviour.checksums == "ignored":
        return ""
    sums = b"".join(base64.b64decode(part.checksum) for part in parts)
    return f"{_encoded(zlib.crc32(sums))}-{len(parts)}"


def checksum_header(stored: StoredObject) -> dict[str, str]:
    """Return the headers that tell an object's checksum, if it has one."""
    if not stored.checksum:
        return {}
    return {CRC32: stored.checksum, "x-amz-checksum-type": "COMPOSITE" if "-" in stored.checksum else "FULL_OBJECT"}


def multipart_etag(parts: Sequence[StoredObject]) -> str:
    """Return the ETag of the object that parts make up."""
    digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'


def _encoded(value: int) -> str:
    return base64.b64encode(value.to_bytes(4, "big")).decode()
