"""Packed files as a listing would show them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

from asyncstore._core.clock import PROCESS_CLOCK
from asyncstore._core.instances import instances
from asyncstore.catalog._metadata import DIGEST_KEY
from asyncstore.catalog._packed._index import NO_PACK, Entry
from asyncstore.catalog._packed._names import PACKS, parse, time_of
from asyncstore.catalog._paths import RESERVED, marker
from asyncstore.catalog._plan import PlannedFile
from asyncstore.objects.base import ObjectMeta

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from asyncstore.catalog._packed._index import Index
    from asyncstore.catalog._paths import Place

__all__ = ["FoundIndex", "PackedMeta", "located", "located_all", "merged", "witness"]


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


_COLUMNS = ("key", "size_bytes", "modified_at", "metadata", "pack", "offset", "mode", "mtime_ns")


@dataclass(frozen=True, slots=True)
class FoundIndex:
    """An index and where it lies."""

    meta: ObjectMeta
    index: Index


def merged(
    place: Place, found: Iterable[FoundIndex], wanted: Callable[[str], bool] | None = None
) -> dict[str, PackedMeta]:
    """
    Return packed files by name, relative to the place; of several with one name, that of the latest index.

    Args:
        place: what names are relative to; files elsewhere are left out.
        found: the indices, each in the place, above it or below it.
        wanted: tells which names are; all if ``None``.
    """
    files: dict[str, tuple[Any, ...]] = {}
    keyed = [(key, one) for one in found if (key := parse(one.meta.key)) is not None]
    for key, one in sorted(keyed, key=lambda pair: pair[0][:2], reverse=True):
        inside, below = key.folder.startswith(place.root), place.root.startswith(key.folder)
        if not inside and not below:
            continue
        prefix, cut = (key.folder[len(place.root) :], "") if inside else ("", place.root[len(key.folder) :])
        # Behind them, where NO_PACK points to, is the index itself.
        packs = [*(f"{key.folder}{PACKS}{pack}" for pack in one.index.packs), one.meta.key]
        for name, number, offset, size_bytes, digest, mode, mtime_ns in _rows(one.index):
            if not name.startswith(cut):
                continue
            if prefix or cut:
                name = f"{prefix}{name[len(cut) :]}"
                if name == RESERVED:
                    # The place itself was empty, seen from above.
                    continue
            if name not in files and (wanted is None or wanted(name)):
                place_key, put_at = place.root + name, one.meta.modified_at
                files[name] = place_key, size_bytes, put_at, _Digest(digest), packs[number], offset, mode, mtime_ns
    columns = {column: map(itemgetter(at), files.values()) for at, column in enumerate(_COLUMNS)}
    metas = instances(PackedMeta, len(files), {**columns, "etag": repeat("")})
    return dict(zip(files, metas, strict=True))


def _rows(index: Index) -> Iterator[tuple[Any, ...]]:
    yield from index.rows()
    for folder in index.empty:
        yield Entry(marker(folder), NO_PACK, 0, 0, "")


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
        source=meta.key,
        packed=(meta.pack, meta.offset, meta.mode, meta.mtime_ns),
    )


def located_all(metas: Mapping[str, PackedMeta], reason: str) -> list[PlannedFile]:
    """Plan to download packed files, given by name, at a fifth of what each alone takes."""
    found = metas.values()
    sizes, keys = (map(attrgetter(column), found) for column in ("size_bytes", "key"))
    at = map(attrgetter("pack", "offset", "mode", "mtime_ns"), found)
    digests = (meta.metadata[DIGEST_KEY] for meta in found)
    said = (metas, repeat("download"), sizes, repeat(reason), digests, keys, repeat(""), repeat(None), at)
    return list(map(PlannedFile, *said))


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
