"""``asyncstore runs import``: what it says of good, broken and wrong sources, and with which exit code."""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from asyncstore.cli._app import run

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def logs(working_folder: Path) -> Path:
    """Return a folder with two documents and a run in chunks that magnus wrote."""
    shutil.copytree(DATA / "magnus" / "file-system", "logs")
    shutil.copytree(DATA / "magnus" / "chunked-fs", "logs", dirs_exist_ok=True)
    return working_folder / "logs"


def shown(capsys: pytest.CaptureFixture[str], run_id: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["runs", "show", run_id, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def states(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, str]]:
    capsys.readouterr()
    code = run(["runs", "import", "--json", *arguments])
    return code, {found["run_id"]: found["state"] for found in json.loads(capsys.readouterr().out)["runs"]}


def test_layouts_may_be_mixed(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "import", "--from", "logs"]) == 0
    heading, *rows, summary = capsys.readouterr().out.splitlines()
    assert heading.split() == ["RUN", "STATE", "STEPS", "LAYOUT", "NOTE"]
    assert {tuple(row.split()) for row in rows} == {
        ("ok-file-system", "✓", "imported", "14", "document"),
        ("fail-file-system", "✓", "imported", "14", "document"),
        ("ok-chunked-fs", "✓", "imported", "14", "magnus-chunked"),
    }
    assert summary.startswith(f"3 runs from {logs} to ")
    assert summary.endswith(": 3 imported")


