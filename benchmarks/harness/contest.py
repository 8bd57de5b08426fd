"""The contenders at one server: starting them, and measuring them in turn."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.results import Entry, Sample
from harness.rounds import measure, progress, rotated
from harness.servers import BUCKET, SERVERS, Target
from harness.worker import Worker, WorkerError

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

CHUNKED, DOCUMENT, OBSTORE, AIOBOTO3 = "chunked-s3", "s3", "obstore", "aioboto3"
READER = "reader"
"""A second chunked-s3 process: it reads runs that it has not written, so nothing is remembered."""
MAGNUS_CHUNKED, MAGNUS_DOCUMENT = "magnus-chunked-s3", "magnus-s3"

READING = {"read", "kept", "load"}
READ_TRIES = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    adds: int
    """Step logs added by 64 tasks."""
    steps: int
    """Step logs of the runs that are read."""
    lone: int
    """Step logs added one after the other."""
    magnus_adds: int
    magnus_rounds: int
    servers: tuple[str, ...]
    latencies_s: tuple[float, ...]
    uvloop: bool


FULL = Plan(
    rounds=5, adds=5000, steps=1000, lone=200, magnus_adds=24, magnus_rounds=5, servers=SERVERS,
    latencies_s=(0.0, 0.02), uvloop=False,
)  # fmt: skip
QUICK = replace(FULL, rounds=3, adds=1000, lone=50, magnus_adds=8, magnus_rounds=1, servers=("stub",))


def start_contender(target: Target, name: str, plan: Plan) -> Worker:
    """Return the worker, to be entered, of a contender in this environment."""
    # Whoever reads what chunked-s3 wrote looks under its prefix.
    kind, prefix = (CHUNKED, CHUNKED) if name == READER else (name, name)
    arguments = [kind, "--bucket", BUCKET, "--prefix", prefix, "--source", CHUNKED]
    arguments += ["--endpoint-url", target.endpoint_url, "--region", target.region]
    if plan.uvloop:
        arguments.append("--uvloop")
    return Worker("contenders", arguments, target.environment)


def start_magnus(target: Target, name: str, python: str) -> Worker:
    """Return the worker, to be entered, of one of magnus' stores."""
    environment = {
        **target.environment,
        "AWS_ENDPOINT_URL": target.endpoint_url,
        # Newer boto3 sends checksums by default, which no other contender sends.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    arguments = [name.removeprefix("magnus-"), "--bucket", BUCKET, "--prefix", name]
    return Worker("magnus_contender", arguments, environment, python=python)


class Contest:
    """
    The contenders at one server, each of which is started here.

    Args:
        target: the server.
        plan: how much is measured.
        magnus: an interpreter that has magnus; ``None`` leaves it out.
        stack: ends the contenders.

    Attributes:
        adds: 64 tasks add step logs, by contender.
        alone: step logs added one after the other.
        documents: 64 tasks add step logs to one document; empty where the server ignores conditional writes.
        reads: a run that is under way is read in full.
        finished: asyncstore reads a finished run in full.
        kept: by contender, how many of all step logs added somebody else found, and how many that should have been.
    """

    def __init__(self, target: Target, plan: Plan, magnus: str | None, stack: contextlib.ExitStack) -> None:
        self.target = target
        self.plan = plan
        self._workers: dict[str, Worker] = {}
        self._turn = 0
        self._written = time.monotonic()
        for name in (CHUNKED, READER, OBSTORE, AIOBOTO3, *self._layouts(DOCUMENT)):
            self._workers[name] = stack.enter_context(start_contender(target, name, plan))
        if magnus:
            for name in (MAGNUS_CHUNKED, *self._layouts(MAGNUS_DOCUMENT)):
                self._workers[name] = stack.enter_context(start_magnus(target, name, magnus))
        ours, theirs = "asyncstore chunked-s3", f"magnus chunked-s3, {plan.magnus_adds} step logs"
        aioboto3, obstore = "aioboto3 put_object", "bare obstore put_async"
        self.adds = self._entries({CHUNKED: ours, AIOBOTO3: aioboto3, OBSTORE: obstore, MAGNUS_CHUNKED: theirs})
        self.alone = self._entries({CHUNKED: ours, OBSTORE: obstore, AIOBOTO3: aioboto3})
        self.documents = self._entries(
            {DOCUMENT: "asyncstore s3", MAGNUS_DOCUMENT: f"magnus s3, {plan.magnus_adds} step logs"}
        )
        self.reads = self._entries(
            {
                READER: ours,
                AIOBOTO3: "aioboto3 list, get_object",
                OBSTORE: "bare obstore list, get_async",
                MAGNUS_CHUNKED: theirs,
            }
        )
        self.finished = Entry(f"{ours}, run finished")
        self.kept: dict[str, tuple[int, int]] = {}

    def run(self) -> None:
        """Warm everybody up, and measure the rounds."""
        progress(f"{self.target.slug}: warming up")
        self._warm_up()
        for turn in range(self.plan.rounds):
            progress(f"{self.target.slug}: round {turn + 1} of {self.plan.rounds}")
            self._turn = turn
            self._round()

    def _layouts(self, *names: str) -> tuple[str, ...]:
        """Return those that need conditional writes, where there are any."""
        return names if self.target.heeds_conditions else ()

    def _entries(self, names: dict[str, str]) -> dict[str, Entry]:
        return {name: Entry(label) for name, label in names.items() if name in self._workers}

    def _warm_up(self) -> None:
        for name in (CHUNKED, *self.documents):
            self._ask(name, "create", run_id="warm-up")
            self._ask(name, "add", run_id="warm-up", count=self._count(name, self.plan.adds))
        for name in (AIOBOTO3, OBSTORE):
            self._ask(name, "load", run_id="warm-up", count=self.plan.adds)
            self._ask(name, "add", run_id="warm-up", count=self.plan.adds)
        self._ask(READER, "read", run_id="warm-up", count=self.plan.adds)

    def _round(self) -> None:
        run_id = f"round-{self._turn}"
        self._in_turn(self.adds, lambda name: self._add(name, self.adds[name], "add", self.plan.adds, run_id))
        self._in_turn(
            self.alone, lambda name: self._add(name, self.alone[name], "add_alone", self.plan.lone, f"{run_id}-alone")
        )
        self._in_turn(self.documents, lambda name: self._add(name, self.documents[name], "add", self.plan.adds, run_id))
        live, finished = f"{run_id}-live", f"{run_id}-finished"
        for written in (live, finished):
            self._ask(CHUNKED, "create", run_id=written)
            self._ask(CHUNKED, "add", run_id=written, count=self.plan.steps)
        self._ask(CHUNKED, "finish", run_id=finished)
        # magnus reads what it has itself added in this round.
        self._in_turn(self.reads, lambda name: self._read(name, run_id if name == MAGNUS_CHUNKED else live))
        self.finished.samples.append(self._measure(READER, "read", self.plan.steps, finished))

    def _in_turn(self, entries: dict[str, Entry], work: Callable[[str], None]) -> None:
        late = self._turn >= self.plan.magnus_rounds
        names = [name for name in entries if not (late and name.startswith("magnus"))]
        for name in rotated(names, self._turn):
            work(name)

    def _add(self, name: str, entry: Entry, operation: str, wanted: int, run_id: str) -> None:
        count = self._count(name, wanted)
        self._ask(name, "create", run_id=run_id)
        entry.samples.append(self._measure(name, operation, count, run_id))
        self._check(name, run_id, count)

    def _read(self, name: str, run_id: str) -> None:
        count = self._count(name, self.plan.steps)
        self.reads[name].samples.append(self._measure(name, "read", count, run_id))

    def _count(self, name: str, count: int) -> int:
        return self.plan.magnus_adds if name.startswith("magnus") else count

    def _measure(self, name: str, operation: str, count: int, run_id: str) -> Sample:
        return measure(self.target, lambda: self._ask(name, operation, run_id=run_id, count=count), count)

    def _check(self, name: str, run_id: str, count: int) -> None:
        """Have somebody else read what was written: aioboto3 what obstore wrote, obstore everything else."""
        reader = AIOBOTO3 if name == OBSTORE else OBSTORE
        start = f"{name}/{run_id}.json" if name in self.documents else f"{name}/{run_id}/"
        found = self._ask(reader, "kept", start=start, count=count)
        if name in (OBSTORE, AIOBOTO3) and found != count:
            raise RuntimeError(f"{reader} found {found} of {count} objects that {name} has put")
        before = self.kept.get(name, (0, 0))
        self.kept[name] = (before[0] + found, before[1] + count)

    def _ask(self, name: str, operation: str, **arguments: object) -> Any:
        worker = self._workers[name]
        if operation not in READING:
            result = worker.ask(operation, **arguments)
            self._written = time.monotonic()
            return result
        for _ in range(READ_TRIES - 1):
            self._settle()
            try:
                return worker.ask(operation, **arguments)
            except WorkerError as error:
                if not self.target.settle_s:
                    raise
                self._written = time.monotonic()
                progress(f"{self.target.slug}: reading again after {str(error).splitlines()[-1].strip()}")
        self._settle()
        return worker.ask(operation, **arguments)

    def _settle(self) -> None:
        """Wait until the server has forgotten what it remembers wrongly of files that it saw being written."""
        time.sleep(max(0.0, self._written + self.target.settle_s - time.monotonic()))
