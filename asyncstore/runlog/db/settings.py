"""The configuration keys of the ``db`` run log."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field, SecretStr

from asyncstore._core.settings import Settings

__all__ = ["DBSettings", "Durability", "EngineSettings"]

Durability: TypeAlias = Literal["full", "relaxed"]


class EngineSettings(Settings):
    """How the database is to be used."""

    pgbouncer: bool = False
    """
    Whether the connection string leads to a pgbouncer in transaction mode, or another pooler that gives each
    transaction whichever connection is free. Then no statement is kept prepared, each one runs in a transaction,
    nothing is set for longer than that, and connections are not pooled a second time.
    """
    pool_size: int = Field(default=5, ge=2)
    """
    Connections to keep open; twice as many at most are opened under load. On Postgres the writer keeps one of them for
    itself, and watching takes one more, which is not counted. With ``pgbouncer`` none is kept but the writer's. On
    SQLite it counts readers alone.
    """
    durability: Durability = "full"
    """
    ``full``: an awaited write is on the disk of the database when it returns; on Postgres also if the server, the
    database or the role has ``synchronous_commit`` off. ``relaxed`` gives that guarantee up: a crash of the server (on
    SQLite, of the machine) may lose the last writes, though acknowledged; what is left is never torn or out of order.
    It sets ``synchronous_commit=off`` on Postgres, ``synchronous=NORMAL`` on SQLite, and is refused elsewhere.
    """


class DBSettings(EngineSettings):
    """Where the run logs lie."""

    connection_string: SecretStr
    """
    URL of the database, as for SQLAlchemy: ``postgresql://user:${password}@host/name``, ``sqlite:///path``. ``${name}``
    is filled from the secrets when the store opens, quoted as a URL needs it.
    """
    table_schema: str = Field(default="", alias="schema")
    """Schema that the table lies in; empty means the database's default."""
