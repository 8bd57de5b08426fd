"""Steps and branches in the tree: nesting, gaps, stale copies, order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncstore.models import FAIL, PROCESSING, SUCCESS, BranchLog, DataCatalog, JobLog, RunLog, StepAttempt
from asyncstore.testing._runlog.base import RUN, RunLogSuite, branch, step

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.runlog.base import RunLogStore

__all__ = ["OrderSuite", "PartSuite", "StaleSuite", "nested_run"]


def nested_run() -> RunLog:
    """Return a run with branches three deep, dots in their names, and something in every field."""
    attempt = StepAttempt(status=SUCCESS, start_time="2026-11-20T00:00:00", output_parameters={"rows": 10})
    leaf = step("train", "fan.a.b.each.1.5.sub.x.y", attempts=[attempt], user_defined_metrics={"auc": 0.93})
    third = branch("fan.a.b.each.1.5.sub.x.y", steps={leaf.internal_name: leaf}, parameters={"depth": 3})
    sub = step("sub", "fan.a.b.each.1.5", step_type="parallel", branches={third.internal_name: third})
    second = branch("fan.a.b.each.1.5", steps={sub.internal_name: sub}, parameters={"depth": 2})
    each = step("each", "fan.a.b", step_type="map", branches={second.internal_name: second})
    before = step("before", "fan.a.b", data_catalog=[DataCatalog(name="data/a.csv", stage="put")])
    first = branch("fan.a.b", steps={"fan.a.b.before": before, "fan.a.b.each": each}, parameters={"depth": 1})
    other = branch("fan.a", steps={"fan.a.only": step("only", "fan.a")})
    fan = step("fan", step_type="parallel", branches={"fan.a.b": first, "fan.a": other})
    return RunLog(
        run_id=RUN,
        status=PROCESSING,
        tag="nested",
        steps={"load": step("load", mock=True), "fan": fan, "report": step("report", status=FAIL, message="no disk")},
        parameters={"lr": 0.1, "names": ["a", {"b": None}]},
        run_config={"executor": {"type": "local"}},
        job=JobLog(status=SUCCESS, message="a job beside steps"),
    )


class PartSuite(RunLogSuite):
    """Parts are found where their names say, however they came and whatever is missing."""

    async def test_a_nested_run_put_whole_is_read_whole(self, store: RunLogStore, another: RunLogStore) -> None:
        run_log = nested_run()
        await store.put_run_log(run_log)
        read = await another.get_run_log_by_id(RUN)
        assert read == run_log
        assert [item.internal_name for item in read.walk_steps()] == [
            item.internal_name for item in run_log.walk_steps()
        ]

    async def test_a_nested_run_added_part_by_part(self, store: RunLogStore, another: RunLogStore) -> None:
        run_log = nested_run()
        await store.create_run_log(RUN, status=PROCESSING, tag="nested")
        for part in run_log.walk_steps():
            await store.add_step_log(part.model_copy(update={"branches": {}}), RUN)
        for item in run_log.walk_branches():
            await store.add_branch_log(item.model_copy(update={"steps": {}, "parameters": {}}), RUN)
            await store.set_parameters(RUN, item.parameters, item.internal_name)
        assert (await another.get_run_log_by_id(RUN)).steps == run_log.steps

    async def test_a_branch_is_read_with_all_below_it(self, store: RunLogStore, another: RunLogStore) -> None:
        run_log = nested_run()
        await store.put_run_log(run_log)
        for item in run_log.walk_branches():
            assert await another.get_branch_log(item.internal_name, RUN) == item
        for part in run_log.walk_steps():
            assert await another.get_step_log(part.internal_name, RUN) == part.model_copy(update={"branches": {}})

    async def test_the_branch_without_name_is_the_run(self, store: RunLogStore) -> None:
        await store.put_run_log(nested_run())
        whole = await store.get_branch_log("", RUN)
        assert whole == nested_run()
        await store.add_branch_log(whole, RUN)
        assert await store.get_run_log_by_id(RUN) == nested_run()

    async def test_a_missing_branch_leaves_a_gap(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        await store.add_step_log(step("fan"), RUN)
        await store.add_step_log(step("train", "fan.a.b"), RUN)
        await store.add_branch_log(branch("fan.there"), RUN)
        fan = (await another.get_run_log_by_id(RUN)).steps["fan"]
        assert fan.branches["fan.there"] == branch("fan.there")
        assert fan.branches["fan.a.b"].steps == {"fan.a.b.train": step("train", "fan.a.b")}

    async def test_a_missing_step_leaves_a_gap(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        await store.add_branch_log(branch("fan.a"), RUN)
        await store.add_step_log(step("train", "fan.a"), RUN)
        await store.add_step_log(step("deep", "fan.a.gone.x"), RUN)
        await store.set_parameters(RUN, {"x": 1}, "nowhere.b")
        await store.add_step_log(step("report"), RUN)
        assert list((await another.get_run_log_by_id(RUN)).steps) == ["report"]
        assert await another.get_step_log("fan.a.train", RUN) == step("train", "fan.a")
        assert "fan.a.train" in (await another.get_branch_log("fan.a", RUN)).steps
        assert await another.get_step_log("fan.a.gone.x.deep", RUN) == step("deep", "fan.a.gone.x")
        assert await another.get_parameters(RUN, "nowhere.b") == {"x": 1}

    async def test_a_gap_survives_the_end_and_is_filled_later(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        await store.add_branch_log(branch("fan.a", parameters={"x": 1}), RUN)
        await store.add_step_log(step("train", "fan.a"), RUN)
        await store.update_run_log_status(RUN, FAIL)
        assert (await another.get_run_log_by_id(RUN)).steps == {}
        await another.add_step_log(step("fan"), RUN)
        found = (await store.get_run_log_by_id(RUN)).steps["fan"].branches["fan.a"]
        assert found == branch("fan.a", parameters={"x": 1}, steps={"fan.a.train": step("train", "fan.a")})

    async def test_a_step_is_replaced_whole(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        await store.add_step_log(step("train", message="one", user_defined_metrics={"a": 1}), RUN)
        await another.add_step_log(step("train", attempts=[StepAttempt(status=SUCCESS)]), RUN)
        assert await store.get_step_log("train", RUN) == step("train", attempts=[StepAttempt(status=SUCCESS)])

    async def test_unknown_fields_are_kept(self, store: RunLogStore, another: RunLogStore) -> None:
        extra: dict[str, Any] = {"another_tool": {"writes": ["this", 1, None]}}
        run_log = RunLog(
            run_id=RUN, steps={"fan": step("fan", branches={"fan.a": branch("fan.a", **extra)}, **extra)}, **extra
        )
        await store.put_run_log(run_log)
        await store.update_run_log_status(RUN, SUCCESS)
        read = await another.get_run_log_by_id(RUN)
        assert read == run_log.model_copy(update={"status": SUCCESS})
        assert read.model_dump()["another_tool"] == extra["another_tool"]

    async def test_factories_make_parts_that_are_not_stored(self, make_store: Callable[[], RunLogStore]) -> None:
        store = make_store()
        assert store.create_step_log("train", "fan.a.train") == step("train", "fan.a", status="CREATED")
        assert store.create_branch_log("fan.a") == branch("fan.a", status="CREATED")
        assert store.create_data_catalog("data/a.csv") == DataCatalog(name="data/a.csv")
        assert store.create_attempt_log() == StepAttempt()
        assert store.create_job_log() == JobLog(status="CREATED")
        assert store.create_code_identity().code_identifier == ""


class StaleSuite(RunLogSuite):
    """A copy that has gone stale adds what is missing, and never replaces or erases what is newer."""

    async def test_a_stale_run_log(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        await store.add_step_log(step("train", status=PROCESSING), RUN)
        await store.set_parameters(RUN, {"lr": 1})
        stale = await store.get_run_log_by_id(RUN)
        await another.add_step_log(step("train"), RUN)
        await another.add_step_log(step("report"), RUN)
        await another.set_parameters(RUN, {"lr": 2, "rows": 10})
        stale.tag = "changed"
        stale.steps["late"] = step("late")
        stale.parameters["late"] = True
        await store.put_run_log(stale)
        read = await another.get_run_log_by_id(RUN)
        assert read.steps == {"train": step("train"), "report": step("report"), "late": step("late")}
        assert (read.tag, read.parameters) == ("changed", {"lr": 2, "rows": 10, "late": True})

    async def test_a_stale_branch(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.put_run_log(nested_run())
        stale = await store.get_branch_log("fan.a.b", RUN)
        assert isinstance(stale, BranchLog)
        newer = step("before", "fan.a.b", message="newer")
        await another.add_step_log(newer, RUN)
        await another.set_parameters(RUN, {"depth": "newer"}, "fan.a.b")
        stale.status = FAIL
        stale.steps["fan.a.b.late"] = step("late", "fan.a.b")
        await store.add_branch_log(stale, RUN)
        read = await another.get_branch_log("fan.a.b", RUN)
        assert (read.status, read.parameters) == (FAIL, {"depth": "newer"})
        assert read.steps["fan.a.b.before"] == newer
        assert list(read.steps) == ["fan.a.b.before", "fan.a.b.each", "fan.a.b.late"]

    async def test_a_stale_step_with_branches(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.put_run_log(nested_run())
        stale = (await store.get_run_log_by_id(RUN)).steps["fan"]
        await another.add_branch_log(branch("fan.a", status=FAIL), RUN)
        stale.message = "replaced"
        await store.add_step_log(stale, RUN)
        fan = (await another.get_run_log_by_id(RUN)).steps["fan"]
        assert (fan.message, fan.branches["fan.a"].status) == ("replaced", FAIL)
        assert list(fan.branches["fan.a"].steps) == ["fan.a.only"]

    async def test_putting_a_header_back_erases_nothing(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.put_run_log(nested_run())
        header = await store.get_run_log_by_id(RUN, full=False)
        await store.put_run_log(header)
        assert await another.get_run_log_by_id(RUN) == nested_run()


class OrderSuite(RunLogSuite):
    """Steps and branches come back in the order in which they were first stored."""

    async def test_rewriting_keeps_the_place(self, store: RunLogStore, another: RunLogStore) -> None:
        names = ["zeta", "alpha", "mid", "beta"]
        await store.create_run_log(RUN)
        for name in names:
            await store.add_step_log(step(name, status=PROCESSING), RUN)
        first = {name: item.created_at for name, item in (await store.get_run_log_by_id(RUN)).steps.items()}
        await store.add_step_log(step("zeta"), RUN)
        await another.add_step_log(step("alpha"), RUN)
        await another.add_step_log(step("mid", status=FAIL), RUN)
        await store.add_step_log(step("mid"), RUN)
        for reader in (store, another):
            steps = (await reader.get_run_log_by_id(RUN)).steps
            assert list(steps) == names
            assert {name: item.created_at for name, item in steps.items()} == first
            assert (await reader.get_step_log("alpha", RUN)).created_at == first["alpha"]

    async def test_rewriting_what_was_read_keeps_the_place(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        for name in ("first", "second"):
            await store.add_step_log(step(name, status=PROCESSING), RUN)
        read = await another.get_step_log("first", RUN)
        read.status = SUCCESS
        await another.add_step_log(read, RUN)
        await another.add_step_log(step("third"), RUN)
        steps = (await store.get_run_log_by_id(RUN)).steps
        assert [(name, item.status) for name, item in steps.items()] == [
            ("first", SUCCESS),
            ("second", PROCESSING),
            ("third", SUCCESS),
        ]

    async def test_later_writes_sort_later_whoever_writes(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        names = [f"step-{number}" for number in range(12, 0, -1)]
        for number, name in enumerate(names):
            await (another if number % 2 else store).add_step_log(step(name), RUN)
        read = await store.get_run_log_by_id(RUN)
        stamps = [item.created_at for item in read.steps.values() if item.created_at is not None]
        assert list(read.steps) == names
        assert stamps == sorted(set(stamps))
        assert read.created_at is not None
        assert read.created_at < stamps[0]

    async def test_branches_keep_their_place(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        await store.add_step_log(step("fan"), RUN)
        for value in ("z", "a", "m"):
            await store.add_branch_log(branch(f"fan.{value}", status=PROCESSING), RUN)
        await another.add_branch_log(branch("fan.z"), RUN)
        await store.add_branch_log(branch("fan.b"), RUN)
        read = await another.get_run_log_by_id(RUN)
        assert list(read.steps["fan"].branches) == ["fan.z", "fan.a", "fan.m", "fan.b"]

    async def test_the_end_of_a_run_changes_no_order(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        for name in ("c", "a", "b"):
            await store.add_step_log(step(name), RUN)
        before = await another.get_run_log_by_id(RUN)
        await store.update_run_log_status(RUN, SUCCESS)
        after = await another.get_run_log_by_id(RUN)
        assert list(after.steps) == ["c", "a", "b"]
        assert [item.created_at for item in after.steps.values()] == [item.created_at for item in before.steps.values()]
        assert after.created_at == before.created_at
