"""
Transfers of the catalog cancelled wherever they can be: they end at once, and leave nothing but whole files behind.

Each is cancelled at the awaits of its tasks, and when the server has got one of its requests or has acted on it. Then
nothing of it may run, nothing may be open or half-written, nothing that limits others may be held, and what is called
next on the same catalog must find everything in order.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests._catalog_scenes import DEADLINE_S, FolderScene, Scene, StubScene, check_given_back, folder_scene, stub_scene
from tests._catalog_trees import digests_in
from tests._every_await import cancelled_at_any
from tests._processes import FULL, short_or_full, tell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from asyncstore.testing.s3_stub._messages import Request
    from tests._watched import WatchedStub

LAYOUTS = ["plain", "packed"] if FULL else ["plain"]


@pytest.fixture(params=LAYOUTS)
async def on_s3(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StubScene]:
    async with stub_scene(tmp_path, request.param) as scene:
        yield scene


@pytest.fixture
async def in_folder(tmp_path: Path) -> AsyncIterator[FolderScene]:
    async with folder_scene(tmp_path) as scene:
        yield scene


# What is cancelled, and how to see that it left everything whole.


@dataclass(frozen=True)
class Case:
    work: Callable[[Scene, int], Coroutine[Any, Any, Any]]
    check: Callable[[Scene, int], Coroutine[Any, Any, Any]]
    """Checks what a call that was cancelled has left, makes it again, checks that, and clears up."""
    prepare: Callable[[Scene, int], Coroutine[Any, Any, Any]] | None = None


def run_of(nth: int) -> str:
    return f"run-{nth}"


async def put(scene: Scene, nth: int) -> None:
    await scene.catalog.put("**", run_of(nth), local_folder=scene.source)


async def put_again(scene: Scene, nth: int) -> None:
    await scene.check_run(run_of(nth))
    await put(scene, nth)
    assert await scene.all_in(run_of(nth)) == scene.wanted
    await scene.drop(run_of(nth))


async def get(scene: Scene, nth: int) -> None:
    await scene.catalog.get("**", "source", local_folder=scene.target(nth))


async def get_again(scene: Scene, nth: int) -> None:
    arrived = digests_in(scene.target(nth))
    assert arrived.items() <= scene.wanted.items()
    await get(scene, nth)
    assert digests_in(scene.target(nth)) == scene.wanted
    shutil.rmtree(scene.target(nth))


async def sync(scene: Scene, nth: int) -> None:
    await scene.catalog.sync_between_runs("source", run_of(nth))


async def sync_again(scene: Scene, nth: int) -> None:
    await scene.check_run(run_of(nth))
    await sync(scene, nth)
    assert await scene.all_in(run_of(nth)) == scene.wanted
    await scene.drop(run_of(nth))


async def delete(scene: Scene, nth: int) -> None:
    await scene.drop(run_of(nth))


async def delete_again(scene: Scene, nth: int) -> None:
    await scene.check_run(run_of(nth))
    await delete(scene, nth)
    assert [entry async for entry in scene.catalog.list(run_of(nth))] == []


async def read(scene: Scene, nth: int) -> None:
    found = {entry.name.removeprefix("data/"): entry.data_hash async for entry in scene.catalog.list("source")}
    assert found == scene.wanted


async def verify(scene: Scene, nth: int) -> None:
    report = await scene.catalog.verify("source")
    assert report.ok
    assert len(report.verified) + len(report.unverifiable) == len(scene.wanted)


async def plan_put(scene: Scene, nth: int) -> None:
    plan = await scene.catalog.put("**", "source", local_folder=scene.source, dry_run=True)
    assert plan.counts() == {"skip": len(scene.wanted)}


async def plan_get(scene: Scene, nth: int) -> None:
    plan = await scene.catalog.get("**", "source", local_folder=scene.source, dry_run=True)
    assert plan.counts() == {"skip": len(scene.wanted)}


async def plan_sync(scene: Scene, nth: int) -> None:
    plan = await scene.catalog.sync_between_runs("source", "source-2", dry_run=True)
    assert plan.counts() == {"copy": len(scene.wanted)}


CASES = {
    "put": Case(put, put_again),
    "get": Case(get, get_again),
    "sync": Case(sync, sync_again),
    "delete": Case(delete, delete_again, prepare=sync),
    "list": Case(read, read),
    "verify": Case(verify, verify),
    "plan a put": Case(plan_put, plan_put),
    "plan a get": Case(plan_get, plan_get),
    "plan a sync": Case(plan_sync, plan_sync),
}


async def check_cancelled(
    scene: Scene, case: Case, cancel: Callable[[int, Any], Coroutine[Any, Any, Any]], stride: int
) -> tuple[int, float]:
    """Cancel a call at each ``stride``-th moment; return the last moment, and how long an end took at most."""
    nth, reached, longest_s = 1, True, 0.0
    while reached:
        async with asyncio.timeout(DEADLINE_S):
            if case.prepare is not None:
                await case.prepare(scene, nth)
            with scene.slow():
                reached, task, took_s = await cancel(nth, case.work(scene, nth))
            assert task.cancelled() or task.exception() is None, (nth, task)
            longest_s = max(longest_s, took_s)
            await check_given_back(scene)
            await case.check(scene, nth)
        nth += stride
    return nth - stride, longest_s


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
async def test_on_s3_at_every_await(on_s3: StubScene, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    moments, longest_s = await check_cancelled(on_s3, CASES[case], cancelled_at_any, short_or_full(23, 1))
    tell(capsys, f"{on_s3}, {case}: {moments} awaits, cancelled within {longest_s * 1000:.0f} ms at most")
    assert moments > 1


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
async def test_in_a_folder_at_every_await(
    in_folder: FolderScene, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    moments, longest_s = await check_cancelled(in_folder, CASES[case], cancelled_at_any, short_or_full(23, 1))
    tell(capsys, f"folder, {case}: {moments} awaits, cancelled within {longest_s * 1000:.0f} ms at most")
    assert moments > 1


@pytest.mark.slow
@pytest.mark.parametrize("acted", [False, True], ids=["asked", "acted"])
@pytest.mark.parametrize("case", CASES)
async def test_on_s3_at_every_request(
    on_s3: StubScene, case: str, acted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    cancel = partial(cancelled_at_request, on_s3.stub, acted)
    moments, longest_s = await check_cancelled(on_s3, CASES[case], cancel, short_or_full(7, 1))
    tell(capsys, f"{on_s3}, {case}: {moments} requests, cancelled within {longest_s * 1000:.0f} ms at most")
    assert moments >= 1


async def cancelled_at_request(
    stub: WatchedStub, acted: bool, nth: int, coroutine: Coroutine[Any, Any, Any]
) -> tuple[bool, asyncio.Task[Any], float]:
    """Cancel a call when the server has got its nth request, or has ``acted`` on so many; see `cancelled_at_any`."""
    loop = asyncio.get_running_loop()
    count, stopped_at = 0, 0.0

    def note(_: Request) -> None:
        nonlocal count, stopped_at
        count += 1
        if count == nth:
            stopped_at = loop.time()
            task.cancel()

    def got(request: Request) -> None:
        note(request)

    usual = stub.answer, stub.after
    if acted:
        stub.after = note
    else:
        stub.answer = got
    task = loop.create_task(coroutine)
    await asyncio.wait([task])
    stub.answer, stub.after = usual
    return bool(stopped_at), task, loop.time() - stopped_at if stopped_at else 0.0


@pytest.mark.slow
@pytest.mark.parametrize("case", ["put", "get", "sync"])
async def test_on_s3_again_and_again(on_s3: StubScene, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    cancel = partial(cancelled_at_any, again_s=0.002)
    moments, longest_s = await check_cancelled(on_s3, CASES[case], cancel, short_or_full(29, 1))
    tell(
        capsys,
        f"{on_s3}, {case}: {moments} awaits, cancelled again and again, over in {longest_s * 1000:.0f} ms at most",
    )
    assert moments > 1
