"""What a run has in the catalog, found with as few requests as the question allows."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import both, for_each, map_bounded
from asyncstore._core.threads import in_thread
from asyncstore.catalog._packed._find import find_listed, find_named
from asyncstore.catalog._paths import is_marker
from asyncstore.errors import AccessDeniedError
from asyncstore.objects.base import Listing
from asyncstore.objects.listed import SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncstore.catalog._moving._lane import Lane
    from asyncstore.catalog._packed._find import Look
    from asyncstore.catalog._paths import Place
    from asyncstore.catalog._patterns import Matcher
    from asyncstore.catalog._planning._found import Found
    from asyncstore.objects.base import ObjectMeta

__all__ = ["HEADS_LIMIT", "find", "find_around", "list_all", "real_files"]

HEADS_LIMIT = 8
"""Up to so many names are asked for one by one, more by listing."""

RANGES_LIMIT = 4
"""Most ranges of keys that are listed at the same time."""

PAGE = 1000


async def find(lane: Lane, place: Place, matcher: Matcher, names: Sequence[str] | None, look: Look = "needed") -> Found:
    """
    Return, by name, what the run has of ``names``, if these are known (no wildcards) and few.

    Otherwise it is what the run has in the one folder where everything that can match lies, more than was asked for.
    ``look`` says where packs are looked for.
    """
    if names is not None and len(names) <= HEADS_LIMIT:
        return await find_named(lane, place, names, lambda: _heads(lane, place, names), look)
    root = place.root + matcher.folder
    listing = (lambda: lane.store.list_folder(root)) if matcher.flat else (lambda: _listing_of_all(lane, root))
    return await find_listed(lane, place, matcher.folder, listing, look)


async def find_around(
    lane: Lane,
    place: Place,
    matcher: Matcher,
    names: Sequence[str],
    look: Look = "shown",
    *,
    listed: Found | None = None,
) -> Found:
    """
    Return what :func:`find` does, and what the run has that is in the way of ``names``.

    That is files where they need folders, and something in a folder of their own name, if they are few.
    ``listed`` is what :func:`find` returned for more than a few names, if it was called before.
    """
    holding = {name.rpartition("/")[0] for name in names} - {""}
    above = sorted(holding.union(*map(_folders_above, holding)))
    if len(names) > HEADS_LIMIT:
        above = [folder for folder in above if not folder.startswith(matcher.folder)]
        if listed is not None:
            return listed | await _heads(lane, place, above) if above else listed
    if len(names) <= HEADS_LIMIT and look == "always":
        asked = [*names, *above]
        found = await find_named(lane, place, asked, lambda: _heads(lane, place, asked), look)
        return found | await _below(lane, place, names)
    found, in_the_way = await both(
        lambda: find(lane, place, matcher, names, look),
        lambda: both(
            lambda: _heads(lane, place, above), lambda: _below(lane, place, names if len(names) <= HEADS_LIMIT else ())
        ),
    )
    return found | in_the_way[0] | in_the_way[1]


async def _below(lane: Lane, place: Place, names: Sequence[str]) -> dict[str, ObjectMeta]:
    """Return, by name, something that lies in a folder that is called like one of ``names``, for each."""
    found: dict[str, ObjectMeta] = {}

    async def look(name: str) -> None:
        async with contextlib.aclosing(lane.store.list(f"{place.key(name)}/")) as pages:
            async for page in pages:
                inside = [meta for meta in page if not is_marker(place.name_of(meta.key))]
                if inside:
                    found[place.name_of(inside[0].key)] = inside[0]
                    return

    files = [name for name in names if not is_marker(name)]
    if files:
        await for_each(look, files, limit=len(files))
    return found


async def list_all(lane: Lane, place: Place) -> dict[str, ObjectMeta]:
    """Return, by name, every object of the run, packs and indices, too."""
    return await in_thread(_by_name, place, await lane.store.list_all(place.root))


async def real_files(lane: Lane, found: Found) -> Found:
    """
    Return what is no folder marker of what was listed.

    The AWS console makes a folder by an empty object whose key ends in ``/``, and listings show it without the slash,
    like an empty file; a HEAD tells them apart.
    """
    unlike = (name for name, meta in found.others.items() if not meta.size_bytes and not meta.metadata)
    empty = [*(name for name, row in found.rows.items() if not row[SIZE]), *unlike]
    doubtful = {name: found[name] for name in empty if not is_marker(name)}
    if not doubtful:
        return found
    real = await lane.digests(list(doubtful.values()))
    markers = {name for name, meta in doubtful.items() if meta.key not in real}
    return found.only(lambda name: name not in markers)


async def _heads(lane: Lane, place: Place, names: Sequence[str]) -> dict[str, ObjectMeta]:
    try:
        found = await map_bounded(lane.head_or_none, list(map(place.key, names)), limit=HEADS_LIMIT)
    except AccessDeniedError:
        # The answer to a HEAD has no body to say why; that to a listing has.
        await lane.store.list_folder(place.root)
        raise
    return _by_name(place, [meta for meta in found if meta is not None])


async def _listing_of_all(lane: Lane, root: str) -> Listing:
    known = lane.known
    cuts = [] if known is None else await in_thread(known.cuts_at, lane.place, root, least=PAGE, most=RANGES_LIMIT)
    return Listing([], await lane.store.list_all(root, cuts=cuts))


def _by_name(place: Place, metas: Sequence[ObjectMeta]) -> dict[str, ObjectMeta]:
    # A marker of the very folder that is listed is shown as a key above it.
    return {place.name_of(meta.key): meta for meta in metas if meta.key.startswith(place.root)}


def _folders_above(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
