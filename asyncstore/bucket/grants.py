"""
Who is granted what for a bucket: all documents of one configuration, with the names that they have in IAM.

Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from asyncstore.bucket.cors import CorsRule, cors_rules
from asyncstore.bucket.documents import (
    BucketAccess,
    Document,
    Principal,
    multipart_role_policy,
    role_policy,
    trust_policy,
    user_policy,
)
from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BucketGrants", "RoleGrant", "check_account", "check_user", "grants_of", "principal_of", "role_arn_of"]

POLICY_NAME_LIMIT = 128
SHORTEST_SESSION_LIMIT_S = 3600
"""What IAM lets a session last at most if nothing is said."""

_ARN = re.compile(r"arn:(?P<partition>[a-z-]+):(?:iam|sts)::(?P<account>\d{12}):(?P<kind>[a-z-]+)(?:/(?P<name>.+))?")
_ROLE = re.compile(
    r"arn:[a-z-]+:iam::(?P<account>[^:/]+):role(?P<path>/(?:[!-~]+/)?)(?P<name>[\w+=,.@-]{1,64})", re.ASCII
)
_PATH = re.compile(r"[A-Za-z0-9+=,.@_/-]{0,510}")
_NAME = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RoleGrant:
    """A role: what it may do, and who may take it on."""

    arn: str
    key: str
    """The key of the configuration that names it."""
    policy_name: str
    policy: Document
    trust: Document
    session_limit_s: int
    """How long its sessions have to be able to last, in seconds."""

    @property
    def name(self) -> str:
        """Its name, without its path."""
        return _role(self.arn)["name"]

    @property
    def path(self) -> str:
        """Where it is among roles, ``/`` if it is nowhere in particular."""
        return _role(self.arn)["path"]

    @property
    def account_id(self) -> str:
        """Whose it is."""
        return _role(self.arn)["account"]


@dataclass(frozen=True, slots=True)
class BucketGrants:
    """All that one use of a bucket needs."""

    access: BucketAccess
    policy_name: str
    policy: Document
    """Of the principal."""
    roles: tuple[RoleGrant, ...]
    cors: tuple[CorsRule, ...]

    @property
    def principal(self) -> Principal:
        """Who has the credentials."""
        return self.access.principal


def grants_of(
    access: BucketAccess,
    origins: Sequence[str] = (),
    *,
    full_access: bool = False,
    number: int = 1,
) -> BucketGrants:
    """
    Return all documents for what a configuration does with a bucket.

    Args:
        access: what is done, where, and by whom.
        origins: pages of these may transfer by presigned requests; see :func:`asyncstore.bucket.cors.check_origin`.
        full_access: the wider documents of the older guides.
        number: tells the policies of several uses of one bucket apart, which are by different roles.

    Raises:
        ConfigurationError: the ARN of a role is none.
    """
    name = _policy_name(access.bucket, number)
    wanted = (
        ("role_arn", access.role_arn, role_policy),
        ("multipart_upload_role_arn", access.multipart_role_arn, multipart_role_policy),
    )
    limit_s = max(access.session_duration_s, SHORTEST_SESSION_LIMIT_S)
    roles = [
        RoleGrant(arn, key, name, policy(access, full_access=full_access), trust_policy(access.principal), limit_s)
        for key, arn, policy in wanted
        if arn
    ]
    for role in roles:
        _role(role.arn)
    rules = cors_rules(origins, full_access=full_access)
    return BucketGrants(access, name, user_policy(access, full_access=full_access), tuple(roles), rules)


def _policy_name(bucket: str, number: int) -> str:
    """Return a name that no other bucket and number have: no bucket's has a ``+`` in it."""
    suffix = f"+{number}" if number > 1 else ""
    name = f"asyncstore-{bucket}{suffix}"
    if len(name) <= POLICY_NAME_LIMIT:
        return name
    suffix = f"+{sha256(bucket.encode()).hexdigest()[:8]}{suffix}"
    return f"asyncstore-{bucket}"[: POLICY_NAME_LIMIT - len(suffix)] + suffix


def principal_of(arn: str) -> Principal:
    """
    Return who has the credentials of which STS says this ARN.

    A session stands for its role, whose path STS does not say; of an account's owner and others that have no policies,
    only the account is kept.
    """
    found = _ARN.fullmatch(arn)
    if found is None:
        return Principal()
    account, partition, name = found["account"], found["partition"], found["name"]
    if name and found["kind"] in {"user", "role"}:
        return Principal(name, account, "user" if found["kind"] == "user" else "role", partition)
    if name and found["kind"] == "assumed-role":
        return Principal(name.partition("/")[0], account, "role", partition)
    return Principal(account_id=account, partition=partition)


def check_account(number: str) -> str:
    """
    Return the number of an account.

    Raises:
        ConfigurationError: it is none.
    """
    if not re.fullmatch(r"\d{12}", number, re.ASCII):
        raise ConfigurationError(f"{number!r} is no number of an AWS account: 12 digits")
    return number


def check_user(name: str) -> str:
    """
    Return the name of an IAM user, with a path or without.

    Raises:
        ConfigurationError: it is none.
    """
    path, _, short = name.strip("/").rpartition("/")
    if not _NAME.fullmatch(short) or not _PATH.fullmatch(path):
        raise ConfigurationError(
            f"{name!r} is no name of an IAM user: letters, digits and any of '+=,.@_-', 64 at most, and no ARN"
        )
    return name.strip("/")


def role_arn_of(role: str, principal: Principal) -> str:
    """
    Return the ARN of a role of the principal's account, by its name; an ARN as it is.

    Raises:
        ConfigurationError: it is neither.
    """
    if not role or _ROLE.fullmatch(role):
        return role
    if not _NAME.fullmatch(role):
        raise ConfigurationError(f"{role!r} is neither the name nor the ARN of a role")
    return f"arn:{principal.partition}:iam::{principal.account_id}:role/{role}"


def _role(arn: str) -> re.Match[str]:
    found = _ROLE.fullmatch(arn)
    if found is None:
        raise ConfigurationError(f"{arn!r} is not the ARN of a role: arn:aws:iam::ACCOUNTNUMBER:role/NAME")
    return found
