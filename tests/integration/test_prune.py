"""``asyncstore runs prune``: which runs go, what is told and asked, and what a failure leaves."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import asyncstore
from asyncstore.cli._app import run
from asyncstore.cli._prune import Choice, age
from asyncstore.errors import ConfigurationError
from asyncstore.models import CREATED, FAIL, PROCESSING, SUCCESS, RunSummary
from asyncstore.services import open_services

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(asyncstore.__file__).parents[1]
STATUSES = {"new": CREATED, "busy": PROCESSING, "good": SUCCESS, "bad": FAIL}


@pytest.fixture(params=["db", "chunked-fs", "file-system"])
def prepared(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record a run of each status, with data, and work in their folder."""
    monkeypatch.chdir(tmp_path)
    options = {"db": {"connection_string": f"sqlite:///{tmp_path}/log.db"}}.get(request.param, {"log_folder": "log"})
    Path("asyncstore.yaml").write_text(
        yaml.safe_dump({"run_log_store": {"type": request.param, "config": options}}), encoding="utf-8"
    )
    monkeypatch.setenv("ASYNCSTORE_CONFIG", "asyncstore.yaml")
    Path("data").mkdir()
    Path("data/a.csv").write_text("a")
    if request.param == "db":
        assert run(["db", "create-tables"]) == 0

    async def record() -> None:
        async with open_services("asyncstore.yaml") as services:
            for number, (run_id, status) in enumerate(STATUSES.items()):
                await services.run_log_store.create_run_log(run_id, tag="odd" if number % 2 else "even", status=status)
                await services.catalog.put("*", run_id)

    asyncio.run(record())


@pytest.fixture
def left(prepared: None, capsys: pytest.CaptureFixture[str]) -> Callable[[], set[str]]:
    """Say which runs are there; it forgets what was printed before."""
    capsys.readouterr()

    def listed() -> set[str]:
        capsys.readouterr()
        assert run(["runs", "list", "--json"]) == 0
        return {found["run_id"] for found in json.loads(capsys.readouterr().out)}

    return listed


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ([], {"new", "busy", "good", "bad"}),
        (["--keep-failed"], {"new", "busy", "good"}),
        (["--keep-unfinished"], {"good", "bad"}),
        (["--keep-failed", "--keep-unfinished"], {"good"}),
        (["--status", "fail"], {"bad"}),
        (["--tag", "odd"], {"busy", "bad"}),
        (["--tag", "odd", "--keep-failed"], {"busy"}),
    ],
)
def test_what_goes(left: Callable[[], set[str]], options: list[str], gone: set[str]) -> None:
    assert run(["runs", "prune", "--older-than", "0s", "--yes", *options]) == 0
    assert left() == set(STATUSES) - gone


