"""Everything that a listing holds, by ranges of keys that are asked for at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_right
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import both, map_bounded
from asyncstore._core.threads import in_thread
from asyncstore.errors import AsyncStoreError, ConfigurationError
from asyncstore.objects._listing._cuts import cuts_between, folders_around
from asyncstore.objects.listed import KEY, Listed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from asyncstore.objects._listing._pages import Listing, Page
    from asyncstore.objects.listed import Row

__all__ = ["listed_at_once"]

AT_ONCE = 8
"""Most requests at the same time; there may be more ranges that wait for their turn."""

PATIENCE = 2
"""So many pages of a range that is one of several are waited for, before it is cut again..."""

KNOWN_PATIENCE = 16
"""... and of one that was known before, which has more only if much was added since."""


async def listed_at_once(listing: Listing, cuts: Sequence[str] = ()) -> Listed:
    """
    Return all objects of a listing.

    Ranges end with ``cuts``, or else, where there are more than a page, between folders.
    """
    ranges = _Ranges(listing)
    rows = await ranges.rows("", cuts, "", KNOWN_PATIENCE if cuts else 1)
    if rows is None or not await in_thread(_holds, rows, ranges.beyond):
        # The server does not list in order of keys, or not from where it is told: ranges say nothing there.
        rows = [row async for page in listing.objects() for row in page.rows]
    return Listed(rows)


class _Ranges:
    """
    The ranges of one listing.

    Args:
        listing: it.
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._under_way = 1
        self.beyond: list[Row] = []
        """What pages showed behind the ends of their ranges: that is the next ranges' to find."""

    async def rows(self, after: str, cuts: Sequence[str], last: str, patience: int) -> list[Row] | None:
        """
        Return what lies behind one key, up to another one if that is given; ``None`` if it came in no order.

        It is cut into ranges, and each of these again if there is more than ``patience`` pages of it.
        """
        self._under_way += len(cuts)

        async def between(ends: tuple[str, str]) -> list[Row] | None:
            return await self._between(*ends, patience)

        ends = list(zip([after, *cuts], [*cuts, last], strict=True))
        rows: list[Row] = []
        for part in await map_bounded(between, ends, limit=len(ends)):
            if part is None:
                return None
            rows += part
        return rows

    async def _between(self, start: str, last: str, patience: int) -> list[Row] | None:
        found: list[Row] = []
        cuts: list[str] = []
        after, count, in_order = start, 1, True
        async with contextlib.aclosing(self._listing.pages(start)) as pages:
            try:
                page = await self._next(pages)
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
                self.beyond += page.objects.rows[inside:]
                if keys and last and keys[-1] >= last:
                    break
                after = keys[-1] if keys else after
                if cuts := [cut for cut in cuts if cut > after]:
                    rest = await self.rows(after, cuts, last, PATIENCE)
                    return None if rest is None else found + rest
                most = AT_ONCE - self._under_way + 1
                if in_order and most > 1 and count >= patience and keys and page.following is not None:
                    page, cuts = await both(partial(self._next, pages), partial(self._cuts, keys, last, most))
                    patience *= 2
                else:
                    page = await self._next(pages)
                count += 1
        self._under_way -= 1
        return found

    async def _next(self, pages: AsyncGenerator[Page, None]) -> Page | None:
        async with self._turns:
            return await anext(pages, None)

    async def _cuts(self, keys: Sequence[str], last: str, most: int) -> list[str]:
        """Return keys that cut what lies behind a page, in one folder or another, into so many ranges at most."""

        async def cuts_in(folder: str) -> list[str]:
            try:
                async with self._turns:
                    subfolders = await self._listing.folders(folder, keys[-1])
            except AsyncStoreError:
                # It only saves time. If it is not just this that is refused or fails, the next page tells.
                return []
            return cuts_between(folder, subfolders, keys, last, most=most)

        folders = folders_around(keys, self._listing.prefix)
        found = await map_bounded(cuts_in, folders, limit=len(folders)) if folders else []
        return sorted(chain.from_iterable(found))


def _holds(rows: Sequence[Row], some: Sequence[Row]) -> bool:
    missing = {row[KEY] for row in some}
    if missing:
        missing.difference_update(map(itemgetter(KEY), rows))
    return not missing
