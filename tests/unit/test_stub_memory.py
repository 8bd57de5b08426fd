"""Memory of the stub's large bodies."""

from __future__ import annotations

import gc

from hypothesis import given
from hypothesis import strategies as st

from asyncstore.testing.s3_stub._memory import Arena

MIB = 1024 * 1024


def test_memory_is_free_again_when_its_last_view_is_gone() -> None:
    arena = Arena(16 * MIB)
    body = arena.take(5 * MIB)
    part = body[MIB : 2 * MIB]
    assert arena.free_bytes == 10 * MIB
    del body
    gc.collect()
    assert arena.free_bytes == 10 * MIB
    part[:] = b"a" * MIB
    del part
    gc.collect()
    assert arena.free_bytes == 16 * MIB


def test_what_does_not_fit_is_got_all_the_same() -> None:
    arena = Arena(4 * MIB)
    bodies = [arena.take(3 * MIB) for _ in range(3)]
    for number, body in enumerate(bodies):
        body[:] = bytes([number]) * len(body)
    assert [(body[0], body[-1]) for body in bodies] == [(0, 0), (1, 1), (2, 2)]
    assert arena.free_bytes == 0


@given(st.lists(st.one_of(st.integers(1, 12 * MIB), st.none()), max_size=30))
def test_no_two_bodies_share_memory(steps: list[int | None]) -> None:
    arena = Arena(32 * MIB)
    held: list[tuple[memoryview, int]] = []
    for number, size_bytes in enumerate(steps):
        if size_bytes is not None:
            held.append((arena.take(size_bytes), number))
            held[-1][0][0] = held[-1][0][-1] = number
        elif held:
            held.pop(number % len(held))
    assert [(body[0], body[-1]) for body, _ in held] == [(number, number) for _, number in held]
    held.clear()
    gc.collect()
    assert arena.free_bytes == 32 * MIB
