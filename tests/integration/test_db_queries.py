"""Listing runs in a database: what the database decides, what it hands over, which index it uses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import create_async_engine

from asyncstore.models import FAIL, SUCCESS
from asyncstore.runlog._queries import RunQuery
from asyncstore.runlog.db import DBRunLogStore, _listing, create_tables
from asyncstore.runlog.db._schema import log_table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from asyncstore.models import RunSummary

STAMP = datetime(2024, 1, 1, tzinfo=UTC)

NOT_TEXT: list[Any] = [None, 0, 1, 1.0, 1e400, -0.5, True, False, [], {}, ["a"], {"a": "b"}]
TEXTS = [
    "",
    "nightly",
    "None",
    "null",
    "1",
    "True",
    "true",
    "it's",
    '"',
    "%",
    "_",
    "\\",
    "\\u0041",
    "é",
    "e\u0301",
    "🙂",
]
TEXTS += ["\ud83d", "\n", "\x1f", "a\x00b", "a", " a", "{}", "$.tag", ":tag", SUCCESS]
values = st.one_of(st.sampled_from(TEXTS), st.sampled_from(NOT_TEXT), st.text(st.characters(), max_size=4))
headers = st.one_of(
    st.fixed_dictionaries(
        {}, optional={"status": values, "tag": values, "run_config": values, "steps": st.just({"a": {"tag": "a"}})}
    ).flatmap(lambda header: st.sampled_from([json.dumps(header), json.dumps(header, ensure_ascii=False, indent=1)])),
    st.sampled_from(["", "{", "[]", '"a"', "null", "not json", '{"tag": "a"} ', '{"tag": "a", "x": NaN}', None]),
)
wanted = st.one_of(st.none(), st.sampled_from(TEXTS), st.text(st.characters(), max_size=4))
times = st.one_of(st.none(), st.integers(-1, 12).map(lambda seconds: STAMP + timedelta(seconds=seconds)))
queries = st.builds(RunQuery, wanted, wanted, times, times, st.one_of(st.none(), st.integers(0, 5)))


class Logs:
    """A database with an open store on it, and a way to put headers there that no store would write."""

    def __init__(self, url: str, store: DBRunLogStore, engine: AsyncEngine) -> None:
        self.url = url
        self.store = store
        self.engine = engine

    async def put(self, bodies: Sequence[str | None], undated: int = 0) -> None:
        """Replace all runs; ``run-0`` is the oldest, the first ``undated`` have no time of creation."""
        rows = [
            (number + 1, f"run-{number}", body, None if number < undated else STAMP + timedelta(seconds=number))
            for number, body in enumerate(bodies)
        ]
        if self.url.startswith("sqlite"):
            stamped = [(*row[:3], row[3] and f"{row[3]:%Y-%m-%d %H:%M:%S.%f}") for row in rows]
            with contextlib.closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as file, file:
                file.execute("DELETE FROM db_log")
                file.executemany("INSERT INTO db_log VALUES (?, ?, 'run_log', 'RunLog', ?, ?)", stamped)
            return
        async with postgres_connection(self.url) as connection:
            await connection.execute("TRUNCATE db_log")
            await connection.executemany(
                "INSERT INTO db_log VALUES ($1, $2, 'run_log', 'RunLog', $3, $4)",
                [(*row[:3], row[3] and row[3].replace(tzinfo=None)) for row in rows],
            )

    async def listed(self, query: RunQuery) -> list[RunSummary]:
        found = self.store.list_run_logs(
            status=query.status, tag=query.tag, since=query.since, until=query.until, limit=query.limit
        )
        return [summary async for summary in found]

    async def transferred(self, query: RunQuery) -> list[str]:
        """Return the runs that the statements of a listing fetch."""
        conditions = _listing.filters(query, self.engine.dialect)
        assert conditions is not None
        async with self.engine.connect() as connection:
            rows = await connection.execute(_listing.dated(log_table(), query, conditions).limit(query.limit))
            return [row.run_id for row in rows]

    async def plan(self, query: RunQuery) -> str:
        """Return how the database goes about a listing."""
        conditions = _listing.filters(query, self.engine.dialect) or []
        statement = _listing.dated(log_table(), query, conditions).limit(query.limit)
        sql = str(statement.compile(dialect=self.engine.dialect, compile_kwargs={"literal_binds": True}))
        explain = "EXPLAIN QUERY PLAN" if self.url.startswith("sqlite") else "EXPLAIN"
        async with self.engine.connect() as connection:
            return "\n".join(str(row[-1]) for row in await connection.exec_driver_sql(f"{explain} {sql}"))


@contextlib.asynccontextmanager
async def postgres_connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def logs(url: str) -> AsyncIterator[Logs]:
    scheme, _, rest = url.partition(":")
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
    engine = create_async_engine(f"{drivers[scheme]}:{rest}")
    async with DBRunLogStore(engine=engine) as store:
        yield Logs(url, store, engine)
    await engine.dispose()


@pytest.fixture(params=["as it is", "before 16"])
def age(request: pytest.FixtureRequest, logs: Logs) -> None:
    """Also take the way that a Postgres gets which does not know ``IS JSON``."""
    if request.param == "before 16":
        if logs.engine.dialect.name != "postgresql":
            pytest.skip("SQLite has one way")
        logs.engine.dialect.server_version_info = (15, 9)


def header(**fields: Any) -> str:
    return json.dumps({"status": SUCCESS, "tag": "", **fields})


def names(summaries: Sequence[RunSummary]) -> list[str]:
    return [summary.run_id for summary in summaries]


async def test_the_database_filters_as_python_does(logs: Logs, age: None) -> None:
    # Hypothesis calls synchronous functions; what is drawn here is checked on this loop.
    loop = asyncio.get_running_loop()

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(headers, max_size=10), st.integers(0, 3), st.lists(queries, min_size=1, max_size=6))
    def compare(bodies: list[str | None], undated: int, asked: list[RunQuery]) -> None:
        stored = [None if body is None or not stores(body) else body for body in bodies]
        asyncio.run_coroutine_threadsafe(check(stored, undated, asked), loop).result(60)

    async def check(bodies: list[str | None], undated: int, asked: list[RunQuery]) -> None:
        await logs.put(bodies, undated)
        everything = await logs.listed(RunQuery())
        assert len(everything) == sum(map(is_object, bodies))
        for query in asked:
            assert await logs.listed(query) == query.select(everything), query

    await asyncio.to_thread(compare)


def stores(body: str) -> bool:
    """Tell whether a database can store a text at all."""
    return "\x00" not in body and not any("\ud800" <= character <= "\udfff" for character in body)


def is_object(body: str | None) -> bool:
    with contextlib.suppress(ValueError):
        return isinstance(json.loads(body or "null"), dict)
    return False


async def test_only_wanted_rows_leave_the_database(logs: Logs) -> None:
    await logs.put(
        [header(tag=tag, status=status) for tag in ("a", "b", "it's %") for status in (SUCCESS, FAIL)]
        + [json.dumps({"status": FAIL}), json.dumps({"status": FAIL, "tag": None})]
    )
    for query, expected in (
        (RunQuery(tag="a"), ["run-1", "run-0"]),
        (RunQuery(status=FAIL, tag="it's %"), ["run-5"]),
        (RunQuery(status=FAIL, limit=2), ["run-7", "run-6"]),
        (RunQuery(tag=""), ["run-7", "run-6"]),
        (RunQuery(tag="c"), []),
        (RunQuery(status=SUCCESS, since=STAMP + timedelta(seconds=2), until=STAMP + timedelta(seconds=4)), ["run-2"]),
    ):
        assert await logs.transferred(query) == expected == names(await logs.listed(query))


async def test_a_limit_counts_wanted_runs_though_others_come_with_them(logs: Logs, age: None) -> None:
    doubtful = [header(tag=["a"]), header(tag=7), '{"tag": "b", "x": NaN}', header(tag="b", x="\ud800"), "{"]
    await logs.put([header(tag="a"), *doubtful, header(tag="a"), *doubtful])
    assert names(await logs.listed(RunQuery(tag="a", limit=2))) == ["run-6", "run-0"]
    assert names(await logs.listed(RunQuery(tag="a", limit=1))) == ["run-6"]
    assert names(await logs.listed(RunQuery(tag="7", limit=1))) == ["run-8"]
    assert names(await logs.listed(RunQuery(tag="b", limit=3))) == ["run-10", "run-9", "run-4"]


async def test_runs_without_a_time_come_last(logs: Logs) -> None:
    await logs.put([header(tag="a")] * 5, undated=2)
    assert names(await logs.listed(RunQuery())) == ["run-4", "run-3", "run-2", "run-1", "run-0"]
    assert names(await logs.listed(RunQuery(limit=2, tag="a"))) == ["run-4", "run-3"]
    assert names(await logs.listed(RunQuery(limit=4))) == ["run-4", "run-3", "run-2", "run-1"]
    assert names(await logs.listed(RunQuery(until=STAMP))) == ["run-1", "run-0"]
    assert names(await logs.listed(RunQuery(since=STAMP))) == ["run-4", "run-3", "run-2"]


async def test_a_header_that_cannot_be_read_is_left_out_and_told(
    logs: Logs, age: None, caplog: pytest.LogCaptureFixture
) -> None:
    await logs.put([header(tag="a"), "{", "[1]", header(tag="a")])
    for query in (RunQuery(), RunQuery(tag="a"), RunQuery(limit=10)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert names(await logs.listed(query)) == ["run-3", "run-0"]
        assert "run 'run-1' is left out of the list" in caplog.text


async def test_listings_are_read_off_the_index(logs: Logs) -> None:
    await fill(logs, 20_000)
    for query in (
        RunQuery(limit=50),
        RunQuery(status=FAIL, limit=50),
        RunQuery(status=FAIL, tag="a", limit=50),
        RunQuery(tag="a", since=STAMP, until=STAMP + timedelta(days=1), limit=50),
    ):
        plan = await logs.plan(query)
        assert "db_log_runs" in plan
        assert "Sort" not in plan
        assert "TEMP B-TREE" not in plan


async def fill(logs: Logs, runs: int) -> None:
    """Make so many runs, and as many steps, in one statement."""
    one = "SELECT 1 AS n UNION ALL SELECT n + 1 FROM number WHERE n < 2"
    series = f"WITH RECURSIVE number(n) AS ({one.replace('< 2', f'< {2 * runs}')})"
    kind = "CASE n % 2 WHEN 0 THEN 'RunLog' ELSE 'StepLog' END"
    body = """'{"status":"' || CASE n % 20 WHEN 0 THEN 'FAIL' ELSE 'SUCCESS' END || '","tag":"t' || n || '"}'"""
    if logs.url.startswith("sqlite"):
        stamp = "strftime('%Y-%m-%d %H:%M:%f000', '2024-01-01', '+' || n || ' seconds')"
    else:
        stamp = "timestamp '2024-01-01' + n * interval '1 second'"
    columns = "pk, run_id, attribute_key, attribute_type, attribute_value, created_at"
    fields = f"n, 'run-' || n, 'run_log', {kind}, {body}, {stamp}"
    async with logs.engine.begin() as connection:
        await connection.exec_driver_sql(f"INSERT INTO db_log ({columns}) {series} SELECT {fields} FROM number")
    async with logs.engine.connect() as connection:
        await connection.exec_driver_sql("ANALYZE db_log")
        await connection.commit()


async def test_many_runs_are_listed_whole_and_in_order(logs: Logs) -> None:
    await fill(logs, 3_500)
    listed = await logs.listed(RunQuery())
    assert names(listed) == [f"run-{number}" for number in range(7000, 0, -2)]
    assert await logs.listed(RunQuery(limit=2_500)) == listed[:2_500]
    failed = await logs.listed(RunQuery(status=FAIL))
    assert failed == [summary for summary in listed if summary.status == FAIL]
    assert len(failed) == 350


async def test_many_runs_are_listed_through_pgbouncer(postgres_url: str, pgbouncer_url: str) -> None:
    await create_tables(pgbouncer_url, pgbouncer=True)
    engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"))
    async with DBRunLogStore(connection_string=pgbouncer_url, pgbouncer=True) as store:
        logs = Logs(postgres_url, store, engine)
        await fill(logs, 2_500)
        expected = [f"run-{number}" for number in range(5000, 0, -2)]
        for found in await asyncio.gather(*(logs.listed(RunQuery()) for _ in range(4))):
            assert names(found) == expected
        assert names(await logs.listed(RunQuery(status=FAIL, limit=2))) == ["run-5000", "run-4980"]
        assert names(await logs.listed(RunQuery(tag="t20"))) == ["run-20"]
    await engine.dispose()


async def test_a_cancelled_listing_gives_its_connection_back(logs: Logs) -> None:
    await fill(logs, 3_000)
    for number in range(40):
        listing = asyncio.create_task(logs.listed(RunQuery(status=SUCCESS)))
        await asyncio.sleep(0.001 * number)
        listing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listing
    assert len(await logs.listed(RunQuery())) == 3_000
    if logs.engine.dialect.name == "postgresql":
        # The writer keeps one.
        assert "Current Checked out connections: 1" in logs.engine.pool.status()
        async with postgres_connection(logs.url) as connection:
            busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
            assert await connection.fetchval(busy) == 0


async def test_rewriting_a_part_touches_no_index(postgres_url: str) -> None:
    await create_tables(postgres_url)
    async with postgres_connection(postgres_url) as connection:
        assert await rewritten_in_place(connection, 10) == 10
        # What an index over the JSON would cost, and why there is none.
        await connection.execute("CREATE INDEX ON db_log ((attribute_value::json ->> 'status'))")
        assert await rewritten_in_place(connection, 10) == 0


async def rewritten_in_place(connection: asyncpg.Connection, times: int) -> int:
    """Rewrite a header so many times, and return how often Postgres left the indexes alone."""
    counter = "SELECT pg_stat_get_xact_tuples_hot_updated('db_log'::regclass)"
    upsert = (
        "INSERT INTO db_log VALUES (1, 'run', 'run_log', 'RunLog', $1, now())"
        " ON CONFLICT (run_id, attribute_type, attribute_key) DO UPDATE SET attribute_value = excluded.attribute_value"
    )
    async with connection.transaction():
        await connection.execute(upsert, header(status="before"))
        before = await connection.fetchval(counter)
        for number in range(times):
            await connection.execute(upsert, header(status=str(number)))
        after = await connection.fetchval(counter)
    return int(after - before)
