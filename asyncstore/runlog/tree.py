"""
The tree that fragments make up, and how to take one apart. Pure functions.

:func:`write_document` puts fragments together and :func:`flatten` takes a run log document apart; every layout, the
assembled document, import, export and full reads go through these two. Fragments are JSON text already, so a document
is joined from their texts, and only what has to be known of them is parsed.
"""

from __future__ import annotations

import json
import re
from codecs import getincrementaldecoder
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from asyncstore.errors import IntegrityError
from asyncstore.models import STAMP, BranchLog, RunLog, StepLog, parse_stamp, stamp_text
from asyncstore.names import branch_of_step, owner_of_branch
from asyncstore.runlog._json import dump_json
from asyncstore.runlog.encoding import NESTED, validate_json
from asyncstore.runlog.fragments import HEADER, JOB, Fragment, FragmentKey, Kind, in_creation_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["assemble", "assemble_branch", "flatten", "read_header", "write_document"]

Model = TypeVar("Model", RunLog, BranchLog)

ORPHANS = "_orphans"
"""JSON key of a document's list of fragments without a place in the tree, because what would hold them is missing."""

NESTING_LIMIT = 50
"""Branches within branches that a tree holds; JSON readers give up not far above. What is deeper is an orphan."""

MISSING_STATUS = "UNKNOWN"
"""Status of a branch that steps say they belong to, but whose own fragment is missing."""

_NOT_OWN: Mapping[Kind, frozenset[str]] = {
    Kind.RUN_LOG: frozenset(NESTED[RunLog] | {ORPHANS, STAMP}),
    Kind.STEP_LOG: frozenset(NESTED[StepLog] | {STAMP}),
    Kind.BRANCH_LOG: frozenset(NESTED[BranchLog] | {STAMP}),
    Kind.JOB_LOG: frozenset({STAMP}),
}
"""Fields that the tree fills, so that they are left out of what a fragment says itself."""

_MARKS = {kind: tuple(f'"{name}"'.encode() for name in sorted(names)) for kind, names in _NOT_OWN.items()}
_DECODER = json.JSONDecoder()
_HEADER_FIELDS = RunLog.model_fields.keys() - NESTED[RunLog]
_STEP_NAME = re.compile(rb'\{"name":"([^"\\]*)"')
_PLAIN_NAME = re.compile(r"[ !#-\[\]-~]*", re.ASCII)


def assemble(fragments: Iterable[Fragment], *, where: str = "") -> RunLog | None:
    """
    Return the full run log that ``fragments`` make up, ``None`` if the header is missing.

    A missing part leaves a gap: steps whose branch is missing are held by a branch of status ``UNKNOWN``; what belongs
    to a step that is missing is left out of the tree, and can still be read by name.
    """
    parts = list(fragments)
    text = write_document(parts)
    return None if text is None else _read(RunLog, text, where or "run log", parts)


def assemble_branch(name: str, fragments: Iterable[Fragment]) -> BranchLog | None:
    """Return the branch of that name with everything in it, ``None`` if its own fragment is missing."""
    listed = list(fragments)
    parts = _Parts.of(listed)
    if name not in parts.branches:
        return None
    parts.link()
    writer = _Writer()
    writer.branch(parts.branches[name], NESTING_LIMIT)
    return _read(BranchLog, writer.text(), f"BranchLog {name!r}", listed)


def write_document(fragments: Iterable[Fragment], *, extra: Mapping[str, Any] | None = None) -> bytes | None:
    """
    Return the document that ``fragments`` make up, ``None`` if the header is missing; see :func:`assemble`.

    ``extra`` holds further fields for its top level. The header's own fields come first.

    Raises:
        IntegrityError: a fragment is not a JSON object.
    """
    parts = _Parts.of(fragments)
    if parts.header is None:
        return None
    parts.link()
    writer = _Writer()
    writer.run(parts)
    if orphans := parts.left_out_of(writer):
        writer.add(b',"%b":%b' % (ORPHANS.encode(), dump_json([_orphan(item) for item in orphans])))
    for key, value in (extra or {}).items():
        writer.add(b",%b:%b" % (_quoted(key), dump_json(value)))
    writer.add(b"}")
    return writer.text()


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


