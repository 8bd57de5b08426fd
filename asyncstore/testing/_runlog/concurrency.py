"""Many writers at once, and writers that are cancelled."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from asyncstore.models import FAIL, PROCESSING, SUCCESS
from asyncstore.testing._runlog.base import RUN, RunLogSuite, branch, step

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.runlog.base import RunLogStore

__all__ = ["CancellationSuite", "ConcurrencySuite"]

WRITERS = 64


class ConcurrencySuite(RunLogSuite):
    """Writers of different fragments never disturb each other."""

    async def test_many_adders_lose_nothing(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)

        async def add(writer: int) -> None:
            for number in range(3):
                await store.add_step_log(step(f"step-{writer}-{number}", message=f"{writer}"), RUN)

        async with asyncio.TaskGroup() as group:
            for writer in range(WRITERS):
                group.create_task(add(writer))
        read = await another.get_run_log_by_id(RUN)
        names = [f"step-{writer}-{number}" for writer in range(WRITERS) for number in range(3)]
        assert sorted(read.steps) == sorted(names)
        for writer in range(WRITERS):
            own = [name for name in read.steps if name.startswith(f"step-{writer}-")]
            assert own == [f"step-{writer}-{number}" for number in range(3)]
            assert {read.steps[name].message for name in own} == {f"{writer}"}

    async def test_many_adders_in_separate_stores(self, make_store: Callable[[], RunLogStore]) -> None:
        if not self.shared:
            pytest.skip("store objects share no data")
        async with AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(make_store()) for _ in range(4)]
            await stores[0].create_run_log(RUN)
            async with asyncio.TaskGroup() as group:
                for writer in range(WRITERS):
                    group.create_task(stores[writer % 4].add_step_log(step(f"step-{writer}"), RUN))
                    group.create_task(stores[writer % 4].set_parameters(RUN, {f"key-{writer}": writer}))
            for store in stores:
                read = await store.get_run_log_by_id(RUN)
                assert set(read.steps) == {f"step-{writer}" for writer in range(WRITERS)}
                assert read.parameters == {f"key-{writer}": writer for writer in range(WRITERS)}

    async def test_parts_of_every_kind_at_once(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        await store.add_step_log(step("fan"), RUN)

        async def one_branch(number: int) -> None:
            name = f"fan.{number}"
            await store.add_branch_log(branch(name, status=PROCESSING), RUN)
            async with asyncio.TaskGroup() as group:
                group.create_task(store.add_step_log(step("train", name), RUN))
                group.create_task(store.set_parameters(RUN, {"number": number}, name))
                group.create_task(store.set_run_config(RUN, {name: number}))
            await store.add_branch_log(branch(name), RUN)

        async with asyncio.TaskGroup() as group:
            for number in range(16):
                group.create_task(one_branch(number))
        read = await another.get_run_log_by_id(RUN)
        assert read.run_config == {f"fan.{number}": number for number in range(16)}
        assert {name: item.parameters for name, item in read.steps["fan"].branches.items()} == {
            f"fan.{number}": {"number": number} for number in range(16)
        }
        for name, item in read.steps["fan"].branches.items():
            assert (item.status, list(item.steps)) == (SUCCESS, [f"{name}.train"])

    async def test_many_writers_of_one_step(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        versions = [step("train", message=f"{number}" * 1000) for number in range(16)]
        async with asyncio.TaskGroup() as group:
            for number, version in enumerate(versions):
                group.create_task((another if number % 2 else store).add_step_log(version, RUN))
        assert await store.get_step_log("train", RUN) in versions
        await another.add_step_log(step("train", message="last"), RUN)
        assert (await store.get_step_log("train", RUN)).message == "last"

    async def test_readers_among_writers_see_whole_parts(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)

        async def write() -> None:
            for number in range(20):
                await store.add_step_log(step("train", message=f"{number}", extra=[number] * 500), RUN)
                await store.add_step_log(step(f"step-{number}"), RUN)

        async def read() -> None:
            while not writing.done():
                run_log = await another.get_run_log_by_id(RUN)
                for item in run_log.steps.values():
                    if item.name == "train":
                        assert item == step("train", message=item.message, extra=[int(item.message)] * 500)

        async with asyncio.TaskGroup() as group:
            writing = group.create_task(write())
            group.create_task(read())

    async def test_many_runs_at_once(self, store: RunLogStore, another: RunLogStore) -> None:
        async def one_run(run_id: str) -> None:
            await store.create_run_log(run_id)
            await store.add_step_log(step("train", message=run_id), run_id)
            await store.update_run_log_status(run_id, FAIL)

        ids = [f"run-{number}" for number in range(16)]
        async with asyncio.TaskGroup() as group:
            for run_id in ids:
                group.create_task(one_run(run_id))
        for run_id in ids:
            read = await another.get_run_log_by_id(run_id)
            assert (read.status, read.steps) == (FAIL, {"train": step("train", message=run_id)})


class CancellationSuite(RunLogSuite):
    """A cancelled caller leaves every part old or new, whole, and the store of use."""

    async def test_a_cancelled_writer(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        current = step("train", message="0")
        await store.add_step_log(current, RUN)
        for turns in range(25):
            newer = step("train", message=f"{turns}", extra=[turns] * 500)
            writing = asyncio.create_task(store.add_step_log(newer, RUN))
            for _ in range(turns):
                await asyncio.sleep(0)
            writing.cancel()
            await asyncio.wait([writing])
            seen = await another.get_step_log("train", RUN)
            assert seen in (current, newer)
            # What was on its way may still land; once this write is acknowledged it stands.
            current = step("train", message=f"acknowledged {turns}")
            await store.add_step_log(current, RUN)
            assert await another.get_step_log("train", RUN) == current

    async def test_one_of_many_writers_is_cancelled(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        writers = {
            name: asyncio.create_task(store.add_step_log(step(name), RUN))
            for name in (f"step-{number}" for number in range(30))
        }
        await asyncio.sleep(0)
        victims = list(writers)[::3]
        for name in victims:
            writers[name].cancel()
        await asyncio.wait(writers.values())
        steps = (await another.get_run_log_by_id(RUN)).steps
        assert set(writers) - set(victims) <= set(steps) <= set(writers)
        assert all(steps[name] == step(name) for name in steps)

    async def test_cancelled_readers_and_creators(self, store: RunLogStore, another: RunLogStore) -> None:
        await store.create_run_log(RUN)
        await store.add_step_log(step("train"), RUN)
        for turns in range(10):
            tasks = [
                asyncio.create_task(store.get_run_log_by_id(RUN)),
                asyncio.create_task(store.create_run_log(f"new-{turns}")),
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if not tasks[1].cancelled() and tasks[1].exception() is None:
                assert (await another.get_run_log_by_id(f"new-{turns}")).run_id == f"new-{turns}"
        assert (await store.get_run_log_by_id(RUN)).steps == {"train": step("train")}
