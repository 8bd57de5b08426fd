"""
Walking a compute data folder.

The functions here block; callers run them in threads.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncstore._core.files import PART_NAME, TEMP_NAME
from asyncstore.catalog._local._files import LocalFiles, row_of
from asyncstore.catalog._paths import reserved
from asyncstore.errors import NotFoundError, UnsafePathError
from asyncstore.objects._errors import from_file_error
from asyncstore.objects.folder import LOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from asyncstore.catalog._patterns import Matcher

__all__ = ["Scan", "real_folder", "test_of", "walk"]

_KIND = 0o170000

_PORTION = 1000
"""Entries of folders looked at in one go."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a walk has found so far."""

    files: LocalFiles
    """What is meant of the regular files."""
    empty: list[str] = field(default_factory=list)
    """Names of folders that hold nothing."""


@dataclass(frozen=True, slots=True)
class _Folder:
    name: str
    """Empty, or ending in ``/``."""
    path: str
    above: frozenset[tuple[int, int]]
    """Device and inode of this folder and those above it: a link to one of them would lead in a circle."""
    whole: bool
    """Whether all that it holds is meant, at any depth."""


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


def walk(root: str, matcher: Matcher, found: Scan, *, leave_out: str = "") -> Iterator[bool]:
    """
    Add the files under ``root`` (a real path) that are meant to ``found``, a portion before each ``True`` it yields.

    It looks only into folders that can hold such. A folder that holds nothing is added, too, where a pattern means all
    that a folder holds. Links are followed within ``root``. The folder ``leave_out`` (a real path), what is
    asyncstore's own and files on their way are left out.

    Raises:
        UnsafePathError: what is meant is a FIFO, socket or device, or a link that leads out of ``root``, in a circle or
            nowhere.
        AccessDeniedError: a folder cannot be read.
    """
    matches = test_of(matcher)
    stack = [_Folder("", root, frozenset({_node(root)}), matcher.everything)]
    looked_at = 0
    while stack:
        folder = stack.pop()
        entries = _entries(folder.path)
        if entries is None:
            continue
        for start in range(0, len(entries), _PORTION):
            portion = entries[start : start + _PORTION]
            deeper = _look(root, folder, portion, matcher, matches, found.files)
            stack += [below for below in deeper if below.path != leave_out]
            looked_at += len(portion)
            if looked_at >= _PORTION:
                looked_at = 0
                yield True
        if not entries and any(pattern.covers(folder.name[:-1]) for pattern in matcher.patterns if folder.name):
            found.empty.append(folder.name[:-1])
    if looked_at:
        yield True


def test_of(matcher: Matcher) -> Callable[[str], object]:
    """Return what :meth:`Matcher.matches` does, faster for the patterns that most transfers have."""
    if len(matcher.patterns) == 1 and not matcher.excluded:
        return matcher.patterns[0].regex.fullmatch
    return matcher.matches


def _all_meant(matcher: Matcher, folder: str) -> bool:
    """Tell whether everything in a folder, not the top, is sure to be meant, at any depth."""
    if any(pattern.enters(folder) for pattern in matcher.excluded):
        return False
    return any(pattern.covers(folder) for pattern in matcher.patterns)


def _entries(folder: str) -> list[os.DirEntry[str]] | None:
    """Return what a folder holds, ``None`` if it has vanished."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_file_error(error, f"read folder {folder!r}") from error


def _look(
    root: str,
    folder: _Folder,
    entries: Sequence[os.DirEntry[str]],
    matcher: Matcher,
    matches: Callable[[str], object],
    files: LocalFiles,
) -> list[_Folder]:
    """Add what is meant of a folder's entries, and return the folders to look into; what has vanished is left out."""
    deeper: list[_Folder] = []
    seen_ns = time.time_ns()
    prefix, whole = folder.name, folder.whole
    linked = f"{folder.path.rstrip('/')}/" != files.top + prefix
    for entry in entries:
        base = entry.name
        if base[0] == "." and _is_own(base):
            continue
        name, path = prefix + base, entry.path if linked else ""
        try:
            status = entry.stat(follow_symlinks=False)
            kind = status.st_mode & _KIND
            if kind == stat.S_IFLNK:
                real = _followed(root, name, entry.path, matcher)
                if real is None:
                    continue
                path, status = real, os.lstat(real)
                kind = status.st_mode & _KIND
        except FileNotFoundError:
            continue
        except OSError as error:
            raise from_file_error(error, f"read {path or entry.path!r}") from error
        if kind == stat.S_IFDIR:
            if matcher.enters(name):
                deeper.append(_deeper(folder, name, path or entry.path, status, matcher))
        elif whole or matches(name):
            if kind != stat.S_IFREG:
                raise UnsafePathError(f"{name!r} is a {_kind(status.st_mode)}, not a file: exclude it")
            files.rows[name] = row_of(status, seen_ns, path)
    return deeper


def _is_own(base: str) -> bool:
    return bool(reserved(base) or base == LOCK_NAME or TEMP_NAME.fullmatch(base) or PART_NAME.fullmatch(base))


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


def _deeper(folder: _Folder, name: str, path: str, status: os.stat_result, matcher: Matcher) -> _Folder:
    node = (status.st_dev, status.st_ino)
    if node in folder.above:
        raise UnsafePathError(f"{name!r} is a link to a folder above it, so it never ends: exclude it")
    return _Folder(f"{name}/", path, folder.above | {node}, folder.whole or _all_meant(matcher, name))


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(mode), "special file")


def _node(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
