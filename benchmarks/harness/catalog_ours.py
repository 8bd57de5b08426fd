"""asyncstore's catalog as a contender, with its defaults, and how late its event loop is meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from typing import TYPE_CHECKING, Any

from asyncstore import S3Catalog
from harness.catalog_work import Figures, Place, read_place, serve_contender
from harness.loops import new_runner
from harness.worker import measured, resident_mib

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

PREFIX = "catalog"
"""Of its keys, which are ``catalog/<run id>/data/<relative path>``."""
FOLDER = "data"

TICK_S = 0.001


class Ours:
    """
    Puts and gets runs, each time by a catalog that was just opened.

    Options of an operation are ``cache``, the folder of the stat cache; ``layout``; and ``ticking``, which also
    measures how late a ticker of 1 ms is.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    async def up(self, folder: str, key: str, options: Mapping[str, str]) -> Figures:
        """Put a folder; the key is ``catalog/<run id>/data``."""
        async with self._opened(options) as catalog:
            return await self._moved(catalog.put, folder, key, options)

    async def down(self, folder: str, key: str, options: Mapping[str, str]) -> Figures:
        """Get a folder."""
        async with self._opened(options) as catalog:
            return await self._moved(catalog.get, folder, key, options)

    async def list(self, folder: str, key: str, options: Mapping[str, str]) -> Figures:
        """List a run; no folder is needed."""

        async def work(catalog: S3Catalog, run_id: str) -> None:
            assert [entry async for entry in catalog.list(run_id)]

        return await self._ticked(work, key, options)

    async def sync(self, folder: str, key: str, options: Mapping[str, str]) -> Figures:
        """Copy a run to another one inside the storage; no folder is needed."""
        return await self._ticked(
            lambda catalog, run_id: catalog.sync_between_runs(run_id, f"{run_id}-copy"), key, options
        )

    async def delete(self, folder: str, key: str, options: Mapping[str, str]) -> Figures:
        """Delete the copy of a run; no folder is needed."""
        return await self._ticked(lambda catalog, run_id: catalog.delete(f"{run_id}-copy"), key, options)

    async def _ticked(
        self, work: Callable[[S3Catalog, str], Awaitable[object]], key: str, options: Mapping[str, str]
    ) -> Figures:
        async with self._opened(options) as catalog, ticking() as lateness:
            with measured() as figures:
                await work(catalog, _run_id(key))
        return {**figures, **lateness}

    @contextlib.asynccontextmanager
    async def _opened(self, options: Mapping[str, str]) -> AsyncIterator[S3Catalog]:
        # It may be read when the catalog is made or when it is used: nothing else runs here meanwhile.
        os.environ["ASYNCSTORE_CACHE_DIR"] = options["cache"]
        place = self._place
        layout = {"layout": options["layout"]} if "layout" in options else {}
        catalog = S3Catalog(
            s3_bucket=place.bucket, endpoint_url=place.endpoint_url, region=place.region, prefix=PREFIX, **layout
        )
        async with catalog:
            yield catalog

    async def _moved(self, move: Any, folder: str, key: str, options: Mapping[str, str]) -> Figures:
        async with ticking(wanted="ticking" in options) as lateness:
            with measured() as figures:
                entries = await move("**/*", _run_id(key), FOLDER, local_folder=folder)
        return {**figures, **lateness, "files": len(entries)}


def _run_id(key: str) -> str:
    return key.split("/")[1]


@contextlib.asynccontextmanager
async def ticking(*, wanted: bool = True) -> AsyncIterator[Figures]:
    """Fill in, at the end of the block, how late a ticker was: median, 99th percentile and maximum in milliseconds."""
    found: Figures = {}
    if not wanted:
        yield found
        return
    late_ms: list[float] = []
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_tick(late_ms, ended))
        try:
            yield found
        finally:
            ended.set()
    found.update(lateness(late_ms))


def lateness(late_ms: list[float]) -> Figures:
    """Return the figures of a ticker."""
    ranked = sorted(late_ms)
    last = len(ranked) - 1
    return {
        "late_p50_ms": ranked[last // 2],
        "late_p99_ms": ranked[math.ceil(last * 0.99)],
        "late_max_ms": ranked[last],
        "ticks": len(ranked),
    }


async def _tick(late_ms: list[float], ended: asyncio.Event) -> None:
    while not ended.is_set():
        due = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        late_ms.append((time.perf_counter() - due) * 1000)


async def idle(seconds: float) -> Figures:
    """Measure how late the ticker is while nothing goes on."""
    async with ticking() as found:
        await asyncio.sleep(seconds)
    return {**found, "resident_mib": resident_mib()}


async def run(place: Place) -> None:
    """Work at what is asked for."""
    ours = Ours(place)
    await serve_contender(ours, list=ours.list, sync=ours.sync, delete=ours.delete, idle=idle)


def main() -> None:
    """Read the command line and work."""
    place = read_place("catalog_ours")
    with new_runner(uvloop=place.uvloop) as runner:
        runner.run(run(place))


if __name__ == "__main__":
    main()
