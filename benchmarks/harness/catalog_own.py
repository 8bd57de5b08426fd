"""What is asked of asyncstore alone: an event loop that is never blocked, and memory that does not grow."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.catalog_contest import require_equal, short
from harness.catalog_crew import OURS
from harness.results import Claim
from harness.rounds import progress
from harness.worker import WorkerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.catalog_crew import Crew
    from harness.catalog_trees import Tree
    from harness.worker import Worker

LATE_LIMIT_MS = 20.0
MEMORY_LIMIT_MIB = 150.0
FLAT_GROWTH_MIB = 32.0
"""By how much the largest may need more than the smallest and still count as flat."""

_IDLE_S = 2.0


@dataclass(slots=True)
class Sheet:
    """A table of figures that are not rates."""

    title: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: bool = False
    """Whether asyncstore did not come to an end somewhere."""

    @property
    def verdicts(self) -> list[str]:
        """What became of each goal."""
        return [claim.verdict for claim in self.claims]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        claims = [{"what": c.what, "value": c.value, "goal": c.goal, "met": c.met} for c in self.claims]
        return {"title": self.title, "figures": self.figures, "claims": claims, "notes": self.notes}


def measure_lateness(crew: Crew, trees: dict[str, Tree]) -> Sheet:
    """Tell how late a ticker of 1 ms is while asyncstore works, on either event loop."""
    sheet = Sheet("How late a 1 ms ticker is on the event loop", ["", "p50 ms", "p99 ms", "max ms", "wall s"])
    for uvloop in (False, True):
        loop = "uvloop" if uvloop else "asyncio"
        progress(f"{crew.target.slug}: event loop {loop}")
        with crew.start_ours(uvloop=uvloop) as worker:
            _add_lateness(sheet, f"{loop}, idle", worker.ask("idle", seconds=_IDLE_S))
            for name, tree in trees.items():
                _add_operations(sheet, loop, name, crew, worker, tree)
    busy = [figures for figures in sheet.figures if not figures["name"].endswith("idle")]
    worst = max(busy, key=lambda figures: figures["late_p99_ms"])
    value = f"{worst['late_p99_ms']:.1f} ms ({worst['name']})"
    sheet.claims.append(Claim("worst p99", value, f"≤ {LATE_LIMIT_MS:g} ms", worst["late_p99_ms"] <= LATE_LIMIT_MS))
    return sheet


def _add_operations(sheet: Sheet, loop: str, name: str, crew: Crew, worker: Worker, tree: Tree) -> None:
    key = crew.new_key(OURS)
    asked = {"key": key, "options": {"cache": crew.new_cache(), "ticking": "yes"}}
    with crew.scratch.copy_of(tree) as copy:
        for what, operation, folder in (
            ("put", "up", tree.folder),
            ("put again", "up", tree.folder),
            ("get", "down", copy),
            ("get again", "down", copy),
            ("list", "list", copy),
            ("sync_between_runs", "sync", copy),
            ("delete", "delete", copy),
        ):
            crew.settle()
            figures = worker.ask(operation, folder=str(folder), **asked)
            _add_lateness(sheet, f"{loop}, {what}: {name}", figures)
        require_equal(tree, copy)
    crew.delete(key, tree)


def _add_lateness(sheet: Sheet, name: str, figures: dict[str, float]) -> None:
    sheet.figures.append({"name": name, **figures})
    cells = [f"{figures[f'late_{key}_ms']:.2f}" for key in ("p50", "p99", "max")]
    sheet.rows.append([name, *cells, f"{figures['wall_s']:.2f}" if "wall_s" in figures else ""])


def measure_memory(crew: Crew, families: Mapping[str, Sequence[tuple[str, Tree]]], bare_mib: float) -> Sheet:
    """
    Tell what memory asyncstore needs at its peak, each time in a process that has done nothing else.

    Args:
        crew: starts it.
        families: what is moved, from small to large, by what grows; what has no known hashes is neither kept by the
            server nor compared.
        bare_mib: what an interpreter needs that does nothing.
    """
    head = ["MiB above a bare interpreter", "put", "get", "idle"]
    sheet = Sheet("Peak memory of asyncstore's process at its defaults", head)
    for grows, trees in families.items():
        peaks = []
        for name, tree in trees:
            progress(f"{crew.target.slug}: memory of {name}")
            try:
                figures = _memory_of(crew, tree)
            except WorkerError as error:
                crew.tell(f"{name}: {error}")
                sheet.failed = True
                sheet.claims.append(Claim(name, f"failed: {short(error)}", "measured", met=False))
                continue
            above = {key: value - bare_mib for key, value in figures.items()}
            sheet.figures.append({"name": name, **above})
            sheet.rows.append([name, *(f"{above[key]:.0f}" for key in ("put", "get", "idle"))])
            peaks.append(max(above["put"], above["get"]))
        if peaks:
            highest = max(peaks)
            claim = Claim(f"peak, any {grows}", f"{highest:.0f} MiB", f"≤ {MEMORY_LIMIT_MIB:g} MiB", True)
            claim.met = highest <= MEMORY_LIMIT_MIB
            grown = peaks[-1] - peaks[0]
            flat = Claim(f"growth with {grows}", f"{grown:+.0f} MiB", f"≤ {FLAT_GROWTH_MIB:g} MiB", True)
            flat.met = grown <= FLAT_GROWTH_MIB
            sheet.claims += [claim, flat]
    sheet.notes.append(f"a bare interpreter needs {bare_mib:.0f} MiB; idle is what asyncstore and its libraries weigh")
    return sheet


def _memory_of(crew: Crew, tree: Tree) -> dict[str, float]:
    stub = crew.target.stub
    discarded = not all(digest for _, digest in tree.files.values())
    key = crew.new_key(OURS)
    if discarded and stub:
        stub.configure(discards=True)
    try:
        with crew.scratch.copy_of(tree) as copy, crew.start_ours(uvloop=True) as worker:
            idle_mib = worker.ask("idle", seconds=0.1)["resident_mib"]
            asked = {"key": key, "options": {"cache": crew.new_cache()}}
            put = worker.ask("up", folder=str(tree.folder), **asked)
            get = worker.ask("down", folder=str(copy), **asked)
            if not discarded:
                require_equal(tree, copy)
    finally:
        crew.delete(key, tree)
        if discarded and stub:
            stub.configure(discards=False)
    return {"put": put["peak_mib"], "get": get["peak_mib"], "idle": idle_mib}


def bare_interpreter_mib() -> float:
    """Return what memory an interpreter needs that does nothing."""
    code = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    # By way of a shell: what starts a process counts into its peak.
    command = ["/bin/sh", "-c", '"$0" -c "$1"; exit', sys.executable, code]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024
