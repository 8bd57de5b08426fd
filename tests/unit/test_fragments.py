from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.errors import ConfigurationError, IntegrityError, InvalidValueError
from asyncstore.models import BranchLog, JobLog, RunLog, StepLog
from asyncstore.runlog._json import FRAGMENT_LIMIT_BYTES
from asyncstore.runlog._watch import Cursor
from asyncstore.runlog.encoding import explode, fragment_of, parameter_fragment, to_model
from asyncstore.runlog.fragments import HEADER, JOB, WHOLE_RUN, Fragment, FragmentKey, Kind, Selection
from asyncstore.runlog.tree import NESTING_LIMIT, assemble, assemble_branch, flatten, read_header, write_document
from asyncstore.testing._runlog.base import HOSTILE_NAMES, branch, step
from asyncstore.testing._runlog.parts import nested_run

NAMES = st.sampled_from([*HOSTILE_NAMES[:20], "a.b.c"])
EPOCH = datetime(2026, 11, 20, tzinfo=UTC)


def fragments_of(run_log: RunLog) -> list[Fragment]:
    """Take a run apart, with creation times in the order of the parts."""
    own, nested = explode(run_log)
    return [replace(item, created_at=EPOCH + timedelta(seconds=number)) for number, item in enumerate([own, *nested])]


@st.composite
def runs(draw: st.DrawFn) -> RunLog:
    """Make a run with branches up to three deep, and hostile names."""

    def steps(scope: str, depth: int) -> dict[str, StepLog]:
        made: dict[str, StepLog] = {}
        for name in draw(st.lists(NAMES, max_size=3, unique=True)):
            item = step(name, scope)
            for value in draw(st.lists(NAMES, max_size=2, unique=True)) if depth else []:
                inner = f"{item.internal_name}.{value}"
                item.branches[inner] = branch(inner, steps=steps(inner, depth - 1), parameters=parameters())
            made[item.internal_name] = item
        return made

    def parameters() -> dict[str, Any]:
        return draw(st.dictionaries(NAMES, st.integers() | st.text("aé🙂"), max_size=2))

    return RunLog(run_id="r", steps=steps("", 2), parameters=parameters())


def document_of(fragments: list[Fragment]) -> dict[str, Any]:
    """Return the document that fragments make up, parsed."""
    text = write_document(fragments)
    assert text is not None
    tree: dict[str, Any] = json.loads(text)
    return tree


def start_of(value: object) -> str:
    """Return a test id that fits on a line."""
    return str(value)[:8]


def names_are_unique(fragments: list[Fragment]) -> bool:
    return len({fragment.key for fragment in fragments}) == len(fragments)


def test_a_run_taken_apart_and_put_together_is_the_same() -> None:
    fragments = fragments_of(nested_run())
    random.Random(7).shuffle(fragments)
    assembled = assemble(fragments)
    assert assembled == nested_run()
    assert assembled is not None
    assert list(assembled.steps) == list(nested_run().steps)
    assert assembled.created_at == EPOCH


@pytest.mark.slow
@given(runs())
def test_flatten_undoes_nest_whatever_the_names(run_log: RunLog) -> None:
    fragments = fragments_of(run_log)
    tree = document_of(fragments)
    again = {item.key: item for item in flatten(tree)}
    assert set(again) == {item.key for item in fragments}
    for item in fragments:
        assert again[item.key].value == item.value
        assert again[item.key].created_at == (None if item.kind is Kind.PARAMETER else item.created_at)


@pytest.mark.slow
@given(runs(), st.randoms(use_true_random=False))
def test_no_fragment_is_lost_in_a_document_whatever_is_missing(run_log: RunLog, dice: random.Random) -> None:
    header, *parts = fragments_of(run_log)
    kept = [header, *(part for part in parts if dice.random() < 0.7)]
    tree = document_of(kept)
    again = {fragment.key: fragment.value for fragment in flatten(tree)}
    assert {fragment.key for fragment in kept} <= set(again)
    assert all(again[fragment.key] == fragment.value for fragment in kept)


def test_nothing_below_a_missing_step_is_lost_in_a_document() -> None:
    kept = [
        fragment_of(RunLog(run_id="r")),
        fragment_of(branch("fan.a")),
        parameter_fragment("x", 1, "fan.a"),
        fragment_of(step("inner", "fan.a")),
        fragment_of(branch("fan.a.inner.b")),
        parameter_fragment("y", 2, "fan.a.inner.b"),
        fragment_of(step("deep", "fan.a.inner.b")),
        parameter_fragment("z", 3, "nowhere"),
    ]
    tree = document_of(kept)
    assert {fragment.key: fragment.value for fragment in flatten(tree)} == {item.key: item.value for item in kept}


