"""Named stores, opened: each with its own services, secrets filled for that one alone, chosen on the command line."""

from __future__ import annotations

import asyncio
import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from asyncstore.cli._app import run
from asyncstore.errors import ClosedError, ConfigurationError
from asyncstore.services import make_run_log_store, make_secrets, open_services, read_configuration
from asyncstore.services.copying import open_run_log_store

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.testing.servers import Bucket
    from tests._watched import WatchedStub

Config = dict[str, Any]
CANARY = "canary-5f2a"
NOTHING = {"type": "do-nothing"}


def folder(name: str) -> Config:
    return {"type": "chunked-fs", "config": {"log_folder": name}}


STORES: Config = {
    "catalog": NOTHING,
    "stores": {
        "main": {"default": True, "run_log_store": folder("logs-main")},
        "archive": {"allow_write": False, "run_log_store": folder("logs-archive")},
        "drop": {"allow_read": False, "run_log_store": folder("logs-drop")},
    },
}


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config_file(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the three stores to a file that the command line finds, with a run in the first and in the second."""
    path = working_folder / "asyncstore.yaml"
    path.write_text(yaml.safe_dump(STORES, sort_keys=False))
    monkeypatch.setenv("ASYNCSTORE_CONFIG", str(path))
    for name in ("main", "archive"):
        asyncio.run(record({"run_log_store": folder(f"logs-{name}"), "catalog": NOTHING}, f"in-{name}"))
    return path


async def record(config: Config | Path, run_id: str, store: str | None = None) -> None:
    async with open_services(config, store=store) as services, services.run(run_id):
        pass


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    return [found["run_id"] for found in json.loads(capsys.readouterr().out)]


async def test_each_store_has_its_own_services() -> None:
    async with open_services(STORES) as services:
        assert (services.store, str(services.access)) == ("main", "read and write")
        assert services.run_log_store.location.endswith("logs-main")
    async with open_services(STORES, store="archive") as services:
        assert (services.store, str(services.access)) == ("archive", "read only")
        assert services.run_log_store.location.endswith("logs-archive")
        assert "<Services of store 'archive', read only: " in repr(services)
    with pytest.raises(ConfigurationError, match="no store 'achive', did you mean 'archive'"):
        await open_services(STORES, store="achive").open()


async def test_without_stores_there_is_no_name() -> None:
    services = open_services({"run_log_store": {"type": "buffered"}, "catalog": NOTHING})
    with pytest.raises(ClosedError):
        _ = services.access
    async with services:
        assert (services.store, str(services.access)) == ("", "read and write")
        assert repr(services).startswith("<Services <BufferedRunLogStore")


async def test_one_run_log_for_several_catalogs() -> None:
    def catalog(name: str) -> Config:
        return {"catalog": {"type": "file-system", "config": {"catalog_location": name}}}

    stores = {"hot": {**catalog("hot"), "default": True}, "cold": catalog("cold")}
    config: Config = {"run_log_store": folder("logs"), "stores": stores}
    await record(config, "r", "hot")
    async with open_services(config, store="cold") as services:
        assert (await services.run_log_store.get_run_log_by_id("r")).status == "SUCCESS"
        assert services.catalog.location.endswith("cold")


async def test_placeholders_are_filled_for_the_store_that_is_opened_alone(
    stub: WatchedStub, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFIX", CANARY)
    s3 = {"type": "chunked-s3", "config": {**bucket.options, "prefix": "${PREFIX}"}}
    lacking = {"type": "db", "config": {"connection_string": "postgresql://me:${NO_SUCH}@localhost/x"}}
    config: Config = {
        "catalog": NOTHING,
        "secrets": {"type": "env-secrets"},
        "stores": {"main": {"default": True, "run_log_store": s3}, "lacking": {"run_log_store": lacking}},
    }
    await record(config, "r")
    assert any(CANARY in request.path for request in stub.seen)
    stub.seen.clear()
    with pytest.raises(ConfigurationError, match="secret 'NO_SUCH' not found"):
        await open_services(config, store="lacking").open()
    assert stub.seen == []


async def test_what_placeholders_stand_for_is_shown_and_pickled_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    url = "postgresql://me:${CANARY}@localhost/x"
    config: Config = {
        "catalog": NOTHING,
        "secrets": {"type": "env-secrets"},
        "stores": {"main": {"run_log_store": {"type": "db", "config": {"connection_string": url}}}},
    }
    configuration = await read_configuration(config)
    async with await make_secrets(configuration) as secrets:
        store = await make_run_log_store(configuration, secrets)
        shown = [repr(store), store.location, repr(store.access)]
    services = open_services(config)
    shown += [repr(configuration), repr(services), repr(pickle.dumps(configuration))]
    assert all(CANARY not in text for text in shown)
    assert pickle.loads(pickle.dumps(configuration)) == configuration


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["runs", "list"], ["in-main"]),
        (["--store", "archive", "runs", "list"], ["in-archive"]),
        (["runs", "list", "--store", "archive"], ["in-archive"]),
        (["--store", "drop", "runs", "list", "--store", "archive"], ["in-archive"]),
        (["runs", "list", "--store", "main"], ["in-main"]),
    ],
)
def test_the_command_line_chooses(
    config_file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: list[str]
) -> None:
    assert listed(capsys, *arguments) == expected


def test_the_environment_chooses_what_no_option_does(
    config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCSTORE_STORE", "archive")
    assert listed(capsys, "runs", "list") == ["in-archive"]
    assert listed(capsys, "runs", "list", "--store", "main") == ["in-main"]
    monkeypatch.setenv("ASYNCSTORE_STORE", "")
    assert listed(capsys, "runs", "list") == ["in-main"]


@pytest.mark.parametrize("command", ["runs list", "stores list", "db sql", "catalog list r", "runs export in-main"])
def test_an_unknown_store_is_wrong_usage(config_file: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(["--store", "achive", *command.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "there is no store 'achive', did you mean 'archive'? known are main, archive, drop" in printed.err
    assert str(config_file) in printed.err


def test_stores_list(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stores", "list"]) == 0
    heading, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heading == ["STORE", "ACCESS", "RUN", "LOG", "CATALOG"]
    assert rows == [
        ["main", "read", "and", "write", "chunked-fs", "do-nothing", "default"],
        ["archive", "read", "only", "chunked-fs", "do-nothing"],
        ["drop", "write", "only", "chunked-fs", "do-nothing"],
    ]
    assert run(["stores", "list", "--store", "drop"]) == 0
    assert capsys.readouterr().out.splitlines()[3].split()[-1] == "chosen"


def test_stores_list_as_json(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stores", "list", "--json", "--store", "archive"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in found] == ["main", "archive", "drop"]
    assert [(item["default"], item["chosen"]) for item in found] == [(True, False), (False, True), (False, False)]
    assert [(item["allow_read"], item["allow_write"]) for item in found] == [(True, True), (True, False), (False, True)]
    assert {(item["run_log_store"], item["catalog"]) for item in found} == {("chunked-fs", "do-nothing")}


def test_stores_list_opens_nothing(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stores", "list", "--json"]) == 0
    (only,) = json.loads(capsys.readouterr().out)
    assert (only["name"], only["default"], only["run_log_store"]) == ("", True, "embedded default")
    assert run(["stores", "list"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split()[0] == "-"
    assert "'stores:' in a configuration names several" in printed.err
    assert list(working_folder.iterdir()) == []


def test_runs_are_copied_between_stores(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "copy", "--from-store", "archive"]) == 0
    assert sorted(listed(capsys, "runs", "list")) == ["in-archive", "in-main"]
    # --store is the side that is not named.
    assert run(["--store", "archive", "runs", "copy", "--to-store", "main"]) == 0
    other = config_file.with_name("other.yaml")
    other.write_text(yaml.safe_dump({"run_log_store": folder("elsewhere"), "catalog": NOTHING}))
    assert run(["--store", "archive", "runs", "copy", "--to", str(other)]) == 0
    assert listed(capsys, "--config", str(other), "runs", "list") == ["in-archive"]
    assert run(["runs", "copy", "--from-store", "main", "--to-store", "archive"]) == 4
    assert run(["runs", "copy", "--from-store", "main", "--to-store", "main"]) == 2
    assert run(["runs", "copy"]) == 2
    assert "--from-store" in capsys.readouterr().err


def test_a_refused_copy_leaves_everything_as_it_was(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "copy", "--from-store", "main", "--to-store", "archive"]) == 4
    assert "store 'archive' does not allow writing: allow_write is false" in capsys.readouterr().err
    assert listed(capsys, "runs", "list", "--store", "archive") == ["in-archive"]


async def test_a_store_of_its_own_kind_for_run_logs_alone() -> None:
    async with open_run_log_store(STORES, store="archive") as store:
        assert store.location.endswith("logs-archive")
        assert str(store.access) == "read only"
