"""Recording runs: what ``async with`` blocks leave in the run log."""

from __future__ import annotations

import asyncio
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncstore._core.readable import MESSAGE_LIMIT, describe_error, readable_id
from asyncstore.errors import (
    AlreadyExistsError,
    ClosedError,
    InvalidValueError,
    NotFoundError,
    RunLogExistsError,
    RunLogNotFoundError,
    UnavailableError,
)
from asyncstore.recorder import RunRecorder
from asyncstore.runlog.buffered import BufferedRunLogStore
from asyncstore.runlog.fragments import Kind
from asyncstore.services import Services, open_services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from asyncstore.models import RunLog, StepLog
    from asyncstore.runlog.fragments import Fragment, FragmentKey


@pytest.fixture
async def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Services]:
    monkeypatch.chdir(tmp_path)
    config = {
        "run_log_store": {"type": "buffered"},
        "catalog": {
            "type": "file-system",
            "config": {"catalog_location": str(tmp_path / "catalog"), "compute_data_folder": "data"},
        },
    }
    async with open_services(config) as opened:
        yield opened


async def read(services: Services, run: RunRecorder) -> RunLog:
    return await services.run_log_store.get_run_log_by_id(run.run_id)


def steps(run_log: RunLog) -> dict[str, StepLog]:
    return {step.internal_name: step for step in run_log.walk_steps()}


async def test_a_run_is_processing_inside_and_success_after(services: Services) -> None:
    async with services.run("r", tag="nightly", dag_hash="abc", run_config={"k": 1}, parameters={"lr": 0.1}) as run:
        inside = await read(services, run)
    after = await run.read()
    assert inside.status == "PROCESSING"
    assert (after.status, after.tag, after.dag_hash) == ("SUCCESS", "nightly", "abc")
    assert (after.parameters, after.run_config) == ({"lr": 0.1}, {"k": 1})
    assert run.run_log.status == "SUCCESS"


async def test_a_step_is_processing_inside_and_timed_after(services: Services) -> None:
    before = datetime.now(UTC)
    async with services.run() as run:
        async with run.step("load"):
            inside = steps(await read(services, run))["load"]
        after = steps(await read(services, run))["load"]
    assert (inside.status, inside.attempts[0].status, inside.attempts[0].end_time) == ("PROCESSING", "PROCESSING", "")
    assert (after.status, after.step_type, after.message) == ("SUCCESS", "task", "")
    [attempt] = after.attempts
    assert attempt.status == "SUCCESS"
    assert before <= datetime.fromisoformat(attempt.start_time) <= datetime.fromisoformat(attempt.end_time)


async def test_an_error_is_recorded_on_step_and_run_and_goes_on(services: Services) -> None:
    run = services.run()
    with pytest.raises(ValueError, match=r"^no rows$"):
        async with run, run.step("load"):
            raise ValueError("no rows")
    log = await read(services, run)
    assert log.status == "FAIL"
    [step] = log.steps.values()
    assert (step.status, step.message) == ("FAIL", "ValueError: no rows")
    assert (step.attempts[0].status, step.attempts[0].message) == ("FAIL", "ValueError: no rows")


async def test_an_error_that_is_handled_outside_of_the_step_leaves_the_run_well(services: Services) -> None:
    async with services.run() as run:
        with pytest.raises(ValueError):
            async with run.step("try"):
                raise ValueError
    log = await read(services, run)
    assert (log.status, log.steps["try"].status) == ("SUCCESS", "FAIL")


async def test_entering_a_step_again_appends_an_attempt(services: Services) -> None:
    async with services.run() as run:
        with pytest.raises(OSError):
            async with run.step("flaky"):
                raise OSError("once")
        async with run.step("flaky"):
            pass
    step = (await read(services, run)).steps["flaky"]
    assert (step.status, step.message) == ("SUCCESS", "")
    assert [(a.attempt_number, a.status, a.message) for a in step.attempts] == [
        (1, "FAIL", "OSError: once"),
        (2, "SUCCESS", ""),
    ]


