"""Catalogs whose calls are cancelled, and what must not be left of those."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import sys
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncstore
from asyncstore._core.traffic import process_budget
from asyncstore.catalog import FileSystemCatalog, S3Catalog
from tests._catalog_trees import MIB, digests_in, make_tree, temp_files_in
from tests._watched import WatchedStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from asyncstore.catalog import Catalog
    from asyncstore.testing.s3_stub._messages import Request
    from asyncstore.testing.s3_stub._storage import BucketContent

__all__ = [
    "DEADLINE_S",
    "LIMITS",
    "SMALL",
    "FolderScene",
    "Scene",
    "StubScene",
    "check_given_back",
    "folder_scene",
    "stub_scene",
    "threads_at_rest",
]

PACKAGE = f"{Path(asyncstore.__file__).parent}/"

SMALL = 40
LARGE_BYTES = 20 * MIB

LATENCY_S = 0.004
DEADLINE_S = 60.0
"""After this a call does not end at all; one that does needs a fraction of a second."""

LIMITS: dict[str, Any] = {"max_concurrency": 8, "max_memory_mb": 16}
"""So few that calls wait for their turns, and can be cancelled there."""


@dataclass
class Scene(ABC):
    """A catalog with a run ``source`` in it, and the files of that run."""

    catalog: Catalog
    options: dict[str, Any]
    folder: Path
    wanted: dict[str, str]

    @property
    def source(self) -> Path:
        """The files that the run was put from."""
        return self.folder / "source"

    def target(self, nth: int) -> Path:
        """Return a folder for one attempt."""
        return self.folder / f"target-{nth}"

    @abstractmethod
    async def all_in(self, run_id: str) -> dict[str, str]:
        """Return the SHA-256 of the bytes of all that a run has, by name."""

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """Let requests take some time within the block."""
        yield

    async def check_run(self, run_id: str) -> None:
        """Check that a run has nothing but whole files of the source."""
        assert (await self.all_in(run_id)).items() <= self.wanted.items()

    @abstractmethod
    async def quiet(self) -> None:
        """Wait until the requests of those who are gone are over, and check that nothing is left of them."""

    async def drop(self, run_id: str) -> None:
        """Delete a run."""
        await self.catalog.delete(run_id)


@dataclass
class StubScene(Scene):
    """The same on the S3 stub, on the loop of the test."""

    stub: WatchedStub
    content: BucketContent

    def __str__(self) -> str:
        return f"S3, {self.options['layout']}"

    async def all_in(self, run_id: str) -> dict[str, str]:
        """Look into the stub's memory, or else have another catalog get them."""
        if self.options["layout"] == "packed":
            target = self.folder / "read"
            async with S3Catalog(**{**self.options, "remember": False}) as other:
                await other.get("**", run_id, local_folder=target, allow_no_match=True)
            found = digests_in(target)
            shutil.rmtree(target, ignore_errors=True)
            return found
        prefix = f"catalog/{run_id}/data/"
        objects = {key: stored for key, stored in self.content.objects.items() if key.startswith(prefix)}
        assert all(stored.headers["x-amz-meta-sha256"] == sha256(stored.body) for stored in objects.values())
        return {key.removeprefix(prefix): sha256(stored.body) for key, stored in objects.items()}

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """Add latency."""
        self.stub.behaviour.latency_s = LATENCY_S
        yield
        self.stub.behaviour.latency_s = 0.0

    async def quiet(self) -> None:
        """Wait for requests; the uploads are all over when they are."""
        changed = asyncio.Event()

        def note(_: Request) -> None:
            changed.set()

        self.stub.after = note
        while sum(self.stub.answering.values()):
            changed.clear()
            await changed.wait()
        assert not self.content.uploads, self.content.uploads


class FolderScene(Scene):
    """The same in a folder."""

    async def all_in(self, run_id: str) -> dict[str, str]:
        """Look into the folder."""
        return digests_in(self.folder / "catalog" / run_id / "data")

    async def quiet(self) -> None:
        """Check that no file is on its way there."""
        assert not temp_files_in(self.folder / "catalog")


@contextlib.asynccontextmanager
async def stub_scene(folder: Path, layout: str = "plain") -> AsyncIterator[StubScene]:
    """Run the stub and open a catalog on it within the block; then nothing may stay open."""
    wanted = make_tree(folder / "source", small=SMALL, large_bytes=LARGE_BYTES)
    async with WatchedStub() as stub:
        options = {**stub.make_bucket("data").options, "prefix": "catalog", "layout": layout, **LIMITS}
        with nothing_stays_open():
            async with S3Catalog(**options) as catalog:
                scene = StubScene(catalog, options, folder, wanted, stub, stub.storage.bucket("data"))
                await catalog.put("**", "source", local_folder=scene.source)
                yield scene


@contextlib.asynccontextmanager
async def folder_scene(folder: Path) -> AsyncIterator[FolderScene]:
    """Open a catalog in a folder within the block; then nothing may stay open."""
    wanted = make_tree(folder / "source", small=SMALL, large_bytes=LARGE_BYTES)
    options = {"catalog_location": str(folder / "catalog"), **LIMITS}
    with nothing_stays_open():
        async with FileSystemCatalog(**options) as catalog:
            scene = FolderScene(catalog, options, folder, wanted)
            await catalog.put("**", "source", local_folder=scene.source)
            yield scene


def sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def nothing_stays_open() -> Iterator[None]:
    """Check that no descriptor of a file stays open."""
    before = open_files()
    yield
    after = open_files()
    assert after <= before, after - before


def open_files() -> set[str]:
    """Return what the descriptors of this process are of; sockets, pipes and the like are left out."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return {link for link in found if link.startswith("/") and not link.startswith(("/dev/", "/proc/"))}


async def check_given_back(scene: Scene) -> None:
    """Check that a call which was cancelled holds nothing, and that nothing of it goes on or comes later."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, others
    lane, budget = scene.catalog._lane, process_budget()
    assert (lane.window._taken, len(lane.window._waiting)) == (0, 0), lane
    assert (round(budget._line_taken), budget._memory_taken, len(budget._waiting)) == (0, 0, 0), budget
    left = digests_in(scene.folder)
    await scene.quiet()
    await threads_at_rest()
    # Whoever called may have removed or changed these files by now.
    changed = digests_in(scene.folder).items() ^ left.items()
    assert not changed, changed
    temp_files = temp_files_in(scene.folder)
    assert not temp_files, temp_files
    still_open = [path for path in open_files() if path.startswith(str(scene.folder))]
    assert not still_open, still_open


async def threads_at_rest() -> None:
    """Wait until no thread is at work for somebody who is gone."""

    def wait() -> None:
        # Of the loop's thread nothing is to be seen while this one waits.
        while busy_threads():
            time.sleep(0.001)

    async with asyncio.timeout(DEADLINE_S):
        await asyncio.to_thread(wait)


def busy_threads() -> list[str]:
    """Return where in the package threads are at work for somebody."""
    own = threading.get_ident()
    found = []
    for ident, innermost in sys._current_frames().items():
        frame: Any = None if ident == own else innermost
        while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
            frame = frame.f_back
        # A thread that waits for calls stands there itself, and not in something that it has called.
        waits = frame is innermost and frame.f_code.co_name == "_work"
        if frame is not None and not waits:
            found.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
    return found
