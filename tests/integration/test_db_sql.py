"""The SQL for people who make the table themselves, and what a store can do with no more rights than it names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
import uuid
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import yaml

from asyncstore.cli._app import run
from asyncstore.errors import AccessDeniedError
from asyncstore.models import SUCCESS, StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables, table_sql
from asyncstore.runlog.db._table import log_table
from tests._magnus_table import MAGNUS_POSTGRES, MAGNUS_SQLITE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Database:
    """A database that statements are run in past the store."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.dialect = url.partition(":")[0]

    async def run(self, script: str) -> None:
        if self.dialect == "sqlite":
            with contextlib.closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as file:
                file.executescript(script)
            return
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(script)
        finally:
            await connection.close()

    async def fetch(self, query: str) -> list[tuple[Any, ...]]:
        if self.dialect == "sqlite":
            with contextlib.closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as file:
                return file.execute(query).fetchall()
        connection = await asyncpg.connect(self.url)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    async def layout(self) -> list[tuple[Any, ...]]:
        """Return all that was defined, in the database's own words."""
        if self.dialect == "sqlite":
            # It keeps statements as they were written.
            defined = await self.fetch("SELECT name, sql FROM sqlite_master ORDER BY name")
            return [(name, " ".join((sql or "").replace("IF NOT EXISTS ", "").split())) for name, sql in defined]
        columns = (
            "SELECT table_schema, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
            " WHERE table_name = 'db_log' ORDER BY ordinal_position"
        )
        indexes = "SELECT schemaname, indexname, indexdef FROM pg_indexes WHERE tablename = 'db_log' ORDER BY indexname"
        sequences = "SELECT schemaname, sequencename, data_type::text FROM pg_sequences"
        return [*await self.fetch(columns), *await self.fetch(indexes), *await self.fetch(sequences)]


@pytest.fixture
def url(empty_url: str) -> str:
    return empty_url


@pytest.fixture
def database(url: str) -> Database:
    return Database(url)


@pytest.fixture
async def role(postgres_url: str) -> AsyncIterator[str]:
    """Make a role that may log in and nothing else."""
    database = Database(postgres_url)
    name = f"role_{uuid.uuid4().hex}"
    await database.run(f"REVOKE ALL ON SCHEMA public FROM PUBLIC; CREATE ROLE {name} LOGIN")
    yield name
    await database.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


def as_role(url: str, role: str) -> str:
    return url.replace("postgres@", f"{role}@")


def granted(script: str, role: str) -> str:
    """Return the statements of the template, for a role."""
    return "\n".join(re.findall(r"^-- +(GRANT .*;)$", script, re.MULTILINE)).replace("pipelines", role)


async def use(store: DBRunLogStore) -> None:
    """Do all that a store can."""
    async with store:
        await store.create_run_log("run", tag="t")
        await store.set_parameters("run", {"lr": 0.1})
        await store.set_run_config("run", {"a": 1})
        for name in ("load", "train"):
            await store.add_step_log(StepLog(name=name, internal_name=name), "run")
        await store.add_step_log(StepLog(name="load", internal_name="load", status=SUCCESS), "run")
        await store.add_branch_log(store.create_branch_log("fan.a"), "run")
        await store.add_job_log(store.create_job_log(), "run")

        async def watched() -> list[str]:
            return [fragment.name async for fragment in store.watch("run")]

        watching = asyncio.create_task(watched())
        await store.update_run_log_status("run", SUCCESS)
        assert "load" in await watching
        assert list((await store.get_run_log_by_id("run")).steps) == ["load", "train"]
        assert [summary.run_id async for summary in store.list_run_logs(tag="t", status=SUCCESS)] == ["run"]
        await store.delete_run_log("run")
        assert [summary.run_id async for summary in store.list_run_logs()] == []


