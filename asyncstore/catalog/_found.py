"""What a run has, by name. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from asyncstore.objects.base import ObjectMeta
from asyncstore.objects.listed import described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncstore.objects.listed import Row

__all__ = ["Found"]


class Found(Mapping[str, ObjectMeta]):
    """
    What was found of a run.

    Args:
        rows: what was listed, see :class:`asyncstore.objects.listed.Listed`.
        others: of which more is known than listings tell; none of them is in ``rows``.
    """

    __slots__ = ("others", "rows")

    def __init__(self, rows: dict[str, Row] | None = None, others: Mapping[str, ObjectMeta] | None = None) -> None:
        self.rows: dict[str, Row] = {} if rows is None else rows
        self.others: Mapping[str, ObjectMeta] = {} if others is None else others

    @classmethod
    def of(cls, objects: Mapping[str, ObjectMeta]) -> Found:
        """Return objects as one of these."""
        return objects if isinstance(objects, Found) else cls(None, objects)

    def __repr__(self) -> str:
        return f"<Found {len(self.rows)} listed, {len(self.others)} others>"

    def __getitem__(self, name: str) -> ObjectMeta:
        row = self.rows.get(name)
        return self.others[name] if row is None else ObjectMeta(*row)

    def get(self, name: str, default: Any = None) -> ObjectMeta | Any:
        """Return the object of that name; what a mapping does by itself takes ten times as long where there is none."""
        row = self.rows.get(name)
        return self.others.get(name, default) if row is None else ObjectMeta(*row)

    def __contains__(self, name: object) -> bool:
        return name in self.rows or name in self.others

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(self.rows, self.others)

    def __len__(self) -> int:
        return len(self.rows) + len(self.others)

    def __or__(self, others: Mapping[str, ObjectMeta]) -> Found:
        """Return these objects and others, which count where a name is in both."""
        if not others:
            return self
        rows = self.rows
        if not rows.keys().isdisjoint(others):
            rows = {name: row for name, row in rows.items() if name not in others}
        return Found(rows, {**self.others, **others})

    def as_dict(self) -> dict[str, ObjectMeta]:
        """Return all objects, for those who look at each of them: what ``dict`` would take three times as long for."""
        return {**dict(zip(self.rows, described([*self.rows.values()]), strict=True)), **self.others}

    def only(self, wanted: Callable[[str], object]) -> Found:
        """Return those whose names ``wanted`` says yes to."""
        rows = {name: row for name, row in self.rows.items() if wanted(name)}
        return Found(rows, {name: meta for name, meta in self.others.items() if wanted(name)})
