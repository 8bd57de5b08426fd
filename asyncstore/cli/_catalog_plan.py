"""``catalog run``: carry out a plan that ``--dry-run --json`` printed, or a part of it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from asyncstore.catalog import TransferPlan
from asyncstore.cli._catalog_options import (
    GOES_ON,
    ConcurrencyOption,
    DryRunOption,
    KeepTimesOption,
    MemoryOption,
    RateOption,
    limits,
)
from asyncstore.cli._catalog_report import carry_out, show_plan
from asyncstore.cli._command import Session, command
from asyncstore.errors import InvalidValueError

__all__ = ["Part", "register"]

_PART = re.compile(r"([1-9]\d{0,5})\s*/\s*([1-9]\d{0,5})", re.ASCII)


def register(app: typer.Typer) -> None:
    """Add the command to ``asyncstore catalog``."""
    command(app, "run", interrupted=GOES_ON)(run)


@dataclass(frozen=True, slots=True)
class Part:
    """One of so many parts."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """
        Return the part that ``2/4`` means.

        Raises:
            typer.BadParameter: it means none.
        """
        found = _PART.fullmatch(text.strip())
        if found is None or int(found[1]) > int(found[2]):
            raise typer.BadParameter(f"{text!r} is no part: write 1/4 to 4/4 for each quarter")
        return cls(int(found[1]), int(found[2]))

    def of(self, plan: TransferPlan) -> TransferPlan:
        """Return this part of a plan; it is empty where the plan has fewer files than there are parts."""
        parts = plan.split(self.count)
        return parts[self.number - 1] if self.number <= len(parts) else replace(plan, files=())


def run(
    session: Session,
    path: Annotated[str, typer.Argument(metavar="PLAN", help="What --dry-run --json printed: a file, or - for stdin.")],
    chosen: Annotated[
        Part | None,
        typer.Option(
            "--part", metavar="N/M", parser=Part.parse, help="Only one of M parts of about as many bytes each."
        ),
    ] = None,
    keep_times: KeepTimesOption = False,
    dry_run: DryRunOption = False,
    max_memory: MemoryOption = None,
    max_bandwidth: RateOption = None,
    max_concurrency: ConcurrencyOption = None,
) -> None:
    """
    Carry out a plan that --dry-run --json printed.

    It takes the same configuration, and the same files: those that have changed since are errors.
    """
    # Before there is a loop: Ctrl-C ends a wait for stdin.
    plan = _read(path)
    if keep_times and plan.kind != "get":
        raise InvalidValueError(f"--keep-times is for plans of a get, and this is one of a {plan.kind}")
    if chosen is not None:
        plan = chosen.of(plan)
    if dry_run:
        show_plan(session, plan)
    else:
        asyncio.run(_carry_out(session, plan, limits(max_memory, max_bandwidth, max_concurrency), keep_times))


async def _carry_out(session: Session, plan: TransferPlan, options: dict[str, object], keep_times: bool) -> None:
    reads, writes = plan.kind in {"get", "sync"}, plan.kind != "get"
    async with session.services(options, reads=reads, writes=writes) as services:
        await carry_out(session, services.catalog, plan, keep_times=keep_times)


def _read(path: str) -> TransferPlan:
    name = "stdin" if path == "-" else repr(path)
    try:
        value = json.loads(sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes())
    except OSError as error:
        raise InvalidValueError(f"cannot read the plan from {name}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidValueError(f"{name} holds no plan, it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidValueError(f"{name} holds no plan of a transfer: make one with --dry-run --json")
    try:
        return TransferPlan.from_json(value)
    except InvalidValueError as error:
        raise InvalidValueError(f"{name}: {error}; make one with --dry-run --json") from error
