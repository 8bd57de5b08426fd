"""
The tree that fragments make up, and how to take one apart. Pure functions.

:func:`write_document` puts fragments together and :func:`flatten` takes a run log document apart; every layout, the
assembled document, import and export go through these two. Fragments are JSON text already, so a document is joined
from their texts, and only what has to be known of them is parsed. A full read (:func:`assemble`) makes models of the
fragments, without a document in between, unless one of them is no such model: then the document's readers say of which.
"""

from __future__ import annotations

import json
import re
from codecs import getincrementaldecoder
from typing import TYPE_CHECKING, Any, TypeVar

from asyncstore.errors import IntegrityError
from asyncstore.models import (
    STAMP,
    STAMP_FIELD,
    BranchLog,
    RunLog,
    parse_stamp,
    stamp_text,
)
from asyncstore.runlog._assembling import Models
from asyncstore.runlog._json import dump_json
from asyncstore.runlog._parts import (
    MISSING_STATUS,
    NESTING_LIMIT,
    NOT_OWN,
    ORPHANS,
    Parts,
    Stored,
    link,
    may_hold_more,
    orphans_text,
    own_text,
    parsed,
    placeholder,
)
from asyncstore.runlog.encoding import NESTED, validate_json
from asyncstore.runlog.fragments import HEADER, JOB, Fragment, FragmentKey, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "MISSING_STATUS",
    "NESTING_LIMIT",
    "assemble",
    "assemble_branch",
    "assemble_parts",
    "flatten",
    "read_header",
    "write_document",
]

Model = TypeVar("Model", RunLog, BranchLog)
_DECODER = json.JSONDecoder()
_HEADER_FIELDS = RunLog.model_fields.keys() - NESTED[RunLog] - {STAMP_FIELD}
_STEP_NAME = re.compile(rb'\{"name":"([^"\\]*)"')
_PLAIN_NAME = re.compile(r"[ !#-\[\]-~]*", re.ASCII)


def assemble(fragments: Iterable[Fragment], *, where: str = "") -> RunLog | None:
    """
    Return the full run log that ``fragments`` make up, ``None`` if the header is missing.

    A missing part leaves a gap: steps whose branch is missing are held by a branch of status ``UNKNOWN``; what belongs
    to a step that is missing is left out of the tree, and can still be read by name.
    """
    return assemble_parts(Parts.of(fragments), where=where)


def assemble_parts(parts: Parts, *, where: str = "") -> RunLog | None:
    """
    Return the full run log that ``parts`` make up; see :func:`assemble`.

    Raises:
        IntegrityError: a part is not what it should be.
    """
    if parts.header is None:
        return None
    parts = _unfolded(parts)
    try:
        return Models(parts).run()
    except (IntegrityError, ValueError):
        text = _document(parts)
    return _read(RunLog, text, where or "run log", parts)


def assemble_branch(name: str, fragments: Iterable[Fragment]) -> BranchLog | None:
    """Return the branch of that name with everything in it, ``None`` if its own fragment is missing."""
    parts = _unfolded(Parts.of(fragments))
    if name not in parts.branches:
        return None
    try:
        return Models(parts, name).branch(name)
    except (IntegrityError, ValueError):
        writer = _Writer(parts, name)
        writer.branch(name)
    return _read(BranchLog, writer.text(), f"BranchLog {name!r}", parts)


def write_document(fragments: Iterable[Fragment], *, extra: Mapping[str, Any] | None = None) -> bytes | None:
    """
    Return the document that ``fragments`` make up, ``None`` if the header is missing; see :func:`assemble`.

    ``extra`` holds further fields for its top level. The header's own fields come first.

    Raises:
        IntegrityError: a fragment is not a JSON object.
    """
    parts = Parts.of(fragments)
    return None if parts.header is None else _document(_unfolded(parts), extra or {})


def flatten(tree: Mapping[str, Any]) -> list[Fragment]:
    """
    Take a run log document apart, header first and steps in the order of the document.

    Raises:
        IntegrityError: it has not the shape of one.
    """
    try:
        return _flatten(tree)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, IntegrityError):
            raise
        raise IntegrityError(f"this document has not the shape of a run log: {error}") from error


def read_header(beginning: bytes) -> Fragment | None:
    """
    Return the header from the beginning of a document, ``None`` if it cannot be told from that alone.

    It can be as :func:`write_document` wrote it: all of the header's own fields first, then its creation time, then the
    steps. A field of its own that another tool has added at the end of such a document is not seen.
    """
    own: dict[str, Any] = {}
    name = ""
    position = 1
    try:
        # What is cut off at the end of the text may be part of a character.
        text = getincrementaldecoder("utf-8")().decode(beginning)
        while True:
            before = name
            name, position = _DECODER.raw_decode(text, position)
            if name == "steps":
                break
            # Documents of other tools may have blanks there, and the decoder refuses them.
            own[name], position = _DECODER.raw_decode(text, position + 1)
            position += 1
    except (TypeError, ValueError):
        return None
    return _part(HEADER, own) if before == STAMP and own.keys() >= _HEADER_FIELDS else None


def _flatten(tree: Mapping[str, Any]) -> list[Fragment]:
    fragments = [_part(HEADER, tree)]
    if tree.get("job") is not None:
        fragments.append(_part(JOB, tree["job"]))
    stack: list[tuple[str, Mapping[str, Any]]] = [("", tree)]
    while stack:
        scope, holder = stack.pop()
        fragments += [
            Fragment(FragmentKey(Kind.PARAMETER, key, scope), dump_json(value))
            for key, value in (holder.get("parameters") or {}).items()
        ]
        below = []
        for step_name, step in (holder.get("steps") or {}).items():
            fragments.append(_part(FragmentKey(Kind.STEP_LOG, step_name), step))
            for branch_name, branch in (step.get("branches") or {}).items():
                if not _is_placeholder(branch):
                    fragments.append(_part(FragmentKey(Kind.BRANCH_LOG, branch_name), branch))
                below.append((branch_name, branch))
        stack += reversed(below)
    for orphan in tree.get(ORPHANS) or ():
        key = FragmentKey(Kind(orphan["kind"]), orphan["name"], orphan["scope"])
        fragments.append(
            Fragment(key, dump_json(orphan["value"]))
            if key.kind is Kind.PARAMETER
            else _part(key, orphan["value"], without={STAMP})
        )
    return fragments


