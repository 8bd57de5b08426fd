"""``asyncstore demo``: the example pipeline, run over real files and shown."""

import asyncio
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from asyncstore.cli._command import Session, command
from asyncstore.cli._output import clean, mark
from asyncstore.cli._progress import stage_progress
from asyncstore.cli._tree import run_duration_s, run_tree
from asyncstore.models import SUCCESS
from asyncstore.services import Services

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    command(app, "demo")(demo)


async def demo(
    session: Session,
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="Folder of text files; by default this Python's standard library."),
    ] = None,
) -> None:
    """Run a pipeline over the text files of a folder, record it, move its data, and show all of it."""
    pipeline = await asyncio.to_thread(load_pipeline)
    folder = folder or pipeline.default_folder()
    async with session.services(reads=True, writes=True) as services:
        with stage_progress(session.output, [*pipeline.STAGES, "get it all back"]) as on_stage:
            result = await pipeline.run_pipeline(services, folder, on_stage)
            on_stage("get it all back")
            count = await pipeline.fetch_again(services, result)
        await _show(session, services, result, count)


def load_pipeline() -> ModuleType:
    """Load the example: beside this file in an installed package, in ``examples/`` of a checkout."""
    here = Path(__file__).resolve()
    candidates = (here.with_name("_text_pipeline.py"), here.parents[2] / "examples" / "text_pipeline.py")
    path = next((path for path in candidates if path.is_file()), candidates[0])
    spec = importlib.util.spec_from_file_location("asyncstore.cli._text_pipeline", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


async def _show(session: Session, services: Services, result: Any, count: int) -> None:
    run_log = await services.run_log_store.get_run_log_by_id(result.run_id)
    places = {
        "run_log": services.run_log_store.location,
        "catalog": services.catalog.location,
        "data": str(await asyncio.to_thread(result.data_folder.absolute)),
    }
    if session.as_json:
        found = {"run_id": result.run_id, "seconds": run_duration_s(run_log), "files_verified": count}
        run = run_log.model_dump(mode="json", warnings=False)
        session.output.json({**found, "locations": places, "report": result.report, "run": run})
    else:
        session.output.show(Group(run_tree(run_log, details=False), "", *_report(result.report), ""))
        session.output.show(_summary(count, places, result.run_id))


def _report(markdown: str) -> Iterator[Text]:
    for line in markdown.strip().splitlines():
        if line.startswith("# "):
            yield clean(line.removeprefix("# "), "bold")
        elif line:
            yield clean(line)


def _summary(count: int, places: Mapping[str, str], run_id: str) -> Text:
    agreed = f"{count} files put into the catalog and got back into an empty folder: every hash agrees\n\n"
    summary = Text.assemble(mark(SUCCESS), " ", agreed)
    for name, place in places.items():
        summary.append(f"{name.replace('_', ' '):<9}", style="dim").append_text(clean(place)).append("\n")
    summary.append(f"\nasyncstore runs show {run_id}", style="cyan")
    return summary.append("  shows parameters, metrics and files", style="dim")
