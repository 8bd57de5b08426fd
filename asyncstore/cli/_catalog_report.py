"""What is printed of plans and of transfers: tables for people, JSON for programs."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from asyncstore.catalog import Catalog, PlannedFile, TransferPlan
from asyncstore.catalog._paths import folder_of, is_marker
from asyncstore.cli._command import Session
from asyncstore.cli._errors import USAGE
from asyncstore.cli._output import clean, duration_text, size_text
from asyncstore.cli._progress import transfer_progress
from asyncstore.errors import InvalidValueError, NotFoundError
from asyncstore.models import DataCatalog

__all__ = ["carry_out", "files", "run_first", "show_entries", "show_files", "show_plan"]

ENTRIES_SHOWN = 100
"""Most files that are named after a transfer; ``catalog list`` names them all."""

TABLE_ROWS = 1000
"""A table of more is printed as plain lines: to lay it out would take longer than many a transfer."""

_DOING = {"put": "putting", "get": "getting", "sync": "copying"}
_ACTION_STYLES = {"upload": "green", "download": "green", "copy": "cyan", "skip": "dim", "refuse": "bold red"}
_LEFT_ALONE = {"skip", "refuse"}


async def carry_out(session: Session, catalog: Catalog, plan: TransferPlan, *, keep_times: bool = False) -> None:
    """Do what a plan says, and show what is there then."""
    began_s = time.monotonic()
    with transfer_progress(session.output, _DOING[plan.kind]) as on_progress:
        entries = await catalog.run(plan, keep_times=keep_times, on_progress=on_progress)
    where = f"{'from' if plan.kind == 'get' else 'in'} {catalog.location}"
    show_entries(session, entries, f"{where}{_outcome(plan, time.monotonic() - began_s)}")


def show_entries(session: Session, entries: Sequence[DataCatalog], where: str) -> None:
    """Show what a transfer has led to."""
    if session.as_json:
        session.output.json([entry.model_dump(mode="json") for entry in entries])
        return
    if len(entries) <= ENTRIES_SHOWN:
        show_files(session, entries)
    session.output.show(clean(f"{files(len(entries))} {where}", "dim"))


def show_files(session: Session, entries: Sequence[DataCatalog]) -> None:
    """Show files with what their contents are known by."""
    rows = [(entry.data_hash[:12], entry.name) for entry in entries]
    if len(rows) > TABLE_ROWS:
        session.output.text("\n".join(f"{digest:12}  {clean(name)}" for digest, name in [("SHA-256", "FILE"), *rows]))
    elif rows:
        session.output.table(["SHA-256", "FILE"], rows)


def show_plan(session: Session, plan: TransferPlan) -> None:
    """
    Show what would happen, file by file but for what stays as it is.

    Raises:
        typer.Exit: some files are refused, so that nothing would be moved.
    """
    refused = [file for file in plan.files if file.action == "refuse"]
    if session.as_json:
        session.output.json(plan.to_json())
    else:
        _print_plan(session, plan)
    if refused:
        session.output.error(
            f"{files(len(refused))} refused, so nothing would be moved", "rename what is refused, or --exclude it"
        )
        raise typer.Exit(USAGE)


@contextmanager
def run_first(verb: str, run_id: str) -> Iterator[None]:
    """Say how arguments are ordered where the run id looks like a pattern and nothing was found."""
    try:
        yield
    except (InvalidValueError, NotFoundError) as error:
        if not set("*?[") & set(run_id):
            raise
        hint = f"{error}; the run comes first: asyncstore catalog {verb} RUN [PATTERN]..."
        raise (NotFoundError if isinstance(error, NotFoundError) else InvalidValueError)(hint) from error


def files(count: int) -> str:
    """Return a number of files."""
    return "1 file" if count == 1 else f"{count:,} files"


def _print_plan(session: Session, plan: TransferPlan) -> None:
    rows = [_row(plan, file) for file in plan.files if file.action != "skip"]
    if len(rows) > TABLE_ROWS:
        lines = [("ACTION", "SIZE", "REASON", "FILE"), *((row[0], row[1], row[3], row[2]) for row in rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(3)]
        texts = (f"{a!s:{widths[0]}}  {b!s:>{widths[1]}}  {c!s:{widths[2]}}  {clean(d)!s}" for a, b, c, d in lines)
        session.output.text("\n".join(texts))
    elif rows:
        styled = [(clean(row[0], _ACTION_STYLES[row[0]]), *row[1:]) for row in rows]
        session.output.table(["ACTION", "SIZE", "FILE", "REASON"], styled)
    session.output.show(clean(f"{_planned(plan)}; nothing was moved", "dim"))


def _row(plan: TransferPlan, file: PlannedFile) -> tuple[str, str, str, str]:
    if is_marker(file.name):
        return file.action, "", f"{plan.folder}{folder_of(file.name)}/", file.reason
    return file.action, size_text(file.size_bytes), f"{plan.folder}{file.name}", file.reason


def _planned(plan: TransferPlan) -> str:
    """Sum a plan up: ``to s3://…: 2 files to upload (1.2 MB), 3 unchanged``."""
    told: list[str] = []
    for action in ("upload", "download", "copy"):
        meant = [file for file in plan.files if file.action == action and not is_marker(file.name)]
        if meant:
            told.append(f"{files(len(meant))} to {action} ({size_text(sum(file.size_bytes for file in meant))})")
    folders = sum(file.action not in _LEFT_ALONE for file in plan.files if is_marker(file.name))
    if folders:
        told.append("1 empty folder" if folders == 1 else f"{folders:,} empty folders")
    counts = plan.counts()
    unchanged = sum(file.action == "skip" for file in plan.files if not is_marker(file.name))
    told += [f"{unchanged:,} unchanged"] if unchanged else []
    told += [f"{counts['refuse']:,} refused"] if "refuse" in counts else []
    way = f"{'from' if plan.kind == 'get' else 'to'} {plan.where}: " if plan.where else ""
    return f"{way}{', '.join(told) or 'nothing to do'}"


def _outcome(plan: TransferPlan, seconds: float) -> str:
    """Say what was moved and what was not: ``, 1.2 MB in 0.40 s, 3 unchanged``."""
    skipped = [file for file in plan.files if file.action == "skip" and not is_marker(file.name)]
    real = [file for file in plan.files if not is_marker(file.name)]
    if not real:
        return ""
    if len(skipped) == len(real):
        return ", all unchanged"
    moved = f", {size_text(plan.moved_bytes)} in {duration_text(seconds)}"
    return f"{moved}, {len(skipped):,} unchanged" if skipped else moved
