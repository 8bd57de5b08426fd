"""What a configuration does not allow is refused before any request, and opening writes nothing where nobody may."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore._core.access import UNRESTRICTED
from asyncstore.catalog import Catalog, TransferPlan
from asyncstore.cli import _app
from asyncstore.errors import (
    AccessDeniedError,
    AccessModeError,
    AsyncStoreError,
    ConfigurationError,
    InvalidValueError,
)
from asyncstore.models import BranchLog, JobLog, RunLog, StepLog
from asyncstore.runlog.base import RunLogStore
from asyncstore.runlog.db import create_tables
from asyncstore.runlog.transfer import snapshot, transfer
from asyncstore.services import make_secrets, make_tables, open_services, read_configuration
from asyncstore.services._making import load
from asyncstore.services.configuration import TYPES
from asyncstore.services.copying import open_run_log_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    import typer

    from asyncstore._core.access import Guarded
    from asyncstore.testing.s3_stub.process import StubServer
    from asyncstore.testing.servers import Bucket
    from tests._watched import WatchedStub

    Verb = Callable[[Any], Awaitable[object] | AsyncIterator[object]]

RUN = "r"
READ_ONLY = {"allow_write": False}
WRITE_ONLY = {"allow_read": False}
MODES = {"read": WRITE_ONLY, "write": READ_ONLY}
"""By what they refuse."""
DOING = {"read": "reading", "write": "writing"}

RUN_LOG_VERBS: dict[str, dict[str, Verb]] = {
    "read": {
        "get_branch_log": lambda store: store.get_branch_log("a.b", RUN),
        "get_job_log": lambda store: store.get_job_log(RUN),
        "get_parameters": lambda store: store.get_parameters(RUN),
        "get_run_config": lambda store: store.get_run_config(RUN),
        "get_run_log_by_id": lambda store: store.get_run_log_by_id(RUN),
        "get_step_log": lambda store: store.get_step_log("a", RUN),
        "list_run_logs": lambda store: store.list_run_logs(),
        "watch": lambda store: store.watch("no-such-run"),
    },
    "write": {
        "add_branch_log": lambda store: store.add_branch_log(BranchLog(internal_name="a.b"), RUN),
        "add_job_log": lambda store: store.add_job_log(JobLog(), RUN),
        "add_step_log": lambda store: store.add_step_log(StepLog(name="a", internal_name="a"), RUN),
        "create_run_log": lambda store: store.create_run_log(RUN),
        "delete_run_log": lambda store: store.delete_run_log(RUN),
        "put_run_log": lambda store: store.put_run_log(RunLog(run_id=RUN)),
        "set_parameters": lambda store: store.set_parameters(RUN, {"a": 1}),
        "set_run_config": lambda store: store.set_run_config(RUN, {"a": 1}),
        "update_run_log_status": lambda store: store.update_run_log_status(RUN, "FAIL"),
    },
}
FACTORIES = {
    "create_attempt_log",
    "create_branch_log",
    "create_code_identity",
    "create_data_catalog",
    "create_job_log",
    "create_step_log",
}
"""None of these touches the store."""

CATALOG_VERBS: dict[str, dict[str, Verb]] = {
    "read": {
        "get": lambda catalog: catalog.get("**", RUN),
        "list": lambda catalog: catalog.list(RUN),
        "presign_get": lambda catalog: catalog.presign_get("data/a.csv", RUN),
        "sync_between_runs": lambda catalog: catalog.sync_between_runs(RUN, "r2"),
        "verify": lambda catalog: catalog.verify(RUN),
    },
    "write": {
        "delete": lambda catalog: catalog.delete(RUN),
        "presign_post": lambda catalog: catalog.presign_post("data", RUN, max_size=1),
        "presign_put": lambda catalog: catalog.presign_put("data/a.csv", RUN),
        "put": lambda catalog: catalog.put("**", RUN),
        "sweep": lambda catalog: catalog.sweep(),
        "sync_between_runs": lambda catalog: catalog.sync_between_runs(RUN, "r2"),
    },
}
EITHER = {"run"}
"""Verbs that are one or the other by what they are given; they are tried on their own."""

LIFETIME = {"open", "aclose", "restrict"}


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder that has nothing but some data."""
    folder = tmp_path / "work"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "a.csv").write_text("1,2\n")
    monkeypatch.chdir(folder)
    return folder


def public_methods(cls: type) -> set[str]:
    methods = inspect.getmembers_static(cls, lambda item: callable(item) or isinstance(item, staticmethod))
    return {name for name, _ in methods if not name.startswith("_")}


