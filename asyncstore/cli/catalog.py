"""``asyncstore catalog``: move the data of runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from asyncstore.catalog import ProgressHook, TransferProgress
from asyncstore.cli._command import Session, command
from asyncstore.cli._output import clean
from asyncstore.cli._progress import transfer_progress
from asyncstore.errors import InvalidValueError, NotFoundError
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
        with _run_first("put", run_id), _counted(session, "putting") as count:
            entries = await services.catalog.put(patterns or ["**"], run_id, folder, on_progress=count)
        _show(session, entries, f"in {services.catalog.location}", count.skipped)


@command(app, "get")
async def get(
    session: Session, run_id: RunArgument, patterns: PatternsArgument = None, folder: FolderOption = None
) -> None:
    """Get files of a run from the catalog into the compute data folder."""
    async with session.services() as services:
        with _run_first("get", run_id), _counted(session, "getting") as count:
            entries = await services.catalog.get(patterns or ["**"], run_id, folder, on_progress=count)
        _show(session, entries, f"from {services.catalog.location}", count.skipped)


@command(app, "list")
async def list_files(session: Session, run_id: RunArgument) -> None:
    """List the files that a run has in the catalog."""
    async with session.services() as services:
        entries = [entry async for entry in services.catalog.list(run_id)]
        # A catalog that is nowhere keeps nothing, so it cannot lack a run.
        if not entries and services.catalog.location:
            raise NotFoundError(f"run {run_id!r} has no data in {services.catalog.location}: is the run id right?")
        _show(session, entries, f"in {services.catalog.location}")


@command(app, "sync")
async def sync(
    session: Session,
    previous_run_id: Annotated[str, typer.Argument(metavar="FROM", help="The run that has the data.")],
    run_id: Annotated[str, typer.Argument(metavar="TO", help="The run that is to have it, too.")],
) -> None:
    """Copy the data of one run to another, inside the storage."""
    async with session.services() as services:
        with _counted(session, "copying") as count:
            entries = await services.catalog.sync_between_runs(previous_run_id, run_id, on_progress=count)
        _show(session, entries, f"in {services.catalog.location}", count.skipped)


class _Count:
    """Passes progress on, and remembers how many files were the same already."""

    def __init__(self, on_progress: ProgressHook) -> None:
        self._on_progress = on_progress
        self.skipped = 0

    def __call__(self, progress: TransferProgress, /) -> None:
        self.skipped = progress.files_skipped
        self._on_progress(progress)


@contextmanager
def _counted(session: Session, doing: str) -> Iterator[_Count]:
    with transfer_progress(session.output, doing) as on_progress:
        yield _Count(on_progress)


@contextmanager
def _run_first(verb: str, run_id: str) -> Iterator[None]:
    """Say how arguments are ordered where the run id looks like a pattern and nothing was found."""
    try:
        yield
    except (InvalidValueError, NotFoundError) as error:
        if not set("*?[") & set(run_id):
            raise
        hint = f"{error}; the run comes first: asyncstore catalog {verb} RUN [PATTERN]..."
        raise (NotFoundError if isinstance(error, NotFoundError) else InvalidValueError)(hint) from error


def _show(session: Session, entries: Sequence[DataCatalog], where: str, skipped: int = 0) -> None:
    if session.as_json:
        session.output.json([entry.model_dump(mode="json") for entry in entries])
        return
    if entries:
        session.output.table(["SHA-256", "FILE"], [(entry.data_hash[:12], entry.name) for entry in entries])
    count = "1 file" if len(entries) == 1 else f"{len(entries):,} files"
    unchanged = f", {'all' if skipped == len(entries) else f'{skipped:,}'} unchanged" if skipped else ""
    session.output.show(clean(f"{count} {where}{unchanged}", "dim"))
