"""Folders moved up and down by everybody in turn, and moved again when nothing has changed."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.catalog_crew import (
    LABELS,
    OURS,
    RCLONE_TOOL,
    S5CMD_TOOL,
    is_ours,
    kind_of,
)
from harness.catalog_trees import folder_difference, write_plainly
from harness.results import Entry
from harness.rounds import measure, progress, rotated
from harness.worker import WorkerError, measured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from harness.catalog_crew import Crew
    from harness.catalog_trees import Tree
    from harness.results import Sample

MB = 1e6

_ERROR = re.compile(r"[\w.]+(Error|Exception)\b: ")

DISK = "bound: the files made without a network"

SHARED = "shared"
"""The objects that all get: those of asyncstore, or somebody else's if it has failed."""


class Clock:
    """
    How much time there is.

    Args:
        minutes: for everything; ``None`` is for ever.
    """

    def __init__(self, minutes: float | None) -> None:
        self._start = time.monotonic()
        self._budget_s = None if minutes is None else minutes * 60
        self._share = 1.0

    def set_share(self, share: float) -> None:
        """Say up to which share of the time what comes now may last."""
        self._share = share

    def allows(self, seconds: float) -> bool:
        """Tell whether something of so many seconds still fits in."""
        elapsed = time.monotonic() - self._start
        return self._budget_s is None or elapsed + seconds < self._budget_s * self._share

    @property
    def is_over(self) -> bool:
        """Whether all the time is used up."""
        return self._budget_s is not None and time.monotonic() - self._start > self._budget_s


@dataclass(slots=True)
class Moved:
    """What was measured of one piece of work, by contender."""

    up: dict[str, Entry] = field(default_factory=dict)
    down: dict[str, Entry] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Moving:
    """
    A tree that everybody puts and gets, each time from and to where nothing is.

    All get the objects that asyncstore has put in the same round; with a layout, which makes other objects than the
    files, each gets its own. What arrives is compared with the tree, outside of what is measured.

    Args:
        crew: the contenders.
        tree: the folder.
        names: those who take part.
        extras: those of them who take part in the first rounds only.
        layout: asyncstore's, if not its default.
    """

    def __init__(
        self, crew: Crew, tree: Tree, names: Sequence[str], extras: Sequence[str] = (), layout: str | None = None
    ) -> None:
        self._crew = crew
        self._tree = tree
        self._names = list(names)
        self._extras = set(extras)
        self._layout = layout
        self.found = Moved()
        self._sources: dict[str, str] = {}

    def run(self, rounds: int, extra_rounds: int, clock: Clock) -> Moved:
        """Measure so many rounds, or fewer if the time is up."""
        for name in list(self._names):
            self._attempt(name, lambda name=name: self._crew.warm_up(name, self._tree))  # type: ignore[misc]
        self._tell_settings()
        for turn in range(rounds):
            start = time.monotonic()
            progress(f"{self._crew.target.slug}: round {turn + 1} of {rounds}")
            if turn == extra_rounds:
                self._names = [name for name in self._names if name not in self._extras]
            self._round(turn)
            if turn + 1 < rounds and not clock.allows(time.monotonic() - start):
                self.found.notes.append(f"{turn + 1} of {rounds} rounds: the time is up")
                break
        return self.found

    def _tell_settings(self) -> None:
        if S5CMD_TOOL in self._names:
            for direction, entries in (("up", self.found.up), ("down", self.found.down)):
                setting = self._crew.setting(direction, self._tree)
                entries[S5CMD_TOOL] = Entry(f"s5cmd, {setting}")

    def _round(self, turn: int) -> None:
        self._sources.clear()
        for name in rotated(self._names, turn):
            self._attempt(name, lambda name=name: self._up(name))  # type: ignore[misc]
        for name in rotated(self._names, turn):
            if self._source(name):
                self._attempt(name, lambda name=name: self._down(name))  # type: ignore[misc]
        for key in self._sources.values():
            self._crew.delete(key, self._tree)
        if unit(self._tree) == "files":
            self._write_plainly()

    def _source(self, name: str) -> str | None:
        return self._sources.get(name if self._layout else SHARED)

    def _up(self, name: str) -> None:
        key = self._crew.new_key(name)
        options = self._options(name, "up")
        sample = self._measured(lambda: self._crew.up(name, self._tree.folder, key, **options))
        if not (self._layout and is_ours(name)):
            self._crew.check(key, self._tree)
        self._entry(self.found.up, name).samples.append(sample)
        if self._layout:
            self._sources[name] = key
        elif name == OURS or not (OURS in self._names or self._sources):
            self._sources[SHARED] = key
        else:
            self._crew.delete(key, self._tree)

    def _down(self, name: str) -> None:
        key, options = self._source(name) or "", self._options(name, "down")
        self._crew.settle()
        with self._crew.scratch.copy_of(self._tree) as folder:
            sample = self._measured(lambda: self._crew.down(name, folder, key, **options))
            require_equal(self._tree, folder)
        self._entry(self.found.down, name).samples.append(sample)

    def _write_plainly(self) -> None:
        with self._crew.scratch.copy_of(self._tree) as folder:

            def write() -> dict[str, float]:
                with measured() as figures:
                    write_plainly(self._tree, folder)
                return figures

            self._entry(self.found.down, DISK).samples.append(self._measured(write))

    def _options(self, name: str, direction: str) -> dict[str, str]:
        if name == S5CMD_TOOL:
            return {"setting": self._crew.setting(direction, self._tree)}
        if not is_ours(name):
            return {}
        return {"cache": self._crew.new_cache(), **({"layout": self._layout} if self._layout else {})}

    def _measured(self, work: Callable[[], dict[str, float]]) -> Sample:
        self._crew.scratch.touch_memory(self._tree.total_bytes)
        return measure(self._crew.target, work, amount(self._tree))

    def _attempt(self, name: str, work: Callable[[], None]) -> None:
        """Do something, twice where the server is known to err, and leave out who fails all the same."""
        for last in (False, True) if self._crew.target.settle_s else (True,):
            try:
                work()
            except WorkerError as error:
                self._crew.tell(f"{name}: {error}")
                if last:
                    self._names.remove(name)
                    self.found.notes.append(f"{LABELS[name]} has failed: {short(error)}")
            else:
                return

    @staticmethod
    def _entry(entries: dict[str, Entry], name: str) -> Entry:
        return entries.setdefault(name, Entry(LABELS.get(name, name)))


