"""What the headers of a write say of its object: metadata, storage class, encryption, tags. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from asyncstore.testing.s3_stub._messages import Behaviour, S3Error
from asyncstore.testing.s3_stub._storage import Description

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["check_demands", "describe", "tags_of"]

_KEPT = {
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "content-type": "Content-Type",
    "expires": "Expires",
}
_OPTIONS = {
    "x-amz-storage-class",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-bucket-key-enabled",
    "x-amz-server-side-encryption-context",
}
_DEFAULT_TYPE = "binary/octet-stream"
_USER = "x-amz-meta-"

TAG_LIMIT = 10
_TAG_NAME = re.compile(r"[\w\s.:/=+\-@]{1,128}")
_TAG_VALUE = re.compile(r"[\w\s.:/=+\-@]{0,256}")


def describe(headers: Mapping[str, str], behaviour: Behaviour) -> Description:
    """
    Return what the headers of a write say of its object; any storage class is taken, since servers have their own.

    Raises:
        S3Error: tags are not usable.
    """
    kept = {"Content-Type": _DEFAULT_TYPE}
    options: dict[str, str] = {}
    for name, value in headers.items():
        if name.startswith(_USER):
            _keep_user(kept, name, value, behaviour)
        elif name in _KEPT:
            kept[_KEPT[name]] = value
        elif name in _OPTIONS:
            options[name] = value
    if "Content-Encoding" in kept:
        encoding = [one.strip() for one in kept.pop("Content-Encoding").split(",")]
        if real := ",".join(one for one in encoding if one and one != "aws-chunked"):
            kept["Content-Encoding"] = real
    given = headers.get("x-amz-tagging")
    pairs = parse_qsl(given, keep_blank_values=True) if given else ()
    return Description(kept, options, tags_of(pairs) if pairs else {})


def tags_of(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """
    Return tags by name.

    Raises:
        S3Error: there are too many, one is there twice, or S3 takes no such name or value.
    """
    if len(pairs) > TAG_LIMIT:
        raise S3Error(400, "BadRequest", "Object tags cannot be greater than 10")
    tags = dict(pairs)
    if len(tags) < len(pairs):
        raise S3Error(400, "InvalidTag", "Cannot provide multiple Tags with the same key")
    if not all(_TAG_NAME.fullmatch(name) and _TAG_VALUE.fullmatch(value) for name, value in pairs):
        raise S3Error(400, "InvalidTag", "The TagKey or TagValue you have provided is invalid")
    return tags


def check_demands(description: Description, behaviour: Behaviour) -> None:
    """
    Check what a bucket's policy demands of new objects.

    Raises:
        S3Error: the object is not encrypted or tagged as it must be.
    """
    wanted = behaviour.demanded_kms_key
    given = description.options.get("x-amz-server-side-encryption-aws-kms-key-id")
    encrypted = description.options.get("x-amz-server-side-encryption") == "aws:kms" and wanted in ("*", given)
    name, is_pair, value = behaviour.demanded_tag.partition("=")
    tagged = name in description.tags and (not is_pair or description.tags[name] == value)
    if (wanted and not encrypted) or (name and not tagged):
        raise S3Error(403, "AccessDenied", "Access Denied")


def _keep_user(kept: dict[str, str], name: str, value: str, behaviour: Behaviour) -> None:
    if behaviour.metadata == "kept":
        kept[name] = value
    elif behaviour.metadata == "renamed":
        kept[_USER + name.removeprefix(_USER).replace("-", "_")] = value