async def test_one_name_cannot_run_twice_at_the_same_time(services: Services) -> None:
    async with services.run() as run, run.step("load"), run.branch("fan", "a"):
        with pytest.raises(AlreadyExistsError, match="step 'load' of run"):
            await run.step("load").__aenter__()
        with pytest.raises(AlreadyExistsError, match=r"branch 'fan\.a' of run"):
            await run.branch("fan", "a").__aenter__()
    log = await read(services, run)
    assert [len(step.attempts) for step in log.walk_steps()] == [1, 1]


async def test_metrics_and_parameters_land_on_the_step(services: Services) -> None:
    async with services.run(parameters={"lr": 0.1}) as run, run.step("train") as step:
        assert await step.get_parameters() == {"lr": 0.1}
        await step.set_parameters({"rows": 10})
        await step.log_metrics({"auc": 0.93})
        await step.log_metrics({"folds": [1, 2]})
    log = await read(services, run)
    train = log.steps["train"]
    assert log.parameters == {"lr": 0.1, "rows": 10}
    assert train.user_defined_metrics == {"auc": 0.93, "folds": [1, 2]}
    assert train.attempts[0].user_defined_metrics == train.user_defined_metrics
    assert train.attempts[0].input_parameters == {"lr": 0.1}
    assert train.attempts[0].output_parameters == {"rows": 10}


async def test_a_metric_that_cannot_be_stored_fails_at_once_and_not_at_the_end(services: Services) -> None:
    async with services.run() as run, run.step("train") as step:
        with pytest.raises(InvalidValueError, match="NaN"):
            await step.log_metrics({"auc": math.nan})
    assert (await read(services, run)).steps["train"].status == "SUCCESS"


async def test_catalog_entries_land_on_the_step(services: Services) -> None:
    async with services.run() as run:
        async with run.step("write") as step:
            await asyncio.to_thread(_write, "data/a.csv", "data/b.txt")
            put = await step.put("*.csv")
        async with run.step("read") as step:
            await asyncio.to_thread(Path("data/a.csv").unlink)
            got = await step.get("*.csv")
    log = await read(services, run)
    assert [entry.name for entry in put] == [entry.name for entry in got] == ["data/a.csv"]
    assert [(e.stage, e.name) for e in log.steps["write"].data_catalog] == [("put", "data/a.csv")]
    assert [(e.stage, e.name) for e in log.steps["read"].data_catalog] == [("get", "data/a.csv")]


async def test_what_is_excluded_or_not_there_is_passed_on(services: Services) -> None:
    async with services.run() as run, run.step("write") as step:
        await asyncio.to_thread(_write, "data/a.csv", "data/b.csv")
        put = await step.put("*.csv", exclude="b.*")
        assert await step.put("*.parquet", allow_no_match=True) == []
        got = await step.get("**", exclude=["a.*"], allow_no_match=True)
        with pytest.raises(NotFoundError):
            await step.get("*.parquet")
    assert ([entry.name for entry in put], got) == (["data/a.csv"], [])
    assert [e.name for e in (await read(services, run)).steps["write"].data_catalog] == ["data/a.csv"]


async def test_a_file_put_twice_is_one_entry(services: Services) -> None:
    async with services.run() as run, run.step("write") as step:
        await asyncio.to_thread(_write, "data/a.csv")
        await step.put("*.csv")
        await step.put("**")
    assert [e.name for e in (await read(services, run)).steps["write"].data_catalog] == ["data/a.csv"]


async def test_branches_make_their_composite_step(services: Services) -> None:
    async with services.run() as run, asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(one_branch(run, name))
    log = await read(services, run)
    [fan] = log.steps.values()
    assert (fan.name, fan.step_type, fan.status, len(fan.attempts)) == ("fan", "parallel", "SUCCESS", 1)
    assert set(fan.branches) == {"fan.a", "fan.b", "fan.c"}
    assert {branch.status for branch in fan.branches.values()} == {"SUCCESS"}
    assert list(fan.branches["fan.a"].steps) == ["fan.a.train"]
    first = fan.created_at
    assert first is not None
    assert all(branch.created_at and first < branch.created_at for branch in fan.branches.values())


