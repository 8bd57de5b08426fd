"""
``asyncstore runs``: look at runs, follow them, delete them.

:mod:`_transfer` has what takes them elsewhere, :mod:`_prune` what deletes old ones.
"""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from asyncstore.cli import _prune, _transfer
from asyncstore.cli._command import Session, command
from asyncstore.cli._output import clean, status_text, time_text
from asyncstore.cli._question import require_yes
from asyncstore.cli._tree import run_tree
from asyncstore.errors import ConfigurationError
from asyncstore.models import CREATED, PROCESSING, RunSummary
from asyncstore.runlog.fragments import Fragment, Kind

__all__ = ["NAME", "app"]

NAME = "runs"
app = typer.Typer(help="Look at runs, delete them, take them elsewhere: import, copy, export.", no_args_is_help=True)

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
TIME_HELP = "ISO 8601, in local time unless it says otherwise"


@command(app, "list")
async def list_runs(
    session: Session,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Only runs of this status: CREATED, PROCESSING, SUCCESS, FAIL.")
    ] = None,
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="Only runs with this tag.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help=f"Only runs created since then ({TIME_HELP}).")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only runs created before then.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="At most so many; 0 is all.")] = 50,
) -> None:
    """List runs, newest first."""
    async with session.services(reads=True) as services:
        found = services.run_log_store.list_run_logs(
            status=status.upper() if status else None,
            tag=tag,
            since=_time(since, "--since"),
            until=_time(until, "--until"),
            limit=limit or None,
        )
        runs = [summary async for summary in found]
    if session.as_json:
        session.output.json([summary.model_dump(mode="json") for summary in runs])
    elif runs:
        session.output.table(["RUN", "STATUS", "CREATED", "TAG"], [_row(summary) for summary in runs])
    else:
        session.output.note("no runs")


@command(app, "show")
async def show(
    session: Session,
    run_id: RunArgument,
    all_files: Annotated[bool, typer.Option("--all-files", help="Name every file of every step.")] = False,
) -> None:
    """Show a run as a tree: status, durations, parameters, metrics, files."""
    async with session.services(reads=True) as services:
        run_log = await services.run_log_store.get_run_log_by_id(run_id)
    if session.as_json:
        session.output.json(run_log.model_dump(mode="json", warnings="none"))
    else:
        session.output.show(run_tree(run_log, all_files=all_files))


@command(app, "watch")
async def watch(
    session: Session,
    run_id: RunArgument,
    cursor: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on after this cursor, from an earlier --json output.")
    ] = None,
) -> None:
    """Print every change of a run, a line each, until the run ends; with --json, a document each."""
    async with session.services(reads=True) as services:
        async for fragment in services.run_log_store.watch(run_id, cursor=cursor):
            if session.as_json:
                session.output.json_line(_document(fragment))
            else:
                session.output.show(_line(fragment))


_transfer.register(app)
_prune.register(app)


def confirm(session: Session, run_ids: list[str], data: bool, yes: bool) -> None:
    """Ask whether to delete, unless that is settled."""
    if not yes:
        require_yes(session.output, f"Delete {clean(', '.join(run_ids))}{' and their data' if data else ''}?")


@command(app, "delete", before=confirm)
async def delete(
    session: Session,
    run_ids: Annotated[list[str], typer.Argument(metavar="RUN...", help="The runs' ids.")],
    data: Annotated[bool, typer.Option("--data", help="Also delete the runs' data from the catalog.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete runs for good; their data stays in the catalog unless --data says otherwise."""
    async with session.services(reads=True, writes=True) as services:
        for run_id in run_ids:
            await services.run_log_store.get_run_log_by_id(run_id, full=False)
        for run_id in run_ids:
            # The data first: should that fail, the run is still there to be deleted again.
            if data:
                await services.catalog.delete(run_id)
            await services.run_log_store.delete_run_log(run_id)
    if session.as_json:
        session.output.json({"deleted": run_ids, "data": data})
    else:
        session.output.show(clean(f"deleted {', '.join(run_ids)}"))


def _row(summary: RunSummary) -> tuple[str | Text, ...]:
    return summary.run_id, status_text(summary.status), time_text(summary.created_at), summary.tag


def _time(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as error:
        raise ConfigurationError(
            f"{option} {text!r} is not a time: write it as 2026-11-20 or 2026-11-20T14:30"
        ) from error


def _document(fragment: Fragment) -> dict[str, object]:
    return {
        "kind": str(fragment.kind),
        "name": fragment.name,
        "scope": fragment.scope,
        "created_at": fragment.created_at.isoformat() if fragment.created_at else None,
        "value": fragment.value,
        "cursor": fragment.cursor,
    }


def _line(fragment: Fragment) -> Text:
    value = fragment.value
    line = Text.assemble((f"{_when(fragment):<8}  {fragment.kind:<10}", "dim"))
    if fragment.kind is Kind.PARAMETER:
        scope = f"{fragment.scope}: " if fragment.scope else ""
        return line.append_text(clean(f"{scope}{fragment.name}={fragment.body.decode()}"))
    name = value.get("run_id", fragment.name) if fragment.kind is Kind.RUN_LOG else fragment.name
    line.append_text(status_text(str(value.get("status", "")))).append("  ").append_text(clean(str(name)))
    if value.get("message"):
        line.append("  ").append_text(clean(str(value["message"]), "red"))
    return line


def _when(fragment: Fragment) -> str:
    """Return the local time of what the fragment says, "" if it does not tell."""
    time = fragment.created_at
    if fragment.kind is Kind.PARAMETER or fragment.value.get("status") not in {CREATED, PROCESSING}:
        # Its time is that of the first writing, and this may be a later one.
        time = None
    if fragment.kind is Kind.STEP_LOG and fragment.value.get("attempts"):
        attempt = fragment.value["attempts"][-1]
        time = _parsed(str(attempt.get("end_time") or attempt.get("start_time")))
    return "" if time is None else f"{time.astimezone():%H:%M:%S}"


def _parsed(time: str) -> datetime | None:
    try:
        return datetime.fromisoformat(time)
    except ValueError:
        return None
