"""
What is known already: SHA-256 of files and of objects that are still as they were when they were hashed.

A row counts only for exactly the file (device, inode, size, times) or object (key, ETag, size) that it was made of. The
functions here block; callers run them in threads, with many rows a call.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from asyncstore.catalog._cachefile import CacheFile, transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from asyncstore.catalog._scan import LocalFile
    from asyncstore.objects.base import ObjectMeta

__all__ = ["FOLDER_VARIABLE", "Known", "cache_folder", "place_of"]

FOLDER_VARIABLE = "ASYNCSTORE_CACHE_DIR"
FILE_NAME = "catalog.db"

KEPT_DAYS = 90
"""Rows that nobody has asked for in so many days are removed."""

ROWS_LIMIT = 1_000_000
"""Most rows of each table; beyond, those are removed that nobody has asked for the longest."""

SIZE_LIMIT_BYTES = 512 * 1024 * 1024
"""A file of which more is filled is looked through for what can be removed before the day is over."""

_VERSION = 0x61730001
"""Its last digits are raised when the tables change."""

_NOTED_DAYS = 7
"""That a row was asked for is noted as often as this, so that most lookups write nothing."""

_PORTION = 10_000
_DAY_S = 86_400
_UNSIGNED = 1 << 64

_TABLES = (
    """CREATE TABLE files(
        device INTEGER, inode INTEGER, size_bytes INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, sha256 BLOB,
        used INTEGER, PRIMARY KEY (device, inode)) WITHOUT ROWID""",
    """CREATE TABLE objects(
        place TEXT, key TEXT, etag TEXT, size_bytes INTEGER, sha256 BLOB,
        used INTEGER, PRIMARY KEY (place, key)) WITHOUT ROWID""",
)

Row: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Table:
    """A table whose rows come in groups; in a group each has another key."""

    name: str
    group: str
    key: str
    columns: str
    """What is read; the first is the key, the last the day of its last use."""
    placeholders: str


_FILES = _Table(
    "files", "device", "inode", "inode, size_bytes, mtime_ns, ctime_ns, sha256, used", "?, ?, ?, ?, ?, ?, ?"
)
_OBJECTS = _Table("objects", "place", "key", "key, etag, size_bytes, sha256, used", "?, ?, ?, ?, ?, ?")


def cache_folder() -> Path:
    """Return where the user's caches of ours lie: ``ASYNCSTORE_CACHE_DIR``, or else where the XDG has caches."""
    if own := os.environ.get(FOLDER_VARIABLE):
        return Path(own).expanduser().absolute()
    caches = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(caches) if os.path.isabs(caches) else Path("~/.cache").expanduser()) / "asyncstore"
    except RuntimeError:
        # A user without a home; nothing can be made there, so there is no cache.
        return Path(os.devnull) / "asyncstore"


def place_of(location: str, endpoint: str = "") -> str:
    """Return what stands for a storage among all others: a short hash."""
    return hashlib.sha256(f"{location}\n{endpoint}".encode()).hexdigest()[:16]


