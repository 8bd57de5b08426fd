"""
Writing the local side: files that appear whole, under a root that no link leads out of.

Every folder on the way is opened relative to the one above without following links, so a link planted meanwhile makes
the open fail instead of leading elsewhere. Links that were there before are followed while they stay under the root.
Every function opens what it needs and closes it again, so a transfer that is cancelled between two calls holds nothing.
They block; callers run them in threads.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from asyncstore._core.files import TEMP_PREFIX
from asyncstore.catalog._paths import fold
from asyncstore.catalog._scan import Identity, LocalFile
from asyncstore.errors import AsyncStoreError, IntegrityError, UnsafePathError
from asyncstore.objects._errors import from_file_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Arrival", "Folders", "Landing", "check_digest", "folds_names", "look", "make_root", "write_files"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FOLDERS_LIMIT = 64
_HASH_BLOCK = 1024 * 1024


class Folders:
    """Descriptors of folders under a root (a real path), each opened once, all closed when the block ends."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._open: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def get(self, folder: str, *, make: bool = False) -> int:
        """
        Return a descriptor of ``folder`` (relative, without ``/`` at the end, empty for the root).

        Raises:
            FileNotFoundError: it is not there, and is not to be made.
            UnsafePathError: a link leads out of the root, or something on the way is not a folder.
        """
        if folder not in self._open:
            if len(self._open) >= _OPEN_FOLDERS_LIMIT:
                self._close()
            self._open[folder] = self._walk(folder, make)
        return self._open[folder]

    def _walk(self, folder: str, make: bool) -> int:
        try:
            return _descend(self._root, folder, make)
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                raise
        real = os.path.realpath(os.path.join(self._root, folder))
        if not f"{real}/".startswith(f"{self._root.rstrip('/')}/"):
            raise UnsafePathError(f"{folder!r} is a link that leads out of {self._root!r}, to {real!r}")
        try:
            return _descend(self._root, os.path.relpath(real, self._root), make)
        except NotADirectoryError as error:
            raise UnsafePathError(f"{folder!r} is not a folder in {self._root!r}, but would have to be one") from error

    def _close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


@dataclass(frozen=True, slots=True)
class Arrival:
    """A small file that has come in whole; ``expected`` is the SHA-256 that it should have, if that is known."""

    name: str
    data: bytes
    expected: str


