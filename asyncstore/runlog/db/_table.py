"""
The table ``db_log``: its definition, and the SQL that follows from it.

The columns are those of magnus. What magnus' table lacks are the indexes: a unique one over (run_id, attribute_type,
attribute_key), on which every write relies; one over (run_id, created_at), for reading a run in order; and one for
listing runs. None is over ``attribute_value``, not even an expression for status or tag: Postgres rewrites a row in
place, and leaves all indexes alone, only as long as no indexed column changes, and that one changes each time.

MySQL cannot index Text columns: there the three names are ``VARCHAR``, of 200, 20 and 540 characters, which is as much
as its indexes hold, and compare byte by byte (other collations take ``a`` and ``A`` for one name).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Column, DateTime, Index, Integer, MetaData, Sequence, Table, Text, text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateSequence, CreateTable

from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Dialect
    from sqlalchemy.schema import ExecutableDDLElement

__all__ = [
    "UNIQUE",
    "definitions",
    "log_table",
    "require_schemas",
    "select_duplicates",
    "table_sql",
    "without_duplicates",
]

UNIQUE = ("run_id", "attribute_type", "attribute_key")
"""The columns of the unique index."""

_NAMED = " AND ".join(f"{name} IS NOT NULL" for name in UNIQUE)
"""Rows that lack a name are nobody's part of a run, and no unique index takes two of them for the same."""

_HEAD = {
    "postgresql": "-- The run log of asyncstore on PostgreSQL. Harmless to repeat.",
    "sqlite": "-- The run log of asyncstore on SQLite. Harmless to repeat.",
    "mysql": "-- The run log of asyncstore on MySQL. It has no CREATE INDEX IF NOT EXISTS: run that part once.",
}
_DUPLICATES = """
A table that an older tool made may hold parts of runs more than once, and then takes no unique index.
This finds them:
""".strip()
_KEEPING = "and this keeps the last row of each:"
_BUILDING = """
While an index is built, nobody can write to the table. On a large one in use, write CREATE INDEX CONCURRENTLY
and run each statement by itself, outside of a transaction.
""".strip()
_GRANTS = "All that the role of those who write and read runs needs, here called pipelines:"

_DIALECTS = {"postgresql": postgresql.dialect, "sqlite": sqlite.dialect, "mysql": mysql.dialect}


