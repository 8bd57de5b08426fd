"""
Fragments: the parts of a run log that each have one writer at a time. Pure values.

What stands in them is :mod:`asyncstore.runlog.encoding`'s business, the tree they make up that of
:mod:`asyncstore.runlog.tree`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncstore.runlog._json import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["HEADER", "JOB", "WHOLE_RUN", "Fragment", "FragmentKey", "Kind", "Selection", "in_creation_order"]

_NEVER = datetime(1, 1, 1, tzinfo=UTC)


class Kind(StrEnum):
    """What a fragment is; the values are the folder names and ``attribute_type`` of the layouts."""

    RUN_LOG = "RunLog"
    STEP_LOG = "StepLog"
    BRANCH_LOG = "BranchLog"
    PARAMETER = "Parameter"
    JOB_LOG = "JobLog"


class FragmentKey(NamedTuple):
    """Names one fragment within its run."""

    kind: Kind
    name: str
    """Internal name of the step or branch, key of the parameter, ``run_log``, ``job_log``."""
    scope: str = ""
    """For a parameter the internal name of its branch, ``""`` for the run; empty for all other kinds."""


HEADER = FragmentKey(Kind.RUN_LOG, "run_log")
JOB = FragmentKey(Kind.JOB_LOG, "job_log")


@dataclass(frozen=True, slots=True)
class Fragment:
    """
    One part of a run log as it is stored, and as :meth:`RunLogStore.watch` yields it.

    ``body`` is JSON text: of a parameter its value, of all others the model's fields without what other fragments hold.
    """

    key: FragmentKey
    body: bytes
    created_at: datetime | None = None
    """When it was first stored (UTC); ``None`` before that, and in logs of tools that do not say."""
    etag: str = ""
    """The storage's version tag, where it gives one."""
    write_cursor: Callable[[], str] | None = field(default=None, compare=False, repr=False)
    """Only from ``watch``: writes :attr:`cursor`."""

    @property
    def cursor(self) -> str:
        """Of one from ``watch``: give it back to ``watch`` to go on after this fragment; ``""`` of others."""
        return self.write_cursor() if self.write_cursor is not None else ""

    @property
    def kind(self) -> Kind:
        """What it is."""
        return self.key.kind

    @property
    def name(self) -> str:
        """Internal name or parameter key."""
        return self.key.name

    @property
    def scope(self) -> str:
        """Branch that a parameter belongs to, ``""`` for the run."""
        return self.key.scope

    @property
    def value(self) -> Any:
        """The body, parsed."""
        return parse_json(self.body, f"{self.kind} {self.name!r}")

    @property
    def version(self) -> bytes:
        """A digest that changes when the content changes, alike on every backend."""
        return blake2b(self.body, digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which fragments of a run a reader wants; layouts may use it to read less, and must apply :meth:`matches`."""

    kinds: frozenset[Kind]
    branch: str | None = None
    """Only what belongs to this branch: itself, the parameters of its scope, everything below it."""

    def matches(self, key: FragmentKey) -> bool:
        """Tell whether a fragment is wanted."""
        if key.kind not in self.kinds:
            return False
        if self.branch is None:
            return True
        name = key.scope if key.kind is Kind.PARAMETER else key.name
        return name == self.branch or (bool(self.branch) and name.startswith(f"{self.branch}."))


WHOLE_RUN = Selection(frozenset(Kind))


def in_creation_order(fragments: Iterable[Fragment]) -> list[Fragment]:
    """Sort by creation, those that do not say first and as they stand."""
    return sorted(fragments, key=lambda fragment: fragment.created_at or _NEVER)
