"""
Small objects, moved many at once by few threads.

A crew is a thread that has many requests under way at the same time, so what costs time is the processor and not the
waiting, and one crew is enough unless the local disk is slow. What an object comes to is told to the event loop every
now and then, in portions. An object whose request fails for the moment is left for the next round, when all others have
had their turn; a round in which nothing succeeds is followed by a pause.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from asyncstore._core.concurrency import for_each
from asyncstore._core.retry import retrying
from asyncstore.catalog._local._disk import LocalTurns, mean_bytes
from asyncstore.catalog._moving._lane import PATIENCE
from asyncstore.catalog._moving._tally import HOPELESS, FileError
from asyncstore.catalog._plan import Sized
from asyncstore.errors import AsyncStoreError, UnavailableError
from asyncstore.objects.small import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from asyncstore._core.traffic import Charge
    from asyncstore.catalog._moving._lane import Passage
    from asyncstore.catalog._moving._shares import Share
    from asyncstore.catalog._moving._tally import Tally
    from asyncstore.objects.small import SmallObjects, SmallVerb

__all__ = ["Hands", "SmallMoves", "move_small"]

MOST_CREWS = 8

TELL_S = 0.02
"""How often the loop is told what has become of objects: each time it interrupts the crews."""

PORTION = 256
"""What the loop takes note of at a time, before it does something else."""

STREAK = 8
"""So many failures for the moment, one after another, end a round: the storage is not there."""


S = TypeVar("S", bound=Sized)
D = TypeVar("D")
S_contra = TypeVar("S_contra", contravariant=True)
D_co = TypeVar("D_co", covariant=True)

Outcome: TypeAlias = "D | AsyncStoreError | FileError"
"""What came of an object: done, refused by the storage, or failed on the local side."""


class Hands(Protocol[S_contra, D_co]):
    """Moves small objects in one thread."""

    def begin(self, item: S_contra, /) -> SmallVerb | FileError:
        """Make an object ready, and return what to ask of the storage."""
        ...

    def end(self, item: S_contra, verb: Any, answer: Any, /) -> D_co | AsyncStoreError | FileError:
        """Take what the storage answers."""
        ...


@dataclass(frozen=True)
class SmallMoves(Generic[S, D]):
    """How small objects are moved."""

    hands: Callable[[SmallObjects], AbstractContextManager[Hands[S, D]]]
    """Gives what moves some of them, in a thread."""
    note: Callable[[S, D], None]
    """Takes note on the loop of one that was moved."""
    name_of: Callable[[S], str]
    """What an object is called in the tally."""
    charge: Callable[[int, int], Charge]
    """What a request with a payload, which holds some memory, takes of the budget."""
    key_written: Callable[[S], str] | None = None
    """The key that moving an object writes, if it does."""


async def move_small(moves: SmallMoves[S, D], items: Sequence[S], passage: Passage, tally: Tally) -> None:
    """
    Move small objects; failures are in the tally.

    Raises:
        AsyncStoreError: what stops all of them.
    """
    state = _State(deque(items))
    while state.waiting:
        try:
            await retrying(partial(_fruitful_round, moves, state, passage, tally), PATIENCE)
        except _HopelessError as error:
            raise error.cause from error.cause.__cause__
        except UnavailableError:
            if not tally.settled or len(state.waiting) >= STREAK:
                raise
            # The others are done, so it is nothing but these.
            for item in state.waiting:
                name = moves.name_of(item)
                tally.fail(name, state.failures[name][0])
            return


class _HopelessError(Exception):
    """What stops all, on its way past those who would try it again."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass
class _State(Generic[S]):
    """What is still to be moved."""

    waiting: deque[S]
    moved: int = 0
    failures: dict[str, tuple[UnavailableError, int]] = field(default_factory=dict)
    """Of those that have failed for the moment, by name: why, and how often."""


async def _fruitful_round(moves: SmallMoves[S, D], state: _State[S], passage: Passage, tally: Tally) -> None:
    """Do a round; raises if objects failed for the moment and none was moved."""
    mark, waiting = state.moved, state.waiting
    this_round = _Round(moves, state, passage, tally)
    try:
        await this_round.run()
    finally:
        waiting.extend(this_round.again)
    if this_round.again and state.moved == mark:
        raise state.failures[moves.name_of(this_round.again[-1])][0]


