"""The catalog: data folders of runs in an object store, one object for each file."""

from __future__ import annotations

import builtins
import itertools
import os
from typing import TYPE_CHECKING, TypeAlias

from asyncstore._core.concurrency import for_each, map_bounded
from asyncstore._core.resource import Resource
from asyncstore._core.threads import in_thread
from asyncstore.catalog._copy import Copy
from asyncstore.catalog._download import Download, Wanted
from asyncstore.catalog._find import find, find_around, list_all, real_files
from asyncstore.catalog._land import look, make_root
from asyncstore.catalog._lane import Lane
from asyncstore.catalog._paths import ComputeFolder, Place, check_names, compute_folder, normal_prefix, reserved
from asyncstore.catalog._patterns import Matcher
from asyncstore.catalog._refusals import check_beside, check_folding, check_root, check_targets
from asyncstore.catalog._scan import LocalFile, real_folder, walk
from asyncstore.catalog._tally import Tally
from asyncstore.catalog._upload import Upload
from asyncstore.errors import NotFoundError
from asyncstore.models import DataCatalog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from contextlib import AsyncExitStack

    from asyncstore.catalog._tally import ProgressHook
    from asyncstore.objects.base import ObjectStore

__all__ = ["Catalog", "Entries"]

Entries: TypeAlias = list[DataCatalog]

EXECUTION_LOG = ".execution.log"
"""Files that end so belong to the run that wrote them, and are not carried over to another."""

_SCAN_STEP = 1000
"""Files walked, or looked at, in one hop to a thread."""
_DELETE_STEP = 1000