@given(runs(), st.integers(0, 2000), st.sampled_from(["", "é🙂", "x" * 50]))
def test_a_header_read_from_a_beginning_is_the_header(run_log: RunLog, length: int, tag: str) -> None:
    run_log.tag, run_log.run_config = tag, {"a": [1.5, {"steps": None}], "n": 12345678901234567890}
    fragments = fragments_of(run_log)
    text = write_document(fragments)
    assert text is not None
    header = read_header(text[:length])
    if header is not None:
        assert (header.value, header.created_at) == (fragments[0].value, EPOCH)
    assert read_header(text) is not None


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"{}", b"null", b'{"run_id":1', b'{"run_id":"r","steps":{}}', b'{"a":1} ']
)
def test_a_beginning_without_a_whole_header_says_nothing(text: bytes) -> None:
    assert read_header(text) is None


def test_without_a_header_there_is_no_run() -> None:
    assert assemble([fragment_of(step("train"))]) is None
    assert write_document([]) is None


def test_a_missing_branch_is_stood_in_for() -> None:
    run_log = assemble([fragment_of(RunLog(run_id="r")), fragment_of(step("fan")), fragment_of(step("train", "fan.a"))])
    assert run_log is not None
    assert run_log.steps["fan"].branches["fan.a"] == BranchLog(
        internal_name="fan.a", status="UNKNOWN", steps={"fan.a.train": step("train", "fan.a")}
    )


def test_a_branch_is_put_together_without_its_run() -> None:
    whole = next(item for item in nested_run().walk_branches() if item.internal_name == "fan.a.b")
    selection = Selection(frozenset(Kind), "fan.a.b")
    wanted = [item for item in fragments_of(nested_run()) if selection.matches(item.key)]
    assert assemble_branch("fan.a.b", wanted) == whole
    assert assemble_branch("fan.a.gone", wanted) is None


def test_newer_fragments_stand_over_what_a_foreign_header_holds() -> None:
    header = Fragment(HEADER, json.dumps(json.loads(nested_run().model_dump_json())).encode())
    run_log = assemble([header, fragment_of(step("load", status="FAIL")), parameter_fragment("lr", 2)])
    assert run_log is not None
    assert (run_log.steps["load"].status, run_log.parameters["lr"]) == ("FAIL", 2)
    assert run_log.steps["fan"] == nested_run().steps["fan"]


@pytest.mark.parametrize(
    ("branch_name", "key", "wanted"),
    [
        (None, FragmentKey(Kind.STEP_LOG, "x"), True),
        ("fan.a", FragmentKey(Kind.BRANCH_LOG, "fan.a"), True),
        ("fan.a", FragmentKey(Kind.STEP_LOG, "fan.a.train"), True),
        ("fan.a", FragmentKey(Kind.STEP_LOG, "fan.ab"), False),
        ("fan.a", FragmentKey(Kind.PARAMETER, "fan.a"), False),
        ("fan.a", FragmentKey(Kind.PARAMETER, "x", "fan.a.b.c"), True),
        ("", FragmentKey(Kind.PARAMETER, "x"), True),
        ("", FragmentKey(Kind.PARAMETER, "x", "fan.a"), False),
    ],
)
def test_selections(branch_name: str | None, key: FragmentKey, wanted: bool) -> None:
    assert Selection(WHOLE_RUN.kinds, branch_name).matches(key) == wanted
    assert not Selection(frozenset(), branch_name).matches(key)


def test_a_body_holds_the_own_fields_alone() -> None:
    own, nested = explode(nested_run())
    assert not {"steps", "parameters", "job"} & set(own.value)
    assert all("branches" not in item.value for item in nested if item.kind is Kind.STEP_LOG)
    assert names_are_unique([own, *nested])
    assert JOB in {item.key for item in nested}


@pytest.mark.parametrize(
    "value",
    ["\x00", {"\x00": 1}, math.nan, math.inf, -math.inf, "\ud800", 10**4300, -(10**5000), object(), [[]]],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_carry_everywhere_is_refused(value: Any) -> None:
    for _ in range(120 if value == [[]] else 0):
        value = [value]
    with pytest.raises(InvalidValueError, match="'key'"):
        parameter_fragment("key", value)
    with pytest.raises(InvalidValueError, match="'train'"):
        fragment_of(step("train").model_copy(update={"user_defined_metrics": {"x": value}}))


@pytest.mark.parametrize(
    "value",
    ["\\u0000", "NaN", ["Infinity"], 10**4299, "1" * 5000, "[" * 500, 0.1, None, {"": []}],
    ids=start_of,
)
def test_what_only_looks_dangerous_is_kept(value: Any) -> None:
    assert parameter_fragment("key", value).value == value


def test_a_fragment_over_the_limit_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="catalog"):
        parameter_fragment("key", "x" * FRAGMENT_LIMIT_BYTES)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"name": 1}', b"[]", b"null"])
