"""
What is known already: SHA-256 of files and of objects that are still as they were when they were hashed.

What is the same on both sides is told once more by rows that are read faster: see
:mod:`asyncstore.catalog._cache._pairs`. A row counts only for exactly the file (device, inode, size, times) or object
(key, ETag, size) that it was made of. The functions here block; callers run them in threads, with many rows a call.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import sqlite3
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from asyncstore.catalog._cache._cachefile import CacheFile, transaction
from asyncstore.catalog._cache._pairs import PAIRS_AT_ONCE, rows_of, still_same
from asyncstore.catalog._local._files import DEVICE, IDENTITY, INODE, SEEN, SIZE, LocalFiles, racy
from asyncstore.objects.listed import ETAG, KEY, Listed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from asyncstore.catalog._cache._pairs import Same
    from asyncstore.catalog._local._files import LocalFile
    from asyncstore.catalog._local._files import Row as SeenRow
    from asyncstore.catalog._planning._found import Found
    from asyncstore.objects.base import ObjectMeta

__all__ = ["FOLDER_VARIABLE", "Known", "cache_folder", "place_of"]

FOLDER_VARIABLE = "ASYNCSTORE_CACHE_DIR"
FILE_NAME = "catalog.db"

KEPT_DAYS = 90
"""Rows that nobody has asked for in so many days are removed."""

ROWS_LIMIT = 1_000_000
"""Most files, objects, and pairs of them; beyond, those are removed that nobody has asked for the longest."""

SIZE_LIMIT_BYTES = 512 * 1024 * 1024
"""A file of which more is filled is looked through for what can be removed before the day is over."""

_VERSION = 0x61730002
"""Its last digits are raised when the tables change."""

_NOTED_DAYS = 7
"""That a row was asked for is noted as often as this, so that most lookups write nothing."""

_PORTION = 10_000
_AT_ONCE = 100
"""Rows written by one statement: SQLite lets go of the interpreter lock for each, and to get it back may take long."""

_DAY_S = 86_400
_SIGNED = 1 << 63
_UNSIGNED = 1 << 64

_TABLES = (
    """CREATE TABLE files(
        device INTEGER, inode INTEGER, size_bytes INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, sha256 BLOB,
        used INTEGER, PRIMARY KEY (device, inode)) WITHOUT ROWID""",
    """CREATE TABLE objects(
        place TEXT, key TEXT, etag TEXT, size_bytes INTEGER, sha256 BLOB,
        used INTEGER, PRIMARY KEY (place, key)) WITHOUT ROWID""",
    """CREATE TABLE pairs(
        pair TEXT, number INTEGER, used INTEGER NOT NULL, names TEXT NOT NULL, etags TEXT NOT NULL,
        identities BLOB NOT NULL, digests BLOB NOT NULL, PRIMARY KEY (pair, number))""",
)

R = TypeVar("R")
Row: TypeAlias = tuple[Any, ...]
_Digests: TypeAlias = "Callable[[Iterable[Row]], dict[str, str]]"


@dataclass(frozen=True, slots=True)
class _Table:
    """A table whose rows come in groups; in a group each has another key."""

    name: str
    group: str
    key: str
    columns: str
    """What is read; the first is the key."""
    width: int
    """How many columns there are."""
    each: int = 1
    """Of how many files or objects a row tells."""


_FILES = _Table("files", "device", "inode", "inode, size_bytes, mtime_ns, ctime_ns, sha256", 7)
_OBJECTS = _Table("objects", "place", "key", "key, size_bytes, etag, sha256", 6)
_PAIRS = _Table("pairs", "pair", "number", "names, etags, identities, digests", 7, PAIRS_AT_ONCE)


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
        self._reading = threading.Lock()

    def __repr__(self) -> str:
        return f"<Known {str(self._file.path)!r}>"

    def close(self) -> None:
        """Do nothing: between two calls nothing is open."""

    def digests_of(self, files: LocalFiles | Iterable[LocalFile]) -> dict[str, str]:
        """Return, by name, the SHA-256 of those files that are known as they are."""
        seen = LocalFiles.of(files)
        found: dict[str, str] = {}
        for device in {row[DEVICE] for row in seen.rows.values()}:
            here = seen.some([name for name, row in seen.rows.items() if row[DEVICE] == device]).rows
            names = {_stored(row): name for name, row in here.items()}
            inodes = [row[0] for row in names]
            digests = self._read(_FILES, _signed(device), inodes, partial(_matching, names=names))
            found |= digests
            if len(names) < len(here):
                found |= {name: digests[one] for name, row in here.items() if (one := names[_stored(row)]) in digests}
        return found

    def remember_files(self, pairs: Iterable[tuple[SeenRow, str]]) -> None:
        """
        Remember the SHA-256 of files, each as it was seen before it was hashed.

        Those that had been modified just then are left out: they may change again without its showing.
        """
        now_ns, day = time.time_ns(), _today()
        rows = [
            (_signed(row[DEVICE]), _signed(row[INODE]), *row[SIZE:IDENTITY], bytes.fromhex(digest), day)
            for row, digest in pairs
            if not racy(row, row[SEEN] or now_ns)
        ]
        self._write(_FILES, rows)

    def digests_at(self, place: str, metas: Sequence[ObjectMeta], prefix: str = "") -> dict[str, str]:
        """
        Return, by key, the SHA-256 of those objects that are known as they are.

        Args:
            place: of the storage, see :func:`place_of`.
            metas: the objects as they were listed; those without an ETag are never known.
            prefix: what their keys begin with, if the caller knows.
        """
        listed = Listed.of(metas).rows
        keys = {row[: ETAG + 1]: row[KEY] for row in listed if row[ETAG]}
        return self._read(_OBJECTS, place, list(keys.values()), partial(_matching, names=keys), prefix)

    def cuts_at(self, place: str, prefix: str, *, least: int, most: int) -> list[str]:
        """Return keys, of those known that begin with ``prefix``, that cut them into ranges of ``least`` keys or more.

        Args:
            place: of the storage.
            prefix: what they begin with.
            least: least keys of a range; ranges are multiples of it.
            most: most ranges.
        """
        if not os.path.exists(self._file.path):
            return []
        return self._file.use(lambda db: _cuts(db, place, prefix, least, most)) or []

    def remember_objects(self, place: str, objects: Iterable[tuple[str, str, int, str]]) -> None:
        """Remember objects: key, ETag, size in bytes, SHA-256; those without an ETag are left out."""
        day = _today()
        listed = (one for one in objects if one[1])
        rows = [(place, key, etag, size_bytes, bytes.fromhex(digest), day) for key, etag, size_bytes, digest in listed]
        self._write(_OBJECTS, rows)

    def same_as_before(self, pair: str, files: LocalFiles, objects: Found) -> Same:
        """
        Return files that are the same as the objects of their names, as :meth:`remember_same` was told of a pair.

        What was told long ago does not count: the other tables are to be asked, too, as that keeps their rows.
        """
        asked = f"SELECT {_PAIRS.columns} FROM pairs WHERE pair = ? AND used >= ?"

        def read(db: sqlite3.Connection) -> Same:
            return still_same(db.execute(asked, (pair, _today() - _NOTED_DAYS)), files.rows, objects.rows)

        return self._ask(read) or {}

    def remember_same(self, pair: str, same: Same, files: LocalFiles, objects: Found) -> None:
        """
        Remember of a pair, see :func:`pair_of`, what is the same, and nothing else.

        It is to be what is known of files and objects just as they were seen and listed.
        """

        def write(db: sqlite3.Connection) -> None:
            day = _today()
            db.execute("DELETE FROM pairs WHERE pair = ?", (pair,))
            for number, row in enumerate(rows_of(same, files.rows, objects.rows)):
                _insert(db, _PAIRS, [(pair, number, day, *row)])

        self._change(write)

    def _read(
        self, table: _Table, group: Any, wanted: Collection[Any], digests: _Digests, prefix: str = ""
    ) -> dict[str, str]:
        """Return what ``digests`` makes of the rows whose keys are ``wanted``; it is given others, too."""
        if not wanted:
            return {}
        low, high = (prefix, f"{prefix}\U0010ffff") if prefix else (min(wanted), max(wanted))
        return self._ask(lambda db: _read(db, table, group, wanted, low, high, digests)) or {}

    def _write(self, table: _Table, rows: list[Row]) -> None:
        def write(db: sqlite3.Connection) -> None:
            for start in range(0, len(rows), _PORTION):
                # In the order of the table that is much faster; to sort them all would halt all other threads.
                _insert(db, table, sorted(rows[start : start + _PORTION]))

        if rows:
            self._change(write)

    def _ask(self, read: Callable[[sqlite3.Connection], R]) -> R | None:
        """Return what ``read`` makes of the tables, ``None`` if there are none."""
        if not os.path.exists(self._file.path):
            return None
        # One read after the other: SQLite lets go of the interpreter lock at every row, and two would fight over it.
        with self._reading:
            return self._file.use(read)

    def _change(self, write: Callable[[sqlite3.Connection], None]) -> None:
        """Have tables changed as a whole, and pruned if they need it."""

        def work(db: sqlite3.Connection) -> None:
            with transaction(db):
                write(db)
            _prune(db)

        # One after the other here, so that they need not wait for each other there.
        with self._writing:
            self._file.use(work)


def _read(
    db: sqlite3.Connection, table: _Table, group: Any, wanted: Collection[Any], low: Any, high: Any, digests: _Digests
) -> dict[str, str]:
    # To read a whole range is twice as fast as to look up each key, unless most of it belongs to others.
    limit = 4 * len(wanted) + 1000
    between = f"SELECT used FROM {table.name} WHERE {table.group} = ? AND {table.key} BETWEEN ? AND ? LIMIT ?"
    [(count, oldest)] = db.execute(f"SELECT count(*), min(used) FROM ({between})", (group, low, high, limit))
    conditions = [("BETWEEN ? AND ?", (low, high))] if count < limit else _one_by_one(db, wanted)
    found: dict[str, str] = {}
    stale: list[Row] = []
    today = _today()
    noted = today - _NOTED_DAYS
    asked = set(wanted) if count == limit or (oldest is not None and oldest < noted) else None
    for condition, values in conditions:
        where = f"FROM {table.name} WHERE {table.group} = ? AND {table.key} {condition}"
        found |= digests(db.execute(f"SELECT {table.columns} {where}", (group, *values)))
        if asked is not None:
            unused = db.execute(f"SELECT {table.key} {where} AND used < ?", (group, *values, noted))
            stale += [(today, group, key) for (key,) in unused if key in asked]
    if stale:
        # Where it cannot be written, what was read still counts.
        with contextlib.suppress(sqlite3.OperationalError), transaction(db):
            db.executemany(f"UPDATE {table.name} SET used = ? WHERE {table.group} = ? AND {table.key} = ?", stale)
    return found


def _insert(db: sqlite3.Connection, table: _Table, rows: Sequence[Row]) -> None:
    row = f"({', '.join('?' * table.width)})"
    for start in range(0, len(rows), _AT_ONCE):
        portion = rows[start : start + _AT_ONCE]
        db.execute(
            f"INSERT OR REPLACE INTO {table.name} VALUES {', '.join([row] * len(portion))}",
            list(itertools.chain.from_iterable(portion)),
        )


def _cuts(db: sqlite3.Connection, place: str, prefix: str, least: int, most: int) -> list[str]:
    inside = "FROM objects WHERE place = ? AND key > ? AND key < ?"
    end = f"{prefix}\U0010ffff"
    [(count,)] = db.execute(f"SELECT count(*) {inside}", (place, prefix, end))
    step = least * -(-max(count, 1) // (least * most))
    cuts = [prefix]
    for _ in range(step, count, step):
        found = db.execute(f"SELECT key {inside} ORDER BY key LIMIT 1 OFFSET ?", (place, cuts[-1], end, step - 1))
        cuts += [key for (key,) in found]
    return cuts[1:]


def _one_by_one(db: sqlite3.Connection, wanted: Collection[Any]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield conditions, with their values, for keys that are far apart."""
    keys = list(wanted)
    step = min(_PORTION, db.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) - 2)
    for start in range(0, len(keys), step):
        portion = keys[start : start + step]
        yield f"IN ({', '.join('?' * len(portion))})", portion