class Catalog(Resource):
    """
    Data files of runs, put from and got into a compute data folder: open it with ``async with``.

    A file is one object, ``<prefix>/<run_id>/<compute data folder>/<relative path>``, with the file's own bytes and
    their SHA-256 in its metadata (a folder keeps no metadata: there it is computed from the bytes when it is needed).

    - A file is in the catalog, and arrives on disk, whole and verified or not at all. Contents are all that is kept: no
      modes, no times.
    - Files that are the same on both sides already are not moved.
    - What is called ``.asyncstore``, at any level, is asyncstore's own (a run log may live there): it is neither put
      nor got nor synced, and is no compute data folder. A file system's catalog is not put into itself nor got into.
    - At most ``max_concurrency`` requests and ``max_memory_mb`` MiB are in flight, over all calls together.
    - Where one file fails the others go on, and :class:`TransferError` says at the end what became of each. What would
      stop every file (no access, no such bucket, storage not reachable) is raised at once. Names that are not safe are
      refused before anything moves.
    - Writers of one run never disturb each other; of two that put the same file, the last one stands, whole.
    - A cancelled caller leaves no half-written file. After a power failure a file that was just got may have to be got
      again: downloads are not forced to the disk.

    Args:
        store: where the objects lie; it is borrowed: open it before, close it after.
        prefix: what keys begin with.
        compute_data_folder: where files lie locally, if a call does not say otherwise. In keys ``data/`` is ``data``,
            ``.`` is nothing, and ``../data``, ``~/data`` and ``/tmp/x/data`` are ``data``.
        max_concurrency: most requests in flight.
        max_memory_mb: most bytes in flight, in MiB.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        prefix: str = "",
        compute_data_folder: str | os.PathLike[str] = "data/",
        max_concurrency: int = 64,
        max_memory_mb: int = 128,
    ) -> None:
        super().__init__()
        self._store = store
        self._prefix = normal_prefix(prefix)
        self._compute_data_folder = compute_data_folder
        self._max_concurrency = max_concurrency
        self._max_memory_mb = max_memory_mb
        self._lane: Lane
        self._own = ""

    @property
    def location(self) -> str:
        """Where the files are kept: ``s3://<bucket>/<prefix>`` or a folder."""
        return f"{self._store.location}/{self._prefix}".rstrip("/")

    async def _open(self, stack: AsyncExitStack) -> None:
        self._lane = Lane(self._store, self._max_concurrency, self._max_memory_mb)

    async def put(
        self,
        name: str | Iterable[str],
        run_id: str,
        compute_data_folder: str | os.PathLike[str] | None = None,
        synced_catalogs: Iterable[DataCatalog] | None = None,
        *,
        exclude: str | Iterable[str] = (),
        local_folder: str | os.PathLike[str] | None = None,
        allow_no_match: bool = False,
        on_progress: ProgressHook | None = None,
    ) -> Entries:
        """
        Put files of the compute data folder into the catalog, and return what is there now, by name.

        Whatever lies in a folder ``.asyncstore`` is left out.

        Args:
            name: one pattern or several (see :mod:`asyncstore.catalog._patterns`), relative to the folder.
            run_id: the run they belong to.
            compute_data_folder: the folder, if not the catalog's own.
            synced_catalogs: what an earlier ``get`` or ``put`` returned. A file that is still as it was then is left
                alone if the run has one of that name, also if another step has put a newer one meanwhile.
            exclude: patterns of what to leave out all the same.
            local_folder: where the folder lies on this machine, if not where its name says.
            allow_no_match: do not mind patterns that match nothing.
            on_progress: told of each step.

        Raises:
            NotFoundError: there is no such folder, or a pattern matches nothing.
            UnsafePathError: something meant is a FIFO, a device, a link that leads out of the folder, or has a name
                that cannot be kept everywhere, or the folder is asyncstore's own. Nothing has moved.
            TransferError: some files failed, among them those that changed while they were read.
        """
        self._check_open()
        folder = self._folder(compute_data_folder, local_folder)
        place = Place.of(self._prefix, run_id, folder.part)
        matcher = Matcher.of(name, exclude)
        files = await self._scan(folder, matcher)
        names = [file.name for file in files]
        if not allow_no_match:
            _require_matches(matcher, names, f"in compute data folder {str(folder.local)!r}")
        await in_thread(check_names, names, place)
        existing = await find_around(self._lane, place, matcher, names)
        await check_beside(self._lane, names, existing)
        tally = Tally({place.full_name(file.name): file.size_bytes for file in files}, on_progress)
        synced = {entry.name.removeprefix(place.folder): entry.data_hash for entry in synced_catalogs or ()}
        digests = await Upload(self._lane, place, existing=existing, synced=synced, tally=tally).run(files)
        tally.finish("put into", self._at(place))
        return self._entries(place, digests, "put")

    async def get(
        self,
        name: str | Iterable[str],
        run_id: str,
        compute_data_folder: str | os.PathLike[str] | None = None,
        *,
        exclude: str | Iterable[str] = (),
        local_folder: str | os.PathLike[str] | None = None,
        allow_no_match: bool = False,
        on_progress: ProgressHook | None = None,
    ) -> Entries:
        """
        Get files of a run into the compute data folder, which is made if missing, and return what is here now, by name.

        A file that is here already and has the same contents is not touched; one with other contents is replaced.
        Names with a segment ``.asyncstore`` are left out. Arguments are those of :meth:`put`.

        Raises:
            NotFoundError: the run has nothing, or nothing that a pattern matches.
            UnsafePathError: a name that cannot be kept here, or would lead out of the folder or into the catalog
                itself. Nothing has moved.
            TransferError: some files failed, among them those whose bytes are not what was put.
        """
        self._check_open()
        folder = self._folder(compute_data_folder, local_folder)
        place = Place.of(self._prefix, run_id, folder.part)
        matcher = Matcher.of(name, exclude)
        found = await find(self._lane, place, matcher, matcher.literals)
        objects = await real_files(self._lane, {name: found[name] for name in found if _is_meant(matcher, name)})
        if matcher.patterns and not objects and not await self._has_anything(run_id) and not allow_no_match:
            raise NotFoundError(f"run {run_id!r} has no data in {self.location}: is the run id right?")
        wanted = [Wanted(name, objects[name]) for name in sorted(objects)]
        names = sorted(objects)
        if not allow_no_match:
            _require_matches(matcher, names, f"in {self._at(place)}")
        if not wanted:
            return []
        await in_thread(check_names, names, place)
        root = await in_thread(self._make_root, folder)
        present = await self._look(root, names)
        tally = Tally({place.full_name(item.name): item.size_bytes for item in wanted}, on_progress)
        digests = await Download(self._lane, place, root=root, present=present, tally=tally).run(wanted)
        tally.finish("get from", self._at(place))
        return self._entries(place, digests, "get")

    async def list(self, run_id: str) -> AsyncIterator[DataCatalog]:
        """Yield what a run has in all its folders, in the storage's order; nothing if there is no such run."""
        self._check_open()
        place = Place.of(self._prefix, run_id)
        async for page in self._store.list(place.root):
            digests = await map_bounded(self._lane.digest_or_none, page, limit=self._max_concurrency)
            for meta, digest in zip(page, digests, strict=True):
                if digest is not None:
                    yield self._entry(place, place.name_of(meta.key), digest, "put")

    async def sync_between_runs(
        self, previous_run_id: str, run_id: str, *, on_progress: ProgressHook | None = None
    ) -> Entries:
        """
        Copy what a run has to another run, inside the storage, and return what is there now, by name.

        Execution logs (``*.execution.log``) and what lies in ``.asyncstore`` stay where they are, and what the other
        run has already with the same contents is not copied again.

        Raises:
            NotFoundError: the previous run has nothing.
            TransferError: some files failed.
        """
        self._check_open()
        source, target = Place.of(self._prefix, previous_run_id), Place.of(self._prefix, run_id)
        found = await real_files(self._lane, await list_all(self._lane, source))
        if not found:
            raise NotFoundError(f"run {previous_run_id!r} has no data in {self.location}: is the run id right?")
        left_out = {name for name in found if name.endswith(EXECUTION_LOG) or reserved(name)}
        objects = {name: meta for name, meta in found.items() if name not in left_out}
        existing = await list_all(self._lane, target)
        tally = Tally({name: meta.size_bytes for name, meta in objects.items()}, on_progress)
        digests = await Copy(self._lane, target, existing=existing, tally=tally).run(objects)
        tally.finish("copy to", self._at(target))
        return self._entries(target, digests, "put")

    async def delete(self, run_id: str) -> None:
        """Delete everything that a run has. What is not there is no error, so it is safe to repeat."""
        self._check_open()
        keys = [meta.key for meta in (await list_all(self._lane, Place.of(self._prefix, run_id))).values()]
        portions = [keys[start : start + _DELETE_STEP] for start in range(0, len(keys), _DELETE_STEP)]
        await for_each(self._store.delete, portions, limit=max(1, min(len(portions), self._max_concurrency)))

    def _folder(
        self, compute_data_folder: str | os.PathLike[str] | None, local_folder: str | os.PathLike[str] | None
    ) -> ComputeFolder:
        chosen = self._compute_data_folder if compute_data_folder is None else compute_data_folder
        return compute_folder(chosen, local_folder)

    async def _scan(self, folder: ComputeFolder, matcher: Matcher) -> builtins.list[LocalFile]:
        root = await in_thread(real_folder, folder.local)
        check_root(root, self._own)
        found = walk(root, matcher, leave_out=self._own)
        files: builtins.list[LocalFile] = []
        while step := await in_thread(lambda: builtins.list(itertools.islice(found, _SCAN_STEP))):
            files += step
        return sorted(files, key=lambda file: file.name)

    def _make_root(self, folder: ComputeFolder) -> str:
        check_root(os.path.realpath(folder.local), self._own)
        return make_root(folder.local)

    async def _has_anything(self, run_id: str) -> bool:
        # A HEAD cannot say that there is no bucket, or that the secret is wrong: here the storage does.
        listing = await self._store.list_folder(Place.of(self._prefix, run_id).root)
        return bool(listing.folders or listing.objects)

    async def _look(self, root: str, names: Sequence[str]) -> dict[str, LocalFile]:
        await in_thread(check_targets, root, names, self._own)
        await in_thread(check_folding, root, names)
        present: dict[str, LocalFile] = {}
        for start in range(0, len(names), _SCAN_STEP):
            present |= await in_thread(look, root, names[start : start + _SCAN_STEP])
        return present

    def _entries(self, place: Place, digests: Mapping[str, str], stage: str) -> Entries:
        return [self._entry(place, name, digest, stage) for name, digest in sorted(digests.items())]

    def _entry(self, place: Place, name: str, digest: str, stage: str) -> DataCatalog:
        full_name = place.full_name(name)
        return DataCatalog(
            name=full_name,
            data_hash=digest,
            catalog_relative_path=f"{place.run_id}/{full_name}",
            catalog_handler_location=self.location,
            stage=stage,
        )

    def _at(self, place: Place) -> str:
        return f"{self._store.location}/{place.root}"


def _is_meant(matcher: Matcher, name: str) -> bool:
    return matcher.matches(name) and not reserved(name)


def _require_matches(matcher: Matcher, names: Sequence[str], where: str) -> None:
    missing = matcher.unmatched(names)
    if missing:
        raise NotFoundError(f"nothing {where} matches {', '.join(map(repr, missing))}")
