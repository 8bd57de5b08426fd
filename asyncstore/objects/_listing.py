"""
Listings of objects.

Where a run with many files has not changed, to read its listing is most of the work. So objects that are described in
the words that most servers use are not read as XML, only what stands around them; any others are.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_plus

from asyncstore._core.concurrency import both, map_bounded
from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore._core.threads import in_thread
from asyncstore.errors import AsyncStoreError, ConfigurationError
from asyncstore.objects._cuts import cuts_between, folders_around
from asyncstore.objects._messages import answered, next_page
from asyncstore.objects._obstore import canonical_etag
from asyncstore.objects._requests import Request
from asyncstore.objects.base import check_key
from asyncstore.objects.listed import KEY, Listed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from xml.etree import ElementTree as ET

    from asyncstore.objects._uploads import Run
    from asyncstore.objects._wire import Sender
    from asyncstore.objects.listed import Row

__all__ = ["Listing", "Page", "objects_page"]

PAGE = "1000"

AT_ONCE = 8
"""Most requests at the same time; there may be more ranges that wait for their turn."""

PATIENCE = 2
"""So many pages of a range that is one of several are waited for, before it is cut again..."""

KNOWN_PATIENCE = 16
"""... and of one that was known before, which has more only if much was added since."""

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


@dataclass(slots=True)
class _Line:
    """How much of a listing is asked for at the same time."""

    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    """Held by each request."""
    ranges: int = 1
    """How many are being listed."""
    beyond: list[Row] = field(default_factory=list)
    """What pages showed behind the ends of their ranges: that is the next ranges' to find."""


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
    line: _Line = field(default_factory=_Line, repr=False)

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

    async def at_once(self, cuts: Sequence[str] = ()) -> Listed:
        """
        Return all objects, by ranges of keys, which are asked for at the same time.

        They end with ``cuts``, or else, where there are more than a page, between folders.
        """
        rows = await self._ranges("", cuts, "", KNOWN_PATIENCE if cuts else 1)
        if rows is None or not await in_thread(_holds, rows, self.line.beyond):
            # The server does not list in order of keys, or not from where it is told: ranges say nothing there.
            rows = [row async for page in self.objects() for row in page.rows]
        return Listed(rows)

    async def _ranges(self, after: str, cuts: Sequence[str], last: str, patience: int) -> list[Row] | None:
        self.line.ranges += len(cuts)

        async def between(ends: tuple[str, str]) -> list[Row] | None:
            return await self._between(*ends, patience)

        ranges = list(zip([after, *cuts], [*cuts, last], strict=True))
        rows: list[Row] = []
        for part in await map_bounded(between, ranges, limit=len(ranges)):
            if part is None:
                return None
            rows += part
        return rows

    async def _between(self, start: str, last: str, patience: int) -> list[Row] | None:
        """
        Return what lies behind one key, up to another one if that is given; ``None`` if it came in no order.

        If there is more than ``patience`` pages of it, it is cut into ranges between folders.
        """
        found: list[Row] = []
        cuts: list[str] = []
        after, count, in_order = start, 1, True
        async with contextlib.aclosing(self.pages(start)) as pages:
            try:
                page = await anext(pages, None)
            except ConfigurationError:
                # Perhaps it lists from the start only; if it is something else, that will tell.
                if start:
                    return None
                raise
            while page is not None:
                keys = page.keys
                if keys and (keys[0] <= after or keys != sorted(keys)):
                    if start or last:
                        return None
                    in_order, cuts = False, []
                inside = bisect_right(keys, last) if last else len(keys)
                found += page.objects.rows[:inside]
                self.line.beyond += page.objects.rows[inside:]
                if keys and last and keys[-1] >= last:
                    break
                after = keys[-1] if keys else after
                if cuts := [cut for cut in cuts if cut > after]:
                    rest = await self._ranges(after, cuts, last, PATIENCE)
                    return None if rest is None else found + rest
                most = AT_ONCE - self.line.ranges + 1
                if in_order and most > 1 and count >= patience and keys and page.following is not None:
                    page, cuts = await both(lambda: anext(pages, None), partial(self._cuts, keys, last, most))
                    patience *= 2
                else:
                    page = await anext(pages, None)
                count += 1
        self.line.ranges -= 1
        return found

    async def _cuts(self, keys: Sequence[str], last: str, most: int) -> list[str]:
        """Return keys that cut what lies behind a page, in one folder or another, into so many ranges at most."""

        async def cuts_in(folder: str) -> list[str]:
            asked = {**_asked(folder), "delimiter": "/", "start-after": keys[-1]}
            try:
                page = await self._ask(Request("GET", "", self.what, asked))
            except AsyncStoreError:
                # It only saves time. If it is not just this that is refused or fails, the next page tells.
                return []
            return cuts_between(folder, page.folders, keys, last, most=most)

        folders = folders_around(keys, self.prefix)
        found = await map_bounded(cuts_in, folders, limit=len(folders)) if folders else []
        return sorted(chain.from_iterable(found))

    async def _page(self, request: Request) -> Page:
        return await retrying(lambda: self._ask(request), self.retry)

    async def _ask(self, request: Request) -> Page:
        def ask(sender: Sender) -> Page:
            return objects_page(sender.send(request).body, self.what)

        async with self.line.turns:
            return await self.run("list", self.prefix, ask)


def _holds(rows: Sequence[Row], some: Sequence[Row]) -> bool:
    missing = {row[KEY] for row in some}
    if missing:
        missing.difference_update(map(itemgetter(KEY), rows))
    return not missing


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
