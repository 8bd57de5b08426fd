"""Names of packs and indices. Pure."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from asyncstore.catalog._paths import RESERVED

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "PACKS",
    "PackedKey",
    "folders_down_to",
    "in_uploads",
    "index_name",
    "is_own",
    "pack_name",
    "parse",
    "stamp_of",
    "time_of",
    "upload_start",
]

PACKS = f"{RESERVED}/packs/"
"""Where the packs of a folder lie in it."""

_NAME = re.compile(r"(?P<stamp>\d{8}T\d{12}Z)-(?P<id>[0-9a-f]{16})(?:-(?P<number>\d{1,9})\.pack|\.index)")
_UPLOAD = re.compile(r"(?:\A|/)upload-[0-9a-f]{16}-[^/]*/")
_STAMP = "%Y%m%dT%H%M%S%fZ"


class PackedKey(NamedTuple):
    """What the key of a pack or an index says; of two indices, the one that sorts last counts."""

    stamp: str
    id: str
    """Of the put, 16 hexadecimal digits."""
    number: int | None
    """Of a pack; ``None`` for an index."""
    folder: str
    """What the keys of the files begin with that it is about; empty or ending in ``/``."""


def stamp_of(moment: datetime) -> str:
    """Return a time as names of indices hold it."""
    return moment.astimezone(UTC).strftime(_STAMP)


def time_of(stamp: str) -> datetime | None:
    """Return the time that a stamp stands for, ``None`` if it is none."""
    try:
        return datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def pack_name(stamp: str, put_id: str, number: int) -> str:
    """Return the name of a pack in its folder."""
    return f"{stamp}-{put_id}-{number}.pack"


def index_name(stamp: str, put_id: str) -> str:
    """Return the name of an index in its folder."""
    return f"{stamp}-{put_id}.index"


def parse(key: str) -> PackedKey | None:
    """Return what the key of a pack or index says, ``None`` for other keys."""
    folder, _, name = key.rpartition("/")
    if not is_own(key) or not f"/{folder}/".endswith(f"/{PACKS}"):
        return None
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    number = found["number"]
    return PackedKey(found["stamp"], found["id"], None if number is None else int(number), folder[: -len(PACKS) + 1])


def is_own(key: str) -> bool:
    """Tell whether a key lies in a folder of packs."""
    return PACKS in key and f"/{PACKS}" in f"/{key}"


def upload_start() -> str:
    """Return what the names of the files begin with that are uploaded by one form; no two forms have the same."""
    return f"upload-{secrets.token_hex(8)}-"


def in_uploads(folder: str) -> bool:
    """
    Tell whether a folder of a run, ending in ``/``, is one where only those who have a form would make packs.

    The policy of a form can say what a key begins with, and not what it must not hold after that.
    """
    return _UPLOAD.search(folder) is not None


def folders_down_to(folder: str) -> Iterator[str]:
    """Yield the folders on the way to ``folder`` (empty or ending in ``/``), from the top, with itself."""
    yield ""
    end = folder.find("/")
    while end >= 0:
        yield folder[: end + 1]
        end = folder.find("/", end + 1)
