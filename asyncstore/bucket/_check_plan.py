"""
What is to be checked of a bucket, and what each check needs to be allowed. Pure.

A check is denied if one of several permissions is missing, and S3 need not say which. What other checks were allowed to
do tells: whoever may read the description of an object, and not its bytes, lacks the key and not ``s3:GetObject``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncstore.bucket.documents import BucketAccess

if TYPE_CHECKING:
    from asyncstore._core.access import Access
    from asyncstore.aws.settings import AwsSettings

__all__ = ["MULTIPART", "OWN", "Plan", "Step", "plan_checks"]

OWN = "own"
"""Who does what no other role does."""
MULTIPART = "multipart role"
"""Who uploads in parts, where a role of its own does."""
_ASSUMING = "who assumes the multipart role"
"""Not the same permission as to assume another role."""

_NO_WRITES = "the configuration allows no writing"
_NO_READS = "the configuration allows no reading"


@dataclass(frozen=True, slots=True)
class Step:
    """One check."""

    name: str
    needs: tuple[str, ...] = ()
    """The IAM actions that it takes, the one that it is about first."""
    who: str = OWN
    """Whose permissions count."""
    skip: str = ""
    """Why it is not tried at all; empty if it is."""
    hidden: bool = False
    """Whether it only tells what another one lacks."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is checked of one bucket, in the order in which it is told."""

    bucket: str
    prefix: str
    """Empty, or ending in ``/``."""
    settings: AwsSettings
    origin: str
    steps: tuple[Step, ...]

    @property
    def access(self) -> BucketAccess:
        """What the configuration does with the bucket, for the statements that grant it."""
        settings = self.settings
        return BucketAccess(
            bucket=self.bucket,
            prefixes=(self.prefix,),
            region=settings.region,
            kms_keys=(settings.kms_key_arn,) if settings.kms_key_arn else (),
            object_tags=bool(settings.object_tags),
            role_arn=settings.role_arn,
            multipart_role_arn=settings.multipart_upload_role_arn,
        )

    def is_wanted(self, name: str) -> bool:
        """Tell whether a check is to be tried."""
        return any(step.name == name and not step.skip for step in self.steps)


def plan_checks(bucket: str, prefix: str, settings: AwsSettings, *, origin: str, access: Access) -> Plan:
    """
    Return what is to be checked.

    Args:
        bucket: its name.
        prefix: where test objects may be, empty or ending in ``/``.
        settings: how the bucket is used.
        origin: of web pages that are to be let in; empty if none are.
        access: what the configuration allows to be done.
    """
    steps = (
        *_steps_before(settings),
        *_writing_steps(settings, access),
        *_reading_steps(settings, access),
        *_multipart_steps(settings, access),
        *_setting_steps(origin),
        *_telling_steps(settings, access),
    )
    return Plan(bucket, prefix, settings, origin, steps)


def _steps_before(settings: AwsSettings) -> tuple[Step, ...]:
    no_role = "" if settings.role_arn else "no role_arn is configured"
    return Step("assume role", ("sts:AssumeRole",), skip=no_role), Step("region"), Step("clock")


def _writing_steps(settings: AwsSettings, access: Access) -> tuple[Step, ...]:
    write = _write(settings)
    skip = "" if access.allow_write else _NO_WRITES
    decrypt = _decrypt(settings)
    return (
        Step("put", write, skip=skip),
        Step("delete", ("s3:DeleteObject",), skip=skip),
        Step("conditional create", write, skip=skip),
        Step("conditional match", (*write, "s3:GetObject"), skip=skip),
        Step("checksum", write, skip=skip),
        Step("copy", (*write, "s3:GetObject", *decrypt), skip=skip),
        Step("kms", skip=skip or ("" if settings.kms_key_arn else "no kms_key_arn is configured")),
    )


def _reading_steps(settings: AwsSettings, access: Access) -> tuple[Step, ...]:
    skip = "" if access.allow_read else _NO_READS
    # A test object must be there to be read.
    of_object = skip or ("" if access.allow_write else _NO_WRITES)
    read = ("s3:GetObject", *_decrypt(settings))
    return (
        Step("list", ("s3:ListBucket",), skip=skip),
        Step("head", ("s3:GetObject",), skip=of_object),
        Step("absent key", ("s3:ListBucket", "s3:GetObject"), skip=skip),
        Step("get", read, skip=of_object),
        Step("range", read, skip=of_object),
    )


def _multipart_steps(settings: AwsSettings, access: Access) -> tuple[Step, ...]:
    skip = "" if access.allow_write else _NO_WRITES
    role = settings.multipart_upload_role_arn
    who = MULTIPART if role else OWN
    no_role = "" if role else "no multipart_upload_role_arn is configured"
    part = ("s3:PutObject", *_decrypt(settings))
    return (
        Step("assume multipart role", ("sts:AssumeRole",), _ASSUMING, skip or no_role),
        Step("multipart create", _write(settings), who, skip),
        Step("multipart part", part, who, skip),
        Step("multipart list parts", ("s3:ListMultipartUploadParts",), who, skip),
        Step("multipart complete", part, who, skip),
        Step("multipart abort", ("s3:AbortMultipartUpload",), who, skip),
        Step("multipart list", ("s3:ListBucketMultipartUploads",), who, skip),
    )


def _setting_steps(origin: str) -> tuple[Step, ...]:
    no_origin = "" if origin else "no origin is given (--origin https://app.example.com)"
    return Step("versioning"), Step("lifecycle"), Step("cors", skip=no_origin)


def _telling_steps(settings: AwsSettings, access: Access) -> tuple[Step, ...]:
    """Return puts that say less than ours do, which tell what a put that is denied lacks."""
    tags, key = _tagging(settings), _generate(settings)
    if not (tags or key) or not access.allow_write:
        return ()
    plain = Step("put without tags and key", ("s3:PutObject",), hidden=True)
    with_tags = Step("put without key", ("s3:PutObject", *tags), hidden=True)
    with_key = Step("put without tags", ("s3:PutObject", *key), hidden=True)
    return (plain, with_tags, with_key) if tags and key else (plain,)


def _write(settings: AwsSettings) -> tuple[str, ...]:
    return ("s3:PutObject", *_tagging(settings), *_generate(settings))


def _tagging(settings: AwsSettings) -> tuple[str, ...]:
    return ("s3:PutObjectTagging",) if settings.object_tags else ()


def _generate(settings: AwsSettings) -> tuple[str, ...]:
    return ("kms:GenerateDataKey",) if settings.kms_key_arn else ()


def _decrypt(settings: AwsSettings) -> tuple[str, ...]:
    return ("kms:Decrypt",) if settings.kms_key_arn else ()
