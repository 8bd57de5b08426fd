"""
IAM policies: which permissions asyncstore needs, and the documents that grant them.

Pure: documents are dictionaries as IAM reads them. By default they grant what a configuration uses and nothing else;
``full_access`` gives the wider form that guides for private buckets print.

What S3 asks for: a HEAD is a ``s3:GetObject``, a copy is that of its source and a ``s3:PutObject`` of its target, and
whatever makes a multipart upload (create, part, complete) is a ``s3:PutObject`` too. Without ``s3:ListBucket`` on a key
that does not exist, S3 answers 403 in place of 404; for a HEAD or GET it compares the key itself with ``s3:prefix``.
Asking for the bucket as a whole (HeadBucket, a listing without a prefix) has no ``s3:prefix``, and is denied where a
prefix is configured: asyncstore never does it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from asyncstore.aws._partitions import dns_suffix_of, partition_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "PERMISSIONS",
    "BucketAccess",
    "Permission",
    "Principal",
    "multipart_role_policy",
    "partition_of",
    "permissions_of",
    "role_policy",
    "statement_for",
    "trust_policy",
    "user_policy",
]

Document: TypeAlias = dict[str, Any]
"""A policy, or a statement of one, as JSON has it."""

Target: TypeAlias = Literal["bucket", "objects", "key", "role"]
"""What a permission is about: the bucket, the objects below the prefixes, the KMS key, a role to assume."""

VERSION = "2012-10-17"
RESERVED_ROLE = "AWSReservedSSO_"
"""What the names of the roles begin with that IAM Identity Center makes of its permission sets."""

ACCOUNT_PLACEHOLDER = "ACCOUNTNUMBER"
USER_PLACEHOLDER = "USERNAME"

_WILD = re.compile(r"[*?$]")


@dataclass(frozen=True, slots=True)
class Permission:
    """One IAM action that asyncstore may need."""

    action: str
    target: Target
    reason: str
    """What does not work without it."""


PERMISSIONS: dict[str, Permission] = {
    permission.action: permission
    for permission in (
        Permission("s3:ListBucket", "bucket", "lists runs and files, and tells a missing object from a denied one"),
        Permission("s3:GetObject", "objects", "reads run logs and files, and looks at what is there"),
        Permission("s3:PutObject", "objects", "writes run logs and files, whole, in parts and as copies"),
        Permission("s3:DeleteObject", "objects", "deletes runs, and what was replaced or left behind"),
        Permission("s3:AbortMultipartUpload", "objects", "frees the parts of an upload that failed"),
        Permission("s3:ListMultipartUploadParts", "objects", "resumes an upload that was interrupted"),
        Permission("s3:ListBucketMultipartUploads", "bucket", "finds uploads that were left behind"),
        Permission("s3:PutObjectTagging", "objects", "writes the tags of object_tags"),
        Permission("s3:GetObjectTagging", "objects", "copies objects that somebody else has given tags"),
        Permission("kms:GenerateDataKey", "key", "encrypts what is written with kms_key_arn"),
        Permission("kms:Decrypt", "key", "reads what is encrypted with kms_key_arn, and writes it in parts"),
        Permission("sts:AssumeRole", "role", "takes on role_arn and multipart_upload_role_arn"),
    )
}
"""Every action that some feature uses, by name."""

_READS = ("s3:ListBucket", "s3:GetObject")
_WRITES = ("s3:PutObject", "s3:DeleteObject")
_MULTIPART = ("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts", "s3:ListBucketMultipartUploads")
_NARROW_ROLE = ("s3:ListBucket", "s3:GetObject", "s3:PutObject", *_MULTIPART)
_FULL_ROLE = (
    "s3:AbortMultipartUpload",
    "s3:GetObject",
    "s3:ListBucket",
    "s3:ListBucketMultipartUploads",
    "s3:ListBucketVersions",
    "s3:ListMultipartUploadParts",
    "s3:PutObject",
)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who has the credentials that a configuration begins with: an IAM user, or the role of a machine."""

    name: str = USER_PLACEHOLDER
    """As its ARN says it, with the path if it has one."""
    account_id: str = ACCOUNT_PLACEHOLDER
    kind: Literal["user", "role"] = "user"
    partition: str = "aws"
    is_complete: bool = True
    """Whether the path is known, which is part of the ARN."""

    @property
    def is_reserved(self) -> bool:
        """Whether it is a role to which nobody can add policies but IAM Identity Center."""
        return self.kind == "role" and self.short_name.startswith(RESERVED_ROLE)

    @property
    def arn(self) -> str:
        """``arn:aws:iam::<account>:user/<name>``."""
        return f"arn:{self.partition}:iam::{self.account_id}:{self.kind}/{self.name}"

    @property
    def short_name(self) -> str:
        """The name without a path, as IAM's calls want it."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketAccess:
    """What a configuration does with one bucket, and who does it."""

    bucket: str
    prefixes: tuple[str, ...] = ("",)
    """What its keys begin with, each empty (all keys) or ending in ``/``."""
    region: str = "eu-west-1"
    kms_keys: tuple[str, ...] = ()
    """ARNs of keys or aliases, or bare key ids, that objects are encrypted with."""
    object_tags: bool = False
    """Whether objects get tags."""
    role_arn: str = ""
    """The role that does the work; empty if the principal does it itself."""
    multipart_role_arn: str = ""
    """The role that uploads in parts; empty if there is none of its own."""
    principal: Principal = field(default_factory=Principal)
    writes: bool = True
    """Whether anything is written, or deleted."""
    session_duration_s: int = 900
    """How long the sessions of the roles last, in seconds."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefixes", _outermost(self.prefixes))

    @property
    def partition(self) -> str:
        """The first part of ARNs, such as ``aws`` or ``aws-cn``."""
        return partition_of(self.region)

    @property
    def bucket_arn(self) -> str:
        """The bucket itself."""
        return f"arn:{self.partition}:s3:::{self.bucket}"

    @property
    def object_arns(self) -> tuple[str, ...]:
        """The objects below each of the prefixes."""
        return tuple(f"{self.bucket_arn}/{_literal(prefix)}*" for prefix in self.prefixes)


