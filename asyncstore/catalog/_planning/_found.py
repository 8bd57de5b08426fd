"""What a run has, by name. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from asyncstore.catalog._packed._meta import PackedFiles
from asyncstore.objects.base import ObjectMeta
from asyncstore.objects.listed import described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncstore.objects.listed import Row

__all__ = ["Found"]

T = TypeVar("T")


class Found(Mapping[str, ObjectMeta]):
    """
    What was found of a run.

    Args:
        rows: what was listed, see :class:`asyncstore.objects.listed.Listed`.
        others: of which more is known than listings tell.
        packed: what is packed; no name is in two of these.
    """

    __slots__ = ("others", "packed", "rows")

    def __init__(
        self,
        rows: Mapping[str, Row] | None = None,
        others: Mapping[str, ObjectMeta] | None = None,
        packed: PackedFiles | None = None,
    ) -> None:
        self.rows: Mapping[str, Row] = {} if rows is None else rows
        self.others: Mapping[str, ObjectMeta] = {} if others is None else others
        self.packed = PackedFiles() if packed is None else packed

    @classmethod
    def of(cls, objects: Mapping[str, ObjectMeta]) -> Found:
        """Return objects as one of these."""
        return objects if isinstance(objects, Found) else cls(None, objects)

    def __repr__(self) -> str:
        return f"<Found {len(self.rows)} listed, {len(self.others)} others, {len(self.packed)} packed>"

    def __getitem__(self, name: str) -> ObjectMeta:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def get(self, name: str, default: Any = None) -> ObjectMeta | Any:
        """Return the object of that name; what a mapping does by itself takes ten times as long where there is none."""
        row = self.rows.get(name)
        if row is not None:
            return ObjectMeta(*row)
        return self.packed[name] if name in self.packed else self.others.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self.rows or name in self.others or name in self.packed

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(self.rows, self.others, self.packed)

    def __len__(self) -> int:
        return len(self.rows) + len(self.others) + len(self.packed)

    def __or__(self, others: Mapping[str, ObjectMeta]) -> Found:
        """Return these objects and others, which count where a name is in both."""
        if not others:
            return self
        more = Found.of(others)
        return Found(
            _joined(self.rows, more, more.rows),
            _joined(self.others, more, more.others),
            PackedFiles(more.packed.root or self.packed.root, _joined(self.packed.rows, more, more.packed.rows)),
        )

    def beside(self, packed: PackedFiles) -> Found:
        """Return these objects, of which none is packed, and what is packed and has no object of its name."""
        return Found(self.rows, self.others, packed.without(self))

    def as_dict(self) -> dict[str, ObjectMeta]:
        """Return all objects, for those who look at each of them: what ``dict`` would take three times as long for."""
        listed, packed = described([*self.rows.values()]), self.packed.described(self.packed)
        return {
            **dict(zip(self.rows, listed, strict=True)),
            **self.others,
            **dict(zip(self.packed, packed, strict=True)),
        }

    def only(self, wanted: Callable[[str], object]) -> Found:
        """Return those whose names ``wanted`` says yes to."""
        return Found(
            {name: row for name, row in self.rows.items() if wanted(name)},
            {name: meta for name, meta in self.others.items() if wanted(name)},
            self.packed.only(wanted),
        )


def _joined(found: Mapping[str, T], names: Found, more: Mapping[str, T]) -> Mapping[str, T]:
    """Return what was found without those names, and more."""
    if not found.keys().isdisjoint(names):
        found = {name: one for name, one in found.items() if name not in names}
    return {**found, **more} if more else found
