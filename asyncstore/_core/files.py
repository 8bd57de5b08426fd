"""
Local files: written whole or not at all, read without blocking the loop.

The functions here block; callers run them in threads, several files a hop where they are small.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import re
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "PART_NAME",
    "TEMP_NAME",
    "TEMP_PREFIX",
    "atomic_target",
    "claim",
    "locked",
    "new_temp_name",
    "remove_abandoned",
    "remove_empty_parents",
    "write_all",
    "write_atomically",
]

TEMP_PREFIX = ".~asyncstore-"
"""
Names that begin so are files on their way: listings leave them out and sweeps may remove old ones.

Encoded names never hold a bare ``~``, so no part of a run log is ever called so.
"""

TEMP_NAME = re.compile(re.escape(TEMP_PREFIX) + r"[0-9a-f]{16}")
"""What a file on its way is called; its writer holds a lock on it (see :func:`claim`)."""

PART_NAME = re.compile(TEMP_NAME.pattern + r"\.part")
"""What a large file is called that a later transfer may go on with."""

_TAKEN_RETRIES = 20

_numbers = random.Random()
"""Of names that nobody else has: to guess one is of no use, as files are opened only if they are new."""

os.register_at_fork(after_in_child=_numbers.seed)


@contextlib.contextmanager
def atomic_target(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """
    Give a temp path beside ``path`` to write to; it takes the final name when the block ends without an error.

    Missing parent folders are made. The temp name is new, so that a link planted there is not followed.

    Raises:
        FileExistsError: not ``overwrite``, and ``path`` exists; of several creators exactly one gets through.
    """
    temp = path.with_name(new_temp_name())
    _make_folder(path.parent)
    try:
        yield temp
        _give_name(temp, path, overwrite)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temp.unlink()
        raise


def write_atomically(
    path: Path, data: bytes | memoryview, *, overwrite: bool = True, mode: int | None = None
) -> os.stat_result:
    """
    Write ``data`` to ``path`` whole or not at all and return what ``stat`` says of it; see :func:`atomic_target`.

    ``mode`` are the permission bits, if not what the process gives new files. The temp file is claimed while it is
    written, so that no sweep takes it for abandoned.
    """
    for _ in range(_TAKEN_RETRIES):
        with contextlib.suppress(_TakenError):
            return _write_once(path, data, overwrite, mode)
    raise OSError(errno.EBUSY, "temp files are removed as fast as they are made", str(path.parent))


def new_temp_name() -> str:
    """Return a name for a file on its way."""
    return f"{TEMP_PREFIX}{_numbers.getrandbits(64):016x}"


def claim(descriptor: int, *, strict: bool = False) -> bool:
    """
    Lock a file on its way until its descriptor is closed, so that its writer is known to live.

    Returns:
        Whether it is ours; it is not if another writer has it, or somebody who takes it for abandoned was faster. Where
        the file system has no locks it is ours unless ``strict``: there nobody can tell, so nobody removes it.
    """
    try:
        return _try_lock(descriptor)
    except OSError:
        return not strict


def remove_abandoned(name: str, folder: int, *, older_than_ns: int | None = None, dry_run: bool = False) -> bool:
    """
    Remove a file on its way if no living writer holds it (see :func:`claim`), and return whether it was removed.

    Args:
        name: what it is called.
        folder: a descriptor of where it lies.
        older_than_ns: only if it was not written since then, in nanoseconds since the epoch.
        dry_run: tell whether it would be removed, and leave it.

    Raises:
        OSError: the file or the folder cannot be read or written, or has no locks.
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or (older_than_ns is not None and status.st_mtime_ns > older_than_ns):
            return False
        # Between our look and our lock it may have got its final name, and a new one this name.
        if not _try_lock(descriptor) or not _is_called(descriptor, name, folder):
            return False
        if not dry_run:
            os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        # Its writer found it taken, and was faster.
        return False
    finally:
        os.close(descriptor)
    return True


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data`` where the descriptor stands."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


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


class _TakenError(Exception):
    """Somebody took our temp file for abandoned and removed it."""


def _write_once(path: Path, data: bytes | memoryview, overwrite: bool, mode: int | None) -> os.stat_result:
    temp = path.with_name(new_temp_name())
    _make_folder(path.parent)
    descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        claimed = claim(descriptor)
        write_all(descriptor, data)
        if mode is not None:
            os.fchmod(descriptor, mode)
        status = os.fstat(descriptor)
        if not claimed or not status.st_nlink:
            raise _TakenError
        _give_name(temp, path, overwrite)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temp.unlink()
        raise
    finally:
        os.close(descriptor)
    return status


def _give_name(temp: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        temp.replace(path)
    else:
        os.link(temp, path)
        temp.unlink()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_called(descriptor: int, name: str, folder: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


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
