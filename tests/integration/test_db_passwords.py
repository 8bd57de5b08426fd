"""A role that needs its password, on a real server; the password shows nowhere."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import pickle
import sys
import traceback
from typing import TYPE_CHECKING
from urllib.parse import quote_plus, urlsplit

import asyncpg
import pytest

from asyncstore._core.retry import NO_RETRY
from asyncstore.errors import AccessDeniedError, ConfigurationError, CredentialsError, RunLogNotFoundError
from asyncstore.models import StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables
from asyncstore.testing.pgbouncer import is_installed, pgbouncer_server
from tests._postgres_roles import login_role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from asyncstore.testing.postgres import PostgresServer

PASSWORD = "p@ss/w:rd#1"
QUOTED = "p%40ss%2Fw%3Ard%231"


class Secrets:
    def __init__(self, **values: str) -> None:
        self._values = values

    async def get(self, name: str) -> str:
        if name not in self._values:
            raise ConfigurationError(f"there is no secret {name!r}")
        return self._values[name]


@pytest.fixture
async def role(postgres_url: str) -> AsyncIterator[str]:
    """Make a role that must log in with its password, and the URL that it does so with."""
    async with login_role(postgres_url, PASSWORD) as url:
        yield url


@pytest.fixture
def scott(postgres: PostgresServer, role: str) -> Iterator[str]:
    """Give the role's URL over TCP, where pgbouncer asks it for its password and logs in with that."""
    if not is_installed():
        pytest.skip("there is no pgbouncer on this machine: apt-get install pgbouncer")
    name = role.split("//")[1].split(":")[0]
    database = role.rpartition("?")[0].rpartition("/")[2]
    with pgbouncer_server(postgres, user=name, password=PASSWORD) as bouncer:
        yield f"postgresql://{name}:${{password}}@localhost:{bouncer.port}/{database}"


def assert_hidden(*shown: str) -> None:
    for text in shown:
        for written in (PASSWORD, QUOTED, quote_plus(PASSWORD, safe="/"), repr(PASSWORD)[1:-1]):
            assert written not in text


@pytest.fixture
def logged() -> Iterator[Callable[[], str]]:
    """Collect everything that any logger says."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lines.getvalue
    root.removeHandler(handler)
    root.setLevel(level)


async def test_a_password_with_special_characters_works_and_is_not_shown(role: str, logged: Callable[[], str]) -> None:
    secrets = Secrets(password=PASSWORD)
    await create_tables(role, secrets=secrets)
    async with DBRunLogStore(connection_string=role, secrets=secrets) as store:
        await store.create_run_log("run")
        await store.add_step_log(StepLog(name="a", internal_name="a"), "run")
        shown = repr(store) + store.location + repr(vars(store)) + logged()
    assert PASSWORD not in shown
    assert QUOTED not in shown


async def test_a_wrong_password_is_one_clear_error(role: str, logged: Callable[[], str]) -> None:
    store = DBRunLogStore(connection_string=role, secrets=Secrets(password=f"{PASSWORD}2"))
    with pytest.raises(CredentialsError, match="check user and password") as caught:
        await store.open()
    shown = "".join(traceback.format_exception(caught.value)) + logged()
    assert PASSWORD not in shown
    assert QUOTED not in shown


async def test_a_missing_secret_fails_when_the_store_opens(role: str) -> None:
    store = DBRunLogStore(connection_string=role, secrets=Secrets())
    with pytest.raises(ConfigurationError, match="no secret 'password'"):
        await store.open()
    with pytest.raises(ConfigurationError, match="no secrets provider"):
        await DBRunLogStore(connection_string=role).open()


async def test_a_role_that_may_only_read(role: str, postgres_url: str) -> None:
    name = role.split("//")[1].split(":")[0]
    await create_tables(postgres_url)
    async with DBRunLogStore(connection_string=postgres_url) as store:
        await store.create_run_log("run")
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"GRANT SELECT ON db_log TO {name}")
    await connection.close()
    async with DBRunLogStore(connection_string=role, secrets=Secrets(password=PASSWORD)) as store:
        assert (await store.get_run_log_by_id("run")).run_id == "run"
        with pytest.raises(AccessDeniedError, match="grant"):
            await store.add_step_log(StepLog(name="a", internal_name="a"), "run")


async def test_a_password_over_tcp(scott: str, logged: Callable[[], str]) -> None:
    secrets = Secrets(password=PASSWORD)
    assert urlsplit(scott.replace("${password}", QUOTED)).hostname == "localhost"
    await create_tables(scott, secrets=secrets, pgbouncer=True)
    store = DBRunLogStore(connection_string=scott, secrets=secrets, pgbouncer=True)
    async with store:
        await store.create_run_log("run")
        await store.add_step_log(StepLog(name="a", internal_name="a"), "run")
        with pytest.raises(RunLogNotFoundError) as missing:
            await store.get_run_log_by_id("other")
        shown = [repr(store), store.location, repr(vars(store)), repr(store._open_parts)]
        assert store._open_parts is not None
        shown += [repr(vars(part)) for part in (store._open_parts.reader, store._open_parts.writer)]
    assert_hidden(*shown, logged(), "".join(traceback.format_exception(missing.value)))
    assert "localhost" in store.location


async def test_errors_about_passwords_may_be_sent_about(scott: str, logged: Callable[[], str]) -> None:
    for wrong in (f"{PASSWORD}2", ""):
        store = DBRunLogStore(connection_string=scott, secrets=Secrets(password=wrong), pgbouncer=True, retry=NO_RETRY)
        with pytest.raises(CredentialsError) as caught:
            await store.open()
        error: BaseException | None = caught.value
        chained = []
        while error is not None:
            chained += [str(error), repr(error), pickle.dumps(error).decode("latin-1")]
            error = error.__cause__
        assert_hidden(*chained, "".join(traceback.format_exception(caught.value)))
    assert_hidden(logged())


@pytest.mark.parametrize("given", [PASSWORD, f"{PASSWORD}2"])
async def test_the_command_line_does_not_show_a_password(scott: str, given: str, tmp_path: Path) -> None:
    configuration = tmp_path / "asyncstore.yaml"
    configuration.write_text(
        f"""
run_log_store: {{type: db, config: {{connection_string: "{scott}", pgbouncer: true}}}}
secrets: {{type: env-secrets}}
"""
    )
    environment = {**os.environ, "password": given, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    await create_tables(scott, secrets=Secrets(password=PASSWORD), pgbouncer=True)
    for words in (
        ["config", "check"],
        ["config", "show"],
        ["runs", "list", "--debug"],
        ["db", "create-tables", "--debug"],
    ):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "dev", "-m", "asyncstore.cli", *words, "--config", str(configuration)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
        )
        output = (await asyncio.wait_for(process.communicate(), 60))[0].decode()
        assert_hidden(output)
        assert given not in output
        if words[0] != "config":
            assert (process.returncode == 0) == (given == PASSWORD), output
