"""Both sides compared: what is the same, found out with as little work as what is known allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import both
from asyncstore._core.threads import in_thread
from asyncstore.catalog._cache._pairs import PAIRS_AT_ONCE
from asyncstore.catalog._local._digests import hashed
from asyncstore.catalog._planning._decide import Sides
from asyncstore.objects.listed import ETAG, KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore.catalog._cache._pairs import Same
    from asyncstore.catalog._local._files import LocalFiles
    from asyncstore.catalog._moving._lane import Lane
    from asyncstore.catalog._planning._decide import Doubts
    from asyncstore.catalog._planning._found import Found

__all__ = ["LastTime", "compared"]

_NEWS = 10
"""What was the same is written anew where one in so many has come to it."""


async def compared(lane: Lane, doubts: Doubts) -> tuple[Sides, Sides]:
    """
    Return the digests of what is doubtful, and those of them that need not be found out.

    The latter are remembered of files and objects just as they were seen and listed.
    """
    files, objects = doubts.files, doubts.objects

    async def of_files() -> tuple[Mapping[str, str], Mapping[str, str]]:
        known = {} if lane.known is None else await in_thread(lane.known.digests_of, files)
        if len(known) == len(files):
            return known, known
        return known, known | await hashed(await in_thread(files.without, known), lane.known)

    async def of_objects() -> tuple[Mapping[str, str], Mapping[str, str]]:
        known, rest = await in_thread(lane.at_hand, objects)
        return known, known | await lane.looked_up(rest) if rest else known

    if not files:
        return Sides(), Sides()
    (known_local, local), (known_remote, remote) = await both(of_files, of_objects)
    return Sides(local=local, remote=remote), Sides(local=known_local, remote=known_remote)


@dataclass(frozen=True, slots=True)
class LastTime:
    """
    What was the same when the same was compared the last time, where there is much.

    Args:
        lane: remembers it.
        pair: what is compared, see :func:`asyncstore.catalog._cache._pairs.pair_of`.
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

    async def remember(self, before: Same, same: Same, known: Sides) -> None:
        """
        Remember what is the same now, if it is much more than before.

        Args:
            before: what :meth:`same` returned.
            same: what is the same.
            known: digests of what was not the same before, without those that were found out just now: they may be of
                what has replaced a listed object since.
        """
        cache = self.lane.known
        least = max(PAIRS_AT_ONCE, len(same) // _NEWS)
        if cache is None or len(same) - len(before) < least:
            return
        news = await in_thread(self._remembered, before, same, known)
        if len(news) >= least:
            await in_thread(cache.remember_same, self.pair, before | news, self.files, self.objects)

    def _remembered(self, before: Same, same: Same, known: Sides) -> Same:
        listed = self.objects.rows
        return {
            name: said
            for name, said in same.items()
            if name not in before
            and name in known.local
            and (there := listed.get(name)) is not None
            and there[ETAG]
            and there[KEY] in known.remote
        }
