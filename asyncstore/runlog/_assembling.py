"""Models of the parts of a run, hung into each other. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import from_json

from asyncstore.models import STAMP_FIELD, BranchLog, JobLog, RunLog, StampedModel, StepLog
from asyncstore.runlog._parts import ORPHANS, Parts, Stored, link, orphans_text, own_text, placeholder
from asyncstore.runlog.fragments import HEADER, JOB, FragmentKey

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["Models"]

Stamped = TypeVar("Stamped", bound=StampedModel)

_STEPS = TypeAdapter(list[StepLog])
_BRANCHES = TypeAdapter(list[BranchLog])


class Models:
    """
    Makes models of parts: of all parts of a kind at once, which takes half the time of one after the other.

    Args:
        parts: complete.
        start: the branch that is wanted, ``""`` for the run.

    Raises:
        ValueError: a part cannot be read.
        IntegrityError: the same.
    """

    def __init__(self, parts: Parts, start: str = "") -> None:
        self._parts = parts
        self._steps = _parsed_all(_STEPS, parts.steps)
        self._branches = _parsed_all(_BRANCHES, parts.branches)
        self._parameters = _values(parts.parameters)
        self._links = link({name: step.name for name, step in self._steps.items()}, self._branches, start)
        for step in self._steps.values():
            fields = step.model_fields_set
            if "branches" in fields:
                # Written by another tool with the step.
                step.branches = {}
            fields.add("branches")
        for name in self._links.missing:
            self._branches[name] = BranchLog.model_validate(placeholder(name))
        self._hang()

    def run(self) -> RunLog:
        """Return the run."""
        parts = self._parts
        assert parts.header is not None
        run_log = _parsed_one(RunLog, HEADER, parts.header)
        run_log.steps = {name: self._steps[name] for name in self._links.roots}
        run_log.parameters = self._parameters.get("", {})
        run_log.job = None if parts.job is None else _parsed_one(JobLog, JOB, parts.job)
        if orphans := parts.left_out_of(self._links):
            assert run_log.model_extra is not None
            run_log.model_extra[ORPHANS] = from_json(orphans_text(orphans))
            run_log.model_fields_set.add(ORPHANS)
        return run_log

    def branch(self, name: str) -> BranchLog:
        """Return a branch."""
        return self._branches[name]

    def _hang(self) -> None:
        links = self._links
        for name, branches in links.branches.items():
            self._steps[name].branches = {branch: self._branches[branch] for branch in branches}
        for name, branch in self._branches.items():
            branch.steps = {step: self._steps[step] for step in links.steps.get(name, ())}
            branch.parameters = self._parameters.get(name, {})


def _parsed_all(adapter: TypeAdapter[list[Stamped]], named: Mapping[str, Stored]) -> dict[str, Stamped]:
    if not named:
        return {}
    models = adapter.validate_json(_joined(named.values()))
    # A body that is cut off closes less than it opens, so no two make up for each other; but one may be two.
    for model, (_, created_at) in zip(models, named.values(), strict=True):
        model.__dict__[STAMP_FIELD] = created_at
    return dict(zip(named, models, strict=True))


def _parsed_one(model: type[Stamped], key: FragmentKey, stored: Stored) -> Stamped:
    body, created_at = stored
    made = model.model_validate_json(own_text(key.kind, key.name, body))
    made.__dict__[STAMP_FIELD] = created_at
    return made


def _joined(stored: Collection[Stored]) -> bytes:
    bodies = [body for body, _ in stored]
    if bodies:
        # Brackets around the whole would mean another copy of it.
        bodies[0] = b"[" + bodies[0]
        bodies[-1] += b"]"
    return b",".join(bodies) or b"[]"


def _values(parameters: Mapping[str, Mapping[str, Stored]]) -> dict[str, dict[str, Any]]:
    stored = [item for scope in parameters.values() for item in scope.values()]
    values = from_json(_joined(stored))
    if len(values) != len(stored):
        raise ValueError("what stands in one place is not one value")
    remaining = iter(values)
    return {scope: dict(zip(keys, remaining, strict=False)) for scope, keys in parameters.items()}
