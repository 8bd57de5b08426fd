"""
Writers cancelled wherever they can be: no task stays, nobody else is held up, and no late write undoes a later one.

Each write is cancelled at each of its own awaits, and at each of its requests: when the server has got it, and when
the server has acted on it. Requests of the cancelled writer are slow, so that they land after what comes later.
"""

from __future__ import annotations

import asyncio
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import RunLogExistsError
from asyncstore.models import FAIL, PROCESSING, SUCCESS, BranchLog, StepLog
from asyncstore.runlog.chunked import ChunkedS3RunLogStore
from asyncstore.runlog.document import S3RunLogStore
from asyncstore.testing.s3_stub import S3Stub
from tests._cancelling import Stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from asyncstore.runlog.base import RunLogStore
    from asyncstore.testing.s3_stub._messages import Request
    from asyncstore.testing.s3_stub._protocol import Reply

    Write = Callable[[RunLogStore, str], Coroutine[Any, Any, Any]]
    Read = Callable[[RunLogStore], Coroutine[Any, Any, Any]]

LAYOUTS: list[Any] = [ChunkedS3RunLogStore, S3RunLogStore]

DEADLINE_S = 60.0
"""After this a write is held up for ever; one that is not needs a fraction of a second."""

LATE_S = 0.04
"""How long the server takes over a request of the cancelled writer: half before and half after it acts."""


class NoticingStub(S3Stub):
    """Tells how many requests have come, and when all are answered."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way = 0
        self.changed = asyncio.Event()

    def accept(self, request: Request, reply: Reply) -> None:
        """Take note of a request and of its answer."""

        def replied(data: bytes, ends: bool) -> None:
            self.under_way -= 1
            self.changed.set()
            reply(data, ends)

        self.under_way += 1
        self.changed.set()
        super().accept(request, replied)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the requests holds."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()


@dataclass(frozen=True)
class Case:
    """A write of one value, and how to read it back."""

    write: Write
    read: Read
    prepare: Write | None = None
    """What writes a first value, so that there is something to replace."""
    by_another: bool = False
    """Whether that is another store's doing, of which the cancelled one knows nothing."""


async def add_step(store: RunLogStore, value: str) -> None:
    await store.add_step_log(StepLog(name="train", internal_name="train", message=value), "run")


async def add_nested_step(store: RunLogStore, value: str) -> None:
    inner = StepLog(name="inner", internal_name="train.a.inner")
    branch = BranchLog(internal_name="train.a", steps={"train.a.inner": inner}, parameters={"x": 1})
    step = StepLog(name="train", internal_name="train", message=value, branches={"train.a": branch})
    await store.add_step_log(step, "run")


async def read_step(store: RunLogStore) -> Any:
    return (await store.get_step_log("train", "run")).message


async def set_parameters(store: RunLogStore, value: str) -> None:
    await store.set_parameters("run", {f"key-{number}": value for number in range(5)})


async def read_parameters(store: RunLogStore) -> Any:
    parameters = await store.get_parameters("run")
    assert len(parameters) == 5
    [value] = set(parameters.values())
    return value


async def end_run(store: RunLogStore, value: str) -> None:
    await store.update_run_log_status("run", {"cancelled": SUCCESS, "later": FAIL}.get(value, PROCESSING))


async def go_on_after_the_end(store: RunLogStore, value: str) -> None:
    await store.update_run_log_status("run", SUCCESS if value == "cancelled" else PROCESSING)


async def read_status(store: RunLogStore) -> Any:
    header = await store.get_run_log_by_id("run", full=False)
    assert (await store.get_run_log_by_id("run")).status == header.status
    return {SUCCESS: "cancelled", FAIL: "later", PROCESSING: "later"}[header.status]


CASES = {
    "a new step": Case(add_step, read_step),
    "a new step with branches": Case(add_nested_step, read_step),
    "a step again": Case(add_step, read_step, add_step),
    "a step that another store has written": Case(add_step, read_step, add_step, by_another=True),
    "new parameters": Case(set_parameters, read_parameters),
    "parameters again": Case(set_parameters, read_parameters, set_parameters),
    "the end of the run": Case(end_run, read_status),
    "the end of a run that goes on": Case(go_on_after_the_end, read_status),
}


@dataclass(frozen=True)
class Moment:
    """When a writer is cancelled."""

    awaits: int = 0
    """At the nth of its own awaits, at once."""
    requests: int = 0
    """When the server has got the nth of its requests,"""
    acted: bool = False
    """and has acted on it, though not answered."""

    def next(self) -> Moment:
        """Return the moment after it, of its sort."""
        return replace(self, awaits=self.awaits + bool(self.awaits), requests=self.requests + bool(self.requests))


FIRST_MOMENTS = (Moment(awaits=1), Moment(requests=1), Moment(requests=1, acted=True))