def test_nothing_is_old_enough(left: Callable[[], set[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "prune", "--older-than", "1h", "--yes"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err.startswith("no runs to delete in ")) == ("", True)
    assert left() == set(STATUSES)


def test_a_dry_run_shows_what_would_go(left: Callable[[], set[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "prune", "--older-than", "0s", "--keep-failed", "--dry-run"]) == 0
    heading, *rows, last = capsys.readouterr().out.splitlines()
    assert heading.split() == ["RUN", "STATUS", "CREATED", "TAG"]
    assert [row.split()[0] for row in rows] == ["good", "busy", "new"]
    assert last.startswith("3 runs (1 SUCCESS, 1 PROCESSING, 1 CREATED) in ")
    assert last.endswith("; nothing was deleted")
    assert run(["runs", "prune", "--older-than", "0s", "--status", "FAIL", "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(found["run_id"], found["state"], found["error"]) for found in document["runs"]] == [
        ("bad", "to delete", None)
    ]
    assert (document["dry_run"], document["data"]) == (True, False)
    assert datetime.fromisoformat(document["created_before"]) < datetime.now(UTC)
    assert left() == set(STATUSES)


def test_the_data_goes_too_if_wanted(left: Callable[[], set[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "prune", "--older-than", "0s", "--status", "FAIL", "--yes"]) == 0
    assert run(["runs", "prune", "--older-than", "0s", "--status", "SUCCESS", "--yes", "--data"]) == 0
    assert capsys.readouterr().out == "deleted 1 run (1 FAIL)\ndeleted 1 run (1 SUCCESS)\n"
    assert run(["catalog", "list", "bad"]) == 0
    capsys.readouterr()
    assert run(["catalog", "list", "good"]) == 3
    capsys.readouterr()
    assert left() == {"new", "busy"}


def test_nobody_to_ask(left: Callable[[], set[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "prune", "--older-than", "0s"]) == 2
    told, error = capsys.readouterr().err.splitlines()
    assert told.startswith("4 runs (1 FAIL, 1 SUCCESS, 1 PROCESSING, 1 CREATED) in ")
    assert "--yes" in error
    assert left() == set(STATUSES)


def test_one_that_fails_does_not_stop_the_others(
    left: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    delete = asyncstore.Catalog.delete

    async def refuse_one(catalog: asyncstore.Catalog, run_id: str) -> None:
        if run_id == "good":
            raise asyncstore.AccessDeniedError("the data of 'good' is locked")
        await delete(catalog, run_id)

    monkeypatch.setattr(asyncstore.Catalog, "delete", refuse_one)
    assert run(["runs", "prune", "--older-than", "0s", "--yes", "--data", "--json"]) == 4
    found = {item["run_id"]: item for item in json.loads(capsys.readouterr().out)["runs"]}
    assert {run_id: item["state"] for run_id, item in found.items()} == dict.fromkeys(STATUSES, "deleted") | {
        "good": "failed"
    }
    assert found["good"]["error"] == "the data of 'good' is locked"
    assert left() == {"good"}
    assert run(["runs", "prune", "--older-than", "0s", "--yes", "--data"]) == 4
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "error: 1 run could not be deleted",
        "  good: the data of 'good' is locked",
    ]


def test_a_storage_that_is_down_is_not_asked_again_for_each_run(
    left: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("asyncstore.cli._prune.RUNS_AT_ONCE", 1)

    async def refuse(catalog: asyncstore.Catalog, run_id: str) -> None:
        raise asyncstore.UnavailableError("the catalog is down")

    with monkeypatch.context() as down:
        down.setattr(asyncstore.Catalog, "delete", refuse)
        assert run(["runs", "prune", "--older-than", "0s", "--yes", "--data"]) == 5
    assert capsys.readouterr().err.splitlines() == [
        "error: 1 run could not be deleted, and 3 runs not tried",
        "  new: the catalog is down",
    ]
    assert left() == set(STATUSES)


@pytest.mark.parametrize(
    ("keys", "code", "printed", "remaining"),
    [
        (b"y\n", 0, "deleted 4 runs (1 FAIL, 1 SUCCESS, 1 PROCESSING, 1 CREATED)", 0),
        (b"n\n", 1, "", 4),
        (b"\x04", 130, "interrupted", 4),
    ],
    ids=["yes", "no", "ctrl-d"],
)
@pytest.mark.parametrize("prepared", ["db"], indirect=True)
def test_it_asks_when_it_knows_what(
    left: Callable[[], set[str]], keys: bytes, code: int, printed: str, remaining: int
) -> None:
    ours, theirs = pty.openpty()
    with (
        os.fdopen(ours, "r+b", buffering=0) as keyboard,
        subprocess.Popen(
            [sys.executable, "-m", "asyncstore.cli", "runs", "prune", "--older-than", "0s"],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        ) as pruning,
    ):
        os.close(theirs)
        assert pruning.stderr is not None
        asked = b""
        while not asked.endswith(b"[y/N]:"):
            asked += pruning.stderr.read(1) or pytest.fail(asked.decode())
        # Nothing is open while the question stands.
        assert open_files(pruning.pid, "log.db") == []
        keyboard.write(keys)
        out, err = pruning.communicate(timeout=30)
    told, question = asked.decode().splitlines()
    assert told.startswith("4 runs (1 FAIL, 1 SUCCESS, 1 PROCESSING, 1 CREATED) in ")
    assert question == "Delete these 4 runs? [y/N]:"
    assert (pruning.returncode, (out + err).decode().strip()) == (code, printed)
    assert len(left()) == remaining


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def open_files(pid: int, name: str) -> list[str]:
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    return [link for link in links if Path(link).name.startswith(name)]


def test_interrupted_it_says_how_far_it_got(tmp_path: Path) -> None:
    program = """
import asyncio, asyncstore, os, signal, sys
from asyncstore.cli._app import run
delete = asyncstore.RunLogStore.delete_run_log
async def stopping(self, run_id):
    await delete(self, run_id)
    if run_id == "a-1":
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)
async def record():
    async with asyncstore.open_services() as services:
        for number in range(3):
            await services.run_log_store.create_run_log(f"a-{number}")
asyncio.run(record())
asyncstore.RunLogStore.delete_run_log = stopping
import asyncstore.cli._prune
asyncstore.cli._prune.RUNS_AT_ONCE = 1
sys.exit(run(["runs", "prune", "--older-than", "0s", "--yes"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, timeout=60, text=True
    )
    assert (done.returncode, done.stderr.splitlines()) == (130, ["1 of 3 runs deleted", "interrupted"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90d", timedelta(days=90)),
        ("12h", timedelta(hours=12)),
        ("2w", timedelta(weeks=2)),
        ("30m", timedelta(minutes=30)),
        ("0s", timedelta(0)),
        (" 1.5 D ", timedelta(hours=36)),
    ],
)
def test_ages(text: str, expected: timedelta) -> None:
    assert age(text) == expected


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "1y", "1d2h", "1e3d", "٣d", "inf d", "99999999999w", "60000d"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"90d, 12h or 2w|older than any run"):
        age(text)


@given(
    st.sampled_from([CREATED, PROCESSING, SUCCESS, FAIL, "", "odd"]),
    st.integers(-2, 2),
    st.booleans(),
    st.booleans(),
)
def test_choices(status: str, seconds: int, keep_failed: bool, keep_unfinished: bool) -> None:
    before = datetime(2026, 1, 1, tzinfo=UTC)
    choice = Choice(before, keep_failed=keep_failed, keep_unfinished=keep_unfinished)
    summary: dict[str, Any] = {"run_id": "r", "status": status}
    taken = choice.takes(RunSummary(**summary, created_at=before + timedelta(seconds=seconds)))
    kept = (status == FAIL and keep_failed) or (status not in {SUCCESS, FAIL} and keep_unfinished)
    assert taken == (seconds < 0 and not kept)
    assert not choice.takes(RunSummary(**summary, created_at=datetime.fromtimestamp(0, UTC)))
