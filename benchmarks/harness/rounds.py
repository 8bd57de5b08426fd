"""What contests have in common: contenders that take turns, and what their work costs them and the server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

from harness.results import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Server(Protocol):
    """What is worked at."""

    @property
    def cores(self) -> int:
        """How many cores it can use."""

    def reset_count(self) -> None:
        """Count requests anew."""

    def request_count(self) -> int | None:
        """Return how many requests came since, ``None`` if the server does not count."""

    def cpu_s(self) -> float | None:
        """Return the CPU seconds that the server has spent so far, ``None`` if nothing tells."""


def progress(text: str) -> None:
    """Tell whoever waits what is going on."""
    print(f"… {text}", file=sys.stderr, flush=True)


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Return the order of a round: each contender begins one in its turn."""
    first = turn % len(names) if names else 0
    return [*names[first:], *names[:first]]


def measure(server: Server, work: Callable[[], dict[str, Any]], count: int) -> Sample:
    """
    Return what ``work`` cost.

    Args:
        server: the one that is worked at.
        work: does so many operations, or as many as it says was ``acknowledged``, and returns its own figures.
        count: how many.
    """
    server.reset_count()
    before_s = server.cpu_s()
    figures = work()
    after_s = server.cpu_s()
    server_cpu_s = None if before_s is None or after_s is None else after_s - before_s
    wall_s = figures["wall_s"]
    return Sample(
        count=figures.get("acknowledged", count),
        wall_s=wall_s,
        cpu_s=figures["cpu_s"],
        peak_mib=figures["peak_mib"],
        median_s=figures.get("median_s"),
        requests=server.request_count(),
        server_cpu_s=server_cpu_s,
        server_load=None if server_cpu_s is None else server_cpu_s / wall_s / server.cores,
    )
