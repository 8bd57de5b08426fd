"""What is to become of each file, from what is known of both sides. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING

from asyncstore.catalog._local._files import SIZE as FILE_SIZE
from asyncstore.catalog._packed._meta import DIGEST
from asyncstore.catalog._packed._meta import SIZE as PACKED_SIZE
from asyncstore.catalog._paths import is_marker, reserved
from asyncstore.catalog._plan import SAME, PlannedFile
from asyncstore.catalog._planning._found import Found
from asyncstore.objects.listed import ETAG, KEY, SIZE, Listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncstore.catalog._local._files import LocalFile, LocalFiles
    from asyncstore.catalog._local._files import Row as FileRow
    from asyncstore.objects.base import ObjectMeta
    from asyncstore.objects.listed import Row

__all__ = [
    "EXECUTION_LOG",
    "NEW",
    "Doubts",
    "Sides",
    "decide_get",
    "decide_new",
    "decide_put",
    "decide_puts",
    "decide_sync",
    "doubts_of_put",
    "of_same_size",
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
    """What must be looked into before it can be decided."""

    files: LocalFiles
    """Files whose digests decide."""
    objects: Sequence[ObjectMeta]
    """Objects whose digests decide."""


def of_same_size(files: LocalFiles, objects: Mapping[str, ObjectMeta]) -> Doubts:
    """Return what has the same name and size on both sides."""
    found = Found.of(objects)
    names: list[str] = []
    rows: list[Row] = []
    listed = found.rows
    for name, file in files.rows.items():
        there = listed.get(name)
        if there is not None and there[SIZE] == file[FILE_SIZE]:
            names.append(name)
            rows.append(there)
    packed = [name for name, row in found.packed.rows.items() if _has_size(files, name, row[PACKED_SIZE])]
    others = {name: there for name, there in found.others.items() if _has_size(files, name, there.size_bytes)}
    metas = [*found.packed.described(packed), *others.values()]
    return Doubts(files.some([*names, *packed, *others]), [*Listed(rows), *metas] if metas else Listed(rows))


def doubts_of_put(files: LocalFiles, known: Sides) -> Doubts:
    """Return whose digests are needed: of what has the same size on both sides, and of what was synced before."""
    existing, base, synced = known.existing, known.base, known.synced
    if not base and not synced:
        return of_same_size(files, existing)
    doubtful: list[str] = []
    objects: list[ObjectMeta] = []
    for name, file in files.rows.items():
        there = existing.get(name)
        same = [one for one in (there, base.get(name)) if one is not None and one.size_bytes == file[FILE_SIZE]]
        if same or (there is not None and name in synced):
            doubtful.append(name)
            objects += same
    return Doubts(files.some(doubtful), objects)


def same_on_both_sides(
    files: LocalFiles, objects: Mapping[str, ObjectMeta], known: Sides
) -> dict[str, tuple[int, str]]:
    """
    Return size and digest, by name, of files that are the same as the objects of their names.

    :func:`decide_put` and :func:`decide_get` would have them skipped, and take longer to say so.
    """
    found = Found.of(objects)
    local, remote, listed = known.local, known.remote, found.rows
    same = {
        name: (file[FILE_SIZE], digest)
        for name, file in files.rows.items()
        if (digest := local.get(name))
        and (there := listed.get(name)) is not None
        and there[SIZE] == file[FILE_SIZE]
        and remote.get(there[KEY]) == digest
    }
    packed = ((name, row[PACKED_SIZE], row[DIGEST]) for name, row in found.packed.rows.items())
    others = ((name, meta.size_bytes, remote.get(meta.key)) for name, meta in found.others.items())
    for name, size_bytes, digest in chain(packed, others):
        if digest and local.get(name) == digest and _has_size(files, name, size_bytes):
            same[name] = size_bytes, digest
    return same


def _has_size(files: LocalFiles, name: str, size_bytes: int) -> bool:
    file = files.rows.get(name)
    return file is not None and file[FILE_SIZE] == size_bytes


def decide_put(name: str, file: FileRow, known: Sides) -> PlannedFile:
    """Return what is to become of a local file."""
    there, digest, size_bytes = known.existing.get(name), known.local.get(name, ""), file[FILE_SIZE]
    if there is not None and digest and known.synced.get(name) == digest:
        return PlannedFile(name, "skip", size_bytes, "as it was synced", digest=digest)
    if known.same(there, size_bytes, digest):
        return PlannedFile(name, "skip", size_bytes, SAME, digest=digest)
    base = known.base.get(name)
    if base is not None and known.same(base, size_bytes, digest):
        reason = "same contents in the base run"
        return PlannedFile(name, "copy", size_bytes, reason, digest=digest, source=base.key, etag=base.etag)
    return PlannedFile.upload(name, file, NEW if there is None else CHANGED, digest)


def decide_puts(files: LocalFiles, known: Sides) -> tuple[list[PlannedFile], list[PlannedFile]]:
    """Return what :func:`decide_put` does of many files: of new ones, and of those that something is known of."""
    existing, base = known.existing, known.base
    if not existing and not base:
        return PlannedFile.uploads(files, NEW), []
    met = [name for name in files if name in existing or name in base]
    return PlannedFile.uploads(files.without(set(met)), NEW), [
        decide_put(name, files.rows[name], known) for name in met
    ]


def decide_new(names: Sequence[str], objects: Found) -> list[PlannedFile]:
    """Return what :func:`decide_get` does of objects that were listed, and that nothing here has the name of."""
    rows = [objects.rows[name] for name in names]
    sizes, keys, etags = (map(itemgetter(at), rows) for at in (SIZE, KEY, ETAG))
    return PlannedFile.many(names, "download", sizes, NEW, sources=keys, etags=etags)


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
