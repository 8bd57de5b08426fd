"""Both sides compared: what is the same, found out with as little work as what is known allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import both
from asyncstore._core.threads import in_thread
from asyncstore.catalog._decide import Sides
from asyncstore.catalog._digests import local_digests
from asyncstore.catalog._pairs import PAIRS_AT_ONCE

if TYPE_CHECKING:
    from asyncstore.catalog._decide import Doubts
    from asyncstore.catalog._found import Found
    from asyncstore.catalog._lane import Lane
    from asyncstore.catalog._pairs import Same
    from asyncstore.catalog._scan import LocalFiles

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
        known, news = self.lane.known, len(same) - len(before)
        if known is not None and news >= max(PAIRS_AT_ONCE, len(same) // _NEWS):
            await in_thread(known.remember_same, self.pair, same, self.files, self.objects)
