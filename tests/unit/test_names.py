from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.errors import InvalidValueError
from asyncstore.names import (
    ROOT_SCOPE,
    branch_of_step,
    check_name,
    check_run_id,
    decode_segment,
    encode_folder,
    encode_segment,
    owner_of_branch,
)
from asyncstore.testing._runlog.base import HOSTILE_NAMES
from asyncstore.testing._runlog.runs import NO_RUN_IDS, RUN_IDS, shortly

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@pytest.mark.slow
@given(TEXT)
def test_encoding_is_short_plain_and_reversible(name: str) -> None:
    segment = encode_segment(name)
    assert len(segment) <= 200
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]+", segment)
    assert decode_segment(segment) in (name, None)
    assert (decode_segment(segment) is None) == (len(segment) > 160 and "~" in segment)


@pytest.mark.slow
@given(TEXT, TEXT)
def test_no_two_names_share_a_segment(one: str, other: str) -> None:
    assert (encode_segment(one) == encode_segment(other)) == (one == other)


@pytest.mark.slow
@given(TEXT)
def test_a_folder_is_never_a_relative_path_or_the_root_scope(name: str) -> None:
    assert encode_folder(name) not in {".", "..", ROOT_SCOPE, ""}
    assert decode_segment(encode_folder(name)) in (name, None)


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("train-2", "train-2"),
        ("a.csv", "a.csv"),
        ("x/y", "x%2Fy"),
        ("a b", "a%20b"),
        ("%2F", "%252F"),
        ("~", "%7E"),
        ("é", "%C3%A9"),
        ("..", ".."),
        ("x" * 200, "x" * 200),
    ],
)
def test_encoded_as_the_layout_says(name: str, segment: str) -> None:
    assert encode_segment(name) == segment


def test_hostile_names_have_segments_of_their_own() -> None:
    assert len({encode_segment(name) for name in HOSTILE_NAMES}) == len(HOSTILE_NAMES)


def test_long_names_end_in_a_hash_and_are_not_cut_inside_an_escape() -> None:
    for length in range(60, 80):
        segment = encode_segment("é" * length)
        assert re.fullmatch(r"(%C3|%A9)+~[0-9a-f]{32}", segment) or "~" not in segment
    assert encode_segment("n" * 900) != encode_segment("n" * 899 + "m")


@pytest.mark.parametrize("run_id", ["run", "run.json", "~", *RUN_IDS], ids=shortly)
def test_run_ids(run_id: str) -> None:
    assert check_run_id(run_id) == run_id


@pytest.mark.parametrize("run_id", NO_RUN_IDS, ids=shortly)
def test_no_run_ids(run_id: str) -> None:
    with pytest.raises(InvalidValueError, match="run id"):
        check_run_id(run_id)


@pytest.mark.parametrize("name", ["", "a\x00", "\udfff"], ids=ascii)
def test_no_names(name: str) -> None:
    with pytest.raises(InvalidValueError, match="parameter key"):
        check_name(name, "parameter key")


@pytest.mark.parametrize(
    ("internal_name", "name", "branch"),
    [
        ("train", "train", ""),
        ("a.csv", "a.csv", ""),
        ("fan.a.train", "train", "fan.a"),
        ("fan.a.b.c.train.x", "train.x", "fan.a.b.c"),
        ("fan....train", "train", "fan..."),
    ],
)
def test_the_branch_of_a_step_is_its_name_less_the_last_part(internal_name: str, name: str, branch: str) -> None:
    assert branch_of_step(internal_name, name) == branch


def test_a_step_whose_name_is_not_its_last_part_goes_to_the_longest_branch() -> None:
    branches = ["fan.a", "fan.a.x.b", "fan"]
    assert branch_of_step("fan.a.x.b.renamed", "train", branches) == "fan.a.x.b"
    assert branch_of_step("elsewhere.renamed", "train", branches) == ""


def test_a_branch_belongs_to_the_longest_step_that_prefixes_it() -> None:
    steps = {"fan", "fan.a", "fan.a.b", "f"}
    assert owner_of_branch("fan.x", steps) == "fan"
    assert owner_of_branch("fan.a.b.c.d", steps) == "fan.a.b"
    assert owner_of_branch("fan.ab", steps) == "fan"
    assert owner_of_branch("fan", steps) is None
    assert owner_of_branch("other.x", steps) is None
