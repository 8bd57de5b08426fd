"""Asking before something is gone for good."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from asyncstore.cli._output import Output

__all__ = ["require_yes"]


def require_yes(output: Output, question: str) -> None:
    """
    Ask on the terminal, and end the command unless the answer is yes; to be called where no loop runs.

    Raises:
        ConfigurationError: there is no terminal to ask on.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigurationError("nobody can be asked here: give --yes to delete without asking")
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        # What comes next begins on a line of its own.
        output.note("")
        raise
    if not agreed:
        raise typer.Exit(1)
