"""From configuration to open services."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import ClosedError, ConfigurationError
from asyncstore.secrets import DoNothingSecrets
from asyncstore.services import (
    Configuration,
    ServiceConfiguration,
    make_secrets,
    make_tables,
    open_services,
    read_configuration,
)
from asyncstore.services._making import load
from asyncstore.services.configuration import TYPES

if TYPE_CHECKING:
    from pathlib import Path

BUFFERED = {"type": "buffered"}


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "asyncstore.yaml"


async def test_no_configuration_is_the_embedded_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_services() as services, services.run("r", tag="t") as run, run.step("load"):
        pass
    async with open_services() as services:
        log = await services.run_log_store.get_run_log_by_id("r")
        where = (services.run_log_store.location, services.catalog.location)
    assert (log.status, list(log.steps)) == ("SUCCESS", ["load"])
    assert str(tmp_path / ".asyncstore/run_logs.db") in where[0]
    assert where[1].endswith(str(tmp_path / ".asyncstore/catalog"))


async def test_the_embedded_default_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = make_folder(tmp_path / "a b?c#d%20é@f")
    monkeypatch.chdir(odd)
    async with open_services() as services:
        monkeypatch.chdir(tmp_path)
        async with services.run("r"):
            pass
        assert (await services.run_log_store.get_run_log_by_id("r")).status == "SUCCESS"
    assert os.listdir(tmp_path) == [odd.name]
    assert "run_logs.db" in os.listdir(odd / ".asyncstore")


async def test_what_a_configuration_does_not_name_is_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_services({"run_log_store": BUFFERED}) as services:
        assert services.run_log_store.location == "memory"
        assert ".asyncstore/catalog" in services.catalog.location


@pytest.mark.parametrize("key", ["run_log_store", "run-log-store", "run_log"])
async def test_all_spellings_of_the_run_log_store(key: str) -> None:
    assert await read_configuration({key: BUFFERED}) == Configuration(
        run_log_store=ServiceConfiguration("buffered", {}, "configuration")
    )


async def test_a_file_and_a_mapping_mean_the_same(config_file: Path) -> None:
    write(config_file, "run_log_store: {type: buffered}\ncatalog:\n  type: do-nothing\n  config:\n")
    async with open_services(config_file) as services:
        assert services.run_log_store.location == "memory"
    async with open_services(str(config_file)) as services:
        assert type(services.catalog).__name__ == "DoNothingCatalog"


async def test_an_empty_file_is_no_configuration(config_file: Path) -> None:
    write(config_file, "# nothing yet\n")
    assert await read_configuration(config_file) == Configuration()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run_log_stor: {type: db}", "unknown key 'run_log_stor', did you mean 'run_log_store'"),
        ("executor: {type: local}", "unknown key 'executor', known are"),
        ("run_log: {type: db}\nrun_log_store: {type: db}", "'run_log' and 'run_log_store' are the same key"),
        ("catalog: {typ: s3}", "catalog: unknown key 'typ', did you mean 'type'"),
        ("catalog: {config: {}}", "catalog: 'type' is required, one of do-nothing, file-system, s3"),
        ("catalog: s3", "catalog: must be a mapping"),
        *(
            (f"catalog: {{type: s3, config: {value}}}", "catalog: 'config' must be a mapping")
            for value in ("[1]", "false", "0", "[]", '""')
        ),
        (
            "run_log_store: {type: db, config: {connection_string: {{ hunter2 }}}}",
            "line 1 is not usable YAML: a mapping",
        ),
        ("run_log_store:\n  type: db\n  config: {a: {[hunter2]: 1}}", "line 3 is not usable YAML: a list"),
        ("? [hunter2]\n: b", "line 1 is not usable YAML: a list stands where a key"),
        ("a: {{ hunter2 }}", "a value that begins with a brace or bracket needs quotes"),
        (
            "run_log_store: {type: chunked-s4}",
            "unknown type 'chunked-s4', did you mean 'chunked-s3'? known are buffered",
        ),
        ("run_log_store: {type: 3}", "unknown type 3, did you mean 's3'?"),
        ("secrets: {type: aws-secret-manager}", "did you mean 'aws-secrets-manager'?"),
        ("[1, 2]", "must be a mapping of services, not list"),
        ("a: b: hunter2", "line 1 is not usable YAML"),
        ("a: *hunter2", "line 1 is not usable YAML"),
        ("catalog: {type: s3}\ncatalog: {type: do-nothing}", "line 2 is not usable YAML: a key is given twice"),
        (
            "catalog:\n  type: s3\n  config:\n    a: 1\n    hunter2: 1\n    'hunter2': 2",
            "line 6 is not usable YAML: a key is given twice",
        ),
    ],
)
async def test_a_wrong_configuration_names_file_and_fault(config_file: Path, text: str, message: str) -> None:
    write(config_file, text)
    with pytest.raises(ConfigurationError) as caught:
        await read_configuration(config_file)
    assert message in str(caught.value)
    assert str(config_file) in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_a_missing_file_says_where_it_was_looked_for(config_file: Path) -> None:
    with pytest.raises(ConfigurationError, match="no configuration file") as caught:
        await open_services(config_file).open()
    assert str(config_file) in str(caught.value)


async def test_a_file_that_is_not_text(config_file: Path) -> None:
    write(config_file, b"\xff\xfe\x00secret")
    with pytest.raises(ConfigurationError, match="not YAML text"):
        await read_configuration(config_file)


async def test_an_unknown_option_names_the_nearest_and_the_file(config_file: Path) -> None:
    write(config_file, "catalog: {type: file-system, config: {catalog_locaton: x}}\nrun_log_store: {type: buffered}\n")
    with pytest.raises(ConfigurationError, match="unknown key 'catalog_locaton', did you mean 'catalog_location'") as e:
        await open_services(config_file).open()
    assert str(config_file) in str(e.value)


async def test_yaml_may_merge_mappings(config_file: Path) -> None:
    write(config_file, "catalog: &c {type: do-nothing, config: {}}\nsecrets: {<<: *c, config: }\n")
    assert (await read_configuration(config_file)).secrets == ServiceConfiguration("do-nothing", {}, str(config_file))


@pytest.mark.parametrize(
    ("service", "name", "key"),
    [
        *(("run_log_store", "db", key) for key in ("self", "secrets", "engine", "retry")),
        *((service, name, "self") for service in TYPES for name in TYPES[service]),
    ],
)
async def test_what_only_programs_may_give_is_no_key(service: str, name: str, key: str) -> None:
    sections: dict[str, Any] = {"run_log_store": BUFFERED, "catalog": {"type": "do-nothing"}}
    options = {"connection_string": "sqlite:///x.db"} if name == "db" else {}
    sections[service] = {"type": name, "config": {**options, key: "x"}}
    with pytest.raises(ConfigurationError, match=f"unknown key '{key}'"):
        await open_services(sections).open()
    if name == "db":
        async with DoNothingSecrets() as secrets:
            with pytest.raises(ConfigurationError, match=f"unknown key '{key}'"):
                await make_tables(await read_configuration(sections), secrets)


@pytest.mark.parametrize("name", ["a$$b", "${x}", "a${b", "$"])
async def test_the_embedded_default_works_below_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    odd = make_folder(tmp_path / name)
    monkeypatch.chdir(odd)
    async with open_services() as services, services.run("r"):
        locations = (services.run_log_store.location, services.catalog.location)
    assert all(f"{tmp_path}/{name}/.asyncstore/" in location for location in locations)
    assert os.listdir(tmp_path) == [name]
    assert "run_logs.db" in os.listdir(odd / ".asyncstore")
    async with DoNothingSecrets() as secrets:
        assert f"{tmp_path}/{name}/.asyncstore/" in await make_tables(Configuration(), secrets)


@pytest.mark.parametrize(("service", "name"), [(service, name) for service in TYPES for name in TYPES[service]])
def test_every_type_has_its_class(service: str, name: str) -> None:
    assert callable(load(TYPES[service][name]))


async def test_placeholders_are_filled_when_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path / "there"))
    config: dict[str, Any] = {
        "run_log_store": BUFFERED,
        "catalog": {"type": "file-system", "config": {"catalog_location": "${PLACE}/catalog"}},
        "secrets": {"type": "env-secrets"},
    }
    async with open_services(config) as services:
        assert str(tmp_path / "there/catalog") in services.catalog.location
        assert await services.secrets.get("PLACE") == str(tmp_path / "there")


@pytest.mark.parametrize(
    "secrets",
    [
        {"type": "aws-secrets-manager", "config": {"secret_arn": "${NAME}"}},
        {"type": "aws-secrets-manager", "config": {"secret_arn": "a", "role_arn": "arn:aws:iam::${NAME}:role/r"}},
        {"type": "dotenv", "config": {"location": "${NAME}/.env"}},
        {"type": "env-secrets", "config": {"prefix": "${NAME}"}},
    ],
)
async def test_secrets_are_not_configured_by_secrets(secrets: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "canary")
    with pytest.raises(
        ConfigurationError, match=r"holds the placeholder 'NAME', and .*: write the value itself"
    ) as caught:
        await open_services({"run_log_store": BUFFERED, "secrets": secrets}).open()
    assert next(iter(secrets["config"])) in str(caught.value) or "role_arn" in str(caught.value)


@pytest.mark.parametrize("secrets", [None, {"type": "env-secrets"}, {"type": "do-nothing"}])
async def test_a_missing_secret_fails_when_opening(secrets: dict[str, str] | None) -> None:
    config: dict[str, Any] = {
        "run_log_store": {"type": "db", "config": {"connection_string": "postgresql://me:${DB_PASS}@localhost/x"}},
        "catalog": {"type": "do-nothing"},
    }
    if secrets is not None:
        config["secrets"] = secrets
    with pytest.raises(ConfigurationError, match="secret 'DB_PASS' not found"):
        await open_services(config).open()


async def test_a_password_is_quoted_and_shown_nowhere(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASS", "p@ss/w:rd#1%")
    text = postgres_url.replace("postgres@", "postgres:${DB_PASS}@")
    config = {
        "run_log_store": {"type": "db", "config": {"connection_string": text}},
        "secrets": {"type": "env-secrets"},
        "catalog": {"type": "do-nothing"},
    }
    configuration = await read_configuration(config)
    async with await make_secrets(configuration) as secrets:
        shown = await make_tables(configuration, secrets)
    async with open_services(config) as services, services.run("r"):
        shown += repr(services) + repr(configuration) + services.run_log_store.location
    assert "p@ss" not in shown
    assert "p%40ss" not in shown


async def test_services_are_used_while_open() -> None:
    services = open_services({"run_log_store": BUFFERED, "catalog": {"type": "do-nothing"}})
    with pytest.raises(ClosedError):
        _ = services.run_log_store
    async with services:
        store = services.run_log_store
        assert "open" in repr(services)
    with pytest.raises(ClosedError):
        _ = services.catalog
    with pytest.raises(ClosedError):
        await store.get_parameters("r")


async def test_what_opened_is_closed_if_the_next_cannot_open(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "run_log_store": BUFFERED,
        "catalog": {"type": "file-system", "config": {"catalog_location": str(tmp_path), "compute_data_foldr": "x"}},
    }
    services = open_services(config)
    with pytest.raises(ConfigurationError, match="compute_data_folder"):
        await services.open()
    assert services._run_log_store is not None
    assert "closed" in repr(services._run_log_store)


async def test_an_unwritable_folder_for_the_embedded_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / ".asyncstore", "in the way")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"cannot make the folder .*asyncstore of the embedded default"):
        await open_services().open()


async def test_a_run_log_that_is_in_no_database_has_no_tables() -> None:
    async with DoNothingSecrets() as secrets:
        with pytest.raises(ConfigurationError, match="'buffered', which has no tables"):
            await make_tables(Configuration(run_log_store=ServiceConfiguration("buffered")), secrets)


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
