"""What is measured where, how often, and with whom. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from harness.catalog_crew import AIOBOTO3, OBSTORE, OURS, OURS_ASYNCIO, PEERS, RCLONE_TOOL, S5CMD_TOOL
from harness.catalog_trees import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKLOADS = ("small", "many", "single", "large", "mixed", "unchanged", "packed", "loop", "memory")

_WEIGHTS = {
    "small": 13, "many": 5, "single": 12, "large": 6, "mixed": 6, "unchanged": 5, "packed": 4, "loop": 3, "memory": 6,
}  # fmt: skip
"""About how long each takes, beside the others, where the slow peers take part."""

CHIEF = (S5CMD_TOOL, OBSTORE, AIOBOTO3)
"""The peers that goals name: they take part in every round."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload at one server."""

    server: str
    latency_s: float
    workload: str

    @property
    def is_chief_place(self) -> bool:
        """Whether it is measured where the slow peers take part too."""
        return self.server == "stub" and not self.latency_s

    @property
    def weight(self) -> float:
        """What part of the time it may take, beside others."""
        few_peers = self.workload in ("small", "single") and not self.is_chief_place
        return _WEIGHTS[self.workload] / (2 if few_peers else 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    cells: tuple[Cell, ...]
    peers: tuple[str, ...]
    rounds: dict[str, int]
    """By workload."""
    all_rounds: bool
    """Whether the slow peers take part in all rounds and workloads, instead of the first round of some."""
    chosen: bool
    """Whether the peers were chosen by name, and take part in every workload that they are fit for."""
    small_files: int
    many_files: int
    single_bytes: int
    large_bytes: int
    """Of each of four files."""
    mixed_bytes: int
    memory_bytes: tuple[int, ...]
    memory_files: tuple[int, ...]
    uvloop: bool
    minutes: float | None

    def names(self, cell: Cell) -> list[str]:
        """Return who takes part in moving a tree."""
        return [OURS, *self._beside(cell), *(name for name in self.peers if name in self._wanted(cell))]

    def _wanted(self, cell: Cell) -> Sequence[str]:
        if cell.workload == "packed":
            return (S5CMD_TOOL,)
        if cell.workload == "unchanged":
            return (S5CMD_TOOL, RCLONE_TOOL)
        if self.all_rounds or self.chosen or (cell.workload in ("small", "single") and cell.is_chief_place):
            return PEERS
        return CHIEF if cell.workload in ("small", "single", "large") else (S5CMD_TOOL, OBSTORE)

    def _beside(self, cell: Cell) -> list[str]:
        return [OURS_ASYNCIO] if cell.workload == "small" and not cell.latency_s and self.uvloop else []

    def extra_rounds(self, workload: str) -> int:
        """Return in how many rounds those take part who are not named by goals."""
        return self.rounds[workload] if self.all_rounds else 1

    @property
    def extras(self) -> list[str]:
        """Those who are not named by goals."""
        return [name for name in (*self.peers, OURS_ASYNCIO) if name not in CHIEF]


def _cells(found: dict[tuple[str, float], Sequence[str]]) -> tuple[Cell, ...]:
    return tuple(Cell(server, latency_s, name) for (server, latency_s), names in found.items() for name in names)


_ROUNDS = {"small": 3, "many": 1, "single": 3, "large": 2, "mixed": 1, "unchanged": 1, "packed": 1}

DEFAULT = Plan(
    cells=_cells({
        ("stub", 0.0): ("small", "many", "single", "large", "mixed", "unchanged", "loop", "memory"),
        ("stub", 0.02): ("small", "packed"),
        ("rclone", 0.0): ("small", "single"),
    }),
    peers=PEERS,
    rounds=_ROUNDS,
    all_rounds=False,
    chosen=False,
    small_files=5000,
    many_files=50_000,
    single_bytes=1024 * MIB,
    large_bytes=256 * MIB,
    mixed_bytes=3_000_000_000,
    memory_bytes=(256 * MIB, 1024 * MIB, 4096 * MIB),
    memory_files=(5000, 50_000),
    uvloop=True,
    minutes=10.5,
)  # fmt: skip

FULL = replace(
    DEFAULT,
    cells=_cells({
        ("stub", 0.0): tuple(name for name in WORKLOADS if name != "packed"),
        ("stub", 0.02): ("small", "many", "single", "large", "unchanged", "packed"),
        ("rclone", 0.0): ("small", "many", "single", "large", "mixed", "unchanged"),
        ("rclone", 0.02): ("small", "single"),
    }),
    rounds=dict.fromkeys(WORKLOADS, 5),
    all_rounds=True,
    memory_files=(5000, 50_000, 100_000),
    minutes=None,
)  # fmt: skip

QUICK = replace(
    DEFAULT,
    cells=_cells({
        ("stub", 0.0): ("small", "single", "large", "mixed", "unchanged", "loop", "memory"),
        ("stub", 0.02): ("small", "packed"),
    }),
    rounds=dict.fromkeys(WORKLOADS, 1),
    small_files=300,
    many_files=2000,
    single_bytes=48 * MIB,
    large_bytes=16 * MIB,
    mixed_bytes=60_000_000,
    memory_bytes=(16 * MIB, 64 * MIB),
    memory_files=(300,),
    minutes=3.0,
)  # fmt: skip


def chosen_cells(
    plan: Plan, servers: Sequence[str] | None, latencies_s: Sequence[float] | None, workloads: Sequence[str] | None
) -> tuple[Cell, ...]:
    """Return what is left of a plan's cells, or, where nothing is or a place is named for a workload, those named."""
    if workloads and (servers or latencies_s):
        return tuple(Cell(*each) for each in product(servers or ["stub"], latencies_s or [0.0], workloads))
    kept = tuple(
        cell
        for cell in plan.cells
        if cell.server in (servers or [cell.server])
        and cell.latency_s in (latencies_s or [cell.latency_s])
        and cell.workload in (workloads or [cell.workload])
    )
    return kept or tuple(
        Cell(*each) for each in product(servers or ["stub"], latencies_s or [0.0], workloads or ["small", "single"])
    )
