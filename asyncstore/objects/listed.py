"""
Objects of a listing.

There may be very many, and most of them are of interest only to be told from others. So they are held as plain tuples
of plain values, which Python's garbage collector leaves alone, and described one by one when somebody asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Final, TypeAlias, overload

from asyncstore._core.instances import instances
from asyncstore.objects.base import ObjectMeta

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

__all__ = ["ETAG", "KEY", "SIZE", "Listed", "Row", "described"]

Row: TypeAlias = "tuple[str, int, str, datetime]"
"""Key, size in bytes, ETag and time of an object, in the order of :class:`ObjectMeta`."""

KEY: Final = 0
SIZE: Final = 1
ETAG: Final = 2

_NO_METADATA: Mapping[str, str] = {}
_COLUMNS = ("key", "size_bytes", "etag", "modified_at")


class Listed(Sequence[ObjectMeta]):
    """
    Some objects as they were listed, in the order of the listing.

    Args:
        rows: what is said of each.
    """

    __slots__ = ("rows",)

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    @classmethod
    def of(cls, objects: Iterable[ObjectMeta]) -> Listed:
        """Return objects without their metadata, which listings of S3 do not tell."""
        if isinstance(objects, cls):
            return objects
        return cls([(one.key, one.size_bytes, one.etag, one.modified_at) for one in objects])

    def __repr__(self) -> str:
        return f"<Listed {len(self.rows)} objects>"

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> ObjectMeta: ...

    @overload
    def __getitem__(self, index: slice) -> Listed: ...

    def __getitem__(self, index: int | slice) -> ObjectMeta | Listed:
        return Listed(self.rows[index]) if isinstance(index, slice) else ObjectMeta(*self.rows[index])

    def __iter__(self) -> Iterator[ObjectMeta]:
        return iter(described(self.rows))


def described(rows: Sequence[Row]) -> list[ObjectMeta]:
    """Return the objects of rows, all at once: at a quarter of what it costs to make them one by one."""
    columns = dict(zip(_COLUMNS, zip(*rows, strict=True), strict=bool(rows)))
    return instances(ObjectMeta, len(rows), {**columns, "metadata": repeat(_NO_METADATA)})
