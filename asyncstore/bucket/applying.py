"""
Grants made true in IAM: the principal's policy, and roles with their policies and trust.

What is there is read first; what is to be done is decided by pure functions; a second run finds nothing to do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from asyncstore.bucket._admin import CONCERNS_ALL, Admin
from asyncstore.bucket._union import besides, described, listed, united
from asyncstore.bucket.grants import principal_of
from asyncstore.bucket.initializing import State
from asyncstore.errors import AsyncStoreError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from asyncstore.aws.settings import AwsSettings
    from asyncstore.bucket.documents import Document, Principal
    from asyncstore.bucket.grants import BucketGrants, RoleGrant

__all__ = ["GrantStep", "apply_grants", "caller", "find_user", "plan_grants", "plan_trust"]

_TAKE_ON = {"sts:AssumeRole", "sts:*", "*"}


@dataclass(frozen=True, slots=True)
class GrantStep:
    """One thing in IAM: how it is, how it is wanted, and what became of it."""

    what: str
    state: State
    found: str = ""
    wanted: str = ""
    why: str = ""
    error: AsyncStoreError | None = None
    operation: str = ""
    """What makes it so, of botocore's IAM client, with the state ``to change``."""
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False)


async def caller(settings: AwsSettings) -> Principal:
    """
    Return whose credentials the settings give, before any role is taken on.

    Of the session of a role STS does not say the role's path: IAM is asked, and if it may not be, ``is_complete`` is
    false.

    Raises:
        CredentialsError: there are none, or STS does not accept them.
        AsyncStoreError: what answers there is no STS, or cannot be reached.
    """
    async with Admin("sts", settings, role_arn="") as sts:
        answer = await sts.call("get_caller_identity", "ask STS who we are")
    found = principal_of(str(answer.get("Arn", "")))
    if found.kind != "role":
        return found
    try:
        async with Admin("iam", settings, role_arn="") as iam:
            role = await iam.call("get_role", f"look for role {found.name}", RoleName=found.name)
    except AsyncStoreError:
        return replace(found, is_complete=False)
    return principal_of(str(role["Role"]["Arn"]))


async def find_user(name: str, settings: AwsSettings) -> Principal:
    """
    Return an IAM user by name, which may have a path before it, with account and path.

    Raises:
        NotFoundError: there is none.
        AsyncStoreError: IAM may not be asked, or cannot be reached.
    """
    async with Admin("iam", settings, role_arn="") as iam:
        try:
            answer = await iam.call("get_user", f"look for user {name}", UserName=name.rpartition("/")[2])
        except NotFoundError as error:
            path, _, short = name.rpartition("/")
            create = f"aws iam create-user --user-name {short}" + (f" --path /{path.strip('/')}/" if path else "")
            raise NotFoundError(f"there is no user {name!r}: create it with {create!r}, or name another one") from error
    return principal_of(str(answer["User"]["Arn"]))


async def plan_grants(grants: Sequence[BucketGrants], settings: AwsSettings, *, force: bool = False) -> list[GrantStep]:
    """
    Return what IAM lacks of some grants, changing nothing.

    What a policy of the same name grants besides, as to another store, stays unless it is forced. Of a role that is
    there, those who may take it on still may; one whose trust asks for more than ours would, as an external id, is left
    alone unless it is forced.

    Args:
        grants: what is to be granted.
        settings: region, endpoint, and whose credentials to use: an administrator's.
        force: take away what else policies of these names grant, and let the principal take on roles whose trust asks
            for more.

    Raises:
        AccessDeniedError: IAM may not be read.
        CredentialsError: there are no credentials, or they are not accepted.
        UnavailableError: IAM cannot be reached.
    """
    async with Admin("iam", settings, role_arn="") as iam:
        steps: list[GrantStep] = []
        planned: set[str] = set()
        for grant in grants:
            for role in grant.roles:
                steps += await _plan_role(iam, role, grant.principal, force=force, again=role.arn in planned)
                planned.add(role.arn)
            whose = {f"{grant.principal.kind.title()}Name": grant.principal.short_name}
            kind = grant.principal.kind
            steps.append(await _plan_policy(iam, kind, whose, grant.policy_name, grant.policy, force=force))
        return steps


async def apply_grants(steps: Iterable[GrantStep], settings: AwsSettings) -> list[GrantStep]:
    """
    Do what :func:`plan_grants` returned, in that order, and return what became of each step.

    A step that fails does not stop those that do not depend on it.

    Raises:
        CredentialsError: the credentials are not accepted.
        UnavailableError: IAM cannot be reached.
    """
    async with Admin("iam", settings, role_arn="") as iam:
        return [await _do(iam, step) if step.operation else step for step in steps]


async def _do(iam: Admin, step: GrantStep) -> GrantStep:
    try:
        await iam.call(step.operation, f"change {step.what}", **step.parameters)
    except CONCERNS_ALL:
        raise
    except AsyncStoreError as error:
        return replace(step, state=State.FAILED, error=error)
    return replace(step, state=State.CHANGED)


