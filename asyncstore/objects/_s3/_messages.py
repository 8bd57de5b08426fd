"""What S3's requests and answers say beyond the bytes of objects: headers and XML, without I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus, urlencode
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from asyncstore.errors import AsyncStoreError, ConfigurationError, IntegrityError, InvalidValueError
from asyncstore.objects._errors import RangeIgnoredError, from_s3_code, no_answer
from asyncstore.objects._obstore import canonical_etag
from asyncstore.objects.base import ObjectMeta, PendingUpload

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "META_PREFIX",
    "PartDone",
    "completed_etag",
    "completion",
    "copied_etag",
    "copy_source",
    "described",
    "kept_headers",
    "metadata_headers",
    "next_page",
    "parts_page",
    "ranged",
    "tags_header",
    "upload_id",
    "uploads_page",
]

META_PREFIX = "x-amz-meta-"

_KEPT = {
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    "x-amz-website-redirect-location",
}
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class PartDone:
    """A part that the storage has."""

    number: int
    etag: str
    crc32: str = ""
    """In Base64, as S3 wants it; empty if it was sent without."""
    size_bytes: int = -1
    """As the storage says; -1 if it was not asked."""


def metadata_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    """
    Return user metadata as headers.

    Raises:
        InvalidValueError: a name or value that no header can hold as it is.
    """
    headers: dict[str, str] = {}
    for name, value in metadata.items():
        if not (value.isascii() and value.isprintable()) or value != value.strip(" "):
            raise _unfit(name)
        headers[_header_of(name)] = value
    return headers


@lru_cache(maxsize=256)
def _header_of(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise _unfit(name)
    return f"{META_PREFIX}{name.lower()}"


def _unfit(name: str) -> InvalidValueError:
    return InvalidValueError(f"metadata {name!r} must be printable ASCII, without spaces at its ends")


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return those of an object's headers that make its copy like it: its metadata, and how it is to be served."""
    return {name: value for name, value in headers.items() if name in _KEPT or name.startswith(META_PREFIX)}


def copy_source(bucket: str, key: str) -> str:
    """Return how a copy says what it copies."""
    return quote(f"/{bucket}/{key}", safe="/~")


def described(key: str, size_bytes: int, headers: Mapping[str, str]) -> ObjectMeta:
    """Return what an answer's headers say of an object."""
    metadata = {
        name.removeprefix(META_PREFIX): value for name, value in headers.items() if name.startswith(META_PREFIX)
    }
    return ObjectMeta(key, size_bytes, canonical_etag(headers.get("etag")), _http_date(headers), metadata)


def ranged(headers: Mapping[str, str], start: int, end: int, what: str) -> int:
    """
    Return the size of the object of which the bytes from ``start`` to ``end`` (exclusive) came.

    Raises:
        IntegrityError: the answer does not say that it is exactly these.
    """
    said = headers.get("content-range", "")
    found = _RANGE.fullmatch(said)
    if found is None:
        raise RangeIgnoredError(f"{what}: bytes {start}-{end - 1} were asked for, {said or 'the whole object'} came")
    first, last, total = map(int, found.groups())
    if (first, last + 1) != (start, end) or total < end:
        raise IntegrityError(f"{what}: bytes {start}-{end - 1} were asked for, {said} came")
    if (length := headers.get("content-length")) is not None and length != str(end - start):
        raise IntegrityError(f"{what}: {end - start} bytes were asked for, {length} came")
    return total


def answered(body: bytes, what: str) -> ET.Element:
    """
    Return the XML of an answer with a status of success; servers differ in what they call its root.

    Raises:
        AsyncStoreError: it says an error all the same, as S3 does if it has begun its answer before it was done.
        UnavailableError: it is not whole.
        ConfigurationError: it is not S3's.
    """
    text = body.strip()
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        if text.startswith((b"<html", b"<!")) or text[:1] not in {b"", b"<"}:
            raise _not_s3(what) from error
        raise no_answer(f"{what}: the answer is not whole: {error}", sent=True) from error
    name = root.tag.rpartition("}")[2]
    if name == "Error":
        raise from_s3_code(_text(root, "Code") or "InternalError", 200, what)
    if name.lower() == "html":
        raise _not_s3(what)
    return root


