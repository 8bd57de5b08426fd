"""
Listings of objects.

Where a run with many files has not changed, to read its listing is most of the work. So objects that are described in
the words that most servers use are not read as XML, only what stands around them; any others are.
"""

from __future__ import annotations

import contextlib
import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_plus

from asyncstore._core.concurrency import map_bounded
from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore.objects._messages import answered, next_page
from asyncstore.objects._obstore import canonical_etag
from asyncstore.objects._requests import Request
from asyncstore.objects.base import check_key
from asyncstore.objects.listed import Listed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from xml.etree import ElementTree as ET

    from asyncstore.objects._uploads import Run
    from asyncstore.objects._wire import Sender
    from asyncstore.objects.listed import Row

__all__ = ["Listing", "Page", "objects_page"]

PAGE = "1000"

_OBJECT = re.compile(
    r"<Contents><Key>([^<]*)</Key><LastModified>([^<]*Z)</LastModified><ETag>\"?([^<\"]*)\"?</ETag>"
    r"(?:<Checksum(?:Algorithm|Type)>[^<]*</Checksum(?:Algorithm|Type)>)*<Size>(\d+)</Size>"
    r"(?:<Owner>(?:<(?:ID|DisplayName)>[^<]*</(?:ID|DisplayName)>)*</Owner>)?"
    r"(?:<StorageClass>[^<]*</StorageClass>)?(?:<Owner>(?:<(?:ID|DisplayName)>[^<]*</(?:ID|DisplayName)>)*</Owner>)?"
    r"</Contents>"
)
_GROUPS = _OBJECT.groups + 1


class Page(NamedTuple):
    """Some objects of a listing."""

    objects: Listed
    keys: list[str]
    """Theirs, as the server has them: one that ends in a slash is a folder's marker, and is shown without it."""
    following: dict[str, str] | None
    """What asks for the next page, beside what asked for the first one; ``None`` if this is the last."""


@dataclass(frozen=True, slots=True)
class Listing:
    """
    Lists the objects of a bucket whose keys begin with a prefix.

    Args:
        run: makes the requests.
        prefix: empty, or ending in ``/``.
        what: what is asked and where, for errors.
        retry: how long to keep trying.
    """

    run: Run
    prefix: str
    what: str
    retry: RetryPolicy

    async def pages(self, after: str = "") -> AsyncGenerator[Page, None]:
        """Yield pages, of keys behind ``after`` if it is given; one of them may be empty."""
        asked = {"list-type": "2", "prefix": self.prefix, "max-keys": PAGE, "encoding-type": "url"}
        if after:
            asked["start-after"] = after
        marker: dict[str, str] | None = {}
        while marker is not None:
            page = await self._page(Request("GET", "", self.what, {**asked, **marker}))
            marker = next_page(marker, page.following, self.what)
            yield page

    async def objects(self) -> AsyncGenerator[Listed, None]:
        """Yield the objects of each page that has any."""
        async with contextlib.aclosing(self.pages()) as pages:
            async for page in pages:
                if page.keys:
                    yield page.objects

    async def at_once(self, cuts: Sequence[str]) -> Listed | None:
        """Return all objects, by ranges that end with these keys; ``None`` if the server does not list in order."""
        ranges = list(zip(["", *cuts], [*cuts, ""], strict=True))
        parts = await map_bounded(lambda ends: self._between(*ends), ranges, limit=len(ranges))
        if any(part is None for part in parts):
            return None
        return Listed([row for part in parts if part is not None for row in part])

    async def _between(self, after: str, last: str) -> list[Row] | None:
        """Return what lies behind one key, up to another one if that is given; ``None`` if it came in no order."""
        found: list[Row] = []
        async with contextlib.aclosing(self.pages(after)) as pages:
            async for page in pages:
                keys = page.keys
                if keys and (keys[0] <= after or keys != sorted(keys)):
                    return None
                count = bisect_right(keys, last) if last else len(keys)
                found += page.objects.rows[:count]
                if keys and last and keys[-1] >= last:
                    break
                after = keys[-1] if keys else after
        return found

    async def _page(self, request: Request) -> Page:
        def ask(sender: Sender) -> Page:
            return objects_page(sender.send(request).body, self.what)

        return await retrying(lambda: self.run("list", self.prefix, ask), self.retry)


def objects_page(body: bytes, what: str) -> Page:
    """
    Return what an answer says.

    Raises:
        UnsafePathError: a key is none of ours; see :func:`check_key`.
        AsyncStoreError: as :func:`answered` raises.
    """
    pieces = _pieces(body)
    root = answered("".join(pieces[::_GROUPS]).encode() or body, what)
    encoded = _said(root, "EncodingType") == "url"
    if not pieces or root.find("{*}Contents") is not None:
        root = answered(body, what)
        keys, rows = _read_as_xml(root, encoded=encoded)
    else:
        keys = _decoded(pieces[1::_GROUPS], encoded=encoded)
        etags = [f'"{etag}"' if etag else "" for etag in pieces[3::_GROUPS]]
        # Most objects of a page are as old as others of it.
        date_of = {text: datetime.fromisoformat(text) for text in set(pieces[2::_GROUPS])}
        dates = map(date_of.__getitem__, pieces[2::_GROUPS])
        rows = list(zip(_plain(keys), map(int, pieces[4::_GROUPS]), etags, dates, strict=True))
    return Page(Listed(rows), keys, _following(root, keys))


def _pieces(body: bytes) -> list[str]:
    """Return what stands around objects, with what each of them says in between; nothing if that is not plain."""
    try:
        text = body.decode().replace("&quot;", '"')
    except UnicodeDecodeError:
        return []
    # References, line ends and sections are XML's to read.
    return [] if "&" in text or "\r" in text or "<!" in text else _OBJECT.split(text)


def _read_as_xml(root: ET.Element, *, encoded: bool) -> tuple[list[str], list[Row]]:
    items = root.findall("{*}Contents")
    keys = _decoded([_said(item, "Key") for item in items], encoded=encoded)
    sizes = (int(_said(item, "Size") or 0) for item in items)
    etags = (canonical_etag(_said(item, "ETag")) for item in items)
    dates = (_date(_said(item, "LastModified")) for item in items)
    return keys, list(zip(_plain(keys), sizes, etags, dates, strict=True))


def _decoded(said: list[str], *, encoded: bool) -> list[str]:
    return list(map(unquote_plus, said)) if encoded and any("%" in key or "+" in key for key in said) else said


def _plain(keys: list[str]) -> list[str]:
    """Return keys as we have them."""
    joined = f"/{'/'.join(keys)}/"
    if "//" in joined or "/." in joined or not joined.isprintable():
        return [check_key(key.removeprefix("/").removesuffix("/")) for key in keys]
    return keys


def _following(root: ET.Element, keys: Sequence[str]) -> dict[str, str] | None:
    if _said(root, "IsTruncated").lower() != "true":
        return None
    if token := _said(root, "NextContinuationToken"):
        return {"continuation-token": token}
    return {"start-after": keys[-1]} if keys else None


def _said(element: ET.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}") or ""


def _date(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
