"""Removing what a bucket keeps of test objects that were replaced or deleted: versions, and delete markers."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from asyncstore.errors import AsyncStoreError

if TYPE_CHECKING:
    from asyncstore.bucket._check_requests import Answer, Requests

__all__ = ["remove_versions"]

_VERSION = re.compile(r"<(Version|DeleteMarker)>(.*?)</\1>", re.DOTALL)
_KEY = re.compile(r"<Key>([^<]*)</Key>")
_ID = re.compile(r"<VersionId>([^<]+)</VersionId>")


async def remove_versions(requests: Requests, begin: str) -> str:
    """Remove all versions of the objects whose keys begin so; return what stays and why, empty if nothing does."""
    what = f"old versions of {begin}, which the bucket keeps"
    try:
        answer = await requests.send("GET", query={"versions": "", "prefix": begin})
        if not answer.ok:
            return f"{what}: {_reason(answer, 's3:ListBucketVersions')}"
        stays, why = 0, ""
        for key, version in _versions_in(answer.text, begin):
            removed = await requests.send("DELETE", key, {"versionId": version})
            if not removed.ok and removed.status != 404:
                stays, why = stays + 1, _reason(removed, "s3:DeleteObjectVersion")
    except AsyncStoreError as error:
        return f"{what}: {error}"
    return f"{what}, {stays} in number: {why}" if stays else ""


def _versions_in(text: str, begin: str) -> list[tuple[str, str]]:
    found = [(_KEY.search(said), _ID.search(said)) for _, said in _VERSION.findall(text)]
    named = [(html.unescape(key[1]), html.unescape(version[1])) for key, version in found if key and version]
    # Not every server heeds what is asked for.
    return [(key, version) for key, version in named if key.startswith(begin)]


def _reason(answer: Answer, action: str) -> str:
    return f"{action} is not granted" if answer.denied else answer.code or f"HTTP {answer.status}"
