"""Public names are what ``__all__`` says, no more and no less, and sorted."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import asyncstore

SKIPPED = ("asyncstore.cli._text_pipeline",)
"""Copied into the wheel from the examples, where it is written for people to read."""

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(asyncstore.__path__, "asyncstore.")
    if info.name not in SKIPPED and not any(part.startswith("__") for part in info.name.split("."))
)
PUBLIC = [name for name in MODULES if not any(part.startswith("_") for part in name.split(".")[1:])]

FIXED = {
    "BufferedRunLogStore",
    "ChunkedFileSystemRunLogStore",
    "ChunkedS3RunLogStore",
    "DBRunLogStore",
    "FileSystemCatalog",
    "FileSystemRunLogStore",
    "S3Catalog",
    "S3RunLogStore",
    "create_tables",
    "open_services",
}
"""Names that other people's programs use."""


def constants_then_classes(name: str) -> tuple[bool, bool, str]:
    """Sort as ruff does: constants, classes, functions."""
    return not name.isupper(), not name[0].isupper(), name


def defined_in(module: str) -> set[str]:
    """Return the public classes and functions that a module's own source defines."""
    source = importlib.import_module(module).__file__
    assert source is not None
    body = ast.parse(Path(source).read_text()).body
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in body if isinstance(node, kinds) and not node.name.startswith("_")}


@pytest.mark.parametrize("module", ["asyncstore", *MODULES])
def test_all_is_sorted_and_there(module: str) -> None:
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", None)
    if names is None:
        assert not defined_in(module), f"{module} defines public names and has no __all__"
        return
    assert len(set(names)) == len(names)
    assert list(names) == sorted(names, key=constants_then_classes), f"{module}.__all__ is not sorted"
    assert [name for name in names if not hasattr(loaded, name)] == []


def test_the_root_gives_what_it_says() -> None:
    assert set(asyncstore.__all__) >= FIXED
    public = {name for name in dir(asyncstore) if not name.startswith("_")}
    modules = {name.split(".")[1] for name in MODULES}
    assert public - modules - {"annotations", "importlib", "Any", "TYPE_CHECKING"} == set(asyncstore.__all__)


def test_every_error_is_exported() -> None:
    errors = importlib.import_module("asyncstore.errors")
    assert set(errors.__all__) <= set(asyncstore.__all__)
    assert defined_in("asyncstore.errors") == set(errors.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = asyncstore.no_such_name
