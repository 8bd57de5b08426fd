"""
Files and objects that were the same, as they were then. Pure.

What the tables of files and of objects tell of one file in two rows, these rows tell of a thousand at once. So where
nothing has changed since the last look it takes a quarter of the time to find that out.
"""

from __future__ import annotations

import hashlib
from array import array
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from asyncstore.catalog._local._files import IDENTITY, MTIME
from asyncstore.catalog._local._files import SIZE as FILE_SIZE
from asyncstore.objects.listed import ETAG, SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from asyncstore.catalog._local._files import Row as FileRow
    from asyncstore.catalog._patterns import Matcher
    from asyncstore.objects.listed import Row as ObjectRow

__all__ = ["PAIRS_AT_ONCE", "PairsRow", "Same", "pair_of", "rows_of", "still_same"]

PAIRS_AT_ONCE = 1000
"""Pairs in one row; fewer are not worth it."""

_DIGEST_BYTES = 32
_NUMBER_BYTES = 8

Same: TypeAlias = "dict[str, tuple[int, str]]"
"""Size in bytes and SHA-256 in hex of files that are the same on both sides, by name."""

PairsRow: TypeAlias = "tuple[str, str, bytes, bytes]"
"""Names, and ETags of objects, each in one text; identities of files, field by field, and digests."""


def pair_of(place: str, root: str, folder: str, matcher: Matcher) -> str:
    """
    Return what stands for what is compared: a short hash.

    Args:
        place: of the storage, see :func:`asyncstore.catalog._cache._known.place_of`.
        root: what the keys begin with.
        folder: where the files lie, a real path.
        matcher: which of them.
    """
    patterns = [[pattern.text for pattern in side] for side in (matcher.patterns, matcher.excluded)]
    return hashlib.sha256(repr((place, root, folder, patterns)).encode()).hexdigest()[:32]


def rows_of(same: Same, files: Mapping[str, FileRow], objects: Mapping[str, ObjectRow]) -> Iterator[PairsRow]:
    """Yield rows that tell of files that are the same as the objects of their names."""
    names = list(same)
    for start in range(0, len(names), PAIRS_AT_ONCE):
        portion = names[start : start + PAIRS_AT_ONCE]
        fields = list(zip(*(files[name][:IDENTITY] for name in portion), strict=True))
        numbers = array("Q", chain(*fields[:MTIME])).tobytes() + array("q", chain(*fields[MTIME:])).tobytes()
        digests = bytes.fromhex("".join(same[name][1] for name in portion))
        yield "\0".join(portion), "\0".join(objects[name][ETAG] for name in portion), numbers, digests


def still_same(rows: Iterable[PairsRow], files: Mapping[str, FileRow], objects: Mapping[str, ObjectRow]) -> Same:
    """Return those files of the rows that are as they were then, as are the objects of their names."""
    same: Same = {}
    for row in rows:
        names, etags = row[0].split("\0"), row[1].split("\0")
        count = len(names)
        if (len(etags), len(row[2]), len(row[3])) != (count, count * IDENTITY * _NUMBER_BYTES, count * _DIGEST_BYTES):
            continue
        for name, etag, identity, digest in zip(
            names, etags, _identities(row[2], count), row[3].hex(" ", _DIGEST_BYTES).split(" "), strict=True
        ):
            file, there = files.get(name), objects.get(name)
            if file is not None and there is not None and file[:IDENTITY] == identity and there[ETAG] == etag:
                size_bytes = there[SIZE]
                if size_bytes == identity[FILE_SIZE]:
                    same[name] = size_bytes, digest
    return same


def _identities(numbers: bytes, count: int) -> Iterator[tuple[int, ...]]:
    view = memoryview(numbers)
    cut = MTIME * count * _NUMBER_BYTES
    # Times may lie before 1970, and a network's file system may number its files up to the last bit.
    columns = [
        fields[start : start + count]
        for fields in (view[:cut].cast("Q"), view[cut:].cast("q"))
        for start in range(0, len(fields), count)
    ]
    return zip(*columns, strict=True)
