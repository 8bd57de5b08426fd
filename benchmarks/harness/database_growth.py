"""asyncstore on a table of millions of rows, and on a small one of the same database."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from harness.database_contest import OURS, start_contender
from harness.databases import POSTGRES, DatabaseTarget
from harness.results import Entry
from harness.rounds import measure, progress, rotated

if TYPE_CHECKING:
    import contextlib

    from harness.worker import Worker

STEPS = 1000
"""Step logs of each run that is filled in; its header is a row too."""

LIST_LIMIT = 50

CHECKPOINT = "PRAGMA wal_checkpoint(TRUNCATE)"

_VALUES = """
SELECT {number}, 'filled-' || (n / {each}),
       CASE WHEN n % {each} = 0 THEN 'run_log' ELSE 'step-' || (n % {each} - 1) END,
       CASE WHEN n % {each} = 0 THEN 'RunLog' ELSE 'StepLog' END,
       CASE WHEN n % {each} = 0 THEN replace({header}, 'template', 'filled-' || (n / {each}))
            ELSE replace({step}, 'step-0', 'step-' || (n % {each} - 1)) END,
       {stamp}
"""
_COLUMNS = "(pk, run_id, attribute_key, attribute_type, attribute_value, created_at)"
_POSTGRES_STAMP = "timestamp '2025-01-01' + n * interval '1 millisecond'"
_SQLITE_STAMP = "strftime('%Y-%m-%d %H:%M:%f', 1735689600 + n / 1000.0, 'unixepoch') || '000'"


@dataclass(frozen=True, slots=True)
class GrowthPlan:
    """How much is measured."""

    rounds: int
    large: int
    """Rows of the large table, rounded up to whole runs."""
    small: int
    adds: int
    """Step logs added by 64 tasks."""
    lone: int
    """Step logs added one after the other."""
    reads: int
    """Runs read in full, and lists of the newest runs, one after the other."""
    databases: tuple[str, ...]
    uvloop: bool


class Growth:
    """
    The same work on two tables of one database, in turn.

    Args:
        target: the database, with an empty table.
        plan: how much is measured.
        stack: ends the contenders.

    Attributes:
        sizes: how many rows each table began with.
        work: by title, what was measured on each table.
        kept: how many of all step logs added are in the tables, and how many that should have been.
        fill_s: how long it took to fill each table in.
    """

    def __init__(self, target: DatabaseTarget, plan: GrowthPlan, stack: contextlib.ExitStack) -> None:
        self.target = target
        self.plan = plan
        wanted = {"large": plan.large, "small": plan.small}
        self.sizes = {name: ceil(rows / STEPS) * (STEPS + 1) for name, rows in wanted.items()}
        self.fill_s: dict[str, float] = {}
        self.kept = (0, 0)
        self._targets = {name: target.another(name) for name in self.sizes}
        self._fill()
        self._workers: dict[str, Worker] = {
            name: stack.enter_context(start_contender(target, OURS, uvloop=plan.uvloop))
            for name, target in self._targets.items()
        }
        self.titles = {
            "add": f"{plan.adds:,} step logs added by 64 tasks",
            "add_alone": f"one step log added to an idle store ({plan.lone}, one after the other)",
            "read_each": f"full read of a run of {STEPS:,} steps ({plan.reads}, one after the other)",
            "list_each": f"the newest {LIST_LIMIT} runs listed ({plan.reads} times)",
        }
        self.work = {
            operation: {name: Entry(f"in a table of {rows:,} rows") for name, rows in self.sizes.items()}
            for operation in self.titles
        }

    def run(self) -> None:
        """Warm up, and measure the rounds."""
        for worker in self._workers.values():
            # The small table alone has not enough runs for a list.
            for number in range(LIST_LIMIT):
                worker.ask("create", run_id=f"listed-{number}")
        self._round("warm-up", 0)
        for entries in self.work.values():
            for entry in entries.values():
                entry.samples.clear()
        self.kept = (0, 0)
        for turn in range(self.plan.rounds):
            progress(f"{self.target.kind}: round {turn + 1} of {self.plan.rounds}")
            self._round(f"round-{turn}", turn)

    def _round(self, run_id: str, turn: int) -> None:
        plan, names = self.plan, rotated(list(self._workers), turn)
        alone = f"{run_id}-alone"
        for worker in self._workers.values():
            worker.ask("create", run_id=run_id)
            worker.ask("create", run_id=alone)
        for name in names:
            self._measure(name, "add", plan.adds, run_id=run_id, count=plan.adds)
        for name in names:
            self._measure(name, "add_alone", plan.lone, run_id=alone, count=plan.lone)
        for name in names:
            # Runs from everywhere in the table, so that none lies in a cache for having been read just now.
            filled = random.sample(range(self.sizes[name] // (STEPS + 1)), k=min(plan.reads, plan.small // STEPS))
            run_ids = [f"filled-{number}" for number in filled]
            self._measure(name, "read_each", len(run_ids), run_ids=run_ids, count=STEPS)
        for name in names:
            self._measure(name, "list_each", plan.reads, lists=plan.reads, limit=LIST_LIMIT)
        for name in names:
            self._check(name, {run_id: plan.adds, alone: plan.lone})

    def _measure(self, name: str, operation: str, times: int, **arguments: object) -> None:
        def work() -> Any:
            return self._workers[name].ask(operation, **arguments)

        self.work[operation][name].samples.append(measure(self._targets[name], work, times))

    def _check(self, name: str, wanted: dict[str, int]) -> None:
        runs = ", ".join(f"'{run_id}'" for run_id in wanted)
        count = f"SELECT count(DISTINCT run_id || attribute_key) FROM db_log WHERE run_id IN ({runs})"
        found = self._targets[name].run(f"{count} AND attribute_type = 'StepLog'")[0]
        self.kept = (self.kept[0] + found, self.kept[1] + sum(wanted.values()))

    def _fill(self) -> None:
        """Fill both tables in, in the words that asyncstore wrote, and settle what was written."""
        with start_contender(self.target, OURS, uvloop=False) as worker:
            worker.ask("create", run_id="template")
            worker.ask("add", run_id="template", count=1)
        value = "SELECT attribute_value FROM db_log WHERE run_id = 'template' AND attribute_type = '{}'"
        header, step = (_literal(self.target.run(value.format(kind))[0]) for kind in ("RunLog", "StepLog"))
        for name, rows in self.sizes.items():
            progress(f"{self.target.kind}: filling in {rows:,} rows")
            start = time.monotonic()
            self._targets[name].run(*self._filling(name, rows, header, step))
            self.fill_s[name] = time.monotonic() - start

    def _filling(self, name: str, rows: int, header: str, step: str) -> list[str]:
        texts = {"each": STEPS + 1, "header": header, "step": step}
        if self.target.kind == POSTGRES:
            values = _VALUES.format(**texts, number="nextval('id_seq')", stamp=_POSTGRES_STAMP)
            wanted = "SELECT indexdef FROM pg_indexes WHERE tablename = 'db_log' AND indexname <> 'db_log_pkey'"
            indexes = self._targets[name].run(wanted)
            drops = [f"DROP INDEX {index.split(' INDEX ')[1].split()[0]}" for index in indexes]
            insert = f"INSERT INTO db_log {_COLUMNS} {values} FROM generate_series(0, {rows - 1}) AS n"
            return [*drops, insert, *indexes, "VACUUM ANALYZE db_log", "CHECKPOINT"]
        values = _VALUES.format(**texts, number="n + 1", stamp=_SQLITE_STAMP)
        indexes = self._targets[name].run("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        drops = [f"DROP INDEX {index.split(' INDEX ')[1].split()[0]}" for index in indexes]
        series = f"WITH RECURSIVE series(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM series LIMIT {rows})"
        insert = f"{series} INSERT INTO db_log {_COLUMNS} {values} FROM series"
        # Without a journal only while nothing is in the file that could be lost.
        return ["PRAGMA journal_mode=OFF", *drops, insert, *indexes, "PRAGMA journal_mode=WAL", CHECKPOINT]


def _literal(text: str) -> str:
    quoted = text.replace("'", "''")
    return f"'{quoted}'"
