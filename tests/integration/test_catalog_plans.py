"""Plans that are made here and run elsewhere, and plans that come from elsewhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.catalog import FileSystemCatalog, TransferPlan
from asyncstore.errors import InvalidValueError, TransferError, UnsafePathError
from asyncstore.testing.catalog import read_tree, write_tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TREE = {f"sub-{number % 3}/{number}": f"{number}".encode() for number in range(20)} | {"top": b"top"}


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[FileSystemCatalog]:
    async with FileSystemCatalog(
        catalog_location=str(tmp_path / "catalog"), compute_data_folder=str(tmp_path / "data")
    ) as opened:
        yield opened


async def planned(catalog: FileSystemCatalog, tmp_path: Path) -> dict[str, Any]:
    write_tree(tmp_path / "data", TREE)
    await catalog.put("**", "run")
    plan = await catalog.get("**", "run", local_folder=tmp_path / "out" / "data", dry_run=True)
    return plan.to_json()


async def test_a_dry_run_moves_nothing_and_its_plan_does_what_it_says(
    catalog: FileSystemCatalog, tmp_path: Path
) -> None:
    write_tree(tmp_path / "data", TREE)
    plan = await catalog.put("**", "run", dry_run=True)
    assert plan.counts() == {"upload": 21}
    assert [entry async for entry in catalog.list("run")] == []
    parts = [TransferPlan.from_json(json.loads(json.dumps(part.to_json()))) for part in plan.split(3)]
    names = {entry.name for part in parts for entry in await catalog.run(part)}
    assert names == {f"data/{name}" for name in TREE}
    assert (await catalog.put("**", "run", dry_run=True)).counts() == {"skip": 21}
    wanted = await catalog.get("**", "run", local_folder=tmp_path / "out" / "data", dry_run=True)
    assert wanted.counts() == {"download": 21}
    assert not (tmp_path / "out").exists()
    await catalog.run(wanted)
    assert read_tree(tmp_path / "out" / "data") == TREE


async def test_a_file_that_changed_since_it_was_planned_is_told(catalog: FileSystemCatalog, tmp_path: Path) -> None:
    write_tree(tmp_path / "data", TREE)
    plan = await catalog.put("**", "run", dry_run=True)
    write_tree(tmp_path / "data", {"top": b"other"})
    with pytest.raises(TransferError, match="changed") as caught:
        await catalog.run(plan)
    assert list(caught.value.failed) == ["data/top"]
    assert len(caught.value.done) == 20


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a\x00b", "sub-0"])
async def test_names_of_a_plan_from_elsewhere_do_not_lead_out(
    catalog: FileSystemCatalog, tmp_path: Path, name: str
) -> None:
    value = await planned(catalog, tmp_path)
    value["files"][-1]["name"] = name
    with pytest.raises(UnsafePathError, match="nothing was moved"):
        await catalog.run(TransferPlan.from_json(value))
    assert not (tmp_path / "out").exists()


async def test_a_plan_from_elsewhere_takes_no_file_from_outside(catalog: FileSystemCatalog, tmp_path: Path) -> None:
    write_tree(tmp_path, {"data/a": b"a", "secret": b"secret"})
    value = (await catalog.put("**", "run", dry_run=True)).to_json()
    for path in (str(tmp_path / "secret"), f"{tmp_path}/data/../secret", f"{tmp_path}/data/", "./data/a"):
        value["files"][0]["path"] = path
        with pytest.raises(UnsafePathError, match="does not lie in"):
            await catalog.run(TransferPlan.from_json(value))
    assert [entry async for entry in catalog.list("run")] == []


async def test_a_plan_is_for_one_storage_and_is_checked(catalog: FileSystemCatalog, tmp_path: Path) -> None:
    value = await planned(catalog, tmp_path)
    async with FileSystemCatalog(catalog_location=str(tmp_path / "other")) as other:
        with pytest.raises(InvalidValueError, match="the plan is for"):
            await other.run(TransferPlan.from_json(value))
    for field, wrong in (("kind", "steal"), ("files", [{**value["files"][0], "action": "delete"}])):
        with pytest.raises(InvalidValueError, match="no plan"):
            TransferPlan.from_json({**value, field: wrong})


async def test_an_empty_folder_is_put_once_and_is_no_file(catalog: FileSystemCatalog, tmp_path: Path) -> None:
    write_tree(tmp_path / "data", {"a": b"a"})
    (tmp_path / "data" / "empty" / "deep").mkdir(parents=True)
    steps: list[Any] = []
    await catalog.put("**", "run", on_progress=steps.append)
    assert (steps[-1].files_done, steps[-1].files_total) == (1, 1)
    assert (await catalog.put("**", "run", dry_run=True)).counts() == {"skip": 2}
    out = tmp_path / "out" / "data"
    assert len(await catalog.get("**", "run", local_folder=out)) == 1
    assert (out / "empty" / "deep").is_dir()
    assert (await catalog.get("**", "run", local_folder=out, dry_run=True)).counts() == {"skip": 2}
