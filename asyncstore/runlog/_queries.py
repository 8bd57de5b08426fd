"""What listings are asked for and what they say. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from asyncstore.errors import IntegrityError
from asyncstore.models import RunSummary

if TYPE_CHECKING:
    from collections.abc import Collection

    from asyncstore.runlog.fragments import Fragment

__all__ = ["RunQuery", "summary_of"]


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
