"""Both sides compared: what is the same, found out with as little work as what is known allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import both
from asyncstore._core.threads import in_thread
from asyncstore.catalog._decide import Sides
from asyncstore.catalog._digests import local_digests
from asyncstore.catalog._pairs import PAIRS_AT_ONCE
from asyncstore.objects.listed import ETAG, KEY, SIZE, Listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.catalog._decide import Doubts
    from asyncstore.catalog._found import Found
    from asyncstore.catalog._known import Known
    from asyncstore.catalog._lane import Lane
    from asyncstore.catalog._local import LocalFiles
    from asyncstore.catalog._pairs import Same

__all__ = ["LastTime", "compared"]

_NEWS = 10
"""What was the same is written anew where one in so many has come to it."""


async def compared(lane: Lane, doubts: Doubts) -> Sides:
    """Return the digests of what is doubtful."""
    if not doubts.files:
        return Sides()
    local, remote = await both(lambda: local_digests(doubts.files, lane.known), lambda: lane.digests(doubts.objects))
    return Sides(local=local, remote=remote)


@dataclass(frozen=True, slots=True)
class LastTime:
    """
    What was the same when the same was compared the last time, where there is much.

    Args:
        lane: remembers it.
        pair: what is compared, see :func:`asyncstore.catalog._pairs.pair_of`.
        files: one side.
        objects: the other.
    """

    lane: Lane
    pair: str
    files: LocalFiles
    objects: Found

    async def same(self) -> tuple[Same, LocalFiles]:
        """Return what was the same and has not changed, and the other files."""
        known = self.lane.known
        if known is None or min(len(self.files), len(self.objects.rows)) < PAIRS_AT_ONCE:
            return {}, self.files
        same = await in_thread(known.same_as_before, self.pair, self.files, self.objects)
        return same, await in_thread(self.files.without, same) if same else self.files

    async def remember(self, before: Same, same: Same) -> None:
        """Remember what is the same now, if it is much more than before."""
        known, listed = self.lane.known, self.objects.rows
        least = max(PAIRS_AT_ONCE, len(same) // _NEWS)
        if known is None or len(same) - len(before) < least:
            return
        news = [name for name in same if name not in before and name in listed and listed[name][ETAG]]
        if len(news) >= least:
            await in_thread(self._remember, known, before, news, least)

    def _remember(self, known: Known, before: Same, news: Sequence[str], least: int) -> None:
        listed = self.objects.rows
        digests = known.digests_of(self.files.some(news))
        # Of what was listed, and not of what has replaced it since: that may be the same as the file, too.
        stored = known.digests_at(self.lane.place, Listed([listed[name] for name in news]))
        same = {
            name: (listed[name][SIZE], digest)
            for name, digest in digests.items()
            if stored.get(listed[name][KEY]) == digest
        }
        if len(same) >= least:
            known.remember_same(self.pair, before | same, self.files, self.objects)