async def test_branches_one_after_the_other_are_one_attempt_of_their_step(services: Services) -> None:
    async with services.run() as run:
        await one_branch(run, "a")
        between = (await read(services, run)).steps["fan"]
        async with run.branch("fan", "b"):
            during = (await read(services, run)).steps["fan"]
    fan = (await read(services, run)).steps["fan"]
    assert (between.status, during.status, fan.status) == ("SUCCESS", "PROCESSING", "SUCCESS")
    assert during.attempts[0].end_time == ""
    assert len(fan.attempts) == 1


async def test_a_failed_branch_fails_its_step_and_the_run(services: Services) -> None:
    run = services.run()

    async def work() -> None:
        async with run:
            await one_branch(run, "good")
            await one_branch(run, "bad", KeyError("gone"))

    with pytest.raises(KeyError):
        await work()
    log = await read(services, run)
    fan = log.steps["fan"]
    assert log.status == fan.status == fan.branches["fan.bad"].status == "FAIL"
    assert fan.branches["fan.bad"].steps["fan.bad.train"].message == "KeyError: 'gone'"
    assert "fan.bad" in fan.message


async def test_a_composite_step_may_be_a_block_of_its_own(services: Services) -> None:
    async with services.run() as run, run.step("fan", step_type="map") as fan:
        await one_branch(run, "a")
        await one_branch(run, "b")
        await fan.log_metrics({"branches": 2})
    step = (await read(services, run)).steps["fan"]
    assert (step.step_type, len(step.attempts), list(step.branches)) == ("map", 1, ["fan.a", "fan.b"])
    assert step.user_defined_metrics == {"branches": 2}


async def test_branches_nest_and_inherit_parameters(services: Services) -> None:
    async with services.run(parameters={"x": 1, "y": 1}) as run, run.branch("outer", "a") as outer:
        await outer.set_parameters({"y": 2})
        async with outer.branch("inner", "b.c", step_type="map") as inner, inner.step("leaf") as leaf:
            await leaf.set_parameters({"z": 3})
            seen = await leaf.get_parameters()
        seen_outside = await outer.get_parameters()
    log = await read(services, run)
    assert inner.internal_name == "outer.a.inner.b.c"
    assert seen == {"x": 1, "y": 2, "z": 3}
    assert seen_outside == {"x": 1, "y": 2}
    assert log.parameters == {"x": 1, "y": 1}
    assert list(steps(log)) == ["outer", "outer.a.inner", "outer.a.inner.b.c.leaf"]
    assert steps(log)["outer.a.inner"].step_type == "map"


