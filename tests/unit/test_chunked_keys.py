from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.errors import IntegrityError
from asyncstore.runlog._keys import ListedKey, RunKeys, decode_object, encode_object
from asyncstore.runlog.fragments import HEADER, Fragment, FragmentKey, Kind, Selection

KEYS = RunKeys.under("/team/logs/")
STAMP = datetime(2026, 11, 20, 12, 0, 0, 1, UTC)

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=300)
keys = st.one_of(
    st.builds(FragmentKey, st.sampled_from([Kind.STEP_LOG, Kind.BRANCH_LOG]), names, st.just("")),
    st.builds(FragmentKey, st.just(Kind.PARAMETER), names, st.one_of(st.just(""), names)),
)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (HEADER, "RunLog/run_log.json"),
        (FragmentKey(Kind.JOB_LOG, "job_log"), "JobLog/job_log.json"),
        (FragmentKey(Kind.STEP_LOG, "fan.a/b.tr ain"), "StepLog/fan.a%2Fb.tr%20ain.json"),
        (FragmentKey(Kind.STEP_LOG, "~"), "StepLog/%7E.json"),
        (FragmentKey(Kind.STEP_LOG, ".."), "StepLog/...json"),
        (FragmentKey(Kind.PARAMETER, "lr"), "Parameter/~/lr.json"),
        (FragmentKey(Kind.PARAMETER, "lr", "fan.a"), "Parameter/fan.a/lr.json"),
        (FragmentKey(Kind.PARAMETER, "lr", ".."), "Parameter/%2E%2E/lr.json"),
        (FragmentKey(Kind.PARAMETER, "lr", "~"), "Parameter/%7E/lr.json"),
    ],
)
def test_layout(key: FragmentKey, expected: str) -> None:
    assert KEYS.fragment("run", key) == f"team/logs/run/{expected}"


@given(keys)
def test_keys_and_objects_say_which_fragment_they_hold(key: FragmentKey) -> None:
    body = b'{"internal_name":' + _json(key.name) + b"}" if key.kind is not Kind.PARAMETER else b"[1]"
    object_key = KEYS.fragment("run", key)
    assert all(len(segment.encode()) <= 205 for segment in object_key.split("/"))
    listed = KEYS.parse("run", object_key)
    assert listed is not None
    fragment = Fragment(key, body)
    assert decode_object(listed, encode_object(fragment, STAMP), "etag") == Fragment(key, body, STAMP, "etag")


@given(keys, keys)
def test_different_fragments_never_share_a_key(one: FragmentKey, other: FragmentKey) -> None:
    assert (KEYS.fragment("run", one) == KEYS.fragment("run", other)) == (one == other)


@pytest.mark.parametrize(
    "foreign",
    ["team/logs/run/StepLog-a-17.json", "team/logs/run/StepLog/a/b.json", "team/logs/run/Parameter/lr.json",
     "team/logs/run/StepLog/a.txt", "team/logs/run-2/StepLog/a.json"],
)  # fmt: skip
def test_foreign_objects_are_no_fragments(foreign: str) -> None:
    assert KEYS.parse("run", foreign) is None


@given(keys, st.one_of(st.none(), names))
def test_selected_fragments_lie_in_the_selected_folder(key: FragmentKey, branch: str | None) -> None:
    selection = Selection(frozenset({key.kind}), branch)
    if selection.matches(key) and (key.kind is not Kind.PARAMETER or key.scope == branch):
        assert KEYS.fragment("run", key).startswith(KEYS.selection("run", selection))


def test_objects_of_other_writers_are_read() -> None:
    listed = ListedKey(Kind.STEP_LOG, "a")
    fragment = decode_object(listed, b'{ "name": "a", "_created_at": "2026-11-20T12:00:00.000001+00:00" }', "e")
    assert fragment == Fragment(FragmentKey(Kind.STEP_LOG, "a"), b'{"name":"a"}', STAMP, "e")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff"])
def test_anything_else_is_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="StepLog a"):
        decode_object(ListedKey(Kind.STEP_LOG, "a"), data, "e")


def _json(text: str) -> bytes:

    return json.dumps(text).encode()
