"""Plans made: both sides are looked at, what is doubtful is looked into, and nothing is changed."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import both
from asyncstore._core.threads import in_thread
from asyncstore.catalog._cache._pairs import pair_of
from asyncstore.catalog._local._files import LocalFiles
from asyncstore.catalog._local._land import look
from asyncstore.catalog._local._scan import Scan, real_folder, test_of, walk
from asyncstore.catalog._packed._decide import settled, usable_base
from asyncstore.catalog._packed._find import files_of
from asyncstore.catalog._packed._meta import located, located_all
from asyncstore.catalog._paths import RESERVED, Place, check_names, folder_of, is_marker, marker, refusals, reserved
from asyncstore.catalog._plan import Decided, Kind, Layout, PlannedFile, TransferPlan
from asyncstore.catalog._planning._comparing import LastTime, compared
from asyncstore.catalog._planning._decide import (
    NEW,
    Sides,
    decide_get,
    decide_new,
    decide_puts,
    decide_sync,
    doubts_of_put,
    of_same_size,
    same_on_both_sides,
)
from asyncstore.catalog._planning._find import HEADS_LIMIT, find, find_around, list_all, real_files
from asyncstore.catalog._planning._refusals import check_beside, check_root, check_targets
from asyncstore.errors import NotFoundError

if TYPE_CHECKING:
    import builtins
    from collections.abc import Mapping, Sequence

    from asyncstore.catalog._moving._lane import Lane
    from asyncstore.catalog._packed._find import Look
    from asyncstore.catalog._paths import ComputeFolder
    from asyncstore.catalog._patterns import Matcher
    from asyncstore.catalog._planning._found import Found
    from asyncstore.objects.base import ObjectMeta

__all__ = ["Planner"]


@dataclass(frozen=True, slots=True)
class Planner:
    """
    Makes plans.

    Args:
        lane: the store and its limits.
        prefix: what keys begin with.
        where: the storage, for messages.
        own: folder that the catalog keeps its objects in, a real path; empty if that is no folder.
        layout: how small files are stored.
    """

    lane: Lane
    prefix: str
    where: str
    own: str = ""
    layout: Layout = "plain"

    async def put(
        self,
        folder: ComputeFolder,
        run_id: str,
        matcher: Matcher,
        *,
        synced: Mapping[str, str],
        base_run_id: str | None,
        allow_no_match: bool,
        refuse: bool,
    ) -> Decided:
        """Plan a put; names that are not safe are raised, or else, where not ``refuse``, planned as refused."""
        place = Place.of(self.prefix, run_id, folder.part)
        root = await in_thread(real_folder, folder.local)
        check_root(root, self.own)
        look: Look = self._look_for_packs("needed" if synced else "shown")
        scan, listed = await self._scan_and_list(root, place, matcher, look)
        files, names, empty = scan.files, list(scan.files), scan.empty
        if not allow_no_match:
            _require_matches(matcher, [*names, *empty], f"in compute data folder {str(folder.local)!r}")
        refused = await _refusals([*names, *map(marker, empty)], place, refuse)
        if refused:
            names = [name for name in names if name not in refused]
            empty = [name for name in empty if marker(name) not in refused]
        base_place = Place.of(self.prefix, base_run_id, folder.part) if base_run_id else None
        existing, base = await both(
            lambda: find_around(self.lane, place, matcher, [*names, *map(marker, empty)], look, listed=listed),
            lambda: self._found(base_place, matcher, names),
        )
        base = usable_base(base, existing, self.layout)
        await check_beside(self.lane, names, existing)
        safe = files.some(names)
        last_time = LastTime(self.lane, pair_of(self.lane.place, place.root, root, matcher), safe, existing)
        before, rest = ({}, safe) if synced else await last_time.same()
        sides = Sides(existing, base, synced)
        looked, known = await compared(self.lane, await in_thread(doubts_of_put, rest, sides))
        sides = replace(sides, local=looked.local, remote=looked.remote)

        def decide() -> Decided:
            same = {} if synced else before | same_on_both_sides(rest, existing, sides)
            new, others = decide_puts(rest.without(same) if same else rest, sides)
            planned = new + settled(others, base, existing, self.layout)
            for name, why in refused.items():
                planned.append(PlannedFile(name, "refuse", 0 if is_marker(name) else files[name].size_bytes, why))
            planned += [_planned_marker(marker(name), existing) for name in empty]
            return Decided(self._plan("put", place, root, planned), same)

        # In a thread, as all that takes long with many files: the loop has others to serve.
        decided = await in_thread(decide)
        await last_time.remember(before, decided.same, known)
        return decided

    async def get(
        self, folder: ComputeFolder, run_id: str, matcher: Matcher, *, allow_no_match: bool, refuse: bool
    ) -> Decided:
        """Plan a get; see :meth:`put` for ``refuse``."""
        place = Place.of(self.prefix, run_id, folder.part)
        found = await find(self.lane, place, matcher, matcher.literals, self._look_for_packs("needed"))
        objects = await real_files(self.lane, await in_thread(_meant_of, matcher, found))
        if matcher.patterns and not objects and not await self._has_anything(run_id) and not allow_no_match:
            raise NotFoundError(f"run {run_id!r} has no data in {self.where}: is the run id right?")
        names = await in_thread(_names_of, objects)
        if not allow_no_match:
            _require_matches(matcher, names, f"in {self.where}/{place.root}")
        root = await in_thread(os.path.realpath, folder.local)
        check_root(root, self.own)
        refused = await _refusals(names, place, refuse)
        safe = [name for name in names if name not in refused] if refused else names
        present = await self._look(root, [name for name in safe if not is_marker(name)], clean=refuse)
        last_time = LastTime(self.lane, pair_of(self.lane.place, place.root, root, matcher), present, objects)
        before, rest = await last_time.same()
        sides, known = await compared(self.lane, await in_thread(of_same_size, rest, objects))

        def decide() -> Decided:
            same = before | same_on_both_sides(rest, objects, sides)
            planned = _decided_gets([name for name in safe if name not in same], objects, present, sides, root)
            planned += [PlannedFile(name, "refuse", objects[name].size_bytes, why) for name, why in refused.items()]
            return Decided(self._plan("get", place, root, planned), same)

        decided = await in_thread(decide)
        await last_time.remember(before, decided.same, known)
        return decided

    async def sync(self, previous_run_id: str, run_id: str) -> TransferPlan:
        """Plan a copy from one run to another."""
        source, target = Place.of(self.prefix, previous_run_id), Place.of(self.prefix, run_id)
        found = await self._all_of(source)
        if not found:
            raise NotFoundError(f"run {previous_run_id!r} has no data in {self.where}: is the run id right?")
        existing = await self._all_of(target)
        await check_beside(self.lane, [name for name in found if not is_marker(name)], existing)
        same = [meta for name, meta in existing.items() if name in found and found[name].size_bytes == meta.size_bytes]
        files = {name: meta for name, meta in found.items() if not is_marker(name)}
        remote = await self.lane.digests([*files.values(), *same])
        sides = Sides(existing, remote=remote)
        decided = (decide_sync(name, meta, sides) for name, meta in found.items())
        planned = settled((file for file in decided if file is not None), found, existing, self.layout)
        return self._plan("sync", target, "", planned)

    def _plan(self, kind: Kind, place: Place, root: str, files: Sequence[PlannedFile]) -> TransferPlan:
        ordered = tuple(sorted(files, key=lambda file: file.name))
        return TransferPlan(kind, place.run_id, place.folder, root, f"{self.where}/{place.root}", ordered, self.layout)

    def _look_for_packs(self, otherwise: Look) -> Look:
        return "always" if self.layout == "packed" else otherwise

    async def _all_of(self, place: Place) -> dict[str, ObjectMeta]:
        listed = await list_all(self.lane, place)
        found = await real_files(self.lane, await files_of(self.lane, place, list(listed.values())))
        return found.as_dict()

    async def _scan_and_list(self, root: str, place: Place, matcher: Matcher, look: Look) -> tuple[Scan, Found | None]:
        """Look at both sides at the same time as soon as it is clear that there is much to list."""
        looked = asyncio.Event()
        scan = Scan(LocalFiles.under(root))

        async def list_many() -> Found | None:
            await looked.wait()
            return await find(self.lane, place, matcher, None, look) if len(scan.files) > HEADS_LIMIT else None

        _, listed = await both(lambda: self._scan(root, matcher, scan, looked), list_many)
        return scan, listed

    async def _scan(self, root: str, matcher: Matcher, scan: Scan, looked: asyncio.Event) -> None:
        """Walk through the folder, and tell when there is much to list or all is over."""
        walking = walk(root, matcher, scan, leave_out=self.own)
        try:
            while await in_thread(next, walking, False):
                if len(scan.files) > HEADS_LIMIT:
                    looked.set()
        finally:
            looked.set()

    async def _found(self, place: Place | None, matcher: Matcher, names: Sequence[str]) -> Mapping[str, ObjectMeta]:
        return {} if place is None else await find(self.lane, place, matcher, names, self._look_for_packs("shown"))

    async def _has_anything(self, run_id: str) -> bool:
        # A HEAD cannot say that there is no bucket, or that the secret is wrong: here the storage does.
        listing = await self.lane.store.list_folder(Place.of(self.prefix, run_id).root)
        return bool(listing.folders or listing.objects)

    async def _look(self, root: str, names: Sequence[str], *, clean: bool) -> LocalFiles:
        if not names or not await in_thread(os.path.isdir, root):
            return LocalFiles()
        await in_thread(check_targets, root, names, self.own)
        return await in_thread(partial(look, root, names, clean=clean))


def _decided_gets(
    names: Sequence[str], objects: Found, present: LocalFiles, sides: Sides, root: str
) -> builtins.list[PlannedFile]:
    """Return what is to become of many objects; mostly there are many that are new here, of which little is to say."""
    listed: list[str] = []
    packed: list[str] = []
    others: list[str] = []
    for name in names:
        if name in present.rows or is_marker(name):
            others.append(name)
        elif name in objects.rows:
            listed.append(name)
        elif name in objects.packed:
            packed.append(name)
        else:
            others.append(name)
    decided = [_decided_get(name, objects[name], present, sides, root) for name in others]
    return decided + decide_new(listed, objects) + located_all(packed, objects.packed, NEW)


def _decided_get(name: str, meta: ObjectMeta, present: LocalFiles, sides: Sides, root: str) -> PlannedFile:
    if is_marker(name) and os.path.isdir(os.path.join(root, folder_of(name))):
        return PlannedFile(name, "skip", 0, "the folder is there")
    return located(decide_get(name, meta, present, sides), meta)


def _planned_marker(name: str, existing: Mapping[str, ObjectMeta]) -> PlannedFile:
    if name in existing:
        return PlannedFile(name, "skip", 0, "the empty folder is known")
    return PlannedFile(name, "upload", 0, "an empty folder")


def _overgrown(name: str, objects: Mapping[str, ObjectMeta]) -> bool:
    """Tell whether a file has taken the place of the empty folder that a marker stands for, or of one above it."""
    while name := folder_of(name):
        if name in objects:
            return True
    return False


def _meant_of(matcher: Matcher, found: Found) -> Found:
    """Return what is meant of what was found; takes long where that is much."""
    if matcher.everything and RESERVED not in "\n".join(found).casefold():
        return found
    matches = test_of(matcher)

    def meant(name: str) -> object:
        return matcher.means_folder(folder_of(name)) if is_marker(name) else matches(name) and not reserved(name)

    return found.only(meant)


def _names_of(objects: Found) -> builtins.list[str]:
    """Return what there is by name, without markers of folders that are empty no more."""
    return sorted(name for name in objects if not (is_marker(name) and _overgrown(name, objects)))


def _require_matches(matcher: Matcher, names: Sequence[str], where: str) -> None:
    missing = matcher.unmatched(names)
    if missing:
        raise NotFoundError(f"nothing {where} matches {', '.join(map(repr, missing))}")


async def _refusals(names: Sequence[str], place: Place, refuse: bool) -> Mapping[str, str]:
    if refuse:
        await in_thread(check_names, names, place)
        return {}
    return await in_thread(refusals, names, place)