def log_table(schema: str | None = None) -> Table:
    """Return the definition of the table, with its indexes."""
    metadata = MetaData(schema=schema or None)
    table = Table(
        "db_log",
        metadata,
        Column("pk", Integer, Sequence("id_seq", metadata=metadata), primary_key=True),
        Column("run_id", _text(mysql.VARCHAR(200, collation="utf8mb4_bin"))),
        Column("attribute_key", _text(mysql.VARCHAR(540, collation="utf8mb4_bin"))),
        Column("attribute_type", _text(mysql.VARCHAR(20, collation="utf8mb4_bin"))),
        Column("attribute_value", _text(mysql.LONGTEXT(collation="utf8mb4_bin"))),
        Column("created_at", DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")),
    )
    Index("db_log_fragment", *(table.c[name] for name in UNIQUE), unique=True)
    Index("db_log_order", table.c.run_id, table.c.created_at)
    headers = text("attribute_type = 'RunLog'")
    Index("db_log_runs", table.c.created_at, table.c.run_id, postgresql_where=headers, sqlite_where=headers)
    return table


def definitions(table: Table, dialect: Dialect, *, repeatable: bool = False) -> list[ExecutableDDLElement]:
    """
    Return the statements that make the table and all that belongs to it where there is nothing yet.

    Args:
        table: of :func:`log_table`.
        dialect: whose words they are in.
        repeatable: pass over indexes whose names are taken. It says nothing of whose they are.
    """
    sequences = table.metadata._sequences.values() if dialect.supports_sequences else ()
    # MySQL takes the clause for tables alone.
    repeatable = repeatable and dialect.name != "mysql"
    indexes = sorted(table.indexes, key=lambda index: str(index.name))
    return [
        *(CreateSequence(sequence, if_not_exists=True) for sequence in sequences),
        CreateTable(table, if_not_exists=True),
        *(CreateIndex(index, if_not_exists=repeatable) for index in indexes),
    ]


def select_duplicates(table: str, number: str = "count(*)") -> str:
    """Return the query for the parts of runs that stand in a table more than once: one pass over it, in three lines."""
    keys = ", ".join(UNIQUE)
    return (
        f"SELECT {keys}, {number} AS number FROM {table}\nWHERE {_NAMED}\n"
        f"GROUP BY {keys} HAVING count(*) > 1 ORDER BY {keys}"
    )


def without_duplicates(table: str) -> str:
    """Return the statement that keeps the last row of each part of a run, in four lines."""
    return (
        f"DELETE FROM {table} WHERE pk IN (SELECT pk FROM\n"
        f"(SELECT pk, row_number() OVER (PARTITION BY {', '.join(UNIQUE)} ORDER BY pk DESC) AS place\n"
        f"FROM {table} WHERE {_NAMED}\n) AS numbered WHERE place > 1)"
    )


def table_sql(dialect: str, schema: str = "") -> str:
    """
    Return what :func:`create_tables` executes on an empty database, as a script for people who must run it themselves.

    Args:
        dialect: ``postgresql``, ``sqlite`` or ``mysql``.
        schema: the schema that the table is to lie in; empty means the database's default.

    Raises:
        ConfigurationError: there is no such dialect here, or it has no schemas.
    """
    if dialect not in _DIALECTS:
        raise ConfigurationError(f"dialect {dialect!r} is not known; known are {', '.join(_DIALECTS)}")
    require_schemas(dialect, schema)
    speaking: Dialect = _DIALECTS[dialect]()
    table = log_table(schema)
    statements = [_formatted(element, speaking) for element in definitions(table, speaking, repeatable=True)]
    making, indexes = statements[: -len(table.indexes)], statements[-len(table.indexes) :]
    names = speaking.identifier_preparer
    name = names.format_table(table)
    duplicates = (
        f"{_DUPLICATES}\n{_indented(select_duplicates(name))}\n{_KEEPING}\n{_indented(without_duplicates(name))}"
    )
    parts = [_HEAD[dialect], *making, _commented(duplicates)]
    if dialect == "postgresql":
        parts.append(_commented(_BUILDING))
    parts.append("\n".join(indexes))
    grants = [f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO pipelines"]
    if dialect == "postgresql":
        sequence = names.format_sequence(next(iter(table.metadata._sequences.values())))
        grants.insert(0, f"GRANT USAGE ON SCHEMA {names.quote_schema(schema or 'public')} TO pipelines")
        grants.append(f"GRANT USAGE ON SEQUENCE {sequence} TO pipelines")
    if dialect != "sqlite":
        parts.append(_commented("\n".join([_GRANTS, _indented(";\n".join(grants))])))
    return "\n\n".join(parts) + "\n"


def require_schemas(dialect: str, schema: str | None) -> None:
    """
    Check that a database can have the schema that is wanted, if one is.

    Raises:
        ConfigurationError: it cannot.
    """
    if schema and dialect == "sqlite":
        raise ConfigurationError(f"schema {schema!r}: SQLite has no schemas; take another file instead")


def _formatted(element: ExecutableDDLElement, dialect: Dialect) -> str:
    lines = str(element.compile(dialect=dialect)).strip().splitlines()
    return "\n".join(line.replace("\t", "    ").rstrip() for line in lines) + ";"


def _indented(statement: str) -> str:
    return "\n" + "\n".join(f"  {line}" for line in statement.splitlines()) + ";\n"


def _commented(text: str) -> str:
    return "\n".join(f"-- {line}".rstrip() for line in text.strip().splitlines())


def _text(on_mysql: mysql.VARCHAR | mysql.LONGTEXT) -> Text:
    return Text().with_variant(on_mysql, "mysql", "mariadb")
