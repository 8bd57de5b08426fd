"""
Import of what the real magnus 0.4.22 and runnable 0.50.0 write, and export that the real ``runnable timeline`` reads.

The tools are installed from the package index into environments of their own, once for a session and all its workers.
``ASYNCSTORE_TEST_ENVIRONMENTS`` names a folder that keeps them for later sessions; interpreters that have the tools
already are named by ``ASYNCSTORE_TEST_MAGNUS_PYTHON`` and ``ASYNCSTORE_TEST_RUNNABLE_PYTHON``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from asyncstore.cli._app import run
from asyncstore.models import StepLog
from asyncstore.services import open_services

if TYPE_CHECKING:
    from asyncstore.models import RunLog
    from asyncstore.testing.servers import Bucket

pytestmark = pytest.mark.timeout(900)

DRIVERS = Path(__file__).parents[1] / "data"
ENVIRONMENTS = os.environ.get("ASYNCSTORE_TEST_ENVIRONMENTS")
PYTHONS = {tool: os.environ.get(f"ASYNCSTORE_TEST_{tool.upper()}_PYTHON") for tool in ("magnus", "runnable")}
REQUIREMENTS = {
    # Its stevedore asks for pkg_resources, which newer versions of setuptools have no more.
    "magnus": ["magnus==0.4.22", "magnus-extensions[aws]==0.2.13", "pydantic<2", "setuptools<81"],
    "runnable": ["runnable[s3]==0.50.0"],
}
OUT_OF_REACH = re.compile(
    r"Failed to establish a new connection|Temporary failure in name resolution|Name or service not known"
    r"|Could not fetch URL|Connection refused|ReadTimeoutError|ConnectTimeoutError|ProxyError|NewConnectionError"
)
DEADLINE_S = 800


def python_of(tool: str, shared: Path) -> Path:
    """Return an interpreter that has a tool, made by whichever worker comes first."""
    given = PYTHONS[tool]
    if given:
        return Path(given)
    folder = Path(ENVIRONMENTS) if ENVIRONMENTS else shared
    folder.mkdir(parents=True, exist_ok=True)
    home, ready = folder / tool, folder / f"{tool}.ready"
    with (folder / f"{tool}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            install([sys.executable, "-m", "venv", "--clear", str(home)])
            install(
                [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--retries", "2", *REQUIREMENTS[tool]]
            )
            ready.touch()
    return home / "bin" / "python"


def install(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=DEADLINE_S)
    if done.returncode == 0:
        return
    if OUT_OF_REACH.search(done.stdout + done.stderr):
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    pytest.fail(f"{command} failed: {done.stdout}{done.stderr}")


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all workers of this session see."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "environments"


@pytest.fixture(scope="session")
def magnus(environments: Path) -> Path:
    return python_of("magnus", environments)


@pytest.fixture(scope="session")
def runnable(environments: Path) -> Path:
    return python_of("runnable", environments)


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def target(working_folder: Path) -> str:
    """Return a configuration to import into."""
    return write_yaml(working_folder / "new.yaml", folder_store("chunked-fs"))


@pytest.fixture(params=["chunked-fs", "file-system", "db"])
def every_target(request: pytest.FixtureRequest, working_folder: Path) -> str:
    """Return a configuration to import into, of each type; of a database it is the embedded default."""
    return write_yaml(working_folder / "new.yaml", {} if request.param == "db" else folder_store(request.param))


def folder_store(store: str, folder: str = "new") -> dict[str, Any]:
    return {"run_log_store": {"type": store, "config": {"log_folder": folder}}}


def write_yaml(path: Path, document: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(document))
    return str(path)


def drive(
    python: Path, tool: str, store: str, config: dict[str, Any], run_id: str, scene: str = "plain"
) -> dict[str, Any]:
    """Have a tool's own store class write a run, and return it as it reads it back."""
    wanted = json.dumps({"store": store, "config": config, "run_id": run_id, "scene": scene})
    printed = call([str(python), "-I", str(DRIVERS / f"drive_{tool}.py"), wanted])
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def call(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def imported(config: str, run_id: str) -> RunLog:
    async def read() -> RunLog:
        async with open_services(config) as services:
            return await services.run_log_store.get_run_log_by_id(run_id)

    return asyncio.run(read())


def import_runs(capsys: pytest.CaptureFixture[str], config: str, source: str, *options: str) -> tuple[int, Any]:
    code = run(["runs", "import", "--config", config, "--from", source, "--json", *options])
    printed = capsys.readouterr()
    assert printed.out, printed.err
    return code, json.loads(printed.out)["runs"]


def all_written(code: int, runs: list[dict[str, Any]]) -> None:
    told = [(found["run_id"], found["state"], found["problems"], found["error"]) for found in runs]
    assert (code, told) == (0, [("r", "written", [], None)])


def holds(ours: Any, theirs: Any, path: str = "run") -> None:
    """Check that all that the tool reads is in what we read: field for field, steps in the same order."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict), path
        assert theirs.keys() <= ours.keys(), path
        if path.endswith(".steps"):
            assert list(ours) == list(theirs), path
        for key, value in theirs.items():
            holds(ours[key], value, f"{path}.{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), path
        for index, value in enumerate(theirs):
            holds(ours[index], value, f"{path}[{index}]")
    else:
        assert (ours, type(ours)) == (theirs, type(theirs)), path


@pytest.fixture
def s3_environment(moto_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Let a tool, and an import by URL, find the bucket's server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_bucket.server.endpoint_url)
    return moto_bucket


@pytest.mark.parametrize("store", ["file-system", "chunked-fs"])
def test_magnus_in_a_folder(magnus: Path, every_target: str, capsys: pytest.CaptureFixture[str], store: str) -> None:
    theirs = drive(magnus, "magnus", store, {"log_folder": "old"}, "r")
    code, runs = import_runs(capsys, every_target, "old")
    all_written(code, runs)
    holds(imported(every_target, "r").model_dump(), theirs)
    assert import_runs(capsys, every_target, "old", "--layout", f"magnus-{store}")[1][0]["state"] == "unchanged"


@pytest.mark.parametrize(("store", "prefix"), [("s3", ""), ("s3", "team/a"), ("chunked-s3", "team/a")])
def test_magnus_on_s3(
    magnus: Path,
    s3_environment: Bucket,
    working_folder: Path,
    capsys: pytest.CaptureFixture[str],
    store: str,
    prefix: str,
) -> None:
    config = {"s3_bucket": s3_environment.name, "prefix": prefix, "use_credentials": True, "region": "eu-west-1"}
    theirs = drive(magnus, "magnus", store, config, "r")
    old = write_yaml(
        working_folder / "magnus.yaml", {"mode": {"type": "local"}, "run_log_store": {"type": store, "config": config}}
    )
    new = write_yaml(
        working_folder / "new.yaml",
        {"run_log_store": {"type": "chunked-s3", "config": {**s3_environment.options, "prefix": "new"}}},
    )
    code, runs = import_runs(capsys, new, old)
    all_written(code, runs)
    holds(imported(new, "r").model_dump(), theirs)
    url = f"s3://{s3_environment.name}/{prefix}"
    assert (
        import_runs(capsys, new, url, "r", "--endpoint-url", s3_environment.server.endpoint_url)[1][0]["state"]
        == "unchanged"
    )


def test_names_with_dots_in_documents_of_magnus(magnus: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = drive(magnus, "magnus", "file-system", {"log_folder": "old"}, "r", "dotted")
    assert import_runs(capsys, target, "old")[0] == 0
    ours = imported(target, "r")
    holds(ours.model_dump(), theirs)
    assert list(ours.steps["fan"].branches["fan.x.csv"].steps) == ["fan.x.csv.train.all"]


def test_names_with_dots_in_chunks_of_magnus(magnus: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """magnus cannot read such a run back in full; we can."""
    drive(magnus, "magnus", "chunked-fs", {"log_folder": "old"}, "r", "dotted-chunks")
    code, runs = import_runs(capsys, target, "old")
    assert (code, runs[0]["problems"]) == (0, [])
    ours = imported(target, "r")
    assert list(ours.steps) == ["v1.2 load", "fan"]
    assert list(ours.steps["fan"].branches["fan.x.csv"].steps) == ["fan.x.csv.train.all"]


@pytest.mark.parametrize("store", ["chunked-fs", "chunked-s3"])
def test_what_races_of_magnus_leave(
    magnus: Path, s3_environment: Bucket, target: str, capsys: pytest.CaptureFixture[str], store: str
) -> None:
    config: dict[str, Any] = {"log_folder": "old"}
    source = "old"
    if store == "chunked-s3":
        config = {"s3_bucket": s3_environment.name, "use_credentials": True}
        source = f"s3://{s3_environment.name}"
    theirs = drive(magnus, "magnus", store, config, "r", "races")
    code, runs = import_runs(capsys, target, source)
    assert (code, runs[0]["state"]) == (1, "written")
    twice, lost = sorted(runs[0]["problems"])
    assert "StepLog 'load' stands in 2 objects" in twice
    assert "holds step 'train': magnus wrote it over step 'train-2', which is lost" in lost
    ours = imported(target, "r")
    holds(ours.model_dump(), theirs)
    assert (list(ours.steps), ours.parameters) == (["load", "train"], {"lr_decay": 1, "lr": 2})


@pytest.mark.parametrize("store", ["file-system", "chunked-fs"])
@pytest.mark.parametrize("scene", ["dotted", "stale"])
def test_runnable_in_a_folder(
    runnable: Path, every_target: str, capsys: pytest.CaptureFixture[str], store: str, scene: str
) -> None:
    target = every_target
    theirs = drive(runnable, "runnable", store, {"log_folder": "old"}, "r", scene)
    code, runs = import_runs(capsys, target, "old")
    all_written(code, runs)
    ours = imported(target, "r")
    holds(ours.model_dump(), theirs)
    assert list(ours.steps["fan"].branches) == ["fan.b", "fan.a", *(["fan.x.csv"] if scene == "dotted" else [])]
    assert ours.steps["fan"].branches["fan.a"].parameters["only here"] == {
        "kind": "json",
        "value": "fan.a",
        "description": "fan.a",
    }


@pytest.mark.parametrize(("store", "scene"), [("minio", "plain"), ("chunked-minio", "stale")])
def test_runnable_on_minio(
    runnable: Path,
    moto_bucket: Bucket,
    target: str,
    working_folder: Path,
    capsys: pytest.CaptureFixture[str],
    store: str,
    scene: str,
) -> None:
    server = moto_bucket.server
    config = {
        "endpoint_url": server.endpoint_url,
        "aws_access_key_id": server.access_key,
        "aws_secret_access_key": server.secret_key,
        "bucket": f"{moto_bucket.name}/run-logs",
    }
    theirs = drive(runnable, "runnable", store, config, "r", scene)
    old = {"pipeline-executor": {"type": "local"}, "run-log-store": {"type": store, "config": config}}
    code, runs = import_runs(capsys, target, write_yaml(working_folder / "runnable.yaml", old))
    all_written(code, runs)
    holds(imported(target, "r").model_dump(), theirs)
    code, runs = import_runs(
        capsys,
        target,
        f"s3://{moto_bucket.name}/run-logs",
        "--endpoint-url",
        server.endpoint_url,
        "--layout",
        f"runnable-{store}",
    )
    assert (code, runs[0]["state"]) == (0, "unchanged")


# Export: what runnable shows of it.


async def record() -> None:
    """Record a run that has whatever a run can have: branches in branches, parameters, a failure, a step yet to run."""
    async with open_services() as services:
        with contextlib.suppress(RuntimeError):
            async with services.run("recorded", tag="t", parameters={"lr": 0.1, "nested": {"k": [None]}}) as recorder:
                async with recorder.step("load v1.2") as step:
                    await step.set_parameters({"rows": 10})
                    await step.get_parameters()
                    await step.log_metrics({"auc": 0.93})
                async with recorder.branch("fan", "a") as branch:
                    async with branch.step("train") as step:
                        await step.set_parameters({"deep": "x" * 100})
                    async with branch.branch("each", "x.csv") as inner, inner.step("work"):
                        pass
                waiting = StepLog(name="waiting", internal_name="waiting", status="CREATED")
                await services.run_log_store.add_step_log(waiting, "recorded")
                async with recorder.step("breaks"):
                    raise RuntimeError("as it must")


def timeline(runnable: Path, document: Path) -> str:
    """Return what the real ``runnable timeline`` prints of a document, without its emoji and blanks."""
    binary = runnable.parent / "runnable"
    printed = call(
        [str(binary), "timeline", str(document), "--no-open", "--output", str(document.with_suffix(".html"))]
    )
    assert "Error" not in printed.replace("Error: RuntimeError", ""), printed
    assert document.with_suffix(".html").stat().st_size > 10_000
    return " ".join(printed.split())


def test_runnable_shows_an_exported_recording(runnable: Path, working_folder: Path) -> None:
    asyncio.run(record())
    assert run(["runs", "export", "recorded", "-o", "r.json", "--for", "runnable"]) == 0
    printed = timeline(runnable, working_folder / "r.json")
    for told in ("load v1.2 (", "rows=10", "fan (composite)", "Branch: a", "train (", "RuntimeError: as it must"):
        assert told in printed
    assert run(["runs", "export", "recorded", "-o", "as-stored.json"]) == 0
    assert "RuntimeError: as it must" in timeline(runnable, working_folder / "as-stored.json")


def test_all_of_runnable_takes_an_exported_recording(runnable: Path) -> None:
    asyncio.run(record())
    assert run(["runs", "export", "recorded", "-o", "logs/recorded.json", "--for", "runnable"]) == 0
    code = (
        "from extensions.run_log_store.file_system import FileSystemRunLogstore\n"
        "log = FileSystemRunLogstore(log_folder='logs').get_run_log_by_id('recorded')\n"
        "step = log.steps['load v1.2']\n"
        "attempt = step.attempts[0]\n"
        "print(log.parameters['lr'].get_value(), attempt.user_defined_metrics['auc'].kind, attempt.duration)\n"
        "print(list(log.steps['fan'].branches['fan.a'].steps['fan.a.each'].branches))\n"
    )
    first, second = call([str(runnable), "-c", code]).splitlines()[-2:]
    assert first.startswith("0.1 metric 0:00:00")
    assert second == "['fan.a.each.x.csv']"


@pytest.mark.parametrize(
    "folder", ["magnus/file-system", "magnus/chunked-fs", "runnable/file-system", "runnable/chunked-fs"]
)
def test_runnable_shows_exported_imports(
    runnable: Path, working_folder: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    """Logs that whole pipelines of both tools wrote, from import to export."""
    _, runs = import_runs(capsys, write_yaml(working_folder / "new.yaml", {}), str(DRIVERS / folder), "ok-*")
    (run_id,) = [found["run_id"] for found in runs]
    (working_folder / "out").mkdir()
    assert run(["runs", "export", run_id, "-o", "out"]) == 0
    printed = timeline(runnable, working_folder / "out" / f"{run_id}.json")
    for told in ("Status: SUCCESS", "load (", "Branch: a", "Branch: b", "Branch: x", "report ("):
        assert told in printed
