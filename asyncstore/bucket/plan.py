"""
What a bucket still lacks: pure functions from what is there and what is wanted to what is to be done.

What is there is said by S3's own answers, so that whatever they hold beside our part goes back as it came. Nothing that
is stricter than wanted is loosened, and nothing that others rely on is taken away, unless it is forced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from asyncstore.bucket.cors import check_origin
from asyncstore.errors import ConfigurationError

__all__ = ["ABORT_DAYS", "Answer", "Call", "Difference", "Verdict", "WantedBucket", "plan_access", "plan_encryption"]

Answer: TypeAlias = Mapping[str, Any]
"""What S3 says of one setting; empty if there is nothing of it."""

ABORT_DAYS = 7
"""Unfinished uploads are of use for a week: until then they are resumed."""

BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
KMS_ALGORITHMS = ("aws:kms", "aws:kms:dsse")

WHY_NO_VERSIONS = "run logs are rewritten all the time: every old version would be kept, and paid for"


class Verdict(StrEnum):
    """What is to be done about a setting."""

    FINE = "as wanted"
    CHANGE = "to change"
    KEPT = "kept"
    """It differs, and is stricter or somebody else's: it is changed by force alone."""
    LEFT = "not asked for"


@dataclass(frozen=True, slots=True)
class Call:
    """A request of botocore's S3 client that changes a setting; the bucket is added to its parameters."""

    operation: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting: how it is, how it is wanted, and what makes it so."""

    setting: str
    verdict: Verdict
    found: str
    wanted: str
    why: str = ""
    """Why it is wanted so, or is not changed."""
    call: Call | None = None
    """What changes it, with the verdict ``to change``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedBucket:
    """
    How a bucket is to be.

    Raises:
        ConfigurationError: an origin is none, or what expires is not said, or not when.
    """

    origins: tuple[str, ...] = ()
    """Pages of these may transfer by presigned requests; nothing is said about CORS without any."""
    kms_key: str = ""
    """ARN, id or alias of the KMS key that objects are encrypted with; empty for S3's own keys."""
    expire_days: int | None = None
    """Objects are deleted so many days after they were written; never without it."""
    expire_prefix: str = ""
    """What the keys of these objects begin with."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "origins", tuple(dict.fromkeys(map(check_origin, self.origins))))
        prefix = self.expire_prefix.strip("/")
        if (self.expire_days is None) != (not prefix):
            raise ConfigurationError("what expires, and when, is said together: --expire-days N --prefix PREFIX")
        if self.expire_days is not None and self.expire_days < 1:
            raise ConfigurationError(f"--expire-days must be 1 or more, not {self.expire_days}")
        object.__setattr__(self, "expire_prefix", f"{prefix}/" if prefix else "")


def plan_access(answer: Answer) -> Difference:
    """Block all public access."""
    said = answer.get("PublicAccessBlockConfiguration") or {}
    blocks = [name for name in BLOCKS if said.get(name)]
    found = (
        "blocked" if len(blocks) == len(BLOCKS) else f"{len(blocks)} of 4 blocks are on" if blocks else "not blocked"
    )
    if len(blocks) == len(BLOCKS):
        return Difference("public access", Verdict.FINE, found, "blocked")
    call = Call("put_public_access_block", {"PublicAccessBlockConfiguration": dict.fromkeys(BLOCKS, True)})
    return Difference("public access", Verdict.CHANGE, found, "blocked", "nobody gets in by an ACL or a policy", call)


def plan_versioning(answer: Answer, lock: Answer, *, force: bool) -> Difference:
    """Keep versioning off; where it is on, it is suspended by force alone, and under an object lock not at all."""
    status = str(answer.get("Status") or "")
    found = {"": "off", "Enabled": "on", "Suspended": "suspended"}.get(status, status)
    if status != "Enabled":
        return Difference("versioning", Verdict.FINE, found, found, WHY_NO_VERSIONS)
    if is_locked(lock):
        why = "object lock needs it; run logs are better kept in another bucket, for they are rewritten all the time"
        return Difference("versioning", Verdict.KEPT, found, "suspended", why)
    if not force:
        return Difference(
            "versioning",
            Verdict.KEPT,
            found,
            "suspended",
            f"{WHY_NO_VERSIONS}; but somebody may rely on them: --force suspends it",
        )
    call = Call("put_bucket_versioning", {"VersioningConfiguration": {"Status": "Suspended"}})
    why = f"{WHY_NO_VERSIONS}; those that are there stay until a lifecycle rule removes them"
    return Difference("versioning", Verdict.CHANGE, found, "suspended", why, call)


def plan_lock(answer: Answer) -> Difference:
    """Object lock is never touched; where it is on, what that means."""
    if not is_locked(answer):
        return Difference("object lock", Verdict.FINE, "off", "off")
    default = (answer["ObjectLockConfiguration"].get("Rule") or {}).get("DefaultRetention") or {}
    unit = "days" if default.get("Days") else "years"
    found = f"on, {default.get('Days') or default.get('Years')} {unit} for each object" if default else "on"
    why = "it is left as it is: runs cannot be deleted for good while it holds"
    return Difference("object lock", Verdict.KEPT, found, "off", why)


def plan_encryption(answer: Answer, wanted: WantedBucket, *, force: bool) -> Difference:
    """Encrypt by S3's keys, or by a KMS key with a bucket key; what is stronger, or somebody's key, stays."""
    rules = (answer.get("ServerSideEncryptionConfiguration") or {}).get("Rules") or [{}]
    rule = rules[0]
    said = rule.get("ApplyServerSideEncryptionByDefault") or {}
    algorithm, key = str(said.get("SSEAlgorithm") or ""), str(said.get("KMSMasterKeyID") or "")
    found = _encryption(algorithm, key, bucket_key=bool(rule.get("BucketKeyEnabled")))
    aimed = "aws:kms" if wanted.kms_key else "AES256"
    goal = _encryption(aimed, wanted.kms_key, bucket_key=bool(wanted.kms_key))
    against = _against(algorithm, aimed)
    if algorithm == aimed == "aws:kms":
        against = _against_key(key, wanted.kms_key, bucket_key=bool(rule.get("BucketKeyEnabled")))
    if algorithm == aimed and not against:
        return Difference("encryption", Verdict.FINE, found, found)
    if against and not force:
        return Difference("encryption", Verdict.KEPT, found, goal, against)
    default = {"SSEAlgorithm": aimed, **({"KMSMasterKeyID": wanted.kms_key} if wanted.kms_key else {})}
    changed = {
        **rule,
        "ApplyServerSideEncryptionByDefault": default,
        "BucketKeyEnabled": bool(wanted.kms_key),
    }
    call = Call("put_bucket_encryption", {"ServerSideEncryptionConfiguration": {"Rules": [changed]}})
    why = "of what is written from now on; a bucket key saves calls to KMS" if wanted.kms_key else ""
    return Difference("encryption", Verdict.CHANGE, found, goal, why, call)


def is_locked(answer: Answer) -> bool:
    """Tell whether objects of the bucket can be locked."""
    return (answer.get("ObjectLockConfiguration") or {}).get("ObjectLockEnabled") == "Enabled"


def _against(algorithm: str, aimed: str) -> str:
    """Return why an algorithm is not to be replaced by another, empty if nothing is against it."""
    # What is not known may be stronger than anything.
    ranks = {"": 0, "AES256": 1, "aws:kms": 2}
    stronger = ranks.get(algorithm, 3) > ranks[aimed]
    return "it is stronger than what is wanted: --force replaces it" if stronger else ""


def _against_key(found: str, wanted: str, *, bucket_key: bool) -> str:
    """Return why a key with its setting is not to be replaced, empty if it is as wanted."""
    if not (_names(found, wanted) or _names(wanted, found)):
        return "another key is there, by which others may read and be billed: --force replaces it"
    return "" if bucket_key else "its bucket key is off, which shows each use of the key: --force turns it on"


def _names(long: str, short: str) -> bool:
    """Tell whether both name one key, of which the second may be an id or an alias alone."""
    return long == short or bool(short and long.endswith((f":key/{short}", f":{short}")))


def _encryption(algorithm: str, key: str, *, bucket_key: bool) -> str:
    if algorithm not in KMS_ALGORITHMS:
        return {"": "off", "AES256": "SSE-S3"}.get(algorithm, algorithm)
    name = {"aws:kms": "SSE-KMS", "aws:kms:dsse": "DSSE-KMS"}[algorithm]
    return f"{name} by {key or 'the key of the account'}, bucket key {'on' if bucket_key else 'off'}"
