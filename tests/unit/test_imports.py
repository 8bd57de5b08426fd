"""What other tools' names and documents say, and what is told of those that are broken."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncstore.errors import IntegrityError, InvalidValueError, UnavailableError
from asyncstore.models import StepAttempt, StepLog
from asyncstore.runlog.fragments import Fragment, FragmentKey, Kind
from asyncstore.runlog.transfer import Layout, for_other_tools
from asyncstore.runlog.transfer.landing import difference
from asyncstore.runlog.transfer.layouts import ChunkName, detect, parse_name
from asyncstore.runlog.transfer.parsing import parse_run
from asyncstore.runlog.transfer.reading import Loaded, NotARunError, Parts
from asyncstore.runlog.tree import assemble

NS = 1795220968832876165


def chunk(name: str, value: Any) -> Loaded:
    return Loaded(name, json.dumps(value).encode())


def header(**fields: Any) -> Loaded:
    return chunk("RunLog", {"run_id": "r", "status": "SUCCESS", **fields})


def step(internal_name: str, name: str = "", ns: int = NS, **fields: Any) -> Loaded:
    value = {"name": name or internal_name, "internal_name": internal_name, "attempts": [], **fields}
    return chunk(f"StepLog-{internal_name}-{ns}", value)


def branch(internal_name: str, ns: int | None = NS, **fields: Any) -> Loaded:
    stamp = f"-{ns}" if ns else ""
    return chunk(f"BranchLog-{internal_name}{stamp}", {"internal_name": internal_name, "status": "SUCCESS", **fields})


def magnus(*objects: Loaded) -> Parts:
    return parse_run("r", Layout.MAGNUS_CHUNKED, objects)


def names(parts: Parts, kind: Kind = Kind.STEP_LOG) -> list[str]:
    return [part.name for part in parts.fragments if part.kind is kind]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RunLog", ChunkName(Kind.RUN_LOG, "")),
        ("RunLog.json", ChunkName(Kind.RUN_LOG, "")),
        (f"StepLog-train-2-{NS}", ChunkName(Kind.STEP_LOG, "train-2", NS)),
        (f"StepLog-train-{NS}.json", ChunkName(Kind.STEP_LOG, "train", NS)),
        (f"StepLog-run-20261120-{NS}", ChunkName(Kind.STEP_LOG, "run-20261120", NS)),
        (f"BranchLog-fan.a b-{NS}.json", ChunkName(Kind.BRANCH_LOG, "fan.a b", NS)),
        ("BranchLog-each.2026.json", ChunkName(Kind.BRANCH_LOG, "each.2026")),
        ("BranchLog-each.x.json", ChunkName(Kind.BRANCH_LOG, "each.x")),
        (f"Parameter-at-{NS}", ChunkName(Kind.PARAMETER, f"at-{NS}")),
        (f"b-{NS}", ChunkName(None, "b", NS)),
        ("notes.txt", ChunkName(None, "notes.txt")),
    ],
)
def test_names(name: str, said: ChunkName) -> None:
    assert parse_name(name) == said


@pytest.mark.parametrize(
    ("found", "layout"),
    [
        ([f"StepLog-a-{NS}"], Layout.MAGNUS_CHUNKED),
        (["RunLog", "Parameter-lr"], Layout.MAGNUS_CHUNKED),
        (["RunLog.json", f"BranchLog-fan.a-{NS}.json"], Layout.MAGNUS_CHUNKED),
        (["RunLog.json", "BranchLog-fan.a.json"], Layout.RUNNABLE_CHUNKED),
        (["RunLog"], Layout.RUNNABLE_CHUNKED),
        (["r.json"], Layout.MINIO),
        (["RunLog/run_log.json", "StepLog/a.json"], Layout.ASYNCSTORE),
        (["data.csv", "other.json"], None),
        ([], None),
    ],
)
def test_detection(found: list[str], layout: Layout | None) -> None:
    assert detect("r", found) is layout


def test_chunks_come_in_the_order_of_their_nanoseconds() -> None:
    parts = magnus(step("a", ns=NS + 2), branch("fan.x", NS + 1), step("fan", ns=NS), header())
    assert (names(parts), parts.problems) == (["fan", "a"], [])
    assert [part.name for part in parts.fragments] == ["run_log", "fan", "fan.x", "a"]


def test_of_two_objects_of_one_step_the_newer_is_taken_in_the_place_of_the_older() -> None:
    parts = magnus(
        header(), step("b", ns=NS + 1), step("a", ns=NS + 2, status="SUCCESS"), step("a", ns=NS, status="FAIL")
    )
    assert names(parts) == ["a", "b"]
    assert parts.fragments[1].value["status"] == "SUCCESS"
    (problem,) = parts.problems
    assert f"taken is StepLog-a-{NS + 2}" in problem


def test_what_stands_in_an_object_is_believed_and_not_its_name() -> None:
    value = {"name": "train", "internal_name": "train", "attempts": []}
    parts = magnus(header(), chunk(f"StepLog-train-2-{NS}", value))
    assert names(parts) == ["train"]
    assert "which is lost" in parts.problems[0]


def test_parameters_may_share_an_object() -> None:
    parts = magnus(header(), chunk("Parameter-lr_decay", {"lr_decay": 1, "lr": 2}), step("a"))
    run_log = assemble(parts.fragments)
    assert run_log is not None
    assert (run_log.parameters, parts.problems) == ({"lr_decay": 1, "lr": 2}, [])


def test_a_parameter_that_differs_between_objects_is_told() -> None:
    parts = magnus(header(), chunk("Parameter-lr", {"lr": 1}), chunk("Parameter-lr_decay", {"lr": 2}))
    assert "differs in Parameter-lr and Parameter-lr_decay: taken is Parameter-lr_decay" in parts.problems[0]


def test_names_that_magnus_cut_at_a_slash_are_told_from_what_stands_there() -> None:
    cut = {"name": "a/b", "internal_name": "a/b", "attempts": []}
    parts = magnus(header(), chunk(f"b-{NS}", cut), chunk("d", {"c/d": 1}), chunk("Parameter-x", {"x": 1}))
    assert (names(parts), names(parts, Kind.PARAMETER), parts.problems) == (["a/b"], ["c/d", "x"], [])


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (Loaded(f"StepLog-b-{NS}", b'{"name": "b", '), "not readable JSON"),
        (Loaded(f"StepLog-b-{NS}", b"[]"), "not a JSON object"),
        (Loaded(f"StepLog-b-{NS}", error=IntegrityError("gone")), "gone"),
        (chunk(f"StepLog-b-{NS}", {"name": "b"}), "no internal name"),
        (step("b", status=7), "status"),
        (chunk("Parameter-p", {"p": float("nan")}), "NaN"),
        (chunk("Parameter-p", {"p": "\ud800"}), "cannot be written as JSON"),
        (chunk("notes", {"a": 1}), "no part of a run log"),
    ],
)
def test_what_is_broken_is_left_out_and_told(broken: Loaded, told: str) -> None:
    parts = magnus(header(), step("a"), broken)
    assert (names(parts), names(parts, Kind.PARAMETER)) == (["a"], [])
    (problem,) = parts.problems
    assert told in problem


def test_a_missing_header_leaves_the_rest() -> None:
    parts = magnus(step("a"))
    run_log = assemble(parts.fragments)
    assert run_log is not None
    assert (run_log.run_id, run_log.status, list(run_log.steps)) == ("r", "UNKNOWN", ["a"])
    assert "the header is missing" in parts.problems[0]


def test_missing_branches_and_steps_are_told() -> None:
    parts = magnus(header(), step("fan"), step("fan.x.train", "train", NS + 1), branch("lost.y", NS + 2))
    assert parts.problems == [
        "branch 'fan.x' is missing, though there are steps or parameters of it",
        "the step that branch 'lost.y' belongs to is missing",
    ]
    run_log = assemble(parts.fragments)
    assert run_log is not None
    assert run_log.steps["fan"].branches["fan.x"].status == "UNKNOWN"


def test_a_run_of_which_nothing_can_be_read_is_an_error() -> None:
    with pytest.raises(IntegrityError, match="nothing of run 'r' can be read"):
        magnus(Loaded("RunLog", b"{"))


def test_branches_of_runnable_come_by_when_they_began_and_older_copies_are_passed_over() -> None:
    def inner(name: str, start: str, status: str = "SUCCESS") -> dict[str, Any]:
        return {name: {"name": "s", "internal_name": name, "status": status, "attempts": [{"start_time": start}]}}

    stale = {
        "internal_name": "fan.a",
        "status": "PROCESSING",
        "steps": inner("fan.a.gone", "1"),
        "parameters": {"old": 1},
    }
    fan = {"name": "fan", "internal_name": "fan", "branches": {"fan.a": stale}}
    parts = parse_run(
        "r",
        Layout.RUNNABLE_CHUNKED,
        [
            branch("fan.a", None, steps=inner("fan.a.s", "2026-11-20 10:00:02"), parameters={"new": 2}),
            branch("fan.b", None, steps=inner("fan.b.s", "2026-11-20 10:00:01")),
            header(steps={"fan": fan}),
        ],
    )
    run_log = assemble(parts.fragments)
    assert run_log is not None
    branches = run_log.steps["fan"].branches
    assert (list(branches), parts.problems) == (["fan.b", "fan.a"], [])
    assert (list(branches["fan.a"].steps), branches["fan.a"].parameters) == (["fan.a.s"], {"new": 2})
    assert branches["fan.a"].status == "SUCCESS"


def document(tree: Any, layout: Layout = Layout.DOCUMENT) -> Parts:
    return parse_run("r", layout, [chunk("r.json", tree)])


def test_a_document_within_a_string() -> None:
    parts = document(json.dumps({"run_id": "r", "steps": {"a": {"name": "a", "internal_name": "a"}}}), Layout.MINIO)
    assert names(parts) == ["a"]


def test_a_document_is_read_as_far_as_it_goes() -> None:
    tree = {
        "run_id": "r",
        "parameters": ["no"],
        "job": "no",
        "steps": {
            "a": {
                "name": "a",
                "internal_name": "a",
                "branches": {"a.x": {"internal_name": "a.x", "steps": 3}, "a.y": 4},
            },
            "b": None,
            "c": {"name": "c", "internal_name": "c", "status": ["FAIL"]},
        },
    }
    parts = document(tree)
    assert (names(parts), names(parts, Kind.BRANCH_LOG), len(parts.problems)) == (["a"], ["a.x"], 6)


@pytest.mark.parametrize("tree", [[], 3, None, {}, {"name": "package", "version": "1"}, {"run_id": 7}, "text"])
def test_other_json_is_no_run_log(tree: Any) -> None:
    with pytest.raises((NotARunError, IntegrityError)):
        document(tree)


def test_a_run_id_that_cannot_be_stored_is_an_error() -> None:
    with pytest.raises(InvalidValueError):
        document({"run_id": "a/b"})


def test_what_the_storage_says_of_a_document_is_raised() -> None:
    with pytest.raises(UnavailableError):
        parse_run("r", Layout.DOCUMENT, [Loaded("r.json", error=UnavailableError("down"))])


def fragments(*values: tuple[str, Any]) -> list[Fragment]:
    return [Fragment(FragmentKey(Kind.PARAMETER, name), json.dumps(value).encode()) for name, value in values]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([("a", 1), ("b", {"x": 1, "y": 2})], ""),
        ([("a", 1), ("b", {"y": 2, "x": 1})], ""),
        ([("a", 1)], "1 missing (Parameter 'b')"),
        ([("a", 1), ("b", {"x": 1, "y": 2}), ("c", 0)], "1 besides (Parameter 'c')"),
        ([("a", True), ("b", {"x": 1, "y": 2.0})], "2 different (Parameter 'a', …)"),
        ([("b", {"x": 1, "y": 2}), ("a", 1)], "another order of its parts"),
    ],
)
def test_differences(found: list[tuple[str, Any]], told: str) -> None:
    assert difference(fragments(("a", 1), ("b", {"x": 1, "y": 2})), fragments(*found)) == told


def test_exported_times_have_no_zone_and_all_of_them_can_be_sorted() -> None:
    run_log = assemble(magnus(header(), step("fan")).fragments)
    assert run_log is not None
    attempt = StepAttempt(start_time="2026-11-20T10:00:00.5+00:00", end_time="")
    run_log.steps["a"] = StepLog(
        name="a", internal_name="a", attempts=[attempt, StepAttempt(start_time="2026-11-20 10:00:00")]
    )
    first, second = for_other_tools(run_log)["steps"]["a"]["attempts"]
    assert "+" not in first["start_time"]
    assert first["start_time"].endswith("0.500000")
    assert (first["end_time"], second["start_time"]) == ("", "2026-11-20 10:00:00")


def test_values_are_wrapped_once() -> None:
    run_log = assemble(magnus(header(parameters={"a": 1, "b": {"kind": "json", "value": 2}}), step("s")).fragments)
    assert run_log is not None
    assert for_other_tools(run_log)["parameters"]["a"] == 1
    wrapped = for_other_tools(run_log, wrapped=True)["parameters"]
    assert wrapped == {"a": {"kind": "json", "value": 1}, "b": {"kind": "json", "value": 2}}
