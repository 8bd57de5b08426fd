"""
``asyncstore catalog``: move the data of runs.

:mod:`_catalog_plan` has what carries out plans, :mod:`_catalog_share` what gives away links,
:mod:`_catalog_upkeep` what checks and tidies up.
"""

from typing import Annotated

import typer

from asyncstore.cli import _catalog_plan, _catalog_share, _catalog_upkeep
from asyncstore.cli._catalog_options import (
    GOES_ON,
    AllowNoMatchOption,
    ConcurrencyOption,
    DryRunOption,
    ExcludeOption,
    FolderOption,
    KeepTimesOption,
    LocalFolderOption,
    MemoryOption,
    PatternsArgument,
    RateOption,
    RunArgument,
    limits,
)
from asyncstore.cli._catalog_report import carry_out, files, run_first, show_files, show_plan
from asyncstore.cli._command import Session, command
from asyncstore.cli._output import clean
from asyncstore.errors import NotFoundError

__all__ = ["NAME", "app"]

NAME = "catalog"
app = typer.Typer(
    help="Move the data of runs: put, get, list, sync; share it, verify it, sweep up.", no_args_is_help=True
)


@command(app, "put", interrupted=GOES_ON)
async def put(
    session: Session,
    run_id: RunArgument,
    patterns: PatternsArgument = None,
    folder: FolderOption = None,
    local_folder: LocalFolderOption = None,
    exclude: ExcludeOption = None,
    base_run: Annotated[
        str | None,
        typer.Option("--base-run", metavar="RUN", help="Copy, inside the storage, what that run has already."),
    ] = None,
    allow_no_match: AllowNoMatchOption = False,
    dry_run: DryRunOption = False,
    max_memory: MemoryOption = None,
    max_bandwidth: RateOption = None,
    max_concurrency: ConcurrencyOption = None,
) -> None:
    """Put files of the compute data folder into the catalog."""
    async with session.services(limits(max_memory, max_bandwidth, max_concurrency), writes=True) as services:
        with run_first("put", run_id):
            plan = await services.catalog.put(
                patterns or ["**"],
                run_id,
                folder,
                exclude=exclude or (),
                local_folder=local_folder,
                base_run_id=base_run,
                allow_no_match=allow_no_match,
                dry_run=True,
            )
        if dry_run:
            show_plan(session, plan)
        else:
            await carry_out(session, services.catalog, plan)


@command(app, "get", interrupted=GOES_ON)
async def get(
    session: Session,
    run_id: RunArgument,
    patterns: PatternsArgument = None,
    folder: FolderOption = None,
    local_folder: LocalFolderOption = None,
    exclude: ExcludeOption = None,
    keep_times: KeepTimesOption = False,
    allow_no_match: AllowNoMatchOption = False,
    dry_run: DryRunOption = False,
    max_memory: MemoryOption = None,
    max_bandwidth: RateOption = None,
    max_concurrency: ConcurrencyOption = None,
) -> None:
    """Get files of a run from the catalog into the compute data folder."""
    async with session.services(limits(max_memory, max_bandwidth, max_concurrency), reads=True) as services:
        with run_first("get", run_id):
            plan = await services.catalog.get(
                patterns or ["**"],
                run_id,
                folder,
                exclude=exclude or (),
                local_folder=local_folder,
                allow_no_match=allow_no_match,
                dry_run=True,
            )
        if dry_run:
            show_plan(session, plan)
        else:
            await carry_out(session, services.catalog, plan, keep_times=keep_times)


@command(app, "list")
async def list_files(session: Session, run_id: RunArgument) -> None:
    """List the files that a run has in the catalog."""
    async with session.services(reads=True) as services:
        entries = [entry async for entry in services.catalog.list(run_id)]
        # A catalog that is nowhere keeps nothing, so it cannot lack a run.
        if not entries and services.catalog.location:
            raise NotFoundError(f"run {run_id!r} has no data in {services.catalog.location}: is the run id right?")
        if session.as_json:
            session.output.json([entry.model_dump(mode="json") for entry in entries])
        else:
            show_files(session, entries)
            session.output.show(clean(f"{files(len(entries))} in {services.catalog.location}", "dim"))


@command(app, "sync", interrupted=GOES_ON)
async def sync(
    session: Session,
    previous_run_id: Annotated[str, typer.Argument(metavar="FROM", help="The run that has the data.")],
    run_id: Annotated[str, typer.Argument(metavar="TO", help="The run that is to have it, too.")],
    dry_run: DryRunOption = False,
) -> None:
    """Copy the data of one run to another, inside the storage."""
    async with session.services(reads=True, writes=True) as services:
        plan = await services.catalog.sync_between_runs(previous_run_id, run_id, dry_run=True)
        if dry_run:
            show_plan(session, plan)
        else:
            await carry_out(session, services.catalog, plan)


_catalog_plan.register(app)
_catalog_share.register(app)
_catalog_upkeep.register(app)