def classes(service: str) -> list[type[Guarded]]:
    return [load(home) for home in TYPES[service].values()]


@pytest.mark.parametrize("cls", [RunLogStore, *classes("run_log_store")])
def test_each_method_of_a_run_log_store_is_known_to_read_or_to_write(cls: type[Guarded]) -> None:
    assert public_methods(cls) == {*RUN_LOG_VERBS["read"], *RUN_LOG_VERBS["write"], *FACTORIES, *LIFETIME}


@pytest.mark.parametrize("cls", [Catalog, *classes("catalog")])
def test_each_method_of_a_catalog_is_known_to_read_or_to_write(cls: type[Guarded]) -> None:
    assert public_methods(cls) == {*CATALOG_VERBS["read"], *CATALOG_VERBS["write"], *EITHER, *LIFETIME}


async def done(called: Awaitable[object] | AsyncIterator[object]) -> AsyncStoreError | None:
    """Return the error that a verb ends with, for there is nothing there that it could find."""
    try:
        if inspect.isasyncgen(called):
            async for _ in called:
                pass
        else:
            await called  # type: ignore[misc]
    except AsyncStoreError as error:
        return error
    return None


async def config_of(service: str, name: str, bucket: Bucket) -> dict[str, Any]:
    """Return a configuration with a service of that type, and another one that keeps nothing."""
    options: dict[str, Any] = {}
    if name in {"s3", "chunked-s3"}:
        options = {**bucket.options, "prefix": "there"}
    elif name == "db":
        await create_tables("sqlite:///there.db")
        options = {"connection_string": "sqlite:///there.db"}
    elif name in {"chunked-fs", "file-system"}:
        options = {"log_folder" if service == "run_log_store" else "catalog_location": "there"}
    section = {"type": name, "config": options}
    return {"run_log_store": {"type": "buffered"}, "catalog": {"type": "do-nothing"}, service: section}


@pytest.mark.parametrize("refused", ["read", "write"])
@pytest.mark.parametrize(("service", "name"), [(s, name) for s in ("run_log_store", "catalog") for name in TYPES[s]])
async def test_a_verb_is_refused_before_any_request(
    stub: WatchedStub, bucket: Bucket, service: str, name: str, refused: str
) -> None:
    config = await config_of(service, name, bucket)
    verbs = RUN_LOG_VERBS if service == "run_log_store" else CATALOG_VERBS
    async with open_services({"stores": {"archive": {**config, **MODES[refused]}}}) as services:
        opened: Any = getattr(services, service)
        stub.seen.clear()
        for verb, call in verbs[refused].items():
            error = await done(call(opened))
            assert isinstance(error, AccessModeError), verb
            assert str(error) == f"store 'archive' does not allow {DOING[refused]}: allow_{refused} is false"
        assert stub.seen == []
        for verb, call in verbs["read" if refused == "write" else "write"].items():
            if verb in verbs[refused]:
                continue
            assert not isinstance(await done(call(opened)), AccessDeniedError), verb


@pytest.mark.parametrize("name", TYPES["catalog"])
async def test_a_plan_is_carried_out_as_what_it_does_allows(bucket: Bucket, stub: WatchedStub, name: str) -> None:
    config = await config_of("catalog", name, bucket)
    async with open_services(config) as services:
        await services.catalog.put("**", RUN)
        put: TransferPlan = await services.catalog.put("**", "r2", dry_run=True)
        get: TransferPlan = await services.catalog.get("**", RUN, local_folder="elsewhere", dry_run=True)
        sync: TransferPlan = await services.catalog.sync_between_runs(RUN, "r2", dry_run=True)
    for mode in (READ_ONLY, WRITE_ONLY):
        async with open_services({**config, **mode}) as services:
            stub.seen.clear()
            # What a copy tells of its source is what is stored there.
            assert isinstance(await done(services.catalog.sync_between_runs(RUN, "r2", dry_run=True)), AccessModeError)
            assert isinstance(await done(services.catalog.run(sync)), AccessModeError)
            assert stub.seen == []
    async with open_services({**config, **READ_ONLY}) as services:
        assert isinstance(await done(services.catalog.put("**", "r2", dry_run=True)), AccessModeError)
        stub.seen.clear()
        with pytest.raises(AccessModeError, match=r"^configuration does not allow writing: allow_write is false$"):
            await services.catalog.run(put)
        assert stub.seen == []
        entries = await services.catalog.run(get)
    async with open_services({**config, **WRITE_ONLY}) as services:
        stub.seen.clear()
        with pytest.raises(AccessModeError):
            await services.catalog.run(get)
        assert stub.seen == []
        assert len(await services.catalog.run(put)) == len(entries) == (0 if name == "do-nothing" else 1)


