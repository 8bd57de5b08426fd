"""
The tree that fragments make up, and how to take one apart. Pure functions.

:func:`flatten` takes a run log document apart and :func:`nest` puts fragments together again; every layout, the
assembled document, import, export and full reads go through these two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncstore.errors import IntegrityError
from asyncstore.models import STAMP, BranchLog, RunLog, StampedModel, StepLog, parse_stamp, stamp_text
from asyncstore.names import branch_of_step, owner_of_branch
from asyncstore.runlog._json import dump_json
from asyncstore.runlog.encoding import NESTED, validate
from asyncstore.runlog.fragments import HEADER, JOB, Fragment, FragmentKey, Kind, in_creation_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["assemble", "assemble_branch", "flatten", "nest"]


ORPHANS = "_orphans"
"""JSON key of a document's list of fragments without a place in the tree, because what would hold them is missing."""

NESTING_LIMIT = 50
"""Branches within branches that a tree holds; JSON readers give up not far above. What is deeper is an orphan."""

MISSING_STATUS = "UNKNOWN"
"""Status of a branch that steps say they belong to, but whose own fragment is missing."""


def assemble(fragments: Iterable[Fragment], *, where: str = "") -> RunLog | None:
    """
    Return the full run log that ``fragments`` make up, ``None`` if the header is missing.

    A missing part leaves a gap: steps whose branch is missing are held by a branch of status ``UNKNOWN``; what belongs
    to a step that is missing is left out of the tree, and can still be read by name.
    """
    tree = nest(fragments)
    return None if tree is None else validate(RunLog, tree, where or "run log")


def assemble_branch(name: str, fragments: Iterable[Fragment]) -> BranchLog | None:
    """Return the branch of that name with everything in it, ``None`` if its own fragment is missing."""
    parts = _Parts.of(fragments)
    if name not in parts.branches:
        return None
    parts.link()
    return validate(BranchLog, parts.branches[name], f"BranchLog {name!r}")


def nest(fragments: Iterable[Fragment]) -> dict[str, Any] | None:
    """Return the document that ``fragments`` make up, ``None`` if the header is missing; see :func:`assemble`."""
    parts = _Parts.of(fragments)
    if parts.header is None:
        return None
    orphans = parts.link()
    tree = {key: value for key, value in parts.header.items() if key not in NESTED[RunLog] and key != ORPHANS}
    tree["steps"] = parts.root_steps
    tree["parameters"] = parts.parameters.get("", {})
    tree["job"] = parts.job
    if orphans:
        tree[ORPHANS] = [
            {"kind": key.kind, "name": key.name, "scope": key.scope, "value": value} for key, value in orphans
        ]
    return tree


def flatten(tree: Mapping[str, Any]) -> list[Fragment]:
    """
    Take a run log document apart, header first and steps in the order of the document.

    Raises:
        IntegrityError: it has not the shape of one.
    """
    try:
        return _flatten(tree)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, IntegrityError):
            raise
        raise IntegrityError(f"this document has not the shape of a run log: {error}") from error


def _flatten(tree: Mapping[str, Any]) -> list[Fragment]:
    fragments = [_part(HEADER, tree, NESTED[RunLog] | {ORPHANS})]
    if tree.get("job") is not None:
        fragments.append(_part(JOB, tree["job"], frozenset()))
    stack: list[tuple[str, Mapping[str, Any]]] = [("", tree)]
    while stack:
        scope, holder = stack.pop()
        fragments += [
            Fragment(FragmentKey(Kind.PARAMETER, key, scope), dump_json(value))
            for key, value in (holder.get("parameters") or {}).items()
        ]
        below = []
        for step_name, step in (holder.get("steps") or {}).items():
            fragments.append(_part(FragmentKey(Kind.STEP_LOG, step_name), step, NESTED[StepLog]))
            for branch_name, branch in (step.get("branches") or {}).items():
                if not _is_placeholder(branch):
                    fragments.append(_part(FragmentKey(Kind.BRANCH_LOG, branch_name), branch, NESTED[BranchLog]))
                below.append((branch_name, branch))
        stack += reversed(below)
    for orphan in tree.get(ORPHANS) or ():
        key = FragmentKey(Kind(orphan["kind"]), orphan["name"], orphan["scope"])
        fragments.append(
            Fragment(key, dump_json(orphan["value"]))
            if key.kind is Kind.PARAMETER
            else _part(key, orphan["value"], frozenset())
        )
    return fragments


