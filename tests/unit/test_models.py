from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from asyncstore.models import (
    STAMP,
    BranchLog,
    DataCatalog,
    JobLog,
    LogModel,
    RunLog,
    StepAttempt,
    StepLog,
)
from asyncstore.runlog.encoding import explode
from asyncstore.runlog.tree import assemble, flatten, write_document

DATA = Path(__file__).parents[1] / "data"
DOCUMENTS = sorted(DATA.glob("*/file-system/*.json"))
PARTS = {
    "RunLog": sorted(DATA.glob("*/chunked-fs/*/RunLog.json")),
    "StepLog": sorted(DATA.glob("*/chunked-fs/*/StepLog-*.json")),
    "BranchLog": sorted(DATA.glob("*/chunked-fs/*/BranchLog-*.json")),
}
MODELS: dict[str, type[LogModel]] = {"RunLog": RunLog, "StepLog": StepLog, "BranchLog": BranchLog}


def lost(original: Any, kept: Any, path: str = "$") -> list[str]:
    """Say what of ``original`` is not in ``kept``."""
    if isinstance(original, dict) and isinstance(kept, dict):
        missing = [f"{path}.{key}" for key in original if key not in kept]
        return missing + [
            item for key in original if key in kept for item in lost(original[key], kept[key], f"{path}.{key}")
        ]
    if isinstance(original, list) and isinstance(kept, list) and len(original) == len(kept):
        return [
            item
            for number, (one, other) in enumerate(zip(original, kept, strict=True))
            for item in lost(one, other, f"{path}[{number}]")
        ]
    return [] if original == kept and type(original) is type(kept) else [path]


def name_of(path: Path) -> str:
    return "/".join(path.relative_to(DATA).parts)