async def test_a_run_is_not_recorded_where_nothing_may_be_written(stub: WatchedStub, bucket: Bucket) -> None:
    config = await config_of("run_log_store", "chunked-s3", bucket)
    async with open_services({**config, **READ_ONLY}) as services:
        stub.seen.clear()
        with pytest.raises(AccessModeError):
            async with services.run("r"):
                pytest.fail("it was entered")
        assert stub.seen == []


async def test_a_run_is_recorded_where_nothing_may_be_read(bucket: Bucket) -> None:
    config = await config_of("run_log_store", "chunked-s3", bucket)
    config |= await config_of("catalog", "s3", bucket) | {"run_log_store": config["run_log_store"]}
    async with open_services({**config, **WRITE_ONLY}) as services, services.run("r", parameters={"a": 1}) as run:
        async with run.step("load") as step:
            await step.put("**")
            await step.log_metrics({"rows": 1})
        with pytest.raises(AccessModeError):
            await run.read()
    async with open_services(config) as services:
        run_log = await services.run_log_store.get_run_log_by_id("r")
    assert (run_log.status, list(run_log.steps), run_log.parameters) == ("SUCCESS", ["load"], {"a": 1})


@pytest.mark.parametrize(("mode", "reads", "writes"), [(READ_ONLY, False, True), (WRITE_ONLY, True, False)])
async def test_what_is_opened_for_more_than_allowed_makes_no_request_at_all(
    stub: WatchedStub, bucket: Bucket, mode: dict[str, bool], reads: bool, writes: bool
) -> None:
    config = await config_of("run_log_store", "s3", bucket)
    # It cannot be opened: neither this nor the secrets are looked at.
    config = {**config, "catalog": {"type": "file-system", "config": {"catalog_location": "${NO_SUCH}"}}, **mode}
    with pytest.raises(AccessModeError):
        await open_services(config, reads=reads, writes=writes).open()
    with pytest.raises(AccessModeError):
        async with open_run_log_store(config, reads=reads, writes=writes):
            pytest.fail("it was opened")
    assert (stub.seen, stub.connections) == ([], 0)
    with pytest.raises(ConfigurationError, match="secret 'NO_SUCH' not found"):
        await open_services(config, reads=writes, writes=reads).open()


@pytest.mark.parametrize(
    ("service", "name"), [("run_log_store", "s3"), ("run_log_store", "chunked-s3"), ("catalog", "s3")]
)
async def test_a_bucket_that_may_only_be_read_is_only_read(
    stub: WatchedStub, bucket: Bucket, service: str, name: str
) -> None:
    config = await config_of(service, name, bucket)
    verbs = RUN_LOG_VERBS if service == "run_log_store" else CATALOG_VERBS

    async def read_all() -> set[str]:
        stub.seen.clear()
        async with open_services({**config, **READ_ONLY}) as services:
            for call in verbs["read"].values():
                await done(call(getattr(services, service)))
        return {request.method for request in stub.seen}

    assert await read_all() <= {"GET", "HEAD"}
    async with open_services(config) as services:
        async with services.run(RUN) as run, run.step("a"):
            pass
        await services.catalog.put("**", RUN)
    assert {request.method for request in stub.seen} >= {"GET", "PUT"}
    assert await read_all() <= {"GET", "HEAD"}


async def test_one_document_a_run_is_not_probed_for_where_nothing_may_be_written(
    stub: WatchedStub, bucket: Bucket
) -> None:
    config = await config_of("run_log_store", "s3", bucket)
    async with open_services({**config, **READ_ONLY}):
        assert stub.requests_for("PutObject") == []
    async with open_services(config):
        assert stub.requests_for("PutObject") != []


