"""
Listings of objects.

Where a run with many files has not changed, to read its listing is most of the work. So objects that are described in
the words that most servers use are not read as XML, only what stands around them; any others are.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_plus

from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore.objects._obstore import canonical_etag
from asyncstore.objects._s3._messages import answered, next_page
from asyncstore.objects._s3._requests import Request
from asyncstore.objects.base import check_key
from asyncstore.objects.listed import Listed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from xml.etree import ElementTree as ET

    from asyncstore.objects._large._uploads import Run
    from asyncstore.objects._s3._wire import Sender
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
    folders: list[str]
    """Those that were asked for instead of what is in them; each ends in a slash."""
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
        asked = _asked(self.prefix)
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

    async def folders(self, folder: str, after: str) -> list[str]:
        """Return what folders are directly in a folder, up to a thousand of those behind a key, in a single attempt."""
        asked = {**_asked(folder), "delimiter": "/", "start-after": after}
        return (await self._ask(Request("GET", "", self.what, asked))).folders

    async def _page(self, request: Request) -> Page:
        return await retrying(lambda: self._ask(request), self.retry)

    async def _ask(self, request: Request) -> Page:
        def ask(sender: Sender) -> Page:
            return objects_page(sender.send(request).body, self.what)

        return await self.run("list", self.prefix, ask)


def _asked(prefix: str) -> dict[str, str]:
    return {"list-type": "2", "prefix": prefix, "max-keys": PAGE, "encoding-type": "url"}


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
    folders = _decoded([_said(item, "Prefix") for item in root.iterfind("{*}CommonPrefixes")], encoded=encoded)
    return Page(Listed(rows), keys, folders, _following(root, keys))


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
