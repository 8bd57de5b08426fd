"""CRC32s put together by arithmetic are those of the bytes put together."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.objects._crc32 import combined, joined

MIB = 1024 * 1024


@given(st.binary(max_size=5000), st.binary(max_size=5000))
def test_two_runs_of_bytes(first: bytes, second: bytes) -> None:
    assert combined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_any_number_of_runs(runs: list[bytes]) -> None:
    assert joined((zlib.crc32(run), len(run)) for run in runs) == zlib.crc32(b"".join(runs))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**45), st.integers(0, 2**45))
def test_to_append_twice_is_to_append_the_sum_of_both(first: int, some: int, more: int) -> None:
    # Lengths as large as any object, which no test could hold.
    assert combined(combined(first, 0, some), 0, more) == combined(first, 0, some + more)


@pytest.mark.parametrize("size", [1, MIB - 1, MIB, MIB + 1, 8 * MIB, 16 * MIB + 7])
def test_long_runs(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert combined(zlib.crc32(b"before"), zlib.crc32(data), size) == zlib.crc32(b"before" + data)


def test_of_nothing_it_is_zero() -> None:
    assert joined([]) == zlib.crc32(b"") == 0
