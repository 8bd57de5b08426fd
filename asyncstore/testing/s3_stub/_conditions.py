"""Conditional requests and ranges: pure decisions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from asyncstore.testing.s3_stub._messages import Answer, Behaviour, S3Error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore.testing.s3_stub._storage import StoredObject

__all__ = ["check_read", "check_write", "find_range"]

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def check_write(headers: Mapping[str, str], found: StoredObject | None, behaviour: Behaviour) -> None:
    """
    Check what a write demands of the object that it is about to replace.

    Raises:
        S3Error: the demand is not met.
    """
    if behaviour.ignores_conditions or not ("if-match" in headers or "if-none-match" in headers):
        return
    unless, only_if = (
        None if name in behaviour.ignored_conditions else headers.get(name) for name in ("if-none-match", "if-match")
    )
    if behaviour.conditions_status and (unless or only_if):
        raise S3Error(behaviour.conditions_status, "NotImplemented", "Conditions are not taken here")
    if unless and found is not None and _matches(unless, found.etag, behaviour):
        raise _refused()
    if only_if and found is None:
        raise S3Error(404, "NoSuchKey", "The specified key does not exist.")
    if only_if and found is not None and not _matches(only_if, found.etag, behaviour):
        raise _refused()


def check_read(headers: Mapping[str, str], found: StoredObject, behaviour: Behaviour) -> Answer | None:
    """
    Return the answer that replaces an unchanged object, if the reader has it already.

    Raises:
        S3Error: it is not the object that the reader wants.
    """
    unless, only_if = headers.get("if-none-match"), headers.get("if-match")
    if behaviour.ignores_conditions or not (unless or only_if):
        return None
    if only_if and not _matches(only_if, found.etag, behaviour):
        raise _refused()
    return Answer(304, b"", {"ETag": found.etag}) if unless and _matches(unless, found.etag, behaviour) else None


def find_range(given: str, size_bytes: int) -> tuple[int, int] | None:
    """
    Return start and end of a range, or ``None`` for what S3 does not take for a single one.

    Raises:
        S3Error: nothing of the object lies in it.
    """
    found = _RANGE.fullmatch(given)
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found[1], found[2]
    if not first:
        start, end = max(size_bytes - int(last), 0), size_bytes
    else:
        start, end = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
        if last and int(last) < start:
            return None
    if start >= size_bytes:
        whole = f"bytes */{size_bytes}"
        raise S3Error(416, "InvalidRange", "The requested range is not satisfiable", Content_Range=whole)
    return start, end


def _matches(given: str, etag: str, behaviour: Behaviour) -> bool:
    if given == "*" or (given == etag and behaviour.match_form in ("any", "quoted")):
        return True
    bare = etag.strip('"')
    forms: dict[str, set[str]] = {"any": {etag, bare}, "quoted": {etag}, "bare": {bare}, "none": set()}
    accepted = forms[behaviour.match_form]
    return any(one.strip() in accepted for one in given.split(","))


def _refused() -> S3Error:
    return S3Error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
