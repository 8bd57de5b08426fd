"""What checks of a service have found: one finding for each thing that was tried."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Finding", "State", "disk_finding"]

LITTLE_BYTES = 1_000_000_000
"""Less free space than this is told of."""

State: TypeAlias = Literal["ok", "note", "missing", "unsupported", "skipped", "failed"]
"""
``ok``: it works. ``note``: it works, or may not be looked at, and here is something to know. ``missing``: a permission
or a setting is. ``unsupported``: the server cannot do it, and asyncstore does without. ``skipped``: not tried, and why.
``failed``: it went wrong for another reason.
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one check."""

    check: str
    """What was tried, such as ``put``."""
    state: State
    detail: str = ""
    """In words for people."""
    permission: str = ""
    """The permission that is missing, such as ``s3:PutObject``; several are separated by commas if one of them is."""
    statement: Mapping[str, Any] | None = None
    """What grants the missing permission, or is the missing setting, as the service's JSON has it."""
    role: str = ""
    """The role whose policy is to grant it; empty if that is who has the credentials, or the database's user."""

    @property
    def is_problem(self) -> bool:
        """Whether something does not work that should."""
        return self.state in {"missing", "failed"}


def disk_finding(folder: str) -> Finding:
    """Return how much space is left where a folder is, or will be; blocks."""
    path = Path(folder)
    free = shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free
    return Finding("disk", "ok" if free >= LITTLE_BYTES else "note", f"{free / 1e9:,.1f} GB are free")