async def _plan_policy(
    iam: Admin, kind: str, whose: Mapping[str, str], name: str, policy: Document, *, force: bool
) -> GrantStep:
    what = f"policy {name} of {kind} {next(iter(whose.values()))}"
    goal = _summed_up(policy)
    try:
        answer = await iam.call(f"get_{kind}_policy", f"read {what}", PolicyName=name, **whose)
        there = _document(answer["PolicyDocument"])
    except NotFoundError:
        there = None
    why = ""
    if there is not None:
        more, less = besides(there, policy), besides(policy, there)
        if not (more or less):
            return GrantStep(what, State.FINE, goal, goal)
        why = f"{'taken away' if force else 'kept (--force takes it away)'}: {described(more)}" if more else ""
        if not (less or force):
            return GrantStep(what, State.KEPT, _summed_up(there), goal, why)
        policy = policy if force else united(there, policy)
    parameters = {**whose, "PolicyName": name, "PolicyDocument": json.dumps(policy, ensure_ascii=False)}
    found = "none" if there is None else _summed_up(there)
    return GrantStep(what, State.TO_CHANGE, found, _summed_up(policy), why, None, f"put_{kind}_policy", parameters)


async def _plan_role(iam: Admin, role: RoleGrant, who: Principal, *, force: bool, again: bool) -> list[GrantStep]:
    """Return what a role lacks; of one that was planned for ``again``, its policy alone."""
    whose = {"RoleName": role.name}
    if role.account_id.isdecimal() and who.account_id.isdecimal() and role.account_id != who.account_id:
        why = f"it is in account {role.account_id}: grant it there, with what is printed without --apply"
        return [GrantStep(f"role {role.name}", State.KEPT, "", f"may be taken on by {who.arn}", why)]
    policy = await _plan_policy(iam, "role", whose, role.policy_name, role.policy, force=force)
    if again:
        return [policy]
    try:
        there = (await iam.call("get_role", f"read role {role.name}", **whose))["Role"]
    except NotFoundError:
        return [_creation(role, who), policy]
    return [*plan_trust(role, there, who, force=force), policy]


def _creation(role: RoleGrant, who: Principal) -> GrantStep:
    parameters = {
        "RoleName": role.name,
        "Path": role.path,
        "AssumeRolePolicyDocument": json.dumps(role.trust),
        "MaxSessionDuration": role.session_limit_s,
        "Description": f"{role.key} of asyncstore",
    }
    goal = f"may be taken on by {who.arn}"
    return GrantStep(
        f"role {role.name}", State.TO_CHANGE, "none", goal, f"it is {role.key}", None, "create_role", parameters
    )


def plan_trust(role: RoleGrant, there: Mapping[str, Any], who: Principal, *, force: bool) -> list[GrantStep]:
    """
    Return what a role that is there lacks: who may take it on, and how long its sessions may last.

    Args:
        role: how it is wanted.
        there: what IAM says of it.
        who: who is to take it on.
        force: let them do so also where they may already on more conditions.
    """
    whose = {"RoleName": role.name}
    what, goal = f"role {role.name}", f"may be taken on by {who.arn}"
    trust = _document(there.get("AssumeRolePolicyDocument") or {})
    statements = listed(trust.get("Statement"))
    ours = [statement for statement in statements if _lets_take_on(statement, who)]
    steps = []
    if any("Condition" not in statement for statement in ours):
        steps.append(GrantStep(what, State.FINE, goal, goal))
    elif ours and not force:
        why = "its trust asks for more, as an external id would: --force lets them in without"
        steps.append(GrantStep(what, State.KEPT, "may be taken on under conditions", goal, why))
    else:
        wider = {**trust, "Version": role.trust["Version"], "Statement": [*statements, *role.trust["Statement"]]}
        parameters = {**whose, "PolicyDocument": json.dumps(wider, ensure_ascii=False)}
        found = "may be taken on by others"
        why = "those who may already still may"
        steps.append(GrantStep(what, State.TO_CHANGE, found, goal, why, None, "update_assume_role_policy", parameters))
    limit_s = int(there.get("MaxSessionDuration") or role.session_limit_s)
    if limit_s < role.session_limit_s:
        longer = {**whose, "MaxSessionDuration": role.session_limit_s}
        found, wanted = f"sessions of {limit_s} s at most", f"sessions of {role.session_limit_s} s"
        steps.append(GrantStep(what, State.TO_CHANGE, found, wanted, "", None, "update_role", longer))
    return steps


def _lets_take_on(statement: Mapping[str, Any], who: Principal) -> bool:
    principal = statement.get("Principal") or {}
    named = ["*"] if principal == "*" else listed(principal.get("AWS") if isinstance(principal, dict) else None)
    return (
        statement.get("Effect") == "Allow"
        and bool(_TAKE_ON & set(listed(statement.get("Action"))))
        and bool({who.arn, "*"} & set(named))
    )


def _document(said: Any) -> Document:
    # botocore reads the JSON, but not of every server.
    document: Document = json.loads(said) if isinstance(said, str) else said
    return document


def _summed_up(policy: Document) -> str:
    names = [
        statement.get("Sid") or ", ".join(listed(statement.get("Action")))
        for statement in listed(policy.get("Statement"))
    ]
    return ", ".join(names) or "nothing"
