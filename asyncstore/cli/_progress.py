"""Transfers as they go on: a bar on a terminal, a line now and then otherwise, nothing for programs."""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from asyncstore.cli._output import duration_text, size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from asyncstore.catalog import ProgressHook, TransferProgress
    from asyncstore.cli._output import Output

__all__ = ["Speed", "stage_progress", "transfer_progress"]

LINE_EVERY_S = 2.0
"""How often a line says how far it is, where there is no terminal."""

LINE_EVERY_SHARE = 0.1
"""Of the time gone by: the longer it takes, the rarer the lines."""

DRAWN_PER_SECOND = 10
SPEED_OVER_S = 5.0

FILE_BYTES = 32 * 1024
"""What moves in about the time that a file costs, however small it is."""

BAR_COLUMNS = 40
BESIDE_COLUMNS = 45
"""Room for what stands left and right of the bar."""


@contextmanager
def transfer_progress(output: Output, doing: str) -> Iterator[ProgressHook]:
    """
    Give what a catalog is to call as a transfer goes on; ``doing`` names the transfer ("putting").

    It is called for each file, so it only takes note: a thread of the terminal's draws what was noted last.
    """
    if output.as_json:
        yield _silent
    elif output.err.is_terminal:
        bar = _Bar(doing)
        with Live(bar, console=output.err, transient=True, refresh_per_second=DRAWN_PER_SECOND):
            yield bar
    else:
        yield _Lines(output, doing)


@contextmanager
def stage_progress(output: Output, stages: Sequence[str]) -> Iterator[Callable[[str], None]]:
    """Give what is to be called as each of ``stages`` begins."""
    if output.as_json:
        yield lambda stage: None
    elif output.err.is_terminal:
        columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=output.err, transient=True) as progress:
            task = progress.add_task("", total=len(stages))
            yield lambda stage: progress.update(task, description=stage, completed=stages.index(stage))
    else:
        yield lambda stage: output.note(f"{stages.index(stage) + 1}/{len(stages)} {stage}")


class Speed:
    """How much a second over the last few seconds; pure, the caller says what time it is."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now_s: float, moved: int) -> float:
        """Note how much has moved until now, and return the speed, 0 while that cannot be told."""
        self._seen.append((now_s, moved))
        while len(self._seen) > 2 and now_s - self._seen[1][0] >= SPEED_OVER_S:
            self._seen.popleft()
        then_s, before = self._seen[0]
        return (moved - before) / (now_s - then_s) if now_s > then_s else 0.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a transfer goes."""

    share: float
    """Of the work, how much is done: bytes, and something for each file."""
    bytes_s: float
    left_s: float
    """How long the rest takes at this speed; 0 if that cannot be told."""


class _Noted:
    """The last that a transfer told, and its speed."""

    def __init__(self, doing: str) -> None:
        self.doing = doing
        self.last: TransferProgress | None = None
        self._skipped_bytes = 0
        self._skipped = self._bytes = 0
        self._moving, self._working = Speed(), Speed()

    def note(self, step: TransferProgress) -> None:
        """Take note."""
        if step.files_skipped != self._skipped:
            # What is there already goes by in no time, and says nothing about the speed.
            self._skipped = step.files_skipped
            self._skipped_bytes += step.bytes_done - self._bytes
        self._bytes = step.bytes_done
        self.last = step

    def pace(self, step: TransferProgress, now_s: float) -> Pace:
        """Return the speed at this time."""
        done, total = _work(step.files_done, step.bytes_done), _work(step.files_total, step.bytes_total)
        bytes_s = self._moving.at(now_s, step.bytes_done - self._skipped_bytes)
        work_s = self._working.at(now_s, done - _work(step.files_skipped, self._skipped_bytes))
        return Pace(done / max(total, 1), bytes_s, (total - done) / work_s if work_s > 0 else 0.0)


class _Bar(_Noted):
    """What is drawn, by a thread of rich's."""

    def __call__(self, step: TransferProgress, /) -> None:
        self.note(step)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        step, now_s = self.last, time.monotonic()
        width = max(10, min(BAR_COLUMNS, options.max_width - BESIDE_COLUMNS))
        line = Table.grid(padding=(0, 1, 0, 0))
        for _ in range(3):
            line.add_column(no_wrap=True)
        if step is None:
            line.add_row(
                self.doing, ProgressBar(pulse=True, animation_time=now_s, width=width), "looking at both sides"
            )
            yield line
            return
        pace = self.pace(step, now_s)
        told = f"{pace.share:4.0%}  {'  '.join(_told(pace))}"
        line.add_row(self.doing, ProgressBar(1.0, pace.share, width=width), told)
        yield line
        yield Text(_state(step), style="dim", no_wrap=True, overflow="ellipsis")


class _Lines(_Noted):
    """What is printed where there is no terminal."""

    def __init__(self, output: Output, doing: str) -> None:
        super().__init__(doing)
        self._output = output
        self._began_s = time.monotonic()
        self._next_s = self._began_s + LINE_EVERY_S

    def __call__(self, step: TransferProgress, /) -> None:
        first = self.last is None
        self.note(step)
        now_s = time.monotonic()
        if first:
            self.pace(step, now_s)
        if now_s < self._next_s:
            return
        self._next_s = now_s + max(LINE_EVERY_S, LINE_EVERY_SHARE * (now_s - self._began_s))
        self._output.note(f"{self.doing}: {', '.join([_state(step), *_told(self.pace(step, now_s))])}")


def _silent(step: TransferProgress) -> None:
    pass


def _state(step: TransferProgress) -> str:
    told = [
        f"{step.files_done:,}/{step.files_total:,} files",
        f"{size_text(step.bytes_done)} of {size_text(step.bytes_total)}",
        f"{step.files_skipped:,} unchanged" if step.files_skipped else "",
        f"{step.files_failed:,} failed" if step.files_failed else "",
        f"{step.retries:,} {'retry' if step.retries == 1 else 'retries'}" if step.retries else "",
    ]
    return ", ".join(filter(None, told))


def _told(pace: Pace) -> list[str]:
    told = [f"{size_text(int(pace.bytes_s))}/s"] if pace.bytes_s > 0 else []
    return [*told, f"{_rough(pace.left_s)} left"] if pace.left_s else told


def _work(files: int, size_bytes: int) -> int:
    return files * FILE_BYTES + size_bytes


def _rough(seconds: float) -> str:
    return duration_text(max(round(seconds), 1)).replace(".00 s", " s")
