from __future__ import annotations

from pathlib import Path

import pytest

from asyncstore._core.settings import Settings
from asyncstore.errors import ConfigurationError


class Example(Settings):
    """Settings of an example."""

    folder: str = "data"
    """A folder."""
    root: Path = Path("root")
    """Another."""
    limit: int = 4
    """A limit."""
    password: str = ""
    """A secret."""


def test_paths_are_taken_where_a_path_is_meant() -> None:
    settings = Example.parse({"folder": Path("a/b"), "root": Path("c")}, "example")
    assert (settings.folder, settings.root) == ("a/b", Path("c"))
    assert Example.parse({"root": "c"}, "example").root == Path("c")


def test_every_problem_is_told_at_once_and_no_value() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Example.parse({"fodler": "x", "limit": "hunter2", "password": 7}, "example")
    message = str(caught.value)
    assert message.startswith("example: ")
    assert "unknown key 'fodler', did you mean 'folder'?" in message
    assert "'limit'" in message
    assert "'password'" in message
    assert "hunter2" not in message


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Example().limit = 5
