"""
The SQLite file of a cache, for all processes of a user: what is wrong with it is its users' loss of time, nothing else.

A corrupt file is replaced; one that is locked, full, or not writable is not used. Nothing is open between two calls, so
it may be used by any thread and after a fork, and deleted at any time. The functions here block.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

__all__ = ["CacheFile", "transaction"]

_PATIENCE_S = 1.0
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}

R = TypeVar("R")

logger = logging.getLogger(__name__)


class CacheFile:
    """
    A database in a folder, both made with the first use.

    Args:
        path: of the file; beside it lie its journals and a lock.
        tables: statements that make the tables.
        mark: number that tells this file, with these very tables, from all others.
    """

    def __init__(self, path: Path, tables: Sequence[str], mark: int) -> None:
        self.path = path
        self._tables = tables
        self._mark = mark

    def use(self, work: Callable[[sqlite3.Connection], R]) -> R | None:
        """Return what ``work`` makes of the database, ``None`` if it cannot be used."""
        try:
            try:
                with self._opened() as db:
                    return work(db)
            except sqlite3.Error as error:
                if not _is_broken(error):
                    raise
                logger.debug("the cache %s is replaced: %s", self.path, error)
            self._remove()
            with self._opened() as db:
                return work(db)
        except (sqlite3.Error, OSError, OverflowError, UnicodeError) as error:
            logger.debug("the cache %s is not used: %s", self.path, error)
            return None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked(fcntl.LOCK_SH), contextlib.closing(self._connect()) as db:
            yield db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=_PATIENCE_S, isolation_level=None)
        try:
            if not self._is_made(db):
                db.execute("PRAGMA journal_mode = WAL")
                with transaction(db):
                    if not self._is_made(db):
                        self._make(db)
            # A row that is lost with the power is found out anew.
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA temp_store = MEMORY")
        except BaseException:
            db.close()
            raise
        return db

    def _is_made(self, db: sqlite3.Connection) -> bool:
        [(mark,)] = db.execute("PRAGMA application_id")
        return bool(mark == self._mark)

    def _make(self, db: sqlite3.Connection) -> None:
        # Where tables of another version are, this fails, and the file is replaced.
        for table in self._tables:
            db.execute(table)
        db.execute(f"PRAGMA application_id = {self._mark}")

    def _remove(self) -> None:
        # Nobody may have it open: SQLite finds its journals by name, and would take a new file's for those of the old.
        with self._locked(fcntl.LOCK_EX):
            for suffix in ("", "-wal", "-shm", "-journal"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, mode: int) -> Iterator[None]:
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            yield
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Do what the block does as one, or not at all; waits for other writers, but not for long."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # After some errors SQLite has rolled back by itself.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _is_broken(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN
