"""
s5cmd and rclone as contenders.

Nothing but Python is imported here: what a process weighed when it started a tool counts into the tool's peak memory.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness.catalog_work import Figures, Place, read_place, serve_contender

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEADLINE_S = 400.0
"""Longest that a tool may take; then it is killed."""

S5CMD = {
    "default": ((), ()),
    "64 workers": (("--numworkers", "64"), ("--concurrency", "16", "--part-size", "16")),
}
"""Settings of s5cmd: options of the program, and of its copying."""

RCLONE = (
    "--config=", "--transfers=64", "--checkers=64", "--s3-no-check-bucket", "--s3-disable-checksum", "--s3-no-head",
    "--s3-upload-concurrency=16", "--s3-chunk-size=16M", "--s3-upload-cutoff=16M", "--multi-thread-streams=16",
    "--multi-thread-cutoff=16M", "--multi-thread-chunk-size=16M", "--use-server-modtime", "--ignore-checksum",
    "--fast-list", "--size-only", "--stats=0", "--retries=1",
)  # fmt: skip


class ToolError(RuntimeError):
    """A tool failed, took too long, or is not installed."""


class Tool:
    """A program that copies folders."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._program = executable(place.kind)
        self._environment = {
            **os.environ,
            "AWS_REGION": place.region,
            "RCLONE_CONFIG_BENCH_TYPE": "s3",
            "RCLONE_CONFIG_BENCH_PROVIDER": "Other",
            "RCLONE_CONFIG_BENCH_ENV_AUTH": "true",
            "RCLONE_CONFIG_BENCH_ENDPOINT": place.endpoint_url,
            "RCLONE_CONFIG_BENCH_REGION": place.region,
            "RCLONE_CONFIG_BENCH_FORCE_PATH_STYLE": "true",
        }

    async def up(self, folder: str, key: str, options: Mapping[str, str]) -> Figures:
        """Put a folder."""
        return await self._run(self._copy(options, f"{folder}/", f"{self._place.bucket}/{key}/", down=False))

    async def down(self, folder: str, key: str, options: Mapping[str, str]) -> Figures:
        """Get a folder."""
        os.makedirs(folder, exist_ok=True)
        return await self._run(self._copy(options, f"{self._place.bucket}/{key}/", f"{folder}/", down=True))

    def _copy(self, options: Mapping[str, str], source: str, target: str, *, down: bool) -> list[str]:
        if self._place.kind == "rclone":
            if down:
                return ["copy", *RCLONE, f"bench:{source}", target]
            unlooked = [] if options.get("again") else ["--no-check-dest"]
            return ["copy", *RCLONE, *unlooked, source, f"bench:{target}"]
        program, copying = S5CMD[options.get("setting", "default")]
        verb = ["sync"] if options.get("again") else ["cp"]
        if options.get("again") == "size-only":
            verb.append("--size-only")
        ends = [f"s3://{source}*", target] if down else [source, f"s3://{target}"]
        return ["--log", "error", "--endpoint-url", self._place.endpoint_url, *program, *verb, *copying, *ends]

    async def _run(self, arguments: Sequence[str]) -> Figures:
        return await asyncio.to_thread(run_tool, [self._program, *arguments], self._environment)


def run_tool(command: Sequence[str], environment: Mapping[str, str]) -> Figures:
    """
    Run a program to its end, and tell what it took.

    Raises:
        ToolError: it failed, or did not end in time.
    """
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        timer = threading.Timer(DEADLINE_S, process.kill)
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            printed = log.read().decode(errors="replace")[-800:]
            raise ToolError(f"{' '.join(command)} ended with {process.returncode} after {wall_s:.0f} s: {printed}")
    return {"wall_s": wall_s, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}


def executable(name: str) -> str:
    """
    Return the path of a program, of this environment if it has one.

    Raises:
        ToolError: there is none.
    """
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if path is None:
        raise ToolError(f"{name} is not installed")
    return path


if __name__ == "__main__":
    asyncio.run(serve_contender(Tool(read_place("catalog_tools"))))
