"""What is printed of runs that are taken from one place to another: how far it is, and what became of each."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from asyncstore.cli._errors import FAILED, exit_code
from asyncstore.cli._output import clean
from asyncstore.cli._progress import LINE_EVERY_S
from asyncstore.runlog.transfer import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.text import Text

    from asyncstore.cli._command import Session
    from asyncstore.cli._output import Output
    from asyncstore.runlog.transfer import Outcome

__all__ = ["Report", "run_progress"]

REASONS_SHOWN = 5
"""Most problems of one run that people are told; the JSON output has them all."""

_SIGNS = {
    State.WRITTEN: ("✓", "green"),
    State.REPLACED: ("✓", "green"),
    State.UNCHANGED: ("=", "dim"),
    State.KEPT: ("!", "yellow"),
    State.FAILED: ("✗", "bold red"),
    State.NOT_A_RUN: ("-", "dim"),
    State.NOT_TRIED: ("-", "dim"),
}


class Report:
    """What is printed of a transfer, and the exit code that tells how it went."""

    def __init__(self, done: str, do: str, *, dry_run: bool, kept_fails: bool = False) -> None:
        self._words = {
            State.WRITTEN: f"to {do}" if dry_run else done,
            State.REPLACED: "to replace" if dry_run else "replaced",
            State.KEPT: "differs",
            State.NOT_A_RUN: "no run log",
        }
        self._dry_run = dry_run
        self._kept_fails = kept_fails

    def show(self, session: Session, outcomes: Sequence[Outcome], source: str, target: str) -> None:
        """Print it; raise :class:`typer.Exit` unless all went well."""
        if session.as_json:
            runs = [self._document(outcome) for outcome in outcomes]
            session.output.json({"from": source, "to": target, "dry_run": self._dry_run, "runs": runs})
        elif outcomes:
            self._print(session.output, outcomes, f"from {source} to {target}")
        else:
            session.output.note(f"no runs in {source}")
        code = self._code(outcomes)
        if code:
            raise typer.Exit(code)

    def _print(self, output: Output, outcomes: Sequence[Outcome], where: str) -> None:
        headings = ["RUN", "STATE", "STEPS", *(["LAYOUT"] if outcomes[0].layout else []), "NOTE"]
        output.table(headings, [self._row(outcome) for outcome in outcomes])
        counts = Counter(self._state(outcome) for outcome in outcomes)
        told = ", ".join(f"{count:,} {state}" for state, count in counts.items())
        nothing = ", and nothing was written" if self._dry_run else ""
        output.show(clean(f"{_runs(len(outcomes))} {where}: {told}{nothing}", "dim"))
        for outcome in outcomes:
            if outcome.problems:
                _tell_problems(output, outcome)

    def _row(self, outcome: Outcome) -> tuple[str | Text, ...]:
        sign, style = _SIGNS[outcome.state] if not outcome.problems else ("◐", "yellow")
        note = f"called {outcome.source} there" if outcome.source != outcome.run_id else ""
        if outcome.state is State.FAILED:
            note = str(outcome.error)
        elif outcome.note:
            note = f"stays as it is, with {outcome.note}; --overwrite replaces it"
        elif outcome.problems:
            note = f"{len(outcome.problems)} problem{'s'[: len(outcome.problems) > 1]}, told below"
        layout = [outcome.layout] if outcome.layout else []
        steps = f"{outcome.steps:,}" if outcome.parts else ""
        return outcome.run_id, clean(f"{sign} {self._state(outcome)}", style), steps, *layout, note

    def _state(self, outcome: Outcome) -> str:
        word = self._words.get(outcome.state, str(outcome.state))
        return f"partly {word}" if outcome.problems and outcome.state is State.WRITTEN and not self._dry_run else word

    def _document(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "run_id": outcome.run_id,
            "source": outcome.source,
            "state": str(outcome.state),
            "layout": outcome.layout or None,
            "parts": outcome.parts,
            "steps": outcome.steps,
            "problems": list(outcome.problems),
            "difference": outcome.note,
            "error": None if outcome.error is None else str(outcome.error),
        }

    def _code(self, outcomes: Sequence[Outcome]) -> int:
        failures = {exit_code(outcome.error) for outcome in outcomes if _failed(outcome) and outcome.error is not None}
        if failures:
            return failures.pop() if len(failures) == 1 else FAILED
        kept = self._kept_fails and any(outcome.state is State.KEPT for outcome in outcomes)
        return FAILED if kept or any(outcome.problems for outcome in outcomes) else 0


def _failed(outcome: Outcome) -> bool:
    return outcome.state is State.FAILED


def _tell_problems(output: Output, outcome: Outcome) -> None:
    output.note(f"{outcome.run_id}:")
    for problem in outcome.problems[:REASONS_SHOWN]:
        output.note(f"  {problem}")
    if len(outcome.problems) > REASONS_SHOWN:
        output.note(f"  … and {len(outcome.problems) - REASONS_SHOWN:,} more, all of them with --json")


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"


@contextmanager
def run_progress(output: Output, doing: str, total: int) -> Iterator[Callable[[object], None]]:
    """Give what is to be called as each run is done: a bar on a terminal, a line now and then otherwise."""
    if output.as_json:
        yield lambda outcome: None
    elif output.err.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=output.err, transient=True) as progress:
            task = progress.add_task(doing, total=total)
            yield lambda outcome: progress.advance(task)
    else:
        yield _lines(output, doing, total)


def _lines(output: Output, doing: str, total: int) -> Callable[[object], None]:
    last = time.monotonic()
    count = 0

    def advance(outcome: object) -> None:
        nonlocal last, count
        count += 1
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            output.note(f"{doing}: {count:,}/{total:,} runs")

    return advance
