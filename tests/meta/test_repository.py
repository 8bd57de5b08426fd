"""What holds for the files of the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("asyncstore", "tests", "benchmarks", "examples", "docs", ".ci")
TEXT = {".py", ".md", ".toml", ".json", ".yaml", ".yml", ".txt", ""}

MACHINE_PATH = re.compile(r"(?:^|[\s\"'(=])/(?:home|root|Users|work|private)/[\w.-]+")

README_COMMANDS = (
    'python3 -m venv .venv && .venv/bin/pip install ".[cli]" && .venv/bin/asyncstore demo',
    "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox -s tests",
)


def files() -> list[Path]:
    below = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    found = [path for path in [*ROOT.iterdir(), *below] if path.is_file() and path.suffix in TEXT]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def test_no_file_holds_a_path_of_somebodys_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("command", README_COMMANDS)
def test_the_commands_of_the_readme_are_those_that_ci_runs(command: str) -> None:
    for file in ("README.md", ".ci/run"):
        lines = [line.strip().removeprefix("$ ") for line in (ROOT / file).read_text().splitlines()]
        assert command in lines, f"{file} does not have the line: {command}"


def test_ci_is_a_program_that_bash_understands() -> None:
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)
