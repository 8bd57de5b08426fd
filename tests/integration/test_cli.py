"""The command line: what it prints, on which stream, with which exit code."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import termios
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import asyncstore
from asyncstore.cli._app import run
from asyncstore.services import open_services

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.testing.servers import Bucket

ROOT = Path(asyncstore.__file__).parents[1]


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, in one time zone, on no terminal."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recorded(working_folder: Path) -> str:
    """Record a run with the embedded default, and return its id."""

    async def record() -> None:
        async with open_services() as services, services.run("r", tag="nightly", parameters={"lr": 0.1}) as run:
            async with run.step("load") as step:
                await asyncio.to_thread(write, "data/a.csv", "data/sub/b.txt")
                await step.put("**")
                await step.log_metrics({"rows": 2})
            async with run.branch("fan", "a") as branch, branch.step("train"):
                pass

    asyncio.run(record())
    return "r"


@pytest.fixture
def config(working_folder: Path) -> Callable[[dict[str, Any]], str]:
    def make(services: dict[str, Any]) -> str:
        path = working_folder / "asyncstore.yaml"
        path.write_text(yaml.safe_dump(services))
        return str(path)

    return make


def write(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command that fails, and return its exit code, its error line and the rest of stderr."""
    code = run(list(arguments))
    printed = capsys.readouterr()
    assert printed.out == ""
    first, _, rest = printed.err.partition("\n")
    assert first.startswith("error: ")
    return code, first, rest


def test_runs_list(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "list"]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["RUN", "STATUS", "CREATED", "TAG"]
    assert (row.split()[0], row.split()[2], row.split()[-1]) == ("r", "SUCCESS", "nightly")
    assert row == row.rstrip()


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--status", "success"], 1),
        (["--status", "FAIL"], 0),
        (["--tag", "nightly"], 1),
        (["--tag", "other"], 0),
        (["--since", "2020-01-01"], 1),
        (["--until", "2020-01-01T00:00:00Z"], 0),
        (["--limit", "0"], 1),
    ],
)
def test_runs_list_as_json(recorded: str, capsys: pytest.CaptureFixture[str], options: list[str], count: int) -> None:
    assert run(["runs", "list", "--json", *options]) == 0
    assert [found["run_id"] for found in json.loads(capsys.readouterr().out)] == ["r"] * count


