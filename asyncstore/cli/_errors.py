"""Errors for people: one line, a hint, an exit code."""

from __future__ import annotations

import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.table import Table

from asyncstore._core.readable import describe_error
from asyncstore.cli._output import clean
from asyncstore.errors import (
    AccessDeniedError,
    AccessModeError,
    AsyncStoreError,
    ClosedError,
    ConfigurationError,
    CredentialsError,
    InvalidValueError,
    NotFoundError,
    RunLogExistsError,
    RunLogNotFoundError,
    TransferError,
    UnavailableError,
    UnsafePathError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from asyncstore.cli._output import Output

__all__ = [
    "DENIED",
    "EXIT_CODES_HELP",
    "FAILED",
    "INTERRUPTED",
    "USAGE",
    "exit_code",
    "failures_code",
    "report",
    "show_failures",
]

FAILED = 1
USAGE = 2
DENIED = 4
INTERRUPTED = 130

EXIT_CODES_HELP = (
    "Exit codes: 0 done · 2 wrong usage or configuration · 3 not found · "
    "4 denied or no credentials · 5 unavailable · 130 interrupted · 1 anything else"
)

_CODES: tuple[tuple[type[AsyncStoreError], int], ...] = (
    (ConfigurationError, USAGE),
    (InvalidValueError, USAGE),
    (UnsafePathError, USAGE),
    (NotFoundError, 3),
    (AccessDeniedError, DENIED),
    (CredentialsError, DENIED),
    (UnavailableError, 5),
)
_HINTS: tuple[tuple[type[AsyncStoreError], str], ...] = (
    (RunLogNotFoundError, "'asyncstore runs list' shows the runs of this configuration"),
    (RunLogExistsError, "choose another run id, or remove the old run with 'asyncstore runs delete'"),
    (AccessModeError, "'asyncstore stores list' shows what each store allows"),
    (AccessDeniedError, "the account in use lacks a permission; 'asyncstore config check' tries each service"),
    (CredentialsError, "'asyncstore config check' tries each service"),
    (UnavailableError, "is the address right, and the server up? 'asyncstore config check' tries each service"),
)
_FAILURES_SHOWN = 10
_GO_ON = "the same command moves what is missing"


def exit_code(error: BaseException) -> int:
    """Return the exit code that stands for an error; a transfer's is that of its failures if they agree."""
    if isinstance(error, TransferError):
        return failures_code(error.failed.values())
    return next((code for cls, code in _CODES if isinstance(error, cls)), FAILED)


def failures_code(failures: Iterable[BaseException]) -> int:
    """Return the exit code of several failures: theirs if they agree."""
    codes = {exit_code(failure) for failure in failures}
    return codes.pop() if len(codes) == 1 else FAILED


def report(error: Exception, output: Output, *, debug: bool) -> int:
    """Print an error to stderr and return the exit code; the traceback only if asked for."""
    error = _first_leaf(error)
    if debug:
        output.note("".join(traceback.format_exception(error)).rstrip())
    if not isinstance(error, AsyncStoreError) or isinstance(error, ClosedError):
        output.error(f"unexpected {describe_error(error)}", "" if debug else "--debug shows where; please report it")
        return FAILED
    if isinstance(error, TransferError):
        _report_transfer(error, output)
    else:
        output.error(str(error) or describe_error(error), _hint(error))
        for note in getattr(error, "__notes__", ()):
            output.note(note)
    return exit_code(error)


def show_failures(failed: Mapping[str, BaseException], output: Output) -> None:
    """Print files and why they failed to stderr, the first of them."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("FILE", "WHY"):
        table.add_column(heading, overflow="fold")
    for name, failure in list(failed.items())[:_FAILURES_SHOWN]:
        table.add_row(clean(name), clean(str(failure) or describe_error(failure)))
    with output.err.capture() as captured:
        output.err.print(table)
    # Where it cannot be printed, the exit code still tells.
    with suppress(OSError):
        output.err.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
    if len(failed) > _FAILURES_SHOWN:
        output.note(f"… and {len(failed) - _FAILURES_SHOWN:,} more, all of them with --json")


def _first_leaf(error: Exception) -> Exception:
    # Tasks of a group fail together for one reason: the first one is what people need to read.
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _hint(error: AsyncStoreError) -> str:
    return next((hint for cls, hint in _HINTS if isinstance(error, cls)), "")


def _report_transfer(error: TransferError, output: Output) -> None:
    done, skipped, failed = len(error.done), len(error.skipped), len(error.failed)
    if output.as_json:
        why = {name: str(failure) for name, failure in error.failed.items()}
        output.json({"done": error.done, "skipped": error.skipped, "failed": why})
    else:
        show_failures(error.failed, output)
    summary = f"{done:,} done, {skipped:,} unchanged, {failed:,} failed"
    output.error(f"not all files were moved: {summary}", _GO_ON)
