"""The compute data folder's side: what is never touched, and what fails alone."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.catalog import Catalog, FileSystemCatalog
from asyncstore.catalog._paths import RESERVED
from asyncstore.errors import AccessDeniedError, IntegrityError, NotFoundError, TransferError, UnsafePathError
from asyncstore.objects.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from asyncstore.objects.bodies import FileBody

MIB = 1024 * 1024


@pytest.fixture
async def store() -> AsyncIterator[MemoryObjectStore]:
    async with MemoryObjectStore() as opened:
        yield opened


@pytest.fixture
async def catalog(store: MemoryObjectStore) -> AsyncIterator[Catalog]:
    async with Catalog(store) as opened:
        yield opened


def write(folder: Path, tree: Mapping[str, bytes]) -> None:
    for name, contents in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def seed(store: MemoryObjectStore, tree: Mapping[str, bytes], folder: str = "run/data/") -> None:
    for name, contents in tree.items():
        await store.put(f"{folder}{name}", contents)


# What is asyncstore's own.


@pytest.mark.parametrize("pattern", ["**", ".asyncstore/*", "**/run_logs.db", ["a", ".asyncstore/run_logs.db"]])
async def test_the_folder_of_asyncstore_is_never_put(
    catalog: Catalog, store: MemoryObjectStore, tmp_path: Path, pattern: str | list[str]
) -> None:
    write(tmp_path, {"a": b"A", ".asyncstore/run_logs.db": b"log", "sub/.asyncstore/run_logs.db": b"log"})
    (tmp_path / "link").symlink_to(".asyncstore", target_is_directory=True)
    (tmp_path / "run_logs.db").symlink_to(".asyncstore/run_logs.db")
    entries = await catalog.put(pattern, "run", ".", local_folder=tmp_path, allow_no_match=True)
    assert {entry.name for entry in entries} <= {"a"}
    assert [meta.key async for page in store.list("run/.asyncstore/") for meta in page] == []


@pytest.mark.parametrize(
    "pattern", ["**", ".asyncstore/*", ["a", ".asyncstore/run_logs.db"], ["a", ".AsyncStore/run_logs.db"]]
)
async def test_the_folder_of_asyncstore_is_never_got_or_synced(
    catalog: Catalog, store: MemoryObjectStore, tmp_path: Path, pattern: str | list[str]
) -> None:
    await seed(store, {"a": b"A", ".asyncstore/run_logs.db": b"x", "sub/.asyncstore/b": b"x", ".AsyncStore/b": b"x"})
    write(tmp_path, {"data/.asyncstore/run_logs.db": b"log"})
    entries = await catalog.get(pattern, "run", local_folder=tmp_path / "data", allow_no_match=True)
    assert {entry.name for entry in entries} <= {"data/a"}
    assert names(tmp_path / "data") <= {"a", ".asyncstore/run_logs.db"}
    assert (tmp_path / "data" / ".asyncstore" / "run_logs.db").read_bytes() == b"log"
    assert [entry.name for entry in await catalog.sync_between_runs("run", "other")] == ["data/a"]
    await catalog.delete("run")
    assert [meta.key async for page in store.list("run/") for meta in page] == []


async def test_a_link_does_not_lead_a_get_into_the_folder_of_asyncstore(
    catalog: Catalog, store: MemoryObjectStore, tmp_path: Path
) -> None:
    await seed(store, {"link/run_logs.db": b"x"})
    write(tmp_path, {"data/.asyncstore/run_logs.db": b"log"})
    (tmp_path / "data" / "link").symlink_to(".asyncstore", target_is_directory=True)
    with pytest.raises(UnsafePathError, match=RESERVED):
        await catalog.get("**", "run", tmp_path / "data")
    assert (tmp_path / "data" / ".asyncstore" / "run_logs.db").read_bytes() == b"log"


@pytest.mark.parametrize("folder", [".asyncstore", ".asyncstore/data", "linked"])
async def test_the_folder_of_asyncstore_is_no_compute_data_folder(
    catalog: Catalog, store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {".asyncstore/run_logs.db": b"log", ".asyncstore/data/a": b"a"})
    (tmp_path / "linked").symlink_to(".asyncstore", target_is_directory=True)
    with pytest.raises(UnsafePathError, match=RESERVED):
        await catalog.put("**", "run", folder)
    await seed(store, {"run_logs.db": b"x"}, f"run/{folder}/")
    with pytest.raises(UnsafePathError, match=RESERVED):
        await catalog.get("**", "run", folder)
    assert (tmp_path / ".asyncstore" / "run_logs.db").read_bytes() == b"log"


@pytest.mark.parametrize("local", [".catalog", ".catalog/one", ".catalog/two/new", "."])
async def test_nothing_is_got_into_the_catalog_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"data/.catalog/one/data/a": b"x", "data/one/data/a": b"x"})
    async with await asyncio.to_thread(FileSystemCatalog) as catalog:
        await catalog.put("**", "one")
        before = names(tmp_path)
        with pytest.raises(UnsafePathError, match="catalog itself"):
            await catalog.get("**", "one", "data", local_folder=local)
    assert names(tmp_path) == before


async def test_a_folder_may_begin_at_home(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(tmp_path, {"home/deep/data/a": b"A"})
    [entry] = await catalog.put("*", "run", "~/deep/data")
    assert entry.name == "data/a"
    await catalog.get("*", "run", local_folder="~/other")
    assert (tmp_path / "home" / "other" / "a").read_bytes() == b"A"


# Files that change or cannot be written.


async def test_a_large_file_that_changes_on_its_way_leaves_the_good_object_alone(
    catalog: Catalog, store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = os.urandom(9 * MIB)
    write(tmp_path, {"data/large": good})
    await catalog.put("**", "run", tmp_path / "data")
    write(tmp_path, {"data/large": bytes(9 * MIB)})
    put_file = MemoryObjectStore.put_file

    async def change_then_put(self: MemoryObjectStore, key: str, file: FileBody, **options: Any) -> str:
        await asyncio.to_thread(Path(file.name).write_bytes, b"x" * 9 * MIB)
        return await put_file(self, key, file, **options)

    monkeypatch.setattr(MemoryObjectStore, "put_file", change_then_put)
    with pytest.raises(TransferError) as caught:
        await catalog.put("**", "run", tmp_path / "data")
    assert isinstance(caught.value.failed["data/large"], IntegrityError)
    [entry] = [entry async for entry in catalog.list("run")]
    assert entry.data_hash == hashlib.sha256(good).hexdigest()


@pytest.mark.parametrize("change", ["touch", "remove"])
async def test_what_happens_after_a_large_upload_does_not_delete_it(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    write(tmp_path, {"data/large": bytes(9 * MIB)})
    put_file = MemoryObjectStore.put_file

    async def put_then_change(self: MemoryObjectStore, key: str, file: FileBody, **options: Any) -> str:
        etag = await put_file(self, key, file, **options)
        path = Path(file.name)
        await asyncio.to_thread(path.touch if change == "touch" else path.unlink)
        return etag

    monkeypatch.setattr(MemoryObjectStore, "put_file", put_then_change)
    assert len(await catalog.put("**", "run", tmp_path / "data")) == 1
    assert [entry.name async for entry in catalog.list("run")] == ["data/large"]


@pytest.mark.parametrize("refused", ["sub", "large-folder"])
async def test_a_folder_that_cannot_be_written_fails_its_files_alone(
    catalog: Catalog, store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    await seed(store, {"a": b"x", "sub/b": b"y", "sub/c": b"y", "large-folder/d": bytes(9 * MIB), "z": b"z"})
    opened = os.open

    def refuse(path: str, *options: int, **more: int) -> int:
        if str(path) == refused:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *options, **more)

    (tmp_path / "data" / refused).mkdir(parents=True)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(TransferError) as caught:
        await catalog.get("**", "run", tmp_path / "data")
    assert {name.split("/")[1] for name in caught.value.failed} == {refused}
    assert all(isinstance(error, AccessDeniedError) for error in caught.value.failed.values())
    assert len(caught.value.done) + len(caught.value.failed) == 5


async def test_what_the_storage_refuses_still_stops_all(
    catalog: Catalog, store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seed(store, {"a": b"x", "b": b"y"})

    async def refuse(*_: object, **__: object) -> None:
        raise AccessDeniedError("denied")

    monkeypatch.setattr(MemoryObjectStore, "together", refuse)
    with pytest.raises(AccessDeniedError):
        await catalog.get("**", "run", tmp_path / "data")


async def test_a_run_that_is_not_there_is_told_from_a_pattern_that_matches_nothing(
    catalog: Catalog, store: MemoryObjectStore, tmp_path: Path
) -> None:
    await seed(store, {"a": b"x"})
    for pattern in ("**", "b"):
        with pytest.raises(NotFoundError, match="run 'nope' has no data in memory:"):
            await catalog.get(pattern, "nope", tmp_path / "data")
    with pytest.raises(NotFoundError, match="nothing in memory:/run/data/ matches 'b'"):
        await catalog.get("b", "run", tmp_path / "data")
    assert await catalog.get([], "nope", tmp_path / "data") == []
