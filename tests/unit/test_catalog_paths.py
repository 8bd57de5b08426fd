"""Names and keys of catalog files."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncstore._core.files import TEMP_PREFIX
from asyncstore.catalog._paths import Place, check_names, clashes, compute_folder, fold, normal_prefix, why_unsafe
from asyncstore.errors import ConfigurationError, InvalidValueError, UnsafePathError

PLACE = Place.of("catalog/", "run", "data/")


@pytest.mark.parametrize(
    ("folder", "part"),
    [
        ("data/", "data/"),
        ("data", "data/"),
        ("./data//", "data/"),
        (".", ""),
        ("", ""),
        ("a/b/", "a/b/"),
        ("a/../b", "b/"),
        ("../data", "data/"),
        ("../../x/data", "x/data/"),
        ("/tmp/x/data", "data/"),
        ("/tmp/x/data/", "data/"),
        (Path("a") / "b", "a/b/"),
    ],
)
def test_the_key_part_of_a_compute_data_folder(folder: str | Path, part: str) -> None:
    found = compute_folder(folder)
    assert found.part == part
    assert found.local == Path(folder)


def test_a_local_folder_stands_in_for_the_compute_data_folder() -> None:
    found = compute_folder("data", "/elsewhere/empty")
    assert (found.part, found.local) == ("data/", Path("/elsewhere/empty"))


@pytest.mark.parametrize("folder", ["..", "../..", "/", "a\x00b", "a\\b", "/tmp/C:", "a\nb"])
def test_folders_without_a_usable_name_are_refused(folder: str) -> None:
    with pytest.raises(UnsafePathError):
        compute_folder(folder)


@pytest.mark.parametrize(
    ("prefix", "normal"), [("", ""), ("/", ""), ("team", "team/"), ("/team//x/", "team/x/"), ("a b", "a b/")]
)
def test_prefixes_end_in_a_slash(prefix: str, normal: str) -> None:
    assert normal_prefix(prefix) == normal


@pytest.mark.parametrize("prefix", ["..", "a/../b", "a/./b", "a\nb"])
def test_prefixes_that_lead_elsewhere_are_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError):
        normal_prefix(prefix)


def test_keys_are_names_under_a_place() -> None:
    assert PLACE.root == "catalog/run/data/"
    assert PLACE.key("sub/a.csv") == "catalog/run/data/sub/a.csv"
    assert PLACE.name_of("catalog/run/data/sub/a.csv") == "sub/a.csv"


@pytest.mark.parametrize("run_id", ["", "..", "a/b", "a\nb"])
def test_run_ids_are_checked(run_id: str) -> None:
    with pytest.raises(InvalidValueError):
        Place.of("", run_id)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/../b",
        "../a",
        "/a",
        "a//b",
        "a/",
        "a\\b",
        "C:a",
        "c:/a",
        "a\x00",
        "a\x1f",
        "a\x7fb",
        "x" * 256,
        "é" * 128,
        "\udcff",
        f"{TEMP_PREFIX}0123456789abcdef",
        f"{TEMP_PREFIX}x/a",
    ],
)
def test_unsafe_names_are_refused(name: str) -> None:
    assert why_unsafe(name)
    with pytest.raises(UnsafePathError, match="nothing was moved"):
        check_names(["good", name], PLACE)


@pytest.mark.parametrize("name", ["a", ".env", "a b", "é.csv", "😀", "%2F", "ab:c", "...", "..a", "x" * 255, "a/b/c"])
def test_other_names_are_fine(name: str) -> None:
    assert not why_unsafe(name)
    check_names([name], PLACE)


def test_keys_have_a_limit() -> None:
    segment = "x" * 200
    check_names(["/".join([segment] * 4)], PLACE)
    with pytest.raises(UnsafePathError, match="1024"):
        check_names(["/".join([segment] * 6)], PLACE)


def test_a_name_is_not_both_file_and_folder() -> None:
    with pytest.raises(UnsafePathError, match="both a file and a folder"):
        check_names(["a/b/c", "a/b"], PLACE)


def test_only_the_first_problems_are_told() -> None:
    with pytest.raises(UnsafePathError, match="and 95 more"):
        check_names([f"a\\{number}" for number in range(100)], PLACE)


def test_clashes() -> None:
    assert list(clashes(["a/b", "ab", "a", "A"])) == [("a", "a/b")]
    assert list(clashes(["straße", "STRASSE"], fold)) == [("straße", "STRASSE")]
    assert list(clashes(["e\u0301", "é"], fold)) == [("e\u0301", "é")]
    assert list(clashes(["A", "a/x"], fold)) == [("A", "a/x")]
    assert not list(clashes(["a", "b", "c/d", "c/e"], fold))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b/c", "b/d/e", "f"], set()),
        (["a", "a"], {("a", "a")}),
        (["b/c/d/e", "x", "b"], {("b", "b/c/d/e")}),
        (["b/c", "b/c/d/e", "b/x"], {("b/c", "b/c/d/e")}),
        (["/a", ""], {("", "/a")}),
    ],
)
def test_names_of_which_only_one_can_exist(names: list[str], expected: set[tuple[str, str]]) -> None:
    assert set(clashes(names)) == set(clashes(names, lambda name: name)) == expected
