"""``runs import``, ``runs copy``, ``runs export``: runs taken from one place to another."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from asyncstore._core.files import write_atomically
from asyncstore.cli._command import Session, command
from asyncstore.cli._transfer_report import Report, run_progress
from asyncstore.errors import ConfigurationError, NotFoundError
from asyncstore.runlog.transfer import LAYOUTS, State, for_other_tools, transfer
from asyncstore.services.copying import import_jobs, open_run_source, store_jobs

__all__ = ["register"]

FORMS = ("timeline", "runnable")

RunsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN", help="Run ids or patterns ('nightly-*'); all runs without them."),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace runs that are there already, in another state.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Read and compare, write nothing.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``asyncstore runs``."""
    command(app, "export")(export)
    command(app, "import")(import_runs)
    command(app, "copy")(copy)


async def import_runs(
    session: Session,
    run_ids: RunsArgument = None,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="A folder, s3://bucket/prefix, one JSON document, or magnus' or runnable's own configuration (.yaml).",
        ),
    ] = "",
    layout: Annotated[
        str | None,
        typer.Option(metavar="LAYOUT", help=f"What wrote it, if names do not tell: {', '.join(LAYOUTS)}."),
    ] = None,
    endpoint_url: Annotated[
        str | None, typer.Option(metavar="URL", help="S3 server of an s3:// source, if it is not AWS.")
    ] = None,
    region: Annotated[str | None, typer.Option(metavar="REGION", help="Region of an s3:// source.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let the S3 server be on another host over http://.")
    ] = False,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """
    Take over the runs that magnus or runnable wrote.

    Which layout a run has is told from the names of its files or objects. What is broken in it is left out and told,
    the rest is imported; runs that are there already stay as they are. Harmless to repeat.
    """
    if not source:
        raise ConfigurationError("say where to read: --from FOLDER, --from s3://bucket/prefix or --from CONFIG.yaml")
    if layout is not None and layout not in LAYOUTS:
        raise ConfigurationError(f"--layout {layout!r} is not known; known are {', '.join(LAYOUTS)}")
    wanted = LAYOUTS[layout] if layout else None
    await session.require(reads=True, writes=True)
    async with (
        open_run_source(source, layout=wanted, endpoint_url=endpoint_url, region=region, insecure=insecure) as logs,
        session.run_log_store(reads=True, writes=True) as store,
    ):
        jobs = await import_jobs(logs, run_ids or [])
        with run_progress(session.output, "importing", len(jobs)) as advance:
            outcomes = await transfer(jobs, store, overwrite=overwrite, dry_run=dry_run, on_outcome=advance)
    if all(outcome.state is State.NOT_A_RUN for outcome in outcomes):
        raise NotFoundError(f"no run log in {logs.location}: the JSON files there are something else")
    report = Report("imported", "import", dry_run=dry_run)
    report.show(session, outcomes, logs.location, store.location)


async def copy(
    session: Session,
    run_ids: RunsArgument = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="CONFIG", help="Configuration of the store to read; the current one without it."
        ),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option("--to", metavar="CONFIG", help="Configuration of the store to write; the current one without it."),
    ] = None,
    from_store: Annotated[
        str | None, typer.Option("--from-store", metavar="NAME", help="Which of that configuration's stores to read.")
    ] = None,
    to_store: Annotated[
        str | None, typer.Option("--to-store", metavar="NAME", help="Which of that configuration's stores to write.")
    ] = None,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """
    Copy runs from one store to another, of whatever type, and verify each by reading it back.

    Runs that are there already, the same in every part, are skipped. Their data in the catalog is not copied.
    """
    if not (source or target or from_store or to_store):
        raise ConfigurationError("say where from, or where to: --from CONFIG, --to CONFIG, --from-store or --to-store")
    old_side, new_side = _side(session, source, from_store), _side(session, target, to_store)
    # Nothing is opened to be read from unless the other one may be written to.
    await new_side.require(reads=True, writes=True)
    async with (
        old_side.run_log_store(reads=True) as old,
        new_side.run_log_store(reads=True, writes=True) as new,
    ):
        if old.location == new.location and type(old) is type(new):
            raise ConfigurationError(f"source and target are the same: {old.location}")
        jobs = await store_jobs(old, run_ids or [])
        with run_progress(session.output, "copying", len(jobs)) as advance:
            outcomes = await transfer(jobs, new, overwrite=overwrite, dry_run=dry_run, on_outcome=advance)
    report = Report("copied", "copy", dry_run=dry_run, kept_fails=True)
    report.show(session, outcomes, old.location, new.location)


def _side(session: Session, config: Path | None, store: str | None) -> Session:
    """Return the session as if it were for one side of a copy; ``--store`` is of the configuration that is current."""
    own = session.store if config is None else None
    return replace(session, config=config or session.config, store=store or own)


async def export(
    session: Session,
    run_ids: Annotated[list[str], typer.Argument(metavar="RUN", help="The runs' ids.")],
    to: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to this file; of several runs, to <run id>.json in this folder.",
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="FORM",
            help="timeline: values as stored, for magnus and 'runnable timeline'; "
            "runnable: parameters and metrics wrapped as all of runnable wants them.",
        ),
    ] = "timeline",
) -> None:
    """
    Write a run as one JSON document, as magnus and runnable write it.

    Times are local and without a zone, as in their logs.
    """
    if form not in FORMS:
        raise ConfigurationError(f"--for {form!r} is not known; known are {', '.join(FORMS)}")
    many = len(run_ids) > 1
    if many and to is None:
        raise ConfigurationError("several runs do not fit one document: name a folder with --output")
    async with session.run_log_store(reads=True) as store:
        for run_id in run_ids:
            run_log = await store.get_run_log_by_id(run_id)
            text = _document_text(for_other_tools(run_log, wrapped=form == "runnable"))
            if to is None:
                session.output.json_text(text)
                continue
            path = await asyncio.to_thread(_write, to, run_id, text, many=many)
            session.output.note(f"wrote {path}")


def _document_text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)


def _write(to: Path, run_id: str, text: str, *, many: bool) -> Path:
    path = to / f"{run_id}.json" if many or to.is_dir() else to
    try:
        write_atomically(path, f"{text}\n".encode())
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
    return path