def test_there_are_recorded_logs_of_both_tools() -> None:
    assert {path.relative_to(DATA).parts[0] for path in DOCUMENTS} == {"magnus", "runnable"}
    assert all(PARTS.values())


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_recorded_document_keeps_every_value(path: Path) -> None:
    original = json.loads(path.read_text())
    run_log = RunLog.model_validate_json(path.read_text())
    assert lost(original, json.loads(run_log.model_dump_json())) == []
    assert [step.internal_name for step in run_log.walk_steps()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_recorded_document_survives_fragments(path: Path) -> None:
    original = json.loads(path.read_text())
    assert lost(original, json.loads(write_document(flatten(original)) or b"")) == []
    run_log = RunLog.model_validate(original)
    own, nested = explode(run_log)
    assert assemble([own, *nested]) == run_log


@pytest.mark.parametrize(
    ("kind", "path"),
    [(kind, path) for kind, paths in PARTS.items() for path in paths],
    ids=lambda value: Path(value).name,
)
def test_a_recorded_part_keeps_every_value(kind: str, path: Path) -> None:
    model = MODELS[kind].model_validate_json(path.read_text())
    assert lost(json.loads(path.read_text()), json.loads(model.model_dump_json())) == []


def test_unknown_fields_are_kept_at_every_level() -> None:
    text = (
        '{"run_id": "r", "new": 1, "steps": {"s": {"name": "s", "internal_name": "s", "new": 2,'
        '"attempts": [{"new": 3}],'
        '"branches": {"s.b": {"internal_name": "s.b", "new": 4}}, "data_catalog": [{"name": "d", "new": 5}]}}}'
    )
    assert lost(json.loads(text), json.loads(RunLog.model_validate_json(text).model_dump_json())) == []


def test_the_creation_time_is_no_field() -> None:
    stamped = StepLog.model_validate(
        {"name": "a", "internal_name": "a", "_created_at": "2026-11-20T01:00:00.000001+01:00"}
    )
    assert stamped.created_at is not None
    assert stamped.created_at.isoformat() == "2026-11-20T00:00:00.000001+00:00"
    assert "created_at" not in stamped.model_dump_json()
    assert stamped == StepLog(name="a", internal_name="a")
    assert pickle.loads(pickle.dumps(stamped)).created_at == stamped.created_at
    assert StepLog.model_validate({"name": "a", "internal_name": "a", "_created_at": "no time"}).created_at is None


def test_the_creation_time_is_seen_nowhere_and_goes_along_everywhere() -> None:
    text = '{"name":"a","internal_name":"a","stamp_":1,"x":2,"_created_at":"2026-11-20T00:00:00.000001+00:00"}'
    stamped = StepLog.model_validate_json(text)
    plain = StepLog(name="a", internal_name="a", stamp_=1, x=2)  # type: ignore[call-arg]
    assert (stamped == plain, repr(stamped)) == (True, repr(plain))
    assert (stamped.model_dump(), stamped.model_dump_json()) == (plain.model_dump(), plain.model_dump_json())
    assert (stamped.model_extra, json.loads(stamped.model_dump_json())["stamp_"]) == ({"stamp_": 1, "x": 2}, 1)
    for mode in ("validation", "serialization"):
        assert STAMP not in json.dumps(RunLog.model_json_schema(mode=mode))
    copies = [
        stamped.model_copy(),
        stamped.model_copy(update={"status": "SUCCESS"}, deep=True),
        copy.copy(stamped),
        copy.deepcopy(stamped),
        StepLog.model_validate(stamped),
        BranchLog(internal_name="b", steps={"a": stamped}).steps["a"],
        StepLog.model_construct(name="a", _created_at="2026-11-20T00:00:00.000001+00:00"),
    ]
    assert {item.created_at for item in copies} == {datetime(2026, 11, 20, 0, 0, 0, 1, UTC)}


@pytest.mark.parametrize("stamp", [None, 7, [], {}, "no time", "9999-12-31T23:59:59-23:59"])
def test_what_is_no_creation_time_is_none(stamp: Any) -> None:
    text = json.dumps({"name": "a", "internal_name": "a", STAMP: stamp})
    assert StepLog.model_validate_json(text).created_at is None


def test_a_model_is_its_fields() -> None:
    stamped = StepLog.model_validate({"name": "a", "internal_name": "a", "x": 1, STAMP: "2026-11-20T00:00:00+00:00"})
    assert dict(stamped) == dict(StepLog(name="a", internal_name="a", x=1))  # type: ignore[call-arg]


def test_parts_of_different_kinds_are_not_equal() -> None:
    assert StepLog(name="a", internal_name="a") != StepLog(name="a", internal_name="a", status="SUCCESS")
    assert StepLog.model_validate({"name": "a", "internal_name": "a", "x": 1}) != StepLog(name="a", internal_name="a")
    assert BranchLog(internal_name="a") != JobLog()


def test_a_step_needs_its_names() -> None:
    with pytest.raises(ValidationError):
        StepLog.model_validate({"name": "a"})


def test_steps_are_walked_outermost_first() -> None:
    inner = StepLog(name="in", internal_name="fan.a.in", data_catalog=[DataCatalog(name="x", stage="put")])
    branch = BranchLog(internal_name="fan.a", steps={inner.internal_name: inner})
    fan = StepLog(name="fan", internal_name="fan", branches={"fan.a": branch})
    after = StepLog(
        name="after",
        internal_name="after",
        data_catalog=[DataCatalog(name="x", stage="put", data_hash="newer"), DataCatalog(name="y", stage="get")],
    )
    run_log = RunLog(run_id="r", steps={"fan": fan, "after": after})
    assert [step.internal_name for step in run_log.walk_steps()] == ["fan", "fan.a.in", "after"]
    assert [item.internal_name for item in run_log.walk_branches()] == ["fan.a"]
    assert [(entry.name, entry.data_hash) for entry in run_log.get_data_catalogs_by_stage()] == [("x", "newer")]
    assert [entry.name for entry in run_log.get_data_catalogs_by_stage("get")] == ["y"]
    assert [entry.name for entry in branch.get_data_catalogs_by_stage()] == ["x"]
    assert [entry.name for entry in fan.get_data_catalogs_by_stage()] == ["x"]


def test_nesting_has_no_limit_on_walking() -> None:
    step = StepLog(name="s", internal_name="s")
    for _ in range(3000):
        branch = BranchLog.model_construct(internal_name="b", steps={"s": step})
        step = StepLog.model_construct(name="s", internal_name="s", branches={"b": branch}, data_catalog=[])
    assert sum(1 for _ in RunLog.model_construct(run_id="r", steps={"s": step}).walk_steps()) == 3001


@pytest.mark.parametrize(
    ("start", "end", "seconds"),
    [
        ("2026-11-20 00:00:00.5", "2026-11-20 00:00:02", 1.5),
        ("2026-11-20T00:00:00+00:00", "2026-11-20T01:00:00+01:00", 0.0),
        ("", "2026-11-20T00:00:00", None),
        ("2026-11-20T00:00:00", "2026-11-20T00:00:00+00:00", None),
    ],
)
def test_the_duration_of_an_attempt(start: str, end: str, seconds: float | None) -> None:
    assert StepAttempt(start_time=start, end_time=end).duration_s == seconds


def test_catalog_entries_are_appended() -> None:
    for holder in (StepLog(name="a", internal_name="a"), JobLog()):
        holder.add_data_catalogs([DataCatalog(name="x")])
        holder.add_data_catalogs([DataCatalog(name="y")])
        assert [entry.name for entry in holder.data_catalog] == ["x", "y"]
