"""From what was seen to what is found: which permission is missing, and what grants it. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from asyncstore._core.findings import Finding
from asyncstore.bucket._check_plan import MULTIPART, OWN
from asyncstore.bucket.documents import PERMISSIONS, statement_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from asyncstore._core.findings import State
    from asyncstore.bucket._check_plan import Plan, Step

__all__ = ["Outcome", "Seen", "granting", "judge"]

Outcome: TypeAlias = Literal["ok", "note", "denied", "missing", "unsupported", "skipped", "failed"]
"""As :data:`State`, and ``denied``: a permission is missing, and it is still to be found out which."""

_FORBIDDEN = (
    "denied, though each permission was found to be there: the bucket's or the key's policy, a boundary or an "
    "organization's policy forbids it"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one check."""

    outcome: Outcome
    detail: str = ""
    action: str = ""
    """The IAM action that the server's own words name as denied."""
    forbidden_by: str = ""
    """The kind of policy that denies it explicitly, by the server's own words."""
    setting: Mapping[str, Any] | None = None
    """The setting that is missing, as S3's JSON has it."""


OK = Seen("ok")


def judge(plan: Plan, seen: Mapping[str, Seen]) -> list[Finding]:
    """Return a finding for each check of a plan; what was not seen was not come to."""
    lacking = _lacking(plan.steps, seen)
    forbidden = {
        (step.who, told.action): told.forbidden_by
        for step in plan.steps
        if (told := seen.get(step.name)) is not None and told.action and told.forbidden_by
    }
    found = []
    for step in plan.steps:
        if step.hidden:
            continue
        told = Seen("skipped", step.skip) if step.skip else seen.get(step.name, Seen("skipped", "not come to"))
        if told.outcome == "denied":
            only = lacking[step.name][0] if len(lacking[step.name]) == 1 else ""
            by = told.forbidden_by or forbidden.get((step.who, only), "")
            found.append(_denied(plan, step, told, lacking[step.name], by))
        else:
            found.append(_plain(step, told))
    return found


def granting(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return the fewest statements that grant what is missing, under names that differ, as one policy wants them."""
    merged: dict[str, dict[str, Any]] = {}
    for finding in findings:
        if finding.permission and finding.statement is not None and "Action" in finding.statement:
            statement = dict(finding.statement)
            rest = {key: value for key, value in statement.items() if key != "Action"}
            known = merged.setdefault(repr(rest), {**statement, "Action": []})
            known["Action"] = sorted({*known["Action"], *statement["Action"]})
    named: Counter[str] = Counter()
    for statement in merged.values():
        named[statement["Sid"]] += 1
        number = named[statement["Sid"]]
        statement["Sid"] += str(number) if number > 1 else ""
    return list(merged.values())


def _plain(step: Step, told: Seen) -> Finding:
    state: State = "failed" if told.outcome == "denied" else told.outcome
    return Finding(step.name, state, told.detail, statement=told.setting)


def _denied(plan: Plan, step: Step, told: Seen, lacking: Sequence[str], forbidden_by: str) -> Finding:
    if not lacking:
        return Finding(step.name, "missing", _FORBIDDEN)
    known = [action for action in lacking if action in PERMISSIONS]
    # One of them is; the first is what the check is about.
    statement = statement_for(known[0], plan.access) if known else None
    reason = PERMISSIONS[known[0]].reason if len(known) == 1 else ""
    named = " or ".join(lacking)
    words = f"the multipart role lacks {named}" if step.who == MULTIPART else f"{named} is missing"
    # Only AWS says which of both it is, and not always.
    words += "" if told.action else ", or is denied explicitly"
    # To assume a role is for who has the credentials.
    settings = plan.settings
    role = {OWN: settings.role_arn, MULTIPART: settings.multipart_upload_role_arn}.get(step.who, "")
    role = "" if "sts:AssumeRole" in lacking else role
    if forbidden_by:
        whose = "the multipart role is denied " if step.who == MULTIPART else ""
        words = f"{whose}{named}{'' if whose else ' is denied'} explicitly, by {forbidden_by}"
        return Finding(
            step.name, "missing", f"{words}: no grant helps while that says so", ", ".join(lacking), None, role
        )
    why = told.detail or reason
    detail = f"{words}: {why}" if why else words
    return Finding(step.name, "missing", detail, ", ".join(lacking), statement, role)


def _lacking(steps: Sequence[Step], seen: Mapping[str, Seen]) -> dict[str, tuple[str, ...]]:
    """Return, for each check that was denied, which permissions may be what it lacks."""
    granted = {
        (step.who, action)
        for step in steps
        for action in step.needs
        if step.name in seen and seen[step.name].outcome == "ok"
    }
    denied = {step.name: step for step in steps if step.name in seen and seen[step.name].outcome == "denied"}
    left = {
        name: (seen[name].action,)
        if seen[name].action
        else tuple(action for action in step.needs if (step.who, action) not in granted)
        for name, step in denied.items()
    }
    certain = {(denied[name].who, actions[0]) for name, actions in left.items() if len(actions) == 1}
    # What is surely missing explains a refusal; what else that check may lack, others tell.
    return {
        name: tuple(action for action in actions if (denied[name].who, action) in certain)[:1] or actions
        for name, actions in left.items()
    }
