"""What a run has in the catalog, found with as few requests as the question allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore._core.concurrency import map_bounded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.catalog._lane import Lane
    from asyncstore.catalog._paths import Place
    from asyncstore.catalog._patterns import Matcher
    from asyncstore.objects.base import ObjectMeta

__all__ = ["find", "list_all"]

_HEADS_LIMIT = 8
"""Up to so many names are asked for one by one, more by listing."""


async def find(lane: Lane, place: Place, matcher: Matcher, names: Sequence[str] | None) -> dict[str, ObjectMeta]:
    """
    Return, by name, what the run has of ``names``, if these are known (no wildcards) and few.

    Otherwise it is what the run has in the one folder where everything that can match lies, more than was asked for.
    """
    if names is not None and len(names) <= _HEADS_LIMIT:
        found = await map_bounded(lane.head_or_none, list(map(place.key, names)), limit=_HEADS_LIMIT)
        return {place.name_of(meta.key): meta for meta in found if meta is not None}
    if matcher.flat:
        listing = await lane.store.list_folder(place.root + matcher.folder)
        return {place.name_of(meta.key): meta for meta in listing.objects}
    return await list_all(lane, place, matcher.folder)


async def list_all(lane: Lane, place: Place, folder: str = "") -> dict[str, ObjectMeta]:
    """Return, by name, everything in a folder of the run, at any depth."""
    pages = lane.store.list(place.root + folder)
    return {place.name_of(meta.key): meta async for page in pages for meta in page}