class _Round(Generic[S, D]):
    """Every object that waits is tried once, unless the storage is not there."""

    def __init__(self, moves: SmallMoves[S, D], state: _State[S], passage: Passage, tally: Tally) -> None:
        self._moves = moves
        self._state = state
        self._passage = passage
        self._tally = tally
        self._loop = asyncio.get_running_loop()
        self._outcomes: deque[tuple[S, Outcome[D]]] = deque()
        self._telling = False
        self._told_s = time.monotonic()
        self._streak = 0
        self._halted = False
        self._error: BaseException | None = None
        mean = mean_bytes(state.waiting)
        self._charge = moves.charge(mean, mean)
        self._turns = LocalTurns(MOST_CREWS, mean)
        self.again: list[S] = []
        """What failed for the moment."""

    async def run(self) -> None:
        """Do it."""
        await for_each(self._crew, range(MOST_CREWS), limit=MOST_CREWS)
        if self._error is not None:
            raise _HopelessError(self._error)

    async def _crew(self, _: int) -> None:
        more = True
        while more:
            async with self._turns.turn():
                more = bool(self._state.waiting) and not self._halted
                if more:
                    await self._volley()

    async def _volley(self) -> None:
        moves = self._moves
        async with self._passage.share(self._state.waiting, self._charge, threads=self._turns.threads) as share:
            writes = map(moves.key_written, list(share.items)) if moves.key_written else ()
            try:
                await self._passage.lane.store.together(partial(self._work, share), writes=writes)
            finally:
                self._take_note(len(self._outcomes))

    def _work(self, share: Share[S], objects: SmallObjects) -> None:
        with self._moves.hands(objects) as hands:
            objects.run(self._jobs(share, hands), share.at_once)

    def _jobs(self, share: Share[S], hands: Hands[S, D]) -> Iterator[Job]:
        window = self._passage.lane.window
        while not (self._halted or share.over()):
            try:
                item = share.items.popleft()
            except IndexError:
                return
            began_s = time.perf_counter()
            verb = hands.begin(item)
            self._turns.worked(time.perf_counter() - began_s)
            number = window.begin()
            if isinstance(verb, FileError):
                self._settle(item, verb, number)
                continue
            share.take(item.size_bytes)
            yield Job(verb, partial(self._answered, share, hands, item, verb, number))

    def _answered(
        self, share: Share[S], hands: Hands[S, D], item: S, verb: SmallVerb, number: int, answer: Any
    ) -> None:
        share.give_back(item.size_bytes)
        if not isinstance(answer, AsyncStoreError):
            began_s = time.perf_counter()
            answer = hands.end(item, verb, answer)
            self._turns.worked(time.perf_counter() - began_s)
        self._settle(item, answer, number)

    def _settle(self, item: S, outcome: Outcome[D], number: int) -> None:
        """Note what came of an object, in a crew's thread."""
        if isinstance(outcome, UnavailableError):
            self._streak += 1
            if outcome.throttled:
                # At once, or as many again would be refused before the loop hears of it.
                self._passage.lane.window.refused(number)
            self._halted = self._halted or self._streak >= max(STREAK, self._passage.lane.workers)
        elif isinstance(outcome, HOPELESS) or (isinstance(outcome, FileError) and outcome.concerns_all):
            self._halted = True
        else:
            self._streak = 0
        self._outcomes.append((item, outcome))
        now_s = time.monotonic()
        if not self._telling and now_s - self._told_s > TELL_S:
            self._telling = True
            self._told_s = now_s
            self._loop.call_soon_threadsafe(self._told)

    def _told(self) -> None:
        self._telling = False
        self._take_note(PORTION)
        if self._outcomes and not self._telling:
            self._telling = True
            self._loop.call_soon(self._told)
        self._turns.look()

    def _take_note(self, most: int) -> None:
        """Note on the loop what came of objects."""
        window, moved = self._passage.lane.window, 0
        for _ in range(min(most, len(self._outcomes))):
            item, outcome = self._outcomes.popleft()
            if isinstance(outcome, UnavailableError):
                self._fail_for_now(item, outcome)
                continue
            moved += 1
            try:
                # By hand, as a context manager for each takes longer than all else here.
                try:
                    if isinstance(outcome, AsyncStoreError | FileError):
                        raise outcome
                    self._moves.note(item, outcome)
                except (AsyncStoreError, FileError) as error:
                    self._tally.fail_alone(self._moves.name_of(item), error)
            except BaseException as error:
                self._halted = True
                self._error = self._error or error
        if moved:
            self._state.moved += moved
            window.served(moved)

    def _fail_for_now(self, item: S, error: UnavailableError) -> None:
        failures, name = self._state.failures, self._moves.name_of(item)
        tries = 1 + (failures[name][1] if name in failures else 0)
        if not error.throttled and PATIENCE.attempts is not None and tries >= PATIENCE.attempts and self._tally.settled:
            self._tally.fail(name, error)
            return
        failures[name] = error, tries
        self._tally.retry()
        self.again.append(item)
