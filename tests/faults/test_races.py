"""Races among processes: one creator wins, and what was acknowledged survives the death of its writer."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.runlog.chunked import ChunkedFileSystemRunLogStore, ChunkedS3RunLogStore
from asyncstore.runlog.document import FileSystemRunLogStore, S3RunLogStore
from tests._processes import all_do, short_or_full, worker_process, worker_processes

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.models import RunLog
    from asyncstore.runlog.base import RunLogStore
    from asyncstore.testing.servers import Bucket
    from tests._processes import Worker

CREATING_PROCESSES = 4
CREATING_TASKS = 16

VERSIONS = 3
WRITING_TASKS = 8
MOST_SAID = 300
"""A writer is killed after at most so many acknowledgements."""

ON_S3: list[Any] = [ChunkedS3RunLogStore, S3RunLogStore]
IN_FOLDERS: list[Any] = [ChunkedFileSystemRunLogStore, FileSystemRunLogStore]


# Creators.


async def check_one_creator_wins(store: type[RunLogStore], options: dict[str, Any], rounds: int) -> None:
    async with store(**options) as reader, worker_processes(CREATING_PROCESSES, store, options) as workers:
        for number in range(rounds):
            run_id = f"run-{number}"
            # Any other error than that the run exists ends the worker.
            told = await all_do(workers, "create_run", run_id=run_id, tasks=CREATING_TASKS)
            [winner] = [tag for tags in told for tag in tags]
            run_log = await reader.get_run_log_by_id(run_id)
            assert (run_log.tag, run_log.steps) == (winner, {})
        runs = [summary.run_id async for summary in reader.list_run_logs()]
        assert sorted(runs) == sorted(f"run-{number}" for number in range(rounds))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ON_S3)
async def test_one_of_many_creators_wins(layout: Any, stub_bucket: Bucket) -> None:
    await check_one_creator_wins(layout, stub_bucket.options, short_or_full(8, 200))


@pytest.mark.slow
@pytest.mark.parametrize("layout", IN_FOLDERS)
async def test_one_of_many_creators_wins_in_a_folder(layout: Any, tmp_path: Path) -> None:
    await check_one_creator_wins(layout, {"log_folder": str(tmp_path / "logs")}, short_or_full(8, 200))


@pytest.mark.slow
async def test_one_of_many_creators_wins_where_conditions_are_ignored(rclone_bucket: Bucket) -> None:
    # There each creation waits, so that whoever looks afterwards sees whose write stands.
    await check_one_creator_wins(ChunkedS3RunLogStore, rclone_bucket.options, short_or_full(2, 50))


# Writers killed.


async def write_and_be_killed(worker: Worker, writer: str, dice: random.Random) -> dict[str, int]:
    """Return the last version of each step that the worker said was acknowledged, killed at some moment."""
    acknowledged: dict[str, int] = {}

    def note(said: Any) -> None:
        assert acknowledged.get(said["step"], -1) == said["version"] - 1
        acknowledged[said["step"]] = said["version"]

    await worker.begin("write_until_killed", run_id="run", writer=writer, tasks=WRITING_TASKS, versions=VERSIONS)
    for _ in range(dice.randrange(MOST_SAID)):
        note(await worker.said())
    await worker.kill()
    while True:
        try:
            note(await worker.said())
        except EOFError:
            return acknowledged


def check_survivors(run_log: RunLog, acknowledged: dict[str, int]) -> None:
    """Check that each step is a whole version, none older than was acknowledged, and at most the next one."""
    for name, step in run_log.steps.items():
        version = step.user_defined_metrics["version"]
        assert isinstance(version, int)
        assert step.message == f"version {version}"
        assert step.user_defined_metrics["filler"] == "x" * 4096
        assert version - acknowledged.get(name, -1) in (0, 1), name
    assert acknowledged.keys() <= run_log.steps.keys()


async def check_what_was_acknowledged_survives(store: type[RunLogStore], options: dict[str, Any]) -> None:
    acknowledged: dict[str, int] = {}
    async with store(**options) as reader:
        for number in range(short_or_full(4, 60)):
            if number % 4 == 0:
                await reader.delete_run_log("run")
                await reader.create_run_log("run")
                acknowledged = {}
            async with (
                worker_process(store, options) as one,
                worker_process(store, options) as other,
                asyncio.TaskGroup() as group,
            ):
                writers = [
                    group.create_task(
                        write_and_be_killed(worker, f"{number}{which}", random.Random(f"{number}{which}"))
                    )
                    for which, worker in (("a", one), ("b", other))
                ]
            for writer in writers:
                acknowledged |= writer.result()
            check_survivors(await reader.get_run_log_by_id("run"), acknowledged)
            # The dead hold no lock, and left nothing that stands in the way.
            for name in sorted(acknowledged)[:2]:
                step = await reader.get_step_log(name, "run")
                await reader.add_step_log(step, "run")
        await reader.update_run_log_status("run", "SUCCESS")
        check_survivors(await reader.get_run_log_by_id("run"), acknowledged)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ON_S3)
async def test_what_was_acknowledged_survives_kill_9(layout: Any, stub_bucket: Bucket) -> None:
    await check_what_was_acknowledged_survives(layout, stub_bucket.options)


@pytest.mark.slow
@pytest.mark.parametrize("layout", IN_FOLDERS)
async def test_what_was_acknowledged_survives_kill_9_in_a_folder(layout: Any, tmp_path: Path) -> None:
    await check_what_was_acknowledged_survives(layout, {"log_folder": str(tmp_path / "logs")})