def contents(folder: str) -> dict[str, tuple[bytes, float]]:
    paths = [os.path.join(path, name) for path, _, names in os.walk(folder) for name in names]
    found = {path: (_bytes(path), os.stat(path).st_mtime) for path in paths}
    return found | {path: (b"", 0.0) for path, _, _ in os.walk(folder)}


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize(
    ("service", "name"),
    [("run_log_store", "chunked-fs"), ("run_log_store", "file-system"), ("catalog", "file-system")],
)
@pytest.mark.parametrize("filled", [False, True])
async def test_a_folder_that_may_only_be_read_is_left_as_it_is(
    bucket: Bucket, service: str, name: str, filled: bool
) -> None:
    config = await config_of(service, name, bucket)
    if filled:
        async with open_services(config) as services:
            async with services.run(RUN) as run, run.step("a"):
                pass
            await services.catalog.put("**", RUN)
    before = await asyncio.to_thread(contents, ".")
    assert ("./there" in before) is filled
    async with open_services({**config, **READ_ONLY}) as services:
        for verbs in (RUN_LOG_VERBS, CATALOG_VERBS):
            opened: Any = services.run_log_store if verbs is RUN_LOG_VERBS else services.catalog
            for call in verbs["read"].values():
                await done(call(opened))
    after = await asyncio.to_thread(contents, ".")
    assert after == before


async def test_a_database_that_may_only_be_read_keeps_its_journal(bucket: Bucket) -> None:
    config = await config_of("run_log_store", "db", bucket)

    def mode(change: str = "") -> str:
        with sqlite3.connect("there.db") as connection:
            return str(connection.execute(f"PRAGMA journal_mode{change}").fetchone()[0])

    assert await asyncio.to_thread(mode, "=DELETE") == "delete"
    before = await asyncio.to_thread(_bytes, "there.db")
    async with open_services({**config, **READ_ONLY}) as services:
        assert await done(services.run_log_store.get_run_log_by_id(RUN)) is not None
        assert isinstance(await done(services.run_log_store.create_run_log(RUN)), AccessModeError)
    assert await asyncio.to_thread(_bytes, "there.db") == before
    async with open_services(config):
        pass
    assert await asyncio.to_thread(mode) == "wal"


async def test_a_postgres_that_may_only_be_read(postgres_url: str) -> None:
    await create_tables(postgres_url)
    config: dict[str, Any] = {
        "run_log_store": {"type": "db", "config": {"connection_string": postgres_url}},
        "catalog": {"type": "do-nothing"},
    }
    async with open_services(config) as services, services.run(RUN, parameters={"a": 1}):
        pass
    async with open_services({**config, **READ_ONLY}) as services:
        assert (await services.run_log_store.get_run_log_by_id(RUN)).parameters == {"a": 1}
        assert [fragment.key.kind async for fragment in services.run_log_store.watch(RUN)]
        for verb, call in RUN_LOG_VERBS["write"].items():
            assert isinstance(await done(call(services.run_log_store)), AccessModeError), verb


async def test_the_embedded_default_is_not_made_where_nothing_may_be_written() -> None:
    before = await asyncio.to_thread(contents, ".")
    with pytest.raises(ConfigurationError, match=r"no .*\.asyncstore/run_logs\.db to read, and configuration does not"):
        await open_services(READ_ONLY).open()
    configuration = await read_configuration(READ_ONLY)
    async with await make_secrets(configuration) as secrets:
        with pytest.raises(AccessModeError):
            await make_tables(configuration, secrets)
    assert await asyncio.to_thread(contents, ".") == before
    async with open_services() as services, services.run(RUN):
        await services.catalog.put("**", RUN)
    async with open_services(READ_ONLY) as services:
        assert (await services.run_log_store.get_run_log_by_id(RUN)).status == "SUCCESS"
        assert [entry.name async for entry in services.catalog.list(RUN)] == ["data/a.csv"]


async def test_copies_and_imports_ask_first(stub: WatchedStub, bucket: Bucket) -> None:
    config = await config_of("run_log_store", "chunked-s3", bucket)
    async with open_run_log_store({**config, **READ_ONLY}) as store:
        stub.seen.clear()
        with pytest.raises(AccessModeError):
            await transfer([], store)
        with pytest.raises(AccessModeError):
            await transfer([], store, dry_run=True)
    async with open_run_log_store({**config, **WRITE_ONLY}) as store:
        stub.seen.clear()
        with pytest.raises(AccessModeError):
            await snapshot(store, RUN)
    assert stub.seen == []


async def test_a_store_made_by_class_may_be_restricted(bucket: Bucket) -> None:
    configuration = await read_configuration({**await config_of("run_log_store", "chunked-s3", bucket), **READ_ONLY})
    store = load(TYPES["run_log_store"]["buffered"])()
    assert str(store.access) == "read and write"
    store.restrict(configuration.access)
    async with store:
        assert isinstance(await done(store.create_run_log(RUN)), AccessModeError)


