r"""
Rows of the table and batches of them. Pure functions.

A row is one fragment. Its ``attribute_key`` is the fragment's name; that of a parameter in a branch's scope is
``<scope>\x1f<key>``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from asyncstore.runlog.fragments import Fragment, FragmentKey, Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

__all__ = [
    "Row",
    "RowKey",
    "Write",
    "first_writes",
    "fragment_key",
    "last_writes",
    "refused",
    "row_key",
    "rows_of",
    "stamps",
    "weight",
    "writes_of",
]

SEPARATOR = "\x1f"
ESCAPE = "\x1e"
"""Stands before a separator, or another of these, that is part of a scope's own name."""

WRITE_LIMIT_ROWS = 1000
WRITE_LIMIT_BYTES = 32 * 1024 * 1024
"""A statement's parameters exist several times over, in Python, on the wire and in the server."""

_ROW_WEIGHT_BYTES = 200
_SCOPED = re.compile(rf"((?:[^{ESCAPE}{SEPARATOR}]|{ESCAPE}.)*){SEPARATOR}(.*)", re.DOTALL)


_TYPES = {kind: kind.value for kind in Kind}


class RowKey(NamedTuple):
    """What the table's unique index is over."""

    run_id: str
    attribute_type: str
    attribute_key: str

    @property
    def path(self) -> str:
        """The key as one text, as errors carry it."""
        return "/".join(self)


class Row(NamedTuple):
    """One fragment as it is written."""

    key: RowKey
    attribute_value: str


Write: TypeAlias = tuple[Row, ...]
"""What one caller writes at once."""


def row_key(run_id: str, key: FragmentKey) -> RowKey:
    """Return the key of the row that holds a fragment."""
    kind, name, scope = key
    if scope or (kind is Kind.PARAMETER and SEPARATOR in name):
        scope = re.sub(f"([{ESCAPE}{SEPARATOR}])", rf"{ESCAPE}\1", scope)
        name = f"{scope}{SEPARATOR}{name}"
    return RowKey(run_id, _TYPES[kind], name)


def fragment_key(attribute_type: str, attribute_key: str) -> FragmentKey:
    """Return the key of the fragment that a row holds; the inverse of :func:`row_key`."""
    kind = Kind(attribute_type)
    scoped = _SCOPED.fullmatch(attribute_key) if kind is Kind.PARAMETER else None
    if scoped is None:
        return FragmentKey(kind, attribute_key)
    return FragmentKey(kind, scoped[2], re.sub(f"{ESCAPE}(.)", r"\1", scoped[1], flags=re.DOTALL))


def rows_of(run_id: str, fragments: Iterable[Fragment]) -> list[Row]:
    """Return the rows that hold ``fragments``, in their order."""
    return [Row(row_key(run_id, fragment.key), fragment.body.decode()) for fragment in fragments]


def writes_of(rows: Sequence[Row]) -> Iterator[Write]:
    """Cut ``rows`` into writes that a single statement can carry; nearly always it is one."""
    if len(rows) == 1:
        yield tuple(rows)
        return
    chunk: list[Row] = []
    size = 0
    for row in rows:
        size += weight((row,))
        if chunk and (len(chunk) == WRITE_LIMIT_ROWS or size > WRITE_LIMIT_BYTES):
            yield tuple(chunk)
            chunk, size = [], weight((row,))
        chunk.append(row)
    if chunk:
        yield tuple(chunk)


def weight(write: Write) -> int:
    """Return about how many bytes a write puts into a statement."""
    if len(write) == 1:
        return len(write[0].attribute_value) + _ROW_WEIGHT_BYTES
    return sum(len(row.attribute_value) + _ROW_WEIGHT_BYTES for row in write)


def last_writes(batch: Iterable[Write]) -> list[Row]:
    """Return each key's last row, at the place where the key first came."""
    return list({row.key: row for row in _flat(batch)}.values())


def first_writes(batch: Iterable[Write]) -> list[Row]:
    """Return each key's first row, in order."""
    rows: dict[RowKey, Row] = {}
    for row in _flat(batch):
        rows.setdefault(row.key, row)
    return list(rows.values())


def refused(batch: Iterable[Write], existing: Collection[RowKey]) -> list[frozenset[RowKey]]:
    """Tell each writer of :func:`first_writes` which of its keys were there, or another's before it in the batch."""
    taken = set(existing)
    answers = []
    for write in batch:
        keys = {row.key for row in write}
        answers.append(frozenset(keys & taken))
        taken |= keys
    return answers


def stamps(
    rows: Sequence[Row], latest: Mapping[str, datetime | None], now: datetime | None = None
) -> Iterator[tuple[Row, datetime]]:
    """
    Yield the rows in key order, each with its ``created_at`` (UTC without zone).

    Those of one batch are a microsecond apart in the order of ``rows``, and all lie after ``latest``, the newest of
    their run so far, so that a clock which was set back does no harm.
    """
    now = now or datetime.now(UTC).replace(tzinfo=None)
    tick = timedelta(microseconds=1)
    for position, row in sorted(enumerate(rows), key=lambda item: item[1].key):
        before = latest.get(row.key.run_id)
        base = now if before is None else max(now, before + tick)
        yield row, base + position * tick


def _flat(batch: Iterable[Write]) -> Iterator[Row]:
    return (row for write in batch for row in write)
