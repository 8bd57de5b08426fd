"""The databases that are measured, on this machine's disk, and what that disk takes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from asyncstore import create_tables
from asyncstore.testing.postgres import postgres_server
from harness.database_peers import file_of
from harness.machine import family_cpu_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POSTGRES, SQLITE = "postgres", "sqlite"
DATABASES = (POSTGRES, SQLITE)

PROBES = 200
PAGE_BYTES = 8192

_LOGGED = re.compile(r"LOG:  (?:statement|execute [^:]*): (.*)")


@dataclass(frozen=True, slots=True)
class DatabaseTarget:
    """A database with the tables of asyncstore, whose commits are flushed to the disk."""

    kind: str
    name: str
    url: str
    """As asyncstore takes it."""
    folder: Path
    """Where its files lie."""
    pid: int | None
    """The server's first process; ``None`` without a server."""

    @property
    def cores(self) -> int:
        """How many cores the server can use."""
        return os.cpu_count() or 1

    def reset_count(self) -> None:
        """Do nothing: statements are not counted while time is measured."""

    def request_count(self) -> int | None:
        """Return ``None``: statements are not counted while time is measured."""
        return None

    def cpu_s(self) -> float | None:
        """Return the CPU seconds that the server has spent so far, ``None`` without one."""
        return None if self.pid is None else family_cpu_s(self.pid)

    def run(self, *statements: str) -> list[Any]:
        """Execute statements one after the other, each its own transaction, and return the first column of the last."""
        if self.kind == POSTGRES:
            return asyncio.run(_execute(self.url, *statements))
        with contextlib.closing(sqlite3.connect(file_of(self.url), timeout=60, isolation_level=None)) as lite:
            rows = [lite.execute(statement).fetchall() for statement in statements]
        return [row[0] for row in rows[-1]]

    def clear(self) -> None:
        """Empty the table and settle what was written, so that everybody finds the same."""
        if self.kind == SQLITE:
            self.run("DELETE FROM db_log", "PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            self.run("TRUNCATE db_log", "CHECKPOINT")

    def another(self, name: str) -> DatabaseTarget:
        """Make a further database beside this one, with its tables."""
        if self.kind == POSTGRES:
            self.run(f"CREATE DATABASE {name}")
            url = self.url.replace("/postgres?", f"/{name}?")
        else:
            url = f"sqlite:///{self.folder}/{name}.db"
        asyncio.run(create_tables(url))
        return replace(self, url=url)

    @contextlib.contextmanager
    def statements_logged(self) -> Iterator[Path]:
        """
        Have the statements of connections that are opened within the block written to a file, for those who count them.

        On Postgres the server does; on SQLite those do who are started with ``--trace`` and that file.
        """
        if self.kind == SQLITE:
            yield self.folder / "statements"
            return
        self.run("ALTER ROLE CURRENT_USER SET log_statement = 'all'")
        try:
            yield self.folder / "log"
        finally:
            self.run("ALTER ROLE CURRENT_USER RESET log_statement")

    def statements_in(self, log: str) -> list[str]:
        """Return the statements in a part of the file of :meth:`statements_logged`."""
        return _LOGGED.findall(log) if self.kind == POSTGRES else log.splitlines()

    def disk(self) -> DiskSpeed:
        """Measure the disk that the database lies on."""
        commit_s = _sqlite_commit_s(self.folder) if self.kind == SQLITE else asyncio.run(_postgres_commit_s(self.url))
        return DiskSpeed(_flush_s(self.folder), commit_s)


@dataclass(frozen=True, slots=True)
class DiskSpeed:
    """Medians, in seconds."""

    flush_s: float
    """Write 8 KiB into a file that has its size, and fdatasync."""
    commit_s: float
    """Commit one row of a bare table through the driver."""


@contextlib.contextmanager
def database(kind: str) -> Iterator[DatabaseTarget]:
    """Make a database on an empty folder, and its server if it needs one."""
    with _sqlite() if kind == SQLITE else _postgres() as target:
        asyncio.run(create_tables(target.url))
        yield target


def _median_s(work: Callable[[], object]) -> float:
    times_s = []
    for _ in range(PROBES):
        start = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - start)
    return statistics.median(times_s)


@contextlib.contextmanager
def _sqlite() -> Iterator[DatabaseTarget]:
    with tempfile.TemporaryDirectory(prefix="asyncstore-bench-") as folder:
        name = f"SQLite {sqlite3.sqlite_version}, WAL, synchronous=FULL"
        yield DatabaseTarget(SQLITE, name, f"sqlite:///{folder}/run_log.db", Path(folder), None)


@contextlib.contextmanager
def _postgres() -> Iterator[DatabaseTarget]:
    with postgres_server(durable=True) as server:
        yield asyncio.run(_postgres_target(server.url))


async def _postgres_target(url: str) -> DatabaseTarget:
    connection = await asyncpg.connect(url)
    try:
        facts = {
            name: await connection.fetchval(f"SHOW {name}")
            for name in ("server_version", "fsync", "synchronous_commit", "shared_buffers", "data_directory")
        }
    finally:
        await connection.close()
    folder = Path(facts.pop("data_directory"))
    version = facts.pop("server_version")
    settings = ", ".join(f"{name}={value}" for name, value in facts.items())
    if facts["fsync"] != "on" or facts["synchronous_commit"] != "on":
        raise RuntimeError(f"commits of this server are not flushed: {settings}")
    pid = int((folder / "postmaster.pid").read_text().split()[0])
    return DatabaseTarget(POSTGRES, f"PostgreSQL {version}, {settings}", url, folder, pid)


async def _execute(url: str, *statements: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        rows = [await connection.fetch(statement) for statement in statements]
        return [row[0] for row in rows[-1]]
    finally:
        await connection.close()


def _flush_s(folder: Path) -> float:
    with tempfile.TemporaryFile(dir=folder) as file:
        number = file.fileno()
        page = os.urandom(PAGE_BYTES)
        for _ in range(PROBES):
            file.write(page)
        file.flush()
        os.fsync(number)
        offsets = iter(range(0, PROBES * PAGE_BYTES, PAGE_BYTES))

        def write() -> None:
            os.pwrite(number, page, next(offsets))
            os.fdatasync(number)

        return _median_s(write)


def _sqlite_commit_s(folder: Path) -> float:
    with (
        tempfile.TemporaryDirectory(dir=folder) as inner,
        contextlib.closing(sqlite3.connect(f"{inner}/probe.db", isolation_level=None)) as connection,
    ):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE probe (n integer)")
        return _median_s(lambda: connection.execute("INSERT INTO probe VALUES (1)"))


async def _postgres_commit_s(url: str) -> float:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE commit_probe (n integer)")
        insert = await connection.prepare("INSERT INTO commit_probe VALUES (1)")
        times_s = []
        for _ in range(PROBES):
            start = time.perf_counter()
            await insert.fetch()
            times_s.append(time.perf_counter() - start)
        await connection.execute("DROP TABLE commit_probe")
    finally:
        await connection.close()
    return statistics.median(times_s)
