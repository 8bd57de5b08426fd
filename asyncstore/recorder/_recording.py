"""What all blocks of one run share, and the lifetime that they have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Self

from asyncstore._core.concurrency import shielded
from asyncstore._core.readable import describe_error
from asyncstore.errors import AlreadyExistsError, ClosedError, UnavailableError
from asyncstore.models import FAIL, PROCESSING, SUCCESS, StepAttempt, StepLog

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

    from asyncstore.catalog import Catalog
    from asyncstore.models import DataCatalog
    from asyncstore.recorder._owner import Owner
    from asyncstore.runlog.base import RunLogStore

__all__ = ["Block", "Recording", "close_attempt", "outcome_of", "to_the_end"]

RECORD_DEADLINE_S = 60.0
"""Longest that a write may hold up a cancelled block: a little more than a store goes on trying."""


@dataclass(slots=True)
class Recording:
    """What all blocks of one run share."""

    store: RunLogStore
    catalog: Catalog
    run_id: str
    steps: dict[str, StepLog] = field(default_factory=dict)
    owners: dict[str, Owner] = field(default_factory=dict)
    running: set[tuple[str, str]] = field(default_factory=set)
    synced: dict[str, DataCatalog] = field(default_factory=dict)
    """What steps got or put, by name, as it was last."""

    def begin(self, kind: str, name: str) -> None:
        """Note a block as running; two of one name at one time would be one in the log."""
        if (kind, name) in self.running:
            raise AlreadyExistsError(
                f"{kind} {name!r} of run {self.run_id!r} is being recorded already: "
                "give what runs at the same time different names"
            )
        self.running.add((kind, name))

    def end(self, kind: str, name: str) -> None:
        """Note that a block has ended."""
        self.running.discard((kind, name))

    def begin_attempt(self, name: str, internal_name: str, step_type: str) -> tuple[StepLog, StepAttempt]:
        """Return the log of a step with a new attempt on it."""
        new = StepLog(name=name, internal_name=internal_name, step_type=step_type)
        log = self.steps.setdefault(internal_name, new)
        attempt = StepAttempt(attempt_number=len(log.attempts) + 1, start_time=_now(), status=PROCESSING)
        log.attempts.append(attempt)
        log.status, log.message = PROCESSING, ""
        return log, attempt

    async def write_step(self, log: StepLog) -> None:
        """Write a step as it now stands."""
        await self.store.add_step_log(log, self.run_id)


class Block(ABC):
    """An ``async with`` block that is recorded; it is entered once."""

    kind: ClassVar[str]
    """What it is, for messages."""

    def __init__(self, recording: Recording, internal_name: str) -> None:
        self._recording = recording
        self._internal_name = internal_name
        self._state = "new"

    def __repr__(self) -> str:
        name = f" {self._internal_name!r}" if self._internal_name else ""
        return f"<{type(self).__name__}{name} of run {self._recording.run_id!r} {self._state}>"

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise ClosedError(f"{self!r} was entered before: make a new one")
        self._recording.begin(self.kind, self._internal_name)
        try:
            await self._start()
        except Exception:
            self._leave()
            raise
        except BaseException as error:
            # Cancelled on the way in: the write may have landed, so it must not stay at PROCESSING.
            await self._finish(error)
            raise
        self._state = "open"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._finish(exc)

    @abstractmethod
    async def _start(self) -> None:
        """Write that the block runs."""

    @abstractmethod
    async def _end(self, error: BaseException | None) -> None:
        """Write how the block ended."""

    async def _finish(self, error: BaseException | None) -> None:
        # The block's own error comes first: that it could not be recorded is a note on it.
        try:
            await to_the_end(self._end(error))
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"asyncstore could not record this failure: {describe_error(failure)}")
        finally:
            self._leave()

    def _leave(self) -> None:
        self._state = "closed"
        self._recording.end(self.kind, self._internal_name)

    def _check_open(self) -> None:
        if self._state != "open":
            raise ClosedError(f"{self!r} is not open: use it inside its 'async with' block")


def close_attempt(log: StepLog, attempt: StepAttempt, status: str, message: str) -> None:
    """Say on a step and its attempt how it ended, now."""
    log.status = attempt.status = status
    log.message = attempt.message = message
    attempt.end_time = _now()


def outcome_of(error: BaseException | None) -> str:
    """Return the status of a block that ended with ``error``."""
    return SUCCESS if error is None else FAIL


async def to_the_end(write: Awaitable[None]) -> None:
    """Await ``write`` though the block is cancelled meanwhile; the cancellation is raised when the write is over."""
    try:
        await shielded(write, deadline_s=RECORD_DEADLINE_S)
    except TimeoutError as error:
        raise UnavailableError(f"the run log took longer than {RECORD_DEADLINE_S:.0f} s to answer") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
