"""Objects of all sizes moved side by side: small ones many at once, large ones each for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from asyncstore._core.concurrency import both, for_each
from asyncstore.catalog._crew import move_small
from asyncstore.catalog._plan import SMALL_BYTES, Sized

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from asyncstore.catalog._crew import SmallMoves
    from asyncstore.catalog._lane import Passage
    from asyncstore.catalog._tally import Tally

__all__ = ["LARGE_AT_ONCE", "Mover"]

LARGE_AT_ONCE = 4
"""Large objects on their way at the same time; each has many parts or ranges on its way."""

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
        large = sorted((item for item in items if item.size_bytes > SMALL_BYTES), key=lambda item: -item.size_bytes)
        small = [item for item in items if item.size_bytes <= SMALL_BYTES]
        await both(
            lambda: for_each(self._one_large, large, limit=max(1, min(LARGE_AT_ONCE, len(large)))),
            lambda: move_small(self.small, small, self.passage, self.tally),
        )

    async def _one_large(self, item: S) -> None:
        with self.tally.failing(self.small.name_of(item)):
            await self.move_large(item)
