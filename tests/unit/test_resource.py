from __future__ import annotations

import asyncio
import multiprocessing
import os
from typing import TYPE_CHECKING

import pytest

from asyncstore._core.resource import Resource
from asyncstore.errors import ClosedError

if TYPE_CHECKING:
    from contextlib import AsyncExitStack


class Recorded(Resource):
    """A resource that notes what happens to it."""

    def __init__(self, failing: Exception | None = None) -> None:
        super().__init__()
        self.events: list[str] = []
        self._failing = failing

    async def _open(self, stack: AsyncExitStack) -> None:
        for name in ("first", "second"):
            self.events.append(f"open {name}")
            stack.callback(self.events.append, f"close {name}")
        await asyncio.sleep(0)
        if self._failing is not None:
            raise self._failing

    def use(self) -> None:
        self._check_open()


WHOLE_LIFE = ["open first", "open second", "close second", "close first"]


async def test_it_is_opened_and_closed_in_reverse() -> None:
    resource = Recorded()
    assert "new" in repr(resource)
    async with resource as entered:
        assert entered is resource
        assert "open" in repr(resource)
        resource.use()
    assert resource.events == WHOLE_LIFE
    assert "closed" in repr(resource)


async def test_opening_and_closing_twice_is_once() -> None:
    resource = Recorded()
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(resource.open())
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(resource.aclose())
    assert resource.events == WHOLE_LIFE


async def test_it_is_of_use_only_while_open() -> None:
    resource = Recorded()
    with pytest.raises(ClosedError, match="async with"):
        resource.use()
    await resource.open()
    await resource.aclose()
    with pytest.raises(ClosedError, match="closed"):
        resource.use()
    with pytest.raises(ClosedError, match="closed"):
        await resource.open()


async def test_what_half_opened_is_closed_and_may_be_opened_again() -> None:
    resource = Recorded(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await resource.open()
    assert resource.events == WHOLE_LIFE
    resource._failing = None
    async with resource:
        resource.use()


async def test_an_opening_that_is_cancelled_is_undone() -> None:
    resource = Recorded()
    opening = asyncio.create_task(resource.open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert resource.events == WHOLE_LIFE


async def test_an_opening_that_is_overtaken_by_closing_is_undone() -> None:
    resource = Recorded()
    opening = asyncio.create_task(resource.open())
    await asyncio.sleep(0)
    await resource.aclose()
    with pytest.raises(ClosedError, match="while it was being opened"):
        await opening
    assert resource.events == WHOLE_LIFE


async def test_it_belongs_to_its_loop() -> None:
    async def use() -> None:
        resource.use()

    async with Recorded() as resource:
        with pytest.raises(ClosedError, match="event loop"):
            await asyncio.to_thread(asyncio.run, use())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_it_belongs_to_its_process() -> None:
    resource = await Recorded().open()
    loop = asyncio.get_running_loop()

    def in_child() -> None:
        asyncio._set_running_loop(loop)
        try:
            resource.use()
        except ClosedError as error:
            os._exit(0 if "fork" in str(error) else 2)
        os._exit(1)

    child = multiprocessing.get_context("fork").Process(target=in_child)
    child.start()
    await asyncio.to_thread(child.join)
    assert child.exitcode == 0
    await resource.aclose()
