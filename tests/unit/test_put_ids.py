"""Whose write an object is, decided from its metadata and time alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from asyncstore.objects._putids import MarkedPut, Whose
from asyncstore.objects.base import CLOCK_SKEW, NEW, PUT_ID, Condition, ObjectMeta

NOW = datetime(2026, 11, 20, tzinfo=UTC)
CREATE = MarkedPut("key", NEW, "0a-1", NOW)
SWAP = MarkedPut("key", Condition(etag='"e1"'), "0a-2", NOW)


def found(mark: str | None, *, age: timedelta = timedelta(0), name: str = PUT_ID) -> ObjectMeta:
    return ObjectMeta("key", 1, '"e2"', NOW - age, {} if mark is None else {"other": "x", name: mark})


@pytest.mark.parametrize("name", [PUT_ID, "Asyncstore-Put-Id", "asyncstore_put_id"])
@pytest.mark.parametrize("write", [CREATE, SWAP])
def test_its_own_mark_is_recognised(write: MarkedPut, name: str) -> None:
    assert write.whose(found(write.mark, name=name, age=timedelta(days=1))) is Whose.OURS


@pytest.mark.parametrize(
    ("write", "mark", "whose"),
    [
        (CREATE, "ff:new", Whose.ANOTHERS),
        (CREATE, "ff:e1", Whose.UNKNOWN),
        (CREATE, "0a:new", Whose.ANOTHERS),
        (CREATE, "ff", Whose.UNKNOWN),
        (CREATE, ":new", Whose.UNKNOWN),
        (CREATE, "", Whose.UNKNOWN),
        (CREATE, None, Whose.UNKNOWN),
        (SWAP, "ff:e1", Whose.ANOTHERS),
        (SWAP, "ff:e3", Whose.UNKNOWN),
        (SWAP, "ff:new", Whose.UNKNOWN),
        (SWAP, None, Whose.UNKNOWN),
    ],
)
def test_marks_of_others(write: MarkedPut, mark: str | None, whose: Whose) -> None:
    assert write.whose(found(mark)) is whose


@pytest.mark.parametrize("write", [CREATE, SWAP])
def test_what_is_older_than_clocks_can_differ_was_there_before(write: MarkedPut) -> None:
    assert write.whose(found(None, age=CLOCK_SKEW + timedelta(seconds=1))) is Whose.ANOTHERS
    assert write.whose(found(None, age=CLOCK_SKEW)) is Whose.UNKNOWN
    assert write.whose(None) is Whose.UNKNOWN
