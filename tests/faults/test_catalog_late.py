"""What cancelled transfers of the catalog leave under way: it holds nobody up, and changes nothing that comes later."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore._core.traffic import Window
from asyncstore.catalog import S3Catalog
from asyncstore.catalog._local._landing import Landing
from asyncstore.errors import AsyncStoreError
from asyncstore.testing.s3_stub import Fault
from tests._catalog_scenes import DEADLINE_S, LIMITS, SMALL, StubScene, stub_scene, threads_at_rest
from tests._catalog_trees import digests_in, make_tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from asyncstore.testing.s3_stub._messages import Request

SOON_S = 10.0
"""Far less than anybody's patience with a server, and far more than a call takes to end without asking one."""


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[StubScene]:
    async with stub_scene(tmp_path) as scene:
        yield scene


async def test_what_arrives_for_a_cancelled_get_replaces_nothing_that_came_later(scene: StubScene) -> None:
    other = scene.folder / "other"
    later = make_tree(other, small=SMALL, seed=1)
    await scene.catalog.put("**", "later", local_folder=other)
    target = scene.target(0)
    scene.stub.behaviour.latency_s = 0.2
    getting = asyncio.create_task(scene.catalog.get("**", "source", local_folder=target))
    await scene.stub.asked("GetObject")
    # All that can be asked for at a time is on its way.
    while scene.stub.answering["GetObject"] < LIMITS["max_concurrency"]:
        await scene.stub.asked("GetObject")
    getting.cancel()
    await asyncio.wait([getting])
    scene.stub.behaviour.latency_s = 0.0
    await scene.catalog.get("**", "later", local_folder=target)
    assert digests_in(target) == later
    await scene.quiet()
    await threads_at_rest()
    assert digests_in(target) == later


async def test_a_server_that_stalls_does_not_hold_up_who_is_cancelled(scene: StubScene) -> None:
    stub = scene.stub

    def stall(request: Request) -> None:
        if request.operation == "UploadPart":
            stub.faults = [Fault(do="stall")]

    stub.answer = stall
    putting = asyncio.create_task(scene.catalog.put("**", "run", local_folder=scene.source))
    await stub.asked("UploadPart")
    putting.cancel()
    # The abort is not answered either, and is left to whoever puts the file next, or to the sweep.
    await asyncio.wait([putting], timeout=SOON_S)
    assert putting.done()
    assert putting.cancelled()
    stub.answer = lambda _: None
    stub.faults = []
    async with S3Catalog(**scene.options) as other:
        await other.put("**", "run", local_folder=scene.source)
    assert await scene.all_in("run") == scene.wanted
    assert not scene.content.uploads


def test_a_late_block_of_a_large_file_goes_to_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    landing = Landing.open(str(tmp_path), "large", 100, '"etag"', step=100)
    write, inside, go_on = os.pwrite, threading.Event(), threading.Event()

    def write_late(descriptor: int, data: bytes, offset: int) -> int:
        inside.set()
        go_on.wait()
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", write_late)
    outcomes: list[BaseException | None] = []
    late = threading.Thread(target=lambda: outcomes.append(raised_by(landing.write, b"late", 0)))
    late.start()
    inside.wait()
    leaving = threading.Thread(target=landing.discard)
    leaving.start()
    # Either it is over now, or it waits for the other one.
    leaving.join(0.2)
    others = [tmp_path / f"other-{number}" for number in range(8)]
    with contextlib.ExitStack() as stack:
        # One of them has the large file's number.
        for other in others:
            stack.enter_context(other.open("wb"))
        go_on.set()
        late.join()
        leaving.join()
    assert outcomes
    assert [other.read_bytes() for other in others] == [b""] * len(others)
    assert set(tmp_path.iterdir()) == set(others)


def raised_by(call: Callable[..., object], *arguments: Any) -> BaseException | None:
    """Return what a call raises."""
    try:
        call(*arguments)
    except AsyncStoreError as error:
        return error
    return None


@pytest.mark.parametrize("several", [False, True])
async def test_a_turn_does_not_come_to_one_who_has_just_been_cancelled(several: bool) -> None:
    window = Window(1)
    over = asyncio.Event()

    async def hold() -> None:
        async with window.several(3) if several else window.request():
            await over.wait()

    async with asyncio.timeout(DEADLINE_S):
        tasks = [asyncio.create_task(hold()) for _ in range(3)]
        await asyncio.sleep(0)
        # The first one gives its turn up in the same round in which the second one is cancelled.
        for task in tasks[:2]:
            task.cancel()
        await asyncio.wait(tasks[:2])
        over.set()
        await asyncio.wait(tasks[2:], timeout=1)
        ends = [task.cancelled() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert ends == [True, True, False]
    assert (window._taken, len(window._waiting)) == (0, 0)
