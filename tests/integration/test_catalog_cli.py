"""``asyncstore catalog``: plans, limits, partial failures, interruptions, verifying and sweeping."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import random
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import asyncstore
from asyncstore._core.files import new_temp_name
from asyncstore.catalog import DoNothingCatalog, TransferProgress
from asyncstore.cli._app import run
from asyncstore.cli._output import Output
from asyncstore.cli._progress import transfer_progress
from asyncstore.services import open_services
from asyncstore.testing.s3_stub import Fault
from tests._aws_clients import aws_client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.servers import Bucket

ROOT = Path(asyncstore.__file__).parents[1]
MIB = 1024 * 1024
GOES_ON = "interrupted: the same command goes on where it stopped"


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, on no terminal, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASYNCSTORE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def on_s3(stub_bucket: Bucket, working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Configure a catalog in a bucket of the stub."""
    path = working_folder / "asyncstore.yaml"
    path.write_text(yaml.safe_dump({"catalog": {"type": "s3", "config": {**stub_bucket.options, "prefix": "p"}}}))
    monkeypatch.setenv("ASYNCSTORE_CONFIG", str(path))
    return stub_bucket


def write(contents: dict[str, str | bytes]) -> None:
    for name, content in contents.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def catalog(*arguments: str) -> int:
    return run(["catalog", *arguments])


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert catalog(*arguments) == code
    return capsys.readouterr()


