"""What was the same on both sides: told again only of what has not changed since."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.catalog._cache._pairs import PAIRS_AT_ONCE, pair_of, rows_of, still_same
from asyncstore.catalog._local._files import IDENTITY
from asyncstore.catalog._patterns import Matcher

if TYPE_CHECKING:
    from asyncstore.catalog._cache._pairs import PairsRow, Same
    from asyncstore.catalog._local._files import Row as FileRow
    from asyncstore.objects.listed import Row as ObjectRow

NOW = datetime(2026, 11, 22, tzinfo=UTC)
LONG_AGO_NS = 1_700_000_000 * 10**9
SEEN_NS = LONG_AGO_NS + 10**10
NAMES = [f"d{number % 7}/ä {number}" for number in range(2 * PAIRS_AT_ONCE + 3)]


def digest(number: int) -> str:
    return f"{number:064x}"


def file(number: int) -> FileRow:
    return (7, 1000 + number, 10, LONG_AGO_NS + number, -number, 0o644, SEEN_NS, "")


def stored(name: str) -> ObjectRow:
    return (f"run/{name}", 10, f'"{name}"', NOW)


def sides(names: list[str]) -> tuple[Same, dict[str, FileRow], dict[str, ObjectRow]]:
    same = {name: (10, digest(number)) for number, name in enumerate(names)}
    return same, {name: file(number) for number, name in enumerate(names)}, {name: stored(name) for name in names}


def test_what_has_not_changed_is_still_the_same() -> None:
    same, files, objects = sides(NAMES)
    rows = list(rows_of(same, files, objects))
    assert len(rows) == 3
    assert still_same(rows, files, objects) == same
    seen_later = {name: (*row[:IDENTITY], 0o600, SEEN_NS + 1, "/elsewhere") for name, row in files.items()}
    assert still_same(rows, seen_later, dict(reversed(objects.items()))) == same
    assert still_same([], files, objects) == still_same(rows, {}, objects) == still_same(rows, files, {}) == {}


@given(st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)), st.integers(0, IDENTITY - 1), st.integers(1, 2))
def test_of_what_anything_differs_is_not_told(
    files_changed: set[int], objects_changed: set[int], field: int, column: int
) -> None:
    names = NAMES[:12]
    same, files, objects = sides(names)
    rows = list(rows_of(same, files, objects))
    for number in files_changed:
        row = files[names[number]]
        files[names[number]] = (*row[:field], row[field] + 1, *row[field + 1 :])  # type: ignore[operator,assignment]
    for number in objects_changed:
        key, size_bytes, etag, modified_at = objects[names[number]]
        changed = (key, size_bytes + 1, etag, modified_at) if column == 1 else (key, size_bytes, '"x"', modified_at)
        objects[names[number]] = changed
    untouched = set(range(12)) - files_changed - objects_changed
    assert still_same(rows, files, objects) == {names[number]: same[names[number]] for number in sorted(untouched)}


def test_numbers_of_64_bits_and_times_before_1970_are_kept() -> None:
    same, files, objects = sides(["a", "b"])
    files["a"] = (2**64 - 1, 2**63, 10, -1, -(2**63), 0o644, SEEN_NS, "")
    assert still_same(rows_of(same, files, objects), files, objects) == same


@pytest.mark.parametrize(
    "damage",
    [
        lambda row: (row[0] + "\0x", *row[1:]),
        lambda row: (row[0], "", *row[2:]),
        lambda row: (*row[:2], row[2][:-8], row[3]),
        lambda row: (*row[:3], row[3][:-32]),
        lambda row: (*row[:2], row[2] + b"123", row[3]),
        lambda row: (*row[:3], row[3] + b"12345"),
        lambda row: ("", "", b"", b""),
    ],
)
def test_a_row_that_makes_no_sense_tells_nothing(damage: object) -> None:
    same, files, objects = sides(NAMES[:3])
    [row] = rows_of(same, files, objects)
    assert callable(damage)
    damaged: PairsRow = damage(row)
    assert still_same([damaged], files, objects) == {}


def test_a_pair_is_of_one_storage_one_run_one_folder_and_the_same_patterns() -> None:
    pairs = {
        pair_of("place", "run/", "/data", Matcher.of("**")),
        pair_of("other", "run/", "/data", Matcher.of("**")),
        pair_of("place", "run-2/", "/data", Matcher.of("**")),
        pair_of("place", "run/", "/data-2", Matcher.of("**")),
        pair_of("place", "run/", "/data", Matcher.of(["**", "a"])),
        pair_of("place", "run/", "/data", Matcher.of("**", "a")),
    }
    assert len(pairs) == 6
    assert pair_of("place", "run/", "/data", Matcher.of("**")) in pairs