class _Parts:
    """The parsed fragments of a run by what they are, in creation order."""

    def __init__(self) -> None:
        self.header: dict[str, Any] | None = None
        self.job: dict[str, Any] | None = None
        self.steps: dict[str, dict[str, Any]] = {}
        self.branches: dict[str, dict[str, Any]] = {}
        self.parameters: dict[str, dict[str, Any]] = {}
        self.root_steps: dict[str, dict[str, Any]] = {}

    @classmethod
    def of(cls, fragments: Iterable[Fragment]) -> _Parts:
        parts = cls()
        ordered = in_creation_order(fragments)
        # A header that another tool wrote may hold older copies of steps and parameters.
        embedded = [part for item in ordered if item.key == HEADER for part in flatten(item.value)[1:]]
        for fragment in [*embedded, *ordered]:
            parts._add(fragment)
        return parts

    def _add(self, fragment: Fragment) -> None:
        value = fragment.value
        if fragment.kind is Kind.PARAMETER:
            self.parameters.setdefault(fragment.scope, {})[fragment.name] = value
            return
        if not isinstance(value, dict):
            raise IntegrityError(f"{fragment.kind} {fragment.name!r} is not a JSON object")
        if fragment.created_at is not None:
            value[STAMP] = stamp_text(fragment.created_at)
        match fragment.kind:
            case Kind.RUN_LOG:
                self.header = value
            case Kind.JOB_LOG:
                self.job = value
            case Kind.STEP_LOG:
                self.steps[fragment.name] = {**value, "branches": {}}
            case Kind.BRANCH_LOG:
                self.branches[fragment.name] = {**value, "steps": {}, "parameters": {}}

    def link(self) -> list[tuple[FragmentKey, Any]]:
        """Hang everything into its holder; return the own fields of what cannot be reached from the run."""
        for name, step in self.steps.items():
            holder = self._holder_of(name, step)
            if holder is not None:
                holder[name] = step
        for name, branch in self.branches.items():
            owner = owner_of_branch(name, self.steps)
            branch["parameters"].update(self.parameters.get(name, {}))
            if owner is not None:
                self.steps[owner]["branches"][name] = branch
        return self._unreached()

    def _holder_of(self, name: str, step: Mapping[str, Any]) -> dict[str, Any] | None:
        branch = branch_of_step(name, str(step.get("name", name)), self.branches)
        if not branch:
            return self.root_steps
        if branch not in self.branches:
            if owner_of_branch(branch, self.steps) is None:
                return None
            self.branches[branch] = _placeholder(branch)
        steps: dict[str, Any] = self.branches[branch]["steps"]
        return steps

    def _unreached(self) -> list[tuple[FragmentKey, Any]]:
        steps, branches = _cut_below(self.root_steps)
        unreached = [
            (FragmentKey(Kind.BRANCH_LOG, name), _own(branch, BranchLog))
            for name, branch in self.branches.items()
            if name not in branches and not _is_placeholder(branch)
        ]
        unreached += [
            (FragmentKey(Kind.STEP_LOG, name), _own(step, StepLog))
            for name, step in self.steps.items()
            if name not in steps
        ]
        unreached += [
            (FragmentKey(Kind.PARAMETER, key, scope), value)
            for scope, values in self.parameters.items()
            if scope and scope not in branches
            for key, value in values.items()
        ]
        return unreached


def _cut_below(root_steps: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Cut off what is nested too deep, and return the names of the steps and branches that are left."""
    steps: set[str] = set()
    branches: set[str] = set()
    stack = [(root_steps, 0)]
    while stack:
        level, depth = stack.pop()
        for name, step in level.items():
            steps.add(name)
            if depth == NESTING_LIMIT:
                step["branches"] = {}
            branches.update(step["branches"])
            stack += [(branch["steps"], depth + 1) for branch in step["branches"].values()]
    return steps, branches


def _own(value: Mapping[str, Any], model: type[StampedModel]) -> dict[str, Any]:
    return {field: item for field, item in value.items() if field not in NESTED[model]}


def _placeholder(branch: str) -> dict[str, Any]:
    return {"internal_name": branch, "status": MISSING_STATUS, "steps": {}, "parameters": {}}


def _is_placeholder(branch: Mapping[str, Any]) -> bool:
    return branch.get("status") == MISSING_STATUS and branch.keys() == _placeholder("").keys()


def _part(key: FragmentKey, value: Mapping[str, Any], without: Iterable[str]) -> Fragment:
    if not isinstance(value, dict):
        raise IntegrityError(f"{key.kind} {key.name!r} is not a JSON object")
    own = {field: item for field, item in value.items() if field not in without and field != STAMP}
    return Fragment(key, dump_json(own), parse_stamp(value.get(STAMP)))
