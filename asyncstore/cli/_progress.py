"""Transfers as they go on: a bar on a terminal, a line now and then otherwise, nothing for programs."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from asyncstore.cli._output import size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from asyncstore.catalog import ProgressHook, TransferProgress
    from asyncstore.cli._output import Output

__all__ = ["stage_progress", "transfer_progress"]

LINE_EVERY_S = 2.0
"""How often a line says how far it is, where there is no terminal."""


@contextmanager
def transfer_progress(output: Output, doing: str) -> Iterator[ProgressHook]:
    """Give what a catalog is to call as a transfer goes on; ``doing`` names the transfer ("putting")."""
    if output.as_json:
        yield _silent
    elif output.err.is_terminal:
        with _bar(output, doing) as advance:
            yield advance
    else:
        yield _lines(output, doing)


@contextmanager
def stage_progress(output: Output, stages: Sequence[str]) -> Iterator[Callable[[str], None]]:
    """Give what is to be called as each of ``stages`` begins."""
    if output.as_json:
        yield lambda stage: None
    elif output.err.is_terminal:
        columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=output.err, transient=True) as progress:
            task = progress.add_task("", total=len(stages))
            yield lambda stage: progress.update(task, description=stage, completed=stages.index(stage))
    else:
        yield lambda stage: output.note(f"{stages.index(stage) + 1}/{len(stages)} {stage}")


def _silent(step: TransferProgress) -> None:
    pass


@contextmanager
def _bar(output: Output, doing: str) -> Iterator[ProgressHook]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[files]}", style="dim"),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=output.err, transient=True) as progress:
        task = progress.add_task(doing, total=None, files="")

        def advance(step: TransferProgress) -> None:
            progress.update(task, completed=step.bytes_done, total=max(step.bytes_total, 1), files=_files(step))

        yield advance


def _lines(output: Output, doing: str) -> ProgressHook:
    last = time.monotonic()

    def advance(step: TransferProgress) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            output.note(f"{doing}: {_files(step)}, {size_text(step.bytes_done)} of {size_text(step.bytes_total)}")

    return advance


def _files(step: TransferProgress) -> str:
    return f"{step.files_done:,}/{step.files_total:,} files"
