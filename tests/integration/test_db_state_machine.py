"""
Whatever two stores on one database are told to do, in whatever order, it reads as a dictionary would.

The model keeps each part of a run at the place where it was first written, as a dictionary does, and all runs in the
order in which their headers were.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from asyncstore.errors import (
    BranchLogNotFoundError,
    JobLogNotFoundError,
    RunLogExistsError,
    RunLogNotFoundError,
    StepLogNotFoundError,
)
from asyncstore.models import BranchLog, JobLog, RunLog, RunSummary, StepLog
from asyncstore.runlog.db import DBRunLogStore, create_tables
from asyncstore.runlog.fragments import Kind, Selection, in_creation_order
from tests._processes import short_or_full

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

T = TypeVar("T")

STORES = 2
RUNS = st.sampled_from(["run", "run-2", "ünï 🎉"])
STATUSES = st.sampled_from(["CREATED", "PROCESSING", "SUCCESS", "FAIL"])
TAGS = st.sampled_from(["", "nightly", "a'b\"c"])
STORE = st.integers(0, STORES - 1)

# A step with two branches, which hold steps of which one has a branch; and names like those of others.
BRANCHES = {"fan.a": "fan", "fan.b": "fan", "fan.a.deep.x": "fan.a.deep"}
STEPS = {
    "load": "",
    "fan": "",
    "fan.a.in": "fan.a",
    "fan.a.deep": "fan.a",
    "fan.b.in": "fan.b",
    "fan.a.deep.x.in": "fan.a.deep.x",
}
"""Steps, and the branch of each."""
SCOPES = st.sampled_from(["", *BRANCHES])
KEYS = st.sampled_from(["lr", "lr_decay", "x\x1fy", "a.b", "🎉"])
CHARACTERS = st.characters(codec="utf-8", exclude_characters="\x00")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(CHARACTERS, max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["k", "é"]), inner, max_size=2),
    max_leaves=4,
)
TEXTS = st.sampled_from(["", "done", "100 % \\ 'quoted' \x1f", "x" * 2000])

Part = tuple[str, str, str]
"""Kind, scope and name."""

HEADER: Part = ("RunLog", "", "run_log")
JOB: Part = ("JobLog", "", "job_log")
PLACED = ("Parameter", True)


def part_of(step: str) -> Part:
    return ("StepLog", "", step)


def own_name(step: str) -> str:
    return step.removeprefix(f"{STEPS[step]}.")


class Model:
    """What the database should hold."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[Part, Any]] = {}
        self.created: list[str] = []
        """Runs in the order of their headers."""

    def put(self, run: str, part: Part, value: Any) -> None:
        if part == HEADER and not self.has(run):
            self.created.append(run)
        self.parts.setdefault(run, {})[part] = value

    def add(self, run: str, parts: Iterable[tuple[Part, Any]]) -> None:
        for part, value in parts:
            if part not in self.parts.get(run, {}):
                self.put(run, part, value)

    def has(self, run: str, part: Part = HEADER) -> bool:
        return part in self.parts.get(run, {})

    def delete(self, run: str) -> None:
        self.parts.pop(run, None)
        self.created = [name for name in self.created if name != run]

    def of(self, run: str, kind: str, scope: str = "") -> dict[str, Any]:
        return {name: value for (k, s, name), value in self.parts.get(run, {}).items() if (k, s) == (kind, scope)}

    def run_log(self, run: str) -> RunLog:
        """Return the run in full."""
        header: RunLog = self.parts[run][HEADER]
        steps = {name: self._step(run, name) for name in self.of(run, "StepLog") if not STEPS[name]}
        return header.model_copy(
            update={
                "steps": steps,
                "parameters": self.of(run, "Parameter"),
                "job": self.parts[run].get(JOB),
            }
        )

    def orphans(self, run: str) -> set[Part]:
        """Return the parts that have no place, because what would hold them is missing."""
        run_log = self.run_log(run)
        placed = {HEADER, JOB, *(part_of(step.internal_name) for step in run_log.walk_steps())}
        scopes = {"", *(branch.internal_name for branch in run_log.walk_branches())}
        placed |= {("BranchLog", "", name) for name in scopes}
        return {part for part in self.parts[run] if part not in placed and (part[0], part[1] in scopes) != PLACED}

    def branch(self, run: str, name: str) -> BranchLog:
        """Return a branch; one that is missing has its place if a step of it is there."""
        missing = BranchLog(internal_name=name, status="UNKNOWN")
        branch: BranchLog = self.of(run, "BranchLog").get(name, missing)
        steps = {step: self._step(run, step) for step in self.of(run, "StepLog") if STEPS[step] == name}
        return branch.model_copy(update={"steps": steps, "parameters": self.of(run, "Parameter", name)})

    def _step(self, run: str, name: str) -> StepLog:
        steps = self.of(run, "StepLog")
        stored = self.of(run, "BranchLog")
        # Those that are only implied come last, in the order in which the first step of each came.
        names = dict.fromkeys([*stored, *(STEPS[inner] for inner in steps if STEPS[inner])])
        own = [branch for branch in names if self._owner(branch, steps) == name]
        step: StepLog = steps[name]
        return step.model_copy(update={"branches": {branch: self.branch(run, branch) for branch in own}})

    @staticmethod
    def _owner(branch: str, steps: Iterable[str]) -> str:
        """Return the step that a branch belongs to: the nearest that is there."""
        return max((step for step in steps if branch.startswith(f"{step}.")), key=len, default="")


