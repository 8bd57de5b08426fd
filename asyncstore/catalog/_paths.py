"""
Names of files and their keys: what they are, and which are refused. Pure.

A catalog's key is ``<prefix>/<run_id>/<folder>/<name>``: the folder is the key part of the compute data folder, the
name is relative to it.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asyncstore._core.files import TEMP_PREFIX
from asyncstore.errors import ConfigurationError, UnsafePathError
from asyncstore.names import check_run_id, has_control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "RESERVED",
    "ComputeFolder",
    "Place",
    "check_names",
    "clashes",
    "compute_folder",
    "fold",
    "folder_of",
    "is_marker",
    "marker",
    "normal_prefix",
    "refusals",
    "reserved",
    "why_unsafe",
]

RESERVED = ".asyncstore"
"""A file or folder called so, at any level, is asyncstore's own (a run log may live there): it is no data of a run."""

_MARKER_END = f"/{RESERVED}"

SEGMENT_LIMIT_BYTES = 255
"""Most bytes of a file name on common file systems."""

KEY_LIMIT_BYTES = 1024
"""Most bytes of an S3 key."""

_DRIVE = re.compile(r"[A-Za-z]:")
_PLAIN = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_. -]{0,200}/)*[A-Za-z0-9_][A-Za-z0-9_. -]{0,200}")
"""Names of which nothing needs to be looked at more closely."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ComputeFolder:
    """A compute data folder: where it lies on this machine, and what stands for it in keys."""

    local: Path
    part: str
    """Empty, or segments each ending in ``/``."""


def compute_folder(folder: str | os.PathLike[str], local: str | os.PathLike[str] | None = None) -> ComputeFolder:
    """
    Return a compute data folder; ``local``, if given, is where it lies instead.

    On this machine the folder is taken as given, ``~`` is the home. In keys ``data/`` is ``data``, ``.`` is nothing,
    ``a/b`` stays, and what would lead elsewhere on another machine is left out: ``../data`` is ``data``,
    ``/tmp/x/data`` is ``data``.

    Raises:
        UnsafePathError: no usable name is left (``..``, ``/``, control characters …), or it is asyncstore's own.
    """
    text = os.path.expanduser(os.fspath(folder))
    normal = posixpath.normpath(text)
    if normal.startswith("/"):
        normal = posixpath.basename(normal) or ".."
    parts = [part for part in normal.split("/") if part not in {".", ".."}]
    if not parts and normal != ".":
        raise UnsafePathError(f"compute data folder {text!r} has no name of its own: give the folder by its name")
    if reserved("/".join(parts)):
        raise UnsafePathError(f"compute data folder {text!r} cannot be used: {RESERVED!r} is asyncstore's own")
    reason = why_unsafe("/".join(parts)) if parts else ""
    if reason:
        raise UnsafePathError(f"compute data folder {text!r} cannot be used: {reason}")
    here = text if local is None else os.path.expanduser(os.fspath(local))
    return ComputeFolder(Path(here), "".join(f"{part}/" for part in parts))


def normal_prefix(prefix: str) -> str:
    """
    Return a prefix as keys begin with it: empty, or ending in ``/``.

    Raises:
        ConfigurationError: it holds ``.`` or ``..`` as a segment, or control characters.
    """
    segments = [segment for segment in prefix.split("/") if segment]
    if {".", ".."} & set(segments) or has_control(prefix):
        raise ConfigurationError(f"prefix {prefix!r} is not usable: no '.', '..' or control characters, please")
    return "".join(f"{segment}/" for segment in segments)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run's files lie in a catalog; ``folder`` narrows it to one compute data folder."""

    prefix: str
    run_id: str
    folder: str = ""

    @classmethod
    def of(cls, prefix: str, run_id: str, folder: str = "") -> Place:
        """Make a place of a normal prefix, a run id (checked here) and a folder's key part."""
        return cls(prefix, check_run_id(run_id), folder)

    @property
    def root(self) -> str:
        """What the keys of everything here begin with; ends in ``/``."""
        return f"{self.prefix}{self.run_id}/{self.folder}"

    def key(self, name: str) -> str:
        """Return the key of a name that is relative to the folder."""
        # Not by way of the root, which takes as long again, for each file.
        return f"{self.prefix}{self.run_id}/{self.folder}{name}"

    def name_of(self, key: str) -> str:
        """Return the name, relative to the folder, that a key under :attr:`root` stands for."""
        return key[len(self.root) :]


