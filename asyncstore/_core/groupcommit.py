"""
Group commit without a timer: while one commit is in flight, arrivals queue; the next commit takes them all.

An idle committer commits a lone item at once, and under load each item costs one share of a commit.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from asyncstore._core.concurrency import shielded
from asyncstore.errors import ClosedError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from asyncstore._core.pace import Pace

__all__ = ["GroupCommitter"]

T = TypeVar("T")
R = TypeVar("R")

FINISH_DEADLINE_S = 10.0
"""How long a cancelled :meth:`GroupCommitter.aclose` lets the commit in flight go on before it cancels that too."""


class GroupCommitter(Generic[T, R]):
    """
    Awaited items, committed in batches by one task that the committer owns.

    The task exists only while there is work. Batches are committed one after the other, items in the order they were
    submitted.

    With ``inline`` the caller who finds the committer idle commits its item itself, and the task begins where others
    have come meanwhile: that saves a lone item two turns of the loop. Such a commit is cancelled with its caller.

    Args:
        commit: commits one batch and returns, item for item, its result or the exception that this item's caller is to
            get. If it raises, every caller of the batch gets that error, unless ``splits`` says otherwise.
        batch_limit: most items of one batch.
        weigh: says how heavy an item is; without it items weigh nothing.
        weight_limit: a batch ends before the item that would make it heavier than this; one item may be heavier alone.
        splits: tells of an error that ``commit`` raised whether one item of the batch may be to blame. Then nothing of
            the batch may have been committed, and its halves are committed on their own, until only the callers of the
            items to blame get the error: for one such item among n that takes at most 2·log2(n)+1 further commits.
        before: awaited before each batch is gathered, so that what comes meanwhile goes along; it must not raise. The
            batch may be empty then, if its callers have all been cancelled.
        inline: whether a lone item is committed by its caller; ``commit`` must bear being cancelled then.
        pace: finds out whether callers are told in two halves, so that one half is committed while the other works;
            without it all are told at once, and what they come back with is one batch.
        on_idle: called each time when nothing is pending or being committed any more.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        batch_limit: int = 1000,
        weigh: Callable[[T], int] | None = None,
        weight_limit: int = 0,
        splits: Callable[[Exception], bool] | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
        inline: bool = False,
        pace: Pace | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        self._commit = commit
        self._batch_limit = batch_limit
        self._weigh = weigh
        self._weight_limit = weight_limit
        self._splits = splits
        self._before = before
        self._inline = inline
        self._pace = pace
        self._led: asyncio.Future[None] | None = None
        self._on_idle = on_idle
        self._pending: dict[asyncio.Future[R], T] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<GroupCommitter {len(self._pending)} pending{', committing' if self.busy else ''}>"

    @property
    def busy(self) -> bool:
        """Whether items are pending or being committed."""
        return bool(self._pending) or self._led is not None or (self._task is not None and not self._task.done())

    async def submit(self, item: T) -> R:
        """
        Return the item's result once a batch that holds it is committed.

        A caller cancelled before its batch starts is taken out of it; afterwards the item is committed all the same,
        unless its caller commits it.

        Raises:
            ClosedError: the committer takes no more items, or was closed before the item's turn came.
            OutcomeUnknownError: the commit was broken off.
        """
        if self._closed:
            raise ClosedError("the store is closing: no further writes are taken")
        if self._inline and not self.busy:
            return await self._lead(item)
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._pending[future] = item
        self._start()
        try:
            return await future
        except asyncio.CancelledError:
            self._pending.pop(future, None)
            raise

    async def _lead(self, item: T) -> R:
        self._led = asyncio.get_running_loop().create_future()
        try:
            (outcome,) = await self._commit([item])
        finally:
            led, self._led = self._led, None
            led.set_result(None)
            self._start()
            self._rest()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _start(self) -> None:
        if self._pending and self._led is None and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._drain())
            self._task.add_done_callback(self._drained)

    def _rest(self) -> None:
        if not self.busy and self._on_idle is not None:
            self._on_idle()

    async def aclose(self) -> None:
        """
        Take no more items and wait until those taken are committed.

        If the caller is cancelled meanwhile, only the batch in flight is still committed, and no task is left.
        """
        self._closed = True
        try:
            while self.busy:
                current = self._led or self._task
                assert current is not None, "what is pending is being committed"
                await asyncio.wait([current])
        except asyncio.CancelledError:
            await shielded(self._break_off())
            raise

    async def _break_off(self) -> None:
        self._refuse_pending()
        if self._task is None or self._task.done():
            return
        _, late = await asyncio.wait([self._task], timeout=FINISH_DEADLINE_S)
        for task in late:
            task.cancel()
            await asyncio.wait([task])

    async def _drain(self) -> None:
        batch: dict[asyncio.Future[R], T] = {}
        untold: dict[asyncio.Future[R], R | Exception] = {}
        try:
            while self._pending:
                if self._before is not None:
                    await self._before()
                batch = self._take()
                # Those told now come back with their next items while this batch is being committed.
                _settle(untold)
                outcomes, _ = await self._outcomes(list(batch.values()))
                untold, batch = dict(zip(batch, outcomes, strict=True)), {}
                untold = await self._tell(untold)
            _settle(untold)
            if self._pace is not None:
                self._pace.rest()
        except BaseException:
            # The task itself was cancelled, by its loop's end or a hurried close: nobody may be left waiting.
            _settle(untold)
            unknown = OutcomeUnknownError("the store was closed during the write: it may have landed or not")
            _settle(dict.fromkeys(batch, unknown))
            self._refuse_pending()
            raise

    async def _tell(self, outcomes: dict[asyncio.Future[R], R | Exception]) -> dict[asyncio.Future[R], R | Exception]:
        """
        Tell callers what came of their items, and let them come back with the next ones.

        Where commits are to overlap with what callers do, those of one half do not wait for the other: return whom to
        tell once the next commit is under way.
        """
        if len(outcomes) == 1:
            _settle(outcomes)
            return {}
        overlaps = self._pace is not None and self._pace.overlaps(len(outcomes), asyncio.get_running_loop().time())
        if overlaps and self._pending:
            return outcomes
        items = list(outcomes.items())
        told = len(items) // 2 if overlaps else len(items)
        _settle(dict(items[:told]))
        await asyncio.sleep(0)
        return dict(items[told:])

    def _drained(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            # Perhaps before its first step, so that it could not say so itself.
            self._refuse_pending()
        self._rest()

    def _take(self) -> dict[asyncio.Future[R], T]:
        batch: dict[asyncio.Future[R], T] = {}
        weight = 0
        for future, item in self._pending.items():
            weight += self._weigh(item) if self._weigh is not None else 0
            if len(batch) == self._batch_limit or (batch and weight > self._weight_limit and self._weigh is not None):
                break
            batch[future] = item
        for future in batch:
            del self._pending[future]
        return batch

    async def _outcomes(self, items: list[T], *, to_blame: bool = False) -> tuple[Sequence[R | Exception], bool]:
        """Return each item's outcome, and whether one commit took them all; ``to_blame`` tells that none will."""
        if len(items) == 1 or not to_blame:
            try:
                return await self._commit(items), True
            except Exception as error:
                if len(items) == 1 or self._splits is None or not self._splits(error):
                    return [error] * len(items), False
        middle = len(items) // 2
        first, landed = await self._outcomes(items[:middle])
        # If they failed together and the first half did not, it was for the second, which need not be tried as a whole.
        second, _ = await self._outcomes(items[middle:], to_blame=landed)
        return [*first, *second], False

    def _refuse_pending(self) -> None:
        refused, self._pending = self._pending, {}
        _settle(dict.fromkeys(refused, ClosedError("the store was closed before the write began")))


def _settle(outcomes: Mapping[asyncio.Future[R], R | Exception]) -> None:
    for future, outcome in outcomes.items():
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
