"""
What the rules of a bucket still lack, CORS and lifecycle, and with them all that it lacks.

Our rules are found again by their names; those of others stay.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from asyncstore.bucket.cors import RULE_ID, cors_rules
from asyncstore.bucket.plan import (
    ABORT_DAYS,
    Call,
    Difference,
    Verdict,
    plan_access,
    plan_encryption,
    plan_lock,
    plan_versioning,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from asyncstore.bucket.plan import Answer, WantedBucket

__all__ = ["differences", "plan_abort", "plan_cors", "plan_expiry"]

Rule = dict[str, Any]

ABORT_ID = "asyncstore-abort-unfinished-uploads"
EXPIRY_ID = "asyncstore-expire-"
ID_LIMIT = 255


def differences(answers: Mapping[str, Answer], wanted: WantedBucket, *, force: bool) -> Iterator[Difference]:
    """Yield what each setting needs of which there is an answer; later ones build on what the earlier ones change."""
    lock = answers.get("object lock", {})
    if "public access" in answers:
        yield plan_access(answers["public access"])
    if "encryption" in answers:
        yield plan_encryption(answers["encryption"], wanted, force=force)
    if (locked := plan_lock(lock)).verdict is not Verdict.FINE:
        yield locked
    if "versioning" in answers:
        yield plan_versioning(answers["versioning"], lock, force=force)
    if "CORS" in answers:
        yield plan_cors(answers["CORS"], wanted, force=force)
    if "lifecycle" in answers:
        abort, following = plan_abort(answers["lifecycle"])
        yield abort
        versioned = answers.get("versioning", {}).get("Status") == "Enabled"
        yield plan_expiry(following, wanted, versioned=versioned, force=force)


def plan_cors(answer: Answer, wanted: WantedBucket, *, force: bool) -> Difference:
    """Let pages of the origins in; by force, of the origins alone that our rule was for."""
    rules: list[Rule] = list(answer.get("CORSRules") or ())
    found = _counted(len(rules), "rule") if rules else "no rules"
    if not wanted.origins:
        return Difference("CORS", Verdict.LEFT, found, found, "no --origin was given")
    ours = next((rule for rule in rules if rule.get("ID") == RULE_ID), None)
    had = list(ours["AllowedOrigins"]) if ours and not force else []
    lacking = [origin for origin in wanted.origins if not any(_lets_in(rule, origin) for rule in rules)]
    origins = list(dict.fromkeys([*had, *(wanted.origins if force else lacking)]))
    goal = f"{', '.join(wanted.origins)} may transfer"
    if not lacking and (not force or ours is None or set(ours["AllowedOrigins"]) <= set(wanted.origins)):
        return Difference("CORS", Verdict.FINE, goal, goal)
    rule = cors_rules(origins)[0].document()
    kept = [other for other in rules if other is not ours]
    call = Call("put_bucket_cors", {"CORSConfiguration": {"CORSRules": [*kept, rule]}})
    why = f"{_counted(len(kept), 'rule')} of others {'stays' if len(kept) == 1 else 'stay'}" if kept else ""
    return Difference("CORS", Verdict.CHANGE, found, goal, why, call)


def plan_abort(answer: Answer) -> tuple[Difference, Answer]:
    """Abort unfinished uploads after a week, unless a rule does so already; and return the answer that follows."""
    name = "unfinished uploads"
    rules = _rules(answer)
    days = [
        int(rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"])
        for rule in rules
        if rule.get("Status") == "Enabled" and "AbortIncompleteMultipartUpload" in rule and _whole_bucket(rule)
    ]
    found = f"aborted after {_counted(min(days), 'day')}" if days else "kept for ever"
    if days and min(days) <= ABORT_DAYS:
        return Difference(name, Verdict.FINE, found, found), answer
    ours: Rule = {
        "ID": ABORT_ID,
        "Filter": {"Prefix": ""},
        "Status": "Enabled",
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORT_DAYS},
    }
    following = _with_rule(answer, rules, ours)
    goal = f"aborted after {ABORT_DAYS} days"
    return Difference(
        name, Verdict.CHANGE, found, goal, "their parts are paid for and never seen", _put(following)
    ), following


def plan_expiry(answer: Answer, wanted: WantedBucket, *, versioned: bool, force: bool) -> Difference:
    """Delete the objects below a prefix after some days; a number of days that is there changes by force alone."""
    name = "expiry"
    rules = _rules(answer)
    if wanted.expire_days is None:
        ours = [rule for rule in rules if str(rule.get("ID", "")).startswith(EXPIRY_ID)]
        found = f"{_counted(len(ours), 'rule')} of ours" if ours else "no rule of ours"
        return Difference(name, Verdict.LEFT, found, found, "no --expire-days was given")
    prefix, days = wanted.expire_prefix, {"Days": wanted.expire_days}
    goal = f"{prefix} after {_counted(wanted.expire_days, 'day')}"
    there = [rule for rule in rules if _expires(rule, prefix)]
    least = min((int(rule["Expiration"]["Days"]) for rule in there), default=0)
    found = f"{prefix} after {_counted(least, 'day')}" if there else f"{prefix} stays"
    if least == wanted.expire_days:
        return Difference(name, Verdict.FINE, found, goal)
    if there and not force:
        why = "somebody relies on it, to keep the data or to be rid of it: --force changes it"
        return Difference(name, Verdict.KEPT, found, goal, why)
    why = "with versioning on, old versions stay all the same" if versioned else "S3 deletes them within a day or two"
    if there:
        changed = [{**rule, "Expiration": days} if rule in there else rule for rule in rules]
        return Difference(name, Verdict.CHANGE, found, goal, why, _put({**answer, "Rules": changed}))
    rule: Rule = {"ID": _expiry_id(prefix), "Filter": {"Prefix": prefix}, "Status": "Enabled", "Expiration": days}
    return Difference(name, Verdict.CHANGE, found, goal, why, _put(_with_rule(answer, rules, rule)))


def _lets_in(rule: Mapping[str, Any], origin: str) -> bool:
    """Tell whether a rule lets pages of an origin do all that ours does."""
    ours = cors_rules([origin])[0]
    return (
        any(_matches(pattern, origin) for pattern in rule.get("AllowedOrigins", ()))
        and set(ours.methods) <= set(rule.get("AllowedMethods", ()))
        and "*" in rule.get("AllowedHeaders", ())
        and {header.lower() for header in ours.exposed} <= {str(name).lower() for name in rule.get("ExposeHeaders", ())}
    )


def _matches(pattern: str, origin: str) -> bool:
    start, wild, end = pattern.partition("*")
    if not wild:
        return pattern == origin
    return len(origin) >= len(start) + len(end) and origin.startswith(start) and origin.endswith(end)


def _rules(answer: Answer) -> list[Rule]:
    """Return the rules in the newer form, which S3 does not take mixed with the older one."""
    return [_newer(rule) for rule in answer.get("Rules") or ()]


def _newer(rule: Mapping[str, Any]) -> Rule:
    if "Prefix" not in rule or "Filter" in rule:
        return dict(rule)
    rest = {key: value for key, value in rule.items() if key != "Prefix"}
    return {**rest, "Filter": {"Prefix": rule["Prefix"]}}


def _whole_bucket(rule: Mapping[str, Any]) -> bool:
    return not rule.get("Filter") or rule["Filter"] == {"Prefix": ""}


def _expires(rule: Mapping[str, Any], prefix: str) -> bool:
    return (
        rule.get("Status") == "Enabled"
        and bool((rule.get("Expiration") or {}).get("Days"))
        and rule.get("Filter") == {"Prefix": prefix}
    )


def _with_rule(answer: Answer, rules: Sequence[Rule], ours: Rule) -> Answer:
    kept = [rule for rule in rules if rule.get("ID") != ours["ID"]]
    return {**answer, "Rules": [*kept, ours]}


def _put(answer: Answer) -> Call:
    parameters: dict[str, Any] = {"LifecycleConfiguration": {"Rules": list(answer["Rules"])}}
    if size := answer.get("TransitionDefaultMinimumObjectSize"):
        # Without it, S3 would go back to its default.
        parameters["TransitionDefaultMinimumObjectSize"] = size
    return Call("put_bucket_lifecycle_configuration", parameters)


def _expiry_id(prefix: str) -> str:
    name = f"{EXPIRY_ID}{prefix}"
    if len(name) <= ID_LIMIT and name.isascii():
        return name
    return f"{EXPIRY_ID}{hashlib.sha256(prefix.encode()).hexdigest()[:32]}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