def refusals(names: Iterable[str], place: Place) -> dict[str, str]:
    """
    Return which names are refused and why.

    Such are names that would leave their folder, that no file system can hold, or that cannot be beside another one.
    """
    listed = list(names)
    room = KEY_LIMIT_BYTES - len(place.root.encode())
    plain = _PLAIN.fullmatch
    doubtful = [name for name in listed if len(name) > room or not plain(name)]
    problems = {name: reason for name in doubtful if (reason := _why_refused(name, room))}
    # A file may take the place of a folder that was empty: the marker of that has nothing to say any more.
    clashing = ((one, other) for one, other in clashes(listed) if not is_marker(other))
    problems |= {one: f"would be both a file and a folder of {other!r}" for one, other in clashing}
    return problems


def check_names(names: Iterable[str], place: Place) -> None:
    """
    Refuse what :func:`refusals` tells of.

    Raises:
        UnsafePathError: naming the first few and why; it is raised before the first byte moves.
    """
    problems = [f"{name!r} {reason}" for name, reason in refusals(names, place).items()]
    if problems:
        raise UnsafePathError(_some(problems))


def marker(folder: str) -> str:
    """Return the name of the empty object that stands for an empty folder."""
    return f"{folder}/{RESERVED}"


def is_marker(name: str) -> bool:
    """Tell whether a name stands for an empty folder."""
    return name.endswith(_MARKER_END) and not reserved(name[: -len(_MARKER_END)])


def folder_of(name: str) -> str:
    """Return the folder that a name lies in, empty if that is the top."""
    return name.rpartition("/")[0]


def reserved(name: str) -> bool:
    """Tell whether a name is, or lies in, what is asyncstore's own (:data:`RESERVED`) to some file system."""
    return (name.startswith(".") or "/." in name) and RESERVED in name.casefold().split("/")


def why_unsafe(name: str) -> str:
    """Return why a relative name is refused, or nothing if it is not."""
    if name.startswith("/"):
        return "is absolute"
    if "\\" in name:
        return "holds a backslash, which other systems take for a separator"
    if _DRIVE.match(name):
        return "begins like a drive letter"
    if has_control(name):
        return "holds a control character"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    return next((reason for segment in name.split("/") if (reason := _why_unsafe_segment(segment))), "")


def clashes(names: Iterable[str], fold: Callable[[str], str] = str) -> Iterator[tuple[str, str]]:
    """Yield pairs of names of which only one can exist: equal after ``fold``, or one of them a folder of the other."""
    listed = list(names)
    if fold is str and not _may_clash(listed):
        return
    seen: dict[str, str] = {}
    for name in listed:
        folded = fold(name)
        if folded in seen:
            yield seen[folded], name
        seen[folded] = name
    for folded, name in seen.items():
        end = folded.find("/")
        while end >= 0:
            if folded[:end] in seen:
                yield seen[folded[:end]], name
            end = folded.find("/", end + 1)


def _may_clash(names: Sequence[str]) -> bool:
    """Tell whether two names are equal, or one is a folder of another; quick where they are not."""
    known = set(names)
    folders = {name.rpartition("/")[0] for name in names}
    found = len(known) < len(names)
    while folders and not found:
        found = not known.isdisjoint(folders)
        folders = {folder.rpartition("/")[0] for folder in folders if folder}
    return found


def fold(name: str) -> str:
    """Return what a file system that ignores letter case and Unicode composition makes of a name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _why_unsafe_segment(segment: str) -> str:
    if segment in {"", ".", ".."}:
        return f"has {segment!r} as a segment"
    if len(segment.encode()) > SEGMENT_LIMIT_BYTES:
        return f"has a segment of over {SEGMENT_LIMIT_BYTES} bytes"
    if segment.startswith(TEMP_PREFIX):
        return f"has a segment that begins with {TEMP_PREFIX!r}, which is kept for files on their way"
    return ""


def _why_refused(name: str, room: int) -> str:
    reason = why_unsafe(name)
    if not reason and (more := len(name.encode()) - room) > 0:
        return f"makes a key of {KEY_LIMIT_BYTES + more} bytes, over the limit of {KEY_LIMIT_BYTES}"
    return reason


def _some(problems: list[str]) -> str:
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return f"nothing was moved: {'; '.join(problems[:_SHOWN])}{more}"
