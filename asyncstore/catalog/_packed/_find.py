"""
What a run has in packs, found with as few requests as the question allows.

A file ``a/b/c`` of a run may be in a pack of the folder ``a/b/``, of ``a/``, or of the run itself, as it may have been
put from any of them. A listing of a folder shows the indices of that folder and of those below it.

Nobody puts packs where only forms can have put them (:func:`in_uploads`), so there they are not looked at.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from asyncstore._core.concurrency import both, map_bounded
from asyncstore._core.memory import room_for
from asyncstore._core.threads import in_thread
from asyncstore._core.traffic import charge_down
from asyncstore.catalog._packed._index import decode
from asyncstore.catalog._packed._meta import FoundIndex, PackedFiles, merged, witness
from asyncstore.catalog._packed._names import PACKS, folders_down_to, in_uploads, is_own, parse
from asyncstore.catalog._paths import RESERVED, folder_of, is_marker, reserved
from asyncstore.catalog._planning._found import Found
from asyncstore.errors import NotFoundError
from asyncstore.objects.base import ObjectMeta
from asyncstore.objects.listed import KEY, Listed

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from asyncstore.catalog._moving._lane import Lane
    from asyncstore.catalog._paths import Place
    from asyncstore.objects.base import Listing

__all__ = ["Look", "files_of", "find_listed", "find_named", "is_index", "pages_with_packed", "read_indices"]

Look: TypeAlias = Literal["always", "needed", "shown"]
"""
Where indices are looked for: wherever they may lie; not above the compute data folder, nor for names that are objects,
unless nothing is found; only where a listing that is made anyway shows them.
"""

READ_AT_ONCE = 16

PAGE = 1000


async def find_named(
    lane: Lane,
    place: Place,
    names: Sequence[str],
    heads: Callable[[], Awaitable[Mapping[str, ObjectMeta]]],
    look: Look,
) -> Found:
    """Return, by name, what ``heads`` finds of ``names`` as objects, and what is packed of the others."""
    if look == "always":
        found, indices = await both(heads, lambda: _list_on_the_way(lane, place, names))
    else:
        found = await heads()
        missing = [name for name in names if name not in found]
        if look == "shown" or not missing:
            return Found.of(found)
        indices = await _list_on_the_way(lane, place, missing)
    asked = set(names)
    # Empty folders are of interest, too, and nobody can ask for these by name.
    packed = await _read(lane, place, indices, lambda name: name in asked or is_marker(name))
    return Found.of(found).beside(packed)


async def find_listed(
    lane: Lane, place: Place, folder: str, listing: Callable[[], Awaitable[Listing]], look: Look
) -> Found:
    """
    Return, by name, what ``listing`` finds in a folder of the place as objects, and what is packed.

    The listing is of everything in the folder, at any depth; or of what lies directly in it, with the folders there,
    whose names end in ``/``.
    """
    outside = [*folders_down_to(place.folder + folder)][:-1]
    near = [above for above in outside if len(above) >= len(place.folder)]
    far = [above for above in outside if len(above) < len(place.folder)]
    first = {"always": outside, "needed": near, "shown": []}[look]
    listed, indices = await both(listing, lambda: list_indices(lane, _run_root(place), first))
    alone, shown = await in_thread(_by_name, place, listed.objects)
    indices = [*indices, *shown]
    if f"{place.root}{folder}{RESERVED}/" in listed.folders:
        indices += await list_indices(lane, _run_root(place), [place.folder + folder])
    packed = await _read(lane, place, indices)
    found = alone.beside(packed)
    if look == "needed" and far and not found:
        found = Found(packed=await _read(lane, place, await list_indices(lane, _run_root(place), far)))
    return found | _folders(place, listed.folders)


async def files_of(lane: Lane, place: Place, listed: Sequence[ObjectMeta]) -> Found:
    """Return, by name, the objects of a listing and what the indices in it say is packed."""
    alone, indices = await in_thread(_by_name, place, listed)
    return alone.beside(await _read(lane, place, indices))


async def pages_with_packed(
    lane: Lane, place: Place, pages: AsyncIterable[Sequence[ObjectMeta]]
) -> AsyncIterator[Sequence[ObjectMeta]]:
    """Yield the pages of a listing without packs and indices, and then what is packed and not in them."""
    indices: list[ObjectMeta] = []
    alone: set[str] = set()
    async for page in pages:
        indices += (meta for meta in page if is_index(meta.key))
        others = [meta for meta in page if not is_own(meta.key)]
        alone.update(meta.key for meta in others)
        yield others
    packed = await _read(lane, place, indices)
    found = [name for name in packed if place.key(name) not in alone and not reserved(name)]
    for start in range(0, len(found), PAGE):
        yield packed.described(found[start : start + PAGE])


async def list_indices(lane: Lane, run_root: str, folders: Iterable[str]) -> list[ObjectMeta]:
    """Return the indices of some folders of a run, each empty or ending in ``/``."""

    async def ask(folder: str) -> list[ObjectMeta]:
        found: list[ObjectMeta] = []
        async for page in lane.store.list(f"{run_root}{folder}{PACKS}"):
            found += (meta for meta in page if is_index(meta.key))
        return found

    listed = list(folders)
    answers = await map_bounded(ask, listed, limit=READ_AT_ONCE) if listed else []
    return [meta for answer in answers for meta in answer]


async def read_indices(lane: Lane, metas: Sequence[ObjectMeta]) -> list[FoundIndex]:
    """
    Return those indices that are still there.

    Raises:
        IntegrityError: one is damaged.
        ConfigurationError: one was written by a newer version of asyncstore.
    """
    found = await map_bounded(partial(_read_one, lane), metas, limit=READ_AT_ONCE) if metas else []
    return [one for one in found if one is not None]


def is_index(key: str) -> bool:
    """Tell whether a key is that of an index."""
    return is_own(key) and (parsed := parse(key)) is not None and parsed.number is None


async def _list_on_the_way(lane: Lane, place: Place, names: Iterable[str]) -> list[ObjectMeta]:
    folders = {f"{folder}/" if (folder := folder_of(place.folder + name)) else "" for name in names}
    above = {one for folder in folders for one in folders_down_to(folder)}
    return await list_indices(lane, _run_root(place), sorted(above))


async def _read(
    lane: Lane, place: Place, metas: Sequence[ObjectMeta], wanted: Callable[[str], bool] | None = None
) -> PackedFiles:
    start = len(_run_root(place))
    ours = [meta for meta in metas if not in_uploads(meta.key[start:].rpartition(PACKS)[0])]
    if not ours:
        return PackedFiles()
    witness(meta.key for meta in ours)
    return await in_thread(merged, place, await read_indices(lane, ours), wanted)


async def _read_one(lane: Lane, meta: ObjectMeta) -> FoundIndex | None:
    data = room_for(meta.size_bytes)

    def take(block: memoryview, offset: int) -> None:
        data[offset : offset + len(block)] = block

    try:
        if meta.size_bytes:
            async with lane.request(charge_down(meta.size_bytes, 2 * meta.size_bytes)):
                await lane.store.read_into(meta.key, (0, meta.size_bytes), take)
    except NotFoundError:
        return None
    return FoundIndex(meta, await in_thread(decode, data, f"{lane.store.location}/{meta.key}"))


def _by_name(place: Place, metas: Sequence[ObjectMeta]) -> tuple[Found, list[ObjectMeta]]:
    """Return the files of a listing by name, and the indices in it."""
    objects: Sequence[Any] = metas
    if isinstance(metas, Listed):
        objects = metas.rows
        keys = [row[KEY] for row in objects]
    else:
        keys = [meta.key for meta in metas]
    root, start = place.root, len(place.root)
    files: dict[str, Any]
    indices: list[ObjectMeta] = []
    # All that sorts between two keys with the same beginning begins so, too.
    if keys and min(keys).startswith(root) and max(keys).startswith(root) and PACKS not in "\n".join(keys):
        files = dict(zip([key[start:] for key in keys], objects, strict=True))
    else:
        # A marker of the very folder that is listed is shown as a key above it.
        files = {
            key[start:]: one
            for key, one in zip(keys, objects, strict=True)
            if key.startswith(root) and not (PACKS in key and is_own(key))
        }
        indices = [metas[index] for index, key in enumerate(keys) if PACKS in key and is_index(key)]
    return Found(files) if isinstance(metas, Listed) else Found(None, files), indices


def _folders(place: Place, folders: Iterable[str]) -> dict[str, ObjectMeta]:
    named = {place.name_of(folder): folder for folder in folders if not folder.endswith(f"/{RESERVED}/")}
    return {name: ObjectMeta(folder, 0, "", datetime.min.replace(tzinfo=UTC)) for name, folder in named.items()}


def _run_root(place: Place) -> str:
    return f"{place.prefix}{place.run_id}/"