@pytest.mark.parametrize("name", ["do-nothing", "file-system", "s3"])
async def test_nothing_is_loosened_once_it_is_open(bucket: Bucket, name: str) -> None:
    async with open_services({**await config_of("catalog", name, bucket), **READ_ONLY}) as services:
        for opened in (services.catalog, services.run_log_store):
            with pytest.raises(InvalidValueError, match="before it is opened"):
                opened.restrict(UNRESTRICTED)
            assert str(opened.access) == "read only"
        assert isinstance(await done(services.catalog.put("**", RUN)), AccessModeError)
        catalog = services.catalog
    with pytest.raises(InvalidValueError, match="before it is opened"):
        catalog.restrict(UNRESTRICTED)


# The command line.

COMMANDS: dict[str, tuple[str, str]] = {
    "runs list": ("", "read"),
    "runs show": ("r", "read"),
    "runs watch": ("r", "read"),
    "runs export": ("r", "read"),
    "runs delete": ("r --yes", "both"),
    "runs prune": ("--older-than 1d --yes", "both"),
    "runs import": ("--from logs", "both"),
    "runs copy": ("--from-store main --to-store archive", "both"),
    "catalog put": ("r", "write"),
    "catalog get": ("r", "read"),
    "catalog list": ("r", "read"),
    "catalog share": ("r data/a.csv", "read"),
    "catalog sync": ("r r2", "both"),
    "catalog verify": ("r", "read"),
    "catalog sweep": ("", "write"),
    "catalog run": ("put.json", "write"),
    "db create-tables": ("", "write"),
    "demo": ("data", "both"),
}
"""Each command that reaches a store, with arguments, and what it does there."""

ELSEWHERE = {"config check", "db sql", "stores list"}
"""Commands that reach no store, or look at all of them as far as each allows."""

ADMINISTRATION = {"bucket"}
"""Groups of commands that prepare what stores lie in."""


def commands(application: typer.Typer, above: str = "") -> Iterator[str]:
    for entry in application.registered_commands:
        yield f"{above}{entry.name}"
    for group in application.registered_groups:
        assert group.typer_instance is not None
        if group.name not in ADMINISTRATION:
            yield from commands(group.typer_instance, f"{above}{group.name} ")


def test_each_command_is_known_to_read_or_to_write() -> None:
    assert set(commands(_app.app)) == {*COMMANDS, *ELSEWHERE}


@pytest.fixture
def two_stores(stub_bucket: Bucket, working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """
    Return what makes a configuration whose second store, in a bucket, refuses reading or writing.

    Its secrets cannot be opened: whoever gets as far as that says so instead.
    """

    def make(refused: str) -> None:
        s3 = {**stub_bucket.options, "prefix": "there"}
        (working_folder / "c.yaml").write_text(
            f"""
secrets: {{type: dotenv, config: {{location: no-such-file}}}}
stores:
  main: {{default: true, run_log_store: {{type: chunked-fs, config: {{log_folder: logs}}}}}}
  archive:
    allow_{refused}: false
    run_log_store: {{type: s3, config: {s3}}}
    catalog: {{type: s3, config: {s3}}}
"""
        )
        monkeypatch.setenv("ASYNCSTORE_CONFIG", "c.yaml")

    return make


@pytest.mark.parametrize(
    ("command", "refused"),
    [
        *(
            (f"{command} {arguments}", mode)
            for command, (arguments, does) in COMMANDS.items()
            for mode in MODES
            if does in {mode, "both"}
        ),
        ("runs copy --from-store archive --to-store main", "read"),
        ("catalog run get.json", "read"),
    ],
)
def test_a_command_is_refused_before_any_request(
    two_stores: Callable[[str], None],
    s3_stub: StubServer,
    capsys: pytest.CaptureFixture[str],
    command: str,
    refused: str,
) -> None:
    two_stores(refused)
    for kind in ("put", "get"):
        plan = TransferPlan(kind, "r", "data", "s3://somewhere", "data", ())
        Path(f"{kind}.json").write_text(json.dumps(plan.to_json()))
    s3_stub.reset()
    code = _app.run(["--store", "archive", *command.split()])
    printed = capsys.readouterr()
    assert (code, printed.out) == (4, "")
    error, _, hint = printed.err.rstrip().rpartition("\n")
    assert error == f"error: store 'archive' does not allow {DOING[refused]}: allow_{refused} is false"
    assert "'asyncstore stores list' shows what each store allows" in hint
    assert s3_stub.log == []
