"""What goes in and out: a request, an answer, an error, and how the server as a whole behaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal

__all__ = ["Answer", "Behaviour", "Request", "S3Error", "encode"]


@dataclass(slots=True)
class Behaviour:
    """How the server behaves towards every request; each field can be changed while it runs."""

    latency_s: float = 0.0
    """Time added to each request: half of it before the server acts, half before the answer goes out."""

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
    """``random`` gives each write another ETag, as with encryption by customers' keys."""

    metadata: Literal["kept", "dropped", "renamed"] = "kept"
    """``renamed`` gives names of user metadata back in underscores."""

    ranges: Literal["honoured", "plain", "ignored"] = "honoured"
    """``plain`` sends the range with status 200, as rclone does; ``ignored`` sends the whole object."""

    checksums: Literal["checked", "ignored", "refused"] = "checked"
    """What becomes of ``Content-MD5`` and ``x-amz-checksum-crc32``; ``refused`` is 501 to any of them, even right."""

    bare_listing_etags: bool = False
    """Leave the quotes off ETags in listings, as rclone does."""

    discards: bool = False
    """Keep each object's size, ETag and metadata, and none of its bytes: it reads as zeros."""

    denied: list[str] = field(default_factory=list)
    """Access keys that get 403 for everything."""

    read_only: list[str] = field(default_factory=list)
    """Access keys that get 403 for everything but reading and listing."""

    denied_operations: list[str] = field(default_factory=list)
    """Operations that get 403 from everybody, such as ``HeadObject``."""

    writable: str = ""
    """A regular expression that is to be found in the keys of writes, which get 403 otherwise."""


@dataclass(slots=True)
class Request:
    """A whole request; ``bucket`` and ``key`` are empty where the path names none."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    bucket: str = ""
    key: str = ""
    operation: str = ""
    """The name that S3 has for it, such as ``PutObject``."""

    def __post_init__(self) -> None:
        self.bucket, _, self.key = self.path[1:].partition("/")

    @property
    def access_key(self) -> str:
        """Who asks, by their own account; signatures are not checked."""
        _, _, credential = self.headers.get("authorization", "").partition("Credential=")
        return credential.partition("/")[0]


@dataclass(slots=True)
class Answer:
    """A whole answer."""

    status: int = 200
    body: bytes = b""
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


def encode(answer: Answer, *, head_only: bool = False) -> bytes:
    """Return an answer as it goes over the wire, without its body if ``head_only``."""
    lines = [f"{name}: {value}\r\n" for name, value in answer.headers.items()]
    if answer.status in _BODILESS:
        head_only = True
    else:
        lines.append(f"Content-Length: {len(answer.body)}\r\n")
    head = f"{_STATUS_LINES[answer.status]}{''.join(lines)}\r\n".encode("latin-1")
    return head if head_only else head + answer.body
