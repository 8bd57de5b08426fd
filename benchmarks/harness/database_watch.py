"""Eight writers of asyncstore on one run, with and without somebody who watches it."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.database_contest import OURS, start_contender
from harness.results import Entry
from harness.rounds import measure, progress, rotated
from harness.work import step_fields

if TYPE_CHECKING:
    import contextlib

    from harness.databases import DatabaseTarget

WRITERS = 8
START_DELAY_S = 0.3
"""Long enough for all writers to have been told when to begin."""

STRIDE = 10_000_000
"""Numbers of step logs that each writer has for itself."""


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """How much is measured."""

    rounds: int
    seconds: float
    """How long the writers write in each round."""
    databases: tuple[str, ...]
    uvloop: bool


@dataclass(slots=True)
class Lags:
    """From the return of a write to the moment when the watcher was given it."""

    written: int = 0
    seen: int = 0
    milliseconds: list[list[float]] = field(default_factory=list)
    """Of each round; nought of what the watcher was given before its writer was told."""

    def add(self, acknowledged_ns: dict[str, int], seen_ns: dict[str, int]) -> None:
        """Take in a round: by name, when each step log was acknowledged, and when it was seen."""
        seen = acknowledged_ns.keys() & seen_ns.keys()
        self.written += len(acknowledged_ns)
        self.seen += len(seen)
        self.milliseconds.append([max(0, seen_ns[name] - acknowledged_ns[name]) / 1e6 for name in seen])

    def percentile(self, percent: int) -> float:
        """Return the lag, in ms, that so many percent of all do not exceed; infinity if nothing was seen."""
        return _percentile([lag for lags in self.milliseconds for lag in lags], percent)

    def as_json(self) -> dict[str, Any]:
        """Return what is worth keeping."""
        shown = {f"p{percent}_ms": self.percentile(percent) for percent in (50, 90, 99)}
        rounds_p99 = [_percentile(lags, 99) for lags in self.milliseconds]
        longest = max((max(lags, default=math.inf) for lags in self.milliseconds), default=math.inf)
        return {"written": self.written, "seen": self.seen, **shown, "max_ms": longest, "rounds_p99_ms": rounds_p99}


class Watching:
    """
    Rounds of writing with a watcher, and without.

    Args:
        target: the database, with its table.
        plan: how much is measured.
        stack: ends the contenders.

    Attributes:
        watched: the writers, while a watcher looks on.
        unwatched: the writers alone.
        lags: of the watcher.
        watcher_cores: how many cores the watcher kept busy in each round.
    """

    def __init__(self, target: DatabaseTarget, plan: WatchPlan, stack: contextlib.ExitStack) -> None:
        self.target = target
        self.plan = plan
        started = [stack.enter_context(start_contender(target, OURS, uvloop=plan.uvloop)) for _ in range(WRITERS + 1)]
        self._watcher, *self._writers = started
        self.watched = Entry("asyncstore, with a watcher")
        self.unwatched = Entry("asyncstore, without")
        self.lags = Lags()
        self.watcher_cores: list[float] = []

    def run(self) -> None:
        """Warm up, and measure the rounds."""
        progress(f"{self.target.kind}: warming up")
        for entry in (self.watched, self.unwatched):
            self._round(entry, f"warm-up {entry.name}", min(1.0, self.plan.seconds))
            entry.samples.clear()
        self.lags, self.watcher_cores = Lags(), []
        for turn in range(self.plan.rounds):
            progress(f"{self.target.kind}: round {turn + 1} of {self.plan.rounds}")
            both = {entry.name: entry for entry in (self.watched, self.unwatched)}
            for name in rotated(list(both), turn):
                self._round(both[name], f"round-{turn} {name}", self.plan.seconds)

    def _round(self, entry: Entry, run_id: str, seconds: float) -> None:
        self.target.clear()
        self._writers[0].ask("create", run_id=run_id)
        if entry is not self.watched:
            entry.samples.append(measure(self.target, lambda: self._write(run_id, seconds)[0], 0))
            return
        self._watcher.ask("watch_begin", run_id=run_id)
        acknowledged_ns: dict[str, int] = {}

        def work() -> dict[str, float]:
            figures, acknowledged = self._write(run_id, seconds)
            acknowledged_ns.update(acknowledged)
            return figures

        entry.samples.append(measure(self.target, work, 0))
        self._writers[0].ask("finish", run_id=run_id)
        seen = self._watcher.ask("watch_end")
        self.lags.add(acknowledged_ns, seen["seen_ns"])
        self.watcher_cores.append(seen["cpu_s"] / seen["wall_s"])

    def _write(self, run_id: str, seconds: float) -> tuple[dict[str, float], dict[str, int]]:
        """Have all writers write at the same time; return their figures, and when each step log was acknowledged."""
        start_s = time.monotonic() + START_DELAY_S
        for number, writer in enumerate(self._writers):
            writer.begin("add_during", run_id=run_id, first=number * STRIDE, start_s=start_s, seconds=seconds)
        results = [writer.result() for writer in self._writers]
        acknowledged_ns = {
            step_fields(number * STRIDE + position)["internal_name"]: moment
            for number, result in enumerate(results)
            for position, moment in enumerate(result["acknowledged_ns"])
        }
        figures = {
            "acknowledged": len(acknowledged_ns),
            "wall_s": max(result["wall_s"] for result in results),
            "cpu_s": sum(result["cpu_s"] for result in results),
            "peak_mib": max(result["peak_mib"] for result in results),
        }
        return figures, acknowledged_ns


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1] if len(values) > 1 else math.inf
