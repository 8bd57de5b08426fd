"""The contenders at one database: starting them, and measuring them in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.databases import DATABASES, POSTGRES, SQLITE, DatabaseTarget
from harness.results import Entry
from harness.rounds import measure, progress, rotated
from harness.work import TASKS
from harness.worker import Worker

if TYPE_CHECKING:
    import contextlib

OURS, READER = "asyncstore", "reader"
"""The second is another process: it reads runs that it has not written."""
SQLALCHEMY, ASYNCPG = "sqlalchemy", "asyncpg"
UNNEST, EXECUTEMANY, COPY = "unnest", "executemany", "copy"
AIOSQLITE, SQLITE3 = "aiosqlite", "sqlite3"

MODELS = f"{SQLALCHEMY} models"
"""The SQLAlchemy contender, when it parses what it reads."""

PEERS = {
    POSTGRES: (SQLALCHEMY, ASYNCPG, UNNEST, EXECUTEMANY, COPY),
    SQLITE: (SQLALCHEMY, SQLITE3, AIOSQLITE),
}
POOLS = {POSTGRES: (10, 20, 64), SQLITE: (1, 10, 20, 64)}
MANY_TASKS = 1000
PORTIONS = 3
"""How often in a round contenders take turns at what is short: lone rows, and reading."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    adds: int
    """Step logs added by 64 tasks, and by 1,000."""
    steps: int
    """Step logs of the runs that are read."""
    lone: int
    """Step logs added one after the other, before the next contender has its turn."""
    trial: int
    """Rows that are written to choose the size of a pool."""
    databases: tuple[str, ...]
    uvloop: bool


FULL = Plan(rounds=5, adds=20_000, steps=1000, lone=100, trial=3000, databases=DATABASES, uvloop=False)
QUICK = replace(FULL, rounds=3, adds=3000, lone=50, trial=600)


def start_contender(target: DatabaseTarget, name: str, *options: str, uvloop: bool) -> Worker:
    """Return the worker, to be entered, of a contender."""
    kind = OURS if name == READER else name
    arguments = [kind, "--url", target.url, *options, *(["--uvloop"] if uvloop else [])]
    return Worker("database_contenders", arguments)


