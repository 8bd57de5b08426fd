"""
Runs written into a store as a whole, in the order of their creation, read back and compared.

Each run goes out as one insertion, its header last: whoever sees the run sees all of it, and a run without a header is
what an interrupted transfer left, to be done again. Runs are inserted one after the other, so that listings keep their
order; reading them before, and checking them afterwards, goes on beside.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import for_each
from asyncstore.errors import (
    AsyncStoreError,
    CredentialsError,
    IntegrityError,
    RunLogNotFoundError,
    UnavailableError,
)
from asyncstore.models import TERMINAL_STATUSES
from asyncstore.names import check_name, check_run_id
from asyncstore.runlog._json import checked
from asyncstore.runlog.fragments import HEADER, WHOLE_RUN, Fragment, FragmentKey, Kind, in_creation_order
from asyncstore.runlog.transfer.reading import NotARunError, Parts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from asyncstore.runlog.base import RunLogStore

__all__ = ["Job", "Outcome", "Parts", "State", "snapshot", "transfer"]

RUNS_AT_ONCE = 8
"""Runs that are read, written or checked at the same time; each has many requests in flight of its own."""

LOOKS = 5
"""How often a run that changes while it is read is read again, before it is taken as it is."""


class State(StrEnum):
    """What became of a run."""

    WRITTEN = "written"
    """It was not there, and is now."""
    REPLACED = "replaced"
    """Another state of it was there, and was deleted."""
    UNCHANGED = "unchanged"
    """It was there, the same in every part."""
    KEPT = "kept"
    """Another state of it is there, and stays."""
    FAILED = "failed"
    """It could not be read, written or verified."""
    NOT_A_RUN = "not a run"
    """It turned out to be something else than a run log."""
    NOT_TRIED = "not tried"
    """An earlier failure concerned all that were left."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run to take over."""

    run_id: str
    read: Callable[[], Awaitable[Parts]]
    layout: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run."""

    run_id: str
    state: State
    source: str = ""
    """What it is called where it was read."""
    layout: str = ""
    parts: int = 0
    """Fragments that it has."""
    steps: int = 0
    """Steps among them."""
    problems: Sequence[str] = ()
    """What could not be read, or is doubtful."""
    note: str = ""
    """How the state of it that is kept differs."""
    error: AsyncStoreError | None = None


class _Turns:
    """Lets numbers through one after the other, in their order; each must pass, whether it waited or not."""

    def __init__(self, count: int) -> None:
        self._free = [asyncio.Event() for _ in range(count + 1)]
        self._passed: set[int] = set()
        self._next = 0
        self._free[0].set()

    async def wait(self, number: int) -> None:
        await self._free[number].wait()

    def done(self, number: int) -> None:
        self._passed.add(number)
        while self._next in self._passed:
            self._next += 1
            self._free[self._next].set()


async def snapshot(store: RunLogStore, run_id: str) -> Parts:
    """
    Return a run's fragments as they stood at one moment; one that changes all the time, nearly so.

    Raises:
        RunLogNotFoundError: no run of that id.
    """
    store.access.require(read=True)
    fragments = await store._scan(check_run_id(run_id), WHOLE_RUN)
    for _ in range(LOOKS):
        # A scan is no snapshot: what was stored before the header it saw may have been missed.
        again = await store._scan(run_id, WHOLE_RUN, {part.key: part for part in fragments})
        if _versions(again) == _versions(fragments):
            break
        fragments = again
    if all(part.key != HEADER for part in fragments):
        raise RunLogNotFoundError(run_id, store.location)
    return Parts(run_id, in_creation_order(fragments))


async def transfer(
    jobs: Sequence[Job],
    store: RunLogStore,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """
    Write runs into ``store``, and return what became of each, in the order of ``jobs``.

    A run that is there already stays as it is unless ``overwrite``; what an interrupted transfer left is completed. One
    that fails does not stop the others, unless the storage is down or does not accept the credentials.

    Args:
        jobs: the runs, oldest first.
        store: where they go.
        overwrite: delete the other state of a run that is there.
        dry_run: read and compare, and write nothing.
        on_outcome: called with each outcome as it is known.

    Raises:
        AccessModeError: the store may not be written, or not be read, which is needed to compare.
    """
    store.access.require(read=True, write=True)
    turns = _Turns(len(jobs))
    target = _Target(store, overwrite=overwrite, dry_run=dry_run)
    outcomes: dict[int, Outcome] = {}
    stopped = False

    async def work(number: int) -> None:
        nonlocal stopped
        job = jobs[number]
        outcome = Outcome(job.run_id, State.NOT_TRIED, job.run_id, job.layout)
        try:
            if not stopped:
                outcome = await target.land(job, lambda: turns.wait(number), lambda: turns.done(number))
        except NotARunError as error:
            outcome = replace(outcome, state=State.NOT_A_RUN, error=error)
        except AsyncStoreError as error:
            stopped = stopped or isinstance(error, UnavailableError | CredentialsError)
            outcome = replace(outcome, state=State.FAILED, error=error)
        finally:
            turns.done(number)
        outcomes[number] = outcome
        on_outcome(outcome)

    if jobs:
        await for_each(work, range(len(jobs)), limit=min(RUNS_AT_ONCE, len(jobs)))
    return [outcomes[number] for number in range(len(jobs))]


class _Target:
    """The store that one transfer writes to, and the runs that it has seen."""

    def __init__(self, store: RunLogStore, *, overwrite: bool, dry_run: bool) -> None:
        self._store = store
        self._overwrite = overwrite
        self._dry_run = dry_run
        self._sources: dict[str, str] = {}

    async def land(self, job: Job, turn: Callable[[], Awaitable[None]], done: Callable[[], None]) -> Outcome:
        """Do one run: what needs no order before ``turn`` has come, and after ``done`` was said."""
        store = self._store
        parts = await job.read()
        run_id, wanted = check_run_id(parts.run_id), parts.fragments
        await asyncio.to_thread(_check_storable, wanted)
        there = in_creation_order(await store._scan(run_id, WHOLE_RUN))
        note = await asyncio.to_thread(difference, wanted, there) if there else ""
        state = _decide(wanted, there, note, overwrite=self._overwrite)
        steps = sum(part.kind is Kind.STEP_LOG for part in wanted)
        outcome = Outcome(run_id, state, job.run_id, job.layout, len(wanted), steps, parts.problems)
        await turn()
        self._claim(run_id, job.run_id)
        if state is State.KEPT:
            return replace(outcome, note=note)
        if self._dry_run or state is State.UNCHANGED:
            return outcome
        if there:
            await store._delete(run_id)
        await store._insert(run_id, with_times(wanted))
        done()
        await self._verify(run_id, wanted)
        return outcome

    def _claim(self, run_id: str, source: str) -> None:
        other = self._sources.setdefault(run_id, source)
        if other != source:
            raise IntegrityError(f"it is a second log of run {run_id!r}: the first, {other!r}, was taken")

    async def _verify(self, run_id: str, wanted: Sequence[Fragment]) -> None:
        # A run that has ended may get a document of its own, which later readers believe: read back as they do.
        await self._store._note_status(run_id, _status(wanted))
        found = in_creation_order(await self._store._scan(run_id, WHOLE_RUN))
        wrong = await asyncio.to_thread(difference, wanted, found)
        if wrong:
            raise IntegrityError(
                f"run {run_id!r} was written to {self._store.location}, and reads back otherwise: {wrong}; "
                "does something else write to it?"
            )


def _decide(wanted: Sequence[Fragment], there: Sequence[Fragment], note: str, *, overwrite: bool) -> State:
    """Tell what is to become of a run, of which ``there`` is what the store has."""
    if not there:
        return State.WRITTEN
    if not note:
        return State.UNCHANGED
    if overwrite:
        return State.REPLACED
    wanted_bodies = _bodies(wanted)
    left_over = all(part.key != HEADER and wanted_bodies.get(part.key) == _body(part) for part in there)
    return State.WRITTEN if left_over else State.KEPT


def difference(wanted: Sequence[Fragment], found: Sequence[Fragment]) -> str:
    """Tell in words how two lists of fragments, both in creation order, differ in content or order; "" if not."""
    left, right = _bodies(wanted), _bodies(found)
    lacking = [key for key in left if key not in right]
    beyond = [key for key in right if key not in left]
    changed = [key for key in left if key in right and left[key] != right[key]]
    told = [
        f"{len(keys):,} {what} ({_name(keys[0])}{', …' if len(keys) > 1 else ''})"
        for keys, what in ((lacking, "missing"), (beyond, "besides"), (changed, "different"))
        if keys
    ]
    if not told and _orders(wanted) != _orders(found):
        told.append("another order of its parts")
    return ", ".join(told)


def with_times(fragments: Sequence[Fragment]) -> list[Fragment]:
    """
    Return fragments in creation order with the times that a store may take over: each later than the one before it.

    Where only some steps and branches have one, theirs are not taken over, but that of the run: the order tells more.
    """
    ordered = [part for part in fragments if part.kind in {Kind.STEP_LOG, Kind.BRANCH_LOG}]
    whole = all(part.created_at is not None for part in ordered)
    timed = []
    last = datetime.min.replace(tzinfo=UTC)
    for part in fragments:
        if part.key != HEADER and not whole:
            part = replace(part, created_at=None)
        elif part.created_at is not None:
            last = max(part.created_at, last + timedelta(microseconds=1))
            part = replace(part, created_at=last)
        timed.append(part)
    return timed


def _orders(fragments: Sequence[Fragment]) -> Mapping[tuple[Kind, str], list[str]]:
    """Return the order of what is read back in an order: steps, branches, the parameters of each scope."""
    orders: dict[tuple[Kind, str], list[str]] = defaultdict(list)
    for part in fragments:
        orders[part.kind, part.scope].append(part.name)
    return orders


def _bodies(fragments: Sequence[Fragment]) -> dict[FragmentKey, str]:
    return {part.key: _body(part) for part in fragments}


def _body(part: Fragment) -> str:
    # As text, in which 1, 1.0 and true differ, as they do in JSON.
    return json.dumps(part.value, sort_keys=True)


def _name(key: FragmentKey) -> str:
    return f"{key.kind} {key.name!r}" + (f" of {key.scope!r}" if key.scope else "")


def _versions(fragments: Sequence[Fragment]) -> dict[FragmentKey, bytes]:
    return {part.key: part.version for part in fragments}


def _status(fragments: Sequence[Fragment]) -> str:
    status = next(part.value.get("status") for part in fragments if part.key == HEADER)
    return status if status in TERMINAL_STATUSES else ""


def _check_storable(fragments: Sequence[Fragment]) -> None:
    """Raise InvalidValueError for what one backend holds and another refuses, before anything is written."""
    for part in fragments:
        check_name(part.name, f"name of a {part.kind}")
        checked(part.body, part.kind, part.name)