async def test_cancelling_records_a_failure_everywhere(services: Services) -> None:
    entered = asyncio.Event()
    run = services.run()

    async def work() -> None:
        async with run, run.branch("fan", "a") as branch, branch.step("wait"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    log = await read(services, run)
    assert {step.status for step in log.walk_steps()} == {"FAIL"}
    assert {branch.status for branch in log.walk_branches()} == {log.status} == {"FAIL"}
    assert steps(log)["fan.a.wait"].message == "CancelledError"


class GatedStore(BufferedRunLogStore):
    """Holds writes of steps until the gate opens; ``reached`` says that one waits."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()

    async def _upsert(self, run_id: str, fragments: Sequence[Fragment]) -> None:
        self.reached.set()
        await self.gate.wait()
        await super()._upsert(run_id, fragments)


class FailingStore(BufferedRunLogStore):
    """Cannot be reached while ``down``."""

    down = False

    async def _upsert(self, run_id: str, fragments: Sequence[Fragment]) -> None:
        if self.down:
            raise UnavailableError("the store is down")
        await super()._upsert(run_id, fragments)


async def test_cancelled_while_entering_does_not_stay_at_processing(services: Services) -> None:
    async with GatedStore() as store:
        async with RunRecorder(store, services.catalog) as run:
            store.gate.clear()
            store.reached.clear()
            task = asyncio.create_task(run.step("slow").__aenter__())
            await store.reached.wait()
            task.cancel()
            store.gate.set()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (await run.read()).steps["slow"].status == "FAIL"


class SlowAnswerStore(BufferedRunLogStore):
    """Writes a new run and answers when the gate opens; ``reached`` says that it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.reached = asyncio.Event()

    async def _insert(self, run_id: str, fragments: Sequence[Fragment]) -> Collection[FragmentKey]:
        found = await super()._insert(run_id, fragments)
        self.reached.set()
        await self.gate.wait()
        return found


async def cancel_while_entered(store: SlowAnswerStore, run: RunRecorder) -> None:
    store.gate.clear()
    store.reached.clear()
    task = asyncio.create_task(run.__aenter__())
    await store.reached.wait()
    task.cancel()
    await asyncio.sleep(0)
    store.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_run_cancelled_while_it_is_created_has_failed(services: Services) -> None:
    async with SlowAnswerStore() as store:
        run = RunRecorder(store, services.catalog, parameters={"x": 1})
        await cancel_while_entered(store, run)
        assert (await run.read()).status == "FAIL"


async def test_somebody_elses_run_is_not_touched_by_a_cancelled_one(services: Services) -> None:
    async with SlowAnswerStore() as store:
        store.gate.set()
        await store.create_run_log("r", status="PROCESSING")
        await cancel_while_entered(store, RunRecorder(store, services.catalog, "r"))
        assert (await store.get_run_log_by_id("r")).status == "PROCESSING"


class RefusingStore(GatedStore):
    """Refuses branches, and then holds further writes."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = asyncio.Event()

    async def _upsert(self, run_id: str, fragments: Sequence[Fragment]) -> None:
        if any(fragment.kind is Kind.BRANCH_LOG for fragment in fragments):
            self.gate.clear()
            self.reached.clear()
            self.refused.set()
            raise UnavailableError("no branches today")
        await super()._upsert(run_id, fragments)


async def test_cancelled_while_leaving_a_branch_that_could_not_start(services: Services) -> None:
    async with RefusingStore() as store:
        async with RunRecorder(store, services.catalog) as run:
            task = asyncio.create_task(run.branch("fan", "a").__aenter__())
            await store.refused.wait()
            await store.reached.wait()
            task.cancel()
            await asyncio.sleep(0)
            store.gate.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            store.gate.set()
        assert (await run.read()).steps["fan"].status == "FAIL"


async def test_cancelled_while_leaving_still_records_success(services: Services) -> None:
    async with GatedStore() as store:
        async with RunRecorder(store, services.catalog) as run:
            step = await run.step("slow").__aenter__()
            store.gate.clear()
            store.reached.clear()
            task = asyncio.create_task(step.__aexit__(None, None, None))
            await store.reached.wait()
            task.cancel()
            await asyncio.sleep(0)
            store.gate.set()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (await run.read()).steps["slow"].status == "SUCCESS"


async def test_the_blocks_own_error_wins_over_a_store_that_is_down(services: Services) -> None:
    async with FailingStore() as store, RunRecorder(store, services.catalog) as run:
        step = await run.step("load").__aenter__()
        store.down = True
        mine = ValueError("mine")
        await step.__aexit__(ValueError, mine, None)
        store.down = False
    assert "could not record" in "".join(mine.__notes__)


async def test_an_end_that_cannot_be_recorded_is_an_error(services: Services) -> None:
    async with FailingStore() as store, RunRecorder(store, services.catalog) as run:
        with pytest.raises(UnavailableError):
            async with run.step("load"):
                store.down = True
        store.down = False
        async with run.step("load"):
            pass
    assert [attempt.attempt_number for attempt in run._recording.steps["load"].attempts] == [1, 2]


async def test_a_branch_whose_store_is_down_can_be_entered_later(services: Services) -> None:
    async with FailingStore() as store, RunRecorder(store, services.catalog) as run:
        store.down = True
        with pytest.raises(UnavailableError):
            await run.branch("fan", "a").__aenter__()
        store.down = False
        await one_branch(run, "a")
        fan = (await run.read()).steps["fan"]
    assert (fan.status, list(fan.branches)) == ("SUCCESS", ["fan.a"])


async def test_a_run_that_exists_is_left_alone(services: Services) -> None:
    async with services.run("r"):
        pass
    with pytest.raises(RunLogExistsError):
        async with services.run("r", parameters={"x": 1}):
            pass
    log = await services.run_log_store.get_run_log_by_id("r")
    assert (log.status, log.parameters) == ("SUCCESS", {})


async def test_a_run_whose_first_parameters_are_refused_has_failed(services: Services) -> None:
    run = services.run(parameters={"lr": math.nan})
    with pytest.raises(InvalidValueError):
        await run.__aenter__()
    assert (await read(services, run)).status == "FAIL"


async def test_a_run_deleted_meanwhile_says_so(services: Services) -> None:
    with pytest.raises(RunLogNotFoundError):
        async with services.run("r"):
            await services.run_log_store.delete_run_log("r")


async def test_blocks_are_used_inside_and_entered_once(services: Services) -> None:
    run = services.run("r")
    with pytest.raises(ClosedError, match=r"inside its 'async with'"):
        run.step("load")
    with pytest.raises(ClosedError):
        _ = run.run_log
    async with run:
        step = run.step("load")
        with pytest.raises(ClosedError):
            await step.log_metrics({})
        async with step:
            assert "'load' of run 'r' open" in repr(step)
        with pytest.raises(ClosedError, match="entered before"):
            await step.__aenter__()


@pytest.mark.parametrize("name", ["", "a\x00b", "\ud800"])
async def test_names_that_cannot_be_stored_are_refused_at_once(services: Services, name: str) -> None:
    async with services.run() as run:
        with pytest.raises(InvalidValueError):
            run.step(name)
        with pytest.raises(InvalidValueError):
            run.branch("fan", name)
        with pytest.raises(InvalidValueError):
            run.branch(name, "a")


async def test_an_error_message_that_no_store_could_hold_is_recorded_escaped(services: Services) -> None:
    run = services.run()
    with pytest.raises(ValueError):
        async with run, run.step("load"):
            raise ValueError("nul \x00 surrogate \ud800")
    assert (await read(services, run)).steps["load"].message == "ValueError: nul \\x00 surrogate \\ud800"


def test_descriptions_of_groups_name_their_leaves() -> None:
    group = ExceptionGroup("many", [ValueError("a"), ExceptionGroup("in", [OSError("b"), KeyError("c"), OSError("d")])])
    assert describe_error(group).endswith("ValueError: a; OSError: b; KeyError: 'c' and 1 more")
    assert describe_error(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_descriptions_are_bounded_and_survive_a_bad_str() -> None:
    class BadError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe_error(BadError()) == "BadError: (its message cannot be shown)"
    assert len(describe_error(ValueError("x" * 10 * MESSAGE_LIMIT))) == MESSAGE_LIMIT + 1


def test_generated_ids_are_readable_unique_and_sort_by_time() -> None:
    early, late = readable_id(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)), readable_id()
    assert re.fullmatch(r"20260102-030405-[a-z]+-[a-z]+-[0-9a-f]{4}", early)
    assert readable_id() != readable_id()
    assert (early < late) is (datetime.now(UTC).year >= 2026)


async def one_branch(run: RunRecorder, name: str, error: Exception | None = None) -> None:
    async with run.branch("fan", name) as branch, branch.step("train"):
        await asyncio.sleep(0)
        if error is not None:
            raise error


def _write(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
