"""``catalog verify`` and ``catalog sweep``: is everything what it was put as, and what did broken transfers leave?"""

import re
from datetime import timedelta
from typing import Annotated

import typer

from asyncstore.catalog import SweepReport, VerifyReport
from asyncstore.cli._catalog_options import (
    ConcurrencyOption,
    ExcludeOption,
    FolderOption,
    LocalFolderOption,
    MemoryOption,
    RateOption,
    RunArgument,
    limits,
)
from asyncstore.cli._catalog_report import files, run_first
from asyncstore.cli._command import Session, command
from asyncstore.cli._errors import failures_code, show_failures
from asyncstore.cli._output import clean, time_text
from asyncstore.cli._progress import transfer_progress
from asyncstore.cli._prune import age
from asyncstore.errors import ConfigurationError

__all__ = ["register"]

_MINUTES = re.compile(r"(\d\s*)min", re.IGNORECASE)


def register(app: typer.Typer) -> None:
    """Add the commands to ``asyncstore catalog``."""
    command(app, "verify")(verify)
    command(app, "sweep")(sweep)


async def verify(
    session: Session,
    run_id: RunArgument,
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATTERN]...", help="Globs of names as 'list' shows them, '**' by default."),
    ] = None,
    exclude: ExcludeOption = None,
    max_memory: MemoryOption = None,
    max_bandwidth: RateOption = None,
    max_concurrency: ConcurrencyOption = None,
) -> None:
    """Read a run's files again and compare their SHA-256 with those stored."""
    async with session.services(limits(max_memory, max_bandwidth, max_concurrency), reads=True) as services:
        with run_first("verify", run_id), transfer_progress(session.output, "verifying") as on_progress:
            report = await services.catalog.verify(
                run_id, patterns or "**", exclude=exclude or (), on_progress=on_progress
            )
        where = services.catalog.location
    if session.as_json:
        session.output.json(
            {
                "verified": sorted(report.verified),
                "unverifiable": sorted(report.unverifiable),
                "failed": {name: str(error) for name, error in sorted(report.failed.items())},
            }
        )
    else:
        session.output.show(clean(f"{_verified(report)} in {where}", "dim"))
    if report.failed:
        wrong = files(len(report.failed))
        session.output.error(f"{wrong} of run {run_id!r} {'is' if wrong == '1 file' else 'are'} not what was put")
        if not session.as_json:
            show_failures(report.failed, session.output)
        raise typer.Exit(failures_code(report.failed.values()))


async def sweep(
    session: Session,
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Only this run's uploads; those of all runs without it.")
    ] = None,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="Begun so long ago: 1d, 2h, 30min.")
    ] = "1d",
    folder: FolderOption = None,
    local_folder: LocalFolderOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing, only show what would go.")] = False,
) -> None:
    """
    Remove what broken transfers left behind.

    That is multipart uploads, temporary files of the compute data folder, and packs that no index names.
    """
    begun = _age(older_than)
    async with session.services(writes=True) as services:
        report = await services.catalog.sweep(
            older_than=begun, run_id=run_id, compute_data_folder=folder, local_folder=local_folder, dry_run=dry_run
        )
        where = services.catalog.location
    if session.as_json:
        uploads = [
            {"key": upload.key, "upload_id": upload.upload_id, "begun_at": upload.begun_at.isoformat()}
            for upload in report.uploads
        ]
        swept = {"uploads": uploads, "temp_files": report.temp_files, "packs": report.packs}
        session.output.json({**swept, "dry_run": dry_run})
        return
    rows = [
        *(("upload", upload.key, f"begun {time_text(upload.begun_at)}") for upload in report.uploads),
        *(("temporary file", path, "") for path in report.temp_files),
        *(("pack", key, "no index names it") for key in report.packs),
    ]
    if rows:
        session.output.table(["KIND", "WHAT", "NOTE"], rows)
    session.output.show(clean(f"{_swept(report, dry_run=dry_run)} (older than {older_than}, in {where})", "dim"))


def _age(text: str) -> timedelta:
    try:
        return age(_MINUTES.sub(r"\1m", text))
    except ConfigurationError as error:
        raise ConfigurationError(f"--older-than {error}") from error


def _verified(report: VerifyReport) -> str:
    told = [f"{files(len(report.verified))} verified"]
    if report.unverifiable:
        told.append(f"{len(report.unverifiable):,} readable but stored without a digest")
    if report.failed:
        told.append(f"{len(report.failed):,} failed")
    return ", ".join(told)


def _swept(report: SweepReport, *, dry_run: bool) -> str:
    counts = (
        (len(report.uploads), "unfinished upload"),
        (len(report.temp_files), "temporary file"),
        (len(report.packs), "pack"),
    )
    told = [f"{count:,} {what}{'s'[: count > 1]}" for count, what in counts if count]
    if not told:
        return "nothing to remove"
    return f"{'to remove' if dry_run else 'removed'}: {', '.join(told)}"