@dataclass(frozen=True, slots=True)
class Landing:
    """A file on its way to ``name`` under ``root``, under a temp name beside it."""

    root: str
    name: str
    temp: str

    @classmethod
    def of(cls, root: str, name: str) -> Landing:
        """Choose a temp name; nothing is written yet."""
        return cls(root, name, f"{TEMP_PREFIX}{secrets.token_hex(8)}")

    def create(self) -> None:
        """Make the temp file, and the folders above it."""
        with self._folder(make=True) as folder:
            os.close(os.open(self.temp, _NEW_FILE, 0o666, dir_fd=folder))

    def write(self, data: bytes, offset: int) -> None:
        """Write a range."""
        with self._descriptor(os.O_WRONLY) as descriptor:
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written

    def hash(self, start: int, end: int, digest: hashlib._Hash) -> None:
        """Feed a range that is written to ``digest``."""
        with self._descriptor(os.O_RDONLY) as descriptor:
            for offset in range(start, end, _HASH_BLOCK):
                digest.update(os.pread(descriptor, min(_HASH_BLOCK, end - offset), offset))

    def commit(self) -> None:
        """Give the file its name, in place of what had it."""
        with self._folder() as folder:
            os.rename(self.temp, _base(self.name), src_dir_fd=folder, dst_dir_fd=folder)

    def discard(self) -> None:
        """Remove the temp file, if it is there."""
        with contextlib.suppress(AsyncStoreError, FileNotFoundError), self._folder() as folder:
            os.unlink(self.temp, dir_fd=folder)

    @contextlib.contextmanager
    def _folder(self, *, make: bool = False) -> Iterator[int]:
        with _translated(self.name, self.root), Folders(self.root) as folders:
            yield folders.get(_parent(self.name), make=make)

    @contextlib.contextmanager
    def _descriptor(self, flags: int) -> Iterator[int]:
        with self._folder() as folder:
            descriptor = os.open(self.temp, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                yield descriptor
            finally:
                os.close(descriptor)


def make_root(folder: str | os.PathLike[str]) -> str:
    """Make a compute data folder if it is missing and return where it really lies."""
    with _translated(".", os.fspath(folder)):
        os.makedirs(folder, exist_ok=True)
        return os.path.realpath(folder)


def look(root: str, names: Sequence[str]) -> dict[str, LocalFile]:
    """
    Return those of ``names`` that are there as files, before anything is written.

    Raises:
        UnsafePathError: one is a folder or a special file here, or lies in something that is not a folder or leads out.
    """
    found: dict[str, LocalFile] = {}
    with Folders(root) as folders:
        for name in names:
            # Where this is denied the write is denied, too: that fails the file, and not all of them.
            with _translated(name, root), contextlib.suppress(FileNotFoundError, PermissionError):
                status = os.stat(_base(name), dir_fd=folders.get(_parent(name)), follow_symlinks=False)
                if (file := _target(root, name, status)) is not None:
                    found[name] = file
    return found


def write_files(root: str, arrivals: Sequence[Arrival]) -> list[str | AsyncStoreError]:
    """
    Verify and write small files, each whole or not at all, and return their digests.

    One that is not what was put, or cannot be written, gives its error in its place.
    """
    with Folders(root) as folders:
        return [_write_or_error(folders, root, arrival) for arrival in arrivals]


def check_digest(name: str, digest: str, expected: str) -> None:
    """
    Compare a file's digest with what it should be, nothing if that is not known.

    Raises:
        IntegrityError: they differ.
    """
    if expected and digest != expected:
        raise IntegrityError(f"{name!r} is not what was put: its SHA-256 is {digest}, and should be {expected}")


def folds_names(root: str) -> bool:
    """Tell whether the file system takes names for equal that differ in letter case or Unicode composition."""
    name = f"{TEMP_PREFIX}{secrets.token_hex(8)}-É"
    with Folders(root) as folders, _translated(".", root):
        top = folders.get("")
        os.close(os.open(name, _NEW_FILE, 0o600, dir_fd=top))
        try:
            return any(_is_there(other, top) for other in (fold(name), name.replace("É", "E\u0301")))
        finally:
            os.unlink(name, dir_fd=top)


def _descend(root: str, folder: str, make: bool) -> int:
    current = os.open(root, _FOLDER)
    for part in folder.split("/"):
        if part in {"", "."}:
            continue
        try:
            deeper = _open_folder(part, current, make)
        finally:
            os.close(current)
        current = deeper
    return current


def _open_folder(name: str, above: int, make: bool) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=above)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=above)
    return os.open(name, _FOLDER, dir_fd=above)


def _target(root: str, name: str, status: os.stat_result) -> LocalFile | None:
    path = os.path.join(root, name)
    if stat.S_ISLNK(status.st_mode):
        # Our rename replaces the link, not what it leads to; only if that is under the root, it may do as it is.
        path = os.path.realpath(path)
        if not path.startswith(f"{root.rstrip('/')}/"):
            return None
        status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "special file"
        raise UnsafePathError(f"{name!r} is a {kind} in {root!r}, so no file can be written there")
    return LocalFile(name, path, Identity.of(status))


def _write_or_error(folders: Folders, root: str, arrival: Arrival) -> str | AsyncStoreError:
    digest = hashlib.sha256(arrival.data).hexdigest()
    try:
        check_digest(arrival.name, digest, arrival.expected)
        with _translated(arrival.name, root):
            _write(folders.get(_parent(arrival.name), make=True), _base(arrival.name), arrival.data)
    except AsyncStoreError as error:
        return error
    return digest


def _write(folder: int, base: str, data: bytes) -> None:
    temp = f"{TEMP_PREFIX}{secrets.token_hex(8)}"
    descriptor = os.open(temp, _NEW_FILE, 0o666, dir_fd=folder)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        os.rename(temp, base, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temp, dir_fd=folder)
        raise


@contextlib.contextmanager
def _translated(name: str, root: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, AsyncStoreError):
            raise
        raise from_file_error(error, f"write {os.path.join(root, name)!r}") from error


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _base(name: str) -> str:
    return name.rpartition("/")[2]
