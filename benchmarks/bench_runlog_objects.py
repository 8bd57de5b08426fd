"""
Run logs on object storage: asyncstore beside aioboto3, bare obstore and magnus.

Every contender is a process of its own on the same kind of event loop, and so is the server: the in-memory S3 of
asyncstore.testing, which counts requests, and ``rclone serve s3``, each with 0 and 20 ms added to a request. Contenders
take turns round by round, in an order that rotates; figures are medians, ratios are taken within a round. The peers put
and get the same bytes with 64 tasks, a pool of 64 connections and no payload hashing, and neither make nor parse JSON.
magnus runs in an environment of its own from 8 threads, and is given few step logs, since it slows down with each. What
was written is read back by another contender.

    python benchmarks/bench_runlog_objects.py                     all of it, about 15 minutes
    python benchmarks/bench_runlog_objects.py --quick             a short form, about a minute
    python benchmarks/bench_runlog_objects.py --memory            a million adds of the same 1,000 step logs
"""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.contest import (
    AIOBOTO3,
    CHUNKED,
    DOCUMENT,
    FULL,
    MAGNUS_CHUNKED,
    MAGNUS_DOCUMENT,
    OBSTORE,
    QUICK,
    READER,
    Contest,
    Plan,
    start_contender,
)
from harness.machine import environment, others_watched
from harness.magnus import VERSIONS, MagnusError, magnus_python
from harness.report import coloured, print_environment, print_tables
from harness.results import FLAT_MIB, Claim, Comparison, Entry, Goal, Versus, against, growth_mib
from harness.rounds import progress
from harness.servers import SERVERS, Target, serving
from harness.work import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIST_PAGE = 1000
PACKAGES = ("asyncstore", "obstore", "aioboto3", "aiobotocore", "pydantic", "uvloop")
MEMORY_SAMPLES = 20


def comparisons(contest: Contest) -> list[Comparison]:
    """Return what a contest says against the goals."""
    found = [adding(contest), adding_alone(contest)]
    if contest.documents:
        found.append(adding_to_document(contest))
    return [*found, reading(contest), reading_finished(contest)]


def adding(contest: Contest) -> Comparison:
    entries = contest.adds
    claims = [kept_claim(contest, CHUNKED)]
    each = entries[CHUNKED].requests_each
    if each is not None:
        claims.append(Claim("requests for one add, counted by the server", f"{each:.3f}", "1.0", each <= 1))
    return Comparison(
        f"{contest.plan.adds:,} step logs added by {TASKS} tasks",
        "step logs",
        entries[CHUNKED],
        [*against(entries, {AIOBOTO3: Goal(6), OBSTORE: Goal(0.7), MAGNUS_CHUNKED: Goal(500)})],
        ceiling=at_most(contest.plan.adds, ceil(contest.plan.adds / TASKS), contest),
        claims=claims,
        notes=[*magnus_notes(contest, MAGNUS_CHUNKED)],
    )


def adding_alone(contest: Contest) -> Comparison:
    return Comparison(
        f"one step log added to an idle store ({contest.plan.lone}, one after the other)",
        "step logs",
        contest.alone[CHUNKED],
        [*against(contest.alone, {OBSTORE: Goal(1.2, at_most=True), AIOBOTO3: None})],
        latency=True,
    )


def adding_to_document(contest: Contest) -> Comparison:
    return Comparison(
        f"{contest.plan.adds:,} step logs added by {TASKS} tasks to one document",
        "step logs",
        contest.documents[DOCUMENT],
        [*against(contest.documents, {MAGNUS_DOCUMENT: Goal(100)})],
        claims=[kept_claim(contest, DOCUMENT)],
        notes=[*magnus_notes(contest, MAGNUS_DOCUMENT)],
    )


def reading(contest: Contest) -> Comparison:
    steps = contest.plan.steps
    latencies = list_pages(steps) + ceil(steps / TASKS)
    return Comparison(
        f"full read of a run of {steps:,} steps that is under way",
        "steps",
        contest.reads[READER],
        [*against(contest.reads, {AIOBOTO3: Goal(6), OBSTORE: None, MAGNUS_CHUNKED: None})],
        ceiling=at_most(steps, latencies, contest),
    )


def reading_finished(contest: Contest) -> Comparison:
    steps, live = contest.plan.steps, contest.reads[AIOBOTO3]
    requests = contest.finished.median("requests")
    claims = []
    if requests is not None:
        claims.append(Claim("requests, counted by the server", f"{requests:.0f}", "≤ 3", requests <= 3))
    return Comparison(
        f"full read of a finished run of {steps:,} steps",
        "steps",
        contest.finished,
        [Versus(Entry(f"{live.name}, run under way", live.samples), Goal(20))],
        ceiling=at_most(steps, list_pages(steps), contest),
        claims=claims,
    )


def kept_claim(contest: Contest, name: str) -> Claim:
    found, wanted = contest.kept[name]
    return Claim("step logs found by another reader", f"{found:,} of {wanted:,}", "all", found == wanted)


def magnus_notes(contest: Contest, name: str) -> Iterator[str]:
    if name in contest.kept:
        found, wanted = contest.kept[name]
        yield f"of the step logs that magnus added, {found} of {wanted} were found"


def list_pages(steps: int) -> int:
    """Return how many requests it takes to list a run: its steps and its header."""
    return ceil((steps + 1) / LIST_PAGE)


