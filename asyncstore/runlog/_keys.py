"""
The ``chunked-*`` layout: object keys of fragments, and what stands in the objects. Pure functions.

``<prefix>/<run_id>/<Kind>/<encoded name>.json``, for parameters ``Parameter/<encoded scope>/<encoded key>.json``. An
object holds its fragment's JSON with the creation time in front; a parameter's also names key and scope.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncstore.errors import IntegrityError
from asyncstore.models import STAMP, parse_stamp, stamp_text
from asyncstore.names import ROOT_SCOPE, decode_segment, encode_folder, encode_segment
from asyncstore.runlog._json import dump_json, parse_json
from asyncstore.runlog.fragments import Fragment, FragmentKey, Kind, Selection

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["ListedKey", "RunKeys", "decode_object", "encode_object", "relative_key"]

SUFFIX = ".json"

_OPENING = f'{{"{STAMP}":"'.encode()
_STAMP_WIDTH = len("2026-11-20T00:00:00.000000+00:00")
_STAMP_END = len(_OPENING) + _STAMP_WIDTH


@dataclass(frozen=True, slots=True)
class ListedKey:
    """What an object key alone says of its fragment."""

    kind: Kind
    name: str | None
    """``None`` where the key holds but a hash of the name; the object has it in full."""
    scope: str | None = ""

    @classmethod
    def of(cls, key: FragmentKey) -> ListedKey:
        """Return what is known of a fragment whose key is known in full."""
        return cls(key.kind, key.name, key.scope)

    @property
    def fragment_key(self) -> FragmentKey | None:
        """The fragment's key, where the object key says all of it."""
        if self.name is None or self.scope is None:
            return None
        return FragmentKey(self.kind, self.name, self.scope)


@dataclass(frozen=True, slots=True)
class RunKeys:
    """The keys under one prefix, which is empty or ends in ``/``."""

    prefix: str

    @classmethod
    def under(cls, prefix: str) -> RunKeys:
        """Take a prefix as configurations write it."""
        stripped = prefix.strip("/")
        return cls(f"{stripped}/" if stripped else "")

    def run(self, run_id: str) -> str:
        """Return what all fragments of a run begin with; the ``/`` at its end keeps ``run`` apart from ``run-2``."""
        return f"{self.prefix}{run_id}/"

    def document(self, run_id: str) -> str:
        """Return the key of a run's document."""
        return f"{self.prefix}{run_id}{SUFFIX}"

    def tickets(self, run_id: str) -> str:
        """Return what the keys begin with by which writers of a run's document take turns."""
        return f"{self.document(run_id)}.turns/"

    def fragment(self, run_id: str, key: FragmentKey) -> str:
        """Return the key of one fragment."""
        return f"{self.prefix}{run_id}/{relative_key(key)}"

    def selection(self, run_id: str, selection: Selection) -> str:
        """Return the longest folder that holds every fragment that ``selection`` matches."""
        if len(selection.kinds) > 1:
            return self.run(run_id)
        (kind,) = selection.kinds
        if kind is not Kind.PARAMETER or selection.branch is None:
            return f"{self.run(run_id)}{kind}/"
        scope = encode_folder(selection.branch) if selection.branch else ROOT_SCOPE
        return f"{self.run(run_id)}{kind}/{scope}/"

    def parse(self, run_id: str, object_key: str) -> ListedKey | None:
        """Read a listed key, ``None`` if it is no fragment of this run."""
        segments = object_key.removeprefix(self.run(run_id)).split("/")
        if not segments[-1].endswith(SUFFIX) or segments[0] not in set(Kind):
            return None
        kind = Kind(segments[0])
        name = decode_segment(segments[-1].removesuffix(SUFFIX))
        if kind is Kind.PARAMETER and len(segments) == 3:
            return ListedKey(kind, name, "" if segments[1] == ROOT_SCOPE else decode_segment(segments[1]))
        return ListedKey(kind, name) if kind is not Kind.PARAMETER and len(segments) == 2 else None


def relative_key(key: FragmentKey) -> str:
    """Return a fragment's key within its run."""
    scope = ""
    if key.kind is Kind.PARAMETER:
        scope = f"{encode_folder(key.scope) if key.scope else ROOT_SCOPE}/"
    return f"{key.kind}/{scope}{encode_segment(key.name)}{SUFFIX}"


def encode_object(fragment: Fragment, created_at: datetime) -> bytes:
    """Return what to store for ``fragment``."""
    opening = _OPENING + stamp_text(created_at).encode() + b'",'
    if fragment.kind is not Kind.PARAMETER:
        return opening + fragment.body[1:] if fragment.body != b"{}" else opening[:-1] + b"}"
    key, scope = dump_json(fragment.name), dump_json(fragment.scope)
    return b'%b"key":%b,"scope":%b,"value":%b}' % (opening, key, scope, fragment.body)


def decode_object(listed: ListedKey, data: bytes, etag: str) -> Fragment:
    """
    Read a stored object.

    Raises:
        IntegrityError: it is not what this layout writes.
    """
    what = f"{listed.kind} {listed.name or ''}".strip()
    if listed.kind is Kind.PARAMETER:
        value = _object(data, what)
        key = FragmentKey(listed.kind, str(value.get("key", listed.name)), str(value.get("scope", listed.scope)))
        return Fragment(key, dump_json(value.get("value")), parse_stamp(value.get(STAMP)), etag)
    created_at, body = _split_stamp(data, what)
    name = listed.name
    if name is None:
        name = str(_object(body, what).get("internal_name", ""))
    return Fragment(FragmentKey(listed.kind, name), body, created_at, etag)


def _split_stamp(data: bytes, what: str) -> tuple[datetime | None, bytes]:
    if data.startswith(_OPENING) and data[_STAMP_END : _STAMP_END + 2] == b'",':
        stamp = parse_stamp(data[len(_OPENING) : _STAMP_END].decode(errors="replace"))
        return stamp, b"{" + data[_STAMP_END + 2 :]
    value = _object(data, what)
    stamp = parse_stamp(value.pop(STAMP, None))
    return stamp, dump_json(value)


def _object(data: bytes, what: str) -> dict[str, Any]:
    value = parse_json(data, what)
    if not isinstance(value, dict):
        raise IntegrityError(f"{what} is not a JSON object")
    return value
