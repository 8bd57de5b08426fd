"""Objects of all sizes moved side by side: small ones many at once, larger ones each for itself."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from asyncstore._core.concurrency import for_each, side_by_side
from asyncstore.catalog._moving._crew import move_small
from asyncstore.catalog._plan import BULKY_BYTES, RANGE_BYTES, SMALL_BYTES, Sized

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from asyncstore.catalog._moving._crew import SmallMoves
    from asyncstore.catalog._moving._lane import Passage
    from asyncstore.catalog._moving._tally import Tally

__all__ = ["Mover"]

LARGE_AT_ONCE = 4
"""Large objects on their way at the same time; each has many parts or ranges on its way."""

MEDIUM_AT_ONCE = 16
"""Objects on their way at the same time that take one request each, but too much memory to go whole."""

S = TypeVar("S", bound=Sized)
D = TypeVar("D")


@dataclass(frozen=True)
class Mover(Generic[S, D]):
    """How objects of one transfer are moved; failures are in the tally."""

    passage: Passage
    tally: Tally
    small: SmallMoves[S, D]
    move_large: Callable[[S], Awaitable[None]]
    """Moves a large one and takes note of it."""

    async def run(self, items: Sequence[S]) -> None:
        """Move all."""
        tiny, small, medium, large = _by_size(items)
        await side_by_side(
            lambda: self._each(large, LARGE_AT_ONCE),
            lambda: self._each(medium, MEDIUM_AT_ONCE),
            lambda: self._many(small),
            lambda: self._many(tiny),
        )

    async def _each(self, items: Sequence[S], most: int) -> None:
        await for_each(self._one, items, limit=max(1, min(most, len(items))))

    async def _many(self, items: Sequence[S]) -> None:
        await move_small(self.small, items, self.passage, self.tally)

    async def _one(self, item: S) -> None:
        with self.tally.failing(self.small.name_of(item)):
            await self.move_large(item)


def _by_size(items: Sequence[S]) -> tuple[list[S], list[S], list[S], list[S]]:
    """Return tiny, small, medium and large objects, the largest of the latter two first: they take longest."""
    limits = (BULKY_BYTES - 1, SMALL_BYTES, RANGE_BYTES)
    classes: tuple[list[S], list[S], list[S], list[S]] = ([], [], [], [])
    for item in items:
        classes[bisect_left(limits, item.size_bytes)].append(item)
    for larger in classes[2:]:
        larger.sort(key=lambda item: -item.size_bytes)
    return classes