def at_most(operations: int, latencies: int, contest: Contest) -> float | None:
    """Return the rate if ``operations`` take so many bare requests one after the other, ``None`` without latency."""
    each_s = contest.alone[OBSTORE].median("median_s")
    return operations / (latencies * each_s) if contest.target.latency_s and each_s else None


def compare(plan: Plan, magnus: str | None, save: Callable[[dict[str, Any]], None]) -> None:
    """Measure at each server, and print and save each table as soon as it is there."""
    for server in plan.servers:
        for latency_s in plan.latencies_s:
            with others_watched() as others, contextlib.ExitStack() as stack:
                target = stack.enter_context(serving(server, latency_s))
                contest = Contest(target, plan, magnus, stack)
                contest.run()
                found = comparisons(contest)
            print_contest(target, found, others)
            rows = [comparison.as_json() for comparison in found]
            save({"server": target.name, "latency_s": latency_s, "cores_of_others": others, "comparisons": rows})


def print_contest(target: Target, found: list[Comparison], others: list[float]) -> None:
    title = f"{target.name}, {target.latency_s * 1000:.0f} ms added to each request"
    refused = "The layout s3 is not measured here: asyncstore refuses it where conditional writes are ignored."
    print_tables(title, found, others, [] if target.heeds_conditions else [refused])


def measure_memory(adds: int, plan: Plan) -> dict[str, Any]:
    """Add the same 1,000 step logs over and over, and watch the memory."""
    portion = max(1, adds // MEMORY_SAMPLES)
    print(f"{adds:,} adds of the same {LIST_PAGE:,} step logs by {TASKS} tasks, chunked-s3 on the in-memory stub\n")
    print(f"  {'adds':>11}   {'adds/s':>7}   {'memory MiB':>10}")
    resident_mib = []
    with serving("stub", 0.0) as target, start_contender(target, CHUNKED, plan) as worker:
        worker.ask("create", run_id="memory")
        for done in range(portion, adds + 1, portion):
            figures = worker.ask("rewrite", run_id="memory", count=portion, steps=LIST_PAGE)
            resident_mib.append(figures["resident_mib"])
            bar = "▪" * round(resident_mib[-1] / 4)
            print(
                f"  {done:>11,}   {portion / figures['wall_s']:>7,.0f}   {resident_mib[-1]:>10.1f}   {bar}", flush=True
            )
    grown = growth_mib(resident_mib)
    flat = grown <= FLAT_MIB
    verdict = "pass" if flat else "short"
    print(coloured(f"\n  from the second quarter to the last: {grown:+.1f} MiB, goal ≤ {FLAT_MIB:g} MiB: {verdict}"))
    return {"adds": adds, "resident_mib": resident_mib, "growth_mib": grown, "flat": flat}


def introduce(facts: dict[str, Any], plan: Plan, magnus: str | None) -> None:
    print_environment(facts, plan.rounds, *([VERSIONS] if magnus else []))
    print("server: share of what CPU it can use (the stub: one core); with * it, not the client, sets the figure")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds, in-memory stub only")
    parser.add_argument("--rounds", type=int, help="how often each is measured (default 5)")
    parser.add_argument("--adds", type=int, help="step logs added by 64 tasks (default 5000)")
    parser.add_argument("--steps", type=int, help="step logs of the runs that are read (default 1000)")
    parser.add_argument("--server", choices=SERVERS, action="append", help="only this one")
    parser.add_argument("--latency-ms", type=float, action="append", help="only this latency (default 0 and 20)")
    parser.add_argument("--uvloop", action="store_true", help="everybody on uvloop instead of asyncio's own loop")
    parser.add_argument("--magnus-python", metavar="PATH", help="interpreter that has magnus; default: one is set up")
    parser.add_argument("--magnus-adds", type=int, help="step logs added by magnus (default 24)")
    parser.add_argument("--no-magnus", action="store_true", help="leave magnus out")
    parser.add_argument(
        "--memory",
        type=int,
        nargs="?",
        const=1_000_000,
        metavar="ADDS",
        help="measure memory instead (default 1000000)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every measurement there")
    return parser.parse_args()


def plan_of(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    given = {name: getattr(options, name) for name in ("rounds", "adds", "steps", "magnus_adds")}
    plan = replace(plan, uvloop=options.uvloop, **{name: value for name, value in given.items() if value is not None})
    if options.server:
        plan = replace(plan, servers=tuple(options.server))
    if options.latency_ms:
        plan = replace(plan, latencies_s=tuple(value / 1000 for value in options.latency_ms))
    return replace(plan, magnus_rounds=min(plan.magnus_rounds, plan.rounds))


def find_magnus(options: argparse.Namespace) -> str | None:
    if options.no_magnus or options.memory is not None:
        return None
    if options.magnus_python:
        return str(options.magnus_python)
    progress("looking for magnus, or setting it up")
    try:
        return magnus_python()
    except MagnusError as error:
        progress(f"magnus is left out: {error}")
        return None


def main() -> None:
    options = read_options()
    plan = plan_of(options)
    magnus = find_magnus(options)
    facts = environment(PACKAGES, uvloop=plan.uvloop)
    results: dict[str, Any] = {"environment": facts, "plan": asdict(plan), "tables": []}

    def save(table: dict[str, Any] | None = None) -> None:
        if table is not None:
            results["tables"].append(table)
        if options.json:
            options.json.write_text(json.dumps(results, indent=2))

    introduce(facts, plan, magnus)
    if options.memory is not None:
        results["memory"] = measure_memory(options.memory, plan)
        save()
    else:
        compare(plan, magnus, save)


if __name__ == "__main__":
    main()
