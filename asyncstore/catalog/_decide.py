"""What is to become of each file, from what is known of both sides. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncstore.catalog._paths import is_marker, reserved
from asyncstore.catalog._plan import SAME, PlannedFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from asyncstore.catalog._scan import LocalFile
    from asyncstore.objects.base import ObjectMeta

__all__ = [
    "EXECUTION_LOG",
    "Doubts",
    "Sides",
    "decide_get",
    "decide_put",
    "decide_sync",
    "doubts_of_put",
    "same_on_both_sides",
]

EXECUTION_LOG = ".execution.log"
"""Files that end so belong to the run that wrote them, and are not carried over to another."""

NEW = "not there yet"
CHANGED = "other contents"


@dataclass(frozen=True, slots=True)
class Sides:
    """What is known of both sides before anything moves."""

    existing: Mapping[str, ObjectMeta] = field(default_factory=dict)
    """What the target has, by name."""
    base: Mapping[str, ObjectMeta] = field(default_factory=dict)
    """What the run has that files may be copied from, by name."""
    synced: Mapping[str, str] = field(default_factory=dict)
    """Digests of what the caller got or put before, by name."""
    local: Mapping[str, str] = field(default_factory=dict)
    """Digests of local files, by name, as far as they matter."""
    remote: Mapping[str, str] = field(default_factory=dict)
    """Digests of objects, by key, as far as they matter."""

    def same(self, meta: ObjectMeta | None, size_bytes: int, digest: str) -> bool:
        """Tell whether an object is there with that size and digest."""
        return bool(meta and digest and meta.size_bytes == size_bytes and self.remote.get(meta.key) == digest)


@dataclass(frozen=True, slots=True)
class Doubts:
    """What must be looked into before a put can be planned."""

    files: list[LocalFile]
    """Files whose digests decide."""
    objects: list[ObjectMeta]
    """Objects whose digests decide."""


def doubts_of_put(files: Iterable[LocalFile], known: Sides) -> Doubts:
    """Return whose digests are needed: of what has the same size on both sides, and of what was synced before."""
    doubtful: list[LocalFile] = []
    objects: list[ObjectMeta] = []
    existing, base, synced = known.existing, known.base, known.synced
    if not base and not synced:
        for file in files:
            there = existing.get(file.name)
            if there is not None and there.size_bytes == file.identity.size_bytes:
                doubtful.append(file)
                objects.append(there)
        return Doubts(doubtful, objects)
    for file in files:
        there = existing.get(file.name)
        same = [one for one in (there, base.get(file.name)) if one is not None and one.size_bytes == file.size_bytes]
        if same or (there is not None and file.name in synced):
            doubtful.append(file)
            objects += same
    return Doubts(doubtful, objects)


def same_on_both_sides(
    files: Iterable[LocalFile], objects: Mapping[str, ObjectMeta], known: Sides
) -> dict[str, tuple[int, str]]:
    """
    Return size and digest, by name, of files that are the same as the objects of their names.

    :func:`decide_put` and :func:`decide_get` would have them skipped, and take longer to say so.
    """
    local, remote = known.local, known.remote
    found: dict[str, tuple[int, str]] = {}
    for name, _, (_, _, size_bytes, _, _), _, _ in files:
        meta, digest = objects.get(name), local.get(name)
        if digest and meta is not None and meta.size_bytes == size_bytes and remote.get(meta.key) == digest:
            found[name] = size_bytes, digest
    return found


def decide_put(file: LocalFile, known: Sides) -> PlannedFile:
    """Return what is to become of a local file."""
    there, digest = known.existing.get(file.name), known.local.get(file.name, "")
    if there is not None and digest and known.synced.get(file.name) == digest:
        return PlannedFile(file.name, "skip", file.size_bytes, "as it was synced", digest=digest)
    if known.same(there, file.size_bytes, digest):
        return PlannedFile(file.name, "skip", file.size_bytes, SAME, digest=digest)
    base = known.base.get(file.name)
    if base is not None and known.same(base, file.size_bytes, digest):
        reason = "same contents in the base run"
        return PlannedFile(file.name, "copy", file.size_bytes, reason, digest=digest, source=base.key, etag=base.etag)
    return PlannedFile.upload(file, NEW if there is None else CHANGED, digest)


def decide_get(name: str, meta: ObjectMeta, present: Mapping[str, LocalFile], known: Sides) -> PlannedFile:
    """Return what is to become of an object that is wanted here."""
    here, digest = present.get(name), known.remote.get(meta.key, "")
    if here is not None and digest and here.size_bytes == meta.size_bytes and known.local.get(name) == digest:
        return PlannedFile(name, "skip", meta.size_bytes, SAME, digest=digest)
    reason = NEW if here is None else CHANGED
    return PlannedFile(name, "download", meta.size_bytes, reason, digest=digest, source=meta.key, etag=meta.etag)


def decide_sync(name: str, meta: ObjectMeta, known: Sides) -> PlannedFile | None:
    """Return what is to become of an object of another run, ``None`` if it stays there."""
    if name.endswith(EXECUTION_LOG) or (reserved(name) and not is_marker(name)):
        return None
    digest = known.remote.get(meta.key, "")
    if known.same(known.existing.get(name), meta.size_bytes, digest):
        return PlannedFile(name, "skip", meta.size_bytes, SAME, digest=digest)
    reason = NEW if name not in known.existing else CHANGED
    return PlannedFile(name, "copy", meta.size_bytes, reason, digest=digest, source=meta.key, etag=meta.etag)
