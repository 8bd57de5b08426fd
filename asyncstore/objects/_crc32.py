"""
The CRC32 of bytes one after the other, made of the CRC32s of either: pure arithmetic, so that no byte is read twice.

A CRC32 is a remainder of polynomials over GF(2), so to append ``n`` bytes is to multiply what was by ``x ** (8 * n)``,
which takes microseconds. Polynomials are numbers as zlib keeps them: the highest bit is the coefficient of ``x ** 0``.
"""

from __future__ import annotations

from functools import cache, lru_cache, reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["combined", "joined"]

_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31
_X_TO_8 = 1 << 23


def combined(first: int, second: int, second_bytes: int) -> int:
    """Return the CRC32 of bytes whose CRC32 is ``first``, followed by ``second_bytes`` bytes of CRC32 ``second``."""
    return _product(_appending(second_bytes), first) ^ second


def joined(sums: Iterable[tuple[int, int]]) -> int:
    """Return the CRC32 of runs of bytes that follow each other, given the CRC32 and the length in bytes of each."""
    return reduce(lambda total, one: combined(total, *one), sums, 0)


@lru_cache(maxsize=64)
def _appending(size_bytes: int) -> int:
    """Return ``x ** (8 * size_bytes)``."""
    power, bit = _ONE, 0
    while size_bytes >> bit:
        if size_bytes >> bit & 1:
            power = _product(_squared(bit), power)
        bit += 1
    return power


@cache
def _squared(times: int) -> int:
    """Return ``x ** 8``, squared so many times."""
    return _X_TO_8 if times == 0 else _product(_squared(times - 1), _squared(times - 1))


def _product(one: int, other: int) -> int:
    product = 0
    while one:
        if one & _ONE:
            product ^= other
        one = one << 1 & 0xFFFFFFFF
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return product
