"""Rows that a database refuses, conflicts among its users, and connections cut at any byte."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from asyncstore._core.retry import NO_RETRY, RetryPolicy
from asyncstore.errors import (
    AsyncStoreError,
    ConfigurationError,
    InvalidValueError,
    OutcomeUnknownError,
    RunLogExistsError,
    UnavailableError,
)
from asyncstore.models import StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables
from asyncstore.runlog.fragments import Fragment, FragmentKey, Kind
from tests._processes import short_or_full
from tests._relay import Relay, postgres_relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence

    Check = Callable[[str, Exception | None], Coroutine[Any, Any, None]]

DEADLINE_S = 60.0

SOON = RetryPolicy(attempts=100, deadline_s=DEADLINE_S, initial_delay_s=0.01, max_delay_s=0.1)

ROWS = 200

POISON = "poison"


def step(name: str, **fields: Any) -> StepLog:
    return StepLog(name=name, internal_name=name, **fields)


# Rows that are refused.


@dataclass(frozen=True)
class Refusal:
    """A reason for which a database refuses a row."""

    setup: tuple[str, ...] = ()
    """Makes the database refuse values that hold ``poison``."""
    name: str = ""
    """Of the refused row, where it is the name that is refused."""
    value: str = POISON
    """Of the refused row."""


LONG_NAME = "".join(f"{number:x}" for number in range(20_000))
"""Too long for an index, also when it is compressed."""

RAISING = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.attribute_value LIKE '%poison%' THEN RAISE EXCEPTION 'not here'; END IF;
    RETURN NEW;
END $$
"""

NOTING = """
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO written VALUES (NEW.run_id); RETURN NULL; END $$
"""

ON_POSTGRES = {
    "NUL": Refusal(name="bad\x00name"),
    "a name too long for the index": Refusal(name=LONG_NAME),
    "a check": Refusal(("ALTER TABLE db_log ADD CONSTRAINT healthy CHECK (attribute_value NOT LIKE '%poison%')",)),
    "a trigger": Refusal(
        (RAISING, "CREATE TRIGGER refusing BEFORE INSERT ON db_log FOR EACH ROW EXECUTE FUNCTION refuse()")
    ),
    "another unique index": Refusal(
        ("CREATE UNIQUE INDEX different ON db_log (md5(attribute_value))",), value='"there already"'
    ),
}


def raising(how: str) -> Refusal:
    return Refusal(
        (
            (
                "CREATE TRIGGER refusing BEFORE INSERT ON db_log WHEN NEW.attribute_value LIKE '%poison%' "
                f"BEGIN SELECT RAISE({how}, 'not here'); END"
            ),
        )
    )


ON_SQLITE = {
    "a check": Refusal(
        (
            "ALTER TABLE db_log RENAME TO old",
            (
                "CREATE TABLE db_log (pk INTEGER PRIMARY KEY, run_id TEXT, attribute_key TEXT, attribute_type TEXT, "
                "attribute_value TEXT CHECK (attribute_value NOT LIKE '%poison%'), created_at DATETIME)"
            ),
            "INSERT INTO db_log SELECT * FROM old",
            "DROP TABLE old",
        )
    ),
    "a trigger that aborts": raising("ABORT"),
    "a trigger that fails": raising("FAIL"),
    "a trigger that rolls back": raising("ROLLBACK"),
    "another unique index": Refusal(
        ("CREATE UNIQUE INDEX different ON db_log (attribute_value)",), value='"there already"'
    ),
    "too large": Refusal(value="x" * 200_000),
}
SQLITE_LIMIT_BYTES = 100_000


class Statements:
    """Counts the statements that insert."""

    def __init__(self) -> None:
        self.inserting = 0

    def on_postgres(self, record: Any) -> None:
        """Count what an asyncpg connection has run."""
        self.inserting += "INSERT INTO" in record.query

    def on_sqlite(self, statement: str) -> None:
        """Count the transactions that write."""
        self.inserting += statement == "BEGIN IMMEDIATE"


