"""Packs of puts that died, found and removed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import map_bounded
from asyncstore.catalog._packed._find import is_index, read_indices
from asyncstore.catalog._packed._names import PACKS, parse
from asyncstore.errors import ConfigurationError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import timedelta

    from asyncstore.catalog._moving._lane import Lane
    from asyncstore.objects.base import ObjectMeta

__all__ = ["sweep_packs"]

_DELETE_STEP = 1000


async def sweep_packs(lane: Lane, prefix: str, older_than: timedelta, *, dry_run: bool) -> list[str]:
    """
    Remove packs that were stored ``older_than`` ago or earlier and that no index names, and return their keys.

    A put that takes longer loses its packs, so let it be a day or more. Where an index cannot be read, no pack of its
    folder is removed.

    Args:
        lane: the store.
        prefix: what keys begin with, empty or ending in ``/``.
        older_than: how long ago, by the storage's clock.
        dry_run: only return them.
    """
    until = datetime.now(UTC) - older_than
    listed = [meta async for page in lane.store.list(prefix) for meta in page if parse(meta.key) is not None]
    old = [meta.key for meta in listed if not is_index(meta.key) and meta.modified_at <= until]
    suspects = await _unnamed(lane, old, listed)
    if suspects:
        # An index may have been written while that went on.
        suspects = await _unnamed(lane, suspects, await _listed_again(lane, {_folder(key) for key in suspects}))
    if not dry_run:
        for start in range(0, len(suspects), _DELETE_STEP):
            await lane.store.delete(suspects[start : start + _DELETE_STEP])
    return suspects


async def _listed_again(lane: Lane, folders: Iterable[str]) -> list[ObjectMeta]:
    found: list[ObjectMeta] = []
    for folder in folders:
        async for page in lane.store.list(folder):
            found += page
    return found


async def _unnamed(lane: Lane, packs: Sequence[str], listed: Sequence[ObjectMeta]) -> list[str]:
    """Return the packs that no index in ``listed`` names, without those of folders where that cannot be told."""
    folders = {_folder(key) for key in packs}
    indices = [meta for meta in listed if is_index(meta.key) and _folder(meta.key) in folders]
    named: set[str] = set()
    unsure: set[str] = set()

    async def look(meta: ObjectMeta) -> None:
        folder = _folder(meta.key)
        try:
            for found in await read_indices(lane, [meta]):
                named.update(folder + name for name in found.index.packs)
        except (IntegrityError, ConfigurationError):
            unsure.add(folder)

    if indices:
        await map_bounded(look, indices, limit=min(lane.workers, len(indices)))
    return [key for key in packs if key not in named and _folder(key) not in unsure]


def _folder(key: str) -> str:
    return key[: key.rindex(PACKS) + len(PACKS)]
