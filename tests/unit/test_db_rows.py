from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from asyncstore.runlog.db import _rows
from asyncstore.runlog.db._rows import Row, RowKey
from asyncstore.runlog.fragments import Fragment, FragmentKey, Kind

if TYPE_CHECKING:
    import pytest

NAMES = st.text(st.sampled_from("ab.\x1e\x1f\n"), min_size=1, max_size=6)
NOW = datetime(2026, 11, 20, 12)
TICK = timedelta(microseconds=1)


def row(name: str, value: str = "1", run_id: str = "run") -> Row:
    return Row(RowKey(run_id, "StepLog", name), value)


@given(NAMES, st.just("") | NAMES)
def test_a_parameters_key_comes_back_whatever_its_name_and_scope(name: str, scope: str) -> None:
    key = FragmentKey(Kind.PARAMETER, name, scope)
    stored = _rows.row_key("run", key)
    assert _rows.fragment_key(stored.attribute_type, stored.attribute_key) == key


@given(st.lists(st.tuples(NAMES, st.just("") | NAMES), unique=True))
def test_no_two_parameters_share_a_row(pairs: list[tuple[str, str]]) -> None:
    keys = {_rows.row_key("run", FragmentKey(Kind.PARAMETER, name, scope)) for name, scope in pairs}
    assert len(keys) == len(pairs)


def test_scoped_parameters_are_stored_as_the_layout_says() -> None:
    assert _rows.row_key("run", FragmentKey(Kind.PARAMETER, "lr")).attribute_key == "lr"
    assert _rows.row_key("run", FragmentKey(Kind.PARAMETER, "lr", "fan.a")).attribute_key == "fan.a\x1flr"


def test_a_step_may_hold_the_separator() -> None:
    key = FragmentKey(Kind.STEP_LOG, "a\x1fb")
    assert _rows.fragment_key(*_rows.row_key("run", key)[1:]) == key


def test_the_last_write_of_a_key_wins_at_the_place_of_the_first() -> None:
    batch = [(row("a", "1"), row("b", "1")), (row("a", "2"),), (row("c", "1"),)]
    assert _rows.last_writes(batch) == [row("a", "2"), row("b", "1"), row("c", "1")]


def test_of_two_inserters_in_a_batch_the_first_wins() -> None:
    batch = [(row("a", "1"),), (row("a", "2"), row("b", "2")), (row("c"),)]
    assert _rows.first_writes(batch) == [row("a", "1"), row("b", "2"), row("c")]
    assert _rows.refused(batch, {row("c").key}) == [frozenset(), {row("a").key}, {row("c").key}]


def test_rows_are_sorted_by_key_and_stamped_in_order_of_arrival() -> None:
    stamped = list(_rows.stamps([row("b"), row("a")], {}, NOW))
    assert stamped == [(row("a"), NOW + TICK), (row("b"), NOW)]


def test_a_clock_that_was_set_back_does_no_harm() -> None:
    later = NOW + timedelta(hours=1)
    rows = [row("a"), row("b"), row("c", run_id="other")]
    stamped = dict(_rows.stamps(rows, {"run": later, "other": None}, NOW))
    assert stamped == {rows[0]: later + TICK, rows[1]: later + 2 * TICK, rows[2]: NOW + 2 * TICK}


def test_writes_are_cut_by_rows_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "WRITE_LIMIT_ROWS", 2)
    assert [len(write) for write in _rows.writes_of([row("a"), row("b"), row("c")])] == [2, 1]
    monkeypatch.setattr(_rows, "WRITE_LIMIT_BYTES", 1000)
    assert [len(write) for write in _rows.writes_of([row("a", "x" * 900), row("b", "x" * 900)])] == [1, 1]
    assert not list(_rows.writes_of([]))


def test_rows_hold_the_fragments_text() -> None:
    fragment = Fragment(FragmentKey(Kind.STEP_LOG, "é"), '{"name":"🙂"}'.encode())
    assert _rows.rows_of("run", [fragment]) == [Row(RowKey("run", "StepLog", "é"), '{"name":"🙂"}')]
