"""Memory for payloads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncstore._core.memory import MAPPED_BYTES, room_for

MIB = 1024 * 1024


@pytest.mark.parametrize("size_bytes", [0, 1, 4096, MAPPED_BYTES - 1, MAPPED_BYTES, 4 * MIB + 1])
def test_it_is_as_large_as_asked_for_and_holds_zeros(size_bytes: int) -> None:
    room = room_for(size_bytes)
    assert (len(room), room.readonly, bytes(room)) == (size_bytes, False, bytes(size_bytes))
    room[:] = b"x" * size_bytes
    assert bytes(room_for(size_bytes)) == bytes(size_bytes)


def test_much_of_it_goes_back_to_the_system() -> None:
    def held_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    # What is freed last is at the end of the heap, which shrinks; so every second one stays.
    rooms = [room_for(3 * MIB) for _ in range(32)]
    for room in rooms:
        room[:] = b"x" * len(room)
    before = held_bytes()
    del room, rooms[::2]
    assert before - held_bytes() >= 16 * 3 * MIB
