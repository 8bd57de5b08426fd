"""A role that needs its password, on a real server; the password shows nowhere."""

from __future__ import annotations

import asyncio
import io
import logging
import traceback
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from asyncstore.errors import AccessDeniedError, ConfigurationError, CredentialsError
from asyncstore.models import StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

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
    name = f"scott_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    await connection.execute(f"GRANT ALL ON SCHEMA public TO {name}")
    rules = Path(await connection.fetchval("SHOW hba_file"))
    await asyncio.to_thread(lambda: rules.write_text(f"local all {name} scram-sha-256\n{rules.read_text()}"))
    await connection.fetchval("SELECT pg_reload_conf()")
    yield postgres_url.replace("//postgres@", f"//{name}:${{password}}@").replace(
        "//postgres:@", f"//{name}:${{password}}@"
    )
    await connection.execute(f"DROP OWNED BY {name}")
    await connection.execute(f"DROP ROLE {name}")
    await connection.close()


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
