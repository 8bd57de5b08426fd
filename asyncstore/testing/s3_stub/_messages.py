"""What goes in and out: a request, an answer, an error, and how the server as a whole behaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from asyncstore.testing.s3_stub._content import Content

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CHEAP", "Answer", "Behaviour", "Outgoing", "Request", "S3Error", "encode"]

CHEAP: Mapping[str, Any] = MappingProxyType({"etags": "random", "checksums": "ignored"})
"""
Fields of :class:`Behaviour` with which nothing is hashed, for benchmarks: bodies are stored as they come.

With ``discards`` besides, they are not even stored, and reads give zeros.
"""


@dataclass(slots=True)
class Behaviour:
    """How the server behaves towards every request; each field can be changed while it runs."""

    latency_s: float = 0.0
    """Time added to each request: half of it before the server acts, half before the answer goes out."""

    bandwidth_bytes_s: float = 0.0
    """
    Most bytes per second that the bodies of one connection move in each direction; 0 is without limit.

    What the system buffers comes on top, also what arrives together with a request's head: less than 256 KiB on
    connections that were made after this was set.
    """

    requests_per_s: float = 0.0
    """
    Beyond that many requests per second, 503 SlowDown is answered; 0 is without limit.

    After a pause, as many as belong to a tenth of a second are let in at once. Refused requests do not count.
    """

    in_flight_limit: int = 0
    """With that many requests being answered, others get 503 SlowDown; 0 is without limit. Needs latency to happen."""

    ignores_conditions: bool = False
    """Take ``If-Match`` and ``If-None-Match`` without heeding them, as rclone does."""

    ignored_conditions: list[str] = field(default_factory=list)
    """Those of ``if-match`` and ``if-none-match`` that are not heeded in writes."""

    conditions_status: int = 0
    """HTTP status with which conditional writes are refused, whatever they say: 501, 400, 405; 0 does not."""

    demands_conditions: bool = False
    """Answer 403 to PutObject without a condition, as a bucket's policy can."""

    match_form: Literal["any", "quoted", "bare", "none"] = "any"
    """The one form in which an ETag of ``If-Match`` is recognised: moto wants the quotes, Ceph RGW 16 none."""

    etags: Literal["content", "random"] = "content"
    """
    ``content`` is the MD5 of the bytes; ``random`` gives each write another ETag, as with encryption by customers'
    keys, and spares the hashing. Writes that ask for ``aws:kms`` get random ones always.
    """

    metadata: Literal["kept", "dropped", "renamed"] = "kept"
    """``renamed`` gives names of user metadata back in underscores."""

    ranges: Literal["honoured", "plain", "ignored"] = "honoured"
    """``plain`` sends the range with status 200, as rclone does; ``ignored`` sends the whole object."""

    checksums: Literal["checked", "ignored", "refused"] = "checked"
    """
    What becomes of ``Content-MD5`` and ``x-amz-checksum-crc32``; ``refused`` is 501 to any of them, even right.

    ``checked`` also keeps the CRC32 with object and part, and demands of multipart uploads what S3 demands.
    """

    bare_listing_etags: bool = False
    """Leave the quotes off ETags in listings, as rclone does."""

    discards: bool = False
    """
    Keep each object's size, ETag and metadata, and none of its bytes: it reads as zeros.

    Bytes are dropped as they come, and zeros are made as they go, so that sizes do not matter; unless ``etags`` are
    random, their MD5 is still taken.
    """

    denied: list[str] = field(default_factory=list)
    """Access keys that get 403 for everything."""

    read_only: list[str] = field(default_factory=list)
    """Access keys that get 403 for everything but reading and listing."""

    denied_operations: list[str] = field(default_factory=list)
    """Operations that get 403 from everybody, such as ``HeadObject``."""

    writable: str = ""
    """A regular expression that is to be found in the keys of writes, which get 403 otherwise."""

    demanded_kms_key: str = ""
    """Id of the KMS key with which new objects are to be encrypted, or ``*`` for any; others get 403."""

    demanded_tag: str = ""
    """A tag that new objects are to have, as ``name`` or ``name=value``; others get 403."""

    secret_keys: dict[str, str] = field(default_factory=dict)
    """Secret keys by access keys; with any, presigned URLs and forms must be signed by one of them."""

    policies: dict[str, Any] = field(default_factory=dict)
    """
    IAM policy documents by patterns of access keys, ``*`` for everybody; the first that fits counts.

    What it does not allow gets 403, action by action and resource by resource as AWS decides it; whom none fits may do
    everything. Assign a new one to change it.
    """


@dataclass(slots=True)
class Request:
    """A whole request; ``bucket`` and ``key`` are empty where the path names none."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes | Content = b""
    bucket: str = ""
    key: str = ""
    operation: str = ""
    """The name that S3 has for it, such as ``PutObject``."""

    def __post_init__(self) -> None:
        self.bucket, _, self.key = self.path[1:].partition("/")

    @property
    def content(self) -> Content:
        """The body."""
        return Content.of(self.body) if isinstance(self.body, bytes) else self.body

    @property
    def access_key(self) -> str:
        """Who asks, by their own account; signatures are not checked."""
        _, _, credential = self.headers.get("authorization", "").partition("Credential=")
        return credential.partition("/")[0]


@dataclass(slots=True)
class Answer:
    """A whole answer."""

    status: int = 200
    body: bytes | Content = b""
    headers: dict[str, str] = field(default_factory=dict)


class S3Error(Exception):
    """What the server answers instead of what was asked."""

    def __init__(self, status: int, code: str, message: str = "", **headers: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.headers = headers
        self.message = message or code

    @property
    def answer(self) -> Answer:
        """The error in S3's XML; an answer that may have no body must be cut by :func:`encode`."""
        # "&" and "<" appear in no message: they are all our own.
        body = f"<Error><Code>{self.code}</Code><Message>{self.message}</Message></Error>"
        headers = {"Content-Type": "application/xml"} | {
            name.replace("_", "-"): value for name, value in self.headers.items()
        }
        return Answer(self.status, body.encode(), headers)


_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_BODILESS = {HTTPStatus.NO_CONTENT.value, HTTPStatus.NOT_MODIFIED.value}


_JOINED_BYTES = 32 * 1024
"""Up to here it is cheaper to copy a body than to send it by itself."""


@dataclass(slots=True)
class Outgoing:
    """An answer as it goes over the wire; a small body is already part of its head."""

    head: bytes = b""
    body: Content | None = None
    size_bytes: int = 0
    """Of the body, wherever it is."""
    operation: str = ""
    """What it is the answer to."""


def encode(answer: Answer, operation: str = "", head_only: bool = False, *, half: bool = False) -> Outgoing:
    """Return an answer as it goes over the wire, without its body if ``head_only``, with half of it if ``half``."""
    body = answer.body
    size = len(body) if isinstance(body, bytes) else body.size_bytes
    lines = [f"{name}: {value}\r\n" for name, value in answer.headers.items()]
    if answer.status in _BODILESS:
        head_only = True
    else:
        lines.append(f"Content-Length: {size}\r\n")
    head = f"{_STATUS_LINES[answer.status]}{''.join(lines)}\r\n".encode("latin-1")
    if head_only or not size:
        return Outgoing(head, operation=operation)
    if half:
        size //= 2
        body = body[:size] if isinstance(body, bytes) else body.cut(0, size)
    if isinstance(body, Content) and size > _JOINED_BYTES:
        return Outgoing(head, body, size, operation)
    return Outgoing(head + bytes(body), None, size, operation)
