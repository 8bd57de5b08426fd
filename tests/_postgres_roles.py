"""Roles of PostgreSQL that must log in with a password."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["login_role"]


@asynccontextmanager
async def login_role(postgres_url: str, password: str) -> AsyncIterator[str]:
    """Make a role within the block, and give the URL that it logs in with, in which ``${password}`` is to be filled."""
    name = f"scott_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    await connection.execute(f"GRANT ALL ON SCHEMA public TO {name}")
    rules = Path(await connection.fetchval("SHOW hba_file"))
    await asyncio.to_thread(lambda: rules.write_text(f"local all {name} scram-sha-256\n{rules.read_text()}"))
    await connection.fetchval("SELECT pg_reload_conf()")
    try:
        yield postgres_url.replace("//postgres@", f"//{name}:${{password}}@").replace(
            "//postgres:@", f"//{name}:${{password}}@"
        )
    finally:
        await connection.execute(f"DROP OWNED BY {name}")
        await connection.execute(f"DROP ROLE {name}")
        await connection.close()
