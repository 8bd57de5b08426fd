"""What the system tells of processes and of the machine; of processes nothing where there is no /proc."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PROC = Path("/proc")


def environment(packages: Sequence[str], *, uvloop: bool) -> dict[str, Any]:
    """Tell what is measured, and on what."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load_at_start": os.getloadavg()[0],
        "event_loop": "uvloop" if uvloop else "asyncio",
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def children(parent: int | None = None) -> set[int]:
    """Return the processes that ``parent``, or else this one, has started."""
    wanted = parent or os.getpid()
    found = set()
    for path in PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the command, which may hold anything, come the state and the parent.
            if int(path.read_text().rpartition(")")[2].split()[1]) == wanted:
                found.add(int(path.parent.name))
    return found


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far, of the threads that it has; 0 of one that has ended."""
    # The scheduler's own account, in nanoseconds; that in clock ticks is too coarse for what takes a tenth of a second.
    spent_s = 0.0
    for schedule in (PROC / str(pid) / "task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            spent_s += int(schedule.read_text().split()[0]) / 1e9
    return spent_s


def family_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far, of the children that it has, and of those that it had."""
    # After the command, which may hold anything, come the state and the other fields; ticks will do for the dead.
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    dead_s = sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")
    return dead_s + sum(map(cpu_s, {pid, *children(pid)}))


@contextlib.contextmanager
def others_watched(server_cpu_s: Callable[[], float | None] = lambda: None) -> Iterator[list[float]]:
    """
    Append, at the end of the block, how many cores processes other than ours kept busy meanwhile.

    Those that were started here count as ours, if they have ended within the block.

    Args:
        server_cpu_s: tells the CPU seconds so far of a server of ours that is somebody else's child.
    """
    found: list[float] = []
    before_s, start = _others_s(server_cpu_s()), time.monotonic()
    yield found
    after_s = _others_s(server_cpu_s())
    if before_s is not None and after_s is not None:
        found.append(max(0.0, (after_s - before_s) / (time.monotonic() - start)))


def _others_s(ours_s: float | None) -> float | None:
    try:
        user, nice, system, _idle, _iowait, irq, softirq = map(int, (PROC / "stat").read_text().split()[1:8])
    except OSError:
        return None
    busy_s = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return busy_s - sum(os.times()[:4]) - (ours_s or 0.0)