SYNC, SYNC_SIZES = "s5cmd sync", "s5cmd sync --size-only"
AGAIN = {
    OURS: (OURS, {}),
    SYNC: (S5CMD_TOOL, {"again": "sync"}),
    SYNC_SIZES: (S5CMD_TOOL, {"again": "size-only"}),
    "rclone copy --size-only": (RCLONE_TOOL, {"again": "size-only"}),
}


class Again:
    """
    A tree that is already on both sides, and that everybody is asked to put and to get all the same.

    Args:
        crew: the contenders.
        tree: the folder.
        names: the contenders that take part.
    """

    def __init__(self, crew: Crew, tree: Tree, names: Sequence[str]) -> None:
        self._crew = crew
        self._tree = tree
        self._labels = [label for label, (name, _) in AGAIN.items() if name in names]
        self._cache = crew.new_cache()
        self.found = Moved()

    def run(self, rounds: int, clock: Clock) -> Moved:
        """Put the tree and get it, and measure how long that takes again."""
        crew = self._crew
        key, copy = crew.new_key(OURS), crew.scratch.new_folder()
        crew.warm_up(OURS, self._tree)
        crew.up(OURS, self._tree.folder, key, cache=self._cache)
        crew.check(key, self._tree)
        crew.down(OURS, copy, key, cache=self._cache)
        require_equal(self._tree, copy)
        for turn in range(rounds):
            start = time.monotonic()
            progress(f"{crew.target.slug}: round {turn + 1} of {rounds}")
            for label in rotated(self._labels, turn):
                self._measure(self.found.up, label, "up", self._tree.folder, key)
                self._measure(self.found.down, label, "down", copy, key)
            if turn + 1 < rounds and not clock.allows(time.monotonic() - start):
                break
        crew.check(key, self._tree)
        require_equal(self._tree, copy)
        crew.delete(key, self._tree)
        return self.found

    def _measure(self, entries: dict[str, Entry], label: str, direction: str, folder: Path, key: str) -> None:
        name, options = AGAIN[label]
        extra = {"cache": self._cache} if name == OURS else options
        move = self._crew.up if direction == "up" else self._crew.down
        try:
            sample = measure(self._crew.target, lambda: move(name, folder, key, **extra), len(self._tree.files))
        except WorkerError as error:
            self._crew.tell(f"{label}: {error}")
            self.found.notes.append(f"{label} has failed: {short(error)}")
            if name == OURS:
                raise
            return
        entries.setdefault(label, Entry(label)).samples.append(sample)


def amount(tree: Tree) -> int:
    """Return how much a tree is, in its unit: files of the small ones, MB of others."""
    return len(tree.files) if unit(tree) == "files" else max(1, round(tree.total_bytes / MB))


def unit(tree: Tree) -> str:
    """Return what is counted of a tree."""
    return "files" if kind_of(tree) == "small" else "MB"


def require_equal(tree: Tree, folder: Path) -> None:
    """
    Compare what was got with the tree.

    Raises:
        WorkerError: it is not the same.
    """
    if wrong := folder_difference(tree, folder):
        raise WorkerError(f"what was got is wrong: {wrong}")


def short(error: WorkerError) -> str:
    """Return the line of a traceback, or else the last one, that says what is wrong."""
    lines = [line.strip(" |+-") for line in str(error).splitlines()]
    telling = [line for line in lines if _ERROR.match(line)] or [line for line in lines if line]
    return telling[-1][:300] if telling else "no reason given"


def flush_disk() -> None:
    """Have the system write what was made, so that it does not do so while others are measured."""
    os.sync()
