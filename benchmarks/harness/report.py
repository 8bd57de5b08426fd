"""Tables for people to read."""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING

from harness.results import SERVER_FULL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.results import Comparison, Entry, Versus

COLOURS = {"pass": "32", "ceiling": "33", "short": "31"}


def align(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Return lines with columns as wide as need be: the first and the last to the left, the others to the right."""
    first, *between, last = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        figures = [cell.rjust(width) for cell, width in zip(row[1:-1], between, strict=True)]
        lines.append((indent + "  ".join([row[0].ljust(first), *figures, row[-1].ljust(last)])).rstrip())
    return lines


def comparison_lines(comparison: Comparison) -> list[str]:
    """Return one piece of work as a table."""
    unit = "ms each" if comparison.latency else f"{comparison.unit}/s"
    relation = "asyncstore takes" if comparison.latency else "asyncstore is"
    head = ["", unit, "min – max", "wall s", "CPU s", "peak MiB", "requests", "server", relation, "goal", ""]
    rows = [head, [*_cells(comparison, comparison.ours), "", "", ""]]
    rows += [[*_cells(comparison, peer.entry), *_verdict_cells(comparison, peer)] for peer in comparison.peers]
    title, *entries = align(rows)
    lines = [comparison.title, title, *entries]
    lines += [f"    {claim.what}: {claim.value}, goal {claim.goal}: {claim.verdict}" for claim in comparison.claims]
    lines += [f"    {note}" for note in comparison.notes]
    if comparison.ceiling:
        share = statistics.median(comparison.ours.rates) / comparison.ceiling
        lines.append(
            f"    the latency allows {comparison.ceiling:,.0f} {comparison.unit}/s: asyncstore is at {share:.0%}"
        )
    return [coloured(line) for line in lines]


def coloured(line: str) -> str:
    """Colour the verdict at the end of a line, on a terminal."""
    for word, colour in COLOURS.items():
        if sys.stdout.isatty() and line.endswith(f" {word}"):
            return f"{line.removesuffix(word)}\033[{colour}m{word}\033[0m"
    return line


def number(value: float) -> str:
    """Return a figure with as many digits as it deserves."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _cells(comparison: Comparison, entry: Entry) -> list[str]:
    if not entry.samples:
        return [entry.name, *["–"] * 7]
    values = [1000 / rate for rate in entry.rates] if comparison.latency else entry.rates
    load, requests = entry.median("server_load"), entry.requests_each
    count = entry.samples[0].count
    return [
        entry.name,
        number(statistics.median(values)),
        _spread(values),
        *(number(entry.median(name) or 0) for name in ("wall_s", "cpu_s")),
        f"{entry.median('peak_mib') or 0:.0f}",
        "–" if requests is None else f"{requests * count:,.0f}",
        "–" if load is None else f"{load:.0%}{'*' if load >= SERVER_FULL else ' '}",
    ]


def _verdict_cells(comparison: Comparison, peer: Versus) -> list[str]:
    ratios = comparison.ratios(peer)
    if not ratios:
        return ["", str(peer.goal or ""), ""]
    spread = f" ({_spread(ratios)})" if len(ratios) > 1 else ""
    return [f"{number(statistics.median(ratios))}×{spread}", str(peer.goal or ""), comparison.verdict(peer)]


def _spread(values: Sequence[float]) -> str:
    return f"{number(min(values))} – {number(max(values))}" if len(values) > 1 else ""
