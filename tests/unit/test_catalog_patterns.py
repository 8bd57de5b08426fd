"""Patterns: what they match, what they refuse, and what need not be looked at."""

from __future__ import annotations

import fnmatch
import glob

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asyncstore.catalog._patterns import Matcher, Pattern
from asyncstore.errors import InvalidValueError, UnsafePathError

MATCHING = [
    ("*.csv", "a.csv"),
    ("*.csv", ".csv"),
    ("*", ".hidden"),
    ("**", "a"),
    ("**", "a/b/.c"),
    ("**/*", "a/b/c"),
    ("**/x", "x"),
    ("**/x", "a/b/x"),
    ("a/**", "a/b"),
    ("a/**", "a/b/c"),
    ("a/**/b", "a/b"),
    ("a/**/b", "a/x/y/b"),
    ("**/a/**/b", "a/b"),
    ("**/a/**/b", "x/a/a/y/b"),
    ("**/**/x", "x"),
    ("sub/", "sub/a/b"),
    ("./a.csv", "a.csv"),
    ("a//b", "a/b"),
    ("?", "é"),
    ("[abc]x", "bx"),
    ("[!abc]x", "dx"),
    ("[]]", "]"),
    ("[!]]", "x"),
    ("[a-c-]", "-"),
    ("[", "["),
    ("[]", "[]"),
    ("a[", "a["),
    ("line\nbreak", "line\nbreak"),
    ("*", "line\nbreak"),
    ("[[]1].csv", "[1].csv"),
    ("a.b+c(d)|e^f$", "a.b+c(d)|e^f$"),
    ("*a*a*a*a*", "a" * 200),
]
NOT_MATCHING = [
    ("*.csv", "sub/a.csv"),
    ("*.csv", "a.CSV"),
    ("*/x", "x"),
    ("*/x", "a/b/x"),
    ("a/**", "a"),
    ("a/**", "ab/c"),
    ("sub", "sub/a"),
    ("?", ""),
    ("?", "/"),
    ("[!a]", "/"),
    ("[+-9]", "/"),
    ("a[+-9]b", "a/b"),
    ("[b-a]", "a"),
    ("*a*b", "a" * 500),
    ("data", "data2"),
]


@pytest.mark.parametrize(("pattern", "name"), MATCHING)
def test_matches(pattern: str, name: str) -> None:
    assert Pattern.parse(pattern).matches(name)


@pytest.mark.parametrize(("pattern", "name"), NOT_MATCHING)
def test_does_not_match(pattern: str, name: str) -> None:
    assert not Pattern.parse(pattern).matches(name)


@pytest.mark.parametrize("pattern", ["../x", "a/../b", "/etc/passwd", ".."])
def test_patterns_that_lead_out_are_refused(pattern: str) -> None:
    with pytest.raises(UnsafePathError):
        Pattern.parse(pattern)


@pytest.mark.parametrize("pattern", ["", ".", "./", "**.csv", "a**", "a/***/b"])
def test_patterns_without_a_clear_meaning_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidValueError):
        Pattern.parse(pattern)


SEGMENT = st.text("ab.*?[]!-", min_size=1, max_size=5).filter(lambda text: text not in {".", ".."} and "**" not in text)
PATTERN = st.lists(SEGMENT | st.just("**"), min_size=1, max_size=4).map("/".join)
NAME = st.lists(st.text("ab.-]![", min_size=1, max_size=4), min_size=1, max_size=4).map("/".join)


def slowly(pattern: list[str], name: list[str]) -> bool:
    if not pattern or not name:
        return not pattern and not name
    first, *rest = pattern
    if first != "**":
        return fnmatch.fnmatchcase(name[0], first) and slowly(rest, name[1:])
    if not rest:
        return True
    return any(slowly(rest, name[skipped:]) for skipped in range(len(name)))


@given(PATTERN, NAME)
def test_it_is_what_a_slow_matcher_over_segments_says(pattern: str, name: str) -> None:
    assert Pattern.parse(pattern).matches(name) == slowly(pattern.split("/"), name.split("/"))


@given(PATTERN, NAME)
def test_a_folder_that_holds_a_match_is_entered_and_lies_under_the_common_one(pattern: str, name: str) -> None:
    matcher = Matcher.of(pattern)
    if matcher.matches(name):
        parts = name.split("/")
        assert all(matcher.enters("/".join(parts[:end])) for end in range(1, len(parts)))
        assert name.startswith(matcher.folder)
        assert not matcher.flat or "/" not in name.removeprefix(matcher.folder)


@given(NAME)
def test_an_escaped_name_matches_itself_alone(name: str) -> None:
    assume(not {".", ".."} & set(name.split("/")))
    pattern = Pattern.parse(glob.escape(name))
    assert pattern.matches(name)
    assert not pattern.matches(f"{name}x")


def test_several_patterns_and_exclusions() -> None:
    matcher = Matcher.of(["*.csv", "sub/**"], exclude=["**/*.tmp", "sub/skip/**"])
    assert matcher.matches("a.csv")
    assert matcher.matches("sub/x/y")
    assert not matcher.matches("sub/y.tmp")
    assert not matcher.matches("sub/skip/y")
    assert not matcher.enters("sub/skip")
    assert not matcher.enters("sub/skip/deeper")
    assert matcher.enters("sub/other")
    assert not matcher.enters("elsewhere")


def test_excluding_one_level_still_enters_it() -> None:
    assert Matcher.of("**", exclude="skip/*").enters("skip")


def test_patterns_that_match_nothing_are_told() -> None:
    assert Matcher.of(["*.csv", "*.parquet"]).unmatched(["a.csv"]) == ["*.parquet"]


def test_names_without_wildcards_are_known() -> None:
    assert Matcher.of(["a", "./b/c", "a"]).literals == ("a", "b/c")
    assert Matcher.of(["a", "*"]).literals is None
    assert Matcher.of(["a", "b"], exclude="b").literals == ("a",)


@pytest.mark.parametrize(
    ("patterns", "folder", "flat"),
    [
        (["*.csv"], "", True),
        (["a/b/*.csv", "a/b/x"], "a/b/", True),
        (["a/b/*.csv", "a/c/*"], "a/", False),
        (["a/b/**"], "a/b/", False),
        (["ab/x", "a/x"], "", False),
        (["**/x"], "", False),
    ],
)
def test_the_folder_to_list(patterns: list[str], folder: str, flat: bool) -> None:
    matcher = Matcher.of(patterns)
    assert (matcher.folder, matcher.flat) == (folder, flat)


@pytest.mark.parametrize(
    ("patterns", "exclude", "expected"),
    [
        (["**"], [], True),
        (["**/*"], [], True),
        (["**/**/*"], [], True),
        (["a", "**"], [], True),
        (["*"], [], False),
        (["*/**"], [], False),
        (["**/*.csv"], [], False),
        (["a/**"], [], False),
        (["**/?"], [], False),
        (["**"], ["a"], False),
    ],
)
def test_whether_every_file_is_sure_to_be_meant(patterns: list[str], exclude: list[str], expected: bool) -> None:
    matcher = Matcher.of(patterns, exclude)
    assert matcher.everything is expected
    odd = ["a", ".a", "a.csv", "b/a", "b/c/line\nbreak", "é/🙂"]
    assert all(map(matcher.matches, odd)) is expected