def test_runs_show(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "show", "r"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("✓ r  success · nightly · ")
    for line in ("parameters  lr=0.1", "metrics  rows=2", "put  data/a.csv  ", "put  data/sub/b.txt  ", "✓ train  "):
        assert line in printed


def test_runs_show_as_json_is_the_run_log(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--json", "runs", "show", "r"]) == 0
    run_log = asyncstore.RunLog.model_validate(json.loads(capsys.readouterr().out))
    assert [step.internal_name for step in run_log.walk_steps()] == ["load", "fan", "fan.a.train"]


def test_runs_watch_ends_with_the_run(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "watch", "r"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "StepLog   ✓ SUCCESS  load" in "\n".join(lines)
    assert lines[-1].endswith("RunLog    ✓ SUCCESS  r")


def test_runs_watch_says_when_it_was_and_not_when_it_is_read(
    recorded: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def back_date() -> None:
        async with open_services() as services:
            step = await services.run_log_store.get_step_log("load", "r")
            step.attempts[0].end_time = datetime(2020, 1, 2, 3, 4, 5).astimezone().isoformat()
            await services.run_log_store.add_step_log(step, "r")

    asyncio.run(back_date())
    assert run(["runs", "watch", "r"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "03:04:05  StepLog   ✓ SUCCESS  load" in lines
    assert "          Parameter lr=0.1" in lines
    assert lines[-1] == "          RunLog    ✓ SUCCESS  r"


def test_runs_watch_as_json_goes_on_from_a_cursor(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "watch", "r", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(item.keys() == {"kind", "name", "scope", "created_at", "value", "cursor"} for item in found)
    assert run(["runs", "watch", "r", "--json", "--cursor", found[-2]["cursor"]]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == found[-1:]


def test_runs_export_can_be_put_again(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "export", "r", "-o", "out/r.json"]) == 0
    assert run(["runs", "export", "r"]) == 0
    printed = capsys.readouterr()
    assert (printed.err, Path("out/r.json").read_text()) == ("wrote out/r.json\n", printed.out)
    assert asyncstore.RunLog.model_validate_json(printed.out).parameters == {"lr": 0.1}


def test_runs_delete(recorded: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, error, _ = failed(capsys, "runs", "delete", "r")
    assert (code, "--yes" in error) == (2, True)
    assert failed(capsys, "runs", "delete", "r", "nope", "--yes")[0] == 3
    assert run(["runs", "delete", "r", "--yes", "--data"]) == 0
    assert capsys.readouterr().out == "deleted r\n"
    assert failed(capsys, "catalog", "list", "r")[0] == 3
    assert failed(capsys, "runs", "show", "r")[0] == 3


def test_runs_delete_takes_the_data_first(
    recorded: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(catalog: asyncstore.Catalog, run_id: str) -> None:
        raise asyncstore.UnavailableError("the catalog is down")

    with monkeypatch.context() as down:
        down.setattr(asyncstore.Catalog, "delete", refuse)
        assert failed(capsys, "runs", "delete", "r", "--yes", "--data")[0] == 5
    assert run(["runs", "delete", "r", "--yes", "--data"]) == 0
    assert capsys.readouterr().out == "deleted r\n"


@pytest.mark.parametrize(
    ("keys", "code", "last"),
    [(b"\x03", 130, "interrupted"), (b"\x04", 130, "interrupted"), (b"n\n", 1, ""), (b"y\n", 0, "deleted r")],
    ids=["ctrl-c", "ctrl-d", "no", "yes"],
)
def test_runs_delete_asks(recorded: str, keys: bytes, code: int, last: str) -> None:
    ours, theirs = pty.openpty()
    with (
        os.fdopen(ours, "r+b", buffering=0) as keyboard,
        subprocess.Popen(
            command("runs", "delete", "r"),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            preexec_fn=lambda: become_foreground(theirs),
        ) as deleting,
    ):
        os.close(theirs)
        assert deleting.stderr is not None
        asked = b""
        while not asked.endswith(b"[y/N]:"):
            asked += deleting.stderr.read(1) or pytest.fail(asked.decode())
        keyboard.write(keys)
        printed, errors = deleting.communicate(timeout=30)
    assert asked == b"Delete r? [y/N]:"
    assert (deleting.returncode, (printed + errors).decode().strip()) == (code, last)


def become_foreground(terminal: int) -> None:
    """Let a terminal's keys reach this process as signals."""
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def test_catalog_there_and_back(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("data/a.csv", "data/sub/b.txt")
    assert run(["catalog", "put", "r"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(f"2 files in {working_folder}/.asyncstore/catalog, 24 B in [0-9.]+ m?s", last)
    assert run(["catalog", "sync", "r", "s", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == ["data/a.csv", "data/sub/b.txt"]
    Path("data/a.csv").unlink()
    assert run(["catalog", "get", "s", "*.csv", "--json"]) == 0
    assert [entry["catalog_relative_path"] for entry in json.loads(capsys.readouterr().out)] == ["s/data/a.csv"]
    assert Path("data/a.csv").read_text() == "data/a.csv"


@pytest.mark.parametrize("transfer", [["put", "r"], ["get", "r"], ["sync", "r", "s"]])
def test_catalog_says_what_was_unchanged(
    working_folder: Path, capsys: pytest.CaptureFixture[str], transfer: list[str]
) -> None:
    where = f"{'from' if transfer[0] == 'get' else 'in'} {working_folder}/.asyncstore/catalog"
    write("data/a.csv", "data/sub/b.txt")
    assert run(["catalog", "put", "r"]) == 0
    run(["catalog", *transfer])
    capsys.readouterr()
    assert run(["catalog", *transfer]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"2 files {where}, all unchanged"
    if transfer[0] == "put":
        Path("data/a.csv").write_text("new")
        assert run(["catalog", *transfer]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert re.fullmatch(f"2 files {where}, 3 B in [0-9.]+ m?s, 1 unchanged", last)


def test_catalog_list_of_nothing(config: Callable[[dict[str, Any]], str], capsys: pytest.CaptureFixture[str]) -> None:
    code, error, _ = failed(capsys, "catalog", "list", "nope", "--json")
    assert (code, "run 'nope' has no data in " in error) == (3, True)
    path = config({"catalog": {"type": "do-nothing"}})
    assert run(["--config", path, "catalog", "list", "nope", "--json"]) == 0
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize("arguments", [["put", "**", "r"], ["get", "**", "r"], ["get", "sub/*", "r"], ["get", "[a]"]])
def test_catalog_with_run_and_pattern_swapped(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    write("data/a.csv")
    code, error, _ = failed(capsys, "catalog", *arguments)
    assert code in {2, 3}
    assert f"the run comes first: asyncstore catalog {arguments[0]} RUN [PATTERN]..." in error


def test_catalog_put_of_another_folder(capsys: pytest.CaptureFixture[str]) -> None:
    write("results/a.csv")
    assert run(["catalog", "put", "r", "*.csv", "--folder", "results"]) == 0
    assert run(["catalog", "list", "r", "--json"]) == 0
    assert '"name": "results/a.csv"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["runs", "show", "nope"], 3, "error: run log 'nope' not found in "),
        (["runs", "watch", "nope"], 3, "error: run log 'nope' not found in "),
        (["runs", "export", "nope"], 3, "error: run log 'nope' not found in "),
        (["catalog", "get", "nope"], 3, "error: run 'nope' has no data in "),
        (["catalog", "list", "nope"], 3, "error: run 'nope' has no data in "),
        (["catalog", "put", "nope"], 3, "error: compute data folder 'data"),
        (["runs", "show", "a/b"], 2, "error: run id 'a/b' is not usable"),
        (["runs", "list", "--since", "yesterday"], 2, "error: --since 'yesterday' is not a time"),
        (["runs", "list", "--limit", "-1"], 2, "error: invalid value for '--limit'"),
        (["runs", "shw"], 2, "error: no such command 'shw'"),
        (["runs", "show"], 2, "error: missing argument 'RUN'"),
        (["runs", "show", "r", "--jsn"], 2, "error: no such option: --jsn"),
        (["--config", "nowhere.yaml", "runs", "list"], 2, "error: there is no configuration file "),
        (["db", "create-tables", "mysql"], 2, "error: connection_string is not a database URL"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_code(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    found, error, rest = failed(capsys, *arguments)
    assert (found, error[: len(message)]) == (code, message)
    assert rest == "" or (rest.startswith("hint: ") and rest.count("\n") == 1)


def test_debug_shows_where_before_or_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "runs", "show", "nope"], ["runs", "show", "nope", "--debug"]):
        assert run(arguments) == 3
        assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_the_configuration_comes_from_option_or_environment(
    config: Callable[[dict[str, Any]], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config({"run_log_stor": {"type": "db"}})
    assert "did you mean 'run_log_store'" in failed(capsys, "runs", "list", "--config", path)[1]
    assert "did you mean 'run_log_store'" in failed(capsys, "--config", path, "runs", "list")[1]
    monkeypatch.setenv("ASYNCSTORE_CONFIG", path)
    assert "did you mean 'run_log_store'" in failed(capsys, "runs", "list")[1]


def test_unavailable_is_5(config: Callable[[dict[str, Any]], str], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"postgresql://me:hunter2@127.0.0.1:{nobody.getsockname()[1]}/x"
        code, error, rest = failed(capsys, "db", "create-tables", url)
    assert code == 5
    assert "hunter2" not in error + rest


def test_wrong_credentials_are_4(
    rclone_bucket: Bucket,
    config: Callable[[dict[str, Any]], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    path = config({"run_log_store": {"type": "chunked-s3", "config": rclone_bucket.options}})
    code, error, rest = failed(capsys, "runs", "list", "--config", path)
    assert code == 4
    assert "hunter2" not in error + rest


def test_no_such_bucket_is_2(
    moto_bucket: Bucket, config: Callable[[dict[str, Any]], str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**moto_bucket.options, "s3_bucket": "no-such-bucket"}
    path = config({"run_log_store": {"type": "chunked-s3", "config": options}})
    code, error, _ = failed(capsys, "runs", "list", "--config", path)
    assert (code, "no-such-bucket" in error) == (2, True)


def test_config_check_says_what_is_wrong_with_which(
    moto_bucket: Bucket, config: Callable[[dict[str, Any]], str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(
        {
            "run_log_store": {"type": "chunked-s3", "config": moto_bucket.options},
            "catalog": {"type": "s3", "config": {**moto_bucket.options, "s3_bucket": "no-such-bucket"}},
        }
    )
    assert run(["config", "check", "--config", path]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["secrets", "do-nothing", "✓"],
        ["run_log_store", "chunked-s3", "✓"],
        ["catalog", "s3", "✗"],
    ]
    assert "no-such-bucket" in lines[-1]
    assert run(["config", "check", "--config", path, "--json"]) == 2
    checks = json.loads(capsys.readouterr().out)
    assert [(check["service"], check["ok"], check["exit_code"]) for check in checks] == [
        ("secrets", True, 0),
        ("run_log_store", True, 0),
        ("catalog", False, 2),
    ]


def test_config_check_of_the_embedded_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check"]) == 0
    assert capsys.readouterr().out.count("✓ ok") == 3


def test_a_password_is_never_printed(
    postgres_url: str,
    config: Callable[[dict[str, Any]], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DB_PASS", "hunter2@/#")
    text = postgres_url.replace("postgres@", "postgres:${DB_PASS}@")
    path = config(
        {
            "run_log_store": {"type": "db", "config": {"connection_string": text}},
            "secrets": {"type": "env-secrets"},
        }
    )
    assert failed(capsys, "runs", "list", "--config", path)[0] == 2
    shown = ""
    for arguments in (["db", "create-tables"], ["config", "check"], ["runs", "list"], ["runs", "show", "x", "--debug"]):
        run([*arguments, "--config", path])
        printed = capsys.readouterr()
        shown += printed.out + printed.err
    assert "✓ tables are ready in " in shown
    assert "hunter2" not in shown


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    async def record() -> None:
        async with (
            open_services() as services,
            services.run("r", tag="t\x1b[2J") as run,
            run.step("[red]x\x1b]0;y\x07"),
        ):
            pass

    asyncio.run(record())
    assert run(["runs", "show", "r"]) == 0
    assert run(["runs", "list"]) == 0
    assert run(["runs", "watch", "r"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "[red]x\\x1b]0;y\\x07" in printed


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert "Exit codes: 0 done" in capsys.readouterr().out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("asyncstore ")
    assert run(["runs", "list", "--help"]) == 0
    assert "--config FILE" in capsys.readouterr().out
    assert run([]) == 2
    assert "Commands:" in capsys.readouterr().out


def command(*arguments: str, code: str = "from asyncstore.cli import main; main()") -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from asyncstore.cli import main; main()"
    done = subprocess.run(command("runs", "list", code=code), capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert done.stderr == f"error: the command line needs {missing}: pip install 'asyncstore[cli]'\n"


def test_ctrl_c_is_130(working_folder: Path) -> None:
    async def begin() -> None:
        async with open_services() as services:
            await services.run_log_store.create_run_log("r", status="PROCESSING")

    asyncio.run(begin())
    with subprocess.Popen(
        command("runs", "watch", "r", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as watch:
        assert watch.stdout is not None
        assert json.loads(watch.stdout.readline())["kind"] == "RunLog"
        watch.send_signal(signal.SIGINT)
        _, errors = watch.communicate(timeout=60)
    assert (watch.returncode, errors) == (130, "interrupted\n")


def test_a_reader_that_has_seen_enough_is_no_error(recorded: str) -> None:
    with subprocess.Popen(
        command("runs", "watch", "r", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as watch:
        assert watch.stdout is not None
        watch.stdout.close()
        assert watch.stderr is not None
        assert watch.stderr.read() == ""


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "utf-16"])
def test_json_is_valid_in_every_encoding(working_folder: Path, encoding: str) -> None:
    name = "🚀é\x1b\u2028"

    async def record() -> None:
        async with open_services() as services, services.run("r", tag="é🚀", parameters={name: name}):
            pass

    asyncio.run(record())
    for arguments in (["list"], ["show", "r"], ["export", "r"], ["watch", "r"]):
        done = subprocess.run(
            command("runs", *arguments, *(["--json"] if arguments[0] != "export" else [])),
            capture_output=True,
            env={**environment(), "PYTHONIOENCODING": encoding},
            check=True,
        )
        printed = done.stdout.decode(encoding)
        documents = printed.split("\n")[:-1] if arguments[0] == "watch" else [printed]
        assert [json.loads(document) for document in documents]
        assert encoding == "utf-8" or printed.isascii()
        if arguments[0] in {"show", "export"}:
            assert json.loads(printed)["parameters"] == {name: name}


@pytest.mark.parametrize("arguments", [["runs", "list"], ["runs", "export", "r"], ["--version"], ["--help"], []])
@pytest.mark.parametrize(
    ("where", "message"),
    [
        (">&-", "error: standard output is closed: send it to a file, or to /dev/null\n"),
        (">/dev/full", "error: cannot write to standard output: No space left on device\n"),
    ],
)
def test_output_that_goes_nowhere_is_one_line_and_a_code(
    recorded: str, arguments: list[str], where: str, message: str
) -> None:
    shell = f"exec {shlex.join(command(*arguments))} {where}"
    done = subprocess.run(["sh", "-c", shell], stderr=subprocess.PIPE, text=True, env=environment())
    assert (done.returncode, done.stderr) == (1, message)
