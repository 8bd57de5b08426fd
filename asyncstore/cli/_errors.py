"""Errors for people: one line, a hint, an exit code."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from asyncstore._core.readable import describe_error
from asyncstore.errors import (
    AccessDeniedError,
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
    from asyncstore.cli._output import Output

__all__ = ["EXIT_CODES_HELP", "FAILED", "INTERRUPTED", "USAGE", "exit_code", "report"]

FAILED = 1
USAGE = 2
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
    (AccessDeniedError, 4),
    (CredentialsError, 4),
    (UnavailableError, 5),
)
_HINTS: tuple[tuple[type[AsyncStoreError], str], ...] = (
    (RunLogNotFoundError, "'asyncstore runs list' shows the runs of this configuration"),
    (RunLogExistsError, "choose another run id, or remove the old run with 'asyncstore runs delete'"),
    (AccessDeniedError, "the account in use lacks a permission; 'asyncstore config check' tries each service"),
    (CredentialsError, "'asyncstore config check' tries each service"),
    (UnavailableError, "is the address right, and the server up? 'asyncstore config check' tries each service"),
)
_FAILURES_SHOWN = 10


def exit_code(error: BaseException) -> int:
    """Return the exit code that stands for an error; a transfer's is that of its failures if they agree."""
    if isinstance(error, TransferError):
        codes = {exit_code(failure) for failure in error.failed.values()}
        return codes.pop() if len(codes) == 1 else FAILED
    return next((code for cls, code in _CODES if isinstance(error, cls)), FAILED)


def report(error: Exception, output: Output, *, debug: bool) -> int:
    """Print an error to stderr and return the exit code; the traceback only if asked for."""
    error = _first_leaf(error)
    if debug:
        output.note("".join(traceback.format_exception(error)).rstrip())
    if not isinstance(error, AsyncStoreError) or isinstance(error, ClosedError):
        output.error(f"unexpected {describe_error(error)}", "" if debug else "--debug shows where; please report it")
        return FAILED
    output.error(str(error) or describe_error(error), _hint(error))
    if isinstance(error, TransferError):
        _report_failures(error, output)
    return exit_code(error)


def _first_leaf(error: Exception) -> Exception:
    # Tasks of a group fail together for one reason: the first one is what people need to read.
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _hint(error: AsyncStoreError) -> str:
    return next((hint for cls, hint in _HINTS if isinstance(error, cls)), "")


def _report_failures(error: TransferError, output: Output) -> None:
    for name, failure in list(error.failed.items())[:_FAILURES_SHOWN]:
        output.note(f"  {name}: {failure}")
    if len(error.failed) > _FAILURES_SHOWN:
        output.note(f"  … and {len(error.failed) - _FAILURES_SHOWN} more")
