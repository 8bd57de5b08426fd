"""Many instances at once: they are as those that constructors make, one by one."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from itertools import repeat

import pytest

from asyncstore._core.instances import instances
from asyncstore.catalog._entries import entries_of
from asyncstore.catalog._paths import Place
from asyncstore.models import DataCatalog
from asyncstore.objects.base import ObjectMeta
from asyncstore.objects.listed import described

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def test_objects_of_rows_are_as_if_made_one_by_one() -> None:
    rows = [(f"key {number}", number, f'"{number}"', NOW) for number in range(3)]
    assert described(rows) == [ObjectMeta(*row) for row in rows]
    assert described([]) == []


def test_entries_are_as_if_validated() -> None:
    place = Place.of("prefix/", "run", "data/")
    digests = {"b/c": "2" * 64, "a": "1" * 64}
    entries = entries_of(place, sorted(digests), digests, "get", "s3://bucket/prefix")
    expected = [
        DataCatalog(
            name=f"data/{name}",
            data_hash=digests[name],
            catalog_relative_path=f"run/data/{name}",
            catalog_handler_location="s3://bucket/prefix",
            stage="get",
        )
        for name in ("a", "b/c")
    ]
    assert entries == expected
    for entry, other in zip(entries, expected, strict=True):
        assert entry.model_dump(exclude_unset=True) == other.model_dump(exclude_unset=True)
        assert entry.model_dump_json() == other.model_dump_json()
        assert repr(entry) == repr(other)
        assert pickle.loads(pickle.dumps(entry)) == copy.deepcopy(entry) == entry
        assert entry.model_copy(update={"stage": "put"}).stage == "put"
    # What one is given, another one does not have.
    setattr(entries[0], "more", 1)  # noqa: B010
    assert entries[0].model_extra == {"more": 1}
    assert entries[1].model_extra == {}


def test_a_class_without_such_a_slot_is_refused() -> None:
    with pytest.raises(AttributeError):
        instances(ObjectMeta, 1, {"colour": repeat("blue")})
