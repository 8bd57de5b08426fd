"""
What the rules of a bucket still lack, CORS and lifecycle, and with them all that it lacks.

Our rules are found again by their names; those of others stay, and so does what others changed in ours.
"""

from __future__ import annotations

import hashlib
from itertools import count
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
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from asyncstore.bucket.plan import Answer, WantedBucket

__all__ = ["differences", "plan_abort", "plan_cors", "plan_expiry"]

Rule = dict[str, Any]

ABORT_ID = "asyncstore-abort-unfinished-uploads"
EXPIRY_ID = "asyncstore-expire-"
ID_LIMIT = 255

WHY_CHANGED = "our rule for it was switched off or changed by somebody: --force sets it back"


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
        abort, following = plan_abort(answers["lifecycle"], force=force)
        yield abort
        versioned = answers.get("versioning", {}).get("Status") == "Enabled"
        yield plan_expiry(following, wanted, versioned=versioned, force=force)


def plan_cors(answer: Answer, wanted: WantedBucket, *, force: bool) -> Difference:
    """Let pages of the origins in; by force, our rule is for these origins alone."""
    rules: list[Rule] = list(answer.get("CORSRules") or ())
    found = _counted(len(rules), "rule") if rules else "no rules"
    if not wanted.origins:
        return Difference("CORS", Verdict.LEFT, found, found, "no --origin was given")
    ours = _named(rules, RULE_ID)
    lacking = [origin for origin in wanted.origins if not any(_lets_in(rule, origin) for rule in rules)]
    goal = f"{', '.join(wanted.origins)} may transfer"
    unasked = set(ours["AllowedOrigins"]) - set(wanted.origins) if ours else set()
    if not lacking and not (force and unasked):
        return Difference("CORS", Verdict.FINE, goal, goal)
    if ours and unasked and not force and not _transfers(ours):
        why = f"our rule was narrowed, and lets {', '.join(sorted(unasked))} in too: --force sets it back for --origin"
        return Difference("CORS", Verdict.KEPT, found, goal, why)
    rule = _widened(ours or {}, wanted.origins if force else lacking, anew=force)
    changed = [rule if other is ours else other for other in rules] if ours else [*rules, rule]
    call = Call("put_bucket_cors", {"CORSConfiguration": {"CORSRules": changed}})
    others = len(rules) - (ours is not None)
    why = f"{_counted(others, 'rule')} of others {'stays' if others == 1 else 'stay'}" if others else ""
    return Difference("CORS", Verdict.CHANGE, found, goal, why, call)


