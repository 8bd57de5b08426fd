"""Many processes write into one run: nothing is lost, what was written comes back, and the order is kept."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.objects.turns import LOOK_EVERY
from asyncstore.runlog.chunked import ChunkedFileSystemRunLogStore, ChunkedS3RunLogStore
from asyncstore.runlog.db import DBRunLogStore, create_tables
from asyncstore.runlog.document import FileSystemRunLogStore, S3RunLogStore
from tests._processes import all_do, short_or_full, tell, worker_process, worker_processes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from asyncstore.runlog.base import RunLogStore
    from asyncstore.testing.servers import Bucket

PROCESSES = 8
TASKS = 64

SWAPS_WAITED_FOR_AT_MOST = (LOOK_EVERY + 1) * PROCESSES
"""Of other processes, while one write to a document waits."""

AHEAD_S = 3600


@dataclass
class Fairness:
    """How many swaps of other processes were won while a write waited, the most of any write, for each process."""

    most: list[int] = field(default_factory=lambda: [0] * PROCESSES)
    longest_s: list[float] = field(default_factory=lambda: [0.0] * PROCESSES)
    won: int = 0
    lost: int = 0

    def add(self, results: Sequence[Any]) -> None:
        """Take account of a round."""
        for number, own in enumerate(results):
            others = sorted(at for other in results if other is not own for at in other["won_ns"])
            waits = [(began, ended) for _, began, ended in own["written"]] + own["rewritten"]
            swaps = [bisect_right(others, ended) - bisect_left(others, began) for began, ended in waits]
            self.most[number] = max(self.most[number], *swaps)
            longest_s = max(ended - began for began, ended in waits) / 1e9
            self.longest_s[number] = max(self.longest_s[number], longest_s)
            self.won += len(own["won_ns"])
            self.lost += own["lost"]

    def __str__(self) -> str:
        longest = ", ".join(f"{seconds:.2f}" for seconds in self.longest_s)
        return (
            f"{self.won} swaps won, {self.lost} lost; swaps of other processes that a write waited for, the most of "
            f"each process: {self.most}; longest wait in s: {longest}"
        )


def check_order(names: Sequence[str], written: Sequence[tuple[str, int, int]]) -> None:
    """Check that a write that began after another was acknowledged, in whatever process, sorts after it."""
    times = {name: (began, ended) for name, began, ended in written}
    earliest_end, whose = math.inf, ""
    for name in reversed(names):
        began, ended = times[name]
        assert earliest_end >= began, f"{name} began after {whose} was acknowledged, and sorts before it"
        if ended < earliest_end:
            earliest_end, whose = ended, name


async def check_many_processes(
    store: type[RunLogStore], options: dict[str, Any], *, rounds: int, tasks: int = TASKS, steps: int = 2
) -> Fairness:
    fairness = Fairness()
    async with store(**options) as reader, worker_processes(PROCESSES, store, options) as workers:
        for number in range(rounds):
            run_id = f"run-{number}"
            await reader.create_run_log(run_id)
            results = await all_do(workers, "add_steps", run_id=run_id, tasks=tasks, steps=steps)
            fairness.add(results)
            run_log = await reader.get_run_log_by_id(run_id)
            assert {name: step.message for name, step in run_log.steps.items()} == {
                f"w{process}-{task}-{step}": f"w{process} wrote {task} {step}" + " again" * (step == 0)
                for process in range(PROCESSES)
                for task in range(tasks)
                for step in range(steps)
            }
            check_order(list(run_log.steps), [write for result in results for write in result["written"]])
    return fairness


async def test_sqlite(sqlite_url: str) -> None:
    await create_tables(sqlite_url)
    await check_many_processes(DBRunLogStore, {"connection_string": sqlite_url}, rounds=1)


async def test_postgres(postgres_url: str) -> None:
    await create_tables(postgres_url)
    await check_many_processes(DBRunLogStore, {"connection_string": postgres_url}, rounds=1)


async def test_chunked_folder(tmp_path: Path) -> None:
    await check_many_processes(ChunkedFileSystemRunLogStore, {"log_folder": str(tmp_path / "logs")}, rounds=1)


@pytest.mark.slow
async def test_chunked_s3(stub_bucket: Bucket) -> None:
    await check_many_processes(ChunkedS3RunLogStore, stub_bucket.options, rounds=short_or_full(2, 200))


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_chunked_s3_where_conditions_are_ignored(rclone_bucket: Bucket) -> None:
    await check_many_processes(ChunkedS3RunLogStore, rclone_bucket.options, rounds=short_or_full(1, 200))


@pytest.mark.slow
async def test_one_s3_document(stub_bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    fairness = await check_many_processes(S3RunLogStore, stub_bucket.options, rounds=short_or_full(2, 200))
    tell(capsys, f"one document: {fairness}")


@pytest.mark.slow
async def test_no_process_starves_at_one_s3_document(stub_bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    rounds, steps = short_or_full(1, 20), short_or_full(15, 50)
    fairness = await check_many_processes(S3RunLogStore, stub_bucket.options, rounds=rounds, steps=steps, tasks=1)
    tell(capsys, f"one task a process at one document: {fairness}")
    assert max(fairness.most) <= SWAPS_WAITED_FOR_AT_MOST


def reads(last: str) -> list[tuple[Any, ...]]:
    """Return the ways to learn of what was written last."""
    return [
        ("get_run_log_by_id", "run"),
        ("get_step_log", last, "run"),
        ("get_parameters", "run"),
        ("get_branch_log", f"fan.{last}", "run"),
    ]


@pytest.mark.parametrize(
    "layout", [ChunkedFileSystemRunLogStore, FileSystemRunLogStore, ChunkedS3RunLogStore, S3RunLogStore]
)
async def test_what_follows_a_read_sorts_after_it_whatever_the_clocks_say(
    layout: Any, tmp_path: Path, stub_bucket: Bucket
) -> None:
    on_s3 = layout in (ChunkedS3RunLogStore, S3RunLogStore)
    options = stub_bucket.options if on_s3 else {"log_folder": str(tmp_path / "logs")}
    async with (
        worker_process(layout, options, wall_offset_s=AHEAD_S) as ahead,
        worker_process(layout, options) as behind,
    ):
        await ahead.call("create_run_log", "run")
        await ahead.do("add_parts", run_id="run", name="fan")
        written = ["fan"]
        for way in range(4):
            for worker in (behind, ahead):
                method, *arguments = reads(written[-1])[way]
                assert "result" in await worker.call(method, *arguments)
                written.append(f"step-{len(written)}")
                await worker.do("add_parts", run_id="run", name=written[-1])
        run_log = (await behind.call("get_run_log_by_id", "run"))["result"]
    assert list(run_log["steps"]) == written