def parts_of(run_log: RunLog) -> list[tuple[Part, Any]]:
    """Return what :meth:`put_run_log` adds, in its order."""
    parts: list[tuple[Part, Any]] = [(("Parameter", "", key), value) for key, value in run_log.parameters.items()]
    if run_log.job is not None:
        parts.append((JOB, run_log.job))
    return parts + [(part_of(name), step) for name, step in run_log.steps.items()]


class Machine(RuleBasedStateMachine):
    """Two stores on one database, and the model."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.model = Model()
        self.runner = asyncio.Runner()
        self.stores: list[DBRunLogStore] = []

    @initialize()
    def open(self) -> None:
        self.do(self.wipe())
        self.stores = [self.do(self.fresh().open()) for _ in range(STORES)]

    def teardown(self) -> None:
        with self.runner:
            for store in self.stores:
                self.do(store.aclose())

    async def wipe(self) -> None:
        if self.url.startswith("sqlite"):
            with contextlib.closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as connection:
                connection.execute("DELETE FROM db_log")
                connection.commit()
        else:
            connection = await asyncpg.connect(self.url)
            await connection.execute("DELETE FROM db_log")
            await connection.close()

    def fresh(self) -> DBRunLogStore:
        return DBRunLogStore(connection_string=self.url)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(60):
                return await work

        return self.runner.run(bounded())

    # Runs.

    @rule(on=STORE, run=RUNS, tag=TAGS, status=STATUSES)
    def create(self, on: int, run: str, tag: str, status: str) -> None:
        creation = self.stores[on].create_run_log(run, tag=tag, status=status, dag_hash="d", use_cached=bool(tag))
        if self.model.has(run):
            with pytest.raises(RunLogExistsError):
                self.do(creation)
            return
        self.do(creation)
        self.model.put(run, HEADER, RunLog(run_id=run, tag=tag, status=status, dag_hash="d", use_cached=bool(tag)))

    @rule(run=RUNS)
    def create_at_once(self, run: str) -> None:
        async def create(on: int) -> str:
            try:
                await self.stores[on % STORES].create_run_log(run, tag=f"{on}")
            except RunLogExistsError:
                return ""
            return f"{on}"

        winners = [tag for tag in self.do(at_once(*(create(on) for on in range(4)))) if tag]
        assert len(winners) == (0 if self.model.has(run) else 1)
        for tag in winners:
            self.model.put(run, HEADER, RunLog(run_id=run, tag=tag, dag_hash="", status="CREATED"))

    @rule(
        on=STORE,
        run=RUNS,
        status=STATUSES,
        steps=st.lists(st.sampled_from(sorted(STEPS)), unique=True, max_size=3),
        parameters=st.dictionaries(KEYS, JSON, max_size=2),
        job=st.none() | STATUSES,
    )
    def put(
        self, on: int, run: str, status: str, steps: list[str], parameters: dict[str, Any], job: str | None
    ) -> None:
        run_log = RunLog(
            run_id=run,
            status=status,
            steps={name: StepLog(name=own_name(name), internal_name=name, message="put") for name in steps},
            parameters=parameters,
            job=None if job is None else JobLog(status=job),
        )
        self.do(self.stores[on].put_run_log(run_log))
        header = run_log.model_copy(update={"steps": {}, "parameters": {}, "job": None})
        nested = parts_of(run_log)
        if status in {"SUCCESS", "FAIL"}:
            self.model.add(run, nested)
            self.model.put(run, HEADER, header)
        else:
            self.model.put(run, HEADER, header)
            self.model.add(run, nested)

    @rule(on=STORE, run=RUNS)
    def delete(self, on: int, run: str) -> None:
        self.do(self.stores[on].delete_run_log(run))
        self.model.delete(run)

    @rule(on=STORE, run=RUNS, status=STATUSES)
    def set_status(self, on: int, run: str, status: str) -> None:
        self.change_header(run, self.stores[on].update_run_log_status(run, status), {"status": status})

    @rule(on=STORE, run=RUNS, config=st.dictionaries(st.sampled_from(["a", "b", "ü"]), JSON, max_size=2))
    def set_run_config(self, on: int, run: str, config: dict[str, Any]) -> None:
        merged = {**self.model.parts[run][HEADER].run_config, **config} if self.model.has(run) else {}
        self.change_header(run, self.stores[on].set_run_config(run, config), {"run_config": merged})

    @rule(run=RUNS, on=STORE)
    def set_run_config_at_once(self, run: str, on: int) -> None:
        if not self.model.has(run):
            return
        names = [f"c{number}" for number in range(4)]
        self.do(
            at_once(*(self.stores[(on + n) % STORES].set_run_config(run, {name: n}) for n, name in enumerate(names)))
        )
        found = self.do(self.stores[on].get_run_config(run))
        before = self.model.parts[run][HEADER].run_config
        assert found == {**before, **{name: n for n, name in enumerate(names)}}
        # New keys come in the order in which the writers had their turns.
        assert list(found)[: len(before)] == list(before)
        self.model.put(run, HEADER, self.model.parts[run][HEADER].model_copy(update={"run_config": found}))

    def change_header(self, run: str, change: Coroutine[Any, Any, None], fields: dict[str, Any]) -> None:
        if not self.model.has(run):
            with pytest.raises(RunLogNotFoundError):
                self.do(change)
            return
        self.do(change)
        self.model.put(run, HEADER, self.model.parts[run][HEADER].model_copy(update=fields))

    # Parts.

    @rule(on=STORE, run=RUNS, name=st.sampled_from(sorted(STEPS)), status=STATUSES, message=TEXTS)
    def add_step(self, on: int, run: str, name: str, status: str, message: str) -> None:
        step = StepLog(name=own_name(name), internal_name=name, status=status, message=message)
        self.do(self.stores[on].add_step_log(step, run))
        self.model.put(run, part_of(name), step)

    @rule(run=RUNS, names=st.lists(st.sampled_from(sorted(STEPS)), unique=True, min_size=2))
    def add_steps_at_once(self, run: str, names: list[str]) -> None:
        steps = [StepLog(name=own_name(name), internal_name=name, message="at once") for name in names]
        self.do(at_once(*(self.stores[n % STORES].add_step_log(step, run) for n, step in enumerate(steps))))
        # Who was first is the database's choice: through one store they are in order, through two in any.
        stored = self.do(self.stores[0]._scan(run, Selection(frozenset({Kind.STEP_LOG}))))
        order = [fragment.name for fragment in in_creation_order(stored)]
        new = {name: number % STORES for number, name in enumerate(names) if not self.model.has(run, part_of(name))}
        came = [name for name in order if name in new]
        for store in range(STORES):
            assert [name for name in came if new[name] == store] == [name for name in new if new[name] == store]
        places = {step.internal_name: step for step in steps}
        for name in [*came, *names]:
            self.model.put(run, part_of(name), places[name])

    @rule(on=STORE, run=RUNS, name=st.sampled_from(sorted(BRANCHES)), status=STATUSES)
    def add_branch(self, on: int, run: str, name: str, status: str) -> None:
        branch = BranchLog(internal_name=name, status=status)
        self.do(self.stores[on].add_branch_log(branch, run))
        self.model.put(run, ("BranchLog", "", name), branch)

    @rule(on=STORE, run=RUNS, status=STATUSES, message=TEXTS)
    def add_job(self, on: int, run: str, status: str, message: str) -> None:
        job = JobLog(status=status, message=message)
        self.change_header(run, self.stores[on].add_job_log(job, run), {"status": status})
        self.model.put(run, JOB, job)

    @rule(on=STORE, run=RUNS, scope=SCOPES, parameters=st.dictionaries(KEYS, JSON, max_size=3))
    def set_parameters(self, on: int, run: str, scope: str, parameters: dict[str, Any]) -> None:
        self.do(self.stores[on].set_parameters(run, parameters, scope))
        for key, value in parameters.items():
            self.model.put(run, ("Parameter", scope, key), value)

    @rule(run=RUNS, key=KEYS)
    def set_a_parameter_at_once(self, run: str, key: str) -> None:
        self.do(at_once(*(self.stores[n % STORES].set_parameters(run, {key: n}) for n in range(4))))
        [value] = {self.do(store.get_parameters(run))[key] for store in self.stores}
        # The last of one store's.
        assert value in (2, 3)
        self.model.put(run, ("Parameter", "", key), value)

    # Reading.

    @rule(on=STORE, run=RUNS)
    def read_whole(self, on: int, run: str) -> None:
        self.check(run, self.stores[on].get_run_log_by_id(run), lambda: self.model.run_log(run))

    @rule(on=STORE, run=RUNS)
    def read_header(self, on: int, run: str) -> None:
        self.check(run, self.stores[on].get_run_log_by_id(run, full=False), lambda: self.model.parts[run][HEADER])

    @rule(on=STORE, run=RUNS)
    def read_run_config(self, on: int, run: str) -> None:
        self.check(run, self.stores[on].get_run_config(run), lambda: self.model.parts[run][HEADER].run_config)

    @rule(on=STORE, run=RUNS, scope=SCOPES)
    def read_parameters(self, on: int, run: str, scope: str) -> None:
        found = self.model.of(run, "Parameter", scope)
        reading = self.stores[on].get_parameters(run, scope)
        if found:
            assert list(self.do(reading).items()) == list(found.items())
        else:
            self.check(run, reading, dict)

    @rule(on=STORE, run=RUNS, name=st.sampled_from(sorted(STEPS)))
    def read_step(self, on: int, run: str, name: str) -> None:
        self.check_part(run, part_of(name), self.stores[on].get_step_log(name, run), StepLogNotFoundError)

    @rule(on=STORE, run=RUNS)
    def read_job(self, on: int, run: str) -> None:
        self.check_part(run, JOB, self.stores[on].get_job_log(run), JobLogNotFoundError)

    @rule(on=STORE, run=RUNS, name=st.sampled_from(sorted(BRANCHES)))
    def read_branch(self, on: int, run: str, name: str) -> None:
        reading = self.stores[on].get_branch_log(name, run)
        if self.model.has(run, ("BranchLog", "", name)):
            assert self.do(reading).model_dump_json() == self.model.branch(run, name).model_dump_json()
        else:
            with pytest.raises(BranchLogNotFoundError if self.model.has(run) else RunLogNotFoundError):
                self.do(reading)

    def check_part(self, run: str, part: Part, reading: Coroutine[Any, Any, Any], missing: type[Exception]) -> None:
        if self.model.has(run, part):
            assert self.do(reading) == self.model.parts[run][part]
        else:
            with pytest.raises(missing if self.model.has(run) else RunLogNotFoundError):
                self.do(reading)

    def check(self, run: str, reading: Coroutine[Any, Any, Any], expected: Any) -> None:
        if not self.model.has(run):
            with pytest.raises(RunLogNotFoundError):
                self.do(reading)
            return
        found = self.do(reading)
        if isinstance(found, RunLog):
            wanted: RunLog = expected()
            orphans = (found.model_extra or {}).pop("_orphans", [])
            # As text, which has an order.
            assert found.model_dump_json() == wanted.model_dump_json()
            if wanted is not self.model.parts[run][HEADER]:
                assert {(item["kind"], item["scope"], item["name"]) for item in orphans} == self.model.orphans(run)
        else:
            assert list(found.items()) == list(expected().items())

    @rule(
        on=STORE,
        status=st.none() | STATUSES,
        tag=st.none() | TAGS,
        limit=st.none() | st.integers(0, 4),
        since=st.none() | st.integers(0, 2),
        until=st.none() | st.integers(0, 2),
    )
    def list_runs(
        self, on: int, status: str | None, tag: str | None, limit: int | None, since: int | None, until: int | None
    ) -> None:
        """Times are those of runs that are there, by their place."""
        filters: dict[str, Any] = {"status": status, "tag": tag, "limit": limit}
        wanted = self.model.created
        for name, place in (("since", since), ("until", until)):
            if place is not None and place < len(self.model.created):
                run = self.model.created[place]
                filters[name] = self.do(self.stores[on].get_run_log_by_id(run, full=False)).created_at
                after = set(self.model.created[place:])
                wanted = [run for run in wanted if (run in after) == (name == "since")]
        headers = [self.model.parts[run][HEADER] for run in reversed(wanted)]
        expected = [
            (header.run_id, header.status, header.tag)
            for header in headers
            if status in (None, header.status) and tag in (None, header.tag)
        ]
        found = self.do(listed(self.stores[on], **filters))
        assert [(run.run_id, run.status, run.tag) for run in found] == expected[:limit]

    # The stores.

    @rule(on=STORE)
    def reopen(self, on: int) -> None:
        self.do(self.stores[on].aclose())
        self.stores[on] = self.do(self.fresh().open())

    @rule(on=STORE, run=RUNS, names=st.lists(st.sampled_from(sorted(STEPS)), unique=True, min_size=1))
    def close_while_writing(self, on: int, run: str, names: list[str]) -> None:
        """What was taken before is committed, in its order."""
        steps = [StepLog(name=own_name(name), internal_name=name, message="last") for name in names]

        async def close() -> None:
            async with asyncio.TaskGroup() as group:
                for step in steps:
                    group.create_task(self.stores[on].add_step_log(step, run))
                await asyncio.sleep(0)
                await self.stores[on].aclose()

        self.do(close())
        for step in steps:
            self.model.put(run, part_of(step.internal_name), step)
        self.stores[on] = self.do(self.fresh().open())

    @precondition(lambda self: self.model.created)
    @invariant()
    def newest_first(self) -> None:
        found = [run.run_id for run in self.do(listed(self.stores[0], limit=1))]
        assert found == self.model.created[-1:]


async def at_once(*work: Coroutine[Any, Any, T]) -> list[T]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(item) for item in work]
    return [task.result() for task in tasks]


async def listed(store: DBRunLogStore, **filters: Any) -> list[RunSummary]:
    return [summary async for summary in store.list_run_logs(**filters)]


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    asyncio.run(create_tables(url))
    return url


@pytest.mark.slow
def test_it_reads_as_a_dictionary_would(url: str) -> None:
    class OnThisDatabase(Machine):
        def __init__(self) -> None:
            super().__init__(url)

    run_state_machine_as_test(
        OnThisDatabase,
        settings=settings(max_examples=short_or_full(10, 200), stateful_step_count=short_or_full(30, 80)),
    )
