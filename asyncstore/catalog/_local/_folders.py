"""
Folders of the local side, under a root that no link leads out of.

Every folder on the way is opened relative to the one above without following links, so a link planted meanwhile makes
the open fail instead of leading elsewhere. Links that were there before are followed while they stay under the root.
The functions here block; callers run them in threads.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Self

from asyncstore.errors import AsyncStoreError, UnsafePathError
from asyncstore.objects._errors import from_file_error

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NEW_FILE", "Folders", "base_of", "parent_of", "translated"]

NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_LIMIT = 4
"""Few, as several threads have theirs, and files that are moved together mostly lie side by side."""

_TOO_MANY = {errno.EMFILE, errno.ENFILE}


class Folders:
    """Descriptors of folders under ``root`` (a real path): the last few that were asked for, closed with the block."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._open: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close(0)

    def get(self, folder: str, *, make: bool = False) -> int:
        """
        Return a descriptor of ``folder``, a relative name, empty for the root; it is valid until the next is asked for.

        Raises:
            FileNotFoundError: it is not there, and is not to be made.
            UnsafePathError: a link leads out of the root, or something on the way is not a folder.
        """
        found = self._open.get(folder)
        if found is not None:
            return found
        try:
            descriptor = self._reach(folder, make)
        except OSError as error:
            if error.errno not in _TOO_MANY or not self._open:
                raise
            self._close(0)
            descriptor = self._reach(folder, make)
        self._close(_OPEN_LIMIT - 1)
        self._open[folder] = descriptor
        return descriptor

    def forget(self) -> None:
        """Close all, so that each is looked up anew: it may have been removed or moved."""
        self._close(0)

    def _reach(self, folder: str, make: bool) -> int:
        try:
            return self._descend(folder, make)
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                raise
        real = os.path.realpath(os.path.join(self.root, folder))
        if not f"{real}/".startswith(f"{self.root.rstrip('/')}/"):
            raise UnsafePathError(f"{folder!r} is a link that leads out of {self.root!r}, to {real!r}")
        try:
            return self._descend(os.path.relpath(real, self.root), make)
        except NotADirectoryError as error:
            raise UnsafePathError(f"{folder!r} is not a folder in {self.root!r}, but would have to be one") from error

    def _descend(self, folder: str, make: bool) -> int:
        current, parts = self._nearest(folder)
        for part in parts:
            try:
                deeper = _open_folder(part, current, make)
            finally:
                os.close(current)
            current = deeper
        return current

    def _nearest(self, folder: str) -> tuple[int, list[str]]:
        """Return a new descriptor of the root or of an open folder on the way, and what is left of the way."""
        above = folder
        while above:
            above = parent_of(above)
            if above in self._open:
                rest = folder[len(above) :]
                return os.dup(self._open[above]), _parts(rest)
        return os.open(self.root, _FOLDER), _parts(folder)

    def _close(self, leave: int) -> None:
        while len(self._open) > leave:
            os.close(self._open.pop(next(iter(self._open))))


@contextlib.contextmanager
def translated(name: str, root: str, verb: str = "write") -> Iterator[None]:
    """Turn errors of the file system in the block into ours; ``name`` under ``root`` is what they are about."""
    try:
        yield
    except AsyncStoreError:
        raise
    except OSError as error:
        raise from_file_error(error, f"{verb} {os.path.join(root, name)!r}") from error


def parent_of(name: str) -> str:
    """Return the folder that a relative name lies in, empty for the top."""
    return name.rpartition("/")[0]


def base_of(name: str) -> str:
    """Return the last segment of a name."""
    return name.rpartition("/")[2]


def _parts(folder: str) -> list[str]:
    return [part for part in folder.split("/") if part not in {"", "."}]


def _open_folder(name: str, above: int, make: bool) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=above)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=above)
    return os.open(name, _FOLDER, dir_fd=above)
