"""
Names: dot paths of steps and branches, and their encoding as key segments. Pure functions.

An internal name is a dot path ``step.branch.step…`` whose parts may themselves hold dots, slashes, spaces or emoji, so
hierarchy is found from names that are known to exist, never by counting dots.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from asyncstore.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "ROOT_SCOPE",
    "branch_of_step",
    "check_name",
    "check_run_id",
    "decode_segment",
    "encode_segment",
    "has_control",
    "owner_of_branch",
]

ROOT_SCOPE = "~"
"""The key segment that stands for the root scope of parameters; no encoded name equals it."""

SEGMENT_LIMIT = 200
"""Most bytes of an encoded name: with a suffix it still fits the 255 bytes of a file name on every file system."""

_HASH_DIGITS = 32
_PLAIN = re.compile(r"[A-Za-z0-9_.-]*", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def has_control(text: str) -> bool:
    """Tell whether a text holds a control character of ASCII."""
    # Most are printable, and to say so takes a tenth of what a search takes.
    return not text.isprintable() and _CONTROL.search(text) is not None


def check_run_id(run_id: str) -> str:
    """
    Return ``run_id`` if it can be one segment of a key.

    Raises:
        InvalidValueError: it is empty, longer than 200 bytes, ``.`` or ``..``, or holds ``/``, a control character or a
            lone surrogate.
    """
    if has_control(run_id) or "/" in run_id or run_id in {"", ".", ".."}:
        raise InvalidValueError(
            f"run id {run_id!r} is not usable: it must be one path segment, without '/' or control characters"
        )
    if len(_utf8(run_id, "run id")) > SEGMENT_LIMIT:
        raise InvalidValueError(f"run id {run_id[:40]!r}… is longer than {SEGMENT_LIMIT} bytes")
    return run_id


def check_name(name: str, what: str) -> str:
    """
    Return ``name`` if every backend can hold it; ``what`` names it in the error ("step name", "parameter key" …).

    Raises:
        InvalidValueError: it is empty, or holds NUL or a lone surrogate.
    """
    if not name:
        raise InvalidValueError(f"a {what} must not be empty")
    if "\x00" in name:
        raise InvalidValueError(f"{what} {name!r} holds a NUL character, which SQL databases cannot store")
    _utf8(name, what)
    return name


def encode_segment(name: str) -> str:
    """
    Encode ``name`` as one key segment of at most 200 bytes.

    Every byte outside ``A-Z a-z 0-9 - _ .`` becomes ``%XX``. An encoding over 200 bytes keeps its beginning and ends in
    ``~`` and 32 hex digits of the name's SHA-256; ``~`` never occurs otherwise, so no two names share a segment.
    """
    if len(name) <= SEGMENT_LIMIT and _PLAIN.fullmatch(name):
        return name
    encoded = quote(name, safe="").replace("~", "%7E")
    if len(encoded) <= SEGMENT_LIMIT:
        return encoded
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
    kept = encoded[: SEGMENT_LIMIT - _HASH_DIGITS - 1]
    cut = kept.rfind("%", -2)
    return f"{kept[:cut] if cut >= 0 else kept}~{digest}"


def encode_folder(name: str) -> str:
    """Encode ``name`` as a segment that stands alone, so also ``.`` and ``..`` must not remain as they are."""
    return name.replace(".", "%2E") if name in {".", ".."} else encode_segment(name)


def decode_segment(segment: str) -> str | None:
    """Return the name that ``segment`` encodes, or ``None`` if only its hash is in the segment (see the body then)."""
    return None if "~" in segment else unquote(segment)


def branch_of_step(internal_name: str, name: str, branches: Collection[str] = ()) -> str:
    """
    Return the internal name of the branch that a step belongs to, ``""`` for the run itself.

    It is the internal name less ``.name``. A step whose internal name does not end in its name (some tools write such)
    belongs to the longest of ``branches`` that prefixes it.
    """
    if internal_name == name:
        return ""
    if name and internal_name.endswith(f".{name}"):
        return internal_name[: -len(name) - 1]
    return _longest_prefix(internal_name, branches) or ""


def owner_of_branch(internal_branch_name: str, steps: Collection[str]) -> str | None:
    """Return the step that a branch belongs to: the longest of ``steps`` that prefixes it, ``None`` if none does."""
    return _longest_prefix(internal_branch_name, steps)


def _longest_prefix(name: str, candidates: Collection[str]) -> str | None:
    end = name.rfind(".")
    while end > 0:
        if name[:end] in candidates:
            return name[:end]
        end = name.rfind(".", 0, end)
    return None


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(f"{what} {text!r} holds a lone surrogate and has no UTF-8 form") from error
