"""
Reading the local side: walking a compute data folder, and reading files that must not change meanwhile.

The functions here block; callers run them in threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from asyncstore._core.files import TEMP_PREFIX
from asyncstore.catalog._paths import reserved
from asyncstore.catalog._plan import MIB
from asyncstore.errors import AsyncStoreError, IntegrityError, NotFoundError, UnsafePathError
from asyncstore.objects._errors import from_file_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncstore.catalog._patterns import Matcher

__all__ = ["Content", "Identity", "LocalFile", "check_unchanged", "hash_range", "read_files", "real_folder", "walk"]

_TEMP = re.compile(re.escape(TEMP_PREFIX) + r"[0-9a-f]{16}")
_HASH_BLOCK = MIB


class Identity(NamedTuple):
    """What tells that a file is still the one that was seen, with the same contents."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """Take it from what ``stat`` says."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A regular file as it was seen; ``path`` has no links in it."""

    name: str
    path: str
    identity: Identity

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        return self.identity.size_bytes


@dataclass(frozen=True, slots=True)
class Content:
    """A file's bytes and their SHA-256 in hex."""

    data: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class _Folder:
    name: str
    """Empty, or ending in ``/``."""
    path: str
    above: frozenset[tuple[int, int]]
    """Device and inode of this folder and those above it: a link to one of them would lead in a circle."""


def real_folder(folder: str | os.PathLike[str]) -> str:
    """
    Return where a compute data folder really lies.

    Raises:
        NotFoundError: it does not exist, or is not a folder.
    """
    if not os.path.isdir(folder):
        state = "is not a folder" if os.path.exists(folder) else "does not exist"
        raise NotFoundError(
            f"compute data folder {os.fspath(folder)!r} {state} (looked in {os.getcwd()!r}): "
            "make it, or give another compute_data_folder"
        )
    return os.path.realpath(folder)


def walk(root: str, matcher: Matcher, *, leave_out: str = "") -> Iterator[LocalFile]:
    """
    Yield the files under ``root`` (a real path) that are meant, and look only into folders that can hold such.

    Links are followed within ``root``. The folder ``leave_out`` (a real path), what is asyncstore's own and files on
    their way are left out.

    Raises:
        UnsafePathError: what is meant is a FIFO, socket or device, or a link that leads out of ``root``, in a circle or
            nowhere.
        AccessDeniedError: a folder cannot be read.
    """
    stack = [_Folder("", root, frozenset({_node(root)}))]
    while stack:
        folder = stack.pop()
        for entry in _entries(folder.path):
            found = _look(root, folder, entry, matcher)
            if isinstance(found, LocalFile):
                yield found
            elif found is not None and found.path != leave_out:
                stack.append(found)


def read_files(files: Sequence[LocalFile]) -> list[Content | AsyncStoreError]:
    """Read and hash small files; one that cannot be read, or changed meanwhile, gives its error in its place."""
    return [_read_or_error(file) for file in files]


def hash_range(file: LocalFile, start: int, end: int, digest: hashlib._Hash) -> None:
    """
    Feed a part of a file to ``digest``.

    Raises:
        IntegrityError: the file is not the one that was seen, or has changed.
    """
    with _opened(file) as descriptor:
        while start < end:
            block = os.pread(descriptor, min(_HASH_BLOCK, end - start), start)
            if not block:
                raise _changed(file)
            digest.update(block)
            start += len(block)


def check_unchanged(file: LocalFile) -> None:
    """Raise :class:`IntegrityError` if a file is not the one that was seen, or has changed."""
    with _opened(file):
        pass


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise from_file_error(error, f"read folder {folder!r}") from error


def _look(root: str, folder: _Folder, entry: os.DirEntry[str], matcher: Matcher) -> LocalFile | _Folder | None:
    """Return what an entry is, ``None`` if it is not meant or has vanished."""
    if reserved(entry.name) or _TEMP.fullmatch(entry.name):
        return None
    name = folder.name + entry.name
    path: str | None = os.path.join(folder.path, entry.name)
    if entry.is_symlink():
        path = _followed(root, name, entry.path, matcher)
    if path is None:
        return None
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        return _deeper(folder, name, path, status) if matcher.enters(name) else None
    return LocalFile(name, path, _regular(status, name)) if matcher.matches(name) else None


def _followed(root: str, name: str, path: str, matcher: Matcher) -> str | None:
    """Return where a link leads, ``None`` if that is not meant."""
    real = os.path.realpath(path)
    nowhere = not os.path.exists(real) or os.path.islink(real)
    if not (matcher.enters(name) if os.path.isdir(real) else matcher.matches(name)):
        return None
    if nowhere:
        raise UnsafePathError(f"{name!r} is a link that leads nowhere: exclude or mend it")
    if real != root and not real.startswith(f"{root.rstrip('/')}/"):
        raise UnsafePathError(
            f"{name!r} is a link that leads out of the compute data folder, to {real!r}: "
            "exclude it, or put a copy in its place"
        )
    return None if reserved(real[len(root) :]) else real


def _deeper(folder: _Folder, name: str, path: str, status: os.stat_result) -> _Folder:
    node = (status.st_dev, status.st_ino)
    if node in folder.above:
        raise UnsafePathError(f"{name!r} is a link to a folder above it, so it never ends: exclude it")
    return _Folder(f"{name}/", path, folder.above | {node})


def _regular(status: os.stat_result, name: str) -> Identity:
    if not stat.S_ISREG(status.st_mode):
        raise UnsafePathError(f"{name!r} is a {_kind(status.st_mode)}, not a file: exclude it")
    return Identity.of(status)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(mode), "special file")


def _node(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _read_or_error(file: LocalFile) -> Content | AsyncStoreError:
    try:
        with _opened(file) as descriptor:
            data = os.read(descriptor, file.size_bytes + 1)
            while 0 < len(data) < file.size_bytes and (more := os.read(descriptor, file.size_bytes + 1 - len(data))):
                data += more
        if len(data) != file.size_bytes:
            raise _changed(file)
        return Content(data, hashlib.sha256(data).hexdigest())
    except AsyncStoreError as error:
        return error


@contextlib.contextmanager
def _opened(file: LocalFile) -> Iterator[int]:
    """Give a descriptor of the very file that was seen; it must still be so at the end."""
    try:
        # Non-blocking, in case that a FIFO has taken the file's place.
        descriptor = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check(file, descriptor)
            yield descriptor
            _check(file, descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if isinstance(error, AsyncStoreError):
            raise
        raise from_file_error(error, f"read {file.path!r}") from error


def _check(file: LocalFile, descriptor: int) -> None:
    if Identity.of(os.fstat(descriptor)) != file.identity:
        raise _changed(file)


def _changed(file: LocalFile) -> IntegrityError:
    return IntegrityError(f"{file.path!r} changed while it was read: put it when its writer is done")
