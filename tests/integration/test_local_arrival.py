"""The digest of a file whose ranges arrive in any order, from any thread."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from typing import TYPE_CHECKING

import pytest

from asyncstore._core.concurrency import for_each
from asyncstore.catalog._local._landing import Landing
from asyncstore.catalog._moving import _arrival
from asyncstore.catalog._moving._arrival import _RunningDigest
from asyncstore.catalog._moving._tally import FileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEP = 50_000
COUNT = 40
SIZE = COUNT * STEP - 123
DATA = os.urandom(SIZE)
DIGEST = hashlib.sha256(DATA).hexdigest()
PARTS = [(index * STEP, min((index + 1) * STEP, SIZE)) for index in range(COUNT)]


@pytest.fixture
def landing(tmp_path: Path) -> Iterator[Landing]:
    landing = Landing.open(os.path.realpath(tmp_path), "file", SIZE, '"e"', step=STEP)
    yield landing
    landing.discard()


def receive(landing: Landing, running: _RunningDigest, index: int, block_bytes: int) -> None:
    start, end = PARTS[index]
    for offset in range(start, end, block_bytes):
        block = memoryview(DATA)[offset : min(offset + block_bytes, end)]
        landing.write(block, offset)
        running.wrote(index, block, offset)


@pytest.mark.parametrize("at_once", [1, 2, 16])
@pytest.mark.parametrize("ahead", [0, 3, 100])
@pytest.mark.parametrize("block_bytes", [STEP, 3_000])
async def test_ranges_side_by_side(
    landing: Landing, monkeypatch: pytest.MonkeyPatch, at_once: int, ahead: int, block_bytes: int
) -> None:
    monkeypatch.setattr(_arrival, "RANGES_AHEAD", ahead)
    running = _RunningDigest(landing, PARTS)
    begun_ahead: list[int] = []

    async def fetch(index: int) -> None:
        await running.near(index)
        begun_ahead.append(index - running._index)
        # The order in which they arrive is another one than that in which they are asked for.
        await asyncio.sleep(random.uniform(0, 0.003))
        await asyncio.to_thread(receive, landing, running, index, block_bytes)
        await running.catch_up()

    async with asyncio.timeout(60):
        await for_each(fetch, range(COUNT), limit=at_once)
        await running.catch_up()
    assert running.hexdigest() == DIGEST
    assert max(begun_ahead) <= ahead


async def test_what_was_there_before(landing: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_arrival, "RANGES_AHEAD", 1)
    running = _RunningDigest(landing, PARTS)
    kept = {0, 1, 2, 10, 11, 30, COUNT - 1}
    for index in kept:
        start, end = PARTS[index]
        landing.write(DATA[start:end], start)
        running.landed(index, end)

    async def fetch(index: int) -> None:
        await running.near(index)
        await asyncio.to_thread(receive, landing, running, index, STEP)
        await running.catch_up()

    async with asyncio.timeout(60):
        await for_each(fetch, [index for index in range(COUNT) if index not in kept], limit=4)
        await running.catch_up()
    assert running.hexdigest() == DIGEST


async def test_blocks_in_order_are_hashed_without_being_read_again(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = _RunningDigest(landing, PARTS)
    monkeypatch.setattr(Landing, "hash_range", None)
    for index in range(COUNT):
        await asyncio.to_thread(receive, landing, running, index, 7_000)
        await running.catch_up()
    assert running.hexdigest() == DIGEST


async def test_a_file_cut_short_meanwhile_stops_those_that_wait(
    landing: Landing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_arrival, "RANGES_AHEAD", 1)
    running = _RunningDigest(landing, PARTS)

    def cut() -> None:
        [temp] = os.listdir(tmp_path)
        os.truncate(tmp_path / temp, STEP // 2)

    async def fetch(index: int) -> None:
        await running.near(index)
        if index == 0:
            await asyncio.sleep(0.01)
            await asyncio.to_thread(cut)
            running.landed(0, STEP)
        await running.catch_up()

    async with asyncio.timeout(10):
        with pytest.raises(FileError, match="cut short"):
            await for_each(fetch, range(COUNT), limit=8)
