"""Objects of all sizes moved side by side: small ones many in a hop to a thread, large ones each for itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from asyncstore._core.concurrency import both, for_each
from asyncstore.catalog._plan import SMALL_BYTES, batches
from asyncstore.catalog._tally import HOPELESS, FileError
from asyncstore.errors import AsyncStoreError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from asyncstore._core.traffic import Charge
    from asyncstore.catalog._lane import Passage
    from asyncstore.catalog._tally import Tally
    from asyncstore.objects.base import BlockingObjects

__all__ = ["LARGE_AT_ONCE", "REMEMBERED_AT_ONCE", "Mover", "Outcome"]

LARGE_AT_ONCE = 4
"""Large objects on their way at the same time; each has many parts or ranges on its way."""

REMEMBERED_AT_ONCE = 5000
"""Files that are noted in the cache together: few writes, and little is kept in memory until then."""

_REQUEST_BYTES = 64 * 1024
"""What a request holds besides its payload."""


class Sized(Protocol):
    """Something with a size."""

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        ...


S = TypeVar("S", bound=Sized)
D = TypeVar("D")

Outcome: TypeAlias = "D | AsyncStoreError | FileError"
"""What came of an object: done, refused by the storage, or failed on the local side."""


@dataclass(frozen=True)
class Mover(Generic[S, D]):
    """How objects of one transfer are moved; failures are in the tally."""

    passage: Passage
    tally: Tally
    name_of: Callable[[S], str]
    """What an object is called in the tally."""
    charge: Callable[[int, int], Charge]
    """What a request with a payload, which holds some memory, takes of the budget."""
    move: Callable[[S, BlockingObjects], Outcome[D]]
    """Moves a small object, in a thread."""
    note: Callable[[S, D], None]
    """Takes note of a small object that was moved."""
    move_large: Callable[[S], Awaitable[None]]
    """Moves a large one and takes note of it."""
    key_written: Callable[[S], str] | None = None
    """The key that moving a small object writes, if it does."""
    after_batch: Callable[[], Awaitable[None]] | None = None
    """Awaited after each batch of small objects."""

    async def run(self, items: Sequence[S]) -> None:
        """Move all."""
        large = sorted((item for item in items if item.size_bytes > SMALL_BYTES), key=lambda item: -item.size_bytes)
        small = [item for item in items if item.size_bytes <= SMALL_BYTES]
        workers = self.passage.lane.workers
        portions = batches(small, workers=workers)
        await both(
            lambda: for_each(self._one_large, large, limit=max(1, min(LARGE_AT_ONCE, len(large)))),
            lambda: for_each(self._batch, portions, limit=max(1, min(workers, len(small)))),
        )

    async def _one_large(self, item: S) -> None:
        with self.tally.failing(self.name_of(item)):
            await self.move_large(item)

    async def _batch(self, batch: Sequence[S]) -> None:
        while batch:
            outcomes = await self._together(batch)
            for item, outcome in zip(batch, outcomes, strict=False):
                await self._settle(item, outcome)
            # The storage was too busy for the rest.
            batch = batch[len(outcomes) :]
        if self.after_batch is not None:
            await self.after_batch()

    async def _together(self, batch: Sequence[S]) -> list[Outcome[D]]:
        largest = max(item.size_bytes for item in batch)
        # Bytes are there twice for a moment: here, and in the engine's request or answer.
        charge = self.charge(largest, 2 * largest + _REQUEST_BYTES)
        writes = [] if self.key_written is None else [self.key_written(item) for item in batch]
        payload = sum(item.size_bytes for item in batch)
        return await self.passage.together(partial(self._move_all, batch), charge, payload, writes=writes)

    def _move_all(self, batch: Sequence[S], objects: BlockingObjects) -> list[Outcome[D]]:
        """Move one object after another; ends early where the rest has no hope, or the storage is too busy for it."""
        outcomes: list[Outcome[D]] = []
        for item in batch:
            outcome = self.move(item, objects)
            outcomes.append(outcome)
            if isinstance(outcome, HOPELESS) or (isinstance(outcome, FileError) and outcome.concerns_all):
                break
        return outcomes

    async def _settle(self, item: S, outcome: Outcome[D]) -> None:
        with self.tally.failing(self.name_of(item)):
            if isinstance(outcome, UnavailableError):
                if outcome.throttled:
                    self.passage.throttled()
                outcome = await self.passage.patiently(partial(self._alone, item))
            if isinstance(outcome, AsyncStoreError | FileError):
                raise outcome
            self.note(item, outcome)

    async def _alone(self, item: S) -> D | FileError:
        [outcome] = await self._together([item])
        if isinstance(outcome, UnavailableError):
            self.tally.retry()
            if outcome.throttled:
                self.passage.throttled()
        if isinstance(outcome, AsyncStoreError):
            raise outcome
        return outcome
