"""Packed files as a listing would show them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Final, TypeAlias

from asyncstore._core.clock import PROCESS_CLOCK
from asyncstore._core.instances import instances
from asyncstore.catalog._metadata import DIGEST_KEY
from asyncstore.catalog._packed._index import NO_PACK
from asyncstore.catalog._packed._names import PACKS, parse, time_of
from asyncstore.catalog._paths import RESERVED, marker
from asyncstore.catalog._plan import PlannedFile
from asyncstore.objects.base import ObjectMeta

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from datetime import datetime

    from asyncstore.catalog._packed._index import Index
    from asyncstore.catalog._paths import Place
    from asyncstore.catalog._plan import PackedAt

__all__ = [
    "DIGEST",
    "SIZE",
    "FoundIndex",
    "PackedFiles",
    "PackedMeta",
    "PackedRow",
    "located",
    "located_all",
    "merged",
    "witness",
]

PackedRow: TypeAlias = "tuple[int, str, datetime, PackedAt]"
"""A packed file in plain: size in bytes, SHA-256 in hex, when it was put, and where it is."""

SIZE: Final = 0
DIGEST: Final = 1
_AT: Final = 3


@dataclass(frozen=True, slots=True)
class PackedMeta(ObjectMeta):
    """
    A packed file, described as the object that it would be by itself.

    ``metadata`` holds its SHA-256, ``modified_at`` is when it was put; there is no ETag.
    """

    pack: str = ""
    """Key of the pack; of what has no bytes, of the index."""
    offset: int = 0
    mode: int | None = None
    mtime_ns: int | None = None


class _Digest(Mapping[str, str]):
    """Metadata that are a SHA-256 and nothing else: in a quarter of the room of a dictionary."""

    __slots__ = ("_digest",)

    def __init__(self, digest: str) -> None:
        self._digest = digest

    def __repr__(self) -> str:
        return repr(dict(self))

    def __getitem__(self, key: str) -> str:
        if key != DIGEST_KEY:
            raise KeyError(key)
        return self._digest

    def __iter__(self) -> Iterator[str]:
        return iter((DIGEST_KEY,))

    def __len__(self) -> int:
        return 1


class PackedFiles(Mapping[str, PackedMeta]):
    """
    Packed files by name.

    There may be very many, so they are held as plain tuples, and described when somebody asks (see
    :mod:`asyncstore.objects.listed`).

    Args:
        root: what comes before their names in keys.
        rows: what is known of each.
    """

    __slots__ = ("root", "rows")

    def __init__(self, root: str = "", rows: Mapping[str, PackedRow] | None = None) -> None:
        self.root = root
        self.rows: Mapping[str, PackedRow] = {} if rows is None else rows

    def __repr__(self) -> str:
        return f"<PackedFiles {len(self.rows)} in {self.root!r}>"

    def __getitem__(self, name: str) -> PackedMeta:
        [meta] = self.described([name])
        return meta

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def described(self, names: Collection[str]) -> list[PackedMeta]:
        """Return the files of those names, all at once."""
        if not names:
            return []
        sizes, digests, times, places = zip(*map(self.rows.__getitem__, names), strict=True)
        packs, offsets, modes, mtimes_ns = zip(*places, strict=True)
        slots = {
            "key": map(self.root.__add__, names),
            "size_bytes": sizes,
            "etag": repeat(""),
            "modified_at": times,
            "metadata": map(_Digest, digests),
            "pack": packs,
            "offset": offsets,
            "mode": modes,
            "mtime_ns": mtimes_ns,
        }
        return instances(PackedMeta, len(names), slots)

    def only(self, wanted: Callable[[str], object]) -> PackedFiles:
        """Return those whose names ``wanted`` says yes to."""
        return PackedFiles(self.root, {name: row for name, row in self.rows.items() if wanted(name)})

    def without(self, names: Mapping[str, object]) -> PackedFiles:
        """Return those of other names."""
        return self if self.rows.keys().isdisjoint(names) else self.only(lambda name: name not in names)


@dataclass(frozen=True, slots=True)
class FoundIndex:
    """An index and where it lies."""

    meta: ObjectMeta
    index: Index


def merged(place: Place, found: Iterable[FoundIndex], wanted: Callable[[str], bool] | None = None) -> PackedFiles:
    """
    Return packed files by name, relative to the place; of several with one name, that of the latest index.

    Args:
        place: what names are relative to; files elsewhere are left out.
        found: the indices, each in the place, above it or below it.
        wanted: tells which names are; all if ``None``.
    """
    files: dict[str, PackedRow] = {}
    keyed = [(key, one) for one in found if (key := parse(one.meta.key)) is not None]
    for key, one in sorted(keyed, key=lambda pair: pair[0][:2], reverse=True):
        inside, below = key.folder.startswith(place.root), place.root.startswith(key.folder)
        if not inside and not below:
            continue
        prefix, cut = (key.folder[len(place.root) :], "") if inside else ("", place.root[len(key.folder) :])
        # Behind them, where NO_PACK points to, is the index itself.
        packs = [*(f"{key.folder}{PACKS}{pack}" for pack in one.index.packs), one.meta.key]
        put_at = one.meta.modified_at
        for name, size_bytes, digest, at in _rows(one.index, packs):
            if not name.startswith(cut):
                continue
            if prefix or cut:
                name = f"{prefix}{name[len(cut) :]}"
                if name == RESERVED:
                    # The place itself was empty, seen from above.
                    continue
            if name not in files and (wanted is None or wanted(name)):
                files[name] = size_bytes, digest, put_at, at
    return PackedFiles(place.root, files)


def _rows(index: Index, packs: Sequence[str]) -> Iterator[tuple[str, int, str, PackedAt]]:
    """Yield name, size, SHA-256 and place of what an index tells of."""
    for name, number, offset, size_bytes, digest, mode, mtime_ns in index.rows():
        yield name, size_bytes, digest, (packs[number], offset, mode, mtime_ns)
    for folder in index.empty:
        yield marker(folder), 0, "", (packs[NO_PACK], 0, None, None)


def located(file: PlannedFile, meta: ObjectMeta) -> PlannedFile:
    """Return a planned file with where its bytes are, if that is in a pack."""
    if type(meta) is not PackedMeta or file.action not in {"download", "copy"}:
        return file
    return PlannedFile(
        file.name,
        file.action,
        file.size_bytes,
        file.reason,
        digest=meta.metadata[DIGEST_KEY],
        packed=(meta.pack, meta.offset, meta.mode, meta.mtime_ns),
    )


def located_all(names: Sequence[str], packed: PackedFiles, reason: str) -> list[PlannedFile]:
    """Plan to download packed files, at a fraction of what each alone takes."""
    rows = [packed.rows[name] for name in names]
    sizes, digests, places = (map(itemgetter(at), rows) for at in (SIZE, DIGEST, _AT))
    return PlannedFile.many(names, "download", sizes, reason, digests=digests, packed=places)


def witness(keys: Iterable[str]) -> None:
    """See to it that indices made here from now on come after those of ``keys``."""
    latest: datetime | None = None
    for key in keys:
        found = parse(key)
        stamped = None if found is None or found.number is not None else time_of(found.stamp)
        if stamped is not None and (latest is None or stamped > latest):
            latest = stamped
    if latest is not None:
        PROCESS_CLOCK.witness(latest)
