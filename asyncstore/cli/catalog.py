"""``asyncstore catalog``: move the data of runs."""

from collections.abc import Sequence
from typing import Annotated

import typer

from asyncstore.cli._command import Session, command
from asyncstore.cli._output import clean
from asyncstore.cli._progress import transfer_progress
from asyncstore.models import DataCatalog

__all__ = ["NAME", "app"]

NAME = "catalog"
app = typer.Typer(help="Move the data of runs: put, get, list, sync.", no_args_is_help=True)

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
PatternsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PATTERN]...", help="Globs within the folder, '**' by default; ** crosses folders, * does not."
    ),
]
FolderOption = Annotated[
    str | None, typer.Option("--folder", metavar="FOLDER", help="The compute data folder, if not the configured one.")
]


@command(app, "put")
async def put(
    session: Session, run_id: RunArgument, patterns: PatternsArgument = None, folder: FolderOption = None
) -> None:
    """Put files of the compute data folder into the catalog."""
    async with session.services() as services:
        with transfer_progress(session.output, "putting") as on_progress:
            entries = await services.catalog.put(patterns or ["**"], run_id, folder, on_progress=on_progress)
        _show(session, entries, f"in {services.catalog.location}")


@command(app, "get")
async def get(
    session: Session, run_id: RunArgument, patterns: PatternsArgument = None, folder: FolderOption = None
) -> None:
    """Get files of a run from the catalog into the compute data folder."""
    async with session.services() as services:
        with transfer_progress(session.output, "getting") as on_progress:
            entries = await services.catalog.get(patterns or ["**"], run_id, folder, on_progress=on_progress)
        _show(session, entries, f"from {services.catalog.location}")


@command(app, "list")
async def list_files(session: Session, run_id: RunArgument) -> None:
    """List the files that a run has in the catalog."""
    async with session.services() as services:
        entries = [entry async for entry in services.catalog.list(run_id)]
        _show(session, entries, f"in {services.catalog.location}")


@command(app, "sync")
async def sync(
    session: Session,
    previous_run_id: Annotated[str, typer.Argument(metavar="FROM", help="The run that has the data.")],
    run_id: Annotated[str, typer.Argument(metavar="TO", help="The run that is to have it, too.")],
) -> None:
    """Copy the data of one run to another, inside the storage."""
    async with session.services() as services:
        with transfer_progress(session.output, "copying") as on_progress:
            entries = await services.catalog.sync_between_runs(previous_run_id, run_id, on_progress=on_progress)
        _show(session, entries, f"in {services.catalog.location}")


def _show(session: Session, entries: Sequence[DataCatalog], where: str) -> None:
    if session.as_json:
        session.output.json([entry.model_dump(mode="json") for entry in entries])
        return
    if entries:
        session.output.table(["SHA-256", "FILE"], [(entry.data_hash[:12], entry.name) for entry in entries])
    count = "1 file" if len(entries) == 1 else f"{len(entries):,} files"
    session.output.show(clean(f"{count} {where}", "dim"))
