"""
Statements that list runs. Pure.

Status and tag stand in the JSON of a header, and there the database looks. It decides what it can for certain: a text,
null, a key that is missing. A header that it cannot read, or whose status or tag is no text, it hands over, and Python
decides: JSON of other tools holds ``NaN`` and lone surrogates, which Python reads and databases refuse, and Python has
its own words for numbers and truth values.

Runs whose ``created_at`` is null, which only other tools leave so, come last; as Postgres would put them first, they
have a statement of their own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, ColumnElement, literal, select, text, type_coerce

from asyncstore.runlog.fragments import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Select, Table
    from sqlalchemy.engine import Dialect

    from asyncstore.runlog._queries import RunQuery

__all__ = ["COLUMNS", "dated", "filters", "undated", "wants_undated"]

COLUMNS = ("run_id", "attribute_type", "attribute_key", "attribute_value", "created_at")

_EPOCH = datetime.fromtimestamp(0, UTC)
"""What a listing takes for the time of a run without one."""

_ON_POSTGRES = """
CASE WHEN {readable} THEN
    CASE json_typeof(attribute_value::json -> '{key}')
        WHEN 'string' THEN attribute_value::json ->> '{key}' = :{key}
        WHEN 'null' THEN {null}
        ELSE attribute_value::json -> '{key}' IS NOT NULL OR {missing}
    END
ELSE true END
"""
_STORABLE = "(strpos(attribute_value, '\\u') = 0 OR attribute_value !~ '\\\\u(0000|[dD][89a-fA-F])')"
"""
``->>`` fails on escapes that no text of Postgres can hold, wherever in the JSON they stand. A search for escapes at all
takes a fourth of the time.
"""
_READABLE = f"attribute_value IS JSON AND {_STORABLE}"
_READABLE_BEFORE_16 = f"attribute_value ~ '^\\s*\\{{' AND {_STORABLE}"
"""``IS JSON`` is not known there, so the statement may fail on a header that is broken, and Python must decide."""

_ON_SQLITE = """
CASE WHEN json_valid(attribute_value) THEN
    CASE json_type(attribute_value, '$.{key}')
        WHEN 'text' THEN json_extract(attribute_value, '$.{key}') = :{key}
        WHEN 'null' THEN {null}
        ELSE json_type(attribute_value, '$.{key}') IS NOT NULL OR {missing}
    END
ELSE true END
"""


def filters(query: RunQuery, dialect: Dialect) -> list[ColumnElement[bool]] | None:
    """
    Return conditions that all runs of the wanted status and tag meet, and hardly any others.

    ``None`` means that this database cannot tell them.
    """
    wanted = {key: value for key, value in (("status", query.status), ("tag", query.tag)) if value is not None}
    template = _template(dialect) if wanted else ""
    if template is None or not all(map(_is_storable, wanted.values())):
        return None
    return [_condition(template, key, value) for key, value in wanted.items()]


def dated(table: Table, query: RunQuery, conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """Select the headers of runs that have a time of creation, newest first."""
    created_at = table.c.created_at
    statement = _headers(table, conditions).where(created_at.is_not(None))
    if query.since is not None:
        statement = statement.where(created_at >= _naive(query.since))
    if query.until is not None:
        statement = statement.where(created_at < _naive(query.until))
    return statement.order_by(created_at.desc(), table.c.run_id.desc())


def wants_undated(query: RunQuery) -> bool:
    """Tell whether runs without a time of creation lie within the query's times."""
    return (query.since is None or query.since <= _EPOCH) and (query.until is None or query.until > _EPOCH)


def undated(table: Table, conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """Select the headers of runs that have no time of creation."""
    return _headers(table, conditions).where(table.c.created_at.is_(None)).order_by(table.c.run_id.desc())


def _headers(table: Table, conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
    # The kind stands in the statement itself, or the index over headers alone would not be used.
    header = table.c.attribute_type == literal(Kind.RUN_LOG.value, literal_execute=True)
    return select(*(table.c[name] for name in COLUMNS)).where(header, *conditions)


def _template(dialect: Dialect) -> str | None:
    if dialect.name == "sqlite":
        return _ON_SQLITE
    if dialect.name == "postgresql":
        version = getattr(dialect, "server_version_info", None) or (0,)
        return _ON_POSTGRES.replace("{readable}", _READABLE if version >= (16,) else _READABLE_BEFORE_16)
    return None


def _condition(template: str, key: str, value: str) -> ColumnElement[bool]:
    # What summaries say of a run that says nothing.
    null = value == ("None" if key == "status" else "")
    sql = template.replace("{key}", key).replace("{null}", str(null).lower())
    clause = text(sql.replace("{missing}", str(value == "").lower())).bindparams(**{key: value})
    return type_coerce(clause.self_group(), Boolean)


def _is_storable(wanted: str) -> bool:
    """Tell whether a database can be asked for a text: not for one with NUL or half of a surrogate pair."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in wanted)


def _naive(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)
