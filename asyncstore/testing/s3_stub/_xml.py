"""The little XML that S3 needs."""

from __future__ import annotations

import re
from functools import lru_cache
from time import gmtime, strftime
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from asyncstore.testing.s3_stub._messages import Answer, S3Error

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["document", "http_date", "iso_date", "parse", "tag"]

_SPECIAL = re.compile('[&<>"\x00-\x1f\x7f]')
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_NAMES: dict[str, str] = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


def tag(name: str, text: object) -> str:
    """Return an element that holds only text; control characters go as references, as S3 sends them."""
    plain = str(text)
    return f"<{name}>{_SPECIAL.sub(_reference, plain) if _SPECIAL.search(plain) else plain}</{name}>"


def _reference(found: re.Match[str]) -> str:
    return _NAMES.get(found[0]) or f"&#{ord(found[0])};"


def document(root: str, content: str) -> Answer:
    """Return an answer with an XML document."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{_NAMESPACE}">{content}</{root}>'
    return Answer(200, body.encode(), {"Content-Type": "application/xml"})


def parse(body: bytes, path: str) -> list[Callable[[str], str]]:
    """
    Return, for each element at ``path`` below the root, a function that gives a child's text or ``""``.

    Raises:
        S3Error: it is not XML.
    """
    try:
        found = ET.fromstring(body).findall(path)
    except ET.ParseError as error:
        raise S3Error(400, "MalformedXML") from error
    # Clients differ in whether they name the namespace.
    return [lambda name, element=element: element.findtext(f"{{*}}{name}") or "" for element in found]  # type: ignore[misc]


@lru_cache(64)
def http_date(seconds: int) -> str:
    """Return a time as HTTP headers have it."""
    return strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime(seconds))


@lru_cache(64)
def iso_date(seconds: int) -> str:
    """Return a time as S3's XML has it."""
    return strftime("%Y-%m-%dT%H:%M:%S.000Z", gmtime(seconds))
