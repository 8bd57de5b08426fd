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


def test_memory_that_is_let_go_of_meanwhile_disturbs_nobody() -> None:
    arena = Arena(64 * MIB)
    held: list[tuple[memoryview, int]] = []
    before = gc.get_threshold()
    # Garbage is collected as often as can be, and with it views that are part of cycles.
    gc.set_threshold(1)
    try:
        for number in range(300):
            cycle: list[object] = [arena.take(2 * MIB)]
            cycle.append(cycle)
            held.append((arena.take((1 + number % 3) * 2 * MIB), number % 251))
            body, mark = held[-1]
            body[0] = body[-1] = mark
            if len(held) > 5:
                held.pop(0)
            assert all((body[0], body[-1]) == (mark, mark) for body, mark in held), number
    finally:
        gc.set_threshold(*before)
