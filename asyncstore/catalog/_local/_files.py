"""
Files of the local side: what they were when they were seen, and how those are read that must not change meanwhile.

The functions here block; callers run them in threads.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from asyncstore._core.memory import ARENA_PAYLOADS, room_for
from asyncstore.errors import AsyncStoreError, IntegrityError
from asyncstore.objects._errors import from_file_error

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

__all__ = [
    "DEVICE",
    "IDENTITY",
    "INODE",
    "MTIME",
    "RACY_NS",
    "READ",
    "SIZE",
    "Identity",
    "LocalFile",
    "LocalFiles",
    "Row",
    "changed",
    "is_still",
    "opened",
    "racy",
    "read_at",
    "read_file",
    "row_of",
]

RACY_NS = 2_000_000_000
"""A file that was modified in so many nanoseconds before it was looked at may change again without showing it: the
coarsest clock of common file systems (FAT) ticks so."""

_PERMISSIONS = 0o777
_MODES = tuple(range(_PERMISSIONS + 1))
"""So that many files share a few numbers."""

_REPLACED = {errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ESPIPE, errno.EISDIR}
"""What a regular file cannot lead to: a link, a file, a socket, a FIFO or a folder has come in between."""


_new = tuple.__new__
"""Makes a named tuple at half of what its own constructor takes; there are many."""


class Identity(NamedTuple):
    """What tells that a file is still the one that was seen, with the same contents."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


class LocalFile(NamedTuple):
    """A regular file as it was seen."""

    name: str
    """Relative to the compute data folder."""
    path: str
    """Without links."""
    identity: Identity
    mode: int
    """Its permission bits, without setuid, setgid and sticky."""
    seen_ns: int = 0
    """When it was seen or a moment before, since the epoch; 0 if that is not known."""

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        return self.identity.size_bytes

    @property
    def row(self) -> Row:
        """All but its name, in plain."""
        return (*self.identity, self.mode, self.seen_ns, self.path)


Row: TypeAlias = tuple[int, int, int, int, int, int, int, str]
"""A regular file as it was seen, in plain: identity, mode, time, and path, empty if that is where its name says."""

DEVICE: Final = 0
INODE: Final = 1
SIZE: Final = 2
MTIME: Final = 3
CTIME: Final = 4
MODE: Final = 5
SEEN: Final = 6
PATH: Final = 7
IDENTITY: Final = 5
"""How many of these fields are those of :class:`Identity`; they come first."""


class LocalFiles(Mapping[str, LocalFile]):
    """
    Regular files by name, as they were seen.

    There may be very many, and most of them are of interest only to be told from others. So they are held as plain
    tuples of plain values, which Python's garbage collector leaves alone.

    Args:
        top: what comes before their names in paths, empty or ending in ``/``.
        rows: what was seen of each.
    """

    __slots__ = ("rows", "top")

    def __init__(self, top: str = "", rows: dict[str, Row] | None = None) -> None:
        self.top = top
        self.rows: dict[str, Row] = {} if rows is None else rows

    @classmethod
    def under(cls, root: str) -> LocalFiles:
        """Return files in a folder (a real path), none yet."""
        return cls(f"{root.rstrip('/')}/")

    @classmethod
    def of(cls, files: Iterable[LocalFile] | LocalFiles) -> LocalFiles:
        """Return files as one of these."""
        if isinstance(files, LocalFiles):
            return files
        return cls("", {file.name: file.row for file in files})

    def __repr__(self) -> str:
        return f"<LocalFiles {len(self.rows)} in {self.top!r}>"

    def __getitem__(self, name: str) -> LocalFile:
        row = self.rows[name]
        identity = _new(Identity, row[:IDENTITY])
        return _new(LocalFile, (name, row[PATH] or self.top + name, identity, row[MODE], row[SEEN]))

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def get(self, name: str, default: Any = None) -> LocalFile | Any:
        """Return the file of that name; what a mapping does by itself takes ten times as long where there is none."""
        return self[name] if name in self.rows else default

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def some(self, names: Sequence[str]) -> LocalFiles:
        """Return those files; ``names`` has each at most once."""
        return self if len(names) == len(self.rows) else LocalFiles(self.top, {name: self.rows[name] for name in names})

    def without(self, names: Container[str]) -> LocalFiles:
        """Return the other files."""
        return LocalFiles(self.top, {name: row for name, row in self.rows.items() if name not in names})