def test_what_is_stored_but_no_such_part_is_an_integrity_error(body: bytes) -> None:
    with pytest.raises(IntegrityError, match="train"):
        to_model(Fragment(FragmentKey(Kind.STEP_LOG, "train"), body))


def test_a_version_tells_contents_apart() -> None:
    one = parameter_fragment("x", 1)
    assert one.version != parameter_fragment("x", 2).version
    assert replace(one, created_at=EPOCH).version == one.version


def test_what_is_nested_too_deep_for_readers_is_kept_beside_the_tree() -> None:
    kept = [fragment_of(RunLog(run_id="r"))]
    scope = ""
    for _ in range(2 * NESTING_LIMIT):
        kept.append(fragment_of(step("s", scope)))
        scope = f"{scope}.s.b" if scope else "s.b"
        kept.append(fragment_of(branch(scope)))
    tree = document_of(kept)
    again = flatten(tree)
    assert {item.key for item in again} == {item.key for item in kept}
    assert assemble(kept) is not None


@pytest.mark.parametrize(
    "tree", [{"run_id": "r", "steps": [1]}, {"run_id": "r", "_orphans": [{}]}, {"steps": {"a": 1}}]
)
def test_what_is_no_run_log_is_said_to_be_none(tree: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        flatten(tree)


def see(cursor: Cursor, fragment: Fragment) -> None:
    for _, mark in cursor.unseen([fragment]):
        cursor.add(mark)


def is_new(cursor: Cursor, fragment: Fragment) -> bool:
    return bool(cursor.unseen([fragment]))


class TestCursor:
    def test_a_part_that_changes_back_is_new_again(self) -> None:
        cursor = Cursor.parse(None, "r")
        old, new = parameter_fragment("x", 1), parameter_fragment("x", 2)
        see(cursor, old)
        resumed = Cursor.parse(cursor.text(), "r")
        see(resumed, new)
        assert is_new(resumed, old)

    def test_parts_of_equal_content_are_told_apart(self) -> None:
        cursor = Cursor.parse(None, "r")
        see(cursor, parameter_fragment("x", 1))
        assert is_new(cursor, parameter_fragment("y", 1))
        assert is_new(cursor, parameter_fragment("x", 1, "fan.a"))

    def test_it_knows_what_was_seen(self) -> None:
        cursor = Cursor.parse(None, "r")
        old, new = parameter_fragment("x", 1), parameter_fragment("x", 2)
        assert is_new(cursor, old)
        see(cursor, old)
        resumed = Cursor.parse(cursor.text(), "r")
        assert not is_new(resumed, old)
        assert is_new(resumed, new)

    def test_a_position_stays_where_it_was_given_out(self) -> None:
        cursor = Cursor.parse(None, "r")
        positions, texts = [], []
        for number in range(3000):
            see(cursor, parameter_fragment(f"x{number % 7}", number))
            positions.append(cursor.here())
            texts.append(cursor.text())
        for position, text in zip(positions, texts, strict=True):
            found, expected = Cursor.parse(position(), "r"), Cursor.parse(text, "r")
            assert found._versions == expected._versions

    def test_it_stays_small_while_a_part_changes(self) -> None:
        cursor = Cursor.parse(None, "r")
        for number in range(1000):
            fragment = parameter_fragment("x", number)
            assert is_new(cursor, fragment)
            see(cursor, fragment)
        assert len(cursor.text()) < 60

    @pytest.mark.parametrize("text", ["", "x", "é", "AAAA", "eJwDAAAAAAE="])
    def test_what_is_no_cursor_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigurationError, match="cursor"):
            Cursor.parse(text, "r")

    def test_it_belongs_to_one_run(self) -> None:
        with pytest.raises(ConfigurationError, match="'other'"):
            Cursor.parse(Cursor.parse(None, "r").text(), "other")


def test_a_job_without_fields_is_kept() -> None:
    run_log = RunLog(run_id="r", job=JobLog())
    own, nested = explode(run_log)
    assert assemble([own, *nested]) == run_log
