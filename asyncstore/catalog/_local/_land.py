"""
Writing the local side: files that appear whole, under a root that no link leads out of.

Every function opens what it needs and closes it again, so a transfer that is cancelled between two calls holds nothing.
They block; callers run them in threads. Large files have a module of their own:
:mod:`asyncstore.catalog._local._landing`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from typing import TYPE_CHECKING

from asyncstore._core.files import (
    PART_NAME,
    TEMP_NAME,
    TEMP_PREFIX,
    claim,
    new_temp_name,
    remove_abandoned,
    write_all,
)
from asyncstore.catalog._local._files import LocalFiles, row_of
from asyncstore.catalog._local._folders import NEW_FILE, Folders, parent_of, translated
from asyncstore.catalog._paths import fold, reserved
from asyncstore.errors import IntegrityError, UnavailableError, UnsafePathError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncstore.catalog._local._files import Row

__all__ = [
    "Folders",
    "check_digest",
    "folds_names",
    "look",
    "make_folder",
    "make_root",
    "sweep",
    "write_file",
]

_TAKEN_RETRIES = 20


def make_root(folder: str | os.PathLike[str]) -> str:
    """Make a compute data folder if it is missing and return where it really lies."""
    with translated(".", os.fspath(folder)):
        os.makedirs(folder, exist_ok=True)
        return os.path.realpath(folder)


def look(root: str, names: Sequence[str], *, clean: bool = True) -> LocalFiles:
    """
    Return those of ``names`` that are there as files, before anything is written.

    In the folders where they would lie, what writers that were killed have left of small files is removed, if
    ``clean``.

    Raises:
        UnsafePathError: one is a folder or a special file here, or lies in something that is not a folder or leads out.
    """
    wanted: dict[str, set[str]] = {}
    for name in names:
        folder, _, base = name.rpartition("/")
        wanted.setdefault(folder, set()).add(base)
    found = LocalFiles.under(root)
    missing = ""
    with Folders(root) as folders:
        for folder in sorted(wanted):
            if missing and f"{folder}/".startswith(missing):
                continue
            # Where this is denied the write is denied, too: that fails the file, and not all of them.
            with translated(folder, root, "read"), contextlib.suppress(PermissionError):
                try:
                    descriptor = folders.get(folder)
                except FileNotFoundError:
                    missing = f"{_topmost_missing(folders, folder)}/"
                else:
                    found.rows.update(_look_into(root, folder, descriptor, wanted[folder], clean))
    return found


def write_file(
    folders: Folders, name: str, data: bytes | memoryview, *, mode: int | None = None, mtime_ns: int | None = None
) -> None:
    """
    Write a small file, whole or not at all, in place of what has its name; folders above it are made.

    Args:
        folders: of the root that ``name`` is relative to.
        name: of the file.
        data: all that it is to hold.
        mode: permission bits, of which none but 0o777 count; by default those that the process gives new files.
        mtime_ns: time of modification since the epoch, by default now.

    Raises:
        UnsafePathError: ``name`` is a folder, or a link on the way leads out of the root.
        AccessDeniedError: the folder cannot be written.
        UnavailableError: the disk is full, or there are too many open files.
    """
    folder, _, base = name.rpartition("/")
    with translated(name, folders.root):
        for _ in range(_TAKEN_RETRIES):
            # A sweeper may take the temp file for abandoned before it is locked, and anybody may remove a folder.
            with contextlib.suppress(FileNotFoundError):
                if _write(folders.get(folder, make=True), base, data, mode, mtime_ns):
                    return
            folders.forget()
        if not _write(folders.get(folder, make=True), base, data, mode, mtime_ns):
            raise UnavailableError(
                f"write {os.path.join(folders.root, name)!r}: temp files are removed as they are made"
            )


def make_folder(root: str, name: str) -> None:
    """
    Make a folder, and those above it, if it is not there.

    Raises:
        UnsafePathError: a file has its name, or a link on the way leads out of the root.
    """
    with translated(name, root), Folders(root) as folders:
        folders.get(name, make=True)


def sweep(root: str, older_than_s: float, *, dry_run: bool = False) -> list[str]:
    """
    Remove what transfers into ``root`` have left behind, finished by nobody, and return the names.

    ``dry_run`` removes nothing.

    That is temp files and partly downloaded large ones on which nobody works and which were last written so long ago.
    What cannot be read or removed is left; links and folders that are asyncstore's own are not entered.
    """
    older_than_ns = time.time_ns() - int(older_than_s * 1e9)
    removed = []
    with Folders(root) as folders:
        for folder, base in _abandoned(folders):
            with contextlib.suppress(OSError):
                if remove_abandoned(base, folders.get(folder), older_than_ns=older_than_ns, dry_run=dry_run):
                    removed.append(f"{folder}/{base}" if folder else base)
    return removed


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
    with Folders(root) as folders, translated(".", root):
        top = folders.get("")
        os.close(os.open(name, NEW_FILE, 0o600, dir_fd=top))
        try:
            return any(_is_there(other, top) for other in (fold(name), name.replace("É", "E\u0301")))
        finally:
            os.unlink(name, dir_fd=top)


def _topmost_missing(folders: Folders, folder: str) -> str:
    while above := parent_of(folder):
        try:
            folders.get(above)
        except FileNotFoundError:
            folder = above
        else:
            break
    return folder


def _look_into(root: str, folder: str, descriptor: int, bases: set[str], clean: bool) -> Iterator[tuple[str, Row]]:
    seen_ns = time.time_ns()
    prefix = f"{folder}/" if folder else ""
    for base, status in _present(descriptor, bases, clean):
        name = prefix + base
        if stat.S_ISREG(status.st_mode):
            yield name, row_of(status, seen_ns)
            continue
        with contextlib.suppress(FileNotFoundError, PermissionError):
            row = _target(root, name, status, seen_ns)
            if row is not None:
                yield name, row


def _present(descriptor: int, bases: set[str], clean: bool) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what a folder has of some names, also if it cannot be read; ``clean`` what was abandoned."""
    try:
        with os.scandir(descriptor) as scanned:
            entries = list(scanned)
    except PermissionError:
        for base in bases:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                yield base, os.stat(base, dir_fd=descriptor, follow_symlinks=False)
        return
    for entry in entries:
        if entry.name in bases:
            try:
                status = entry.stat(follow_symlinks=False)
            except (FileNotFoundError, PermissionError):
                continue
            yield entry.name, status
        elif clean and entry.name.startswith(TEMP_PREFIX) and TEMP_NAME.fullmatch(entry.name):
            with contextlib.suppress(OSError):
                remove_abandoned(entry.name, descriptor)