def upload_id(body: bytes, what: str) -> str:
    """Return the id of an upload that was begun; raises as :func:`answered` does."""
    found = _text(answered(body, what), "UploadId")
    if not found:
        raise _not_s3(what)
    return found


def copied_etag(body: bytes, what: str) -> str:
    """Return the ETag of a copied object or part; raises as :func:`answered` does."""
    return canonical_etag(_text(answered(body, what), "ETag"))


def completed_etag(body: bytes, what: str) -> str:
    """Return the ETag of an object made of parts, empty if the server does not say; raises as :func:`answered` does."""
    return canonical_etag(_text(answered(body, what), "ETag"))


def completion(parts: Iterable[PartDone]) -> bytes:
    """Return what completes an upload."""
    listed = "".join(
        f"<Part>{f'<ChecksumCRC32>{part.crc32}</ChecksumCRC32>' if part.crc32 else ''}"
        f"<ETag>{escape(part.etag)}</ETag><PartNumber>{part.number}</PartNumber></Part>"
        for part in parts
    )
    head = '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    return f"{head}{listed}</CompleteMultipartUpload>".encode()


def parts_page(body: bytes, what: str) -> tuple[list[PartDone], dict[str, str] | None]:
    """Return the parts on one page of a listing, and how the next page is asked for; raises as :func:`answered`."""
    root = answered(body, what)
    parts = [
        PartDone(
            int(_text(part, "PartNumber")),
            canonical_etag(_text(part, "ETag")),
            _text(part, "ChecksumCRC32"),
            int(_text(part, "Size") or -1),
        )
        for part in root.iterfind("{*}Part")
    ]
    marker = _text(root, "NextPartNumberMarker")
    return parts, {"part-number-marker": marker} if _is_truncated(root) and marker else None


def uploads_page(body: bytes, what: str) -> tuple[list[PendingUpload], dict[str, str] | None]:
    """Return the uploads on one page of a listing, and how the next page is asked for; raises as :func:`answered`."""
    root = answered(body, what)
    encoded = _text(root, "EncodingType") == "url"

    def plain(text: str) -> str:
        return unquote_plus(text) if encoded else text

    uploads = [
        PendingUpload(plain(_text(item, "Key")), _text(item, "UploadId"), _iso_date(_text(item, "Initiated")))
        for item in root.iterfind("{*}Upload")
    ]
    markers = {
        "key-marker": plain(_text(root, "NextKeyMarker")),
        "upload-id-marker": _text(root, "NextUploadIdMarker"),
    }
    return uploads, markers if _is_truncated(root) and markers["key-marker"] else None


def next_page(asked: Mapping[str, str] | None, following: dict[str, str] | None, what: str) -> dict[str, str] | None:
    """
    Return ``following``, which asks for the page after the one that ``asked`` asked for; ``None`` after the last one.

    Raises:
        ConfigurationError: it would be the same page again, and so on without end.
    """
    if following is not None and following == asked:
        raise ConfigurationError(f"{what}: the server says of a page that it follows itself: its listings are no S3's")
    return following


def tags_header(body: bytes, what: str) -> str:
    """Return an object's tags as a write says them; raises as :func:`answered` does."""
    root = answered(body, what)
    tags = {_text(tag, "Key"): _text(tag, "Value") for tag in root.iterfind("{*}TagSet/{*}Tag")}
    return urlencode(tags, quote_via=quote)


def _not_s3(what: str) -> ConfigurationError:
    return ConfigurationError(f"{what}: what answers there does not answer like S3: mend endpoint_url")


def _is_truncated(root: ET.Element) -> bool:
    return _text(root, "IsTruncated").lower() == "true"


def _text(element: ET.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}") or ""


def _http_date(headers: Mapping[str, str]) -> datetime:
    try:
        return _parsed_date(headers["last-modified"])
    except (KeyError, ValueError, OverflowError):
        raise AsyncStoreError("the answer does not say when the object was written") from None


@lru_cache(maxsize=256)
def _parsed_date(text: str) -> datetime:
    # Remembered, as many objects are written in the same second.
    found = parsedate_to_datetime(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _iso_date(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        # A server that does not say; it was begun by now at the latest.
        return datetime.now(UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