@dataclass(eq=False, slots=True)
class _Step:
    fragment: Fragment
    branches: dict[str, _Branch] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class _Branch:
    name: str
    fragment: Fragment | None
    """``None`` for one that is missing and stood in for."""
    steps: dict[str, _Step] = field(default_factory=dict)
    parameters: dict[str, Fragment] = field(default_factory=dict)


class _Parts:
    """The fragments of a run by what they are, in creation order, and once linked the tree they make up."""

    def __init__(self) -> None:
        self.header: Fragment | None = None
        self.job: Fragment | None = None
        self.steps: dict[str, _Step] = {}
        self.branches: dict[str, _Branch] = {}
        self.parameters: dict[str, dict[str, Fragment]] = {}
        self.root_steps: dict[str, _Step] = {}

    @classmethod
    def of(cls, fragments: Iterable[Fragment]) -> _Parts:
        parts = cls()
        ordered = in_creation_order(fragments)
        # A header that another tool wrote may hold older copies of steps and parameters.
        embedded = [
            part
            for item in ordered
            if item.key == HEADER and _may_hold_more(item)
            for part in flatten(_object(item))[1:]
        ]
        for fragment in [*embedded, *ordered]:
            parts._add(fragment)
        return parts

    def _add(self, fragment: Fragment) -> None:
        key = fragment.key
        match key.kind:
            case Kind.STEP_LOG:
                self.steps[key.name] = _Step(fragment)
            case Kind.PARAMETER:
                self.parameters.setdefault(key.scope, {})[key.name] = fragment
            case Kind.BRANCH_LOG:
                self.branches[key.name] = _Branch(key.name, fragment)
            case Kind.RUN_LOG:
                self.header = fragment
            case Kind.JOB_LOG:
                self.job = fragment

    def link(self) -> None:
        """Hang everything into its holder, as far as it has one."""
        for name, step in self.steps.items():
            holder = self._holder_of(name, step.fragment)
            if holder is not None:
                holder[name] = step
        for name, branch in self.branches.items():
            owner = owner_of_branch(name, self.steps)
            branch.parameters = self.parameters.get(name, {})
            if owner is not None:
                self.steps[owner].branches[name] = branch

    def left_out_of(self, writer: _Writer) -> list[Fragment]:
        """Return what cannot be reached from the run."""
        written = writer.written
        left: list[Fragment] = [
            branch.fragment
            for branch in self.branches.values()
            if branch.fragment is not None and id(branch) not in written
        ]
        left += [step.fragment for step in self.steps.values() if id(step) not in written]
        left += [
            fragment
            for scope, fragments in self.parameters.items()
            if scope and (scope not in self.branches or id(self.branches[scope]) not in written)
            for fragment in fragments.values()
        ]
        return left

    def _holder_of(self, name: str, fragment: Fragment) -> dict[str, _Step] | None:
        branch = branch_of_step(name, _step_name(fragment), self.branches)
        if not branch:
            return self.root_steps
        if branch not in self.branches:
            if owner_of_branch(branch, self.steps) is None:
                return None
            self.branches[branch] = _Branch(branch, None)
        return self.branches[branch].steps


class _Writer:
    """Joins a document, and notes which steps and branches came into it."""

    def __init__(self) -> None:
        self.written: set[int] = set()
        self._pieces: list[bytes] = []

    def text(self) -> bytes:
        return b"".join(self._pieces)

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def run(self, parts: _Parts) -> None:
        """Write a run, but for its closing brace."""
        assert parts.header is not None
        self.add(b'%b"steps":' % _own(parts.header))
        self._steps(parts.root_steps, NESTING_LIMIT)
        self.add(b',"parameters":')
        self._parameters(parts.parameters.get("", {}))
        self.add(b',"job":%b' % (b"null" if parts.job is None else _own(parts.job).removesuffix(b",") + b"}"))

    def branch(self, branch: _Branch, depth: int) -> None:
        self.written.add(id(branch))
        own = _placeholder_text(branch.name) if branch.fragment is None else _own(branch.fragment)
        self.add(b'%b"steps":' % own)
        self._steps(branch.steps, depth)
        self.add(b',"parameters":')
        self._parameters(branch.parameters)
        self.add(b"}")

    def _steps(self, steps: Mapping[str, _Step], depth: int) -> None:
        """Write steps and up to ``depth`` branches within each other."""
        opening = b"{"
        for name, step in steps.items():
            self.written.add(id(step))
            self.add(b'%b%b:%b"branches":' % (opening, _quoted(name), _own(step.fragment)))
            self._branches(step.branches if depth else {}, depth - 1)
            opening = b"},"
        self.add(b"}}" if steps else b"{}")

    def _branches(self, branches: Mapping[str, _Branch], depth: int) -> None:
        opening = b"{"
        for name, branch in branches.items():
            self.add(b"%b%b:" % (opening, _quoted(name)))
            self.branch(branch, depth)
            opening = b","
        self.add(b"}" if branches else b"{}")

    def _parameters(self, parameters: Mapping[str, Fragment]) -> None:
        values = (b"%b:%b" % (_quoted(key), fragment.body) for key, fragment in parameters.items())
        self.add(b"{%b}" % b",".join(values))


