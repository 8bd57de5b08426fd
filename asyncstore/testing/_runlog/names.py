"""Hostile names of steps, branches, map values and parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import InvalidValueError
from asyncstore.models import SUCCESS, RunLog, StepLog
from asyncstore.testing._runlog.base import HOSTILE_NAMES, RUN, RunLogSuite, branch, step

if TYPE_CHECKING:
    from asyncstore.runlog.base import RunLogStore

__all__ = ["NameSuite"]


class NameSuite(RunLogSuite):
    """Any text without NUL is a name, and no two names are taken for each other."""

    async def test_steps(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        steps = {name: step(name, message=f"step {number}") for number, name in enumerate(HOSTILE_NAMES)}
        for item in steps.values():
            await store.add_step_log(item, RUN)
        read = await another.get_run_log_by_id(RUN)
        assert read.steps == steps
        assert list(read.steps) == list(steps)
        for name, item in steps.items():
            assert await another.get_step_log(name, RUN) == item

    async def test_branches_and_map_values(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        await store.add_step_log(step("fan", step_type="map"), RUN)
        for number, value in enumerate(HOSTILE_NAMES):
            await store.add_branch_log(branch(f"fan.{value}"), RUN)
            await store.add_step_log(step("train", f"fan.{value}", message=f"step {number}"), RUN)
            await store.set_parameters(RUN, {"value": value}, f"fan.{value}")
        branches = (await another.get_run_log_by_id(RUN)).steps["fan"].branches
        assert list(branches) == [f"fan.{value}" for value in HOSTILE_NAMES]
        for number, value in enumerate(HOSTILE_NAMES):
            name = f"fan.{value}"
            train = step("train", name, message=f"step {number}")
            expected = branch(name, steps={train.internal_name: train}, parameters={"value": value})
            assert branches[name] == expected
            assert await another.get_branch_log(name, RUN) == expected
            assert await another.get_parameters(RUN, name) == {"value": value}

    async def test_parameter_keys(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        parameters = {name: f"value {number}" for number, name in enumerate(HOSTILE_NAMES)}
        await store.set_parameters(RUN, parameters)
        await store.set_parameters(RUN, dict.fromkeys(HOSTILE_NAMES, "scoped"), "fan.a")
        assert await another.get_parameters(RUN) == parameters
        assert await another.get_parameters(RUN, "fan.a") == dict.fromkeys(HOSTILE_NAMES, "scoped")
        assert (await another.get_run_log_by_id(RUN)).parameters == parameters

    async def test_a_scope_and_a_key_do_not_run_together(self, store: RunLogStore) -> None:
        await store.create_run_log(RUN)
        await store.set_parameters(RUN, {"b.c": 1, "fan.a": 2, "run_log": 3, "~": 4})
        await store.set_parameters(RUN, {"c": 5}, "b")
        await store.set_parameters(RUN, {"a": 6}, "~")
        await store.set_parameters(RUN, {"b/c": 7}, "fan")
        await store.set_parameters(RUN, {"c": 8}, "fan/b")
        assert await store.get_parameters(RUN) == {"b.c": 1, "fan.a": 2, "run_log": 3, "~": 4}
        scopes = [await store.get_parameters(RUN, scope) for scope in ("b", "~", "fan", "fan/b")]
        assert scopes == [{"c": 5}, {"a": 6}, {"b/c": 7}, {"c": 8}]

    async def test_names_of_the_layout_itself(self, store: RunLogStore) -> None:
        await store.create_run_log(RUN, tag="kept")
        names = ["run_log", "job_log", "RunLog", "StepLog", "RunLog/run_log", "run", "run.json", "_orphans"]
        for name in names:
            await store.add_step_log(step(name), RUN)
            await store.set_parameters(RUN, {name: name})
        read = await store.get_run_log_by_id(RUN)
        assert (read.tag, list(read.steps), read.parameters) == ("kept", names, {name: name for name in names})

    @pytest.mark.parametrize("name", ["", "nul\x00", "lone \ud800"], ids=ascii)
    async def test_what_cannot_be_a_name_is_refused(self, store: RunLogStore, name: str) -> None:
        created = await store.create_run_log(RUN)
        with pytest.raises(InvalidValueError):
            await store.add_step_log(StepLog.model_construct(name=name, internal_name=name, status=SUCCESS), RUN)
        with pytest.raises(InvalidValueError):
            await store.add_branch_log(branch(name), RUN)
        with pytest.raises(InvalidValueError):
            await store.set_parameters(RUN, {"good": 1, name: 2})
        assert await store.get_run_log_by_id(RUN) == RunLog(**created.model_dump())
