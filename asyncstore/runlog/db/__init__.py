"""Run logs in a SQL database: :class:`DBRunLogStore`, and :func:`create_tables`, which makes what it needs."""

from __future__ import annotations

from asyncstore.runlog.db._schema import create_tables
from asyncstore.runlog.db._table import table_sql
from asyncstore.runlog.db.store import DBRunLogStore

__all__ = ["DBRunLogStore", "create_tables", "table_sql"]
