"""What was measured, and what that says against the goals. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SERVER_FULL = 0.9
"""Load above which the server, and not its client, is what a figure measures."""

CEILING_REACHED = 0.9
"""Share of what the latency allows that counts as all of it."""

FLAT_MIB = 8.0
"""Growth that the allocator may account for; a byte kept of each of a million writes would show as one MiB."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement."""

    count: int
    """How many operations were carried out."""
    wall_s: float
    cpu_s: float
    peak_mib: float
    median_s: float | None = None
    """What one took, where they were carried out one after the other."""
    requests: int | None = None
    server_cpu_s: float | None = None
    server_load: float | None = None
    """Share of the cores that the server can use, which it did use."""

    @property
    def each_s(self) -> float:
        """Seconds for one operation."""
        return self.median_s or self.wall_s / self.count


@dataclass(slots=True)
class Entry:
    """One contender's measurements, of all rounds."""

    name: str
    samples: list[Sample] = field(default_factory=list)

    def median(self, name: str) -> float | None:
        """Return the median of a field of the samples, ``None`` where it was not measured."""
        values = [getattr(sample, name) for sample in self.samples]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    @property
    def rates(self) -> list[float]:
        """Operations in a second, of each round."""
        return [1 / sample.each_s for sample in self.samples]

    @property
    def requests_each(self) -> float | None:
        """Requests for one operation, ``None`` if the server did not count."""
        requests = self.median("requests")
        return None if requests is None else requests / self.samples[0].count


@dataclass(slots=True)
class Goal:
    """What a ratio is to be."""

    limit: float
    at_most: bool = False

    def met(self, ratio: float) -> bool:
        """Tell whether it is reached."""
        return ratio <= self.limit if self.at_most else ratio >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}×"


@dataclass(slots=True)
class Versus:
    """A contender that asyncstore is compared with."""

    entry: Entry
    goal: Goal | None = None


@dataclass(slots=True)
class Claim:
    """A figure of asyncstore's own, with its goal."""

    what: str
    value: str
    goal: str
    met: bool

    @property
    def verdict(self) -> str:
        """Tell whether the goal is reached."""
        return "pass" if self.met else "short"


@dataclass(slots=True)
class Comparison:
    """A piece of work, and how asyncstore and others did at it."""

    title: str
    unit: str
    ours: Entry
    peers: list[Versus]
    ceiling: float | None = None
    """Operations in a second that the latency of one bare request allows; ``None`` where none was added."""
    latency: bool = False
    """Whether how long one takes is compared, and not how many are done in a second."""
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def verdicts(self) -> list[str]:
        """What became of each goal."""
        return [word for word in map(self.verdict, self.peers) if word] + [claim.verdict for claim in self.claims]

    def ratios(self, peer: Versus) -> list[float]:
        """Return, round by round, how many times as fast asyncstore is, or how many times as long it takes."""
        pairs = zip(self.ours.samples, peer.entry.samples, strict=False)
        return [ours.each_s / theirs.each_s if self.latency else theirs.each_s / ours.each_s for ours, theirs in pairs]

    def verdict(self, peer: Versus) -> str:
        """Tell whether the goal is reached; ``ceiling`` if nobody could be faster on this server."""
        ratios = self.ratios(peer)
        if peer.goal is None or not ratios:
            return ""
        if peer.goal.met(statistics.median(ratios)):
            return "pass"
        return "ceiling" if self.at_ceiling else "short"

    @property
    def at_ceiling(self) -> bool:
        """Whether asyncstore is as fast as concurrency and latency allow."""
        return self.ceiling is not None and statistics.median(self.ours.rates) >= CEILING_REACHED * self.ceiling

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "title": self.title,
            "unit": self.unit,
            "ceiling": self.ceiling,
            "asyncstore": _entry_json(self.ours),
            "peers": [
                {
                    **_entry_json(peer.entry),
                    "ratios": self.ratios(peer),
                    "ratio": statistics.median(self.ratios(peer)) if self.ratios(peer) else None,
                    "goal": str(peer.goal) if peer.goal else None,
                    "verdict": self.verdict(peer) or None,
                }
                for peer in self.peers
            ],
            "claims": [{"what": c.what, "value": c.value, "goal": c.goal, "met": c.met} for c in self.claims],
            "notes": self.notes,
        }


def against(entries: Mapping[str, Entry], goals: Mapping[str, Goal | None]) -> Iterator[Versus]:
    """Yield the peers that took part."""
    for name, goal in goals.items():
        if name in entries:
            yield Versus(entries[name], goal)


def growth_mib(resident_mib: list[float]) -> float:
    """Return how much memory grew from the second quarter of the samples to the last: medians, for noise."""
    quarters = [len(resident_mib) * part // 4 for part in range(5)]
    medians = [statistics.median(resident_mib[start:end]) for start, end in pairwise(quarters)]
    return medians[3] - medians[1]


def _entry_json(entry: Entry) -> dict[str, Any]:
    names = list(Sample.__dataclass_fields__)
    return {"name": entry.name, "samples": [{name: getattr(s, name) for name in names} for s in entry.samples]}