def _matching(rows: Iterable[Row], names: Mapping[Row, str]) -> dict[str, str]:
    """Return the digests, with which rows end, by the names of what stands before them; of others there is nothing."""
    return {name: row[-1].hex() for row in rows if (name := names.get(row[:-1])) is not None}


def _stored(row: SeenRow) -> Row:
    """Return what the table of files holds of a file, from its inode to its digest."""
    return row[INODE:IDENTITY] if row[INODE] < _SIGNED else (_signed(row[INODE]), *row[INODE + 1 : IDENTITY])


def _prune(db: sqlite3.Connection) -> None:
    """Remove what is beyond the limits, once a day or when the file has become large."""
    pragmas = ("user_version", "page_count", "freelist_count", "page_size")
    pruned, pages, free, page_bytes = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas)
    day = _today()
    if pruned == day and (pages - free) * page_bytes <= SIZE_LIMIT_BYTES:
        return
    with transaction(db):
        for table in (_FILES, _OBJECTS, _PAIRS):
            limit = ROWS_LIMIT // table.each
            db.execute(f"DELETE FROM {table.name} WHERE used < ?", (day - KEPT_DAYS,))
            [(count,)] = db.execute(f"SELECT count(*) FROM {table.name}")
            if count > limit:
                # Somewhat more than must be, or else the next write would do it again.
                key = f"{table.group}, {table.key}"
                oldest = f"SELECT {key} FROM {table.name} ORDER BY used LIMIT {count - limit * 9 // 10}"
                db.execute(f"DELETE FROM {table.name} WHERE ({key}) IN ({oldest})")
        db.execute(f"PRAGMA user_version = {day}")


def _signed(number: int) -> int:
    """Return a number of 64 bits as SQLite holds it."""
    return number if number < _SIGNED else number - _UNSIGNED


def _today() -> int:
    return int(time.time()) // _DAY_S
