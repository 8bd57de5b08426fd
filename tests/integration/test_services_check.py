from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from asyncstore import open_services
from asyncstore.bucket.documents import BucketAccess, user_policy
from asyncstore.runlog.db import create_tables
from asyncstore.services import _checking
from asyncstore.services.configuration import parse_configuration
from tests._watched import WatchedStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from asyncstore.services import ServiceCheck
    from asyncstore.testing.pgbouncer import PgBouncer
    from asyncstore.testing.s3_stub._storage import BucketContent
    from asyncstore.testing.servers import Bucket

NOBODY = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def on_s3(bucket: Bucket, layout: str = "chunked-s3", **more: object) -> dict[str, Any]:
    return {"type": layout, "config": {**bucket.options, **more}}


def in_database(url: str, **more: object) -> dict[str, Any]:
    return {
        "run_log_store": {"type": "db", "config": {"connection_string": url, **more}},
        "catalog": {"type": "do-nothing"},
    }


async def checked(config: dict[str, Any], store: str | None = None) -> list[ServiceCheck]:
    async with open_services(config, store=store) as services:
        return await services.check()


def problems(found: Iterable[ServiceCheck]) -> dict[tuple[str, str], str]:
    return {(one.service, one.check): one.detail for one in found if one.state in {"missing", "failed"}}


def states(found: Iterable[ServiceCheck]) -> dict[str, str]:
    return {one.check: one.state for one in found}


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def test_a_bucket_is_checked_once_for_all_that_use_it_alike(
    stub: WatchedStub, bucket: Bucket, content: BucketContent
) -> None:
    both = {"run_log_store": on_s3(bucket, prefix="team"), "catalog": on_s3(bucket, "s3", prefix="/team/")}
    async with open_services(both) as services:
        stub.seen.clear()
        found = await services.check()
    assert problems(found) == {}
    assert {one.service for one in found} == {"run_log_store", "catalog"}
    assert len(stub.requests_for("CopyObject")) == 1
    assert (content.objects, content.uploads) == ({}, {})
    apart = {"run_log_store": on_s3(bucket, prefix="logs"), "catalog": on_s3(bucket, "s3", prefix="data")}
    stub.seen.clear()
    await checked(apart)
    copies = stub.requests_for("CopyObject")
    assert sorted(request.key.split("/")[0] for request in copies) == ["data", "logs"]


async def test_what_is_missing_is_told_with_what_grants_it(stub: WatchedStub, bucket: Bucket) -> None:
    document = user_policy(BucketAccess(bucket=bucket.name, region=bucket.server.region))
    for statement in document["Statement"]:
        statement["Action"] = [action for action in statement["Action"] if action != "s3:AbortMultipartUpload"]
    stub.behaviour.policies = {"*": document}
    found = await checked({"run_log_store": on_s3(bucket), "catalog": {"type": "do-nothing"}})
    (missing,) = [one for one in found if one.state == "missing"]
    assert (missing.service, missing.check) == ("run_log_store", "multipart abort")
    assert missing.permission == "s3:AbortMultipartUpload"
    assert missing.statement is not None
    assert missing.statement["Resource"] == [f"arn:aws:s3:::{bucket.name}/*"]
    with pytest.raises(AttributeError):
        missing.state = "ok"  # type: ignore[misc]


async def test_a_server_that_went_away_is_a_finding(working_folder: Path) -> None:
    async with WatchedStub() as stub:
        bucket = stub.make_bucket("logs")
        services = open_services({"run_log_store": on_s3(bucket), "catalog": {"type": "do-nothing"}})
        await services.open()
    found = await services.check()
    await services.aclose()
    (one,) = found
    assert (one.check, one.state) == ("reach", "failed")
    assert "connection refused" in one.detail


async def test_one_document_per_run_needs_conditions(stub: WatchedStub, bucket: Bucket) -> None:
    config = {"run_log_store": on_s3(bucket, "s3"), "catalog": on_s3(bucket, "s3")}
    async with open_services(config) as services:
        stub.behaviour.ignores_conditions = True
        found = await services.check()
    assert problems(found).keys() == {("run_log_store", "conditional create"), ("run_log_store", "conditional match")}
    in_catalog = [one for one in found if one.service == "catalog" and one.state == "unsupported"]
    assert {one.check for one in in_catalog} == {"conditional create", "conditional match"}


