"""The catalog: data folders of runs in an object store, one object for each file."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Literal, overload

from asyncstore._core.concurrency import for_each
from asyncstore._core.threads import in_thread
from asyncstore._core.traffic import MIB, process_budget
from asyncstore.catalog._cache._known import Known, cache_folder, place_of
from asyncstore.catalog._entries import Entries, Stage, entries_of
from asyncstore.catalog._moving._lane import Lane, fitting_workers
from asyncstore.catalog._moving._running import check_plan, run_plan, verify_run
from asyncstore.catalog._moving._sweep import SweepReport, sweep_folders, sweep_uploads
from asyncstore.catalog._packed._find import pages_with_packed
from asyncstore.catalog._packed._names import in_uploads
from asyncstore.catalog._packed._sweep import sweep_packs
from asyncstore.catalog._paths import Place, compute_folder, is_marker, normal_prefix
from asyncstore.catalog._patterns import Matcher
from asyncstore.catalog._plan import Decided
from asyncstore.catalog._planning._find import list_all
from asyncstore.catalog._planning._planner import Planner
from asyncstore.catalog._sharing._presigning import Presigning
from asyncstore.errors import InvalidValueError, UnsafePathError

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Iterable
    from contextlib import AsyncExitStack

    from asyncstore.catalog._moving._tally import ProgressHook
    from asyncstore.catalog._moving._verify import VerifyReport
    from asyncstore.catalog._paths import ComputeFolder
    from asyncstore.catalog._plan import Kind, Layout, TransferPlan
    from asyncstore.models import DataCatalog
    from asyncstore.objects.base import ObjectStore

__all__ = ["Catalog"]

_DELETE_STEP = 1000


class Catalog(Presigning):
    """
    Data files of runs, put from and got into a compute data folder: open it with ``async with``.

    A file is one object, ``<prefix>/<run_id>/<compute data folder>/<relative path>``, with the file's own bytes and
    their SHA-256 in its metadata (a folder keeps no metadata: there it is computed from the bytes when it is needed).

    - A file is in the catalog, and arrives on disk, whole and verified or not at all, with its permission bits and, if
      wanted, its modification time. Empty folders are kept, too.
    - In packed layout files up to 4 MiB lie side by side in objects of up to 16 MiB (packs), in ``.asyncstore/packs/``
      of the compute data folder. An index, written last, says where; before it is there none of them is.
      A run may hold both kinds, and catalogs of either layout find both; what is an object of its own counts before
      what is packed under the same name, and stays one when it is put again.
    - Files that are the same on both sides already are not moved. What was hashed once is remembered in a cache (in
      ``ASYNCSTORE_CACHE_DIR`` or else the user's), by inode, size and times on this side and by ETag on the other.
    - A transfer that died goes on where it stopped when it is made again: with the files that are missing, and within
      large ones with the parts or ranges that are.
    - What is called ``.asyncstore``, at any level, is asyncstore's own (a run log may live there): it is neither put
      nor got nor synced, and is no compute data folder. A file system's catalog is not put into itself nor got into.
    - At most ``max_concurrency`` requests are in flight over all calls together, fewer where the storage asks for that
      (503 SlowDown). All catalogs of a process share one budget of bandwidth, and of memory: that of the largest
      ``max_memory_mb``.
    - Where one file fails the others go on, and :class:`TransferError` says at the end what became of each. What would
      stop every file (no access, no such bucket, storage not reachable) is raised at once. Names that are not safe are
      refused before anything moves.
    - Writers of one run never disturb each other; of two that put the same file, the last one stands, whole.
    - What the access mode does not allow raises :class:`AccessModeError` before any request; a dry run of a put, a sync
      or a sweep is refused as they are themselves.
    - A cancelled caller leaves no half-written file, and nothing behind but what is worth going on with: 256 MiB or
      more of a file. After a power failure a file that was just got may have to be got again: downloads are not forced
      to the disk.

    Args:
        store: where the objects lie; it is borrowed: open it before, close it after.
        prefix: what keys begin with.
        compute_data_folder: where files lie locally, if a call does not say otherwise. In keys ``data/`` is ``data``,
            ``.`` is nothing, and ``../data``, ``~/data`` and ``/tmp/x/data`` are ``data``.
        max_concurrency: most requests in flight.
        max_memory_mb: most bytes held by what is in flight, in MiB.
        max_bandwidth_mb_s: most bytes a second of one call, in MB; ``None`` for no limit.
        layout: how files are stored that are put: each as an object of its own (``plain``), or those up to 4 MiB
            together in large objects (``packed``). What is there in the other layout is found and got all the same.
        remember: whether digests are remembered, and unfinished uploads.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        prefix: str = "",
        compute_data_folder: str | os.PathLike[str] = "data/",
        max_concurrency: int = 64,
        max_memory_mb: int = 64,
        max_bandwidth_mb_s: float | None = None,
        layout: Layout = "plain",
        remember: bool = True,
    ) -> None:
        super().__init__()
        self._store = store
        self._prefix = normal_prefix(prefix)
        self._compute_data_folder = compute_data_folder
        self._max_concurrency = max_concurrency
        self._max_memory_mb = max_memory_mb
        self._bytes_s = None if max_bandwidth_mb_s is None else max_bandwidth_mb_s * 1e6
        self._layout: Layout = layout
        self._remember = remember
        self._lane: Lane
        self._own = ""

    @property
    def location(self) -> str:
        """Where the files are kept: ``s3://<bucket>/<prefix>`` or a folder."""
        return f"{self._store.location}/{self._prefix}".rstrip("/")

    @property
    def _endpoint(self) -> str:
        """The server, where the location alone does not tell the storage from all others."""
        return ""

    async def _open(self, stack: AsyncExitStack) -> None:
        stack.enter_context(process_budget().allowing(self._max_memory_mb * MIB))
        folder = cache_folder() if self._remember and self._store.lasting else None
        self._lane = Lane(
            self._store,
            fitting_workers(self._max_concurrency),
            known=Known(folder) if folder else None,
            place=place_of(self._store.location, self._endpoint),
            journals=folder / "uploads" if folder else None,
        )

    @overload
    async def put(
        self,
        name: str | Iterable[str],
        run_id: str,
        compute_data_folder: str | os.PathLike[str] | None = None,
        synced_catalogs: Iterable[DataCatalog] | None = None,
        *,
        exclude: str | Iterable[str] = (),
        local_folder: str | os.PathLike[str] | None = None,
        base_run_id: str | None = None,
        allow_no_match: bool = False,
        on_progress: ProgressHook | None = None,
        dry_run: Literal[False] = False,
    ) -> Entries: ...

    @overload
    async def put(
        self,
        name: str | Iterable[str],
        run_id: str,
        compute_data_folder: str | os.PathLike[str] | None = None,
        synced_catalogs: Iterable[DataCatalog] | None = None,
        *,
        exclude: str | Iterable[str] = (),
        local_folder: str | os.PathLike[str] | None = None,
        base_run_id: str | None = None,
        allow_no_match: bool = False,
        on_progress: ProgressHook | None = None,
        dry_run: Literal[True],
    ) -> TransferPlan: ...

    async def put(
        self,
        name: str | Iterable[str],
        run_id: str,
        compute_data_folder: str | os.PathLike[str] | None = None,
        synced_catalogs: Iterable[DataCatalog] | None = None,
        *,
        exclude: str | Iterable[str] = (),
        local_folder: str | os.PathLike[str] | None = None,
        base_run_id: str | None = None,
        allow_no_match: bool = False,
        on_progress: ProgressHook | None = None,
        dry_run: bool = False,
    ) -> Entries | TransferPlan:
        """
        Put files of the compute data folder into the catalog, and return what is there now, by name.

        Whatever lies in a folder ``.asyncstore`` is left out. An empty folder is put where a pattern means all that a
        folder holds (``**``).

        Args:
            name: one pattern or several (see :mod:`asyncstore.catalog._patterns`), relative to the folder.
            run_id: the run they belong to.
            compute_data_folder: the folder, if not the catalog's own.
            synced_catalogs: what an earlier ``get`` or ``put`` returned. A file that is still as it was then is left
                alone if the run has one of that name, also if another step has put a newer one meanwhile.
            exclude: patterns of what to leave out all the same.
            local_folder: where the folder lies on this machine, if not where its name says.
            base_run_id: another run; what it has under the same name with the same contents is copied inside the
                storage instead of uploaded.
            allow_no_match: do not mind patterns that match nothing.
            on_progress: told of each step.
            dry_run: move nothing, and return the plan, for :meth:`run`. Names that are not safe are in it as refused.

        Raises:
            NotFoundError: there is no such folder, or a pattern matches nothing.
            UnsafePathError: something meant is a FIFO, a device, a link that leads out of the folder, or has a name
                that cannot be kept everywhere, or the folder is asyncstore's own, or is called as uploads by form are.
                Nothing has moved.
            TransferError: some files failed, among them those that changed while they were read.
        """
        self._check_writable()
        folder = self._folder(compute_data_folder, local_folder)
        part = folder.part
        if in_uploads(part):
            raise UnsafePathError(f"compute data folder {part!r} cannot be put: so are uploads by form called")
        ours = (entry for entry in synced_catalogs or () if entry.name.startswith(part))
        synced = {entry.name[len(part) :]: entry.data_hash for entry in ours}
        deciding = self._planner().put(
            folder,
            run_id,
            Matcher.of(name, exclude),
            synced=synced,
            base_run_id=base_run_id,
            allow_no_match=allow_no_match,
            refuse=not dry_run,
        )
        if dry_run:
            return await in_thread((await deciding).plan)
        return await self._run(await deciding, False, on_progress)

    @overload
    async def get(
        self,
        name: str | Iterable[str],
        run_id: str,
        compute_data_folder: str | os.PathLike[str] | None = None,
        *,
        exclude: str | Iterable[str] = (),
        local_folder: str | os.PathLike[str] | None = None,
        allow_no_match: bool = False,
        keep_times: bool = False,
        on_progress: ProgressHook | None = None,
        dry_run: Literal[False] = False,
    ) -> Entries: ...

    @overload
    async def get(
        self,
        name: str | Iterable[str],
        run_id: str,
        compute_data_folder: str | os.PathLike[str] | None = None,
        *,
        exclude: str | Iterable[str] = (),
        local_folder: str | os.PathLike[str] | None = None,
        allow_no_match: bool = False,
        keep_times: bool = False,
        on_progress: ProgressHook | None = None,
        dry_run: Literal[True],
    ) -> TransferPlan: ...

    async def get(
        self,
        name: str | Iterable[str],
        run_id: str,
        compute_data_folder: str | os.PathLike[str] | None = None,
        *,
        exclude: str | Iterable[str] = (),
        local_folder: str | os.PathLike[str] | None = None,
        allow_no_match: bool = False,
        keep_times: bool = False,
        on_progress: ProgressHook | None = None,
        dry_run: bool = False,
    ) -> Entries | TransferPlan:
        """
        Get files of a run into the compute data folder, which is made if missing, and return what is here now, by name.

        A file that is here already and has the same contents is not touched; one with other contents is replaced.
        Names with a segment ``.asyncstore`` are left out. Arguments are those of :meth:`put`.

        Args:
            name: one pattern or several.
            run_id: the run.
            compute_data_folder: the folder, if not the catalog's own.
            exclude: patterns of what to leave out all the same.
            local_folder: where the folder lies on this machine, if not where its name says.
            allow_no_match: do not mind patterns that match nothing.
            keep_times: give files the modification times that they were put with.
            on_progress: told of each step.
            dry_run: move nothing, and return the plan.

        Raises:
            NotFoundError: the run has nothing, or nothing that a pattern matches.
            UnsafePathError: a name that cannot be kept here, or would lead out of the folder or into the catalog
                itself. Nothing has moved.
            TransferError: some files failed, among them those whose bytes are not what was put.
        """
        self._check_readable()
        deciding = self._planner().get(
            self._folder(compute_data_folder, local_folder),
            run_id,
            Matcher.of(name, exclude),
            allow_no_match=allow_no_match,
            refuse=not dry_run,
        )
        if dry_run:
            return await in_thread((await deciding).plan)
        return await self._run(await deciding, keep_times, on_progress)

    async def run(
        self, plan: TransferPlan, *, keep_times: bool = False, on_progress: ProgressHook | None = None
    ) -> Entries:
        """
        Do what a plan says, or a part of one, and return what is there now, by name.

        Args:
            plan: what ``dry_run=True`` returned, here or elsewhere; it must be of this storage.
            keep_times: of a get: give files the modification times that they were put with.
            on_progress: told of each step.

        Raises:
            UnsafePathError: the plan refuses a file. Nothing has moved.
            InvalidValueError: the plan is of another storage.
            TransferError: some files failed, among them those that have changed since the plan was made.
        """
        self._check_allowed(plan.kind)
        place = Place.of(self._prefix, plan.run_id, plan.folder)
        where = f"{self._store.location}/{place.root}"
        if plan.where != where:
            raise InvalidValueError(f"the plan is for {plan.where}, and this catalog would move {where}")
        await in_thread(check_plan, plan, place)
        return await self._run(Decided(plan, {}), keep_times, on_progress)

    async def list(self, run_id: str) -> AsyncIterator[DataCatalog]:
        """Yield what a run has in all its folders, packed files last; nothing if there is no such run."""
        self._check_readable()
        place = Place.of(self._prefix, run_id)
        async for page in pages_with_packed(self._lane, place, self._store.list(place.root)):
            files = [meta for meta in page if not is_marker(place.name_of(meta.key))]
            found = await self._lane.digests(files)
            digests = {place.name_of(meta.key): found[meta.key] for meta in files if meta.key in found}
            for entry in entries_of(place, digests, digests, "put", self.location):
                yield entry

    @overload
    async def sync_between_runs(
        self,
        previous_run_id: str,
        run_id: str,
        *,
        on_progress: ProgressHook | None = None,
        dry_run: Literal[False] = False,
    ) -> Entries: ...

    @overload
    async def sync_between_runs(
        self, previous_run_id: str, run_id: str, *, on_progress: ProgressHook | None = None, dry_run: Literal[True]
    ) -> TransferPlan: ...

    async def sync_between_runs(
        self, previous_run_id: str, run_id: str, *, on_progress: ProgressHook | None = None, dry_run: bool = False
    ) -> Entries | TransferPlan:
        """
        Copy what a run has to another run, inside the storage, and return what is there now, by name.

        Execution logs (``*.execution.log``) and what lies in ``.asyncstore`` stay where they are, and what the other
        run has already with the same contents is not copied again. ``dry_run`` returns the plan instead.

        Raises:
            AccessModeError: the catalog may not be both read and written: what is copied is told.
            NotFoundError: the previous run has nothing.
            TransferError: some files failed.
        """
        self._check_allowed("sync")
        plan = await self._planner().sync(previous_run_id, run_id)
        return plan if dry_run else await self.run(plan, on_progress=on_progress)

    async def delete(self, run_id: str) -> None:
        """Delete everything that a run has. What is not there is no error, so it is safe to repeat."""
        self._check_writable()
        keys = [meta.key for meta in (await list_all(self._lane, Place.of(self._prefix, run_id))).values()]
        portions = [keys[start : start + _DELETE_STEP] for start in range(0, len(keys), _DELETE_STEP)]
        await for_each(self._store.delete, portions, limit=max(1, min(len(portions), self._max_concurrency)))

    async def verify(
        self,
        run_id: str,
        name: str | Iterable[str] = "**",
        *,
        exclude: str | Iterable[str] = (),
        on_progress: ProgressHook | None = None,
    ) -> VerifyReport:
        """
        Read what a run has again and compare it with the SHA-256 that was stored with it.

        Args:
            run_id: the run.
            name: patterns of names, ``<compute data folder>/<relative path>``.
            exclude: patterns of what to leave out all the same.
            on_progress: told of each step.

        Raises:
            NotFoundError: the run has nothing that matches.
        """
        self._check_readable()
        place = Place.of(self._prefix, run_id)
        return await verify_run(self._lane, place, Matcher.of(name, exclude), self._bytes_s, on_progress)

    async def sweep(
        self,
        *,
        older_than: timedelta = timedelta(days=1),
        run_id: str | None = None,
        compute_data_folder: str | os.PathLike[str] | None = None,
        local_folder: str | os.PathLike[str] | None = None,
        dry_run: bool = False,
    ) -> SweepReport:
        """
        Remove what transfers that died have left behind: here, and in the storage.

        That is multipart uploads, which the storage keeps and charges for, files on their way in the compute data
        folder, and in a catalog's folder those on their way there; in a catalog of packed layout also packs that no
        index names. What is being written by a process on this machine stays; another machine's uploads, and all packs,
        are known by their age alone.

        Args:
            older_than: how long ago it must have been begun, or written to.
            run_id: of which run the uploads are; all runs without it.
            compute_data_folder: the folder, if not the catalog's own.
            local_folder: where the folder lies on this machine, if not where its name says.
            dry_run: remove nothing, and tell what would be.
        """
        self._check_writable()
        prefix = self._prefix if run_id is None else Place.of(self._prefix, run_id).root
        uploads = await sweep_uploads(self._lane, prefix, older_than, dry_run=dry_run)
        local = self._folder(compute_data_folder, local_folder).local
        folders = [folder for folder in (str(local), self._own) if folder]
        temp_files = await sweep_folders(folders, older_than, dry_run=dry_run)
        # To find packs is to list everything, so it is left to catalogs that make them.
        packed = self._layout == "packed"
        packs = await sweep_packs(self._lane, prefix, older_than, dry_run=dry_run) if packed else []
        return SweepReport(uploads, temp_files, packs)

    async def _run(self, decided: Decided, keep_times: bool, on_progress: ProgressHook | None) -> Entries:
        digests = await run_plan(
            self._lane, self._prefix, decided, bytes_s=self._bytes_s, keep_times=keep_times, on_progress=on_progress
        )
        plan = decided.moves
        place = Place.of(self._prefix, plan.run_id, plan.folder)
        stage: Stage = "get" if plan.kind == "get" else "put"
        # Of very many files the plan is as large as what is returned, and callers hold no other reference.
        del decided, plan
        return await in_thread(lambda: entries_of(place, sorted(digests), digests, stage, self.location))

    def _check_allowed(self, kind: Kind) -> None:
        if kind in {"get", "sync"}:
            self._check_readable()
        if kind != "get":
            self._check_writable()

    def _planner(self) -> Planner:
        return Planner(self._lane, self._prefix, self._store.location, self._own, self._layout)

    def _folder(
        self, compute_data_folder: str | os.PathLike[str] | None, local_folder: str | os.PathLike[str] | None
    ) -> ComputeFolder:
        chosen = self._compute_data_folder if compute_data_folder is None else compute_data_folder
        return compute_folder(chosen, local_folder)