def row_of(status: os.stat_result, seen_ns: int, path: str = "") -> Row:
    """Take a row from what ``stat`` says."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        _MODES[status.st_mode & _PERMISSIONS],
        seen_ns,
        path,
    )


def read_file(file: LocalFile) -> tuple[bytes | memoryview, str]:
    """
    Return the bytes of a file that goes whole, and their SHA-256 in hex.

    Raises:
        IntegrityError: the file is not the one that was seen, or changed while it was read.
        NotFoundError: it is gone.
        AccessDeniedError: it cannot be read.
    """
    path, identity = file.path, file.identity
    size_bytes = identity.size_bytes
    try:
        descriptor = os.open(path, READ)
        try:
            data = _read(descriptor, size_bytes)
            # Of what came in its place before it was opened, and of what it became while it was read.
            _check(file, descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _from_reading(error, file) from error
    if len(data) != size_bytes:
        raise changed(file)
    return data, hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def opened(file: LocalFile) -> Iterator[int]:
    """
    Give a descriptor of the very file that was seen; it must still be so at the end.

    Raises:
        IntegrityError: the file is not the one that was seen, or has changed.
        NotFoundError: it is gone.
    """
    try:
        descriptor = os.open(file.path, READ)
        try:
            _check(file, descriptor)
            yield descriptor
            _check(file, descriptor)
        finally:
            os.close(descriptor)
    except AsyncStoreError:
        raise
    except OSError as error:
        raise _from_reading(error, file) from error


def read_at(descriptor: int, block: memoryview, offset: int) -> int:
    """Read until a block is full or the file ends, and return how much was read."""
    filled = 0
    while filled < len(block) and (read := os.preadv(descriptor, [block[filled:]], offset + filled)):
        filled += read
    return filled


def changed(file: LocalFile) -> IntegrityError:
    """Return the error for a file that is not as it was seen."""
    return IntegrityError(f"{file.path!r} changed while it was read: put it when its writer is done")


def is_still(seen: Identity | Row, descriptor: int) -> bool:
    """Tell whether an open file is the one that was seen."""
    return bool(_of_status(os.fstat(descriptor)) == seen[INODE:IDENTITY])


def racy(seen: Identity | Row, at_ns: int) -> bool:
    """Tell whether the contents of a file may have changed after ``at_ns`` (since the epoch) without its showing."""
    settled_ns = at_ns - RACY_NS
    return seen[MTIME] > settled_ns or seen[CTIME] > settled_ns


READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a file is opened that was seen: non-blocking, in case that a FIFO has taken its place."""


_of_status = attrgetter("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
"""Not the device: a shared file system has another number on each machine, and plans may be run elsewhere."""


def _read(descriptor: int, size_bytes: int) -> bytes | memoryview:
    """
    Read a file that should have so many bytes; if it has more, perhaps one more.

    Nothing is taken out of a FIFO that has come in its place: it cannot be read at an offset.
    """
    if size_bytes >= ARENA_PAYLOADS.start:
        data = room_for(size_bytes)
        return data[: read_at(descriptor, data, 0)]
    read = os.pread(descriptor, size_bytes + 1, 0)
    while 0 < len(read) < size_bytes and (more := os.pread(descriptor, size_bytes + 1 - len(read), len(read))):
        read += more
    return read


def _check(file: LocalFile, descriptor: int) -> None:
    if not is_still(file.identity, descriptor):
        raise changed(file)


def _from_reading(error: OSError, file: LocalFile) -> AsyncStoreError:
    return changed(file) if error.errno in _REPLACED else from_file_error(error, f"read {file.path!r}")