def documented(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    return json.loads(printed(capsys, *arguments, "--json", code=code)[0])


def test_a_dry_run_shows_what_would_happen_and_moves_nothing(
    working_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write({"data/a.csv": "a", "data/b.csv": "bb", "data/sub/c.txt": "c" * 1500, "data/d.log": "d"})
    assert catalog("put", "r", "b.csv") == 0
    out, _ = printed(capsys, "put", "r", "--exclude", "*.log", "--exclude", "nothing", "--dry-run")
    where = f"{working_folder}/.asyncstore/catalog/r/data/"
    assert [re.split(r"  +", line) for line in out.splitlines()] == [
        ["ACTION", "SIZE", "FILE", "REASON"],
        ["upload", "1 B", "data/a.csv", "not there yet"],
        ["upload", "1.5 kB", "data/sub/c.txt", "not there yet"],
        [f"to {where}: 2 files to upload (1.5 kB), 1 unchanged; nothing was moved"],
    ]
    assert [entry["name"] for entry in documented(capsys, "list", "r")] == ["data/b.csv"]
    out, _ = printed(capsys, "sync", "r", "s", "--dry-run")
    assert out.splitlines()[-1].endswith("/s/: 1 file to copy (2 B); nothing was moved")
    out, _ = printed(capsys, "get", "r", "--local-folder", "there", "--dry-run")
    assert out.splitlines()[-1] == f"from {where}: 1 file to download (2 B); nothing was moved"
    assert not Path("there").exists()


def test_what_is_refused_is_told_and_nothing_moves(capsys: pytest.CaptureFixture[str]) -> None:
    write({"data/a.csv": "a", "data/b\\c": "b"})
    out, error = printed(capsys, "put", "r", "--dry-run", code=2)
    assert re.search(r"refuse +1 B +data/b\\c +holds a backslash", out)
    assert error.startswith("error: 1 file refused, so nothing would be moved\n")
    plan = documented(capsys, "put", "r", "--dry-run", code=2)
    assert [file["action"] for file in plan["files"]] == ["upload", "refuse"]
    Path("plan.json").write_text(json.dumps(plan))
    for arguments in (["put", "r"], ["run", "plan.json"]):
        out, error = printed(capsys, *arguments, code=2)
        assert (out, error.startswith("error: nothing was moved: ")) == ("", True)
    printed(capsys, "list", "r", code=3)


def test_a_plan_is_carried_out_in_parts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write({f"data/{number}.txt": f"{number}" for number in range(5)})
    Path("plan.json").write_text(json.dumps(documented(capsys, "put", "r", "--dry-run")))
    first = documented(capsys, "run", "plan.json", "--part", "1/2")
    listed = [entry["name"] for entry in documented(capsys, "list", "r")]
    assert [entry["name"] for entry in first] == listed
    assert 0 < len(listed) < 5
    with Path("plan.json").open() as plan:
        monkeypatch.setattr(sys, "stdin", plan)
        printed(capsys, "run", "-", "--part", "2/2")
    assert len(documented(capsys, "list", "r")) == 5
    out, _ = printed(capsys, "run", "plan.json", "--part", "9/9")
    assert out.startswith("0 files in ")


def test_a_plan_that_the_files_have_left_behind_fails(capsys: pytest.CaptureFixture[str]) -> None:
    write({"data/a.txt": "a", "data/b.txt": "b"})
    Path("plan.json").write_text(json.dumps(documented(capsys, "put", "r", "--dry-run")))
    write({"data/a.txt": "changed"})
    report = documented(capsys, "run", "plan.json", code=1)
    assert (report["done"], report["skipped"], list(report["failed"])) == (["data/b.txt"], [], ["data/a.txt"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the plan from 'plan.json': No such file or directory"),
        ("no JSON", "'plan.json' holds no plan, it is not JSON: "),
        ("[]", "'plan.json' holds no plan of a transfer: make one with --dry-run --json"),
        ('{"kind": "put"}', "'plan.json': this is no plan of a transfer: 'files'; make one with --dry-run --json"),
    ],
)
def test_what_is_no_plan(capsys: pytest.CaptureFixture[str], text: str | None, message: str) -> None:
    if text is not None:
        Path("plan.json").write_text(text)
    out, error = printed(capsys, "run", "plan.json", code=2)
    assert (out, error[: 7 + len(message)]) == ("", f"error: {message}")


def test_keep_times_is_for_what_is_got(on_s3: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    write({"data/a.txt": "a"})
    os.utime("data/a.txt", (1e9, 1e9))
    Path("plan.json").write_text(json.dumps(documented(capsys, "put", "r", "--dry-run")))
    assert "--keep-times is for plans of a get" in printed(capsys, "run", "plan.json", "--keep-times", code=2)[1]
    assert catalog("run", "plan.json") == 0
    assert catalog("get", "r", "--keep-times", "--local-folder", "one") == 0
    plan = documented(capsys, "get", "r", "--local-folder", "two", "--dry-run")
    Path("plan.json").write_text(json.dumps(plan))
    assert catalog("run", "plan.json", "--keep-times") == 0
    assert [Path(name, "a.txt").stat().st_mtime for name in ("one", "two")] == [1e9, 1e9]


def test_base_run_and_no_match(on_s3: Bucket, s3_stub: StubServer, capsys: pytest.CaptureFixture[str]) -> None:
    write({"data/a.txt": "a"})
    assert catalog("put", "r") == 0
    plan = documented(capsys, "put", "s", "--base-run", "r", "--dry-run")
    assert [(file["action"], file["source"]) for file in plan["files"]] == [("copy", "p/r/data/a.txt")]
    assert "matches 'x*'" in printed(capsys, "put", "s", "x*", code=3)[1]
    assert printed(capsys, "put", "s", "x*", "--allow-no-match")[0].startswith("0 files in s3://")
    printed(capsys, "get", "r", "x*", "--allow-no-match")
    printed(capsys, "get", "r", "x*", code=3)


def test_limits_are_for_one_invocation(on_s3: Bucket, s3_stub: StubServer, capsys: pytest.CaptureFixture[str]) -> None:
    write({f"data/{number}": "x" * 10 for number in range(40)})
    s3_stub.configure(latency_s=0.05)
    s3_stub.reset()
    assert catalog("put", "r", "--max-concurrency", "2", "--max-memory", "16MiB", "--max-bandwidth", "10MB/s") == 0
    assert s3_stub.max_in_flight <= 2


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--max-memory", "lots", "'lots' is no size: write 64MiB, 200MB or 1.5G"),
        ("--max-memory", "1MB", "'1MB' is 1,000,000 bytes: transfers need 16MiB at least"),
        ("--max-bandwidth", "50Mbit/s", "'50Mbit/s' reads like bits: write bytes a second with a large B"),
        ("--max-concurrency", "0", ""),
        ("--part", "3/2", ""),
    ],
)
def test_wrong_limits(capsys: pytest.CaptureFixture[str], option: str, value: str, message: str) -> None:
    command = ["run", "plan.json"] if option == "--part" else ["put", "r"]
    out, error = printed(capsys, *command, option, value, code=2)
    assert out == ""
    assert error.startswith(f"error: invalid value for '{option}': {message}")


def test_a_catalog_that_keeps_nothing_has_no_limits(capsys: pytest.CaptureFixture[str]) -> None:
    Path("nothing.yaml").write_text("catalog: {type: do-nothing}")
    for options in (["--max-memory", "64MiB"], ["--dry-run"]):
        assert catalog("put", "r", "--config", "nothing.yaml", *options) == 0
        capsys.readouterr()


async def test_options_go_before_those_configured() -> None:
    config = {"catalog": {"type": "file-system", "config": {"catalog_location": "c", "max_memory_mb": 999}}}
    async with open_services(config, catalog_options={"max_memory_mb": 17, "compute_data_folder": "x"}) as services:
        assert services.catalog._max_memory_mb == 17
        with pytest.raises(asyncstore.NotFoundError, match="compute data folder 'x'"):
            await services.catalog.put("**", "r")
    with pytest.raises(asyncstore.ConfigurationError, match="did you mean 'max_memory_mb'"):
        async with open_services(config, catalog_options={"max_memory": 17}):
            pass
    async with open_services({"catalog": {"type": "do-nothing"}}, catalog_options={"max_memory_mb": 17}) as services:
        assert isinstance(services.catalog, DoNothingCatalog)


def spoil(bucket: Bucket, key: str, data: bytes) -> None:
    """Replace the bytes of an object, and keep what its metadata says of them."""
    s3 = aws_client(bucket.server)
    metadata = s3.head_object(Bucket=bucket.name, Key=key)["Metadata"]
    s3.put_object(Bucket=bucket.name, Key=key, Body=data, Metadata=metadata)


def test_a_partial_failure_is_a_table_and_sums(on_s3: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    write({"data/a.txt": "a", "data/b.txt": "b", "data/c.txt": "c"})
    assert catalog("put", "r") == 0
    spoil(on_s3, "p/r/data/b.txt", b"x")
    Path("data/b.txt").unlink()
    Path("data/c.txt").unlink()
    out, error = printed(capsys, "get", "r", code=1)
    lines = error.splitlines()
    assert out == ""
    assert re.fullmatch(r"FILE +WHY", lines[0])
    assert re.fullmatch(r"data/b\.txt +'b\.txt' is not what was put: its SHA-256 is .*", lines[1])
    assert lines[2:] == [
        "error: not all files were moved: 1 done, 1 unchanged, 1 failed",
        "hint: the same command moves what is missing",
    ]
    report = documented(capsys, "get", "r", code=1)
    assert (report["done"], report["skipped"]) == ([], ["data/a.txt", "data/c.txt"])
    assert list(report["failed"]) == ["data/b.txt"]
    assert not Path("data/b.txt").exists()


def test_failures_that_all_say_the_same_have_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    write({f"data/{number:02}.txt": "a" for number in range(12)})
    Path("plan.json").write_text(json.dumps(documented(capsys, "put", "r", "--dry-run")))
    for path in Path("data").iterdir():
        path.unlink()
    _, error = printed(capsys, "run", "plan.json", code=3)
    assert "… and 2 more, all of them with --json" in error.splitlines()


def test_what_stops_all_says_how_far_it_was(
    on_s3: Bucket, s3_stub: StubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write({"data/a.txt": "a"})
    s3_stub.configure(writable="^nowhere")
    _, error = printed(capsys, "put", "r", code=4)
    assert "0 of 1 files were done before" in error.splitlines()


def test_verify(on_s3: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    write({"data/a.txt": "a", "data/b.txt": "b"})
    assert catalog("put", "r") == 0
    assert printed(capsys, "verify", "r")[0] == f"2 files verified in s3://{on_s3.name}/p\n"
    spoil(on_s3, "p/r/data/b.txt", b"x")
    aws_client(on_s3.server).put_object(Bucket=on_s3.name, Key="p/r/data/c.txt", Body=b"c")
    out, error = printed(capsys, "verify", "r", code=1)
    told = "1 file verified, 1 readable but stored without a digest, 1 failed"
    assert out == f"{told} in s3://{on_s3.name}/p\n"
    assert error.startswith("error: 1 file of run 'r' is not what was put\nFILE")
    report = documented(capsys, "verify", "r", code=1)
    assert (report["verified"], report["unverifiable"]) == (["data/a.txt"], ["data/c.txt"])
    assert hashlib.sha256(b"x").hexdigest() in report["failed"]["data/b.txt"]
    assert documented(capsys, "verify", "r", "data/*", "--exclude", "**/[bc].txt")["verified"] == ["data/a.txt"]
    printed(capsys, "verify", "nope", code=3)


def test_sweep(on_s3: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    s3 = aws_client(on_s3.server)
    upload_id = s3.create_multipart_upload(Bucket=on_s3.name, Key="p/r/data/a.bin")["UploadId"]
    temp = f"data/{new_temp_name()}"
    write({temp: "x", "data/mine.txt": "x"})
    os.utime(temp, (time.time() - 100, time.time() - 100))
    nothing = printed(capsys, "sweep", "--older-than", "30min")[0]
    assert nothing == f"nothing to remove (older than 30min, in s3://{on_s3.name}/p)\n"
    time.sleep(1.1)  # S3 tells when an upload was begun to the second.
    plan = documented(capsys, "sweep", "--older-than", "1s", "--dry-run")
    assert [upload["upload_id"] for upload in plan["uploads"]] == [upload_id]
    assert (plan["temp_files"], plan["packs"], plan["dry_run"]) == ([str(Path(temp).absolute())], [], True)
    assert documented(capsys, "sweep", "s", "--older-than", "1s", "--dry-run")["uploads"] == []
    out, _ = printed(capsys, "sweep", "--older-than", "1s")
    assert re.search(r"^upload +p/r/data/a\.bin +begun \d{4}-", out, re.MULTILINE)
    assert out.splitlines()[-1].startswith("removed: 1 unfinished upload, 1 temporary file (older than 1s, in ")
    assert not s3.list_multipart_uploads(Bucket=on_s3.name).get("Uploads")
    assert [path.name for path in Path("data").iterdir()] == ["mine.txt"]
    assert "--older-than 'soon' is no age" in printed(capsys, "sweep", "--older-than", "soon", code=2)[1]


def asyncstore_command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from asyncstore.cli import main; main()", "catalog", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def interrupt(stub: StubServer, arguments: Sequence[str], *, after: str) -> None:
    """Run a command, and interrupt it when a request has come whose method and path fit ``after``."""
    stub.reset()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(asyncstore_command(*arguments), text=True, env=environment(), **pipes) as process:  # type: ignore[call-overload]
        while not any(re.search(after, request) for request in stub.log):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), errors
    assert errors.splitlines()[-1] == GOES_ON


def left_behind(bucket: Bucket) -> list[str]:
    """Return open uploads and temporary files."""
    uploads = aws_client(bucket.server).list_multipart_uploads(Bucket=bucket.name).get("Uploads", [])
    folders = [path for path in (Path("data"), Path("there")) if path.exists()]
    names = [path for folder in folders for path in folder.rglob(".asyncstore*")]
    return [*(upload["Key"] for upload in uploads), *map(str, names)]


@pytest.fixture
def large_and_small() -> dict[str, str | bytes]:
    """Write a large file and many small ones."""
    contents: dict[str, str | bytes] = {f"data/{number:03}.txt": f"{number}" for number in range(200)}
    contents["data/large.bin"] = random.Random(1).randbytes(40 * MIB)
    write(contents)
    return contents


@pytest.mark.parametrize(
    ("operation", "key"), [("UploadPart", "large"), ("PutObject", "0[5-9]0.txt")], ids=["parts", "files"]
)
def test_ctrl_c_in_the_middle_of_a_put(
    on_s3: Bucket,
    s3_stub: StubServer,
    large_and_small: dict[str, str | bytes],
    capsys: pytest.CaptureFixture[str],
    operation: str,
    key: str,
) -> None:
    # Some are never answered: what ends, ends because it was interrupted.
    s3_stub.set_faults([Fault("stall", operation=operation, key=key)])
    interrupt(s3_stub, ["put", "r"], after=f"PUT .*{key}")
    s3_stub.set_faults([])
    assert left_behind(on_s3) == []
    printed(capsys, "put", "r")
    assert printed(capsys, "verify", "r")[0].startswith("201 files verified in ")


@pytest.mark.parametrize("key", ["large", "0[5-9]0.txt"], ids=["ranges", "files"])
def test_ctrl_c_in_the_middle_of_a_get(
    on_s3: Bucket,
    s3_stub: StubServer,
    large_and_small: dict[str, str | bytes],
    capsys: pytest.CaptureFixture[str],
    key: str,
) -> None:
    assert catalog("put", "r") == 0
    s3_stub.set_faults([Fault("stall", operation="GetObject", key=key)])
    interrupt(s3_stub, ["get", "r", "--local-folder", "there"], after=f"GET .*{key}")
    s3_stub.set_faults([])
    assert left_behind(on_s3) == []
    for path in Path("there").rglob("*.*"):
        assert path.read_bytes() == Path("data", path.name).read_bytes()
    printed(capsys, "get", "r", "--local-folder", "there")
    assert {path.name for path in Path("there").iterdir()} == {path.name for path in Path("data").iterdir()}
    assert Path("there/large.bin").read_bytes() == large_and_small["data/large.bin"]


def on_terminal(columns: int, *arguments: str) -> str:
    """Run a command on a terminal, and return what it printed there."""
    keyboard, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    env = {**environment(), "TERM": "xterm"}
    with subprocess.Popen(asyncstore_command(*arguments), stdin=terminal, stdout=terminal, stderr=terminal, env=env):
        os.close(terminal)
        screen = bytearray()
        try:
            while chunk := os.read(keyboard, 65536):
                screen += chunk
        except OSError:
            pass  # The other side is closed.
    os.close(keyboard)
    return screen.decode()


@pytest.mark.parametrize("columns", [50, 80, 200])
def test_the_bar_fits_its_terminal(on_s3: Bucket, s3_stub: StubServer, columns: int) -> None:
    write({"data/a.txt": "a", "data/large.bin": bytes(20 * MIB)})
    s3_stub.set_faults([Fault("slow_down", method="PUT", key="a.txt", times=1)])
    screen = on_terminal(columns, "put", "r", "--max-bandwidth", "20MB/s")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", screen)
    bars = [line for line in re.split(r"[\r\n]+", plain) if "━" in line or "files, " in line]
    assert any(re.search(r"\d/2 files, .* of 21\.0 MB", line) for line in bars)
    assert all(len(line) <= columns for line in bars)


@pytest.mark.parametrize("as_json", [False, True])
def test_where_there_is_no_terminal_lines_come_now_and_then(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    clock = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asyncstore.cli._progress.time.monotonic", lambda: clock[0])
        with transfer_progress(Output(as_json=as_json), "putting") as on_progress:
            for number in range(1, 101):
                clock[0] += 0.1
                on_progress(TransferProgress("a", number, 200, number * 1000, 200_000, 0, 1, 2))
    lines = capsys.readouterr().err.splitlines()
    if as_json:
        assert lines == []
    else:
        assert 3 <= len(lines) <= 5
        expected = r"putting: 2\d/200 files, 2\d\.0 kB of 200\.0 kB, 1 failed, 2 retries, 1\d\.\d kB/s, 1\d s left"
        assert re.fullmatch(expected, lines[0])


def test_long_lists_are_not_told_twice(capsys: pytest.CaptureFixture[str]) -> None:
    write({f"data/{number:04}": "x" for number in range(1200)})
    out, _ = printed(capsys, "put", "r", "--dry-run")
    assert out.splitlines()[:2] == ["ACTION  SIZE  REASON         FILE", "upload   1 B  not there yet  data/0000"]
    assert len(out.splitlines()) == 1202
    assert len(printed(capsys, "put", "r")[0].splitlines()) == 1
    out, _ = printed(capsys, "list", "r")
    assert out.splitlines()[:2] == ["SHA-256       FILE", "2d711642b726  data/0000"]
    assert len(out.splitlines()) == 1202