def test_runs_are_listed_by_the_time_they_had(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seconds in {"ok-file-system": 1_700_000_000, "fail-file-system": 1_700_000_001}.items():
        os.utime(logs / f"{name}.json", (seconds, seconds))
    Path("to.yaml").write_text("run_log_store: {type: chunked-fs, config: {log_folder: to}}")
    assert states(capsys, "--from", "logs", "--config", "to.yaml")[0] == 0
    assert run(["runs", "list", "--json", "--config", "to.yaml"]) == 0
    created = {found["run_id"]: found["created_at"] for found in json.loads(capsys.readouterr().out)}
    first_ns = min(int(path.stem.rpartition("-")[2]) for path in (logs / "ok-chunked-fs").glob("StepLog-*"))
    assert {run_id: datetime.fromisoformat(time).timestamp() for run_id, time in created.items()} == {
        "ok-chunked-fs": pytest.approx(first_ns / 1e9, abs=1),
        "fail-file-system": 1_700_000_001,
        "ok-file-system": 1_700_000_000,
    }


def test_importing_again_changes_nothing(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(states(capsys, "--from", "logs")[1].values()) == {"written"}
    before = shown(capsys, "ok-chunked-fs")
    assert set(states(capsys, "--from", "logs")[1].values()) == {"unchanged"}
    assert shown(capsys, "ok-chunked-fs") == before


def test_a_run_that_has_gone_on_stays_as_it_is(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    states(capsys, "--from", "logs")
    path = logs / "ok-file-system.json"
    path.write_text(path.read_text().replace('"tag": "recorded"', '"tag": "changed"'))
    assert states(capsys, "--from", "logs", "ok-*") == (0, {"ok-file-system": "kept", "ok-chunked-fs": "unchanged"})
    assert run(["runs", "import", "--from", "logs", "ok-file-system"]) == 0
    assert "stays as it is, with 1 different (RunLog 'run_log'); --overwrite replaces it" in capsys.readouterr().out
    assert states(capsys, "--from", "logs", "ok-file-system", "--overwrite") == (0, {"ok-file-system": "replaced"})
    assert shown(capsys, "ok-file-system")["tag"] == "changed"


def test_a_dry_run_writes_nothing(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "import", "--from", "logs", "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith(": 3 to import, and nothing was written\n")
    assert run(["runs", "list"]) == 0
    assert capsys.readouterr().err == "no runs\n"


def test_what_is_broken_is_told_and_the_rest_imported(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = logs / "ok-chunked-fs"
    (broken,) = folder.glob("StepLog-load-*.json")
    broken.write_text(broken.read_text()[:100])
    next(folder.glob("BranchLog-fan.a-*.json")).unlink()
    (logs / "fail-file-system.json").write_text('{"run_id": "fail-file-system", "steps":')
    (logs / "notes.json").write_text('{"remember": "the milk"}')
    (logs / "data").mkdir()
    (logs / "data" / "some.json").write_text("{}")
    assert run(["runs", "import", "--from", "logs"]) == 1
    printed = capsys.readouterr()
    rows = {line.split()[0]: line for line in printed.out.splitlines()}
    assert "◐ partly imported  13" in rows["ok-chunked-fs"]
    assert "✗ failed" in rows["fail-file-system"]
    assert "fail-file-system.json is not readable JSON" in rows["fail-file-system"]
    assert "- no run log" in rows["notes"]
    assert "data" not in rows
    first, *problems = printed.err.splitlines()
    assert first == "ok-chunked-fs:"
    assert [problem.split(":")[0].split(" is ")[0].strip() for problem in problems] == [broken.name, "branch 'fan.a'"]
    branches = shown(capsys, "ok-chunked-fs")["steps"]["fan"]["branches"]
    assert (branches["fan.a"]["status"], branches["fan.b"]["status"]) == ("UNKNOWN", "SUCCESS")


def test_one_document_may_be_given(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert states(capsys, "--from", "logs/ok-file-system.json") == (0, {"ok-file-system": "written"})


def test_a_copy_under_another_name_does_not_stand_in_for_a_run(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(logs / "ok-file-system.json", logs / "a backup.json")
    code = run(["runs", "import", "--from", "logs"])
    rows = capsys.readouterr().out
    assert (code, rows.count("✓ imported"), rows.count("✗ failed")) == (1, 3, 1)
    assert "it is another log of run 'ok-file-system', for which ok-file-system.json is taken" in rows


def test_logs_of_asyncstore_itself_are_for_copy(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (working_folder / "own.yaml").write_text("run_log: {type: chunked-fs, config: {log_folder: own}}")
    assert run(["runs", "import", "--config", "own.yaml", "--from", str(DATA / "magnus" / "chunked-fs")]) == 0
    assert run(["runs", "import", "--from", "own"]) == 1
    assert "use 'asyncstore runs copy' instead" in capsys.readouterr().out


def test_a_source_that_is_not_to_be_read_is_not(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = "run_log_store: {type: file-system, config: {log_folder: logs}}\n"
    Path("closed.yaml").write_text(f"{section}allow_read: false\n")
    Path("open.yaml").write_text(f"{section}allow_write: false\n")
    Path("odd.yaml").write_text(f"{section}allow_read: 'no'\n")
    assert run(["runs", "import", "--from", "closed.yaml"]) != 0
    assert "closed.yaml does not allow reading: allow_read is false" in capsys.readouterr().err
    assert run(["runs", "import", "--from", "odd.yaml"]) == 2
    assert "'allow_read' must be true or false" in capsys.readouterr().err
    assert states(capsys, "--from", "open.yaml", "ok-*")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["--from", "stores.yaml"], 2, "names several stores"),
        (["--from", "false.yaml"], 2, "'config' must be a mapping"),
        ([], 2, "say where to read: --from FOLDER"),
        (["--from", "nowhere"], 3, "does not exist"),
        (["--from", "empty"], 3, "no run log in "),
        (["--from", "other"], 3, "the JSON files there are something else"),
        (["--from", "logs", "nope"], 3, "no run 'nope' in "),
        (["--from", "logs", "ok-*", "nope-*"], 3, "no run 'nope-*' in "),
        (["--from", "logs", "--layout", "magnus"], 2, "known are magnus-s3, "),
        (["--from", "logs", "--layout", "runnable-minio"], 3, "there are 3 of layout document, magnus-chunked"),
        (["--from", "logs/ok-chunked-fs"], 3, "is the folder of a single run"),
        (["--from", "logs", "--endpoint-url", "http://localhost"], 2, "--endpoint-url is for s3:// only"),
        (["--from", "s3://"], 2, "names no bucket"),
        (["--from", "missing.yaml"], 2, "there is no configuration file"),
        (["--from", "k8s.yaml"], 2, "give the folder that the volume is mounted on"),
        (["--from", "none.yaml"], 2, "names no run-log store"),
        (["--from", "typo.yaml"], 2, "unknown key 'log_foldr', did you mean 'log_folder'?"),
        (["--from", "gone.yaml"], 3, "there is no folder "),
    ],
)
def test_wrong_sources(
    logs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, error: str
) -> None:
    Path("empty").mkdir()
    Path("other").mkdir()
    Path("other/package.json").write_text("{}")
    Path("k8s.yaml").write_text("run_log_store: {type: k8s-pvc}")
    Path("none.yaml").write_text("catalog: {type: file-system}")
    Path("typo.yaml").write_text("run-log-store: {type: chunked-fs, config: {log_foldr: x}}")
    Path("stores.yaml").write_text("run_log_store: {type: file-system}\nstores: {a: {allow_read: false}}")
    Path("false.yaml").write_text("run_log_store: {type: file-system, config: false}")
    Path("gone.yaml").write_text("run_log: {type: file-system, config: {log_folder: gone}}")
    assert run(["runs", "import", *arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert error in printed.err.splitlines()[0]
