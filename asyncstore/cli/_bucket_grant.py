"""``asyncstore bucket policy --apply``: show what IAM lacks, ask, and make it so."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import typer

from asyncstore.bucket.applying import GrantStep, apply_grants, plan_grants
from asyncstore.bucket.initializing import State
from asyncstore.cli._bucket_init import SIGNS
from asyncstore.cli._errors import failures_code
from asyncstore.cli._output import clean
from asyncstore.cli._question import require_yes
from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from asyncstore.aws.settings import AwsSettings
    from asyncstore.bucket.grants import BucketGrants
    from asyncstore.cli._command import Session

__all__ = ["grant"]


def grant(
    session: Session,
    grants: Sequence[BucketGrants],
    settings: AwsSettings,
    *,
    dry_run: bool = False,
    yes: bool = False,
    force: bool = False,
) -> None:
    """
    Make grants true in IAM after asking; to be called where no loop runs.

    Raises:
        ConfigurationError: nobody can be asked, and it was not said that nobody needs to be.
        AsyncStoreError: IAM may not be read, or cannot be reached.
    """
    steps = asyncio.run(plan_grants(grants, settings, force=force))
    if any(step.operation for step in steps) and not dry_run:
        if not yes:
            _ask(session, steps)
        steps = asyncio.run(apply_grants(steps, settings))
    if session.as_json:
        session.output.json({"dry_run": dry_run, "steps": [_document(step) for step in steps]})
    else:
        _show(session, steps)
        session.output.show(_summary(steps, dry_run=dry_run))
    failures = [step.error for step in steps if step.error is not None]
    if failures:
        raise typer.Exit(failures_code(failures))


def _ask(session: Session, steps: Sequence[GrantStep]) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigurationError("nobody can be asked here: give --yes to change IAM without asking, or --dry-run")
    for step in steps:
        if step.operation:
            why = f"; {step.why}" if step.why else ""
            session.output.note(f"{step.what}: {step.found} → {step.wanted}{why}")
    count = sum(bool(step.operation) for step in steps)
    require_yes(session.output, f"Make {'this change' if count == 1 else f'these {count} changes'} in IAM?")


def _show(session: Session, steps: Sequence[GrantStep]) -> None:
    session.output.table(["IN IAM", "STATE", "NOW"], [_row(step) for step in steps])
    session.output.text("")
    for step in steps:
        if step.error is not None:
            session.output.show(clean(f"{step.what}: {step.error}", "red"))
        elif step.why:
            session.output.show(clean(f"{step.what}: {step.why}", "dim"))


def _row(step: GrantStep) -> tuple[str | Text, ...]:
    sign, style = SIGNS[step.state]
    now = f"{step.found} → {step.wanted}" if step.operation else step.found
    return step.what, clean(f"{sign} {step.state}", style), now


def _summary(steps: Sequence[GrantStep], *, dry_run: bool) -> Text:
    failed = sum(step.state is State.FAILED for step in steps)
    changes = sum(step.state in {State.CHANGED, State.TO_CHANGE} for step in steps)
    counted = "1 change" if changes == 1 else f"{changes} changes"
    if failed:
        return clean(f"✗ {failed} of {len(steps)} could not be changed", "bold red")
    if dry_run:
        todo = f"{counted} to make in IAM" if changes else "there is nothing to change in IAM"
        return clean(f"{todo}; this was a dry run")
    return clean(f"✓ granted: {counted} made" if changes else "✓ granted already: nothing was changed")


def _document(step: GrantStep) -> dict[str, Any]:
    return {
        "what": step.what,
        "state": str(step.state),
        "found": step.found,
        "wanted": step.wanted,
        "why": step.why,
        "operation": step.operation,
        "error": None if step.error is None else str(step.error),
    }
