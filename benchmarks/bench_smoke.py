"""
Speed at a glance: adds on chunked-s3 and db, and a small catalog put, beside what one would write by hand.

Everything runs against servers in processes of their own (the in-memory S3 of asyncstore.testing, SQLite, PostgreSQL
where its wheel is installed), interleaved, several rounds, medians; what was written is read back and compared. Peers
get the same concurrency and fair settings: no payload hashing over plain http, a connection pool as large as the
concurrency.

    python benchmarks/bench_smoke.py [--rounds 5] [--adds 1000] [--files 500] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from harness.report import align, number
from harness.s3 import aioboto3_client
from harness.work import TASKS, spread, step_fields
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from asyncstore import ChunkedS3RunLogStore, DBRunLogStore, S3Catalog, StepLog, create_tables
from asyncstore.testing.s3_stub import s3_stub_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncstore import RunLogStore
    from asyncstore.testing.servers import S3Server

FILE_BYTES = 4096

Timed = Callable[[], Awaitable[float]]

# The table as the documents give it, for those who would write to it by hand.
DB_LOG = sa.Table(
    "db_log",
    sa.MetaData(),
    sa.Column("pk", sa.Integer, sa.Sequence("id_seq"), primary_key=True),
    sa.Column("run_id", sa.Text),
    sa.Column("attribute_key", sa.Text),
    sa.Column("attribute_type", sa.Text),
    sa.Column("attribute_value", sa.Text),
    sa.Column("created_at", sa.DateTime, server_default=sa.func.now(), default=sa.func.now()),
)


@dataclass
class Case:
    """One row of the table: our way and the plain way, each returning the seconds it took."""

    name: str
    unit: str
    count: int
    ours: Timed
    peer_name: str
    peer: Timed
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"ours": [], "peer": []})

    async def round(self) -> None:
        """Measure both once."""
        self.seconds["ours"].append(await self.ours())
        self.seconds["peer"].append(await self.peer())

    def rate(self, who: str) -> float:
        """Return the median of what was done in a second."""
        return self.count / statistics.median(self.seconds[who])

    @property
    def ratio(self) -> float:
        """How many times as fast ours is."""
        return self.rate("ours") / self.rate("peer")


def step(number: int) -> StepLog:
    return StepLog.model_validate(step_fields(number))


async def add_steps(store: RunLogStore, count: int) -> float:
    run_id = f"run-{uuid.uuid4().hex}"
    await store.create_run_log(run_id)
    steps = [step(number) for number in range(count)]
    seconds = await spread(lambda number: store.add_step_log(steps[number], run_id), count)
    found = await store.get_run_log_by_id(run_id)
    assert found.steps == {item.internal_name: item for item in steps}
    return seconds


async def s3_cases(
    server: S3Server, stack: contextlib.AsyncExitStack, folder: Path, adds: int, files: int
) -> list[Case]:
    bucket = server.make_bucket("bench")
    client = await stack.enter_async_context(aioboto3_client(server.endpoint_url, server.region))
    store = await stack.enter_async_context(ChunkedS3RunLogStore(**bucket.options, prefix="logs"))
    contents = {f"{number // 100}/{number}.bin": os.urandom(FILE_BYTES) for number in range(files)}
    data = folder / "data"
    for name, content in contents.items():
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    catalog = await stack.enter_async_context(
        S3Catalog(**bucket.options, prefix="catalog", compute_data_folder=str(data))
    )

    async def put_objects() -> float:
        prefix = f"plain/{uuid.uuid4().hex}"
        bodies = [step(number).model_dump_json().encode() for number in range(adds)]

        async def put(number: int) -> None:
            await client.put_object(Bucket="bench", Key=f"{prefix}/{number}.json", Body=bodies[number])

        return await spread(put, adds)

    async def put_catalog() -> float:
        start = time.perf_counter()
        entries = await catalog.put("**/*", f"run-{uuid.uuid4().hex}")
        seconds = time.perf_counter() - start
        assert len(entries) == files
        return seconds

    async def put_files() -> float:
        prefix = f"plain/{uuid.uuid4().hex}"
        names = list(contents)

        async def put(number: int) -> None:
            body = await asyncio.to_thread((data / names[number]).read_bytes)
            await client.put_object(Bucket="bench", Key=f"{prefix}/{names[number]}", Body=body)

        return await spread(put, files)

    return [
        Case("chunked-s3: 64 tasks add", "steps/s", adds, lambda: add_steps(store, adds), "aioboto3 put_object",
             put_objects),
        Case("s3 catalog: put 4 KiB files, hashed", "files/s", files, put_catalog, "aioboto3 put_object, unhashed",
             put_files),
    ]  # fmt: skip


async def database_case(name: str, url: str, async_url: str, stack: contextlib.AsyncExitStack, adds: int) -> Case:
    await create_tables(url)
    store = await stack.enter_async_context(DBRunLogStore(connection_string=url))
    engine = create_async_engine(async_url, pool_size=TASKS, max_overflow=0)
    stack.push_async_callback(engine.dispose)
    return Case(
        f"{name}: 64 tasks add", "steps/s", adds, lambda: add_steps(store, adds),
        "SQLAlchemy, one transaction per row", lambda: insert_rows(engine, adds),
    )  # fmt: skip


async def insert_rows(engine: AsyncEngine, count: int) -> float:
    run_id = uuid.uuid4().hex

    async def insert(number: int) -> None:
        row = {
            "run_id": run_id,
            "attribute_key": f"step-{number}",
            "attribute_type": "StepLog",
            "attribute_value": step(number).model_dump_json(),
        }
        async with engine.begin() as connection:
            await connection.execute(sa.insert(DB_LOG), row)

    seconds = await spread(insert, count)
    query = sa.select(sa.func.count()).select_from(DB_LOG).where(DB_LOG.c.run_id == run_id)
    async with engine.connect() as connection:
        found = await connection.scalar(query)
    assert found == count
    return seconds


@contextlib.asynccontextmanager
async def postgres_url() -> AsyncIterator[str | None]:
    """Give the URL of a PostgreSQL, ``None`` where its wheel is not installed."""
    try:
        from asyncstore.testing.postgres import postgres_server
    except ImportError:
        yield None
        return
    with postgres_server() as server:
        async with server.database() as url:
            yield url


async def measure(rounds: int, adds: int, files: int) -> list[Case]:
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asyncstore-bench-")))
        server = stack.enter_context(s3_stub_server())
        os.environ.update(server.environment)
        cases = await s3_cases(server, stack, folder, adds, files)
        path = folder / "run_logs.db"
        cases.append(
            await database_case("db on SQLite", f"sqlite:///{path}", f"sqlite+aiosqlite:///{path}", stack, adds)
        )
        if url := await stack.enter_async_context(postgres_url()):
            async_url = url.replace("postgresql://", "postgresql+asyncpg://", 1)
            cases.append(await database_case("db on PostgreSQL", url, async_url, stack, adds))
        for _ in range(rounds):
            for case in cases:
                await case.round()
    return cases


def report(cases: list[Case]) -> None:
    rows = [["", "asyncstore", "plain", "ratio", "plain is"]]
    for case in cases:
        rates = [number(case.rate(who)) for who in ("ours", "peer")]
        rows.append([f"{case.name}, {case.unit}", *rates, f"{case.ratio:.1f}×", case.peer_name])
    print("\n".join(align(rows, indent="")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default 5)")
    parser.add_argument("--adds", type=int, default=1000, help="step logs added per round (default 1000)")
    parser.add_argument("--files", type=int, default=500, help="files put per round (default 500)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round's seconds there")
    options = parser.parse_args()
    cases = asyncio.run(measure(options.rounds, options.adds, options.files))
    report(cases)
    if options.json:
        rows = [
            {"name": case.name, "unit": case.unit, "count": case.count, "peer": case.peer_name, "ratio": case.ratio,
             "seconds": case.seconds}
            for case in cases
        ]  # fmt: skip
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
