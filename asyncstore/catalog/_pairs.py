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

from asyncstore.catalog._scan import DEVICE, IDENTITY, INODE, SEEN, Identity
from asyncstore.catalog._scan import SIZE as FILE_SIZE
from asyncstore.objects.listed import ETAG, SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from asyncstore.catalog._patterns import Matcher
    from asyncstore.catalog._scan import Row as FileRow
    from asyncstore.objects.listed import Row as ObjectRow

__all__ = ["PAIRS_AT_ONCE", "PairsRow", "Same", "pair_of", "rows_of", "still_same"]

PAIRS_AT_ONCE = 1000
"""Pairs in one row; fewer are not worth it."""

_LARGEST = (1 << 63) - 1
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
        place: of the storage, see :func:`asyncstore.catalog._known.place_of`.
        root: what the keys begin with.
        folder: where the files lie, a real path.
        matcher: which of them.
    """
    patterns = [[pattern.text for pattern in side] for side in (matcher.patterns, matcher.excluded)]
    return hashlib.sha256(repr((place, root, folder, patterns)).encode()).hexdigest()[:32]


def rows_of(same: Same, files: Mapping[str, FileRow], objects: Mapping[str, ObjectRow]) -> Iterator[PairsRow]:
    """
    Yield rows that tell of files that are the same on both sides.

    Files that had changed just before they were seen are left out: they may change again without its showing.
    """
    names = [name for name in same if name in objects and objects[name][ETAG] and _is_settled(files[name])]
    for start in range(0, len(names), PAIRS_AT_ONCE):
        portion = names[start : start + PAIRS_AT_ONCE]
        identities = zip(*(files[name][:IDENTITY] for name in portion), strict=True)
        yield (
            "\0".join(portion),
            "\0".join(objects[name][ETAG] for name in portion),
            array("q", chain.from_iterable(identities)).tobytes(),
            bytes.fromhex("".join(same[name][1] for name in portion)),
        )


def still_same(rows: Iterable[PairsRow], files: Mapping[str, FileRow], objects: Mapping[str, ObjectRow]) -> Same:
    """Return those files of the rows that are as they were then, as are the objects of their names."""
    same: Same = {}
    for row in rows:
        names, etags, count = row[0].split("\0"), row[1].split("\0"), len(row[3]) // _DIGEST_BYTES
        if not len(names) == len(etags) == count == len(row[2]) // (IDENTITY * _NUMBER_BYTES):
            continue
        numbers, digests = array("q", row[2]), row[3].hex(" ", _DIGEST_BYTES).split(" ")
        identities = zip(*(numbers[start : start + count] for start in range(0, len(numbers), count)), strict=True)
        for name, etag, identity, digest in zip(names, etags, identities, digests, strict=True):
            file, there = files.get(name), objects.get(name)
            if file is not None and there is not None and file[:IDENTITY] == identity and there[ETAG] == etag:
                size_bytes = there[SIZE]
                if size_bytes == identity[FILE_SIZE]:
                    same[name] = size_bytes, digest
    return same


def _is_settled(file: FileRow) -> bool:
    """Tell whether a file may be remembered as it was seen."""
    small = file[DEVICE] <= _LARGEST and file[INODE] <= _LARGEST
    return small and not Identity(*file[:IDENTITY]).racy(file[SEEN])
