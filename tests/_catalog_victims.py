"""A compute data folder, an S3 stub and a catalog between them, and one of the files to which things happen."""

from __future__ import annotations

import functools
import hashlib
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.catalog import S3Catalog
from asyncstore.errors import TransferError
from asyncstore.testing.s3_stub._content import Content
from asyncstore.testing.s3_stub._storage import Description, StoredObject
from tests._catalog_trees import KIB, MIB, digests_in, temp_files_in
from tests._processes import short_or_full
from tests._watched import WatchedStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
    from pathlib import Path

    from asyncstore.catalog import Catalog
    from asyncstore.testing.s3_stub._storage import BucketContent

__all__ = [
    "OLD",
    "RUN",
    "SIZES",
    "VICTIM",
    "Scene",
    "failing",
    "random_bytes",
    "sha256",
    "stored_scene",
    "watched_scene",
    "write",
]

RUN = "run"
VICTIM = "sub/victim"
OLD = b"what was there before"

SIZES = {"small": 4 * KIB, "medium": 5 * MIB, "large": short_or_full(24, 40) * MIB}
"""Of one request of many in a hop to a thread, one range or put, and several ranges or parts."""

OTHERS = {"a": 4 * KIB, "sub/b": 2 * MIB, "z/medium": 5 * MIB, "z/c": 100, "z/empty": 0}


@dataclass
class Scene:
    """A catalog on a stub, the files of :data:`OTHERS` and a victim, and a folder to get them into."""

    stub: WatchedStub
    content: BucketContent
    catalog: Catalog
    options: dict[str, Any]
    source: Path
    target: Path
    tree: dict[str, bytes]

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of what is moved, by name."""
        return {name: sha256(data) for name, data in self.tree.items()}

    @property
    def others(self) -> set[str]:
        """The names that nothing happens to, as reports have them."""
        return {f"data/{name}" for name in self.tree if name != VICTIM}

    def key(self, name: str = VICTIM) -> str:
        """Return the key of a file."""
        return f"{RUN}/data/{name}"

    def store(self, name: str, data: bytes, *, mode: int = 0o644) -> None:
        """Have an object in the run as if it had been put."""
        headers = {"x-amz-meta-sha256": sha256(data), "x-amz-meta-mode": f"{0o100000 | mode:o}"}
        stored = StoredObject(Content.of(data), f'"{sha256(data)[:32]}"', Description(headers))
        self.content.put(self.key(name), stored)

    def stored(self) -> dict[str, str]:
        """Return the SHA-256 of the run's objects, by name, which is checked to be what their metadata say."""
        root = self.key("")
        objects = {key: stored for key, stored in self.content.objects.items() if key.startswith(root)}
        found = {key.removeprefix(root): sha256(stored.body) for key, stored in objects.items()}
        said = {key.removeprefix(root): stored.headers["x-amz-meta-sha256"] for key, stored in objects.items()}
        assert found == said
        return found

    async def put(self, **options: Any) -> Any:
        """Put all."""
        return await self.catalog.put("**", RUN, local_folder=self.source, **options)

    async def get(self, **options: Any) -> Any:
        """Get all."""
        return await self.catalog.get("**", RUN, local_folder=self.target, **options)

    def check_target(self, victim: str | None) -> None:
        """Check that the target has all others, and of the victim the bytes with that SHA-256, or no file at all."""
        expected = {name: digest for name, digest in self.digests.items() if name != VICTIM}
        assert digests_in(self.target) == expected | ({} if victim is None else {VICTIM: victim})
        assert not temp_files_in(self.target)

    def check_stored(self, victim: str | None) -> None:
        """Check that the run has all others, and of the victim the bytes with that SHA-256, or no object at all."""
        expected = {name: digest for name, digest in self.digests.items() if name != VICTIM}
        assert self.stored() == expected | ({} if victim is None else {VICTIM: victim})
        assert not self.content.uploads


@asynccontextmanager
async def watched_scene(folder: Path, size_bytes: int, **options: Any) -> AsyncIterator[Scene]:
    """Give a scene whose victim has that size; nothing is put yet."""
    tree = {**_bytes_of(OTHERS.items()), **_bytes_of([(VICTIM, size_bytes)])}
    write(folder / "source", tree)
    async with WatchedStub() as stub:
        options = {**stub.make_bucket("data").options, **options}
        async with S3Catalog(**options) as catalog:
            content = stub.storage.bucket("data")
            yield Scene(stub, content, catalog, options, folder / "source", folder / "target", tree)


@asynccontextmanager
async def stored_scene(folder: Path, size_bytes: int, **options: Any) -> AsyncIterator[Scene]:
    """Give a scene whose files are in the catalog, and an old version of the victim in the target."""
    async with watched_scene(folder, size_bytes, **options) as scene:
        for name, data in scene.tree.items():
            scene.store(name, data)
        write(scene.target, {VICTIM: OLD})
        yield scene


async def failing(call: Awaitable[Any], kind: type[Exception] | tuple[type[Exception], ...], scene: Scene) -> Exception:
    """Check that a transfer fails for the victim alone, which is told with that kind of error, and return that."""
    with pytest.raises(TransferError) as caught:
        await call
    report = caught.value
    assert list(report.failed) == [f"data/{VICTIM}"], report
    assert {*report.done, *report.skipped} == scene.others
    error = report.failed[f"data/{VICTIM}"]
    assert isinstance(error, kind), repr(error)
    return error


def write(folder: Path, tree: Mapping[str, bytes]) -> None:
    """Write files."""
    for name, contents in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)


def sha256(data: bytes) -> str:
    """Return the SHA-256."""
    return hashlib.sha256(data).hexdigest()


@functools.lru_cache(maxsize=16)
def random_bytes(size_bytes: int, seed: int = 0) -> bytes:
    """Return the same bytes each time."""
    return random.Random(f"{size_bytes}-{seed}").randbytes(size_bytes)


def _bytes_of(sizes: Iterable[tuple[str, int]]) -> dict[str, bytes]:
    return {name: random_bytes(size) for name, size in sizes}