def permissions_of(access: BucketAccess) -> tuple[Permission, ...]:
    """Return what is needed in all, by whoever does it; of the roles, that they may be assumed."""
    names = [*_READS, *((*_WRITES, *_MULTIPART) if access.writes else ()), *_of_settings(access)]
    names += ["sts:AssumeRole"] if access.role_arn or access.multipart_role_arn else []
    return tuple(PERMISSIONS[name] for name in names)


def statement_for(action: str, access: BucketAccess) -> Document:
    """
    Return the statement that grants one action and nothing else.

    Raises:
        KeyError: it is none of :data:`PERMISSIONS`.
    """
    return _statements(access, [PERMISSIONS[action].action])[0]


def user_policy(access: BucketAccess, *, full_access: bool = False) -> Document:
    """
    Return the policy of who has the credentials.

    Where a role does the work, that it may be assumed is all. Where another role uploads in parts, what only such
    uploads need is left to it.

    Args:
        access: what is done, and where.
        full_access: all of S3 on this bucket, and the names of all buckets.
    """
    if access.role_arn:
        return _policy(_statements(access, ["sts:AssumeRole"]))
    return _policy(_working_statements(access, full_access=full_access))


def role_policy(access: BucketAccess, *, full_access: bool = False) -> Document:
    """Return the policy of ``role_arn``, the role that does the work."""
    # Its session does not assume the other role: the principal's own keys do.
    within = replace(access, role_arn="")
    statements = _working_statements(within, full_access=full_access)
    return _policy([item for item in statements if item["Action"] != ["sts:AssumeRole"]])


def multipart_role_policy(access: BucketAccess, *, full_access: bool = False) -> Document:
    """
    Return the policy of ``multipart_upload_role_arn``.

    With ``full_access``, it is the one statement of the older guides.
    """
    rest = _of_settings(access)
    if full_access:
        whole = _statement("MultipartAccess", _FULL_ROLE, _whole_bucket(access))
        return _policy([whole, *_statements(access, rest)])
    return _policy(_statements(access, [*_NARROW_ROLE, *rest]))


def trust_policy(principal: Principal) -> Document:
    """Return the trust relationship of a role that ``principal`` may assume."""
    statement = {"Effect": "Allow", "Principal": {"AWS": principal.arn}, "Action": "sts:AssumeRole"}
    return _policy([statement])


def _working_statements(access: BucketAccess, *, full_access: bool) -> list[Document]:
    rest = [*_of_settings(access), *(["sts:AssumeRole"] if access.multipart_role_arn else [])]
    if full_access:
        return [
            _statement("AllowBucketAccess", ["s3:*"], _whole_bucket(access)),
            _statement("AllowListAccess", ["s3:ListAllMyBuckets"], [f"arn:{access.partition}:s3:::*"]),
            *_statements(access, [name for name in rest if not name.startswith("s3:")]),
        ]
    in_parts = () if access.multipart_role_arn else _MULTIPART
    return _statements(access, [*_READS, *((*_WRITES, *in_parts) if access.writes else ()), *rest])


