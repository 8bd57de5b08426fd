"""Several named stores in one configuration: which is meant, what they share, and what is wrong with them."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import ConfigurationError
from asyncstore.services import Configuration, StoreConfiguration, read_configuration
from asyncstore.services.configuration import parse_configuration

if TYPE_CHECKING:
    from pathlib import Path

BUFFERED = {"type": "buffered"}
NOTHING = {"type": "do-nothing"}
DB = {"type": "db", "config": {"connection_string": "sqlite:///${PLACE}"}}
TWO = {
    "main": {"default": True, "run_log_store": BUFFERED, "catalog": NOTHING},
    "archive": {"allow_write": False, "run-log-store": DB, "catalog": {"type": "file-system"}},
}


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "asyncstore.yaml"


def write(path: Path, text: str) -> None:
    path.write_text(text)


def parsed(stores: Any, **beside: Any) -> Configuration:
    return parse_configuration({"stores": stores, **beside}, "a.yaml")


def types_of(configuration: Configuration) -> tuple[str | None, str | None]:
    services = (configuration.run_log_store, configuration.catalog)
    log, catalog = (service.type if service else None for service in services)
    return log, catalog


def test_the_default_store_is_meant_until_another_is_selected() -> None:
    configuration = parsed(TWO)
    assert (configuration.store, types_of(configuration)) == ("main", ("buffered", "do-nothing"))
    archive = configuration.select("archive")
    assert (archive.store, types_of(archive)) == ("archive", ("db", "file-system"))
    assert (archive.access.allow_read, archive.access.allow_write) == (True, False)
    assert archive.select(None) == archive.select("main") == configuration
    assert [store.store for store in archive.every_store()] == ["main", "archive"]
    assert list(archive.stores) == ["main", "archive"]


def test_a_single_store_is_the_default() -> None:
    assert parsed({"only": {"run_log_store": BUFFERED}}).store == "only"


def test_what_stands_beside_the_stores_is_for_those_that_have_no_own() -> None:
    stores = {"a": {"default": True, "catalog": NOTHING}, "b": {"run_log": BUFFERED}, "c": {}}
    configuration = parsed(stores, **{"run-log-store": DB})
    assert types_of(configuration) == ("db", "do-nothing")
    assert types_of(configuration.select("b")) == ("buffered", None)
    assert types_of(configuration.select("c")) == ("db", None)


def test_secrets_are_those_of_all_stores() -> None:
    configuration = parsed(TWO, secrets={"type": "env-secrets"})
    assert [store.secrets.type for store in configuration.every_store() if store.secrets] == ["env-secrets"] * 2


def test_without_stores_a_configuration_is_what_it_was() -> None:
    configuration = parse_configuration({"run_log": BUFFERED}, "a.yaml")
    assert (configuration.store, configuration.stores) == ("", {})
    assert configuration.select(None) is configuration
    assert configuration.every_store() == [configuration]
    assert str(configuration.access) == "read and write"


def test_an_access_mode_without_stores() -> None:
    assert str(parse_configuration({"allow_write": False}, "a.yaml").access) == "read only"
    assert str(parse_configuration({"allow_read": False, "allow_write": True}, "a.yaml").access) == "write only"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"stors": TWO}, "a.yaml: unknown key 'stors', did you mean 'stores'?"),
        ({"stores": []}, "a.yaml: stores: must be a mapping of names to stores"),
        ({"stores": {}}, "a.yaml: stores: must be a mapping of names to stores"),
        ({"stores": {"a": None}}, "a.yaml: stores.a: must be a mapping with"),
        ({"stores": {7: {}}}, "a.yaml: stores: 7 cannot name a store"),
        ({"stores": {"-x": {}}}, "a.yaml: stores: '-x' cannot name a store"),
        ({"stores": {"a b": {}}}, "a.yaml: stores: 'a b' cannot name a store"),
        ({"stores": {"a\n": {}}}, r"a.yaml: stores: 'a\n' cannot name a store"),
        (
            {"stores": {"a": {}, "b": {}}},
            "a.yaml: stores: none of a, b is the default: give one of them 'default: true'",
        ),
        (
            {"stores": {"a": {"default": True}, "b": {"default": True}, "c": {}}},
            "a.yaml: stores: a, b are all the default: only one can be",
        ),
        ({"stores": {"a": {"defalt": True}}}, "a.yaml: stores.a: unknown key 'defalt', did you mean 'default'?"),
        (
            {"stores": {"a": {"alow_write": 1}}},
            "a.yaml: stores.a: unknown key 'alow_write', did you mean 'allow_write'?",
        ),
        ({"stores": {"a": {"default": "yes"}}}, "a.yaml: stores.a: 'default' must be true or false"),
        ({"stores": {"a": {"allow_write": "hunter2"}}}, "a.yaml: stores.a: 'allow_write' must be true or false"),
        (
            {"stores": {"a": {"allow_read": False, "allow_write": False}}},
            "a.yaml: stores.a: allow_read and allow_write are both false: nothing could be done with it",
        ),
        ({"stores": {"a": {"secrets": {}}}}, "a.yaml: stores.a: all stores have the same 'secrets': give them beside"),
        ({"stores": {"a": {"catalog": {"typ": "s3"}}}}, "a.yaml: stores.a: catalog: unknown key 'typ', did you mean"),
        (
            {"stores": {"a": {"catalog": {"type": "s4"}}}},
            "a.yaml: stores.a: catalog: unknown type 's4', known are do-nothing",
        ),
        (
            {"stores": {"a": {"run_log": BUFFERED, "run_log_store": BUFFERED}}},
            "a.yaml: stores.a: 'run_log' and 'run_log_store' are the same key",
        ),
        (
            {"stores": {"a": {}}, "allow_write": False},
            "a.yaml: where there are 'stores', 'allow_write' is said in each",
        ),
        ({"allow_read": "hunter2"}, "a.yaml: 'allow_read' must be true or false"),
        ({"allow_read": False, "allow_write": False}, "a.yaml: allow_read and allow_write are both false"),
    ],
)
def test_what_is_wrong_is_named(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_configuration(document, "a.yaml")
    assert str(caught.value).startswith(message)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"stores": TWO}, "no store 'archiv', did you mean 'archive'? known are main, archive"),
        ({}, "no store 'archiv': no stores are named here, they would be under 'stores'"),
        (None, "no store 'archiv': no stores are named here"),
    ],
)
async def test_an_unknown_store_names_the_nearest(document: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await read_configuration(document, "archiv")
    assert message in str(caught.value)


async def test_an_unknown_store_names_the_file(config_file: Path) -> None:
    write(config_file, "run_log_store: {type: buffered}\n")
    with pytest.raises(ConfigurationError, match="no store 'x'") as caught:
        await read_configuration(config_file, "x")
    assert str(config_file) in str(caught.value)


async def test_a_store_given_twice_is_an_error_in_yaml(config_file: Path) -> None:
    write(config_file, "stores:\n  a: {catalog: {type: do-nothing}}\n  a: {}\n")
    with pytest.raises(ConfigurationError, match="line 3 is not usable YAML: a key is given twice"):
        await read_configuration(config_file)


def test_neither_repr_nor_pickle_holds_what_placeholders_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "canary")
    configuration = parsed(TWO, secrets={"type": "env-secrets"}).select("archive")
    again = pickle.loads(pickle.dumps(configuration))
    assert again == configuration
    assert b"canary" not in pickle.dumps(configuration)
    assert "sqlite" not in repr(configuration)
    assert repr(StoreConfiguration("a", again.run_log_store)).count("connection_string") == 0