@pytest.fixture
def statements() -> Statements:
    return Statements()


@contextlib.asynccontextmanager
async def refusing_postgres(url: str, refusal: Refusal, statements: Statements) -> AsyncIterator[DBRunLogStore]:
    """Open a store on a database that refuses some rows and notes each that is written in the table ``written``."""
    await create_tables(url)
    async with DBRunLogStore(connection_string=url) as store:
        await prepare(store)
    connection = await asyncpg.connect(url)
    for statement in (
        *refusal.setup,
        "CREATE TABLE written (name text)",
        NOTING,
        "CREATE TRIGGER noting AFTER INSERT OR UPDATE ON db_log FOR EACH ROW EXECUTE FUNCTION note()",
    ):
        await connection.execute(statement)
    await connection.close()

    async def connect(*_: Any, **__: Any) -> Any:
        connection = await asyncpg.connect(url)
        connection.add_query_logger(statements.on_postgres)
        return connection

    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"), async_creator=connect)
    try:
        async with DBRunLogStore(engine=engine) as store:
            yield store
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def refusing_sqlite(
    url: str, refusal: Refusal, statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DBRunLogStore]:
    """Do the same with a file, whose values may not be as long as elsewhere."""
    await create_tables(url)
    async with DBRunLogStore(connection_string=url) as store:
        await prepare(store)
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        for statement in (*refusal.setup, "CREATE TABLE written (name TEXT)"):
            connection.execute(statement)
        for event in ("INSERT", "UPDATE"):
            connection.execute(
                f"CREATE TRIGGER noting_{event} AFTER {event} ON db_log "
                "BEGIN INSERT INTO written VALUES (NEW.run_id); END"
            )
        connection.commit()
    # The indexes of the table, if it is another one now.
    await create_tables(url)
    connect = sqlite3.connect

    def limited(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, SQLITE_LIMIT_BYTES)
        connection.set_trace_callback(statements.on_sqlite)
        return connection

    monkeypatch.setattr(sqlite3, "connect", limited)
    async with DBRunLogStore(connection_string=url) as store:
        yield store


async def prepare(store: DBRunLogStore) -> None:
    await store._upsert("before", [Fragment(FragmentKey(Kind.STEP_LOG, "before"), b'"there already"')])


def fragment(refusal: Refusal, place: int, guilty: Collection[int]) -> Fragment:
    if place in guilty:
        name = f"{refusal.name}{place}" if refusal.name else f"{place}"
        # Where it is the value that has to be unlike others, that of the first guilty row is like one that is there.
        return Fragment(FragmentKey(Kind.STEP_LOG, name), refusal.value.encode())
    return Fragment(FragmentKey(Kind.STEP_LOG, f"{place}"), f'"{place}"'.encode())


async def check_only_the_guilty_fail(
    store: DBRunLogStore, refusal: Refusal, guilty: Collection[int], statements: Statements, written: Any
) -> None:
    """Write rows in one batch, some of them refused; all others are committed once, at a logarithm's cost."""
    before = statements.inserting
    runs = [f"run-{place}" for place in range(ROWS)]
    outcomes = await asyncio.gather(
        *(store._upsert(run, [fragment(refusal, place, guilty)]) for place, run in enumerate(runs)),
        return_exceptions=True,
    )
    for place, outcome in enumerate(outcomes):
        assert isinstance(outcome, InvalidValueError) if place in guilty else outcome is None, (place, outcome)
    took = statements.inserting - before
    assert took - 1 <= len(guilty) * (2 * math.log2(ROWS) + 1)
    innocent = [run for place, run in enumerate(runs) if place not in guilty]
    assert sorted(await written()) == sorted(innocent)
    # Inserts are batches of their own, and see what is there.
    found = await asyncio.gather(
        *(store._insert(run, [fragment(refusal, place, guilty)]) for place, run in enumerate(runs)),
        return_exceptions=True,
    )
    for place, refused in enumerate(found):
        if place in guilty:
            assert isinstance(refused, InvalidValueError), (place, refused)
        else:
            assert not isinstance(refused, BaseException)
            assert list(refused) == [FragmentKey(Kind.STEP_LOG, f"{place}")]
    assert sorted(await written()) == sorted(innocent)


