"""What checks have found, for people and for programs: rows of a table, JSON, and the exit code."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from asyncstore.bucket.check import granting
from asyncstore.bucket.documents import VERSION
from asyncstore.cli._errors import DENIED, FAILED, USAGE
from asyncstore.cli._output import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.text import Text

    from asyncstore._core.findings import Finding, State
    from asyncstore.cli._output import Output

__all__ = ["documents", "findings_code", "row", "say_problems", "show_remedies", "summary"]

_SIGNS: Mapping[State, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "note": ("!", "yellow"),
    "missing": ("✗", "bold red"),
    "unsupported": ("○", "yellow"),
    "skipped": ("·", "dim"),
    "failed": ("✗", "bold red"),
}


def row(finding: Finding) -> tuple[Text, Text, Text]:
    """Return what was checked, its state, and what there is to say."""
    sign, style = _SIGNS[finding.state]
    faint = "dim" if finding.state == "skipped" else ""
    detail = clean(finding.detail, "red" if finding.is_problem else faint)
    return clean(finding.check, faint), clean(f"{sign} {finding.state}", style), detail


def summary(findings: Iterable[Finding]) -> str:
    """Return how many there are of each state."""
    counted = Counter(finding.state for finding in findings)
    return ", ".join(f"{counted[state]} {state}" for state in _SIGNS if counted[state])


def documents(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return findings as JSON has them."""
    return [asdict(finding) for finding in findings]


def findings_code(findings: Iterable[Finding]) -> int:
    """Return the exit code of several findings: that of the problems if they agree, 0 if there are none."""
    codes = {
        FAILED if finding.state == "failed" else DENIED if finding.permission or not finding.statement else USAGE
        for finding in findings
        if finding.is_problem
    }
    return 0 if not codes else codes.pop() if len(codes) == 1 else FAILED


def show_remedies(output: Output, findings: Sequence[Finding]) -> None:
    """Print what grants the permissions that are missing, and the settings that are, ready to be pasted."""
    for role in dict.fromkeys(finding.role for finding in findings):
        statements = granting(finding for finding in findings if finding.role == role)
        if statements:
            to = f" to {role}" if role else ""
            output.text(f"\nThis policy grants{to} what is missing; 'asyncstore bucket policy' prints the whole one:\n")
            output.text(json.dumps({"Version": VERSION, "Statement": statements}, indent=2))
    grants = [str(finding.statement["sql"]) for finding in findings if finding.statement and "sql" in finding.statement]
    if grants:
        output.text("\nThis grants what is missing; the table's owner may do it:\n")
        output.text("\n".join(grants))
    for finding in findings:
        if finding.statement is not None and not finding.permission:
            output.text(f"\n{finding.check}: this is what is missing:\n")
            output.text(json.dumps(finding.statement, indent=2))


def say_problems(output: Output, where: str, findings: Iterable[Finding]) -> None:
    """Print an error for the problems, if there are any."""
    named = [finding.permission or finding.check for finding in findings if finding.is_problem]
    if named:
        output.error(f"{where}: not all is as it must be: {', '.join(dict.fromkeys(named))}")
