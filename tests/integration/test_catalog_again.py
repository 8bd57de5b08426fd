"""A second and a third look at many files: nothing is read, and nothing that changed goes unseen."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from typing import TYPE_CHECKING

import pytest

from asyncstore.catalog import FileSystemCatalog, _digests, _scan
from asyncstore.catalog._known import Known, cache_folder
from asyncstore.catalog._lane import Lane
from asyncstore.testing.catalog import read_tree, write_tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TREE = {f"sub-{number % 7}/{number}": f"{number:05}".encode() for number in range(1500)}


@pytest.fixture
async def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FileSystemCatalog]:
    # Files are remembered at once, as if they had been written long ago.
    monkeypatch.setattr(_scan, "RACY_NS", 0)
    async with FileSystemCatalog(
        catalog_location=str(tmp_path / "catalog"), compute_data_folder=str(tmp_path / "data")
    ) as opened:
        yield opened


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked for file by file, and object by object."""
    names: list[str] = []
    digests_of, digests = Known.digests_of, Lane.digests

    def files(self: Known, files: _scan.LocalFiles) -> dict[str, str]:
        names.extend(files)
        return digests_of(self, files)

    async def objects(self: Lane, metas: list[object], **options: bool) -> dict[str, str]:
        names.extend(meta.key for meta in metas)  # type: ignore[attr-defined]
        return await digests(self, metas, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Known, "digests_of", files)
    monkeypatch.setattr(Lane, "digests", objects)
    return names


@pytest.mark.parametrize("direction", ["put", "get"])
async def test_what_was_the_same_is_not_asked_for_again(
    catalog: FileSystemCatalog, tmp_path: Path, asked: list[str], direction: str
) -> None:
    data = tmp_path / "data"
    write_tree(data, TREE)
    move = catalog.put if direction == "put" else catalog.get
    first = await catalog.put("**", "run")
    assert await move("**", "run", dry_run=False) == [entry.model_copy(update={"stage": direction}) for entry in first]
    assert asked
    asked.clear()
    again = await move("**", "run")
    assert [(entry.name, entry.data_hash) for entry in again] == [(entry.name, entry.data_hash) for entry in first]
    assert asked == []
    assert (await move("**", "run", dry_run=True)).counts() == {"skip": len(TREE)}
    # Another folder with the same files is another matter.
    shutil.copytree(data, tmp_path / "copy")
    assert (await move("**", "run", "data", local_folder=tmp_path / "copy", dry_run=True)).counts()
    assert len(asked) == 2 * len(TREE)


async def test_what_has_changed_on_either_side_is_seen(
    catalog: FileSystemCatalog, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    write_tree(data, TREE)
    for _ in range(3):
        await catalog.put("**", "run")
    asked.clear()
    status = (data / "sub-1/1").stat()
    (data / "sub-1/1").write_bytes(b"other")
    os.utime(data / "sub-1/1", ns=(status.st_atime_ns, status.st_mtime_ns))
    (data / "sub-2/2").unlink()
    monkeypatch.undo()
    plan = await catalog.put("**", "run", dry_run=True)
    assert {file.name: file.action for file in plan.files if file.action != "skip"} == {"sub-1/1": "upload"}
    async with FileSystemCatalog(catalog_location=str(tmp_path / "catalog")) as other:
        await other.put("**", "run", "data", local_folder=data)
        write_tree(tmp_path / "elsewhere", {"sub-3/3": b"12345"})
        await other.put("**", "run", "data", local_folder=tmp_path / "elsewhere")
    plan = await catalog.get("**", "run", dry_run=True)
    assert {file.name: file.action for file in plan.files if file.action != "skip"} == {
        "sub-2/2": "download",
        "sub-3/3": "download",
    }
    await catalog.get("**", "run")
    assert read_tree(data) == TREE | {"sub-1/1": b"other", "sub-3/3": b"12345"}


async def test_few_changes_do_not_make_it_all_be_written_anew(
    catalog: FileSystemCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    write_tree(data, TREE)
    told: list[int] = []
    remember = Known.remember_same

    def remember_same(self: Known, pair: str, same: dict[str, object], *sides: object) -> None:
        told.append(len(same))
        remember(self, pair, same, *sides)  # type: ignore[arg-type]

    monkeypatch.setattr(Known, "remember_same", remember_same)
    for _ in range(3):
        await catalog.put("**", "run")
    assert told == [len(TREE)]
    write_tree(data, {f"new/{number}": b"" for number in range(900)})
    for _ in range(2):
        await catalog.put("**", "run")
    assert told == [len(TREE)]
    write_tree(data, {f"new/{number}": b"" for number in range(900, 1100)})
    for _ in range(3):
        await catalog.put("**", "run")
    assert told == [len(TREE), len(TREE) + 1100]


async def test_a_catalog_that_remembers_nothing_works_as_well(tmp_path: Path) -> None:
    write_tree(tmp_path / "data", TREE)
    async with FileSystemCatalog(
        catalog_location=str(tmp_path / "catalog"), compute_data_folder=str(tmp_path / "data"), remember=False
    ) as catalog:
        for _ in range(3):
            await catalog.put("**", "run")
        assert (await catalog.get("**", "run", dry_run=True)).counts() == {"skip": len(TREE)}
    assert not (cache_folder() / "catalog.db").exists()


async def test_what_was_hashed_before_a_cancellation_is_not_hashed_again(
    catalog: FileSystemCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "data", TREE)
    await catalog.put("**", "run")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    monkeypatch.setattr(_digests, "PORTION", 400)
    loop, cancelled, names = asyncio.get_running_loop(), threading.Event(), list[str]()

    def cancel() -> None:
        task.cancel()
        loop.call_soon(cancelled.set)

    def read(file: _scan.LocalFile) -> tuple[bytes | memoryview, str]:
        names.append(file.name)
        if len(names) == 1000:
            loop.call_soon_threadsafe(cancel)
        if len(names) >= 1000:
            cancelled.wait(60)
        return _scan.read_file(file)

    monkeypatch.setattr(_digests, "read_file", read)
    task = asyncio.create_task(catalog.put("**", "run", "data", local_folder=tmp_path / "copy"))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 1000 <= len(names) < 1200
    names.clear()
    await catalog.put("**", "run", "data", local_folder=tmp_path / "copy")
    assert len(set(names)) == len(names) == len(TREE) - 800
