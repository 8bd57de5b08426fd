"""``asyncstore config check`` tries what each service of a file does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from asyncstore.bucket.documents import BucketAccess, user_policy
from asyncstore.cli._app import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.servers import Bucket


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], str]:
    monkeypatch.chdir(tmp_path)

    def write(document: dict[str, Any]) -> str:
        path = tmp_path / "asyncstore.yaml"
        path.write_text(yaml.safe_dump(document))
        return str(path)

    return write


@pytest.fixture
def services(stub_bucket: Bucket) -> dict[str, Any]:
    options = {**stub_bucket.options, "prefix": "team"}
    return {"run_log_store": {"type": "chunked-s3", "config": options}, "catalog": {"type": "s3", "config": options}}


def allow_all_but(action: str, server: StubServer, bucket: Bucket) -> None:
    document = user_policy(BucketAccess(bucket=bucket.name, prefixes=("team/",), region=bucket.server.region))
    for statement in document["Statement"]:
        statement["Action"] = [known for known in statement["Action"] if known != action]
    document["Statement"] = [statement for statement in document["Statement"] if statement["Action"]]
    server.configure(policies={"*": document})


def test_where_all_is_well_there_is_the_table_and_nothing_else(
    config: Callable[[dict[str, Any]], str], services: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["config", "check", "--config", config(services)]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["SERVICE", "TYPE", "STATE"],
        ["secrets", "do-nothing", "✓"],
        ["run_log_store", "chunked-s3", "✓"],
        ["catalog", "s3", "✓"],
    ]
    # Both have the same bucket, prefix and settings.
    assert err.startswith("run_log_store, catalog: lifecycle: no rule")
    assert len(err.splitlines()) == 1


def test_all_shows_each_check(
    config: Callable[[dict[str, Any]], str], services: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    del services["catalog"]
    assert run(["config", "check", "--all", "--config", config(services)]) == 0
    out = capsys.readouterr().out
    for words in ("run_log_store  multipart abort", "run_log_store  put", "catalog        folder"):
        assert words in out


def test_what_is_missing(
    config: Callable[[dict[str, Any]], str],
    services: dict[str, Any],
    stub_bucket: Bucket,
    s3_stub: StubServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    allow_all_but("s3:DeleteObject", s3_stub, stub_bucket)
    path = config(services)
    assert run(["config", "check", "--config", path]) == 4
    out = capsys.readouterr().out
    assert "run_log_store  chunked-s3  ✗ failed" in out
    assert "run_log_store, catalog  delete  ✗ missing" in out
    assert json.loads(out[out.index("{") :])["Statement"][0]["Action"] == ["s3:DeleteObject"]
    assert run(["config", "check", "--config", path, "--json"]) == 4
    checks = json.loads(capsys.readouterr().out)
    assert [(check["service"], check["ok"], check["exit_code"]) for check in checks] == [
        ("secrets", True, 0),
        ("run_log_store", False, 4),
        ("catalog", False, 4),
    ]
    assert all("store" not in check for check in checks)
    (missing,) = [finding for finding in checks[1]["checks"] if finding["state"] == "missing"]
    assert (missing["check"], missing["permission"]) == ("delete", "s3:DeleteObject")


def test_a_service_that_cannot_be_opened_is_still_told_why(
    config: Callable[[dict[str, Any]], str],
    services: dict[str, Any],
    stub_bucket: Bucket,
    s3_stub: StubServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    allow_all_but("s3:ListBucket", s3_stub, stub_bucket)
    assert run(["config", "check", "--config", config(services), "--json"]) == 4
    checks = json.loads(capsys.readouterr().out)
    assert "a permission is missing" in checks[1]["error"]
    named = {finding["permission"] for finding in checks[1]["checks"] if finding["state"] == "missing"}
    assert named == {"s3:ListBucket"}


def test_each_of_several_stores(
    config: Callable[[dict[str, Any]], str],
    services: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = {"catalog": {"type": "do-nothing"}, "run_log_store": {"type": "buffered"}}
    path = config({"stores": {"main": {**services, "default": True}, "archive": archive}})
    assert run(["config", "check", "--config", path]) == 0
    out, _ = capsys.readouterr()
    rows = [line.split()[:3] for line in out.splitlines()]
    assert rows[0] == ["STORE", "SERVICE", "TYPE"]
    assert sorted(row[:2] for row in rows[2:]) == [
        ["archive", "catalog"],
        ["archive", "run_log_store"],
        ["main", "catalog"],
        ["main", "run_log_store"],
    ]
    assert run(["config", "check", "--config", path, "--store", "archive", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert [check.get("store") for check in checks] == [None, "archive", "archive"]


def test_a_database_without_its_table(
    config: Callable[[dict[str, Any]], str], postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config({"run_log_store": {"type": "db", "config": {"connection_string": postgres_url}}})
    assert run(["config", "check", "--config", path]) == 2
    assert "run_log_store  table  ✗ missing" in capsys.readouterr().out
    assert run(["db", "create-tables", "--config", path]) == 0
    capsys.readouterr()
    assert run(["config", "check", "--config", path, "--all"]) == 0
    out = capsys.readouterr().out
    assert "run_log_store  pgbouncer" in out
    assert "✗" not in out


def test_a_server_that_is_down_is_tried_once(
    config: Callable[[dict[str, Any]], str], services: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    services["run_log_store"]["config"]["endpoint_url"] = "http://127.0.0.1:9"
    del services["catalog"]
    assert run(["config", "check", "--config", config(services), "--json"]) == 5
    found = json.loads(capsys.readouterr().out)[1]
    assert (found["ok"], found["checks"]) == (False, [])
    assert "connection refused" in found["error"]
