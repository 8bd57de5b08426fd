"""The demonstration: one pipeline, the same output whatever it is recorded on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import asyncstore
from asyncstore.cli._app import run

if TYPE_CHECKING:
    from asyncstore.testing.servers import Bucket

EXAMPLE = Path(__file__).parents[2] / "examples" / "text_pipeline.py"

VARYING = (
    (r"\d{8}-\d{6}-[a-z]+-[a-z]+-[0-9a-f]{4}", "RUN"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
    (r"\d+ ms|\d+\.\d\d s", "DURATION"),
    (r"(?m)^(run log|catalog|data) .*$", r"\1 LOCATION"),
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real text files: a few packages of the standard library."""
    folder = tmp_path_factory.mktemp("texts")
    library = Path(sysconfig.get_path("stdlib"))
    for package in ("asyncio", "email", "json"):
        shutil.copytree(library / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.rst"))
    (folder / "LICENSE.txt").write_text("Do what you like, line 1\nline 2\n")
    return folder


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["default", "file-system", "chunked-s3 and s3 on moto", "db on postgres and s3 on rclone"])
def arguments(request: pytest.FixtureRequest, working_folder: Path) -> list[str]:
    """Command-line arguments that say where the demo is recorded."""
    services = configuration(request.param, request)
    if not services:
        return []
    path = working_folder / "asyncstore.yaml"
    path.write_text(yaml.safe_dump(services))
    if services["run_log_store"]["type"] == "db":
        assert run(["db", "create-tables", "--config", str(path)]) == 0
    return ["--config", str(path)]


def configuration(name: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    if name == "default":
        return {}
    if name == "file-system":
        return services("file-system", {"log_folder": "logs"}, "file-system", {"catalog_location": "catalog"})
    if "moto" in name:
        bucket: Bucket = request.getfixturevalue("moto_bucket")
        places = [{**bucket.options, "prefix": prefix} for prefix in ("logs", "catalog")]
        return services("chunked-s3", places[0], "s3", places[1])
    database = {"connection_string": request.getfixturevalue("postgres_url")}
    return services("db", database, "s3", request.getfixturevalue("rclone_bucket").options)


def services(log: str, log_config: dict[str, Any], catalog: str, catalog_config: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_log_store": {"type": log, "config": log_config},
        "catalog": {"type": catalog, "config": catalog_config},
    }


EXPECTED = """\
✓ RUN  success · demo · DURATION · TIME
├── ✓ load  DURATION
├── ✓ measure  DURATION  parallel
│   ├── ✓ asyncio
│   │   ├── ✓ count  DURATION
│   │   └── ✓ save  DURATION
│   ├── ✓ email
│   │   ├── ✓ count  DURATION
│   │   └── ✓ save  DURATION
│   ├── ✓ json
│   │   ├── ✓ count  DURATION
│   │   └── ✓ save  DURATION
│   └── ✓ others
│       ├── ✓ count  DURATION
│       └── ✓ save  DURATION
├── ✓ kinds  DURATION  map
│   ├── ✓ .py
│   │   └── ✓ shape  DURATION
│   └── ✓ .txt
│       └── ✓ shape  DURATION
├── ✓ combine  DURATION
└── ✓ report  DURATION
"""


def test_the_demo_is_the_same_everywhere(
    arguments: list[str], texts: Path, working_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["demo", str(texts), *arguments]) == 0
    printed = capsys.readouterr()
    tree, _, rest = normal(printed.out).partition("\n\n")
    assert f"{tree}\n" == EXPECTED
    assert "✓ 8 files put into the catalog and got back into an empty folder: every hash agrees" in rest
    assert "run log LOCATION\ncatalog LOCATION\ndata LOCATION\n" in rest
    stages = ("load", "measure", "kinds", "combine", "report", "get it all back")
    assert printed.err.splitlines() == [f"{number}/6 {stage}" for number, stage in enumerate(stages, 1)]

    assert run([*arguments, "runs", "list", "--json"]) == 0
    [summary] = json.loads(capsys.readouterr().out)
    assert (summary["status"], summary["tag"]) == ("SUCCESS", "demo")
    report = working_folder / "data" / "text_pipeline" / "report.md"
    assert report.read_text().splitlines()[2:] == rest.splitlines()[1:5]


def test_the_demo_as_json(working_folder: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", str(texts), "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found.keys() == {"run_id", "seconds", "files_verified", "locations", "report", "run"}
    assert found["locations"].keys() == {"run_log", "catalog", "data"}
    assert found["files_verified"] == 8
    assert list(found["run"]["steps"]) == ["load", "measure", "kinds", "combine", "report"]
    assert printed.err == ""


def test_the_same_folder_gives_the_same_files(
    working_folder: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hashes = []
    for _ in range(2):
        assert run(["demo", str(texts), "--json"]) == 0
        run_log = asyncstore.RunLog.model_validate(json.loads(capsys.readouterr().out)["run"])
        hashes.append({entry.name: entry.data_hash for entry in run_log.get_data_catalogs_by_stage("put")})
    assert hashes[0] == hashes[1]


def test_a_folder_that_is_not_there(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "nowhere"]) == 3
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: there is no folder 'nowhere': give one that holds text files"
    )
    assert run(["runs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_folder_without_text(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (working_folder / "empty").mkdir()
    assert run(["demo", "empty"]) == 3
    assert "there are no text files" in capsys.readouterr().err
    assert run(["runs", "list", "--status", "fail", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_groups_of_similar_names_do_not_share_a_file(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = ["a.b", "a_b", "A_b", "ж", "я", "x" * 200]
    for name in groups:
        folder = working_folder / "texts" / name
        folder.mkdir(parents=True)
        (folder / "words.txt").write_text(f"{name}\n")
    assert run(["demo", "texts", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    saved = [json.loads(path.read_text()) for path in (working_folder / "data/text_pipeline/groups").iterdir()]
    assert sorted(part["group"] for part in saved) == sorted(groups)
    assert {part["files"] for part in saved} == {1}
    assert found["files_verified"] == len(groups) + 3
    assert "- 6 files" in found["report"]


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="the examples are not beside the tests")
def test_the_example_runs_on_its_own(working_folder: Path, texts: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(asyncstore.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(texts)], capture_output=True, text=True, env=environment, check=True
    )
    assert "8 files put, and the same 8 got back" in done.stdout


def normal(printed: str) -> str:
    for pattern, name in VARYING:
        printed = re.sub(pattern, name, printed)
    return printed
