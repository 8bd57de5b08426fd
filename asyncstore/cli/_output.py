"""What the commands print with: tables and trees for people, JSON for programs, notes on stderr."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyncstore.models import CREATED, FAIL, PROCESSING, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import RenderableType

__all__ = [
    "Output",
    "OutputError",
    "abandon_stdout",
    "clean",
    "duration_text",
    "flush_stdout",
    "mark",
    "size_text",
    "status_text",
    "time_text",
    "writing",
]

WIDE = 1000
"""Columns of what is not a terminal: lines go to files and programs whole."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_UNKNOWN = datetime.fromtimestamp(0, UTC)
_STATUSES = {
    SUCCESS: ("✓", "green"),
    FAIL: ("✗", "bold red"),
    PROCESSING: ("●", "yellow"),
    CREATED: ("○", "cyan"),
}


class OutputError(Exception):
    """Standard output takes no more; that nobody reads it any more stays a :class:`BrokenPipeError`."""


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
        with writing(), self.out.capture() as captured:
            self.out.print(renderable)
        _write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
        """Print a table without lines; the last column takes what room is left."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(clean(cell) if isinstance(cell, str) else cell for cell in row))
        self.show(table)

    def text(self, text: str) -> None:
        """Print text as it is, its lines unbroken."""
        _write(f"{text}\n")

    def json(self, value: Any) -> None:
        """Print one JSON document, indented."""
        self.json_text(json.dumps(value, indent=2, ensure_ascii=False))

    def json_line(self, value: Any) -> None:
        """Print one JSON document as one line, at once."""
        self.json_text(json.dumps(value, separators=(",", ":"), ensure_ascii=False))
        flush_stdout()

    def json_text(self, text: str) -> None:
        """Print a JSON document that is text already; what the stream's encoding may lack is escaped as JSON does."""
        _write((text if _is_utf8(sys.stdout.encoding) else _NOT_ASCII.sub(_escaped, text)) + "\n")

    def note(self, text: str) -> None:
        """Print a line to stderr."""
        self._say(Text("\n").join(clean(line) for line in text.split("\n")))

    def error(self, message: str, hint: str = "") -> None:
        """Print an error to stderr: one line, and one with what to do."""
        self._say(Text.assemble(("error: ", "bold red"), clean(message)))
        if hint:
            self._say(Text.assemble(("hint: ", "cyan"), clean(hint)))

    def _say(self, text: Text) -> None:
        # Where even this cannot be said, the exit code still tells.
        with suppress(OSError):
            self.err.print(text, soft_wrap=True)


def flush_stdout() -> None:
    """Hand on what was printed, or say that it cannot be."""
    with writing():
        sys.stdout.flush()


@contextmanager
def writing() -> Iterator[None]:
    """Tell what the stream refuses from other errors of the operating system."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def abandon_stdout() -> None:
    """Print nothing from here on: the interpreter must not try again, as it ends, to write what could not be."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


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


def _write(text: str) -> None:
    with writing():
        sys.stdout.write(text)


def _is_utf8(encoding: str | None) -> bool:
    return encoding is None or codecs.lookup(encoding).name == "utf-8"


def _escaped(character: re.Match[str]) -> str:
    return json.dumps(character.group())[1:-1]


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    return console
