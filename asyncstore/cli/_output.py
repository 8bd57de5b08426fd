"""What the commands print with: tables and trees for people, JSON for programs, notes on stderr."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyncstore.models import CREATED, FAIL, PROCESSING, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

__all__ = ["Output", "clean", "duration_text", "mark", "size_text", "status_text", "time_text"]

WIDE = 1000
"""Columns of what is not a terminal: lines go to files and programs whole."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_UNKNOWN = datetime.fromtimestamp(0, UTC)
_STATUSES = {
    SUCCESS: ("✓", "green"),
    FAIL: ("✗", "bold red"),
    PROCESSING: ("●", "yellow"),
    CREATED: ("○", "cyan"),
}


class Output:
    """Standard output and standard error, for people or (``as_json``) for programs."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    def show(self, renderable: RenderableType) -> None:
        """Print for people; where nobody watches, without the blanks that fill a terminal's lines."""
        if self.out.is_terminal:
            self.out.print(renderable)
            return
        with self.out.capture() as captured:
            self.out.print(renderable)
        sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
        """Print a table without lines; the last column takes what room is left."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(clean(cell) if isinstance(cell, str) else cell for cell in row))
        self.show(table)

    def json(self, value: Any) -> None:
        """Print one JSON document, indented."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def json_line(self, value: Any) -> None:
        """Print one JSON document as one line, at once."""
        sys.stdout.write(json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Print a line to stderr."""
        self.err.print("\n".join(str(clean(line)) for line in text.split("\n")), markup=False, soft_wrap=True)

    def error(self, message: str, hint: str = "") -> None:
        """Print an error to stderr: one line, and one with what to do."""
        self.err.print(Text.assemble(("error: ", "bold red"), clean(message)), soft_wrap=True)
        if hint:
            self.err.print(Text.assemble(("hint: ", "cyan"), clean(hint)), soft_wrap=True)


def clean(text: str, style: str = "") -> Text:
    """Return text with control characters shown as escapes, so that no stored name can steer the terminal."""
    return Text(_CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text), style=style)


def mark(status: str) -> Text:
    """Return the sign of a status."""
    return Text(*_STATUSES.get(status, ("?", "magenta")))


def status_text(status: str) -> Text:
    """Return a status with its sign."""
    sign, style = _STATUSES.get(status, ("?", "magenta"))
    return clean(f"{sign} {status}", style)


def time_text(time: datetime | None) -> str:
    """Return a time in the local zone, to the second."""
    return "" if time is None or time <= _UNKNOWN else f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def duration_text(seconds: float | None) -> str:
    """Return a duration as people say it: ``12 ms``, ``1.24 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def size_text(size_bytes: int) -> str:
    """Return a size in decimal units."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    return console
