"""What a run has in the catalog, found with as few requests as the question allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore._core.concurrency import both, map_bounded
from asyncstore.errors import AccessDeniedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from asyncstore.catalog._lane import Lane
    from asyncstore.catalog._paths import Place
    from asyncstore.catalog._patterns import Matcher
    from asyncstore.objects.base import ObjectMeta

__all__ = ["find", "find_around", "list_all", "real_files"]

_HEADS_LIMIT = 8
"""Up to so many names are asked for one by one, more by listing."""


async def find(lane: Lane, place: Place, matcher: Matcher, names: Sequence[str] | None) -> dict[str, ObjectMeta]:
    """
    Return, by name, what the run has of ``names``, if these are known (no wildcards) and few.

    Otherwise it is what the run has in the one folder where everything that can match lies, more than was asked for.
    """
    if names is not None and len(names) <= _HEADS_LIMIT:
        return await _heads(lane, place, names)
    if matcher.flat:
        listing = await lane.store.list_folder(place.root + matcher.folder)
        return _by_name(place, listing.objects)
    return await list_all(lane, place, matcher.folder)


async def find_around(lane: Lane, place: Place, matcher: Matcher, names: Sequence[str]) -> dict[str, ObjectMeta]:
    """Return what :func:`find` does, and what the run has as a file where ``names`` need a folder."""
    above = sorted({folder for name in names for folder in _folders_above(name)})
    if len(names) > _HEADS_LIMIT:
        above = [folder for folder in above if not folder.startswith(matcher.folder)]
    found, in_the_way = await both(lambda: find(lane, place, matcher, names), lambda: _heads(lane, place, above))
    return found | in_the_way


async def list_all(lane: Lane, place: Place, folder: str = "") -> dict[str, ObjectMeta]:
    """Return, by name, everything in a folder of the run, at any depth."""
    found: dict[str, ObjectMeta] = {}
    async for page in lane.store.list(place.root + folder):
        found |= _by_name(place, page)
    return found


async def real_files(lane: Lane, found: Mapping[str, ObjectMeta]) -> dict[str, ObjectMeta]:
    """
    Return what is no folder marker of what was listed.

    The AWS console makes a folder by an empty object whose key ends in ``/``, and listings show it without the slash,
    like an empty file; a HEAD tells them apart.
    """
    empty = [name for name, meta in found.items() if not meta.size_bytes and not meta.metadata]
    heads = await map_bounded(lane.head_or_none, [found[name].key for name in empty], limit=lane.workers)
    asked = dict(zip(empty, heads, strict=True))
    looked = ((name, asked.get(name, meta)) for name, meta in found.items())
    return {name: meta for name, meta in looked if meta is not None}


async def _heads(lane: Lane, place: Place, names: Sequence[str]) -> dict[str, ObjectMeta]:
    try:
        found = await map_bounded(lane.head_or_none, list(map(place.key, names)), limit=_HEADS_LIMIT)
    except AccessDeniedError:
        # The answer to a HEAD has no body to say why; that to a listing has.
        await lane.store.list_folder(place.root)
        raise
    return _by_name(place, [meta for meta in found if meta is not None])


def _by_name(place: Place, metas: Sequence[ObjectMeta]) -> dict[str, ObjectMeta]:
    # A marker of the very folder that is listed is shown as a key above it.
    return {place.name_of(meta.key): meta for meta in metas if meta.key.startswith(place.root)}


def _folders_above(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