def _target(root: str, name: str, status: os.stat_result, seen_ns: int) -> Row | None:
    """Return the file that what is no file leads to, ``None`` if that is not under the root."""
    path = f"{root.rstrip('/')}/{name}"
    if stat.S_ISLNK(status.st_mode):
        # Our rename replaces the link, not what it leads to; only if that is under the root, it may do as it is.
        path = os.path.realpath(path)
        if not path.startswith(f"{root.rstrip('/')}/"):
            return None
        status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "special file"
        raise UnsafePathError(f"{name!r} is a {kind} in {root!r}, so no file can be written there")
    return row_of(status, seen_ns, path)


def _write(folder: int, base: str, data: bytes | memoryview, mode: int | None, mtime_ns: int | None) -> bool:
    """Write a file under a temp name and give it its own; return false if somebody took the temp for abandoned."""
    temp = new_temp_name()
    # Nobody may read it under this name who may not under the other.
    descriptor = os.open(temp, NEW_FILE, 0o666 if mode is None else 0o600, dir_fd=folder)
    try:
        # Held until it has its name.
        if not claim(descriptor):
            return False
        write_all(descriptor, data)
        if mode is not None:
            os.fchmod(descriptor, mode & 0o777)
        if mtime_ns is not None:
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        os.rename(temp, base, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temp, dir_fd=folder)
        raise
    finally:
        os.close(descriptor)
    return True


def _abandoned(folders: Folders) -> Iterator[tuple[str, str]]:
    """Yield folder and name of files that look as if they were on their way."""
    stack = [""]
    while stack:
        folder = stack.pop()
        with contextlib.suppress(OSError, UnsafePathError), os.scandir(folders.get(folder)) as scanned:
            entries = list(scanned)
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if not reserved(entry.name):
                        stack.append(f"{folder}/{entry.name}" if folder else entry.name)
                elif TEMP_NAME.fullmatch(entry.name) or PART_NAME.fullmatch(entry.name):
                    yield folder, entry.name


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
