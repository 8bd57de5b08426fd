"""What other tools wrote in a folder or bucket: which runs there are, and each of them read."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import map_bounded
from asyncstore.errors import AccessDeniedError, IntegrityError, NotFoundError, UnsafePathError
from asyncstore.runlog.fragments import HEADER, Fragment, Kind
from asyncstore.runlog.transfer.layouts import SUFFIX, Layout, detect, parse_name
from asyncstore.runlog.transfer.parsing import parse_run
from asyncstore.runlog.transfer.reading import Loaded, Parts

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from asyncstore.objects.base import ObjectMeta
    from asyncstore.runlog.transfer.places import Place

__all__ = ["FoundRun", "RunSource", "chosen"]

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run that seems to be there, by the names of its objects."""

    run_id: str
    layout: Layout
    keys: Sequence[str] = field(repr=False)
    began_ns: int
    """When it began as far as names and times of files tell, in nanoseconds of the epoch; for their order."""


def chosen(run_id: str, patterns: Collection[str]) -> bool:
    """Tell whether a run is wanted: named itself, or matched by a pattern; without patterns all are."""
    return not patterns or run_id in patterns or any(fnmatchcase(run_id, pattern) for pattern in patterns)


class RunSource:
    """
    Runs that another tool wrote, below one place; the objects of the place must be open while this is used.

    Nothing is ever written there.
    """

    def __init__(self, place: Place, layout: Layout | None = None) -> None:
        self._place = place
        self._layout = layout or place.layout
        self._documents: frozenset[str] = frozenset()

    @property
    def location(self) -> str:
        """Folder or bucket and prefix."""
        return f"{self._place.objects.location}/{self._place.prefix}".rstrip("/")

    async def find(self, patterns: Collection[str] = ()) -> list[FoundRun]:
        """
        Return the runs that ``patterns`` choose, oldest first; costs one listing, and one for each run in a folder.

        Raises:
            NotFoundError: there is nothing that looks like a run log of the layout asked for.
        """
        objects, prefix = self._place.objects, self._place.prefix
        listing = await objects.list_folder(prefix)
        names = [meta.key[len(prefix) :] for meta in listing.objects]
        if not self._place.only and any(parse_name(name).kind is Kind.RUN_LOG for name in names):
            raise NotFoundError(
                f"{self.location} is the folder of a single run: give the folder that it is in, and its run id"
            )
        wanted = {self._place.only} if self._place.only else patterns
        documents = [
            FoundRun(run_id, Layout.DOCUMENT, [meta.key], _ns(meta.modified_at))
            for meta in listing.objects
            if meta.key.endswith(SUFFIX) and chosen(run_id := meta.key[len(prefix) : -len(SUFFIX)], wanted)
        ]
        self._documents = frozenset(names)
        folders = [
            folder for folder in listing.folders if chosen(folder[len(prefix) : -1], wanted) and not self._place.only
        ]
        in_folders = [run for run in await map_bounded(self._look, folders, limit=self._place.limit) if run is not None]
        # Beside the folder of a run, a document of its name is asyncstore's assembled one, or an older state.
        named = {run.run_id for run in in_folders if run.layout is not Layout.MINIO}
        found = in_folders + [run for run in documents if run.run_id not in named]
        runs = [run for run in found if self._layout in {None, run.layout}]
        if not runs and not patterns:
            raise NotFoundError(self._nothing(found))
        return sorted(runs, key=lambda run: (run.began_ns, run.run_id))

    async def read(self, run: FoundRun) -> Parts:
        """
        Return a run as far as it can be read; see :func:`parse_run`.

        Raises:
            UnavailableError: the storage cannot be reached.
            IntegrityError: nothing of it can be read; or asyncstore wrote it, and has stores to read it; or it is a
                copy of a run that is there under its own name.
        """
        if run.layout is Layout.ASYNCSTORE:
            raise IntegrityError("asyncstore wrote it, in chunks: use 'asyncstore runs copy' instead")
        folder = f"{self._place.prefix}{run.run_id}/"

        async def load(key: str) -> Loaded:
            name = key.removeprefix(folder)
            try:
                return Loaded(name, (await self._place.objects.get(key))[1])
            except (AccessDeniedError, NotFoundError, UnsafePathError) as error:
                return Loaded(name, error=error)

        loaded = await map_bounded(load, run.keys, limit=self._place.limit)
        # In a thread: logs of some megabytes would hold up the loop.
        parts = await asyncio.to_thread(parse_run, run.run_id, run.layout, loaded)
        proper = f"{parts.run_id}{SUFFIX}"
        if parts.run_id != run.run_id and proper in self._documents:
            raise IntegrityError(f"it is another log of run {parts.run_id!r}, for which {proper} is taken")
        return replace(parts, fragments=[replace(part, created_at=_began(run, part)) for part in parts.fragments])

    async def _look(self, folder: str) -> FoundRun | None:
        run_id = folder[len(self._place.prefix) : -1]
        metas = [meta async for page in self._place.objects.list(folder) for meta in page]
        names = [meta.key.removeprefix(folder) for meta in metas]
        layout = detect(run_id, names)
        if layout is None:
            return None
        if self._layout is Layout.MAGNUS_CHUNKED and all(parse_name(name).kind is Kind.RUN_LOG for name in names):
            # A run without any step looks the same from both tools.
            layout = self._layout
        if layout is Layout.MINIO:
            metas = [meta for meta in metas if meta.key == f"{folder}{run_id}{SUFFIX}"]
        return FoundRun(run_id, layout, [meta.key for meta in metas], _began_ns(metas, names))

    def _nothing(self, found: Sequence[FoundRun]) -> str:
        if found:
            layouts = ", ".join(sorted({str(run.layout) for run in found}))
            return f"no run log of layout {self._layout} in {self.location}: there are {len(found)} of layout {layouts}"
        return f"no run log in {self.location}"


def _began_ns(metas: Sequence[ObjectMeta], names: Sequence[str]) -> int:
    """Return the earliest creation time in the names, else the earliest time of a file."""
    created = [found.created_ns for found in map(parse_name, names) if found.created_ns]
    return min(created) if created else min((_ns(meta.modified_at) for meta in metas), default=0)


def _began(run: FoundRun, part: Fragment) -> datetime | None:
    """Return the time of the run for its header, by which runs are listed; other parts have none to be relied on."""
    return datetime.fromtimestamp(run.began_ns / _NANOSECONDS, UTC) if part.key == HEADER and run.began_ns else None


def _ns(time: datetime) -> int:
    return int(time.timestamp() * _NANOSECONDS)