PLACES = [{0}, {77}, {ROWS - 1}, {5, 6, 150}]


@pytest.mark.parametrize("reason", ON_POSTGRES)
async def test_postgres_refuses_the_guilty_alone(reason: str, postgres_url: str, statements: Statements) -> None:
    refusal = ON_POSTGRES[reason]
    async with refusing_postgres(postgres_url, refusal, statements) as store:
        connection = await asyncpg.connect(postgres_url)

        async def written() -> list[str]:
            return [row[0] for row in await connection.fetch("SELECT name FROM written")]

        for guilty in PLACES:
            await check_only_the_guilty_fail(store, refusal, guilty, statements, written)
            await connection.execute("DELETE FROM db_log WHERE run_id <> 'before'")
            await connection.execute("DELETE FROM written")
        await connection.close()


@pytest.mark.parametrize("reason", ON_SQLITE)
async def test_sqlite_refuses_the_guilty_alone(
    reason: str, sqlite_url: str, statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = ON_SQLITE[reason]
    async with refusing_sqlite(sqlite_url, refusal, statements, monkeypatch) as store:
        with contextlib.closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:

            async def written() -> list[str]:
                return [row[0] for row in connection.execute("SELECT name FROM written")]

            for guilty in PLACES:
                await check_only_the_guilty_fail(store, refusal, guilty, statements, written)
                connection.execute("DELETE FROM db_log WHERE run_id <> 'before'")
                connection.execute("DELETE FROM written")
                connection.commit()


async def test_a_sequence_that_is_behind_is_nobodys_fault(postgres_url: str, statements: Statements) -> None:
    await create_tables(postgres_url)
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("INSERT INTO db_log (pk, run_id) SELECT n, 'old' FROM generate_series(1, 1000) AS n")
    async with DBRunLogStore(connection_string=postgres_url) as store:
        outcomes = await asyncio.gather(
            *(store.add_step_log(step(f"{number}"), "run") for number in range(20)), return_exceptions=True
        )
        assert all(isinstance(outcome, ConfigurationError) and "setval" in str(outcome) for outcome in outcomes)
        await connection.execute("SELECT setval('id_seq', 1000)")
        await store.add_step_log(step("a"), "run")
    await connection.close()


async def test_what_a_constraint_refuses_is_not_said_to_exist(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncstore.runlog.db.store._WRITERS", {})
    await create_tables(postgres_url)
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(*ON_POSTGRES["a check"].setup)
    await connection.close()
    async with DBRunLogStore(connection_string=postgres_url) as store:
        with pytest.raises(InvalidValueError):
            await store.create_run_log("run", tag=POISON)
        await store.create_run_log("run")
        with pytest.raises(RunLogExistsError):
            await store.create_run_log("run")


# Others who use the database.


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def until(admin: asyncpg.Connection, query: str, expected: Callable[[Any], bool]) -> Any:
    """Ask until the answer is as expected."""
    async with asyncio.timeout(DEADLINE_S):
        while not expected(answer := await admin.fetchval(query)):  # noqa: ASYNC110 - nobody else tells
            await asyncio.sleep(0.005)
    return answer


WAITING = """
SELECT query_start FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()
"""


async def set_for_all(url: str, setting: str) -> None:
    async with connected(url) as admin:
        name = await admin.fetchval("SELECT current_database()")
        await admin.execute(f"ALTER DATABASE {name} SET {setting}")


async def test_lock_timeouts_are_tried_again(postgres_url: str) -> None:
    await create_tables(postgres_url)
    async with DBRunLogStore(connection_string=postgres_url) as store:
        await store.create_run_log("run")
        await store.add_step_log(step("a"), "run")
    await set_for_all(postgres_url, "lock_timeout = '50ms'")
    async with (
        DBRunLogStore(connection_string=postgres_url, retry=SOON) as store,
        connected(postgres_url) as other,
        connected(postgres_url) as admin,
        asyncio.timeout(DEADLINE_S),
    ):
        changes: list[Coroutine[Any, Any, None]] = [
            store.add_step_log(step("a", message="changed"), "run"),
            store.update_run_log_status("run", "SUCCESS"),
            store.delete_run_log("run"),
        ]
        for change in changes:
            async with other.transaction():
                await other.execute("SELECT FROM db_log FOR UPDATE")
                changing = asyncio.create_task(change)
                first = await until(admin, WAITING, lambda began: began is not None)
                # The second attempt: the first has timed out.
                await until(admin, WAITING, lambda began, first=first: began not in (None, first))  # type: ignore[misc]
                assert not changing.done()
            await changing
        assert [summary async for summary in store.list_run_logs()] == []


async def test_a_writer_that_loses_a_deadlock_writes_again(postgres_url: str) -> None:
    await create_tables(postgres_url)
    await set_for_all(postgres_url, "deadlock_timeout = '20ms'")
    async with (
        DBRunLogStore(connection_string=postgres_url, retry=SOON) as store,
        connected(postgres_url) as other,
        connected(postgres_url) as admin,
        asyncio.timeout(DEADLINE_S),
    ):
        await store.set_parameters("run", {"a": 1, "b": 1})
        for number in range(3):
            async with other.transaction():
                # This one is patient, so that it is the store's transaction that is ended.
                await other.execute("SET LOCAL deadlock_timeout = '60s'")
                await other.execute("SELECT FROM db_log WHERE attribute_key = 'b' FOR UPDATE")
                writing = asyncio.create_task(store.set_parameters("run", {"a": number, "b": number}))
                await until(admin, WAITING, lambda began: began is not None)
                # The store holds this row, as it takes them in order: only the loss of its transaction sets it free.
                await other.execute("SELECT FROM db_log WHERE attribute_key = 'a' FOR UPDATE")
                assert not writing.done()
            await writing
            assert await store.get_parameters("run") == {"a": number, "b": number}


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
async def test_serialization_failures_are_tried_again(level: str, postgres_url: str) -> None:
    await create_tables(postgres_url)
    await set_for_all(postgres_url, f"default_transaction_isolation = '{level}'")
    count = short_or_full(15, 200)

    async def change(store: DBRunLogStore, place: int) -> None:
        for number in range(count):
            await store.set_run_config("run", {f"{place}-{number}": number})
            await store.add_step_log(step(f"{place}-{number}"), "run")
            await store.add_step_log(step("shared", message=f"{place}-{number}"), "run")
            with contextlib.suppress(RunLogExistsError):
                await store.create_run_log(f"run-{number}", tag=f"{place}")

    async with contextlib.AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(DBRunLogStore(connection_string=postgres_url, retry=SOON)) for _ in range(4)
        ]
        await stores[0].create_run_log("run")
        async with asyncio.timeout(2 * DEADLINE_S), asyncio.TaskGroup() as group:
            for place, store in enumerate(stores):
                group.create_task(change(store, place))
        run_log = await stores[0].get_run_log_by_id("run")
        assert len(run_log.run_config) == 4 * count
        assert len(run_log.steps) == 4 * count + 1
        for place in range(4):
            own = [name for name in run_log.steps if name.startswith(f"{place}-")]
            assert own == [f"{place}-{number}" for number in range(count)]
        assert len([summary async for summary in stores[0].list_run_logs()]) == count + 1


async def test_a_server_without_room_is_waited_for(postgres_url: str) -> None:
    await create_tables(postgres_url)
    async with connected(postgres_url) as admin, asyncio.timeout(DEADLINE_S):
        name = await admin.fetchval("SELECT current_database()")
        role = f"guest_{name}"
        await admin.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
        try:
            await admin.execute(f"GRANT ALL ON db_log, id_seq TO {role}")
            url = postgres_url.replace("//postgres@", f"//{role}@")
            with pytest.raises(UnavailableError, match="too many connections"):
                async with DBRunLogStore(connection_string=url, retry=NO_RETRY):
                    pass
            opening = asyncio.create_task(DBRunLogStore(connection_string=url, retry=SOON).open())
            await asyncio.sleep(0.1)
            assert not opening.done()
            await admin.execute(f"ALTER ROLE {role} CONNECTION LIMIT 10")
            store = await opening
            await store.create_run_log("run")
            await store.aclose()
        finally:
            await admin.execute(f"DROP OWNED BY {role}")
            await admin.execute(f"DROP ROLE {role}")


# Connections cut at any byte.


@pytest.fixture
async def relay(postgres_url: str) -> AsyncIterator[Relay]:
    await create_tables(postgres_url)
    async with postgres_relay(postgres_url) as relay:
        yield relay


@dataclass(frozen=True)
class Write:
    """A write numbered, and how to see past the relay what came of it."""

    write: Callable[[DBRunLogStore, int], Coroutine[Any, Any, object]]
    query: str
    """How many rows there are of it."""
    rows: int = 1
    prepare: Callable[[DBRunLogStore, int], Coroutine[Any, Any, object]] | None = None


WRITES = {
    "a step": Write(
        lambda store, number: store.add_step_log(step(f"s{number}", message="x" * 300), "run"),
        "SELECT count(*) FROM db_log WHERE attribute_key = 's' || $1",
    ),
    "parameters": Write(
        lambda store, number: store.set_parameters("run", {f"p{number}-{key}": "x" * 50 for key in range(5)}),
        "SELECT count(*) FROM db_log WHERE attribute_key LIKE 'p' || $1 || '-%'",
        rows=5,
    ),
    "a run": Write(
        lambda store, number: store.create_run_log(f"r{number}", tag="own"),
        "SELECT count(*) FROM db_log WHERE run_id = 'r' || $1",
    ),
    "a status": Write(
        lambda store, number: store.update_run_log_status("run", f"status-{number}"),
        "SELECT count(*) FROM db_log WHERE attribute_value LIKE '%\"status-' || $1 || '\"%'",
    ),
    "a deletion": Write(
        lambda store, number: store.delete_run_log(f"d{number}"),
        "SELECT 3 - count(*) FROM db_log WHERE run_id = 'd' || $1",
        rows=3,
        prepare=lambda store, number: store.set_parameters(f"d{number}", {"a": 1, "b": 2, "c": 3}),
    ),
}


async def swept(relay: Relay, store: DBRunLogStore, write: Write, check: Check) -> int:
    """Cut the connection at a byte of each write, in both directions; return how many were cut."""
    number = cuts = 0

    async def attempt(direction: Any = None, at: int = 0) -> None:
        nonlocal number, cuts
        number += 1
        # On a connection that is there, with its statements prepared.
        await store.add_step_log(step("warm"), "run")
        if write.prepare is not None:
            await write.prepare(store, number)
            await write.prepare(store, 100_000 + number)
        await write.write(store, 100_000 + number)
        relay.arm(direction, at)
        error: Exception | None = None
        try:
            await write.write(store, number)
        except AsyncStoreError as caught:
            error = caught
        if direction is not None:
            cuts += relay.cut
            relay.arm()
            await check(str(number), error)

    traffic = []
    for _ in range(5):
        await attempt()
        traffic.append(dict(relay.passed))
    # More passes where the pool gives a connection that has to prepare: where the least ends, not every write is cut.
    for direction in ("up", "down"):
        totals = {passed[direction] for passed in traffic}
        for at in sorted({*positions(min(totals)), *positions(max(totals))}):
            await attempt(direction, at)
    return cuts


def positions(total: int) -> Sequence[int]:
    few = sorted({*range(0, total, max(1, total // short_or_full(8, 10_000))), 1, total - 6, total - 1})
    return [at for at in few if 0 <= at < total]


@pytest.mark.slow
@pytest.mark.parametrize("what", WRITES)
async def test_a_connection_cut_at_any_byte_loses_nothing(what: str, relay: Relay, postgres_url: str) -> None:
    write = WRITES[what]
    async with (
        connected(postgres_url) as witness,
        DBRunLogStore(connection_string=relay.url, retry=SOON) as store,
        asyncio.timeout(2 * DEADLINE_S),
    ):
        await store.create_run_log("run")

        async def check(number: str, error: Exception | None) -> None:
            assert error is None, number
            assert await witness.fetchval(write.query, number) == write.rows

        assert await swept(relay, store, write, check) > 10


@pytest.mark.slow
@pytest.mark.parametrize("what", WRITES)
async def test_a_write_given_up_says_whether_it_may_have_landed(what: str, relay: Relay, postgres_url: str) -> None:
    write = WRITES[what]
    async with (
        connected(postgres_url) as witness,
        DBRunLogStore(connection_string=relay.url, retry=NO_RETRY) as store,
        asyncio.timeout(2 * DEADLINE_S),
    ):
        await store.create_run_log("run")

        async def check(number: str, error: Exception | None) -> None:
            # What was sent whole, its sender gone, is still done.
            await until(witness, BUSY, lambda busy: busy == 0)
            found = await witness.fetchval(write.query, number)
            match error:
                case None:
                    assert found == write.rows
                case OutcomeUnknownError():
                    assert found in (0, write.rows)
                    assert error.key
                case _:
                    assert isinstance(error, UnavailableError)
                    assert found == 0, number

        assert await swept(relay, store, write, check) > 10


@pytest.mark.parametrize("retry", [NO_RETRY, SOON])
@pytest.mark.parametrize("what", WRITES)
async def test_an_answer_lost_after_the_commit(what: str, retry: RetryPolicy, relay: Relay, postgres_url: str) -> None:
    write = WRITES[what]
    async with (
        connected(postgres_url) as witness,
        DBRunLogStore(connection_string=relay.url, retry=retry) as store,
        asyncio.timeout(DEADLINE_S),
    ):
        await store.create_run_log("run")
        if write.prepare is not None:
            await write.prepare(store, 1)
            await write.prepare(store, 2)
        relay.arm()
        await write.write(store, 1)
        # The last of a transaction, be it explicit or the statement's own.
        [mark, *_] = [mark for mark in (b"COMMIT\x00", b"INSERT 0 ", b"DELETE ") if mark in relay.answers]
        relay.arm(mark=mark)
        if retry is NO_RETRY:
            with pytest.raises(OutcomeUnknownError) as caught:
                await write.write(store, 2)
            assert caught.value.key
        else:
            await write.write(store, 2)
        assert relay.cut
        await until(witness, BUSY, lambda busy: busy == 0)
        assert await witness.fetchval(write.query, "2") == write.rows
        await store.add_step_log(step("after"), "run")


async def test_each_caller_of_a_lost_batch_is_told_its_own_key(relay: Relay) -> None:
    async with DBRunLogStore(connection_string=relay.url, retry=NO_RETRY) as store, asyncio.timeout(DEADLINE_S):
        await store.create_run_log("run")
        await store.add_step_log(step("before"), "run")
        for write in (
            lambda name: store.add_step_log(step(name), "run"),
            lambda name: store.create_run_log(name),
        ):
            relay.arm(mark=b"INSERT 0 ")
            names = ["one", "two", "three"]
            outcomes = await asyncio.gather(*(write(name) for name in names), return_exceptions=True)
            for name, outcome in zip(names, outcomes, strict=True):
                assert isinstance(outcome, OutcomeUnknownError)
                assert name in outcome.key
                assert name in str(outcome)


BUSY = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
"""