def _of_settings(access: BucketAccess) -> list[str]:
    """Return what keys and tags need."""
    if not access.writes:
        return ["kms:Decrypt"] if access.kms_keys else []
    return [
        *(["s3:PutObjectTagging"] if access.object_tags else []),
        *(["kms:GenerateDataKey", "kms:Decrypt"] if access.kms_keys else []),
    ]


def _statements(access: BucketAccess, actions: Iterable[str]) -> list[Document]:
    """Return the fewest statements that grant ``actions``."""
    wanted = set(actions)
    found = []
    if "s3:ListBucket" in wanted:
        found.append(_listing(access))
    if "s3:ListBucketMultipartUploads" in wanted:
        # IAM has no condition on the prefix for this one.
        found.append(_statement("ListUploads", ["s3:ListBucketMultipartUploads"], [access.bucket_arn]))
    if on_objects := _sorted(wanted, "objects"):
        found.append(_statement("UseObjects", on_objects, access.object_arns))
    if on_key := _sorted(wanted, "key"):
        found += _key_statements(access, on_key)
    if "sts:AssumeRole" in wanted:
        found.append(_statement("AssumeRoles", ["sts:AssumeRole"], _roles(access)))
    return found


def _listing(access: BucketAccess) -> Document:
    statement = _statement("ListObjects", ["s3:ListBucket"], [access.bucket_arn])
    if access.prefixes != ("",):
        statement["Condition"] = {"StringLike": {"s3:prefix": [f"{_literal(prefix)}*" for prefix in access.prefixes]}}
    return statement


def _key_statements(access: BucketAccess, actions: Sequence[str]) -> list[Document]:
    """Return statements for keys, and for aliases, which IAM takes in conditions alone."""
    arns = [_key_arn(key, access) for key in access.kms_keys] or [_key_arn("KEY", access)]
    keys = [arn for arn in arns if ":alias/" not in arn]
    via = {"kms:ViaService": f"s3.{access.region}.{dns_suffix_of(access.region)}"}
    found = []
    if keys:
        found.append(_statement("UseKey", actions, keys) | {"Condition": {"StringEquals": via}})
    for number, arn in enumerate(arn for arn in arns if ":alias/" in arn):
        owner, _, alias = arn.partition(":alias/")
        condition = {"StringEquals": via, "ForAnyValue:StringEquals": {"kms:ResourceAliases": f"alias/{alias}"}}
        sid = f"UseKeyByAlias{number or ''}"
        found.append(_statement(sid, actions, [f"{owner}:key/*"]) | {"Condition": condition})
    return found


def _key_arn(key: str, access: BucketAccess) -> str:
    if key.startswith("arn:"):
        return key
    name = key if key.startswith("alias/") else f"key/{key}"
    return f"arn:{access.partition}:kms:{access.region}:{access.principal.account_id}:{name}"


def _roles(access: BucketAccess) -> list[str]:
    named = dict.fromkeys(arn for arn in (access.role_arn, access.multipart_role_arn) if arn)
    return list(named) or [f"arn:{access.partition}:iam::{access.principal.account_id}:role/ROLE"]


def _whole_bucket(access: BucketAccess) -> list[str]:
    return [access.bucket_arn, f"{access.bucket_arn}/*"]


def _statement(sid: str, actions: Iterable[str], resources: Iterable[str]) -> Document:
    return {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": list(resources)}


def _policy(statements: Sequence[Document]) -> Document:
    return {"Version": VERSION, "Statement": list(statements)}


def _sorted(wanted: set[str], target: Target) -> list[str]:
    return sorted(name for name in wanted if PERMISSIONS[name].target == target)


def _outermost(prefixes: Iterable[str]) -> tuple[str, ...]:
    """Return the prefixes that lie below no other."""
    found: list[str] = []
    for prefix in sorted(set(prefixes)) or [""]:
        if not found or not prefix.startswith(found[-1]):
            found.append(prefix)
    return tuple(found)


def _literal(text: str) -> str:
    """Return text as IAM's patterns say it."""
    return _WILD.sub(lambda found: f"${{{found.group()}}}", text)