async def test_the_script_makes_what_create_tables_makes(database: Database, tmp_path: Path) -> None:
    script = table_sql(database.dialect)
    await database.run(script)
    made = await database.layout()
    await database.run(script)
    await create_tables(database.url)
    assert await database.layout() == made
    await use(DBRunLogStore(connection_string=database.url))
    if database.dialect == "sqlite":
        other = Database(f"sqlite:///{tmp_path}/other.db")
    else:
        await database.run("DROP TABLE db_log; DROP SEQUENCE id_seq")
        other = database
    await create_tables(other.url)
    assert await other.layout() == made


async def test_the_script_completes_a_table_of_magnus(database: Database) -> None:
    await database.run(MAGNUS_SQLITE if database.dialect == "sqlite" else MAGNUS_POSTGRES)
    await database.run(table_sql(database.dialect))
    made = await database.layout()
    await create_tables(database.url)
    assert await database.layout() == made
    await use(DBRunLogStore(connection_string=database.url))


async def test_the_script_tells_of_duplicates(database: Database) -> None:
    await database.run(MAGNUS_SQLITE if database.dialect == "sqlite" else MAGNUS_POSTGRES)
    values = ", ".join(f"({pk}, 'run', 'load', 'StepLog', '{pk}')" for pk in (1, 2, 3))
    columns = "(pk, run_id, attribute_key, attribute_type, attribute_value)"
    await database.run(f"INSERT INTO db_log {columns} VALUES {values}, (4, 'run', 'lr', 'Parameter', '1')")
    if database.dialect != "sqlite":
        await database.run("SELECT setval('id_seq', 4)")
    script = table_sql(database.dialect)
    with pytest.raises((sqlite3.IntegrityError, asyncpg.UniqueViolationError)):
        await database.run(script)
    comments = re.sub(r"^-- ?", "", script, flags=re.MULTILINE)
    [finding] = re.findall(r"SELECT run_id, .*?;", comments, re.DOTALL)
    assert await database.fetch(finding) == [("run", "StepLog", "load", 3)]
    [keeping] = re.findall(r"DELETE FROM .*?;", comments, re.DOTALL)
    await database.run(keeping)
    assert sorted(await database.fetch("SELECT pk FROM db_log")) == [(3,), (4,)]
    await database.run(script)
    await use(DBRunLogStore(connection_string=database.url))


@pytest.mark.parametrize("schema", ["", "Team logs"])
async def test_a_role_needs_the_rights_that_the_script_names(postgres_url: str, role: str, schema: str) -> None:
    database = Database(postgres_url)
    script = table_sql("postgresql", schema)
    await database.run(f'CREATE SCHEMA IF NOT EXISTS "{schema or "public"}";{script}')
    url = as_role(postgres_url, role)
    with pytest.raises(AccessDeniedError) if schema else pytest.raises(Exception, match="no table db_log"):
        await DBRunLogStore(connection_string=url, schema=schema).open()
    await database.run(granted(script, role))
    await use(DBRunLogStore(connection_string=url, schema=schema))
    # Nothing is missing, so nothing needs to be allowed.
    made = await database.layout()
    await create_tables(url, schema=schema)
    assert await database.layout() == made


@pytest.mark.parametrize("number", range(3))
async def test_each_of_these_rights_is_needed(postgres_url: str, role: str, number: int) -> None:
    database = Database(postgres_url)
    script = table_sql("postgresql", "logs")
    await database.run(f"CREATE SCHEMA logs;{script}")
    grants = granted(script, role).splitlines()
    assert len(grants) == 3
    await database.run("\n".join(grants[:number] + grants[number + 1 :]))
    with pytest.raises(AccessDeniedError):
        await use(DBRunLogStore(connection_string=as_role(postgres_url, role), schema="logs"))


async def test_a_role_without_rights_is_told_which_it_lacks(postgres_url: str, role: str) -> None:
    await create_tables(postgres_url)
    await Database(postgres_url).run(f"GRANT USAGE ON SCHEMA public TO {role}")
    async with DBRunLogStore(connection_string=as_role(postgres_url, role)) as store:
        with pytest.raises(AccessDeniedError, match=r"grant the role SELECT, INSERT, UPDATE and DELETE"):
            await store.create_run_log("run")


