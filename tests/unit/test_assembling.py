"""Models are made of parts in one go; what the document says that is made of the same parts' texts, they say too."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.errors import IntegrityError
from asyncstore.models import STAMP_FIELD, BranchLog, JobLog, RunLog, StampedModel, StepAttempt, StepLog
from asyncstore.runlog._parts import NESTING_LIMIT, Parts, link
from asyncstore.runlog.encoding import explode, fragment_of, parameter_fragment, validate_json
from asyncstore.runlog.fragments import HEADER, JOB, Fragment, FragmentKey, Kind
from asyncstore.runlog.tree import assemble, assemble_branch, write_document
from asyncstore.testing._runlog.base import branch, step
from asyncstore.testing._runlog.parts import nested_run

EPOCH = datetime(2026, 11, 20, tzinfo=UTC)
RUN = fragment_of(RunLog(run_id="r"))
KEYS = [HEADER, JOB, *(FragmentKey(kind, "a") for kind in (Kind.STEP_LOG, Kind.BRANCH_LOG, Kind.PARAMETER))]
NAMES = ["a", "b", "a.b", "b.a.a", "a.b.a", "é", 'q"', "a.b.a.b.a", "a.é.a", "a.b.c.a"]
FOREIGN_HEADER = (
    b'{"run_id":"r","tag":null,"steps":{"a":{"name":"a","internal_name":"a","new":1,"branches":{"a.b":{"internal_name":'
    b'"a.b","parameters":{"p":2},"steps":{"a.b.a":{"name":"a","internal_name":"a.b.a"}}}}}},"parameters":{"q":3},'
    b'"job":{"status":"SUCCESS"},"_orphans":[{"kind":"BranchLog","name":"z","scope":"","value":{"internal_name":"z"}}]}'
)
FOREIGN_BODIES = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b" {} ",
    b'{"name":"a"',
    b'{"name":"a","internal_name":"a","attempts":[{"message":"x"}',
    b'{"name":"a","internal_name":"a"},{"name":"b","internal_name":"b"}',
    b'{"name":"a","internal_name":"a"}]',
    b'{"name":"a","internal_name":"a"},',
    b'{"internal_name":"a.b.a","name":"a"}',
    b'{ "name" : "\\u0061" , "internal_name" : "a.b.a" }\n',
    b'{"name":"other","internal_name":"a.b.a"}',
    b'{"name":"a","internal_name":"a","_created_at":"2020-01-01T00:00:00+00:00","x":{"branches":[1]}}',
    b'{"name":"a","internal_name":"a","_created_at":7,"stamp_":8,"created_at":9}',
    b'{"name":"a","internal_name":"a","branches":{"a.z":{"internal_name":"a.z"}}}',
    b'{"name":"a","internal_name":"a","branches":5}',
    b'{"name":"a","internal_name":"a","user_defined_metrics":{"x":NaN,"y":-Infinity,"z":1e999,"n":123456789012345678901}}',
    b'{"name":"a","internal_name":"a","message":"\\ud800"}',
    b'{"name":"a","internal_name":"a","message":"\xff"}',
    b'\xef\xbb\xbf{"name":"a","internal_name":"a"}',
    '{"name":"é","internal_name":"a.b.é"}'.encode("utf-16"),
    b'{"name":1,"internal_name":"a"}',
    b'{"internal_name":"a","steps":{"a":{}},"parameters":{"p":1},"x":[1.0,2]}',
    b'{"internal_name":"a","steps":[]}',
    FOREIGN_HEADER,
    b'{"run_id":"r","job":null,"run_config":{"steps":{}}}',
    b'{"run_id":"r","steps":{"a":{"name":"a"}}}',
    b"1,2",
    b"[1]",
    b'"text"',
]
bodies = st.sampled_from(FOREIGN_BODIES)
stamps = st.none() | st.integers(0, 5).map(lambda number: EPOCH + timedelta(microseconds=number))


@st.composite
def parts(draw: st.DrawFn) -> Fragment:
    """Draw a part that may have its place or not, and now and then may hold anything."""
    kind = draw(st.sampled_from([*[Kind.STEP_LOG] * 3, Kind.BRANCH_LOG, Kind.PARAMETER, Kind.JOB_LOG]))
    name, scope = draw(st.sampled_from(NAMES)), ""
    match kind:
        case Kind.STEP_LOG:
            own_name = draw(st.sampled_from([name.rpartition(".")[2], name, "a"]))
            body = fragment_of(StepLog(name=own_name, internal_name=name)).body
        case Kind.BRANCH_LOG:
            body = fragment_of(BranchLog(internal_name=name)).body
        case Kind.PARAMETER:
            scope = draw(st.sampled_from(["", *NAMES]))
            body = parameter_fragment(name, draw(st.integers() | st.text("aé🙂") | st.lists(st.none()))).body
        case _:
            name, body = JOB.name, fragment_of(JobLog()).body
    if draw(st.integers(0, 9)) == 0:
        body = draw(bodies)
    return Fragment(FragmentKey(kind, name, scope), body, draw(stamps))


@st.composite
def runs(draw: st.DrawFn) -> list[Fragment]:
    """Draw the parts of a run, in any order, of which many belong together."""
    header = draw(st.just(RUN.body) | bodies)
    return draw(st.permutations([Fragment(HEADER, header, draw(stamps)), *draw(st.lists(parts(), max_size=12))]))


def step_part(name: str, body: bytes) -> Fragment:
    return Fragment(FragmentKey(Kind.STEP_LOG, name), body)


def by_text(fragments: list[Fragment]) -> RunLog | None:
    """Read the run from its document."""
    text = write_document(fragments)
    return None if text is None else validate_json(RunLog, text, "run log")


def seen(model: Any) -> Any:
    """Return everything that can be seen of a model, in its order."""
    match model:
        case StampedModel():
            fields = [(name, seen(value)) for name, value in model]
            return [type(model), fields, model.created_at, model.model_fields_set - {STAMP_FIELD}]
        case dict():
            return [(key, seen(value)) for key, value in model.items()]
        case _:
            return repr(model)


def check(fragments: list[Fragment]) -> None:
    """Check that the models which parts make up say what the document says that is made of their texts."""
    try:
        expected = by_text(fragments)
    except IntegrityError:
        with pytest.raises(IntegrityError):
            assemble(fragments)
        return
    assert seen(assemble(fragments)) == seen(expected)
    present = {fragment.name for fragment in fragments if fragment.kind is Kind.BRANCH_LOG}
    for found in expected.walk_branches() if expected is not None else ():
        if found.internal_name in present:
            assert seen(assemble_branch(found.internal_name, fragments)) == seen(found)


@pytest.mark.slow
@given(runs())
def test_models_say_what_the_document_says(fragments: list[Fragment]) -> None:
    check(fragments)


@pytest.mark.parametrize("body", FOREIGN_BODIES, ids=lambda body: repr(body)[2:20])
@pytest.mark.parametrize("key", KEYS, ids=lambda key: str(key.kind))
def test_a_foreign_body_says_what_it_says_in_the_document(key: FragmentKey, body: bytes) -> None:
    others = [RUN, fragment_of(step("b")), fragment_of(step("c", "b.b")), parameter_fragment("p", 1)]
    check([*(item for item in others if item.key != key), Fragment(key, body, EPOCH)])


@given(st.lists(st.integers(0, 200), min_size=1, max_size=6))
def test_parts_that_are_cut_off_never_make_up_for_each_other(lengths: list[int]) -> None:
    whole = [fragment_of(step(f"s{number}", attempts=[StepAttempt()])) for number in range(len(lengths))]
    cut = [replace(item, body=item.body[:length]) for item, length in zip(whole, lengths, strict=True)]
    with pytest.raises(IntegrityError, match=r"StepLog 's\d'"):
        assemble([RUN, *cut])


@pytest.mark.parametrize("body", [b"1,2", b"", b"1]", b"[1", b"1,"])
def test_a_parameter_is_one_value(body: bytes) -> None:
    torn = Fragment(FragmentKey(Kind.PARAMETER, "torn"), body)
    with pytest.raises(IntegrityError, match="Parameter 'torn'"):
        assemble([RUN, parameter_fragment("a", 1), torn, parameter_fragment("b", 1)])


def test_the_guilty_part_is_named_among_many() -> None:
    torn = step_part("torn", b'{"name":"torn","internal_name":')
    with pytest.raises(IntegrityError, match="StepLog 'torn'"):
        assemble([RUN, *(fragment_of(step(f"s{number}")) for number in range(100)), torn])


def test_what_is_read_belongs_to_the_reader() -> None:
    fragments = [RUN, *(fragment_of(step(f"s{number}")) for number in range(3))]
    first, second = assemble(fragments), assemble(fragments)
    assert first is not None
    first.steps["s0"].user_defined_metrics["x"] = 1
    first.steps["s1"].branches["s1.b"] = branch("s1.b")
    assert first != second
    assert first.steps["s2"] == step("s2")
    assert first.steps["s0"].model_dump(exclude_unset=True) == {
        **step("s0").model_dump(),
        "user_defined_metrics": {"x": 1},
    }


def test_what_is_nested_too_deep_is_an_orphan() -> None:
    fragments, scope = [RUN], ""
    for _ in range(NESTING_LIMIT + 2):
        fragments.append(fragment_of(step("s", scope)))
        scope = f"{scope}.s.b" if scope else "s.b"
        fragments.append(fragment_of(branch(scope)))
    run_log = assemble(fragments)
    assert run_log is not None
    assert sum(1 for _ in run_log.walk_branches()) == NESTING_LIMIT
    assert run_log.model_extra is not None
    assert len(run_log.model_extra["_orphans"]) == len(fragments) - 1 - 2 * NESTING_LIMIT - 1
    assert seen(run_log) == seen(by_text(fragments))


def test_a_branch_whose_step_is_missing_is_an_orphan_with_all_that_is_in_it() -> None:
    links = link({"fan.a.x": "x", "top": "top"}, ["fan.a"])
    assert (links.roots, links.steps, links.branches) == (["top"], {"fan.a": ["fan.a.x"]}, {})
    assert (links.reached_steps, links.reached_branches) == ({"top"}, set())
    below = link({"fan.a.x": "x", "top": "top"}, ["fan.a"], "fan.a")
    assert (below.reached_steps, below.reached_branches) == ({"fan.a.x"}, {"fan.a"})


def test_younger_parts_stand_over_older_ones() -> None:
    older, younger = (
        Parts.of(explode(nested_run())[1]),
        Parts.of([parameter_fragment("lr", "new"), fragment_of(JobLog())]),
    )
    over = younger.over(older)
    assert [item.key for item in over.fragments()] == [item.key for item in older.fragments()]
    assert (over.parameters[""]["lr"], over.job) == (younger.parameters[""]["lr"], younger.job)
    assert (over.steps, over.branches) == (older.steps, older.branches)