class Contest:
    """
    The contenders at one database, each of which is started here.

    Args:
        target: the database, with its table.
        plan: how much is measured.
        stack: ends the contenders.

    Attributes:
        adds: 64 tasks add step logs, by contender; the bounds write batches of 64.
        crowds: the same with 1,000 tasks, and batches of 1,000; on Postgres alone.
        alone: step logs added one after the other.
        reads: a run is read in full.
        pools: rows in a second for each size of pool that was tried, by contender.
        statements: those that the database executed for asyncstore to read a run in full.
        kept: by contender, how many of all step logs added somebody else found, and how many that should have been.
    """

    def __init__(self, target: DatabaseTarget, plan: Plan, stack: contextlib.ExitStack) -> None:
        self.target = target
        self.plan = plan
        self._peers = PEERS[target.kind]
        self._workers = {
            name: stack.enter_context(start_contender(target, name, uvloop=plan.uvloop))
            for name in (OURS, READER, *self._peers)
        }
        self.pools: dict[str, dict[int, float]] = {}
        self.statements: list[str] = []
        self.kept: dict[str, tuple[int, int]] = {}
        self.adds: dict[str, Entry] = {}
        self.crowds: dict[str, Entry] = {}
        self.alone: dict[str, Entry] = {}
        self.reads: dict[str, Entry] = {}

    def run(self) -> None:
        """Warm everybody up, and measure the rounds."""
        progress(f"{self.target.kind}: warming up")
        self._warm_up()
        self._name_entries()
        self.statements = self._statements_of_read()
        for turn in range(self.plan.rounds):
            progress(f"{self.target.kind}: round {turn + 1} of {self.plan.rounds}")
            self._round(turn)

    def _warm_up(self) -> None:
        count = self._warm_up_count
        self._ask(OURS, "create", run_id="warm-up")
        self._ask(OURS, "add", run_id="warm-up", count=count)
        self._ask(READER, "read", run_id="warm-up", count=count)
        for name in self._peers:
            if name in (SQLALCHEMY, ASYNCPG):
                self._ask(name, "use", pool=POOLS[self.target.kind][0])
            self._ask(name, "load", run_id="warm-up", count=count)
            if name in (SQLALCHEMY, ASYNCPG):
                self._choose_pool(name)
            elif name != AIOSQLITE:
                self._ask(name, "add", run_id=f"warm-up {name}", count=self.plan.trial)

    def _choose_pool(self, name: str) -> None:
        rates = {}
        for size in POOLS[self.target.kind]:
            self._ask(name, "use", pool=size)
            self._ask(name, "add", run_id=f"warm-up {name} {size}", count=self.plan.trial // 10)
            figures = self._ask(name, "add", run_id=f"trial {name} {size}", count=self.plan.trial)
            rates[size] = self.plan.trial / figures["wall_s"]
        self._ask(name, "use", pool=self._best(rates))
        self.pools[name] = rates

    def _name_entries(self) -> None:
        pools = {name: f"pool of {self._best(rates)}" for name, rates in self.pools.items()}
        each = f"SQLAlchemy, a transaction per row, {pools[SQLALCHEMY]}"
        if self.target.kind == POSTGRES:
            labels = {OURS: "asyncstore", SQLALCHEMY: each, ASYNCPG: f"asyncpg, an INSERT per row, {pools[ASYNCPG]}"}
            ways = {UNNEST: "unnest upsert", EXECUTEMANY: "executemany upsert", COPY: "COPY, no upsert"}
            for size, entries in ((TASKS, self.adds), (MANY_TASKS, self.crowds)):
                bounds = {way: f"bound: asyncpg {text}, batches of {size:,}" for way, text in ways.items()}
                entries.update({name: Entry(label) for name, label in {**labels, **bounds}.items()})
            self.alone = {OURS: Entry("asyncstore"), ASYNCPG: Entry("asyncpg, upsert prepared")}
        else:
            once = "bound: sqlite3, all in one transaction"
            self.adds = {OURS: Entry("asyncstore"), SQLALCHEMY: Entry(each), SQLITE3: Entry(once)}
            labels = {OURS: "asyncstore", AIOSQLITE: "aiosqlite, upsert and commit", SQLITE3: "sqlite3 in a thread"}
            self.alone = {name: Entry(label) for name, label in labels.items()}
        self.alone[SQLALCHEMY] = Entry("SQLAlchemy")
        self.reads = {
            READER: Entry("asyncstore"),
            MODELS: Entry("SQLAlchemy ORM objects, parsed into models"),
            SQLALCHEMY: Entry("SQLAlchemy ORM objects, not parsed"),
        }

    def _statements_of_read(self) -> list[str]:
        asked = {"run_id": "warm-up", "count": self._warm_up_count}
        with self.target.statements_logged() as log:
            options = ["--trace", str(log)] if self.target.kind == SQLITE else []
            with start_contender(self.target, READER, *options, uvloop=self.plan.uvloop) as reader:
                # The first read finds the connections opened, the second needs none of what that takes.
                reader.ask("read", **asked)
                known = log.stat().st_size
                reader.ask("read", **asked)
                with log.open("rb") as file:
                    file.seek(known)
                    return self.target.statements_in(file.read().decode(errors="replace"))

    @property
    def _warm_up_count(self) -> int:
        return max(self.plan.adds, self.plan.steps)

    def _round(self, turn: int) -> None:
        run_id = f"round-{turn}"
        count = self.plan.adds
        for entries, tasks in ((self.adds, TASKS), (self.crowds, MANY_TASKS)):
            self.target.clear()
            for name in rotated(list(entries), turn):
                self._add(entries[name], name, "add", run_id=f"{run_id} {name} {tasks}", count=count, tasks=tasks)
        self.target.clear()
        for portion in range(PORTIONS):
            for name in rotated(list(self.alone), turn + portion):
                lone = f"{run_id} {name} alone {portion}"
                self._add(self.alone[name], name, "add_alone", run_id=lone, count=self.plan.lone)
        live = f"{run_id} live"
        self._ask(OURS, "create", run_id=live)
        self._ask(OURS, "add", run_id=live, count=self.plan.steps)
        for portion in range(PORTIONS):
            for name in rotated(list(self.reads), turn + portion):
                self._read(name, live)

    def _add(self, entry: Entry, name: str, operation: str, *, run_id: str, count: int, **options: object) -> None:
        if name == OURS:
            self._ask(name, "create", run_id=run_id)
        asked = {"run_id": run_id, "count": count, **options}
        entry.samples.append(measure(self.target, lambda: self._ask(name, operation, **asked), count))
        self._check(name, run_id, count)

    def _read(self, name: str, run_id: str) -> None:
        worker, operation = (SQLALCHEMY, "read_models") if name == MODELS else (name, "read")
        count = self.plan.steps
        asked = {"run_id": run_id, "count": count}
        self.reads[name].samples.append(measure(self.target, lambda: self._ask(worker, operation, **asked), count))

    def _check(self, name: str, run_id: str, count: int) -> None:
        """Have another one read what was written: SQLAlchemy, or the driver what SQLAlchemy wrote."""
        driver = ASYNCPG if self.target.kind == POSTGRES else AIOSQLITE
        reader = driver if name == SQLALCHEMY else SQLALCHEMY
        found = self._ask(reader, "kept", run_id=run_id, count=count)
        if name != OURS and found != count:
            raise RuntimeError(f"{reader} found {found} of {count} rows that {name} has written")
        before = self.kept.get(name, (0, 0))
        self.kept[name] = (before[0] + found, before[1] + count)

    def _ask(self, name: str, operation: str, **arguments: object) -> Any:
        return self._workers[name].ask(operation, **arguments)

    @staticmethod
    def _best(rates: dict[int, float]) -> int:
        return max(rates, key=lambda size: rates[size])