def test_mysql_gets_names_that_it_can_index_and_tell_apart() -> None:
    script = table_sql("mysql", "team")
    for line in (
        "run_id VARCHAR(200) COLLATE utf8mb4_bin,",
        "attribute_key VARCHAR(540) COLLATE utf8mb4_bin,",
        "attribute_value LONGTEXT COLLATE utf8mb4_bin,",
        "created_at DATETIME(6),",
        "CREATE UNIQUE INDEX db_log_fragment ON team.db_log (run_id, attribute_type, attribute_key);",
    ):
        assert line in script
    assert "SEQUENCE" not in script
    # The longest key that InnoDB indexes, at four bytes a character.
    assert (200 + 540 + 20) * 4 <= 3072


def test_no_index_is_over_the_json() -> None:
    columns = {column.name for index in log_table().indexes for column in index.columns}
    assert columns == {"run_id", "attribute_type", "attribute_key", "created_at"}


class TestCommand:
    @pytest.fixture(autouse=True)
    def working_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def configure(self, folder: Path, **options: Any) -> str:
        path = folder / "asyncstore.yaml"
        path.write_text(yaml.safe_dump({"run_log_store": {"type": "db", "config": options}}))
        return str(path)

    def test_it_prints_the_script_and_connects_to_nothing(
        self, working_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = self.configure(working_folder, connection_string="postgresql://nobody:${secret}@nowhere/x", schema="s")
        assert run(["--config", config, "db", "sql"]) == 0
        assert capsys.readouterr() == (table_sql("postgresql", "s"), "")
        assert run(["--config", config, "db", "sql", "--schema", "t", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"sql": table_sql("postgresql", "t")}
        assert run(["--config", config, "db", "sql", "--dialect", "MySQL"]) == 0
        assert capsys.readouterr().out == table_sql("mysql")
        assert [path.name for path in working_folder.iterdir()] == ["asyncstore.yaml"]

    @pytest.mark.parametrize(
        ("url", "dialect"),
        [
            ("sqlite:///x.db", "sqlite"),
            ("postgres+asyncpg://h/x", "postgresql"),
            ("mariadb+asyncmy://h/x", "mysql"),
            ("${url}", "postgresql"),
        ],
    )
    def test_it_speaks_as_the_configured_database(
        self, working_folder: Path, capsys: pytest.CaptureFixture[str], url: str, dialect: str
    ) -> None:
        config = self.configure(working_folder, connection_string=url)
        assert run(["--config", config, "db", "sql"]) == 0
        assert capsys.readouterr().out == table_sql(dialect)

    def test_without_configuration_it_is_for_postgres(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["db", "sql"]) == 0
        assert capsys.readouterr().out == table_sql("postgresql")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["db", "sql", "--dialect", "oracle"],
                "error: dialect 'oracle' is not known; known are postgresql, sqlite",
            ),
            (["db", "sql", "--dialect", "sqlite", "--schema", "s"], "error: schema 's': SQLite has no schemas"),
            (["db", "create-tables", "sqlite:///x.db", "--schema", "s"], "error: schema 's': SQLite has no schemas"),
        ],
    )
    def test_what_goes_wrong(
        self, working_folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
    ) -> None:
        assert run(arguments) == 2
        assert capsys.readouterr().err.startswith(message)
        assert list(working_folder.glob("*.db")) == []

    def test_tables_are_made_in_the_schema_that_is_named(
        self, postgres_url: str, working_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        database = Database(postgres_url)
        asyncio.run(database.run("CREATE SCHEMA a; CREATE SCHEMA b"))
        assert run(["db", "create-tables", postgres_url, "--schema", "a"]) == 0
        config = self.configure(
            working_folder, connection_string=postgres_url, schema="b", pool_size=3, durability="relaxed"
        )
        assert run(["--config", config, "db", "create-tables"]) == 0
        found = asyncio.run(database.fetch("SELECT schemaname::text FROM pg_tables WHERE tablename = 'db_log'"))
        assert sorted(found) == [("a",), ("b",)]
        assert run(["db", "create-tables", postgres_url, "--schema", "none"]) == 2
        assert "check the schema's name" in capsys.readouterr().err
