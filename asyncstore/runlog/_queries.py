"""What listings are asked for and what they say. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from asyncstore.errors import IntegrityError
from asyncstore.models import RunSummary

if TYPE_CHECKING:
    from collections.abc import Collection

    from asyncstore.runlog.fragments import Fragment

__all__ = ["Candidate", "RunQuery", "summary_of"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run that a listing of the storage names, and when the storage saw it last written, if it says so."""

    run_id: str
    written_at: datetime | None = None
    skew: timedelta = timedelta(0)
    """How far the clock of whoever created it may have been ahead of the storage's."""

    @property
    def newest(self) -> datetime:
        """The latest time of creation it can have, as far as what was written belongs to this run."""
        return datetime.max.replace(tzinfo=UTC) if self.written_at is None else self.written_at + self.skew


@dataclass(frozen=True, slots=True)
class RunQuery:
    """What :meth:`RunLogStore.list_run_logs` was asked for; times are UTC, ``since`` inclusive, ``until`` exclusive."""

    status: str | None = None
    tag: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None

    def matches(self, summary: RunSummary) -> bool:
        """Tell whether a run is wanted, its place in the list aside."""
        return (
            (self.status is None or summary.status == self.status)
            and (self.tag is None or summary.tag == self.tag)
            and (self.since is None or summary.created_at >= self.since)
            and (self.until is None or summary.created_at < self.until)
        )

    def in_order(self, candidates: Collection[Candidate]) -> list[Candidate]:
        """Return those that may be wanted, in the order in which to look at them."""
        wanted = [item for item in candidates if self.since is None or item.newest >= self.since]
        return sorted(wanted, key=lambda item: (item.newest, item.run_id), reverse=True)

    def is_settled(self, found: Collection[RunSummary], following: Candidate) -> bool:
        """Tell whether neither ``following`` nor any candidate after it can change what is selected of ``found``."""
        if self.limit is None:
            return False
        selected = self.select(found)
        return len(selected) == self.limit and (not selected or following.newest < selected[-1].created_at)

    def select(self, summaries: Collection[RunSummary]) -> list[RunSummary]:
        """Return the wanted runs, newest first."""
        wanted = [summary for summary in summaries if self.matches(summary)]
        wanted.sort(key=lambda summary: (summary.created_at, summary.run_id), reverse=True)
        return wanted if self.limit is None else wanted[: self.limit]


def summary_of(header: Fragment, run_id: str, written_at: datetime | None = None) -> RunSummary:
    """Return what a listing says of a run; ``written_at`` stands in where the header has no creation time."""
    value = header.value
    if not isinstance(value, dict):
        raise IntegrityError(f"the header of run {run_id!r} is not a JSON object")
    return RunSummary(
        run_id=run_id,
        status=str(value.get("status", "")),
        tag=str(value.get("tag") or ""),
        created_at=header.created_at or written_at or datetime.fromtimestamp(0, UTC),
        dag_hash=str(value.get("dag_hash") or ""),
        original_run_id=str(value.get("original_run_id") or ""),
    )
