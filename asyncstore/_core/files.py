"""
Local files: written whole or not at all, read without blocking the loop.

The functions here block; callers run them in threads, several files a hop where they are small.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["atomic_target", "locked", "remove_empty_parents", "write_atomically"]

TEMP_PREFIX = ".~asyncstore-"
"""
Names that begin so are files on their way: listings leave them out and sweeps may remove old ones.

Encoded names never hold a bare ``~``, so no part of a run log is ever called so.
"""


@contextlib.contextmanager
def atomic_target(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """
    Give a temp path beside ``path`` to write to; it takes the final name when the block ends without an error.

    Missing parent folders are made. The temp name is new, so that a link planted there is not followed.

    Raises:
        FileExistsError: not ``overwrite``, and ``path`` exists; of several creators exactly one gets through.
    """
    temp = path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(8)}")
    _make_folder(path.parent)
    try:
        yield temp
        if overwrite:
            temp.replace(path)
        else:
            os.link(temp, path)
            temp.unlink()
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temp.unlink()
        raise


def write_atomically(path: Path, data: bytes, *, overwrite: bool = True) -> os.stat_result:
    """Write ``data`` to ``path`` whole or not at all and return what ``stat`` says of it; see :func:`atomic_target`."""
    with atomic_target(path, overwrite=overwrite) as temp:
        descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    return status


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """
    Hold an exclusive lock on ``path`` among all processes that ask for it here; waits until it is free.

    The file is made if missing and left behind. Only a holder may remove it: whoever waited for a file that is gone by
    then takes the one in its place.
    """
    _make_folder(path.parent)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_same_file(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        # Also what pathlib says when the folder was there and has just been removed by somebody else.
        if path.exists() and not path.is_dir():
            raise
        raise FileNotFoundError(errno.ENOENT, "the folder was removed meanwhile", str(path)) from error


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def remove_empty_parents(path: Path, root: Path) -> None:
    """Remove the folders above ``path`` that have become empty, up to but not including ``root``."""
    for folder in path.parents:
        if folder == root or root not in folder.parents:
            return
        try:
            folder.rmdir()
        except OSError:
            return