def plan_abort(answer: Answer, *, force: bool) -> tuple[Difference, Answer]:
    """Abort unfinished uploads after a week, unless a rule aborts them ever; and return the answer that follows."""
    name, goal = "unfinished uploads", f"aborted after {ABORT_DAYS} days"
    rules = _rules(answer)
    days = [
        int(rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"])
        for rule in rules
        if rule.get("Status") == "Enabled" and "AbortIncompleteMultipartUpload" in rule and _start(rule) == ""
    ]
    found = f"aborted after {_counted(min(days), 'day')}" if days else "kept for ever"
    if days and min(days) <= ABORT_DAYS:
        return Difference(name, Verdict.FINE, found, found), answer
    if days and not force:
        why = "somebody may rely on these days to resume uploads: --force aborts them sooner"
        return Difference(name, Verdict.KEPT, found, goal, why), answer
    if _named(rules, ABORT_ID) and not force:
        return Difference(name, Verdict.KEPT, found, goal, WHY_CHANGED), answer
    ours = _rule(ABORT_ID, "", "AbortIncompleteMultipartUpload", {"DaysAfterInitiation": ABORT_DAYS})
    following = {**answer, "Rules": _with_ours(rules, ours)}
    why = "their parts are paid for and never seen"
    return Difference(name, Verdict.CHANGE, found, goal, why, _put(following)), following


def plan_expiry(answer: Answer, wanted: WantedBucket, *, versioned: bool, force: bool) -> Difference:
    """Delete the objects below a prefix after some days; an expiry of just this prefix changes by force alone."""
    name = "expiry"
    rules = _rules(answer)
    if wanted.expire_days is None:
        ours = [rule for rule in rules if str(rule.get("ID", "")).startswith(EXPIRY_ID)]
        found = f"{_counted(len(ours), 'rule')} of ours" if ours else "no rule of ours"
        return Difference(name, Verdict.LEFT, found, found, "no --expire-days was given")
    prefix, days = wanted.expire_prefix, wanted.expire_days
    goal = f"{prefix} after {_counted(days, 'day')}"
    found = f"{prefix} {_expiry(rules, prefix)}"
    if _shortest(_covering(rules, prefix)) == days:
        return Difference(name, Verdict.FINE, found, goal)
    if against := _against(rules, prefix, days, force=force):
        return Difference(name, Verdict.KEPT, found, goal, against)
    why = "with versioning on, old versions stay all the same" if versioned else "S3 deletes them within a day or two"
    rule = _rule(_expiry_id(prefix), prefix, "Expiration", {"Days": days})
    exact = [rule for rule in rules if _expires(rule) and _start(rule) == prefix]
    changed = [{**other, "Expiration": rule["Expiration"]} if other in exact else other for other in rules]
    following = changed if exact else _with_ours(rules, rule)
    return Difference(name, Verdict.CHANGE, found, goal, why, _put({**answer, "Rules": following}))


def _against(rules: Sequence[Rule], prefix: str, days: int, *, force: bool) -> str:
    """Return why the expiry below a prefix is not to be changed to so many days, empty if nothing is against it."""
    wider = [rule for rule in _covering(rules, prefix) if _start(rule) != prefix]
    if 0 < _shortest(wider) < days:
        return "a rule for more than this prefix deletes sooner, and the shortest time counts: none of ours can undo it"
    if force:
        return ""
    if any(_start(rule) == prefix for rule in _covering(rules, prefix)):
        return "somebody relies on it, to keep the data or to be rid of it: --force changes it"
    return WHY_CHANGED if _named(rules, _expiry_id(prefix)) else ""


def _expiry(rules: Sequence[Rule], prefix: str) -> str:
    """Tell when objects below a prefix are deleted, by whichever rule."""
    covering = _covering(rules, prefix)
    if least := _shortest(covering):
        return f"after {_counted(least, 'day')}"
    if covering:
        return f"on {min(str(rule['Expiration']['Date'])[:10] for rule in covering)}"
    return "expires in part" if any(_expires(rule) and _touches(rule, prefix) for rule in rules) else "stays"


def _covering(rules: Sequence[Rule], prefix: str) -> list[Rule]:
    """Return the rules by which all objects below a prefix expire."""
    starts = [(rule, _start(rule)) for rule in rules if _expires(rule)]
    return [rule for rule, start in starts if start is not None and prefix.startswith(start)]


def _touches(rule: Rule, prefix: str) -> bool:
    """Tell whether a rule may be for some objects below a prefix."""
    scope = rule.get("Filter") or {}
    start = str((scope.get("And") or scope).get("Prefix") or "")
    return start.startswith(prefix) or prefix.startswith(start)


def _widened(rule: Rule, origins: Sequence[str], *, anew: bool) -> Rule:
    """Return a rule by which pages of more origins transfer, or of these alone; nothing else of it goes."""
    wanted = cors_rules(origins)[0].document()
    if not rule:
        return wanted
    had = {**rule, "AllowedOrigins": []} if anew else rule
    exact = ("AllowedOrigins", "AllowedMethods", "AllowedHeaders")
    lists = {name: _joined(had.get(name, ()), wanted[name], str) for name in exact}
    exposed = _joined(rule.get("ExposeHeaders", ()), wanted["ExposeHeaders"], str.lower)
    return {**rule, **lists, "ExposeHeaders": exposed}


def _joined(names: Sequence[str], more: Sequence[str], key: Callable[[str], str]) -> list[str]:
    known = set(map(key, names))
    return [*names, *(name for name in more if key(name) not in known)]


def _transfers(rule: Rule) -> bool:
    return any(_lets_in(rule, origin) for origin in rule["AllowedOrigins"])


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


def _rule(name: str, prefix: str, action: str, parameters: Rule) -> Rule:
    return {"ID": name, "Filter": {"Prefix": prefix}, "Status": "Enabled", action: parameters}


def _named(rules: Sequence[Rule], name: str) -> Rule | None:
    return next((rule for rule in rules if rule.get("ID") == name), None)


def _start(rule: Rule) -> str | None:
    """Return what all keys begin with that a rule is for, ``None`` if it is for some of them only."""
    scope = rule.get("Filter") or {"Prefix": ""}
    return str(scope["Prefix"] or "") if set(scope) == {"Prefix"} else None


def _expires(rule: Rule) -> bool:
    expiration = rule.get("Expiration") or {}
    return rule.get("Status") == "Enabled" and bool(expiration.get("Days") or expiration.get("Date"))


def _shortest(rules: Sequence[Rule]) -> int:
    """Return after how many days the first of the rules deletes, 0 if all do so on a date."""
    return min((int(rule["Expiration"]["Days"]) for rule in rules if rule["Expiration"].get("Days")), default=0)


def _with_ours(rules: Sequence[Rule], ours: Rule) -> list[Rule]:
    """Return the rules with ours as it is to be, in its place; what somebody added to it does not reach further."""
    there = _named(rules, ours["ID"])
    if there is None:
        return [*rules, ours]
    unmoved = there.get("Status") == "Enabled" and _start(there) == _start(ours)
    if unmoved or set(there) <= set(ours):
        return [{**rule, **ours} if rule is there else rule for rule in rules]
    return [*rules, {**ours, "ID": _free_name(rules, ours["ID"])}]


def _free_name(rules: Sequence[Rule], name: str) -> str:
    start = name[: ID_LIMIT - 4]
    return next(free for number in count(2) if not _named(rules, free := f"{start}-{number}"))


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
