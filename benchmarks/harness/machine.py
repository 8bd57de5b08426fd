"""What the system tells of processes and of the machine; nothing where there is no /proc."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = Path("/proc")


def children() -> set[int]:
    """Return the processes that this one has started."""
    found = set()
    for path in PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the command, which may hold anything, come the state and the parent.
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(path.parent.name))
    return found


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far, of the threads that it has."""
    # The scheduler's own account, in nanoseconds; that in clock ticks is too coarse for what takes a tenth of a second.
    schedules = (PROC / str(pid) / "task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in schedules) / 1e9


@contextlib.contextmanager
def others_watched() -> Iterator[list[float]]:
    """
    Append, at the end of the block, how many cores processes other than ours kept busy meanwhile.

    Those that were started here count as ours, if they have ended within the block.
    """
    found: list[float] = []
    before_s, start = _others_s(), time.monotonic()
    yield found
    after_s = _others_s()
    if before_s is not None and after_s is not None:
        found.append(max(0.0, (after_s - before_s) / (time.monotonic() - start)))


def _others_s() -> float | None:
    try:
        user, nice, system, _idle, _iowait, irq, softirq = map(int, (PROC / "stat").read_text().split()[1:8])
    except OSError:
        return None
    busy_s = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return busy_s - sum(os.times()[:4])
