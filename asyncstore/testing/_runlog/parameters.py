"""Parameters, and values that are hard to store."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import InvalidValueError
from asyncstore.models import RunLog, StepAttempt
from asyncstore.testing._runlog.base import RUN, RunLogSuite, branch, step

if TYPE_CHECKING:
    from asyncstore.runlog.base import RunLogStore

__all__ = ["ParameterSuite", "ValueSuite"]

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**63,
    10**400,
    0.1,
    1e308,
    5e-324,
    "",
    "NaN",
    "\\u0000",
    "\u2028 line\r\n\t separators",
    "\x1f control",
    "🙂 é e\u0301",
    [],
    {},
    [[], {}, [None]],
    {"": 1, ".": 2, "_created_at": "2026-11-20", "steps": {}},
    {"kind": "json", "value": [1, 2]},
    {"kind": "metric", "value": 0.93},
    list(range(2000)),
    "x" * 300_000,
)
"""What JSON can hold, and some store has changed on the way."""


def deep(levels: int) -> list[Any]:
    """Return a list nested so many levels deep."""
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


UNSTORABLE = {
    "NUL": "a\x00b",
    "NUL in a key": {"a\x00b": 1},
    "NaN": math.nan,
    "infinity": -math.inf,
    "lone surrogate": "a\ud800b",
    "100,000 digits": 10**100_000,
    "too deep": deep(200),
    "no JSON type": object(),
}


class ParameterSuite(RunLogSuite):
    """Each key in each scope stands for itself."""

    async def test_keys_not_named_stay(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        await store.set_parameters(RUN, {"lr": 0.1, "lr_decay": 0.5})
        await another.set_parameters(RUN, {"lr": 0.2, "rows": 10})
        await store.set_parameters(RUN, {})
        assert await store.get_parameters(RUN) == {"lr": 0.2, "lr_decay": 0.5, "rows": 10}

    async def test_scopes_are_apart(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        await store.add_step_log(step("fan"), RUN)
        scopes = ["", "fan.a", "fan.a.b", "fan.ab"]
        for scope in scopes:
            if scope:
                await store.add_branch_log(branch(scope), RUN)
            await store.set_parameters(RUN, {"x": scope}, scope)
        for scope in scopes:
            assert await another.get_parameters(RUN, scope) == {"x": scope}
        read = await another.get_run_log_by_id(RUN)
        assert read.parameters == {"x": ""}
        assert {item.internal_name: item.parameters for item in read.walk_branches()} == {
            scope: {"x": scope} for scope in scopes[1:]
        }

    async def test_a_type_may_change(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        values: list[Any] = [{"a": 1}, [1], "text", 1.5, None]
        for value in values:
            await store.set_parameters(RUN, {"x": value})
            assert await another.get_parameters(RUN) == {"x": value}


class ValueSuite(RunLogSuite):
    """What JSON can hold comes back as it was; what it cannot is refused, and nothing is lost."""

    async def test_every_json_value(self, store: RunLogStore, another: RunLogStore) -> None:
        values = {f"value-{number}": value for number, value in enumerate(VALUES)}
        attempt = StepAttempt(parameters=values, input_parameters=values)
        measured = step("train", user_defined_metrics=values, attempts=[attempt], extra=list(VALUES))
        await store.create_run_log(RUN)
        await store.set_parameters(RUN, values)
        await store.set_run_config(RUN, values)
        await store.add_step_log(measured, RUN)
        assert await another.get_parameters(RUN) == values
        assert await another.get_step_log("train", RUN) == measured
        read = await another.get_run_log_by_id(RUN)
        assert (read.parameters, read.run_config, read.steps) == (values, values, {"train": measured})
        assert all(type(read.parameters[key]) is type(value) for key, value in values.items())

    @pytest.mark.parametrize("what", UNSTORABLE)
    async def test_what_cannot_be_stored_is_refused(self, store: RunLogStore, another: RunLogStore, what: str) -> None:
        value: Any = UNSTORABLE[what]
        await store.create_run_log(RUN)
        await store.set_parameters(RUN, {"x": "before"})
        await store.add_step_log(step("train", message="before"), RUN)
        before = await store.get_run_log_by_id(RUN)
        with pytest.raises(InvalidValueError):
            await store.set_parameters(RUN, {"good": 1, "x": value})
        with pytest.raises(InvalidValueError):
            await store.set_parameters(RUN, {"x": [{"inside": value}]}, "fan.a")
        with pytest.raises(InvalidValueError):
            await store.add_step_log(step("train").model_copy(update={"user_defined_metrics": {"x": value}}), RUN)
        with pytest.raises(InvalidValueError):
            await store.add_branch_log(branch("fan.a").model_copy(update={"parameters": {"x": value}}), RUN)
        with pytest.raises(InvalidValueError):
            await store.set_run_config(RUN, {"x": value})
        with pytest.raises(InvalidValueError):
            await store.put_run_log(RunLog(run_id=RUN, tag="lost").model_copy(update={"parameters": {"x": value}}))
        with pytest.raises(InvalidValueError):
            await store.create_run_log("another", tag=value if isinstance(value, str) else "\x00")
        assert await another.get_run_log_by_id(RUN) == before

    async def test_one_bad_value_fails_its_own_caller_alone(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(store.set_parameters(RUN, {f"key-{number}": number}))
                group.create_task(self._refused(store, number))
        assert await another.get_parameters(RUN) == {f"key-{number}": number for number in range(20)}

    @staticmethod
    async def _refused(store: RunLogStore, number: int) -> None:
        with pytest.raises(InvalidValueError):
            await store.set_parameters(RUN, {f"bad-{number}": "a\x00b"})
