"""What is a folder's alone: links, locks, and folders that come and go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import ConflictError, NotFoundError, UnsafePathError
from asyncstore.objects.base import Condition
from asyncstore.objects.folder import FolderObjectStore

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_linked_folder_leads_nowhere(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "secret").write_text("secret")
    (root / "link").symlink_to(outside)
    async with FolderObjectStore(root) as store:
        assert [page async for page in store.list("")] == []
        for verb in (
            store.get("link/secret"),
            store.head("link/secret"),
            store.put("link/n", b""),
            store.delete(["link/secret"]),
            store.copy("link/secret", "copy"),
            store.copy("x", "link/copy"),
        ):
            with pytest.raises(UnsafePathError, match="is a link"):
                await verb
    assert [path.name for path in outside.iterdir()] == ["secret"]


async def test_files_are_put_while_the_folder_empties_again_and_again(tmp_path: Path) -> None:
    source = tmp_path / "source"
    await asyncio.to_thread(source.write_bytes, b"data")

    async with FolderObjectStore(tmp_path / "root") as store:

        async def put_and_delete(name: str) -> None:
            for _ in range(60):
                await store.put_file(f"folder/{name}", source)
                await store.delete([f"folder/{name}"])

        async with asyncio.TaskGroup() as group:
            for name in "abcd":
                group.create_task(put_and_delete(name))
        with pytest.raises(NotFoundError):
            await store.put_file("folder/x", tmp_path / "missing")


async def test_of_two_that_replace_one_version_one_wins(tmp_path: Path) -> None:
    async with FolderObjectStore(tmp_path / "root") as one, FolderObjectStore(tmp_path / "root") as other:
        etag = await one.put("folder/key", b"0")
        for _ in range(50):
            results = await asyncio.gather(
                one.put("folder/key", b"1", condition=Condition(etag=etag)),
                other.put("folder/key", b"2", condition=Condition(etag=etag)),
                return_exceptions=True,
            )
            won = [result for result in results if isinstance(result, str)]
            assert len(won) == 1
            assert sum(isinstance(result, ConflictError) for result in results) == 1
            etag = won[0]
