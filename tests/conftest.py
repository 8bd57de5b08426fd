"""Real servers, one of each for a test worker; a bucket or database for each test; checks that nothing leaks."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from typing import TYPE_CHECKING

import hypothesis
import pytest
from blockbuster import BlockBuster

from asyncstore.runlog.db import create_tables
from asyncstore.testing.pgbouncer import PgBouncer, is_installed, pgbouncer_server
from asyncstore.testing.postgres import PostgresServer, postgres_server
from asyncstore.testing.s3_stub import StubServer, s3_stub_server
from asyncstore.testing.servers import Bucket, S3Server, moto_server, rclone_server
from tests._watched import WatchedStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from asyncstore.testing.s3_stub._storage import BucketContent

ALLOWED_TO_BLOCK = (
    # botocore looks for customised models that nobody has each time a client is made; the models are cached.
    ("botocore/loaders.py", ("_potential_locations",)),
    # asyncpg looks for a password file, as every client of PostgreSQL does.
    ("asyncpg/connect_utils.py", ("_parse_connect_dsn_and_args",)),
)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So do shells start what runs in the background, and commands that are to be interrupted would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines differ in speed, and a run of the tests should not depend on luck: sweeps do the searching.
hypothesis.settings.register_profile("default", max_examples=40, deadline=None, derandomize=True)
hypothesis.settings.register_profile("sweep", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Take away what the machine says of AWS, proxies and asyncstore, and give the test servers' keys."""
    for name in list(os.environ):
        if name.upper().startswith(("AWS_", "ASYNCSTORE_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    nowhere = tmp_path_factory.getbasetemp() / "no-such-file"
    for name, value in {
        **S3Server("").environment,
        "AWS_CONFIG_FILE": str(nowhere),
        "AWS_SHARED_CREDENTIALS_FILE": str(nowhere),
        "AWS_EC2_METADATA_DISABLED": "true",
        # It is made only by what remembers something.
        "ASYNCSTORE_CACHE_DIR": str(tmp_path_factory.getbasetemp() / f"cache-{uuid.uuid4().hex}"),
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def nothing_blocks() -> Iterator[None]:
    """Fail what asyncstore calls on the event loop and that would block it."""
    buster = BlockBuster("asyncstore", excluded_modules=["asyncstore.testing"])
    # It asks for the working directory at most, and SQLAlchemy does so for each engine on SQLite.
    del buster.functions["os.path.abspath"]
    for function in buster.functions.values():
        for module, names in ALLOWED_TO_BLOCK:
            function.can_block_in(module, names)
    buster.activate()
    yield
    buster.deactivate()


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Fail a test after which tasks still run, its fixtures closed."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """Run moto."""
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def rclone() -> Iterator[S3Server]:
    """Run rclone's S3 server."""
    with rclone_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Run PostgreSQL."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def moto_bucket(moto: S3Server) -> Bucket:
    """Return an empty bucket on moto."""
    return moto.make_bucket(f"test-{uuid.uuid4().hex}")


@pytest.fixture
def rclone_bucket(rclone: S3Server) -> Bucket:
    """Return an empty bucket on rclone."""
    return rclone.make_bucket(f"test-{uuid.uuid4().hex}")


@pytest.fixture
async def postgres_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """Give the URL of an empty database."""
    async with postgres.database() as url:
        yield url


@pytest.fixture(scope="session")
def pgbouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    """Run pgbouncer before PostgreSQL, in transaction mode."""
    if not is_installed():
        pytest.skip("there is no pgbouncer on this machine: apt-get install pgbouncer")
    with pgbouncer_server(postgres) as server:
        yield server


@pytest.fixture
def pgbouncer_url(pgbouncer: PgBouncer, postgres_url: str) -> str:
    """Return the URL of an empty database, which is reached through pgbouncer."""
    return pgbouncer.url_of(postgres_url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Return the URL of a database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'run-log.db'}"


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database: SQLite, and PostgreSQL."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
async def url(empty_url: str) -> str:
    """Return the URL of a database with its tables: SQLite, and PostgreSQL."""
    await create_tables(empty_url)
    return empty_url


@pytest.fixture(scope="session")
def s3_stub_process() -> Iterator[StubServer]:
    """Run the S3 stub; tests take ``s3_stub``, which is clean."""
    with s3_stub_server() as server:
        yield server


@pytest.fixture
def s3_stub(s3_stub_process: StubServer) -> StubServer:
    """Return the S3 stub without faults, latency and counts of other tests."""
    s3_stub_process.restore()
    return s3_stub_process


@pytest.fixture
def stub_bucket(s3_stub: StubServer) -> Bucket:
    """Return an empty bucket on the S3 stub, which has not counted how it was made."""
    bucket = s3_stub.make_bucket(f"test-{uuid.uuid4().hex}")
    s3_stub.reset()
    return bucket


@pytest.fixture
async def stub() -> AsyncIterator[WatchedStub]:
    """Run an S3 stub on the test's own loop, which sees each request and may be told what to answer."""
    async with WatchedStub() as stub:
        yield stub


@pytest.fixture
def bucket(stub: WatchedStub) -> Bucket:
    """Return an empty bucket on that stub."""
    return stub.make_bucket(f"test-{uuid.uuid4().hex}")


@pytest.fixture
def content(stub: WatchedStub, bucket: Bucket) -> BucketContent:
    """Return what is in that bucket."""
    return stub.storage.bucket(bucket.name)
