"""Memory for payloads."""

from __future__ import annotations

import gc
import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asyncstore._core.memory import ARENA_PAYLOADS, Arena, process_arena, room_for

KIB = 1024
MIB = 1024 * KIB


def held_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize(
    "size_bytes",
    [0, 1, 4096, ARENA_PAYLOADS[0] - 1, ARENA_PAYLOADS[0], MIB, ARENA_PAYLOADS[-1], ARENA_PAYLOADS[-1] + 1],
)
def test_it_is_as_large_as_asked_for_and_can_be_written(size_bytes: int, moving: bool) -> None:
    arena = process_arena() if moving else None
    room = room_for(size_bytes)
    assert (len(room), room.readonly, room.format, room.itemsize) == (size_bytes, False, "B", 1)
    room[:] = b"x" * size_bytes
    assert bytes(room) == b"x" * size_bytes
    del arena


def test_much_of_it_goes_back_to_the_system() -> None:
    # What is freed last is at the end of the heap, which shrinks; so every second one stays.
    rooms = [room_for(3 * MIB) for _ in range(32)]
    for room in rooms:
        room[:] = b"x" * len(room)
    before = held_bytes()
    del room, rooms[::2]
    assert before - held_bytes() >= 16 * 3 * MIB


def test_what_one_has_left_is_given_to_the_next_one() -> None:
    arena = Arena(MIB)
    first = arena.room(MIB)
    assert first is not None
    first[:5] = b"first"
    assert arena.room(1) is None
    del first
    second = arena.room(MIB)
    assert second is not None
    assert bytes(second[:5]) == b"first"


def test_a_piece_is_not_given_away_while_anybody_refers_to_a_part_of_it() -> None:
    arena = Arena(MIB)
    room = arena.room(MIB)
    assert room is not None
    part = memoryview(room)[7:9].toreadonly()
    del room
    assert arena.room(1) is None
    del part
    assert arena.room(MIB) is not None


def test_what_lies_side_by_side_makes_up_a_larger_piece() -> None:
    arena = Arena(MIB)
    pieces = [arena.room(128 * KIB) for _ in range(8)]
    assert all(piece is not None for piece in pieces)
    pieces[2:4] = []
    pieces[4:6] = []
    assert arena.room(256 * KIB + 1) is None
    pair = arena.room(256 * KIB)
    other = arena.room(200 * KIB)
    assert pair is not None
    assert other is not None
    assert arena.room(1) is None


def test_pieces_of_an_arena_outlive_it() -> None:
    arena = Arena(4 * MIB)
    room = arena.room(2 * MIB)
    assert room is not None
    room[:] = b"x" * len(room)
    del arena
    assert bytes(room) == b"x" * len(room)


def test_no_two_have_the_same_bytes() -> None:
    arena = Arena(16 * MIB)

    def work(mark: int) -> int:
        draw, held, given = random.Random(mark), [], 0
        for _ in range(300):
            room = arena.room(draw.randrange(1, MIB))
            if room is not None:
                room[:] = bytes([mark]) * len(room)
                held.append(room)
                given += 1
            if room is None or len(held) > 3:
                kept = held.pop(draw.randrange(len(held))) if held else b""
                assert bytes(kept) == bytes([mark]) * len(kept)
        return given

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert all(given > 100 for given in threads.map(work, range(1, 9)))
    finally:
        sys.setswitchinterval(interval_s)
    assert arena.room(16 * MIB) is not None


def test_all_who_move_something_share_an_arena_which_goes_with_the_last_of_them() -> None:
    gc.collect()
    one, other = process_arena(), process_arena()
    assert one is other
    rooms = [room_for(4 * MIB) for _ in range(12)]
    for room in rooms:
        room[:] = b"x" * len(room)
    del rooms, room, one
    rooms = [room_for(4 * MIB) for _ in range(12)]
    assert all(bytes(room[:1]) == b"x" for room in rooms)
    before = held_bytes()
    del rooms, other
    assert before - held_bytes() >= 12 * 4 * MIB


def test_where_an_arena_is_full_there_is_other_memory() -> None:
    arena = process_arena()
    rooms = [room_for(4 * MIB) for _ in range(20)]
    for number, room in enumerate(rooms):
        room[:4] = number.to_bytes(4, "big")
    assert [int.from_bytes(room[:4], "big") for room in rooms] == list(range(20))
    del arena


def test_a_child_has_an_arena_of_its_own() -> None:
    arena = process_arena()
    child = os.fork()
    if not child:
        os._exit(process_arena() is arena)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
