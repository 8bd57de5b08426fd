"""
The parts of one run by what they are, and which belongs into which. Pure values.

Whatever a full read makes, a document or models, is made of these: :func:`link` is the one place that says where a step
or a branch hangs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from asyncstore.errors import IntegrityError
from asyncstore.models import STAMP, BranchLog, RunLog, StepLog, stamp_text
from asyncstore.names import branch_of_step, owner_of_branch
from asyncstore.runlog._json import dump_json, parse_json
from asyncstore.runlog.encoding import NESTED
from asyncstore.runlog.fragments import HEADER, JOB, Fragment, FragmentKey, Kind, in_creation_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Set

__all__ = [
    "MISSING_STATUS",
    "NESTING_LIMIT",
    "NOT_OWN",
    "ORPHANS",
    "Links",
    "Parts",
    "Stored",
    "link",
    "may_hold_more",
    "orphans_text",
    "own_text",
    "parsed",
    "placeholder",
]

T = TypeVar("T")

ORPHANS = "_orphans"
"""JSON key of a document's list of fragments without a place in the tree, because what would hold them is missing."""

NESTING_LIMIT = 50
"""Branches within branches that a tree holds; JSON readers give up not far above. What is deeper is an orphan."""

NOT_OWN: Mapping[Kind, frozenset[str]] = {
    Kind.RUN_LOG: frozenset(NESTED[RunLog] | {ORPHANS, STAMP}),
    Kind.STEP_LOG: frozenset(NESTED[StepLog] | {STAMP}),
    Kind.BRANCH_LOG: frozenset(NESTED[BranchLog] | {STAMP}),
    Kind.JOB_LOG: frozenset({STAMP}),
}
"""Fields that the tree fills, so that they are left out of what a fragment says itself."""

MISSING_STATUS = "UNKNOWN"
"""Status of a branch that steps say they belong to, but whose own fragment is missing."""

_MARKS = {kind: tuple(f'"{name}"'.encode() for name in sorted(names)) for kind, names in NOT_OWN.items()}

Stored: TypeAlias = tuple[bytes, datetime | None]
"""Body and creation time of a part; of thousands, so without a class of its own."""


@dataclass(eq=False, slots=True)
class Parts:
    """The parts of a run, those of each kind in creation order."""

    header: Stored | None = None
    job: Stored | None = None
    steps: dict[str, Stored] = field(default_factory=dict)
    """By internal name, as the branches."""
    branches: dict[str, Stored] = field(default_factory=dict)
    parameters: dict[str, dict[str, Stored]] = field(default_factory=dict)
    """By scope and key."""

    @classmethod
    def of(cls, fragments: Iterable[Fragment]) -> Parts:
        """Sort fragments by what they are; of two with the same key the younger one stands."""
        parts = cls()
        for fragment in in_creation_order(fragments):
            parts.add(fragment.key, (fragment.body, fragment.created_at))
        return parts

    def add(self, key: FragmentKey, stored: Stored) -> None:
        """Add a part that is not older than those that are there."""
        match key.kind:
            case Kind.STEP_LOG:
                self.steps[key.name] = stored
            case Kind.PARAMETER:
                self.parameters.setdefault(key.scope, {})[key.name] = stored
            case Kind.BRANCH_LOG:
                self.branches[key.name] = stored
            case Kind.RUN_LOG:
                self.header = stored
            case Kind.JOB_LOG:
                self.job = stored

    def over(self, older: Parts) -> Parts:
        """Return these parts, and where they lack one that of ``older``."""
        scopes = {**older.parameters, **self.parameters}
        return Parts(
            header=self.header or older.header,
            job=self.job or older.job,
            steps={**older.steps, **self.steps},
            branches={**older.branches, **self.branches},
            parameters={
                scope: {**older.parameters.get(scope, {}), **self.parameters.get(scope, {})} for scope in scopes
            },
        )

    def fragments(self) -> Iterator[Fragment]:
        """Yield the parts as fragments."""
        for key, stored in ((HEADER, self.header), (JOB, self.job)):
            if stored is not None:
                yield Fragment(key, *stored)
        for kind, named in ((Kind.BRANCH_LOG, self.branches), (Kind.STEP_LOG, self.steps)):
            for name, stored in named.items():
                yield Fragment(FragmentKey(kind, name), *stored)
        for scope, parameters in self.parameters.items():
            for name, stored in parameters.items():
                yield Fragment(FragmentKey(Kind.PARAMETER, name, scope), *stored)

    def left_out_of(self, links: Links) -> list[Fragment]:
        """Return the parts that have no place in the tree."""
        left = Parts(
            branches=_without(self.branches, links.reached_branches),
            steps=_without(self.steps, links.reached_steps),
            parameters=_without(self.parameters, links.reached_branches | {""}),
        )
        return list(left.fragments())


