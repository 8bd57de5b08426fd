"""DESIGN's house: folders are layers, imports point down, siblings do not know each other."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import asyncstore

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(asyncstore.__file__).parent
# The root only re-exports; the wheel holds a copy of an example, which imports asyncstore as its users do.
APART = {ROOT / "__init__.py", ROOT / "cli" / "_text_pipeline.py"}
FILES = sorted(path for path in ROOT.rglob("*.py") if path not in APART)

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "models", "names"}),
    frozenset({"_core"}),
    frozenset({"objects", "aws"}),
    frozenset({"runlog", "catalog", "secrets", "bucket"}),
    frozenset({"services", "recorder"}),
    frozenset({"cli", "web", "integrations"}),
    frozenset({"testing"}),
)
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}

BESIDE = {("models", "errors"), ("names", "errors"), ("objects", "aws"), ("services", "recorder")}
"""The imports inside a layer that the design allows: the first may know the second, never the other way round."""


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[tuple[ast.stmt, str, bool]]:
    """Yield each import of our own modules: where, which module, and whether it is inside a function."""
    tree = ast.parse(path.read_text())
    inside = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "asyncstore":
                yield node, name, node in inside


def allowed(importer: str, other: str) -> bool:
    if importer == other or (importer, other) in BESIDE:
        return True
    return other != "testing" and LAYER_OF[other] < LAYER_OF[importer]


def test_every_room_has_a_layer() -> None:
    assert {room_of(path) for path in FILES} <= set(LAYER_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    for node, module, inside in imported(path):
        where = f"{path.relative_to(ROOT)}:{node.lineno} imports {module}"
        assert module != "asyncstore", f"{where}: import from the module that defines it"
        assert not inside, f"{where} inside a function"
        other = module.split(".")[1]
        assert allowed(room_of(path), other), f"{where}: {room_of(path)} may not know {other}"


def test_nothing_imports_the_tests_of_users() -> None:
    importers = [path for path in FILES for _, module, _ in imported(path) if module.startswith("asyncstore.testing")]
    assert {room_of(path) for path in importers} == {"testing"}
