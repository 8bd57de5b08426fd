"""Looking, all the time, at what has its name already."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

from tests._catalog_trees import digest_of, etag_of, shown_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from asyncstore.objects.base import ObjectStore

__all__ = ["FolderWatch", "watched_bucket"]


class FolderWatch:
    """
    A thread that looks at each file in a folder as soon as it has its name, and again whenever it has changed.

    Args:
        folder: which is watched within the ``with`` block.
        possible: SHA-256 that its files may have, by name.
    """

    def __init__(self, folder: Path, *possible: Mapping[str, str]) -> None:
        self._folder = folder
        self._possible = possible
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._seen: dict[str, tuple[int, ...]] = {}
        self._wrong: list[str] = []

    def __enter__(self) -> FolderWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def check(self) -> None:
        """Check that it has seen files, and never a wrong one."""
        assert not self._wrong, self._wrong
        assert self._seen

    def _watch(self) -> None:
        while not self._over.is_set():
            for path in shown_in(self._folder):
                self._look(path)
            self._over.wait(0.005)

    def _look(self, path: Path) -> None:
        name = str(path.relative_to(self._folder))
        try:
            status = path.stat()
            identity = status.st_ino, status.st_size, status.st_mtime_ns
            if self._seen.get(name) == identity:
                return
            digest = digest_of(path)
        except FileNotFoundError:
            self._wrong.append(f"{name} has vanished")
            return
        self._seen[name] = identity
        if digest not in {digests.get(name) for digests in self._possible}:
            self._wrong.append(f"{name} of {status.st_size} bytes has {digest}")


@contextlib.asynccontextmanager
async def watched_bucket(storage: ObjectStore, prefix: str, *folders: Path) -> AsyncIterator[list[int]]:
    """
    Check all the time, within the block, that each object has an ETag that a server gives to the bytes of its file.

    It gives how many objects were looked at.

    Args:
        storage: where they are; its server's ETags are made of contents.
        prefix: of their keys; what follows is a file's name.
        folders: where the files are that they may be.
    """
    possible: dict[str, set[str]] = {}
    for folder in folders:
        for path in await asyncio.to_thread(lambda folder=folder: list(shown_in(folder))):  # type: ignore[misc]
            possible.setdefault(str(path.relative_to(folder)), set()).add(await asyncio.to_thread(etag_of, path))
    looked = [0]
    over = asyncio.Event()

    async def watch() -> None:
        while not over.is_set():
            async for page in storage.list(prefix):
                for meta in page:
                    assert meta.etag in possible[meta.key.removeprefix(prefix)], meta
                looked[0] += len(page)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.02)

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        yield looked
        over.set()
