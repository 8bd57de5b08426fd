"""
IAM policies, evaluated as AWS does: a request needs permissions, and a document allows them or not. No I/O.

The part of the language that identities' policies for S3 need: Allow and Deny, wildcards in actions and resources, and
conditions on strings. What is not understood here is refused instead of passed over, so a document that AWS would read
otherwise is noticed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Permission", "Policy", "policy_for"]

VERSION = "2012-10-17"
SIZE_LIMIT = 6144
"""Characters of a managed policy that AWS takes, blanks aside."""

_KNOWN = {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"}
_SID = re.compile(r"[A-Za-z0-9]*")
_ACTION = re.compile(r"\*|[A-Za-z0-9-]+:[A-Za-z*?]+")
_RESOURCE = re.compile(r"\*|arn:[a-z*-]+:[a-z0-9-]+:[^:]*:[^:]*:.+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Permission:
    """One of those that a request needs."""

    action: str
    """Such as ``s3:GetObject``."""
    resource: str
    """Its ARN."""
    context: Mapping[str, str] = field(default_factory=dict)
    """What conditions can ask, such as ``s3:prefix``."""


@dataclass(frozen=True, slots=True)
class _Condition:
    operator: str
    key: str
    values: tuple[str, ...]
    if_exists: bool

    def holds(self, context: Mapping[str, str]) -> bool:
        # Names of keys are the same in any case.
        said = next((value for name, value in context.items() if name.lower() == self.key.lower()), None)
        if said is None:
            return self.if_exists or self.operator in _NEGATIVE
        found = any(_OPERATORS[self.operator](wanted, said) for wanted in self.values)
        return found != (self.operator in _NEGATIVE)


_OPERATORS: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": str.__eq__,
    "StringNotEquals": str.__eq__,
    "StringLike": lambda wanted, said: _fits(wanted, said),
    "StringNotLike": lambda wanted, said: _fits(wanted, said),
    "Bool": lambda wanted, said: wanted.lower() == said.lower(),
}
_OF_SETS = "ForAnyValue:"
"""Begins operators on keys with several values; here they have one."""
_NEGATIVE = {"StringNotEquals", "StringNotLike"}


@dataclass(frozen=True, slots=True)
class _Statement:
    allows: bool
    actions: tuple[str, ...]
    all_but_actions: bool
    resources: tuple[str, ...]
    all_but_resources: bool
    conditions: tuple[_Condition, ...]

    def is_about(self, wanted: Permission) -> bool:
        is_action = any(_fits(action.lower(), wanted.action.lower()) for action in self.actions)
        is_resource = any(_fits(resource, wanted.resource) for resource in self.resources)
        if is_action == self.all_but_actions or is_resource == self.all_but_resources:
            return False
        return all(condition.holds(wanted.context) for condition in self.conditions)


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy of an identity: what it does not allow is denied, and what it denies nothing can allow."""

    statements: tuple[_Statement, ...]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Policy:
        """
        Read a policy document.

        Raises:
            ValueError: it is none, or holds what is not understood here.
        """
        if unknown := document.keys() - {"Version", "Id", "Statement"}:
            raise ValueError(f"a policy document has no {', '.join(sorted(unknown))}")
        if document.get("Version") != VERSION:
            raise ValueError(f"the Version of a policy document must be {VERSION}")
        if len("".join(json.dumps(document).split())) > SIZE_LIMIT:
            raise ValueError(f"a policy has {SIZE_LIMIT} characters at most")
        statements = _listed(document.get("Statement"), "Statement")
        return cls(tuple(_statement(one) for one in statements))

    def allows(self, wanted: Permission) -> bool:
        """Tell whether it allows something."""
        about = [statement.allows for statement in self.statements if statement.is_about(wanted)]
        return bool(about) and all(about)


def policy_for(policies: Mapping[str, Any], access_key: str) -> Policy | None:
    """
    Return the policy of who asks, ``None`` if nothing is denied to it.

    Args:
        policies: policy documents by patterns of access keys, such as ``ASIA*``; the first that fits counts.
        access_key: who asks.

    Raises:
        ValueError: what is there for it is no policy document.
    """
    document = next((found for pattern, found in policies.items() if _fits(pattern, access_key)), None)
    return None if document is None else _parsed(json.dumps(document))


@lru_cache(maxsize=64)
def _parsed(text: str) -> Policy:
    return Policy.of(json.loads(text))


def _statement(said: Mapping[str, Any]) -> _Statement:
    if unknown := said.keys() - _KNOWN:
        raise ValueError(f"a statement of an identity's policy has no {', '.join(sorted(unknown))}")
    if said.get("Effect") not in {"Allow", "Deny"}:
        raise ValueError("the Effect of a statement is Allow or Deny")
    if not _SID.fullmatch(said.get("Sid", "")):
        raise ValueError(f"the Sid {said['Sid']!r} must be letters and digits")
    actions, not_actions = _either(said, "Action", _ACTION)
    resources, not_resources = _either(said, "Resource", _RESOURCE)
    conditions = tuple(_conditions(said.get("Condition", {})))
    return _Statement(said["Effect"] == "Allow", actions, not_actions, resources, not_resources, conditions)


def _either(said: Mapping[str, Any], name: str, form: re.Pattern[str]) -> tuple[tuple[str, ...], bool]:
    """Return what a statement has under a name or its opposite, and whether it is the opposite."""
    opposite = f"Not{name}"
    if (name in said) == (opposite in said):
        raise ValueError(f"a statement has {name} or {opposite}, and not both")
    values = tuple(_listed(said.get(name, said.get(opposite)), name))
    for value in values:
        if not isinstance(value, str) or not form.fullmatch(value):
            raise ValueError(f"{value!r} cannot be a statement's {name}")
    return values, opposite in said


def _conditions(said: Mapping[str, Mapping[str, Any]]) -> list[_Condition]:
    found = []
    for operator, wanted in said.items():
        name = operator.removesuffix("IfExists").removeprefix(_OF_SETS)
        if name not in _OPERATORS:
            raise ValueError(f"the condition operator {operator} is not understood here")
        for key, values in wanted.items():
            listed = tuple(str(value) for value in _listed(values, key))
            found.append(_Condition(name, key, listed, operator.endswith("IfExists")))
    return found


def _listed(said: Any, name: str) -> Sequence[Any]:
    listed = said if isinstance(said, list) else [said]
    if not listed or None in listed:
        raise ValueError(f"{name} is missing or empty")
    return listed


_TOKEN = re.compile(r"\$\{([*?$])\}|\$\{[^}]*\}|.", re.DOTALL)


@lru_cache(maxsize=1024)
def _pattern(wanted: str) -> re.Pattern[str]:
    parts = []
    for token in _TOKEN.finditer(wanted):
        if token[0].startswith("${") and token[1] is None:
            raise ValueError(f"the policy variable {token[0]} is not understood here")
        parts.append(re.escape(token[1]) if token[1] else {"*": ".*", "?": "."}.get(token[0], re.escape(token[0])))
    return re.compile("".join(parts), re.DOTALL)


def _fits(wanted: str, said: str) -> bool:
    return _pattern(wanted).fullmatch(said) is not None
