"""
A process that works on request: a line of JSON in, a line of JSON out.

Each contender has one of its own, so that its CPU seconds and its peak memory are its own too, and idles while the
others are measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

ANSWER_DEADLINE_S = 1800.0
"""Longest that one request may take; a million adds are asked for in portions."""

STOP_DEADLINE_S = 10.0

BENCHMARKS = Path(__file__).parent.parent


class WorkerError(RuntimeError):
    """A worker failed; the message holds its traceback, or what it printed last."""


class Worker:
    """
    A running worker; ends with the ``with`` block, and by itself when its starter has died.

    Args:
        module: the module of this package that it runs, which ends in :func:`serve`.
        arguments: the module's command line.
        environment: variables to set besides the ones here.
        python: the interpreter; default: this one.
        deadline_s: longest that one request may take.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        python: str = sys.executable,
        deadline_s: float = ANSWER_DEADLINE_S,
    ) -> None:
        self._deadline_s = deadline_s
        self.name = f"{module} {arguments[0]}"
        self._command = [python, "-m", f"harness.{module}", *arguments]
        # What is on this interpreter's path fits no other one.
        inherited = [os.environ["PYTHONPATH"]] if python == sys.executable and os.environ.get("PYTHONPATH") else []
        path = os.pathsep.join([str(BENCHMARKS), *inherited])
        self._environment = {**os.environ, **(environment or {}), "PYTHONPATH": path}
        self._stack = contextlib.ExitStack()
        self._log: IO[bytes]
        self._process: subprocess.Popen[bytes]
        self._begun = ""

    def __enter__(self) -> Worker:
        self._log = self._stack.enter_context(tempfile.TemporaryFile())
        # A session of its own: Ctrl-C is for the starter, who then ends its workers.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=self._environment,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stack.close()

    def ask(self, operation: str, **arguments: object) -> Any:
        """
        Have an operation carried out and return its result.

        Raises:
            WorkerError: it failed, ended, or did not answer in time.
        """
        self.begin(operation, **arguments)
        return self.result()

    def begin(self, operation: str, **arguments: object) -> None:
        """
        Have an operation carried out while others work too; the next call must be :meth:`result`.

        Raises:
            WorkerError: the worker has ended.
        """
        assert self._process.stdin
        self._begun = operation
        try:
            self._process.stdin.write(json.dumps([operation, arguments]).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._error("it has ended") from None

    def result(self) -> Any:
        """
        Wait for what was begun, and return its result.

        Raises:
            WorkerError: it failed, ended, or did not answer in time.
        """
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], self._deadline_s)[0]:
            raise self._error(f"no answer within {self._deadline_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._error("it has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.name}: {self._begun}: {answer['error']}")
        return answer["result"]

    def _error(self, reason: str) -> WorkerError:
        self._log.seek(0)
        printed = self._log.read().decode(errors="replace")[-2000:]
        return WorkerError(f"{self.name}: {self._begun}: {reason}\n{printed}")


async def serve(operations: Mapping[str, Callable[..., Awaitable[object]]]) -> None:
    """Carry out what comes in on standard input until that ends."""
    # Whatever libraries print must not get in between the answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        while line := await asyncio.to_thread(sys.stdin.readline):
            operation, arguments = json.loads(line)
            try:
                answer = {"result": await operations[operation](**arguments)}
            except Exception:
                answer = {"error": traceback.format_exc()}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


@contextlib.contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Fill in, at the end of the block, how many seconds, CPU seconds and MiB at the peak it took this process."""
    figures: dict[str, float] = {}
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    yield figures
    figures["wall_s"] = time.perf_counter() - wall_s
    figures["cpu_s"] = time.process_time() - cpu_s
    figures["peak_mib"] = _status_mib("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mib() -> float:
    """Return how much memory this process has; its peak where the system does not tell."""
    return _status_mib("VmRSS") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _status_mib(name: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))
