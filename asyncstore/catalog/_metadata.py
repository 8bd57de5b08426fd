"""
What an object's metadata say of its file. Pure.

``sha256`` is ours; ``mode`` (type and permission bits in octal) and ``mtime`` (seconds since the epoch, with a decimal
point) are written as rclone writes them (https://rclone.org/s3/#metadata), which thus shows the right times.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore.catalog._plan import PlannedFile
    from asyncstore.objects.base import ObjectMeta

__all__ = ["DIGEST_KEY", "MODE_KEY", "MTIME_KEY", "file_metadata", "mode_of", "mtime_ns_of", "stored_digest"]

DIGEST_KEY = "sha256"
MODE_KEY = "mode"
MTIME_KEY = "mtime"

_REGULAR = 0o100000
_NS = 1_000_000_000

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MODE = re.compile(r"(?:0?10[0-7]|[0-7])?([0-7]{3})")
"""Of a regular file, its last nine bits. Some write it in decimals, such as 33188: that is none."""
_SECONDS = re.compile(r"(-?\d{1,12})(?:\.(\d{1,9}))?")


def file_metadata(file: PlannedFile, digest: str) -> Mapping[str, str]:
    """Return what an object's metadata are to say of a file with that SHA-256."""
    metadata = {DIGEST_KEY: digest}
    if file.mode is not None:
        metadata[MODE_KEY] = f"{_REGULAR | file.mode:o}"
    if file.mtime_ns is not None:
        seconds, rest = divmod(file.mtime_ns, _NS)
        metadata[MTIME_KEY] = f"{seconds}.{rest:09}"
    return metadata


def stored_digest(meta: ObjectMeta) -> str:
    """Return the SHA-256 that an object's metadata hold, nothing if there is none."""
    found = meta.metadata.get(DIGEST_KEY, "")
    return found if _DIGEST.fullmatch(found) else ""


def mode_of(meta: ObjectMeta) -> int | None:
    """Return the permission bits that an object's file had, ``None`` if nothing says so; never setuid or the like."""
    found = _MODE.fullmatch(meta.metadata.get(MODE_KEY, ""))
    return int(found[1], 8) if found else None


def mtime_ns_of(meta: ObjectMeta) -> int | None:
    """Return when an object's file was modified, in nanoseconds since the epoch, ``None`` if nothing says so."""
    found = _SECONDS.fullmatch(meta.metadata.get(MTIME_KEY, ""))
    return int(found[1]) * _NS + int((found[2] or "").ljust(9, "0")) if found else None
