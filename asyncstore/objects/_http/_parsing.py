"""What stands at the head of an answer, and where its body ends (RFC 9112, sections 4 to 6). Pure."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CHUNKED", "UNTIL_CLOSED", "Head", "MalformedError", "body_bytes", "parse_head"]

UNTIL_CLOSED = -1
CHUNKED = -2

_BODILESS = {204, 304}
_MOST_DIGITS = 18


class MalformedError(Exception):
    """What came is no HTTP/1."""


class Head(NamedTuple):
    """An answer without its body."""

    status: int
    headers: dict[str, str]
    """Under names in lower case; those that came more than once are joined by commas."""
    lasting: bool
    """Whether the connection may be used again afterwards."""


def parse_head(raw: bytes) -> Head:
    """
    Return what the lines say of which ``raw`` consists, without the empty one at their end.

    Raises:
        MalformedError: they are none of an answer.
    """
    first, *lines = raw.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (status.isascii() and status.isdigit() and len(status) == 3):
        raise MalformedError(f"the answer does not begin like HTTP: {first[:100]!r}")
    if rest[3:4] not in ("", " "):
        raise MalformedError(f"the answer has a status that is none: {first[:100]!r}")
    # Some would take them for the ends of lines: what is a header must not depend on who reads it.
    if raw.count(b"\n") != len(lines) or raw.count(b"\r") != len(lines) or b"\0" in raw:
        raise MalformedError("the answer holds control characters where there must be none")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name[-1].isspace() or name[0].isspace():
            raise MalformedError(f"the answer holds a line that is no header: {line[:100]!r}")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    said = headers.get("connection", "").lower()
    lasting = "close" not in said if version == "HTTP/1.1" else "keep-alive" in said
    if "transfer-encoding" in headers and headers.pop("content-length", None) is not None:
        # Somebody on the way may have gone by the length, and what follows may be anything.
        lasting = False
    return Head(int(status), headers, lasting)


def body_bytes(method: str, head: Head) -> int:
    """
    Return how many bytes follow, or :data:`CHUNKED`, or :data:`UNTIL_CLOSED`.

    Raises:
        MalformedError: the headers do not say it clearly.
    """
    if method == "HEAD" or head.status in _BODILESS:
        return 0
    coding = head.headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked":
            raise MalformedError(f"the answer has a transfer coding that is not known: {coding[:100]!r}")
        return CHUNKED
    said = head.headers.get("content-length")
    if said is None:
        return UNTIL_CLOSED
    if not (said.isascii() and said.isdigit() and len(said) <= _MOST_DIGITS):
        raise MalformedError(f"the answer has a length that is none: {said[:100]!r}")
    return int(said)
