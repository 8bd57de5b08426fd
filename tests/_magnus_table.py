"""The table ``db_log`` as magnus makes it."""

from __future__ import annotations

__all__ = ["MAGNUS_POSTGRES", "MAGNUS_SQLITE"]

MAGNUS_SQLITE = """
CREATE TABLE db_log (
    pk INTEGER NOT NULL, run_id TEXT, attribute_key TEXT, attribute_type TEXT, attribute_value TEXT,
    created_at DATETIME, PRIMARY KEY (pk)
)
"""
MAGNUS_POSTGRES = """
CREATE SEQUENCE id_seq;
CREATE TABLE db_log (
    pk INTEGER NOT NULL, run_id TEXT, attribute_key TEXT, attribute_type TEXT, attribute_value TEXT,
    created_at TIMESTAMP WITHOUT TIME ZONE, PRIMARY KEY (pk)
)
"""