def _read(model: type[Model], text: bytes, what: str, fragments: Iterable[Fragment]) -> Model:
    try:
        return validate_json(model, text, what)
    except IntegrityError:
        # If it is one fragment's fault, that one is named.
        for fragment in fragments:
            _ = fragment.value if fragment.kind is Kind.PARAMETER else _object(fragment)
        raise


def _own(fragment: Fragment) -> bytes:
    """Return the text of a fragment's own fields and its creation time, ready for further fields to follow."""
    body = fragment.body
    kind = fragment.key.kind
    if body[:1] != b"{" or body[-1:] != b"}" or _may_hold_more(fragment):
        body = dump_json({name: value for name, value in _object(fragment).items() if name not in _NOT_OWN[kind]})
    inner = body[1:-1].strip()
    opening = b"{%b," % inner if inner else b"{"
    if fragment.created_at is None:
        return opening
    return b'%b"%b":"%b",' % (opening, STAMP.encode(), stamp_text(fragment.created_at).encode())


def _may_hold_more(fragment: Fragment) -> bool:
    """Tell whether a text may hold, beside its own, a field that the tree fills."""
    body = fragment.body
    for mark in _MARKS[fragment.key.kind]:  # noqa: SIM110 - a generator takes three times as long
        if mark in body:
            return True
    return False


def _object(fragment: Fragment) -> dict[str, Any]:
    value = fragment.value
    if not isinstance(value, dict):
        raise IntegrityError(f"{fragment.kind} {fragment.name!r} is not a JSON object")
    return value


def _orphan(fragment: Fragment) -> dict[str, Any]:
    value = fragment.value
    if fragment.kind is not Kind.PARAMETER:
        value = {name: item for name, item in _object(fragment).items() if name not in _NOT_OWN[fragment.kind]}
        if fragment.created_at is not None:
            value[STAMP] = stamp_text(fragment.created_at)
    return {"kind": fragment.kind, "name": fragment.name, "scope": fragment.scope, "value": value}


def _step_name(fragment: Fragment) -> str:
    # What these models write begins with it.
    found = _STEP_NAME.match(fragment.body)
    return found[1].decode(errors="replace") if found else str(_object(fragment).get("name", fragment.name))


def _quoted(name: str) -> bytes:
    return f'"{name}"'.encode() if _PLAIN_NAME.fullmatch(name) else dump_json(name)


def _placeholder(branch: str) -> dict[str, Any]:
    return {"internal_name": branch, "status": MISSING_STATUS, "steps": {}, "parameters": {}}


def _placeholder_text(branch: str) -> bytes:
    return b'{"internal_name":%b,"status":"%b",' % (_quoted(branch), MISSING_STATUS.encode())


def _is_placeholder(branch: Mapping[str, Any]) -> bool:
    return branch.get("status") == MISSING_STATUS and branch.keys() == _placeholder("").keys()


def _part(key: FragmentKey, value: Mapping[str, Any], without: Iterable[str] | None = None) -> Fragment:
    if not isinstance(value, dict):
        raise IntegrityError(f"{key.kind} {key.name!r} is not a JSON object")
    excluded = _NOT_OWN[key.kind] if without is None else without
    own = {name: item for name, item in value.items() if name not in excluded}
    return Fragment(key, dump_json(own), parse_stamp(value.get(STAMP)))