class Scene:
    """A store whose writer is cancelled, and another store, on one server."""

    def __init__(self, stub: NoticingStub, store: RunLogStore, other: RunLogStore) -> None:
        self.stub = stub
        self.store = store
        self.other = other
        self._writer: asyncio.Task[None]

    async def cancel(self, write: Coroutine[Any, Any, Any], moment: Moment) -> bool:
        """Begin a write, whose requests are slow, and cancel it; tell whether it lasted until that moment."""
        self.stub.behaviour.latency_s = LATE_S
        before = self.stub.requests.total()
        stopping = Stopping(write, moment.awaits, lambda: self._writer.cancel())
        self._writer = asyncio.create_task(stopping.run())
        self._writer.add_done_callback(lambda _: self.stub.changed.set())
        if moment.awaits:
            await asyncio.wait([self._writer])
            reached = stopping.awaits >= moment.awaits
        else:
            await self.stub.until(lambda: self._writer.done() or self.stub.requests.total() - before >= moment.requests)
            await asyncio.wait([self._writer], timeout=0.75 * LATE_S if moment.acted else 0)
            reached = not self._writer.done()
            self._writer.cancel()
        # What comes later is answered at once, and overtakes what is under way.
        self.stub.behaviour.latency_s = 0
        return reached

    async def settle(self) -> None:
        """Wait until the cancelled writer and all its requests are through."""
        await asyncio.wait([self._writer])
        assert self._writer.cancelled() or self._writer.exception() is None
        await self.stub.until(lambda: self.stub.under_way == 0)


async def at_every_moment(layout: Any, attempt: Callable[[Scene, Moment], Coroutine[Any, Any, bool]]) -> int:
    """Let ``attempt`` cancel a writer at each moment until it says that there is none left; return how many it had."""
    count = 0
    async with NoticingStub() as stub:
        for moment in FIRST_MOMENTS:
            reached = True
            while reached:
                options = stub.make_bucket(f"bucket-{count}").options
                async with layout(**options) as store, layout(**options) as other, asyncio.timeout(DEADLINE_S):
                    # Asks what the server can do; the writes that follow are those that are meant.
                    await store.create_run_log("before")
                    reached = await attempt(Scene(stub, store, other), moment)
                assert asyncio.all_tasks() == {asyncio.current_task()}, moment
                moment = moment.next()
                count += 1
    return count


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_later_write_stands(layout: Any, case: str) -> None:
    write, read, prepare, by_another = astuple(CASES[case])

    async def attempt(scene: Scene, moment: Moment) -> bool:
        await scene.store.create_run_log("run")
        if prepare:
            await prepare(scene.other if by_another else scene.store, "first")
        reached = await scene.cancel(write(scene.store, "cancelled"), moment)
        await write(scene.store, "later")
        assert await read(scene.other) == "later", moment
        await scene.settle()
        assert [await read(scene.store), await read(scene.other)] == ["later", "later"], moment
        return reached

    assert await at_every_moment(layout, attempt) > len(FIRST_MOMENTS)


@pytest.mark.parametrize(
    ("layout", "case"),
    [(S3RunLogStore, "a new step"), (S3RunLogStore, "a step again"), (ChunkedS3RunLogStore, "a new step")],
)
async def test_a_later_write_of_another_stands_where_the_server_can_tell(layout: Any, case: str) -> None:
    write, read, prepare, _ = astuple(CASES[case])

    async def attempt(scene: Scene, moment: Moment) -> bool:
        await scene.store.create_run_log("run")
        if prepare:
            await prepare(scene.store, "first")
        reached = await scene.cancel(write(scene.store, "cancelled"), moment)
        await asyncio.sleep(0)
        await write(scene.other, "later")
        await scene.settle()
        await scene.store.aclose()
        # A conditional write under way is refused, and there is nobody left for whom to make it again.
        assert await read(scene.other) == "later", moment
        return reached

    assert await at_every_moment(layout, attempt) > len(FIRST_MOMENTS)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_nobody_who_writes_the_same_meanwhile_is_held_up(layout: Any, case: str) -> None:
    write, read, prepare, by_another = astuple(CASES[case])

    async def attempt(scene: Scene, moment: Moment) -> bool:
        await scene.store.create_run_log("run")
        if prepare:
            await prepare(scene.other if by_another else scene.store, "first")
        async with asyncio.TaskGroup() as group:
            cancelling = group.create_task(scene.cancel(write(scene.store, "cancelled"), moment))
            await asyncio.sleep(0)
            group.create_task(write(scene.store, "later"))
            group.create_task(write(scene.other, "later"))
        await scene.settle()
        found = await read(scene.store)
        assert found == await read(scene.other) in {"later", "cancelled"}, moment
        return cancelling.result()

    assert await at_every_moment(layout, attempt) > len(FIRST_MOMENTS)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_run_whose_creator_was_cancelled_is_there_whole_or_not_at_all(layout: Any) -> None:
    async def attempt(scene: Scene, moment: Moment) -> bool:
        reached = await scene.cancel(scene.store.create_run_log("run", tag="cancelled"), moment)
        try:
            await scene.store.create_run_log("run", tag="later")
        except RunLogExistsError:
            winner = "cancelled"
        else:
            winner = "later"
        await scene.store.add_step_log(StepLog(name="train", internal_name="train"), "run")
        await scene.settle()
        for store in (scene.store, scene.other):
            run_log = await store.get_run_log_by_id("run")
            assert (run_log.tag, list(run_log.steps)) == (winner, ["train"]), moment
        return reached

    assert await at_every_moment(layout, attempt) > len(FIRST_MOMENTS)
