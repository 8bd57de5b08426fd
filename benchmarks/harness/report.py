"""Tables for people to read."""

from __future__ import annotations

import os
import statistics
import sys
from typing import TYPE_CHECKING, Any

from harness.results import SERVER_FULL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.results import Comparison, Entry, Versus

UNMEASURED = "–"

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
    title, *entries = align(_without_unmeasured(rows))
    lines = [comparison.title, title, *entries]
    lines += [f"    {claim.what}: {claim.value}, goal {claim.goal}: {claim.verdict}" for claim in comparison.claims]
    lines += [f"    {note}" for note in comparison.notes]
    if comparison.ceiling:
        share = statistics.median(comparison.ours.rates) / comparison.ceiling
        lines.append(
            f"    the latency allows {comparison.ceiling:,.0f} {comparison.unit}/s: asyncstore is at {share:.0%}"
        )
    return [coloured(line) for line in lines]


def print_environment(facts: dict[str, Any], rounds: int, *versions: str) -> None:
    """Print what :func:`harness.machine.environment` told; ``versions`` of what it does not know."""
    known = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print("; ".join([known, *versions]))
    print(
        f"Python {facts['python']} on {facts['event_loop']}, {facts['cores']} cores, load "
        f"{number(facts['load_at_start'])} at the start; medians of {rounds} rounds"
    )


def print_tables(title: str, found: Sequence[Comparison], others: Sequence[float], remarks: Sequence[str] = ()) -> None:
    """
    Print what was measured at one place, and how many goals were reached.

    Args:
        title: the place.
        found: the tables.
        others: cores that processes of other people kept busy meanwhile, if that is known.
        remarks: printed below the tables.
    """
    print(f"\n{title}\n{'═' * len(title)}")
    for comparison in found:
        print("\n" + "\n".join(comparison_lines(comparison)))
    for remark in remarks:
        print(f"\n{remark}")
    verdicts = [verdict for comparison in found for verdict in comparison.verdicts]
    ceilings = f", {verdicts.count('ceiling')} at what the latency allows" if "ceiling" in verdicts else ""
    for cores in others:
        print(f"\nOther processes kept {cores:.1f} of {os.cpu_count()} cores busy meanwhile.")
    print(f"\n{verdicts.count('pass')} of {len(verdicts)} goals reached{ceilings}.", flush=True)


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
        return [entry.name, *[UNMEASURED] * 7]
    values = [1000 / rate for rate in entry.rates] if comparison.latency else entry.rates
    load, requests = entry.median("server_load"), entry.requests_each
    count = entry.samples[0].count
    return [
        entry.name,
        number(statistics.median(values)),
        _spread(values),
        *(number(entry.median(name) or 0) for name in ("wall_s", "cpu_s")),
        f"{entry.median('peak_mib') or 0:.0f}",
        UNMEASURED if requests is None else f"{requests * count:,.0f}",
        UNMEASURED if load is None else f"{load:.0%}{'*' if load >= SERVER_FULL else ' '}",
    ]


def _without_unmeasured(rows: list[list[str]]) -> list[list[str]]:
    kept = [column for column in zip(*rows, strict=True) if set(column[1:]) != {UNMEASURED}]
    return [list(row) for row in zip(*kept, strict=True)]


def _verdict_cells(comparison: Comparison, peer: Versus) -> list[str]:
    ratios = comparison.ratios(peer)
    if not ratios:
        return ["", str(peer.goal or ""), ""]
    spread = f" ({_spread(ratios)})" if len(ratios) > 1 else ""
    return [f"{number(statistics.median(ratios))}×{spread}", str(peer.goal or ""), comparison.verdict(peer)]


def _spread(values: Sequence[float]) -> str:
    return f"{number(min(values))} – {number(max(values))}" if len(values) > 1 else ""
