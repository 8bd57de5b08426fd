"""
What a database holds of the table, and what that table lacks.

Opening a store asks for it each time, so it is one query of the catalog where SQLAlchemy's reflection takes seven on
Postgres and thirteen on SQLite.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from asyncstore.errors import ConfigurationError
from asyncstore.runlog.db._table import require_schemas

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Index, Table

__all__ = ["Present", "PresentIndex", "look"]

_ON_POSTGRES = """
SELECT NULL AS name, a.attname::text AS part, false AS is_unique, true AS is_whole, true AS is_valid,
       a.attnum::integer AS position
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = to_regclass(:table) AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT c.relname::text, coalesce(a.attname::text, ''), i.indisunique AND i.indimmediate, i.indpred IS NULL,
       i.indisvalid, k.position::integer
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(attnum, position)
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = to_regclass(:table) AND k.position <= i.indnkeyatts
ORDER BY 1, 6
"""
_ON_SQLITE = """
SELECT NULL AS name, name AS part, 0 AS is_unique, 1 AS is_whole, 1 AS is_valid, cid AS position
FROM pragma_table_info(:table)
UNION ALL
SELECT l.name, coalesce(i.name, ''), l."unique", 1 - l.partial, 1, i.seqno
FROM pragma_index_list(:table) AS l, pragma_index_info(l.name) AS i
ORDER BY 1, 6
"""


@dataclass(frozen=True, slots=True)
class PresentIndex:
    """An index of the table, or a unique constraint, which is one."""

    name: str
    columns: tuple[str, ...]
    """In order; ``""`` stands for an expression."""
    is_unique: bool
    is_whole: bool = True
    """Whether it covers all rows of the table."""
    is_valid: bool = True
    """Whether it was built to its end; Postgres keeps what ``CREATE INDEX CONCURRENTLY`` left half-done."""

    def serves_as(self, wanted: Index) -> bool:
        """Tell whether it does all that ``wanted`` would do."""
        columns = tuple(column.name for column in wanted.columns)
        is_partial = any(wanted.dialect_options[name]["where"] is not None for name in ("postgresql", "sqlite"))
        if not self.is_valid or not (self.is_whole or is_partial):
            return False
        if wanted.unique:
            return self.is_unique and sorted(self.columns) == sorted(columns)
        return self.columns == columns


@dataclass(frozen=True, slots=True)
class Present:
    """The table as it is there."""

    columns: frozenset[str]
    indexes: tuple[PresentIndex, ...]

    def missing_columns(self, table: Table) -> list[str]:
        """Return the columns of ``table`` that are not there."""
        return [column.name for column in table.columns if column.name not in self.columns]

    def missing_indexes(self, table: Table) -> list[Index]:
        """
        Return the indexes of ``table`` that no index does the work of, in the order of their names.

        Raises:
            ConfigurationError: an index that cannot do the work of one has its name.
        """
        wanted = sorted(table.indexes, key=lambda index: str(index.name))
        missing = [index for index in wanted if not any(present.serves_as(index) for present in self.indexes)]
        for index in missing:
            for present in self.indexes:
                if present.name == index.name:
                    raise ConfigurationError(_unfit(present, index))
        return missing


def look(connection: Connection, table: Table) -> Present | None:
    """
    Return what the database holds of ``table``, ``None`` if there is no such table.

    Raises:
        ConfigurationError: a schema is asked for on SQLite, which has none.
    """
    dialect = connection.dialect
    require_schemas(dialect.name, table.schema)
    if dialect.name == "sqlite":
        return _present(connection, _ON_SQLITE, table.name)
    if dialect.name == "postgresql":
        return _present(connection, _ON_POSTGRES, dialect.identifier_preparer.format_table(table))
    return _reflected(connection, table)


def _present(connection: Connection, query: str, name: str) -> Present | None:
    rows = connection.execute(text(query), {"table": name}).all()
    columns = frozenset(row.part for row in rows if row.name is None)
    indexes = []
    for key, parts in groupby((row for row in rows if row.name is not None), key=lambda row: row.name):
        listed = list(parts)
        first = listed[0]
        flags = (bool(first.is_unique), bool(first.is_whole), bool(first.is_valid))
        indexes.append(PresentIndex(key, tuple(part.part for part in listed), *flags))
    return Present(columns, tuple(indexes)) if columns else None


def _reflected(connection: Connection, table: Table) -> Present | None:
    inspector = inspect(connection)
    if not inspector.has_table(table.name, schema=table.schema):
        return None
    columns = frozenset(column["name"] for column in inspector.get_columns(table.name, schema=table.schema))

    def indexes() -> Iterator[PresentIndex]:
        for index in inspector.get_indexes(table.name, schema=table.schema):
            parts = tuple(name or "" for name in index["column_names"])
            yield PresentIndex(str(index["name"]), parts, bool(index["unique"]))
        for constraint in inspector.get_unique_constraints(table.name, schema=table.schema):
            yield PresentIndex(str(constraint["name"]), tuple(constraint["column_names"]), is_unique=True)

    return Present(columns, tuple(indexes()))


def _unfit(present: PresentIndex, wanted: Index) -> str:
    over = ", ".join(name or "an expression" for name in present.columns)
    is_there = f"{_kind(present.is_unique)} over ({over}){'' if present.is_whole else ' of some rows only'}"
    columns = ", ".join(column.name for column in wanted.columns)
    return (
        f"index {present.name} is {is_there}{'' if present.is_valid else ', and was not built to its end'}: "
        f"{_kind(bool(wanted.unique))} over ({columns}) needs that name, so drop it or rename it"
    )


def _kind(is_unique: bool) -> str:
    return "a unique index" if is_unique else "an index"
