"""The contract of a catalog, as tests."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING, ClassVar

import pytest
import pytest_asyncio

from asyncstore.errors import ClosedError, NotFoundError, UnsafePathError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from asyncstore.catalog import Catalog

__all__ = ["CatalogContract"]

RUN = "run"
FOLDER = "data"

TREE: dict[str, bytes] = {
    "a.csv": b"a,b\n1,2\n",
    "empty": b"",
    "deep/er/still/a.csv": b"deep",
    "deep/b.txt": b"text",
    "two words/é 🙂.csv": b"names",
    "%2F.csv": b"percent",
    "x#y?z+.csv": b"reserved",
    ".hidden": b"hidden",
    "large.bin": bytes(range(256)) * 4096,
}
"""A data folder with what has been lost on the way elsewhere: nested, empty, hidden, oddly named, larger files."""


def write_tree(folder: Path, tree: Mapping[str, bytes]) -> None:
    """Write files below ``folder``."""
    for name, data in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def read_tree(folder: Path) -> dict[str, bytes]:
    """Read all files below ``folder``."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def times(folder: Path) -> dict[Path, int]:
    """Return when each file below ``folder`` was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.asyncio
class CatalogContract:
    """
    Every promise of :class:`asyncstore.Catalog`; a catalog that passes is a supported one.

    Subclass it and override the fixture ``make_catalog``, which returns a callable that makes catalogs, not yet opened,
    all on the same storage, which is empty for each test. The compute data folder must be its default, ``data/``.

    Attributes:
        shared: False for a catalog that no second object can see.
    """

    shared: ClassVar[bool] = True

    @pytest.fixture
    def make_catalog(self) -> Callable[[], Catalog]:
        """Return what makes catalogs, not yet opened."""
        raise NotImplementedError("override the fixture make_catalog")

    @pytest.fixture(autouse=True)
    def machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Work in an empty folder, as on a machine of one's own."""
        here = tmp_path / "machine"
        here.mkdir()
        monkeypatch.chdir(here)
        return here

    @pytest.fixture
    def elsewhere(self, tmp_path: Path) -> Path:
        """Return a data folder as another machine would have it, not yet made."""
        return tmp_path / "elsewhere" / FOLDER

    @pytest_asyncio.fixture
    async def catalog(self, make_catalog: Callable[[], Catalog]) -> AsyncIterator[Catalog]:
        """Give an open catalog."""
        async with make_catalog() as catalog:
            yield catalog

    @pytest_asyncio.fixture
    async def another(self, catalog: Catalog, make_catalog: Callable[[], Catalog]) -> AsyncIterator[Catalog]:
        """Give a second open catalog on the same storage, as another process would have it."""
        if not self.shared:
            yield catalog
            return
        async with make_catalog() as another:
            yield another

    async def test_a_folder_goes_round(
        self, catalog: Catalog, another: Catalog, machine: Path, elsewhere: Path
    ) -> None:
        write_tree(machine / FOLDER, TREE)
        put = await catalog.put("**", RUN)
        got = await another.get("**", RUN, local_folder=elsewhere)
        assert read_tree(elsewhere) == TREE
        assert [entry.name for entry in put] == sorted(f"{FOLDER}/{name}" for name in TREE)
        assert [entry.model_copy(update={"stage": "put"}) for entry in got] == put
        assert {entry.stage for entry in got} == {"get"}

    async def test_what_an_entry_says(self, catalog: Catalog, machine: Path) -> None:
        write_tree(machine / FOLDER, {"deep/a.csv": b"a,b\n"})
        [entry] = await catalog.put("**/*.csv", RUN)
        assert entry.model_dump() == {
            "name": "data/deep/a.csv",
            "data_hash": hashlib.sha256(b"a,b\n").hexdigest(),
            "catalog_relative_path": "run/data/deep/a.csv",
            "catalog_handler_location": catalog.location,
            "stage": "put",
        }

    async def test_patterns_are_the_same_on_both_sides(
        self, catalog: Catalog, another: Catalog, machine: Path, elsewhere: Path
    ) -> None:
        names = {"a.csv", "b.txt", "deep/a.csv", "deep/er/a.csv"}
        write_tree(machine / FOLDER, dict.fromkeys(names, b"x"))
        await catalog.put("**", "everything")
        for number, (pattern, matched) in enumerate(
            [
                ("*.csv", {"a.csv"}),
                ("**/*.csv", {"a.csv", "deep/a.csv", "deep/er/a.csv"}),
                ("deep/*", {"deep/a.csv"}),
                (["b.txt", "deep/**"], {"b.txt", "deep/a.csv", "deep/er/a.csv"}),
            ]
        ):
            put = await catalog.put(pattern, f"run-{number}")
            got = await another.get(pattern, "everything", local_folder=elsewhere / str(number))
            expected = sorted(f"{FOLDER}/{name}" for name in matched)
            assert [entry.name for entry in put] == [entry.name for entry in got] == expected

    async def test_what_is_the_same_already_is_left_alone(
        self, catalog: Catalog, machine: Path, elsewhere: Path
    ) -> None:
        write_tree(machine / FOLDER, TREE)
        first = await catalog.put("**", RUN)
        assert await catalog.put("**", RUN) == first
        await catalog.get("**", RUN, local_folder=elsewhere)
        before = times(elsewhere)
        await catalog.get("**", RUN, local_folder=elsewhere)
        assert times(elsewhere) == before

    async def test_what_has_changed_is_replaced(
        self, catalog: Catalog, another: Catalog, machine: Path, elsewhere: Path
    ) -> None:
        write_tree(machine / FOLDER, {"a.csv": b"old", "b.csv": b"same"})
        synced = await catalog.put("*", RUN)
        write_tree(machine / FOLDER, {"a.csv": b"new"})
        write_tree(elsewhere, {"a.csv": b"stale", "mine.txt": b"stays"})
        put = await catalog.put("*", RUN, synced_catalogs=synced)
        await another.get("*", RUN, local_folder=elsewhere)
        assert read_tree(elsewhere) == {"a.csv": b"new", "b.csv": b"same", "mine.txt": b"stays"}
        assert put[0].data_hash == hashlib.sha256(b"new").hexdigest()

    async def test_runs_are_apart(self, catalog: Catalog, another: Catalog, machine: Path, elsewhere: Path) -> None:
        for run_id in ("run", "run-2", "ru"):
            write_tree(machine / FOLDER, {"a.csv": run_id.encode()})
            await catalog.put("*", run_id)
        for run_id in ("run", "run-2", "ru"):
            await another.get("*", run_id, local_folder=elsewhere / run_id)
            assert read_tree(elsewhere / run_id) == {"a.csv": run_id.encode()}
        await another.delete("run")
        await another.delete("run")
        assert [entry.name async for entry in catalog.list("run")] == []
        assert [entry.name async for entry in catalog.list("run-2")] == ["data/a.csv"]
        with pytest.raises(NotFoundError):
            await catalog.get("*", "run", local_folder=elsewhere)

    async def test_folders_are_apart(self, catalog: Catalog, another: Catalog, machine: Path, elsewhere: Path) -> None:
        for folder in ("data", "data2", "other"):
            write_tree(machine / folder, {"a.csv": folder.encode()})
            await catalog.put("*", RUN, folder)
        await another.get("**", RUN, local_folder=elsewhere)
        assert read_tree(elsewhere) == {"a.csv": b"data"}
        listed = sorted([entry.name async for entry in another.list(RUN)])
        assert listed == ["data/a.csv", "data2/a.csv", "other/a.csv"]

    async def test_listing(self, catalog: Catalog, another: Catalog, machine: Path) -> None:
        write_tree(machine / FOLDER, TREE)
        put = await catalog.put("**", RUN)
        listed = [entry async for entry in another.list(RUN)]
        assert sorted(listed, key=lambda entry: entry.name) == put
        assert [entry async for entry in another.list("nowhere")] == []

    async def test_syncing_between_runs(
        self, catalog: Catalog, another: Catalog, machine: Path, elsewhere: Path
    ) -> None:
        write_tree(machine / FOLDER, {**TREE, "step.execution.log": b"log"})
        await catalog.put("**", "before")
        synced = await another.sync_between_runs("before", RUN)
        assert [entry.name for entry in synced] == sorted(f"{FOLDER}/{name}" for name in TREE)
        await catalog.get("**", RUN, local_folder=elsewhere)
        assert read_tree(elsewhere) == TREE
        with pytest.raises(NotFoundError):
            await catalog.sync_between_runs("nowhere", RUN)

    async def test_what_matches_nothing_is_not_found(self, catalog: Catalog, machine: Path) -> None:
        with pytest.raises(NotFoundError):
            await catalog.put("*", RUN)
        write_tree(machine / FOLDER, {"a.csv": b"a"})
        with pytest.raises(NotFoundError, match="parquet"):
            await catalog.put(["*.csv", "*.parquet"], RUN)
        assert [entry async for entry in catalog.list(RUN)] == []
        assert await catalog.put("*.parquet", RUN, allow_no_match=True) == []
        with pytest.raises(NotFoundError):
            await catalog.get("*", "nowhere")

    async def test_what_is_asyncstores_own_stays(self, catalog: Catalog, machine: Path) -> None:
        write_tree(machine, {"a.csv": b"a", ".asyncstore/run_logs.db": b"log", "sub/.asyncstore/x": b"x"})
        entries = await catalog.put("**", RUN, ".")
        assert [entry.name for entry in entries] == ["a.csv"]
        await catalog.get("**", RUN, ".")
        assert (machine / ".asyncstore" / "run_logs.db").read_bytes() == b"log"

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs and symbolic links")
    async def test_what_is_no_file_is_refused_before_anything_moves(self, catalog: Catalog, machine: Path) -> None:
        write_tree(machine, {"outside.csv": b"secret"})
        write_tree(machine / FOLDER, {"a.csv": b"a"})
        for make, name in ((os.mkfifo, "fifo"), (lambda path: os.symlink(machine / "outside.csv", path), "link")):
            make(machine / FOLDER / name)
            with pytest.raises(UnsafePathError):
                await catalog.put("**", RUN)
            (machine / FOLDER / name).unlink()
        assert [entry async for entry in catalog.list(RUN)] == []

    @pytest.mark.parametrize("pattern", ["../*", "/etc/*", "a/../../b"])
    async def test_patterns_that_lead_out_are_refused(self, catalog: Catalog, machine: Path, pattern: str) -> None:
        write_tree(machine, {"outside.csv": b"secret"})
        write_tree(machine / FOLDER, {"a.csv": b"a"})
        await catalog.put("*", RUN)
        with pytest.raises((UnsafePathError, NotFoundError, ValueError)):
            await catalog.put(pattern, RUN)
        with pytest.raises((UnsafePathError, NotFoundError, ValueError)):
            await catalog.get(pattern, RUN)

    async def test_many_files_and_many_writers(
        self, catalog: Catalog, another: Catalog, machine: Path, elsewhere: Path
    ) -> None:
        tree = {f"part-{number % 5}/{number}.txt": f"{number}".encode() for number in range(300)}
        write_tree(machine / FOLDER, tree)
        async with asyncio.TaskGroup() as group:
            for part in range(5):
                group.create_task((another if part % 2 else catalog).put(f"part-{part}/*", RUN))
        await another.get("**", RUN, local_folder=elsewhere)
        assert read_tree(elsewhere) == tree

    async def test_only_between_open_and_close(self, make_catalog: Callable[[], Catalog], machine: Path) -> None:
        write_tree(machine / FOLDER, {"a.csv": b"a"})
        catalog = make_catalog()
        with pytest.raises(ClosedError):
            await catalog.put("*", RUN)
        async with catalog:
            await catalog.put("*", RUN)
        with pytest.raises(ClosedError):
            await catalog.get("*", RUN)
        await catalog.aclose()
