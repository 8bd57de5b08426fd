"""What one policy grants besides another, and one that grants what both do. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncstore.bucket.documents import Document

__all__ = ["besides", "described", "listed", "united"]

_PAIR = ("Action", "Resource")


def listed(value: Any) -> list[Any]:
    """Return a list of what IAM writes as one thing if there is one."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def besides(policy: Document, other: Document) -> list[Document]:
    """
    Return statements that say what ``policy`` says and ``other`` does not, action by action and resource by resource.

    Patterns are compared as they are written: ``s3:*`` is something else than ``s3:GetObject``.
    """
    known = {atom for statement in listed(other.get("Statement")) for atom in _atoms(statement)}
    found = []
    for statement in listed(policy.get("Statement")):
        if not known.issuperset(_atoms(statement)):
            lacking = [atom for atom in _atoms(statement) if atom not in known]
            actions, resources = ({atom[position] for atom in lacking} for position in (1, 2))
            found.append(
                {
                    **statement,
                    **_only(statement, "Action", actions),
                    **_only(statement, "Resource", resources),
                }
            )
    return found


def united(there: Document, ours: Document) -> Document:
    """Return a policy that says what both say, in the fewest statements, under names that differ as IAM wants them."""
    statements = [dict(statement) for statement in listed(there.get("Statement"))]
    for statement in besides(ours, there):
        alike = (known for known in statements if _rest(known) == _rest(statement))
        near = next((known for known in alike if _differ(known, statement) in _PAIR), None)
        if near is None:
            statements.append(_named(statement, statements))
        else:
            key = _differ(near, statement)
            near[key] = sorted({*listed(near[key]), *listed(statement[key])})
    return {**ours, "Statement": statements}


def described(statements: Sequence[Document]) -> str:
    """Return what some statements say, in words for people."""
    said = [
        f"{'' if statement.get('Effect') == 'Allow' else 'not '}"
        f"{', '.join(listed(statement.get('Action'))) or 'all actions but some'} on "
        f"{', '.join(listed(statement.get('Resource'))) or 'all resources but some'}"
        for statement in statements
    ]
    return "; ".join(said)


def _atoms(statement: Document) -> Iterator[tuple[str, str, str]]:
    rest = _rest(statement)
    for action in listed(statement.get("Action")) or [""]:
        for resource in listed(statement.get("Resource")) or [""]:
            yield rest, action, resource


def _rest(statement: Document) -> str:
    """Return what a statement says besides actions and resources."""
    said = {key: value for key, value in statement.items() if key not in {"Sid", *_PAIR}}
    return json.dumps(said, sort_keys=True)


def _only(statement: Document, key: str, wanted: set[str]) -> Document:
    return {key: [item for item in listed(statement[key]) if item in wanted]} if key in statement else {}


def _differ(one: Document, other: Document) -> str:
    """Return which one of actions and resources differs between two statements; empty if both do."""
    differing = [key for key in _PAIR if set(listed(one.get(key))) != set(listed(other.get(key)))]
    return differing[0] if len(differing) == 1 and all(differing[0] in said for said in (one, other)) else ""


def _named(statement: Document, others: Sequence[Document]) -> Document:
    """Return a statement under a name that no other has."""
    taken = {other.get("Sid") for other in others}
    name = statement.get("Sid")
    if name is None or name not in taken:
        return statement
    number = next(number for number in range(2, len(others) + 3) if f"{name}{number}" not in taken)
    return {**statement, "Sid": f"{name}{number}"}
