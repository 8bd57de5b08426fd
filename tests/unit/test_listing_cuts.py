"""Where a listing is cut: between folders, behind what is known, before what matters no more."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from asyncstore.objects._listing._cuts import cuts_between, folders_around

SEGMENTS = st.text("ab.", min_size=1, max_size=2)
KEYS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize(
    ("keys", "folders"),
    [
        (["p/a", "p/b"], []),
        (["p/a/1", "p/b/1"], ["p/"]),
        (["p/a/1", "p/b"], ["p/"]),
        (["p/a/1", "p/a/2"], ["p/"]),
        (["p/a/b/1", "p/a/c/1"], ["p/", "p/a/"]),
        (["p/a/b/c/d/e/1/x", "p/a/b/c/d/e/2/x"], ["p/a/b/", "p/a/b/c/", "p/a/b/c/d/", "p/a/b/c/d/e/"]),
        (["p/a/", "p/a/1"], ["p/"]),
    ],
)
def test_folders_that_hold_a_page_and_folders(keys: list[str], folders: list[str]) -> None:
    assert folders_around(keys, "p/") == folders


def test_all_of_a_bucket_may_be_listed() -> None:
    assert folders_around(["a/1", "a/b/1"], "") == ["", "a/"]
    assert folders_around(["1", "2"], "") == []


def test_folders_of_which_a_page_shows_some_are_cut_evenly() -> None:
    keys = [f"p/{number // 100:03}/{number}" for number in range(1000)]
    folders = [f"p/{number:03}/" for number in range(10, 50)]
    assert cuts_between("p/", folders, keys, "", most=8) == ["p/015/", "p/022/", "p/029/", "p/036/", "p/043/"]
    assert cuts_between("p/", folders, keys, "", most=2) == ["p/029/"]
    assert cuts_between("p/", folders, keys, "p/018/x", most=8) == ["p/014/"]
    assert cuts_between("p/", folders[:2], keys, "", most=8) == []


def test_a_folder_that_fills_a_page_may_be_large_as_its_neighbours() -> None:
    keys = [f"p/a/{number:04}" for number in range(1000)]
    assert cuts_between("p/", ["p/b/", "p/c/"], keys, "", most=8) == ["p/b/", "p/c/"]


def test_folders_with_hardly_anything_in_them_are_not_worth_it() -> None:
    keys = [f"p/{number:04}/x" for number in range(1000)]
    folders = [f"p/{number:04}/" for number in range(1000, 1800)]
    assert cuts_between("p/", folders, keys, "", most=8) == []


@given(st.sets(KEYS, min_size=1), st.sets(SEGMENTS), st.text("ab./", max_size=4), st.integers(1, 9))
def test_cuts_lie_in_order_behind_a_page_and_before_the_end(
    names: set[str], subfolders: set[str], end: str, most: int
) -> None:
    keys = sorted(f"p/{name}" for name in names)
    last = f"p/{end}" if end else ""
    for folder in folders_around(keys, "p/"):
        assert all(key.startswith(folder) for key in keys)
        cuts = cuts_between(folder, sorted(f"{folder}{sub}/" for sub in subfolders), keys, last, most=most)
        assert cuts == sorted(set(cuts))
        assert len(cuts) < most
        assert all(keys[-1] < cut for cut in cuts)
        assert not last or all(cut < last for cut in cuts)
