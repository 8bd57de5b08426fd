"""What a listing says of files, packs and indices."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from asyncstore.catalog._packed._find import _by_name
from asyncstore.catalog._packed._names import PACKS, index_name, pack_name
from asyncstore.catalog._paths import Place
from asyncstore.objects.base import ObjectMeta

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
STAMP, PUT = "20260101T000000000000Z", "0123456789abcdef"
PACK, INDEX = f"{PACKS}{pack_name(STAMP, PUT, 0)}", f"{PACKS}{index_name(STAMP, PUT)}"


def meta(key: str) -> ObjectMeta:
    return ObjectMeta(key, 1, '"e"', WHEN)


@pytest.mark.parametrize(
    ("keys", "files", "indices"),
    [
        pytest.param([], [], [], id="nothing"),
        pytest.param(["run/data/a", "run/data/b/c"], ["a", "b/c"], [], id="files"),
        pytest.param(["run/data", "run/data/a"], ["a"], [], id="the folder's own marker, shown above it"),
        pytest.param(["run/data/a", "run/data2"], ["a"], [], id="what begins alike"),
        pytest.param(
            [f"run/data/{PACK}", f"run/data/{INDEX}", "run/data/a"], ["a"], [f"run/data/{INDEX}"], id="a pack"
        ),
        pytest.param([f"run/data/b/{INDEX}"], [], [f"run/data/b/{INDEX}"], id="an index below"),
    ],
)
def test_files_are_told_from_packs(keys: list[str], files: list[str], indices: list[str]) -> None:
    metas = [meta(key) for key in keys]
    found, shown = _by_name(Place("", "run", "data/"), metas)
    assert {name: one.key for name, one in found.items()} == {name: f"run/data/{name}" for name in files}
    assert [one.key for one in shown] == indices
