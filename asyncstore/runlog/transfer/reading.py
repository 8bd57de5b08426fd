"""What is kept of a foreign log while it is read: the fragments that any store can hold, and the problems. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asyncstore.errors import AsyncStoreError, IntegrityError, NotFoundError
from asyncstore.names import branch_of_step, check_name, check_run_id, owner_of_branch
from asyncstore.runlog._json import dump_json, parse_json
from asyncstore.runlog.encoding import fragment_of, parameter_fragment, to_model
from asyncstore.runlog.fragments import HEADER, Fragment, FragmentKey, Kind
from asyncstore.runlog.tree import MISSING_STATUS, flatten

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Loaded", "NotARunError", "Parts", "Reading", "flat_below"]


class NotARunError(NotFoundError):
    """A JSON file that is something else than a run log."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """One object of a run as it was read."""

    name: str
    """Its key within the run's folder; of a document its file name."""
    data: bytes = b""
    error: AsyncStoreError | None = None
    """Why it could not be read."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A run as it was read, whole or as far as it could be."""

    run_id: str
    fragments: Sequence[Fragment]
    """In creation order, the header among them."""
    problems: Sequence[str] = ()
    """What is missing, left out or doubtful, in words."""


@dataclass(slots=True)
class Reading:
    """What has been read so far of one run."""

    problems: list[str] = field(default_factory=list)

    def value(self, loaded: Loaded) -> dict[str, Any] | None:
        """Return an object's JSON, ``None`` (and a problem) if it cannot be read."""
        try:
            if loaded.error is not None:
                raise loaded.error
            value = parse_json(loaded.data, "it")
            if not isinstance(value, dict):
                raise IntegrityError("it is not a JSON object")
        except AsyncStoreError as error:
            self.problems.append(f"{loaded.name} is left out: {error}")
            return None
        return value

    def flattened(self, tree: dict[str, Any], where: str) -> list[Fragment]:
        """Take a document apart, without what in it has not the shape of a step or branch."""
        if not isinstance(tree.get("job") or {}, dict):
            self.problems.append(f"{where}: 'job' is left out: it is not a JSON object")
            del tree["job"]
        self._prune(tree, where)
        try:
            return flatten(tree)
        except IntegrityError as error:
            self.problems.append(f"{where} is left out: {error}")
            return []

    def _prune(self, tree: dict[str, Any], where: str) -> None:
        stack: list[tuple[dict[str, Any], str]] = [(tree, "steps")]
        while stack:
            holder, below = stack.pop()
            self._drop_unless_object(holder, below, where)
            if below == "steps":
                self._drop_unless_object(holder, "parameters", where)
            held = holder.get(below) or {}
            for name in [name for name, value in held.items() if not isinstance(value, dict)]:
                self.problems.append(f"{where}: {name!r} in {below!r} is left out: it is not a JSON object")
                del held[name]
            stack += [(value, "branches" if below == "steps" else "steps") for value in held.values()]

    def _drop_unless_object(self, holder: dict[str, Any], key: str, where: str) -> None:
        if not isinstance(holder.get(key) or {}, dict):
            self.problems.append(f"{where}: {key!r} is left out: it is not a JSON object")
            del holder[key]

    def accepted(self, run_id: str, fragments: Iterable[Fragment]) -> Parts:
        """Return the parts that any store can hold, each key once (the last one standing), and what is missing."""
        kept: dict[FragmentKey, Fragment] = {}
        for fragment in fragments:
            try:
                _check(fragment)
            except AsyncStoreError as error:
                self.problems.append(f"{fragment.kind} {fragment.name!r} is left out: {error}")
                continue
            kept[fragment.key] = Fragment(fragment.key, fragment.body)
        if not kept:
            raise IntegrityError(f"nothing of run {run_id!r} can be read: {'; '.join(self.problems)}")
        header = kept.get(HEADER)
        if header is None:
            self.problems.append(f"the header is missing: the run gets the status {MISSING_STATUS}")
            header = kept[HEADER] = _stand_in(run_id)
        self.problems += _gaps(kept)
        found_id = check_run_id(str(header.value["run_id"]))
        return Parts(found_id, [header, *(part for key, part in kept.items() if key != HEADER)], self.problems)


def flat_below(reading: Reading, kind: Kind, name: str, value: dict[str, Any], where: str) -> list[Fragment]:
    """Take a step or branch apart as :func:`flatten` takes a run apart: itself first, then what is in it."""
    tree: dict[str, Any] = {"steps": {name: value}}
    if kind is Kind.BRANCH_LOG:
        tree = {"steps": {"": {"branches": {name: value}}}}
    key = FragmentKey(kind, name)
    parts = reading.flattened(tree, where)
    own = [part for part in parts if part.key == key]
    return own + [part for part in parts if part.key not in {key, HEADER, FragmentKey(Kind.STEP_LOG, "")}]


def _check(fragment: Fragment) -> None:
    """Raise what storing a fragment would raise, or reading it again."""
    if fragment.kind is Kind.PARAMETER:
        parameter_fragment(fragment.name, fragment.value, fragment.scope)
    else:
        check_name(fragment.name, f"name of a {fragment.kind}")
        fragment_of(to_model(fragment))


def _stand_in(run_id: str) -> Fragment:
    return Fragment(HEADER, dump_json({"run_id": run_id, "status": MISSING_STATUS}))


def _gaps(parts: Mapping[FragmentKey, Fragment]) -> list[str]:
    """Name the branches that steps speak of, and the steps that branches speak of, that are not there."""
    steps = {key.name: part.value for key, part in parts.items() if key.kind is Kind.STEP_LOG}
    branches = {key.name for key in parts if key.kind is Kind.BRANCH_LOG}
    of_steps = {branch_of_step(name, str(step.get("name", name)), branches) for name, step in steps.items()}
    scopes = {key.scope for key in parts if key.kind is Kind.PARAMETER}
    problems = [
        f"branch {branch!r} is missing, though there are steps or parameters of it"
        for branch in sorted((of_steps | scopes) - branches - {""})
    ]
    problems += [
        f"the step that branch {branch!r} belongs to is missing"
        for branch in sorted(branches)
        if owner_of_branch(branch, steps) is None
    ]
    return problems