class Known:
    """
    The cache in a folder, which is made when something is first remembered.

    It never raises: what cannot be read is not known, and what cannot be written is not remembered.

    Args:
        folder: by default :func:`cache_folder`.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder) if folder is not None else cache_folder()
        self._file = CacheFile(self.folder / FILE_NAME, _TABLES, _VERSION)
        self._writing = threading.Lock()

    def __repr__(self) -> str:
        return f"<Known {str(self._file.path)!r}>"

    def close(self) -> None:
        """Do nothing: between two calls nothing is open."""

    def digests_of(self, files: Sequence[LocalFile]) -> dict[str, str]:
        """Return, by name, the SHA-256 of those files that are known as they are."""
        devices: dict[int, list[LocalFile]] = {}
        for file in files:
            devices.setdefault(file.identity.device, []).append(file)
        found: dict[str, str] = {}
        for device, here in devices.items():
            inodes = [_signed(file.identity.inode) for file in here]
            rows = self._read(_FILES, _signed(device), inodes, min(inodes), max(inodes))
            for file, inode in zip(here, inodes, strict=True):
                row = rows.get(inode)
                if row is not None and row[1:4] == file.identity[2:]:
                    found[file.name] = row[4].hex()
        return found

    def remember_files(self, pairs: Iterable[tuple[LocalFile, str]]) -> None:
        """
        Remember the SHA-256 of files, each as it was seen before it was hashed.

        Those that had been modified just then are left out: they may change again without its showing.
        """
        now_ns, day = time.time_ns(), _today()
        rows: list[Row] = []
        for file, digest in pairs:
            identity = file.identity
            if not identity.racy(file.seen_ns or now_ns):
                device, inode, size_bytes, mtime_ns, ctime_ns = identity
                rows.append(
                    (_signed(device), _signed(inode), size_bytes, mtime_ns, ctime_ns, bytes.fromhex(digest), day)
                )
        self._write(_FILES, rows)

    def digests_at(self, place: str, metas: Sequence[ObjectMeta], prefix: str = "") -> dict[str, str]:
        """
        Return, by key, the SHA-256 of those objects that are known as they are.

        Args:
            place: of the storage, see :func:`place_of`.
            metas: the objects as they were listed; those without an ETag are never known.
            prefix: what their keys begin with, if the caller knows.
        """
        keys = [meta.key for meta in metas]
        if not keys:
            return {}
        low, high = (prefix, f"{prefix}\U0010ffff") if prefix else (min(keys), max(keys))
        rows = self._read(_OBJECTS, place, keys, low, high)
        found: dict[str, str] = {}
        for meta in metas:
            row = rows.get(meta.key)
            if row is not None and meta.etag and row[1] == meta.etag and row[2] == meta.size_bytes:
                found[meta.key] = row[3].hex()
        return found

    def remember_objects(self, place: str, objects: Iterable[tuple[str, str, int, str]]) -> None:
        """Remember objects: key, ETag, size in bytes, SHA-256; those without an ETag are left out."""
        day = _today()
        listed = (one for one in objects if one[1])
        rows = [(place, key, etag, size_bytes, bytes.fromhex(digest), day) for key, etag, size_bytes, digest in listed]
        self._write(_OBJECTS, rows)

    def _read(self, table: _Table, group: Any, keys: Sequence[Any], low: Any, high: Any) -> dict[Any, Row]:
        """Return the rows of ``keys``, all of them between ``low`` and ``high``, and maybe others."""
        if not os.path.exists(self._file.path):
            return {}
        return self._file.use(lambda db: _read(db, table, group, keys, low, high)) or {}

    def _write(self, table: _Table, rows: list[Row]) -> None:
        def write(db: sqlite3.Connection) -> None:
            insert = f"INSERT OR REPLACE INTO {table.name} VALUES ({table.placeholders})"
            with transaction(db):
                for start in range(0, len(rows), _PORTION):
                    # In the order of the table that is much faster; to sort them all would halt all other threads.
                    db.executemany(insert, sorted(rows[start : start + _PORTION]))
            _prune(db)

        if rows:
            # One after the other here, so that they need not wait for each other there.
            with self._writing:
                self._file.use(write)


def _read(
    db: sqlite3.Connection, table: _Table, group: Any, keys: Sequence[Any], low: Any, high: Any
) -> dict[Any, Row]:
    select = f"SELECT {table.columns} FROM {table.name} WHERE {table.group} = ? AND {table.key}"
    # To read a whole range is twice as fast as to look up each key, unless most of it belongs to others.
    limit = 4 * len(keys) + 1000
    between = f"SELECT 1 FROM {table.name} WHERE {table.group} = ? AND {table.key} BETWEEN ? AND ? LIMIT ?"
    [(count,)] = db.execute(f"SELECT count(*) FROM ({between})", (group, low, high, limit))
    found = (
        db.execute(f"{select} BETWEEN ? AND ?", (group, low, high)) if count < limit else _each(db, select, group, keys)
    )
    rows = {row[0]: row for row in found}
    noted = _today() - _NOTED_DAYS
    stale = [(noted + _NOTED_DAYS, group, key) for key in set(keys) & rows.keys() if rows[key][-1] < noted]
    if stale:
        # Where it cannot be written, what was read still counts.
        with contextlib.suppress(sqlite3.OperationalError), transaction(db):
            db.executemany(f"UPDATE {table.name} SET used = ? WHERE {table.group} = ? AND {table.key} = ?", stale)
    return rows


def _each(db: sqlite3.Connection, select: str, group: Any, keys: Sequence[Any]) -> Iterator[Row]:
    step = min(_PORTION, db.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) - 1)
    for start in range(0, len(keys), step):
        portion = keys[start : start + step]
        yield from db.execute(f"{select} IN ({', '.join('?' * len(portion))})", (group, *portion))


def _prune(db: sqlite3.Connection) -> None:
    """Remove what is beyond the limits, once a day or when the file has become large."""
    pragmas = ("user_version", "page_count", "freelist_count", "page_size")
    pruned, pages, free, page_bytes = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas)
    day = _today()
    if pruned == day and (pages - free) * page_bytes <= SIZE_LIMIT_BYTES:
        return
    with transaction(db):
        for table in (_FILES, _OBJECTS):
            db.execute(f"DELETE FROM {table.name} WHERE used < ?", (day - KEPT_DAYS,))
            [(count,)] = db.execute(f"SELECT count(*) FROM {table.name}")
            if count > ROWS_LIMIT:
                # Somewhat more than must be, or else the next write would do it again.
                key = f"{table.group}, {table.key}"
                oldest = f"SELECT {key} FROM {table.name} ORDER BY used LIMIT {count - ROWS_LIMIT * 9 // 10}"
                db.execute(f"DELETE FROM {table.name} WHERE ({key}) IN ({oldest})")
        db.execute(f"PRAGMA user_version = {day}")


def _signed(number: int) -> int:
    """Return a number of 64 bits as SQLite holds it."""
    return number if number < _UNSIGNED >> 1 else number - _UNSIGNED


def _today() -> int:
    return int(time.time()) // _DAY_S
