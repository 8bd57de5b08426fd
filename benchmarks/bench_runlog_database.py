"""
Run logs in a database: asyncstore beside SQLAlchemy and the bare drivers, on PostgreSQL and on SQLite.

Both databases lie on this machine's disk and flush every commit: PostgreSQL with fsync, SQLite with a write-ahead log
and synchronous=FULL for everybody. Every contender is a process of its own on the same kind of event loop. Contenders
take turns round by round, in an order that rotates; figures are medians, ratios are taken within a round. All write
the same JSON into the same table, with its indexes; only asyncstore makes that JSON. The pools of the peers have the
size that was the fastest of several. What was written is read back by another contender.

The bounds write batches back to back on one connection, as many rows as there are tasks, from strings that are ready
made: nothing waits for a row there, so no store whose single rows are awaited can exceed them.

    python benchmarks/bench_runlog_database.py                    rows awaited, lone rows, full reads; about 10 minutes
    python benchmarks/bench_runlog_database.py --large            a table of 10 million rows beside one of 10,000
    python benchmarks/bench_runlog_database.py --watch            8 writers with a watcher and without
    python benchmarks/bench_runlog_database.py --quick            each of these in a short form, about a minute
"""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.database_contest import (
    AIOSQLITE,
    ASYNCPG,
    COPY,
    EXECUTEMANY,
    FULL,
    MANY_TASKS,
    MODELS,
    OURS,
    PORTIONS,
    QUICK,
    READER,
    SQLALCHEMY,
    SQLITE3,
    UNNEST,
    Contest,
    Plan,
)
from harness.database_growth import Growth, GrowthPlan
from harness.database_watch import WRITERS, Watching, WatchPlan
from harness.databases import DATABASES, POSTGRES, DatabaseTarget, DiskSpeed, database
from harness.machine import environment, others_watched
from harness.report import number, print_environment, print_tables
from harness.results import Claim, Comparison, Goal, Versus, against
from harness.work import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = ("asyncstore", "sqlalchemy", "asyncpg", "aiosqlite", "pydantic", "uvloop")
LAG_LIMIT_MS = 250
LARGE_ROWS, SMALL_ROWS = 10_000_000, 10_000

GROWTH = GrowthPlan(
    rounds=5, large=LARGE_ROWS, small=SMALL_ROWS, adds=5000, lone=200, reads=10, databases=DATABASES, uvloop=False
)
GROWTH_QUICK = replace(GROWTH, rounds=3, large=300_000, adds=2000, lone=100)
WATCH = WatchPlan(rounds=5, seconds=5.0, databases=DATABASES, uvloop=False)
WATCH_QUICK = replace(WATCH, rounds=3, seconds=2.0)


@dataclass(frozen=True, slots=True)
class Found:
    """What one form says of one database."""

    comparisons: list[Comparison]
    remarks: list[str]
    extra: dict[str, Any]
    """What else is worth keeping."""


def contest(target: DatabaseTarget, plan: Plan, stack: contextlib.ExitStack) -> Found:
    """Measure asyncstore beside its peers."""
    held = Contest(target, plan, stack)
    held.run()
    comparisons = [adding(held), *([adding_in_crowds(held)] if held.crowds else []), adding_alone(held), reading(held)]
    return Found(comparisons, [pools_remark(held)], {"pools": held.pools, "statements_of_read": held.statements})


def adding(held: Contest) -> Comparison:
    found, wanted = held.kept[OURS]
    postgres = {SQLALCHEMY: Goal(8), ASYNCPG: None, UNNEST: Goal(0.5), EXECUTEMANY: None, COPY: None}
    goals = postgres if held.target.kind == POSTGRES else {SQLALCHEMY: Goal(30), SQLITE3: Goal(0.5)}
    return Comparison(
        f"{held.plan.adds:,} step logs awaited by {TASKS} tasks",
        "step logs",
        held.adds[OURS],
        [*against(held.adds, goals)],
        claims=[Claim("rows found by another contender", f"{found:,} of {wanted:,}", "all", found == wanted)],
    )


def adding_in_crowds(held: Contest) -> Comparison:
    goals = {SQLALCHEMY: Goal(12), ASYNCPG: None, UNNEST: None, EXECUTEMANY: None, COPY: None}
    return Comparison(
        f"{held.plan.adds:,} step logs awaited by {MANY_TASKS:,} tasks",
        "step logs",
        held.crowds[OURS],
        [*against(held.crowds, goals)],
    )


def adding_alone(held: Contest) -> Comparison:
    driver = Goal(1.2, at_most=True)
    return Comparison(
        f"one step log added to an idle store ({PORTIONS} × {held.plan.lone} in a round)",
        "step logs",
        held.alone[OURS],
        [*against(held.alone, {ASYNCPG: driver, AIOSQLITE: driver, SQLITE3: None, SQLALCHEMY: None})],
        latency=True,
    )


def reading(held: Contest) -> Comparison:
    executed = len(held.statements)
    return Comparison(
        f"full read of a run of {held.plan.steps:,} steps",
        "steps",
        held.reads[READER],
        [*against(held.reads, {MODELS: Goal(3), SQLALCHEMY: None})],
        claims=[Claim("statements that the database executed for it", f"{executed}", "1", executed == 1)],
        notes=["asyncstore gives models, so the goal is against the peer that gives them too"],
    )


def pools_remark(held: Contest) -> str:
    tried = [
        f"{name} {', '.join(f'{size}: {number(rate)}' for size, rate in rates.items())}"
        for name, rates in held.pools.items()
    ]
    return f"Rows in a second by the size of the pool, tried once: {'; '.join(tried)}."


def growth(target: DatabaseTarget, plan: GrowthPlan, stack: contextlib.ExitStack) -> Found:
    """Measure asyncstore on a large table beside a small one."""
    held = Growth(target, plan, stack)
    held.run()
    found, wanted = held.kept
    kept = Claim("rows found in the tables", f"{found:,} of {wanted:,}", "all", found == wanted)
    comparisons = [
        Comparison(
            held.titles[operation],
            "times",
            entries["large"],
            [Versus(entries["small"], Goal(1.5, at_most=True))],
            latency=True,
            claims=[kept] if operation == "add" else [],
        )
        for operation, entries in held.work.items()
    ]
    filled = ", ".join(f"{held.sizes[name]:,} rows in {seconds:.0f} s" for name, seconds in held.fill_s.items())
    settled = "VACUUM ANALYZE and CHECKPOINT" if target.kind == POSTGRES else "a checkpoint of the whole log"
    return Found(comparisons, [f"Filled in {filled}, then {settled}."], {"sizes": held.sizes, "fill_s": held.fill_s})


def watching(target: DatabaseTarget, plan: WatchPlan, stack: contextlib.ExitStack) -> Found:
    """Measure writers with a watcher beside writers without."""
    held = Watching(target, plan, stack)
    held.run()
    lags = held.lags
    p50, p99 = lags.percentile(50), lags.percentile(99)
    comparison = Comparison(
        f"{WRITERS} processes, one task each, adding step logs to one run for {plan.seconds:g} s",
        "step logs",
        held.watched,
        [Versus(held.unwatched, Goal(0.95))],
        claims=[
            Claim("lag of the watcher, p99", f"{p99:.1f} ms", f"≤ {LAG_LIMIT_MS} ms", p99 <= LAG_LIMIT_MS),
            Claim("step logs that it saw", f"{lags.seen:,} of {lags.written:,}", "all", lags.seen == lags.written),
        ],
        notes=[
            f"lag, p50: {p50:.1f} ms, longest {lags.as_json()['max_ms']:.1f} ms",
            f"cores that the watcher kept busy: {', '.join(number(cores) for cores in held.watcher_cores)}",
        ],
    )
    return Found([comparison], [], {"lags": lags.as_json(), "watcher_cores": held.watcher_cores})