async def test_a_store_that_may_not_be_written_is_only_looked_at(stub: WatchedStub, bucket: Bucket) -> None:
    config = {
        "stores": {"archive": {"run_log_store": on_s3(bucket), "catalog": on_s3(bucket, "s3"), "allow_write": False}}
    }
    assert problems(await checked(config)) == {}
    assert all(request.method in {"GET", "HEAD"} for request in stub.seen)


async def test_placeholders_are_filled(stub: WatchedStub, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "team")
    config = {
        "run_log_store": on_s3(bucket, prefix="${PLACE}/logs"),
        "catalog": {"type": "do-nothing"},
        "secrets": {"type": "env-secrets"},
    }
    assert problems(await checked(config)) == {}
    assert all(request.key.startswith("team/logs/") for request in stub.seen if request.key)


async def test_the_embedded_default(working_folder: Path) -> None:
    found = await checked({})
    assert problems(found) == {}
    of_runs = [one for one in found if one.service == "run_log_store"]
    assert states(of_runs).keys() == {
        *("connect", "table", "unique index", "other indexes"),
        *("WAL", "write", "folder", "disk"),
    }
    assert {one.state for one in of_runs} <= {"ok", "note"}
    # It is made when it is needed.
    catalog = {one.check: one.detail for one in found if one.service == "catalog"}
    assert "is made with the first write" in catalog["folder"]
    assert not (working_folder / ".asyncstore" / "catalog").exists()


async def test_folders(working_folder: Path) -> None:
    config = {
        "run_log_store": {"type": "file-system", "config": {"log_folder": "logs"}},
        "catalog": {"type": "file-system", "config": {"catalog_location": "data"}},
    }
    for name in ("logs", "data"):
        (working_folder / name).mkdir()
    found = await checked(config)
    assert problems(found) == {}
    assert states(found).items() >= {"folder": "ok", "write": "ok", "conditional match": "ok"}.items()
    assert [name for _, _, names in os.walk(working_folder) for name in names] == []


@NOBODY
async def test_a_folder_that_cannot_be_written(working_folder: Path) -> None:
    (working_folder / "logs").mkdir(mode=0o500)
    config = {
        "run_log_store": {"type": "chunked-fs", "config": {"log_folder": "logs"}},
        "catalog": {"type": "do-nothing"},
    }
    assert "not writable" in problems(await checked(config))["run_log_store", "folder"]


async def test_a_file_in_the_place_of_a_folder(working_folder: Path) -> None:
    checker = _checking.Checker(None)  # type: ignore[arg-type]
    (working_folder / "logs").write_text("")
    configuration = _checking_configuration("chunked-fs", {"log_folder": "logs/here"})
    (found,) = [one for one in await checker.findings(configuration, "run_log_store") if one.is_problem]
    assert "is not a folder" in found.detail


def _checking_configuration(kind: str, options: dict[str, Any]) -> Any:
    return parse_configuration({"run_log_store": {"type": kind, "config": options}}, "test")


async def test_stores_without_a_place_have_nothing_to_check() -> None:
    assert await checked({"run_log_store": {"type": "buffered"}, "catalog": {"type": "do-nothing"}}) == []


