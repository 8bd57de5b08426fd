"""What the measurements of the catalog say against its goals. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.catalog_contest import AGAIN, DISK, MB, SYNC, SYNC_SIZES, Moved, amount, unit
from harness.catalog_crew import AIOBOTO3, OBSTORE, OURS, OURS_ASYNCIO, PEERS, S5CMD_TOOL
from harness.catalog_own import MEMORY_LIMIT_MIB
from harness.results import Claim, Comparison, Entry, Goal, Versus
from harness.work import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.catalog_trees import Tree

BEST_PEER_SHARE = 0.9
LATENCY_SHARE = 0.9
CONVOY_LIMIT = 1.2
PACKED_REQUESTS = 200
"""Requests that 100,000 packed files may cost."""

UP_SMALL = {S5CMD_TOOL: Goal(2), AIOBOTO3: Goal(6), OBSTORE: Goal(0.8)}
DOWN_SMALL = {S5CMD_TOOL: Goal(1), AIOBOTO3: Goal(6), OBSTORE: Goal(0.8)}
LARGE = {S5CMD_TOOL: Goal(1.5)}
MIXED = {S5CMD_TOOL: Goal(1.2)}
PACKED = {S5CMD_TOOL: Goal(10)}
AGAIN_GOALS = {SYNC: Goal(5), SYNC_SIZES: Goal(5)}

GOALS: dict[str, dict[str, Mapping[str, Goal]]] = {
    "small": {"up": UP_SMALL, "down": DOWN_SMALL},
    "many": {"up": UP_SMALL, "down": DOWN_SMALL},
    "large": {"up": LARGE, "down": LARGE},
    "single": {"up": LARGE, "down": LARGE},
    "mixed": {"up": MIXED, "down": MIXED},
    "packed": {"up": PACKED, "down": PACKED},
}


@dataclass(slots=True)
class Bandwidth:
    """asyncstore's highest rates in MB/s at one server, as one large file told; ``None`` where none was moved."""

    up: float | None = None
    down: float | None = None


def moved_comparisons(
    workload: str, tree: Tree, moved: Moved, *, lone_s: float, bare_mib: float, peak: Bandwidth
) -> list[Comparison]:
    """
    Return both directions of a workload; a single large file's rates are kept in ``peak``.

    ``lone_s`` is what a lone request takes where a latency is added, zero where none is.
    """
    found = []
    for direction, entries in (("up", moved.up), ("down", moved.down)):
        # With latency it is not the peers that goals are about, but the latency, unless files are packed.
        goals = GOALS[workload][direction] if not lone_s or workload == "packed" else {}
        comparison = _comparison(f"{_title(workload, tree)}, {direction}", unit(tree), entries, goals)
        found.append(comparison)
        if not comparison.ours.samples:
            comparison.claims.append(Claim("rounds in which asyncstore came to an end", "none", "all", met=False))
            continue
        if workload in ("large", "single") and not lone_s:
            comparison.claims += _best_peer(comparison)
        if workload in ("small", "many") and lone_s:
            comparison.claims.append(_latency_share(comparison, lone_s))
        if workload == "single" and tree.total_bytes:
            setattr(peak, direction, statistics.median(comparison.ours.rates))
        if workload == "mixed":
            _add_convoy(comparison, getattr(peak, direction))
        if workload == "packed" and comparison.ours.requests_each is not None:
            comparison.claims.append(_packed_requests(comparison))
        comparison.claims.append(_memory(comparison.ours, bare_mib))
    found[0].notes += moved.notes
    return found


def again_comparisons(tree: Tree, moved: Moved, bare_mib: float) -> list[Comparison]:
    """Return both directions of what has not changed."""
    found = []
    for direction, entries in (("up", moved.up), ("down", moved.down)):
        peers = [
            Versus(entries[label], AGAIN_GOALS.get(label)) for label in AGAIN if label != OURS and label in entries
        ]
        title = f"{len(tree.files):,} files of 4 KiB that have not changed, {direction}"
        ours = entries.get(OURS, Entry("asyncstore"))
        found.append(Comparison(title, "files", ours, peers, claims=[_memory(ours, bare_mib)]))
    found[0].notes += moved.notes
    return found


def amount_of(tree: Tree) -> str:
    """Return what a tree consists of, for people."""
    size = tree.total_bytes / len(tree.files)
    each = f"{size / 1024:.0f} KiB" if size < 1024**2 else f"{size / 1024**2:.0f} MiB"
    return f"{len(tree.files):,} files of {each}" if len(tree.files) > 1 else f"one file of {each}"


def _title(workload: str, tree: Tree) -> str:
    if workload == "mixed":
        return f"a mixed tree: {len(tree.files):,} files of lognormal sizes, {tree.total_bytes / MB:,.0f} MB"
    return amount_of(tree) + (", packed" if workload == "packed" else "")


def _comparison(title: str, what: str, entries: Mapping[str, Entry], goals: Mapping[str, Goal]) -> Comparison:
    order: Iterable[str] = (*goals, *(name for name in (*PEERS, OURS_ASYNCIO, DISK) if name not in goals))
    peers = [Versus(entries[name], goals.get(name)) for name in order if name in entries and entries[name].samples]
    return Comparison(title, what, entries.get(OURS, Entry("asyncstore")), peers)


def _best_peer(comparison: Comparison) -> list[Claim]:
    ratios = {
        peer.entry.name: statistics.median(comparison.ratios(peer))
        for peer in comparison.peers
        if not peer.entry.name.startswith("asyncstore")
    }
    if not ratios:
        return []
    best = min(ratios, key=lambda name: ratios[name])
    met = ratios[best] >= BEST_PEER_SHARE
    return [Claim(f"beside the best peer ({best})", f"{ratios[best]:.2f}×", f"≥ {BEST_PEER_SHARE:g}×", met)]


def _latency_share(comparison: Comparison, lone_s: float) -> Claim:
    share = statistics.median(comparison.ours.rates) / (TASKS / lone_s)
    value = f"{share:.2f}× of {TASKS / lone_s:,.0f} files/s, at {lone_s * 1000:.1f} ms for a lone request"
    return Claim("concurrency ÷ latency", value, f"≥ {LATENCY_SHARE:g}×", share >= LATENCY_SHARE)


def _add_convoy(comparison: Comparison, peak: float | None) -> None:
    if peak is None:
        comparison.notes.append("no convoy: unknown, for no single large file was moved in this run")
        return
    ratio = peak / statistics.median(comparison.ours.rates)
    value = f"{ratio:.2f}× of bytes ÷ {peak:,.0f} MB/s"
    comparison.claims.append(Claim("no convoy: wall time", value, f"≤ {CONVOY_LIMIT:g}×", ratio <= CONVOY_LIMIT))


def _packed_requests(comparison: Comparison) -> Claim:
    requests = (comparison.ours.requests_each or 0) * 100_000
    return Claim(
        "requests for 100,000 files, at this rate",
        f"{requests:.0f}",
        f"< {PACKED_REQUESTS}",
        requests < PACKED_REQUESTS,
    )


def _memory(entry: Entry, bare_mib: float) -> Claim:
    above = max((sample.peak_mib for sample in entry.samples), default=0.0) - bare_mib
    goal = f"≤ {MEMORY_LIMIT_MIB:g} MiB"
    return Claim("peak memory above a bare interpreter", f"{above:.0f} MiB", goal, above <= MEMORY_LIMIT_MIB)


__all__ = ["Bandwidth", "again_comparisons", "amount", "amount_of", "moved_comparisons"]
