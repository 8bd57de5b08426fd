"""``runs prune``: delete old runs; what is asked, what is told of it, and how a failure is kept to its own run."""

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.text import Text

from asyncstore._core.concurrency import map_bounded
from asyncstore.cli._command import Session, command
from asyncstore.cli._errors import FAILED, exit_code
from asyncstore.cli._output import clean, status_text, time_text
from asyncstore.cli._question import require_yes
from asyncstore.cli._transfer_report import run_progress
from asyncstore.errors import AsyncStoreError, ConfigurationError, CredentialsError, UnavailableError
from asyncstore.models import FAIL, SUCCESS, RunSummary

__all__ = ["Choice", "age", "register"]

RUNS_AT_ONCE = 8
FAILURES_SHOWN = 10
"""Most failures that people are told; the JSON output has them all."""

TO_DELETE, DELETED, FAILED_TO, NOT_TRIED = "to delete", "deleted", "failed", "not tried"
"""What becomes of a run."""

_EPOCH = datetime.fromtimestamp(0, UTC)
_OLDEST = timedelta(days=50 * 365)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.IGNORECASE | re.ASCII)

_CONCERNS_ALL = (UnavailableError, CredentialsError)
"""Errors after which no other run needs to be tried."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which runs go."""

    before: datetime
    """Only runs created before this time."""
    status: str | None = None
    tag: str | None = None
    keep_failed: bool = False
    keep_unfinished: bool = False

    def takes(self, run: RunSummary) -> bool:
        """Tell whether a run goes; one of which nobody knows when it was created stays."""
        if not _EPOCH < run.created_at < self.before:
            return False
        if run.status == FAIL:
            return not self.keep_failed
        return run.status == SUCCESS or not self.keep_unfinished


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run."""

    run: RunSummary
    state: str
    error: AsyncStoreError | None = None


def register(app: typer.Typer) -> None:
    """Add the command to ``asyncstore runs``."""
    command(app, "prune")(prune)


def prune(
    session: Session,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="Created so long ago: 90d, 12h, 2w; s, m, h, d or w.")
    ],
    status: Annotated[str | None, typer.Option(metavar="STATUS", help="Only runs of this status.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="Only runs with this tag.")] = None,
    keep_failed: Annotated[bool, typer.Option("--keep-failed", help="Keep runs that failed.")] = False,
    keep_unfinished: Annotated[
        bool, typer.Option("--keep-unfinished", help="Keep runs that neither succeeded nor failed.")
    ] = False,
    data: Annotated[bool, typer.Option("--data", help="Also delete the runs' data from the catalog.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """
    Delete old runs for good; their data stays in the catalog unless --data says otherwise.

    One that cannot be deleted does not stop the others. A run that does not say when it was created stays.
    """
    before = _ago(older_than)
    choice = Choice(before, status.upper() if status else None, tag, keep_failed, keep_unfinished)
    # Nothing is open while the question stands, however long that takes.
    runs, location = asyncio.run(_chosen(session, choice))
    where = f"in {location}, created before {time_text(before)}"
    if not runs or dry_run:
        outcomes = [Outcome(run, TO_DELETE) for run in runs]
    else:
        if not yes:
            session.output.note(f"{_summed_up(runs)} {where}")
            require_yes(session.output, f"Delete {_them(len(runs))}{' and their data' if data else ''}?")
        outcomes = _delete(session, runs, data=data)
    if session.as_json:
        session.output.json(_document(outcomes, before, data=data, dry_run=dry_run))
    elif not runs:
        session.output.note(f"no runs to delete {where}")
    elif dry_run:
        session.output.table(["RUN", "STATUS", "CREATED", "TAG"], [_row(run) for run in runs])
        session.output.show(clean(f"{_summed_up(runs)} {where}; nothing was deleted", "dim"))
    else:
        _tell(session, outcomes)
    _end(outcomes)


def age(text: str) -> timedelta:
    """
    Return the duration that ``90d``, ``12h`` or ``1.5w`` means.

    Raises:
        ConfigurationError: it means none, or one that nothing can have.
    """
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise ConfigurationError(f"{text!r} is no age: write 90d, 12h or 2w; the units are s, m (minutes), h, d and w")
    try:
        duration = timedelta(**{_UNITS[found[2].lower()]: float(found[1])})
    except OverflowError:
        duration = timedelta.max
    if duration > _OLDEST:
        raise ConfigurationError(f"{text!r} is older than any run: write 50 years at most")
    return duration


def _ago(older_than: str) -> datetime:
    try:
        return datetime.now(UTC) - age(older_than)
    except ConfigurationError as error:
        raise ConfigurationError(f"--older-than {error}") from error


async def _chosen(session: Session, choice: Choice) -> tuple[list[RunSummary], str]:
    """Return the runs that are to go, newest first, and where they are."""
    async with session.run_log_store(reads=True, writes=True) as store:
        listed = store.list_run_logs(status=choice.status, tag=choice.tag, until=choice.before)
        return [summary async for summary in listed if choice.takes(summary)], store.location


def _delete(session: Session, runs: Sequence[RunSummary], *, data: bool) -> list[Outcome]:
    """Delete runs, the oldest first, and return what became of each, in the order of ``runs``."""
    deleted = 0
    stopped = False

    async def delete_all() -> list[Outcome]:
        with run_progress(session.output, "deleting", len(runs)) as advance:
            async with session.services(reads=True, writes=True) as services:

                async def work(run: RunSummary) -> Outcome:
                    nonlocal deleted, stopped
                    if stopped:
                        return Outcome(run, NOT_TRIED)
                    try:
                        # The data first: should that fail, the run is still there to be deleted again.
                        if data:
                            await services.catalog.delete(run.run_id)
                        await services.run_log_store.delete_run_log(run.run_id)
                    except AsyncStoreError as error:
                        if isinstance(error, _CONCERNS_ALL):
                            stopped = True
                        return Outcome(run, FAILED_TO, error)
                    finally:
                        advance(run)
                    deleted += 1
                    return Outcome(run, DELETED)

                return (await map_bounded(work, reversed(runs), limit=RUNS_AT_ONCE))[::-1]

    try:
        return asyncio.run(delete_all())
    except KeyboardInterrupt:
        session.output.note(f"{deleted:,} of {_counted(len(runs))} deleted")
        raise


def _tell(session: Session, outcomes: Sequence[Outcome]) -> None:
    counts = Counter(outcome.state for outcome in outcomes)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if counts[DELETED]:
        runs = [outcome.run for outcome in outcomes if outcome.state == DELETED]
        session.output.show(clean(f"deleted {_summed_up(runs)}"))
    if failed:
        left = f", and {_counted(counts[NOT_TRIED])} not tried" if counts[NOT_TRIED] else ""
        session.output.error(f"{_counted(len(failed))} could not be deleted{left}")
    for outcome in failed[:FAILURES_SHOWN]:
        session.output.note(f"  {outcome.run.run_id}: {outcome.error}")
    if len(failed) > FAILURES_SHOWN:
        session.output.note(f"  … and {len(failed) - FAILURES_SHOWN:,} more, all of them with --json")


def _end(outcomes: Sequence[Outcome]) -> None:
    codes = {exit_code(outcome.error) for outcome in outcomes if outcome.error is not None}
    if codes:
        raise typer.Exit(codes.pop() if len(codes) == 1 else FAILED)


def _document(outcomes: Sequence[Outcome], before: datetime, *, data: bool, dry_run: bool) -> dict[str, Any]:
    runs = [
        {
            **outcome.run.model_dump(mode="json"),
            "state": outcome.state,
            "error": None if outcome.error is None else str(outcome.error),
        }
        for outcome in outcomes
    ]
    return {"created_before": f"{before:%Y-%m-%dT%H:%M:%S.%fZ}", "data": data, "dry_run": dry_run, "runs": runs}


def _row(run: RunSummary) -> tuple[str | Text, ...]:
    return run.run_id, status_text(run.status), time_text(run.created_at), run.tag


def _summed_up(runs: Sequence[RunSummary]) -> str:
    counts = Counter(run.status or "without status" for run in runs)
    told = ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
    return f"{_counted(len(runs))} ({told})"


def _counted(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"


def _them(count: int) -> str:
    return "it" if count == 1 else f"these {count:,} runs"