@dataclass(frozen=True, eq=False, slots=True)
class Links:
    """What belongs into what, by internal names, in creation order."""

    roots: list[str]
    """The steps that belong to the run itself."""
    steps: dict[str, list[str]]
    """The steps of each branch that has any."""
    branches: dict[str, list[str]]
    """The branches of each step that has any."""
    missing: list[str]
    """Branches that steps say they belong to, but that are not there themselves."""
    reached_steps: set[str] = field(default_factory=set)
    reached_branches: set[str] = field(default_factory=set)


def link(names: Mapping[str, str], branches: Iterable[str], start: str = "") -> Links:
    """
    Find out where everything hangs, as far as it has a holder.

    Args:
        names: the steps' own names by their internal names.
        branches: the internal names of the branches.
        start: the branch that the tree begins with, ``""`` for the run.
    """
    links = Links([], {}, {}, [])
    known = dict.fromkeys(branches)
    for internal_name, name in names.items():
        branch = branch_of_step(internal_name, name, known)
        if not branch:
            links.roots.append(internal_name)
            continue
        if branch not in known:
            if owner_of_branch(branch, names) is None:
                continue
            known[branch] = None
            links.missing.append(branch)
        links.steps.setdefault(branch, []).append(internal_name)
    for branch in known:
        owner = owner_of_branch(branch, names)
        if owner is not None:
            links.branches.setdefault(owner, []).append(branch)
    _reach(links, start)
    return links


def own_text(kind: Kind, name: str, body: bytes) -> bytes:
    """
    Return a JSON object with a part's own fields alone.

    Raises:
        IntegrityError: the body holds none.
    """
    if body[:1] == b"{" and body[-1:] == b"}" and not may_hold_more(kind, body):
        return body
    return dump_json({key: value for key, value in parsed(kind, name, body).items() if key not in NOT_OWN[kind]})


def may_hold_more(kind: Kind, text: bytes) -> bool:
    """Tell whether a text may hold, beside its own, a field that the tree fills."""
    for mark in _MARKS[kind]:  # noqa: SIM110 - a generator takes three times as long
        if mark in text:
            return True
    return False


def parsed(kind: Kind, name: str, body: bytes) -> dict[str, Any]:
    """
    Return the fields that a body holds.

    Raises:
        IntegrityError: it is not a JSON object.
    """
    value = parse_json(body, f"{kind} {name!r}")
    if not isinstance(value, dict):
        raise IntegrityError(f"{kind} {name!r} is not a JSON object")
    return value


def orphans_text(fragments: Iterable[Fragment]) -> bytes:
    """Return the list under :data:`ORPHANS`."""
    return dump_json([_orphan(fragment) for fragment in fragments])


def placeholder(branch: str) -> dict[str, Any]:
    """Return the fields of the branch that stands in for a missing one."""
    return {"internal_name": branch, "status": MISSING_STATUS, "steps": {}, "parameters": {}}


def _reach(links: Links, start: str) -> None:
    """Note what hangs below the start, and take off what is nested too deep."""
    level = links.steps.get(start, []) if start else links.roots
    links.reached_branches.update([start] if start else [])
    links.reached_steps.update(level)
    for _ in range(NESTING_LIMIT):
        if not (level and links.branches):
            return
        branches = [branch for step in level for branch in links.branches.get(step, ())]
        level = [step for branch in branches for step in links.steps.get(branch, ())]
        links.reached_branches.update(branches)
        links.reached_steps.update(level)
    for step in level:
        links.branches.pop(step, None)


def _without(named: Mapping[str, T], names: Set[str]) -> dict[str, T]:
    return {name: item for name, item in named.items() if name not in names}


def _orphan(fragment: Fragment) -> dict[str, Any]:
    kind, name = fragment.kind, fragment.name
    value = fragment.value
    if kind is not Kind.PARAMETER:
        value = {field: item for field, item in parsed(kind, name, fragment.body).items() if field not in NOT_OWN[kind]}
        if fragment.created_at is not None:
            value[STAMP] = stamp_text(fragment.created_at)
    return {"kind": kind, "name": name, "scope": fragment.scope, "value": value}