def _unfolded(parts: Parts) -> Parts:
    """Add what a header that another tool wrote may hold: older copies of steps and parameters."""
    if parts.header is None or not may_hold_more(HEADER.kind, parts.header[0]):
        return parts
    held = flatten(parsed(HEADER.kind, HEADER.name, parts.header[0]))
    return parts.over(Parts.of(held[1:]))


def _document(parts: Parts, extra: Mapping[str, Any] | None = None) -> bytes:
    writer = _Writer(parts)
    writer.run()
    if orphans := parts.left_out_of(writer.links):
        writer.add(b',"%b":%b' % (ORPHANS.encode(), orphans_text(orphans)))
    for key, value in (extra or {}).items():
        writer.add(b",%b:%b" % (_quoted(key), dump_json(value)))
    writer.add(b"}")
    return writer.text()


class _Writer:
    """
    Joins a document of the texts of parts.

    Args:
        parts: complete.
        start: the branch that is wanted, ``""`` for the run.
    """

    def __init__(self, parts: Parts, start: str = "") -> None:
        names = {name: _step_name(name, body) for name, (body, _) in parts.steps.items()}
        self.links = link(names, parts.branches, start)
        self._parts = parts
        self._pieces: list[bytes] = []

    def text(self) -> bytes:
        return b"".join(self._pieces)

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def run(self) -> None:
        """Write a run, but for its closing brace."""
        parts = self._parts
        assert parts.header is not None
        self.add(b'%b"steps":' % _own(HEADER.kind, HEADER.name, parts.header))
        self._steps(self.links.roots)
        self.add(b',"parameters":')
        self._parameters("")
        job = b"null" if parts.job is None else _own(JOB.kind, JOB.name, parts.job).removesuffix(b",") + b"}"
        self.add(b',"job":%b' % job)

    def branch(self, name: str) -> None:
        stored = self._parts.branches.get(name)
        own = _placeholder_text(name) if stored is None else _own(Kind.BRANCH_LOG, name, stored)
        self.add(b'%b"steps":' % own)
        self._steps(self.links.steps.get(name, []))
        self.add(b',"parameters":')
        self._parameters(name)
        self.add(b"}")

    def _steps(self, names: Sequence[str]) -> None:
        opening = b"{"
        for name in names:
            own = _own(Kind.STEP_LOG, name, self._parts.steps[name])
            self.add(b'%b%b:%b"branches":' % (opening, _quoted(name), own))
            self._branches(self.links.branches.get(name, ()))
            opening = b"},"
        self.add(b"}}" if names else b"{}")

    def _branches(self, names: Sequence[str]) -> None:
        opening = b"{"
        for name in names:
            self.add(b"%b%b:" % (opening, _quoted(name)))
            self.branch(name)
            opening = b","
        self.add(b"}" if names else b"{}")

    def _parameters(self, scope: str) -> None:
        values = (b"%b:%b" % (_quoted(key), body) for key, (body, _) in self._parts.parameters.get(scope, {}).items())
        self.add(b"{%b}" % b",".join(values))


def _read(model: type[Model], text: bytes, what: str, parts: Parts) -> Model:
    try:
        return validate_json(model, text, what)
    except IntegrityError:
        # If it is one fragment's fault, that one is named.
        for fragment in parts.fragments():
            _ = fragment.value if fragment.kind is Kind.PARAMETER else _object(fragment)
        raise


def _own(kind: Kind, name: str, stored: Stored) -> bytes:
    """Return the text of a part's own fields and its creation time, ready for further fields to follow."""
    body, created_at = stored
    inner = own_text(kind, name, body)[1:-1].strip()
    opening = b"{%b," % inner if inner else b"{"
    if created_at is None:
        return opening
    return b'%b"%b":"%b",' % (opening, STAMP.encode(), stamp_text(created_at).encode())


def _object(fragment: Fragment) -> dict[str, Any]:
    return parsed(fragment.kind, fragment.name, fragment.body)


def _step_name(name: str, body: bytes) -> str:
    # What these models write begins with it.
    found = _STEP_NAME.match(body)
    return found[1].decode(errors="replace") if found else str(parsed(Kind.STEP_LOG, name, body).get("name", name))


def _quoted(name: str) -> bytes:
    return f'"{name}"'.encode() if _PLAIN_NAME.fullmatch(name) else dump_json(name)


def _placeholder_text(branch: str) -> bytes:
    return b'{"internal_name":%b,"status":"%b",' % (_quoted(branch), MISSING_STATUS.encode())


def _is_placeholder(branch: Mapping[str, Any]) -> bool:
    return branch.get("status") == MISSING_STATUS and branch.keys() == placeholder("").keys()


def _part(key: FragmentKey, value: Mapping[str, Any], without: Iterable[str] | None = None) -> Fragment:
    if not isinstance(value, dict):
        raise IntegrityError(f"{key.kind} {key.name!r} is not a JSON object")
    excluded = NOT_OWN[key.kind] if without is None else without
    own = {name: item for name, item in value.items() if name not in excluded}
    return Fragment(key, dump_json(own), parse_stamp(value.get(STAMP)))
