from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from asyncstore.runlog.db import DBRunLogStore, create_tables
from asyncstore.testing import RunLogStoreContract

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.runlog.base import RunLogStore


class TestDBOnSQLite(RunLogStoreContract):
    @pytest.fixture
    async def make_store(self, sqlite_url: str) -> Callable[[], RunLogStore]:
        await create_tables(sqlite_url)
        return partial(DBRunLogStore, connection_string=sqlite_url)


class TestDBOnPostgres(RunLogStoreContract):
    secret = "correct-horse"

    @pytest.fixture
    async def make_store(self, postgres_url: str) -> Callable[[], RunLogStore]:
        # The server trusts whoever is on this machine, so that any password will do.
        url = postgres_url.replace("//postgres@", f"//postgres:{self.secret}@")
        await create_tables(url)
        return partial(DBRunLogStore, connection_string=url)


class TestDBThroughPgBouncer(RunLogStoreContract):
    @pytest.fixture
    async def make_store(self, pgbouncer_url: str) -> Callable[[], RunLogStore]:
        await create_tables(pgbouncer_url, pgbouncer=True)
        return partial(DBRunLogStore, connection_string=pgbouncer_url, pgbouncer=True)


class TestPortableDBThroughPgBouncer(TestDBThroughPgBouncer):
    @pytest.fixture(autouse=True)
    def portable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("asyncstore.runlog.db.store._WRITERS", {})


class TestPortableDBOnPostgres(TestDBOnPostgres):
    """As other databases and drivers are written to."""

    @pytest.fixture(autouse=True)
    def portable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("asyncstore.runlog.db.store._WRITERS", {})
