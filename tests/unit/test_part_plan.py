from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.errors import InvalidValueError
from asyncstore.objects._large._copies import COPY_PART_BYTES
from asyncstore.objects._large._multipart import OBJECT_LIMIT_BYTES, PART_LIMIT, plan_parts

MIB = 1024**2
GIB = 1024**3


@given(st.integers(min_value=0, max_value=OBJECT_LIMIT_BYTES))
def test_parts_cover_the_file_within_the_limits(size_bytes: int) -> None:
    parts = plan_parts(size_bytes)
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert parts[0].start == 0
    assert parts[-1].end == size_bytes
    assert all(one.end == following.start for one, following in pairwise(parts))
    assert len(parts) <= PART_LIMIT
    assert all(part.end - part.start >= 5 * MIB for part in parts[:-1])


@pytest.mark.parametrize(
    ("size_bytes", "count", "part_bytes"),
    [(0, 1, 0), (1, 1, 1), (8 * MIB, 1, 8 * MIB), (8 * MIB + 1, 2, 8 * MIB), (78 * GIB, 9984, 8 * MIB),
     (160 * GIB, 9638, 17 * MIB), (5 * 1024 * GIB, 9987, 525 * MIB)],
)  # fmt: skip
def test_known_sizes(size_bytes: int, count: int, part_bytes: int) -> None:
    parts = plan_parts(size_bytes)
    assert len(parts) == count
    assert parts[0].end == min(part_bytes, size_bytes)


def test_larger_than_an_object_can_be() -> None:
    with pytest.raises(InvalidValueError, match="5 TiB"):
        plan_parts(OBJECT_LIMIT_BYTES + 1)


@pytest.mark.parametrize(("size_bytes", "count"), [(5 * GIB + 1, 6), (5 * 1024 * GIB, 5120)])
def test_copies_are_cut_into_larger_parts(size_bytes: int, count: int) -> None:
    parts = plan_parts(size_bytes, part_bytes=COPY_PART_BYTES)
    assert len(parts) == count
    assert max(part.size_bytes for part in parts) == GIB
