"""Portions of a transfer, and its tally."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.catalog._local._files import Identity, LocalFile, LocalFiles
from asyncstore.catalog._moving._tally import Tally, TransferProgress
from asyncstore.catalog._plan import BATCH_BYTES, BATCH_FILES, Decided, PlannedFile, TransferPlan, batches, ranges
from asyncstore.errors import AccessDeniedError, IntegrityError, TransferError


@dataclass(frozen=True)
class Item:
    size_bytes: int


def tear() -> None:
    raise IntegrityError("torn")


@given(st.lists(st.integers(0, 2 * BATCH_BYTES)), st.integers(1, 64))
def test_batches_hold_everything_once_in_order_and_within_limits(sizes: list[int], workers: int) -> None:
    items = [Item(size) for size in sizes]
    found = list(batches(items, workers=workers))
    assert [item for batch in found for item in batch] == items
    for batch in found:
        assert 1 <= len(batch) <= BATCH_FILES
        assert len(batch) == 1 or sum(item.size_bytes for item in batch) <= BATCH_BYTES


def test_batches_shrink_towards_the_end() -> None:
    lengths = [len(batch) for batch in batches([Item(4096)] * 5000, workers=64)]
    assert lengths[0] == BATCH_FILES
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-64:] == [1] * 64


def test_few_files_are_spread_over_the_workers() -> None:
    assert [len(batch) for batch in batches([Item(1)] * 10, workers=64)] == [1] * 10


@given(st.integers(0, 1000), st.integers(1, 100))
def test_ranges_cover_everything_once(size: int, step: int) -> None:
    found = ranges(size, step)
    assert found[0][0] == 0
    assert found[-1][1] == size
    assert all(end == start for (_, end), (start, _) in pairwise(found))
    assert all(end - start <= step for start, end in found)


def test_a_tally_tells_each_step_and_never_counts_twice() -> None:
    told: list[TransferProgress] = []
    tally = Tally({"a": 10, "b": 20, "c": 5}, told.append)
    tally.advance("a", 4)
    tally.advance("a", 6)
    tally.done("a")
    tally.advance("b", 8)
    with tally.failing("b"):
        tear()
    tally.skip("c")
    assert [(event.files_done, event.bytes_done) for event in told] == [
        (0, 4),
        (0, 10),
        (1, 10),
        (1, 18),
        (2, 30),
        (3, 35),
    ]
    assert {(event.files_total, event.bytes_total) for event in told} == {(3, 35)}
    with pytest.raises(TransferError, match="1 of 3 files failed to put into there") as caught:
        tally.finish("put into", "there")
    assert caught.value.done == ("a",)
    assert caught.value.skipped == ("c",)
    assert list(caught.value.failed) == ["b"]


def test_a_tally_tells_names_with_their_folder() -> None:
    told: list[TransferProgress] = []
    tally = Tally({"a": 10, "b": 20, "c": 5}, told.append, folder="data/")
    tally.retry()
    tally.done("a")
    tally.skip("b")
    with tally.failing("c"):
        tear()
    tally.retry()
    tally.add_same(1, 1, "d")
    assert [event.name for event in told] == ["", "data/a", "data/b", "data/c", "data/c", "data/d"]
    with pytest.raises(TransferError, match="'data/c': ") as caught:
        tally.finish("put into", "there", same=["d"])
    assert caught.value.done == ("data/a",)
    assert caught.value.skipped == ("data/b", "data/d")
    assert list(caught.value.failed) == ["data/c"]


def test_an_error_that_would_stop_every_file_stops_the_transfer() -> None:
    tally = Tally({"a": 1, "b": 1})
    tally.done("a")
    with pytest.raises(AccessDeniedError) as caught, tally.failing("b"):
        raise AccessDeniedError("no")
    assert caught.value.__notes__ == ["1 of 2 files were done before"]


def test_a_tally_without_failures_ends_quietly() -> None:
    tally = Tally({"a": 1})
    tally.done("a")
    tally.finish("get from", "there")
    assert "1 done" in repr(tally)


def test_a_tally_counts_what_is_the_same_on_both_sides() -> None:
    told: list[TransferProgress] = []
    tally = Tally({"b": 20, "d": 5}, told.append)
    tally.skip("d")
    tally.add_same(2, 30, "c")
    assert (told[-1].name, told[-1].files_done, told[-1].files_skipped, told[-1].files_total) == ("c", 3, 3, 4)
    assert (told[-1].bytes_done, told[-1].bytes_total) == (35, 55)
    with tally.failing("b"):
        tear()
    with pytest.raises(TransferError, match="1 of 4 files failed") as caught:
        tally.finish("put into", "there", same=["a", "c"])
    assert caught.value.skipped == ("a", "c", "d")


def test_a_tally_notes_many_at_once() -> None:
    told: list[TransferProgress] = []
    tally = Tally({"a": 10, "b": 20, "c": 5}, told.append)
    tally.advance_all(30, "b")
    tally.done_all(["a", "b", "no file"])
    tally.done_all(["c"])
    tally.done_all(["no file"])
    tally.done_all([])
    assert [(event.name, event.files_done, event.bytes_done) for event in told] == [
        ("b", 0, 30),
        ("b", 2, 30),
        ("c", 3, 35),
    ]
    assert "3 done" in repr(tally)


def test_an_upload_is_planned_as_by_the_names_of_its_fields() -> None:
    identity = Identity(1, 2, 3, 4, 5)
    here = LocalFile("name", "/elsewhere", identity, 0o640, 7).row
    file = PlannedFile.upload("name", here, "new", "digest")
    assert file == PlannedFile("name", "upload", 3, "new", digest="digest", here=here)
    assert (file.path, file.identity, file.mode, file.seen_ns, file.mtime_ns) == ("/elsewhere", identity, 0o640, 7, 4)
    assert (file.pack, file.offset) == ("", 0)


def test_many_uploads_are_planned_as_one_by_one() -> None:
    files = LocalFiles("/data/", {name: (1, number, 3, 4, 5, 0o600, 7, "") for number, name in enumerate("abc")})
    assert PlannedFile.uploads(files, "new") == [
        PlannedFile.upload(name, row, "new", "") for name, row in files.rows.items()
    ]


def test_what_is_moved_without_a_local_file_has_none() -> None:
    file = PlannedFile("name", "download", 3, "new")
    assert (file.path, file.identity, file.mode, file.seen_ns, file.mtime_ns) == ("", None, None, 0, None)
    packed = file._replace(packed=("pack", 3, 0o600, 9))
    assert (packed.pack, packed.offset, packed.mode, packed.mtime_ns) == ("pack", 3, 0o600, 9)


def test_what_was_decided_becomes_a_plan_by_name() -> None:
    moves = TransferPlan("put", "run", "data/", "/data", "there", (PlannedFile("b", "upload", 2, "new"),))
    decided = Decided(moves, {"c": (3, "y"), "a": (1, "x")})
    assert [(file.name, file.action, file.size_bytes, file.digest) for file in decided.plan().files] == [
        ("a", "skip", 1, "x"),
        ("b", "upload", 2, ""),
        ("c", "skip", 3, "y"),
    ]
    assert decided.plan().files[0] == PlannedFile("a", "skip", 1, "same contents", "x")
    assert TransferPlan.from_json(decided.plan().to_json()) == decided.plan()
    assert Decided(moves, {}).plan() == moves
