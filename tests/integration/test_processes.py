"""Many processes write into one run: nothing is lost, and each writer's steps stay in order."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from asyncstore.runlog.chunked import ChunkedFileSystemRunLogStore, ChunkedS3RunLogStore
from asyncstore.runlog.db import DBRunLogStore, create_tables

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.runlog.base import RunLogStore
    from asyncstore.testing.servers import Bucket

PROCESSES = 8
TASKS = 8
STEPS = 50
RUN = "shared"

WRITER = """
import asyncio, importlib, json, sys

module, name, options, run_id, process, tasks, steps = json.loads(sys.argv[1])
make_store = getattr(importlib.import_module(module), name)


async def write(store, writer):
    for number in range(steps):
        step = f"{process}-{writer}-{number}"
        await store.add_step_log(store.create_step_log(step, step), run_id)


async def main():
    async with make_store(**options) as store, asyncio.TaskGroup() as group:
        for writer in range(tasks):
            group.create_task(write(store, writer))


asyncio.run(main())
"""


async def write_in_a_process(store: type[RunLogStore], options: dict[str, Any], process: int) -> None:
    job = json.dumps([store.__module__, store.__name__, options, RUN, process, TASKS, STEPS])
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", WRITER, job, stderr=asyncio.subprocess.PIPE, env=dict(os.environ)
    )
    _, errors = await writer.communicate()
    assert writer.returncode == 0, errors.decode()[-3000:]


async def check_many_processes(store: type[RunLogStore], options: dict[str, Any]) -> None:
    async with store(**options) as reader:
        await reader.create_run_log(RUN)
        async with asyncio.TaskGroup() as group:
            for process in range(PROCESSES):
                group.create_task(write_in_a_process(store, options, process))
        names = list((await reader.get_run_log_by_id(RUN)).steps)
    assert len(names) == PROCESSES * TASKS * STEPS
    for process in range(PROCESSES):
        for task in range(TASKS):
            own = [name for name in names if name.startswith(f"{process}-{task}-")]
            assert own == [f"{process}-{task}-{number}" for number in range(STEPS)]


async def test_sqlite(sqlite_url: str) -> None:
    await create_tables(sqlite_url)
    await check_many_processes(DBRunLogStore, {"connection_string": sqlite_url})


async def test_postgres(postgres_url: str) -> None:
    await create_tables(postgres_url)
    await check_many_processes(DBRunLogStore, {"connection_string": postgres_url})


async def test_chunked_folder(tmp_path: Path) -> None:
    await check_many_processes(ChunkedFileSystemRunLogStore, {"log_folder": str(tmp_path / "logs")})


async def test_chunked_s3(rclone_bucket: Bucket) -> None:
    await check_many_processes(ChunkedS3RunLogStore, dict(rclone_bucket.options))
