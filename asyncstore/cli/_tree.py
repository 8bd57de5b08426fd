"""A run log as a tree: status, durations, parameters, metrics, files."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.text import Text
from rich.tree import Tree

from asyncstore.cli._output import clean, duration_text, mark, time_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from asyncstore.models import BranchLog, DataCatalog, RunLog, StepLog

__all__ = ["run_duration_s", "run_tree"]

FILES_SHOWN = 5
"""Most files of one step that are named, unless all are asked for."""

VALUE_LIMIT = 60
"""Longest value in characters; the JSON output has them whole."""


def run_tree(run_log: RunLog, *, details: bool = True, all_files: bool = False) -> Tree:
    """
    Return the tree of a run.

    Args:
        run_log: the run, in full.
        details: also show parameters, metrics and files.
        all_files: name every file.
    """
    root = Tree(_run_label(run_log), guide_style="dim")
    if details:
        _add_values(root, "parameters", run_log.parameters)
    # A stack instead of recursion: nesting is data from outside.
    stack = [(root, step) for step in reversed(run_log.steps.values())]
    while stack:
        parent, step = stack.pop()
        node = parent.add(_step_label(step))
        if details:
            _add_details(node, step, all_files=all_files)
        for name, branch in step.branches.items():
            stack += _branch_steps(node, step, name, branch, details=details)
    if not run_log.steps:
        root.add(Text("no steps", style="dim"))
    return root


def run_duration_s(run_log: RunLog) -> float | None:
    """Return the seconds from the first step's start to the last one's end, ``None`` if no step says."""
    attempts = [attempt for step in run_log.walk_steps() for attempt in step.attempts]
    times = [_parsed(text) for attempt in attempts for text in (attempt.start_time, attempt.end_time)]
    known = [time for time in times if time is not None]
    try:
        return (max(known) - min(known)).total_seconds() if known else None
    except TypeError:
        # Some with a time zone, some without: two tools have written into this run.
        return None


def _run_label(run_log: RunLog) -> Text:
    label = Text.assemble(mark(run_log.status), " ", clean(run_log.run_id, "bold"), "  ")
    label.append(run_log.status.lower(), style="dim")
    for part in (run_log.tag or "", duration_text(run_duration_s(run_log)), time_text(run_log.created_at)):
        if part:
            label.append(" · ", style="dim").append_text(clean(part, "dim"))
    return label


def _step_label(step: StepLog) -> Text:
    label = Text.assemble(mark(step.status), " ", clean(step.name))
    label.append("".join(f"  {part}" for part in _step_facts(step)), style="dim")
    if step.message:
        label.append("  ").append_text(clean(step.message, "red"))
    return label


def _step_facts(step: StepLog) -> Iterable[str]:
    if step.attempts:
        yield duration_text(step.attempts[-1].duration_s) or "running"
    if step.step_type != "task":
        yield step.step_type
    if len(step.attempts) > 1:
        yield f"{len(step.attempts)} attempts"


def _branch_steps(
    node: Tree, step: StepLog, name: str, branch: BranchLog, *, details: bool
) -> list[tuple[Tree, StepLog]]:
    short = name.removeprefix(f"{step.internal_name}.")
    below = node.add(Text.assemble(mark(branch.status), " ", clean(short, "italic")))
    if details:
        _add_values(below, "parameters", branch.parameters)
    return [(below, inner) for inner in reversed(branch.steps.values())]


def _add_details(node: Tree, step: StepLog, *, all_files: bool) -> None:
    _add_values(node, "metrics", step.user_defined_metrics)
    for stage in ("get", "put"):
        _add_files(node, stage, [entry for entry in step.data_catalog if entry.stage == stage], all_files=all_files)


def _add_values(node: Tree, title: str, values: Mapping[str, Any]) -> None:
    if values:
        line = Text(f"{title}  ", style="dim")
        line.append_text(Text("  ").join(_pair(key, value) for key, value in values.items()))
        node.add(line)


def _pair(key: str, value: Any) -> Text:
    text = json.dumps(value, ensure_ascii=False)
    shown = text if len(text) <= VALUE_LIMIT else f"{text[:VALUE_LIMIT]}…"
    return Text.assemble(clean(f"{key}=", "cyan"), clean(shown))


def _add_files(node: Tree, stage: str, entries: list[DataCatalog], *, all_files: bool) -> None:
    shown = entries if all_files else entries[:FILES_SHOWN]
    for entry in shown:
        node.add(Text.assemble((f"{stage}  ", "dim"), clean(entry.name), "  ", clean(entry.data_hash[:12], "dim")))
    if len(shown) < len(entries):
        node.add(Text(f"{stage}  … and {len(entries) - len(shown):,} more files", style="dim"))


def _parsed(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