class TestSqlite:
    @pytest.fixture
    async def url(self, sqlite_url: str) -> str:
        await create_tables(sqlite_url)
        return sqlite_url

    def path(self, url: str) -> str:
        return url.removeprefix("sqlite:///")

    async def test_all_is_well(self, url: str) -> None:
        found = await checked(in_database(url))
        assert problems(found) == {}
        assert states(found)["WAL"] == states(found)["write"] == "ok"

    async def test_an_index_that_is_gone(self, url: str) -> None:
        async with open_services(in_database(url)) as services:
            await asyncio.to_thread(self.execute, url, "DROP INDEX db_log_fragment", "DROP INDEX db_log_order")
            found = await services.check()
        assert problems(found).keys() == {("run_log_store", "unique index")}
        assert states(found)["other indexes"] == "note"

    async def test_a_table_that_is_gone(self, url: str) -> None:
        async with open_services(in_database(url)) as services:
            await asyncio.to_thread(self.execute, url, "DROP TABLE db_log")
            found = await services.check()
        assert "asyncstore db create-tables" in problems(found)["run_log_store", "table"]

    async def test_a_file_that_is_gone(self, url: str) -> None:
        async with open_services(in_database(url)) as services:
            await asyncio.to_thread(Path(self.path(url)).unlink)
            found = await services.check()
            assert not await asyncio.to_thread(Path(self.path(url)).exists)
        assert problems(found).keys() == {("run_log_store", "reach")}

    async def test_somebody_who_writes_all_the_time(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("asyncstore.runlog.db._checking.LOCK_TIMEOUT_S", 0.1)
        async with open_services(in_database(url)) as services:
            other = await asyncio.to_thread(sqlite3.connect, self.path(url), check_same_thread=False)
            await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
            found = await services.check()
            await asyncio.to_thread(other.close)
        assert states(found)["write"] == "note"

    async def test_nothing_is_written(self, url: str) -> None:
        before = await asyncio.to_thread(Path(self.path(url)).read_bytes)
        await checked(in_database(url))
        assert await asyncio.to_thread(Path(self.path(url)).read_bytes) == before

    def execute(self, url: str, *statements: str) -> None:
        connection = sqlite3.connect(self.path(url))
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()


class TestPostgres:
    @pytest.fixture
    async def url(self, postgres_url: str) -> str:
        await create_tables(postgres_url)
        return postgres_url

    @pytest.fixture
    async def role(self, url: str) -> AsyncIterator[tuple[str, Callable[..., Any]]]:
        """Give the URL of a role that may do nothing, and what executes as the owner."""
        owner = await asyncpg.connect(url)
        name = f"role_{os.urandom(6).hex()}"
        await owner.execute(f"CREATE ROLE {name} LOGIN")
        yield url.replace("postgres@", f"{name}@"), lambda text: owner.execute(text.format(role=name))
        await owner.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
        await owner.close()

    async def test_all_is_well(self, url: str) -> None:
        found = await checked(in_database(url))
        assert problems(found) == {}
        assert {one.state for one in found} == {"ok"}
        assert states(found).keys() == {
            *("connect", "table", "unique index", "other indexes"),
            *("select", "insert", "update", "delete", "sequence", "pgbouncer"),
        }

    @pytest.mark.parametrize("privilege", ["INSERT", "UPDATE", "DELETE"])
    async def test_each_privilege(self, role: tuple[str, Callable[..., Any]], privilege: str) -> None:
        url, execute = role
        await execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON db_log TO {role}; GRANT USAGE ON SEQUENCE id_seq TO {role}"
        )
        await execute(f"REVOKE {privilege} ON db_log FROM {{role}}")
        found = await checked(in_database(url))
        (missing,) = [one for one in found if one.state == "missing"]
        assert (missing.check, missing.permission) == (privilege.lower(), privilege)
        assert missing.statement is not None
        await execute(missing.statement["sql"].replace("{", "{{"))
        assert problems(await checked(in_database(url))) == {}

    async def test_the_sequence(self, role: tuple[str, Callable[..., Any]]) -> None:
        url, execute = role
        await execute("GRANT SELECT, INSERT, UPDATE, DELETE ON db_log TO {role}")
        assert problems(await checked(in_database(url))).keys() == {("run_log_store", "sequence")}

    async def test_a_reader_needs_no_more_than_to_read(self, role: tuple[str, Callable[..., Any]]) -> None:
        url, execute = role
        await execute("GRANT SELECT ON db_log TO {role}")
        stores = {"archive": {**in_database(url), "allow_write": False}}
        found = await checked({"stores": stores})
        assert problems(found) == {}
        assert states(found)["insert"] == "skipped"

    async def test_a_database_that_takes_no_writes(self, role: tuple[str, Callable[..., Any]]) -> None:
        url, execute = role
        await execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON db_log TO {role}; GRANT USAGE ON SEQUENCE id_seq TO {role}"
        )
        await execute("ALTER ROLE {role} SET default_transaction_read_only = on")
        assert problems(await checked(in_database(url))).keys() == {("run_log_store", "writable")}

    async def test_a_pooler(self, pgbouncer: PgBouncer, url: str) -> None:
        through = pgbouncer.url_of(url)
        found = {one.check: one for one in await checked(in_database(through, pgbouncer=True))}
        assert found["pgbouncer"].state == "ok"
        assert "a pooler stands between" in found["pgbouncer"].detail
        assert problems(found.values()) == {}
        direct = {one.check: one for one in await checked(in_database(url, pgbouncer=True))}
        assert direct["pgbouncer"].state == "note"
        assert "no pooler stands between" in direct["pgbouncer"].detail