def compare(
    databases: tuple[str, ...],
    form: Callable[[DatabaseTarget, contextlib.ExitStack], Found],
    save: Callable[[dict[str, Any]], None],
) -> None:
    """Measure each database, and print and save its tables as soon as they are there."""
    for kind in databases:
        with database(kind) as target:
            disk = target.disk()
            with others_watched(target.cpu_s) as others, contextlib.ExitStack() as stack:
                found = form(target, stack)
        print_tables(target.name, found.comparisons, others, [*found.remarks, disk_remark(disk)])
        rows = [comparison.as_json() for comparison in found.comparisons]
        table = {"database": target.name, "disk": asdict(disk), "cores_of_others": others, "comparisons": rows}
        save({**table, **found.extra})


def disk_remark(disk: DiskSpeed) -> str:
    return (
        f"This disk writes and flushes 8 KiB in {disk.flush_s * 1000:.3f} ms, "
        f"and a bare one-row commit takes {disk.commit_s * 1000:.3f} ms (medians)."
    )


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds")
    parser.add_argument("--rounds", type=int, help="how often each is measured (default 5)")
    parser.add_argument("--adds", type=int, help="step logs added by 64 tasks (default 20000, and 5000 with --large)")
    parser.add_argument("--steps", type=int, help="step logs of the runs that are read (default 1000)")
    parser.add_argument("--database", choices=DATABASES, action="append", help="only this one")
    parser.add_argument("--uvloop", action="store_true", help="everybody on uvloop instead of asyncio's own loop")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--large",
        type=int,
        nargs="?",
        const=0,
        metavar="ROWS",
        help=f"measure a large table beside one of {SMALL_ROWS:,} rows instead (default {LARGE_ROWS})",
    )
    form.add_argument("--watch", action="store_true", help=f"measure {WRITERS} writers with a watcher instead")
    parser.add_argument("--seconds", type=float, help="how long the writers of --watch write in a round (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every measurement there")
    return parser.parse_args()


def plan_of(options: argparse.Namespace) -> Plan | GrowthPlan | WatchPlan:
    plan: Plan | GrowthPlan | WatchPlan = QUICK if options.quick else FULL
    given = {"rounds": options.rounds, "adds": options.adds, "steps": options.steps}
    if options.watch:
        plan = WATCH_QUICK if options.quick else WATCH
        given = {"rounds": options.rounds, "seconds": options.seconds}
    elif options.large is not None:
        plan = GROWTH_QUICK if options.quick else GROWTH
        given = {"rounds": options.rounds, "adds": options.adds, "large": options.large or None}
    if options.database:
        given["databases"] = tuple(options.database)
    known = {name: value for name, value in given.items() if value is not None}
    return replace(plan, uvloop=options.uvloop, **known)


def form_of(plan: Plan | GrowthPlan | WatchPlan) -> Callable[[DatabaseTarget, contextlib.ExitStack], Found]:
    """Return what measures a database by that plan."""
    match plan:
        case Plan():
            return lambda target, stack: contest(target, plan, stack)
        case GrowthPlan():
            return lambda target, stack: growth(target, plan, stack)
        case WatchPlan():
            return lambda target, stack: watching(target, plan, stack)


def main() -> None:
    options = read_options()
    plan = plan_of(options)
    facts = environment(PACKAGES, uvloop=plan.uvloop)
    results: dict[str, Any] = {"environment": facts, "plan": asdict(plan), "tables": []}

    def save(table: dict[str, Any]) -> None:
        results["tables"].append(table)
        if options.json:
            options.json.write_text(json.dumps(results, indent=2))

    print_environment(facts, plan.rounds)
    print("server: share of all cores that the database's processes used; with * they, not the client, set the figure")
    compare(plan.databases, form_of(plan), save)


if __name__ == "__main__":
    main()
