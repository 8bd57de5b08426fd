"""
Patterns: which names of a folder are meant. Pure, and the same for files on disk and objects in a catalog.

A pattern is matched against a whole name, relative to the compute data folder and ``/``-separated:

- ``*`` is any run of characters within one segment, ``?`` is one of them, ``[abc]``, ``[a-z]``, ``[!a]`` one of a set.
- ``**`` as a whole segment is any number of folders, also none: ``**/x`` matches ``x``. At the end it is all below.
- ``sub/`` is ``sub/**``; a leading ``./`` is dropped. Letter case counts.
- Hidden files are files: ``*`` matches ``.env``, as with :meth:`pathlib.Path.glob`.
- :func:`glob.escape` makes a pattern of a name that holds ``*``, ``?`` or ``[``.
"""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncstore.errors import InvalidValueError, UnsafePathError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Matcher", "Pattern"]

_TOKEN = re.compile(r"(?P<star>\*+)|(?P<one>\?)|\[(?P<set>!?+\]?+[^\]]*)\]|(?P<plain>.)", re.DOTALL)
_MAGIC = re.compile(r"[*?\[]")
_ANY_FOLDERS = "(?:[^/]+/)*"


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern, taken apart and compiled."""

    text: str
    segments: tuple[str, ...]
    regex: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """
        Compile a pattern.

        Raises:
            InvalidValueError: it is empty, or has ``**`` within a segment, where tools differ on the meaning.
            UnsafePathError: it is absolute or holds ``..``.
        """
        if text.startswith("/"):
            raise UnsafePathError(f"pattern {text!r} is absolute: patterns are relative to the compute data folder")
        segments = [segment for segment in text.split("/") if segment not in {"", "."}]
        segments = [one for index, one in enumerate(segments) if one != "**" or segments[index - 1 : index] != ["**"]]
        if ".." in segments:
            raise UnsafePathError(f"pattern {text!r} leads out of the compute data folder")
        if not segments:
            raise InvalidValueError(f"pattern {text!r} names nothing: use '**' for every file")
        if text.endswith("/"):
            segments.append("**")
        for segment in segments:
            if "**" in segment and segment != "**":
                raise InvalidValueError(
                    f"pattern {text!r}: '**' must be a whole segment, as in '**/{segment.replace('**', '*')}'"
                )
        return cls(text, tuple(segments), re.compile(_regex(segments), re.DOTALL))

    @property
    def literal(self) -> bool:
        """Whether it can match one name only."""
        return not _MAGIC.search("/".join(self.segments))

    @property
    def folder(self) -> tuple[str, ...]:
        """The segments of the deepest folder that holds everything it can match."""
        for index, segment in enumerate(self.segments):
            if _MAGIC.search(segment):
                return self.segments[:index]
        return self.segments[:-1]

    @property
    def everything(self) -> bool:
        """Whether every file is sure to match, as by ``**`` and ``**/*``."""
        *folders, last = self.segments
        return set(folders) <= {"**"} and (last == "**" or (last == "*" and bool(folders)))

    def matches(self, name: str) -> bool:
        """Tell whether the whole name matches."""
        return self.regex.fullmatch(name) is not None

    def enters(self, folder: str) -> bool:
        """Tell whether something in that folder, or deeper, can match."""
        parts = folder.split("/")
        for index, part in enumerate(parts):
            if self.segments[index] == "**":
                return True
            if index == len(self.segments) - 1 or not re.fullmatch(
                _segment_regex(self.segments[index]), part, re.DOTALL
            ):
                return False
        return True

    def covers(self, folder: str) -> bool:
        """Tell whether everything in that folder, at any depth, is sure to match: the pattern ends in ``**``."""
        return self.segments[-1] == "**" and self.matches(f"{folder}/x") and self.matches(f"{folder}/x/y")


@dataclass(frozen=True, slots=True)
class Matcher:
    """Names that any of some patterns matches and none of others excludes."""

    patterns: tuple[Pattern, ...]
    excluded: tuple[Pattern, ...] = ()

    @classmethod
    def of(cls, names: str | Iterable[str], exclude: str | Iterable[str] = ()) -> Matcher:
        """Compile patterns, one or several; raises like :meth:`Pattern.parse`."""
        return cls(_parse_all(names), _parse_all(exclude))

    @property
    def literals(self) -> tuple[str, ...] | None:
        """The names that can match, where these are known; ``None`` if there is a wildcard."""
        if not all(pattern.literal for pattern in self.patterns):
            return None
        return tuple(name for name in _names(self.patterns) if self.matches(name))

    @property
    def folder(self) -> str:
        """The deepest folder that holds everything that can match, ending in ``/``; empty if that is the top."""
        levels = zip(*(pattern.folder for pattern in self.patterns), strict=False)
        common = itertools.takewhile(lambda level: len(set(level)) == 1, levels)
        return "".join(f"{level[0]}/" for level in common)

    @property
    def flat(self) -> bool:
        """Whether everything that can match lies in :attr:`folder` itself, not deeper."""
        depth = self.folder.count("/") + 1
        return all(len(pattern.segments) == depth and pattern.segments[-1] != "**" for pattern in self.patterns)

    @property
    def everything(self) -> bool:
        """Whether every file is sure to be meant."""
        return not self.excluded and any(pattern.everything for pattern in self.patterns)

    def matches(self, name: str) -> bool:
        """Tell whether a name is meant."""
        return any(pattern.matches(name) for pattern in self.patterns) and not self._excludes(name)

    def enters(self, folder: str) -> bool:
        """Tell whether anything in that folder, or deeper, can be meant."""
        if any(pattern.covers(folder) for pattern in self.excluded):
            return False
        return any(pattern.enters(folder) for pattern in self.patterns)

    def means_folder(self, folder: str) -> bool:
        """Tell whether a folder itself is meant: everything that it may hold is."""
        if any(pattern.covers(folder) for pattern in self.excluded):
            return False
        return any(pattern.covers(folder) for pattern in self.patterns)

    def unmatched(self, names: Sequence[str]) -> list[str]:
        """Return the patterns that match none of ``names``."""
        return [pattern.text for pattern in self.patterns if not any(map(pattern.matches, names))]

    def _excludes(self, name: str) -> bool:
        return any(pattern.matches(name) for pattern in self.excluded)


def _parse_all(names: str | Iterable[str]) -> tuple[Pattern, ...]:
    listed = [names] if isinstance(names, str | os.PathLike) else names
    return tuple(Pattern.parse(os.fspath(name)) for name in listed)


def _names(patterns: Iterable[Pattern]) -> list[str]:
    return list(dict.fromkeys("/".join(pattern.segments) for pattern in patterns))


def _regex(segments: Sequence[str]) -> str:
    *folders, last = segments
    parts = [_ANY_FOLDERS if segment == "**" else f"{_segment_regex(segment)}/" for segment in folders]
    return "".join([*parts, ".+" if last == "**" else _segment_regex(last)])


def _segment_regex(segment: str) -> str:
    return "".join(_token_regex(token) for token in _TOKEN.finditer(segment))


def _token_regex(token: re.Match[str]) -> str:
    match token.lastgroup:
        case "star":
            return "[^/]*"
        case "one":
            return "[^/]"
        case "set":
            return _set_regex(token["set"])
        case _:
            return re.escape(token["plain"])


def _set_regex(body: str) -> str:
    negated = body.startswith("!")
    members = _members(body[1:] if negated else body)
    if not members:
        return "[^/]" if negated else "(?!)"
    # A range such as [+-9] spans the slash, which no set may match.
    return f"(?!/)[{'^' if negated else ''}{members}]"


def _members(body: str) -> str:
    members: list[str] = []
    index = 0
    while index < len(body):
        first, dash, last = body[index], body[index + 1 : index + 2], body[index + 2 : index + 3]
        if dash == "-" and last:
            if first <= last:
                members.append(f"{re.escape(first)}-{re.escape(last)}")
            index += 3
        else:
            members.append(re.escape(first))
            index += 1
    return "".join(members)
