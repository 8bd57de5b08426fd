from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from asyncstore._core.concurrency import for_each, map_bounded, shielded

if TYPE_CHECKING:
    from collections.abc import Iterator


class Gauge:
    """Counts how many are inside at a time."""

    def __init__(self) -> None:
        self.inside = self.most = self.done = 0

    async def work(self, _: object = None) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(0)
        finally:
            self.inside -= 1
        self.done += 1


class TestForEach:
    @pytest.mark.parametrize(("limit", "items", "most"), [(4, 20, 4), (8, 3, 3), (1, 5, 1), (4, 0, 0)])
    async def test_at_most_so_many_at_a_time(self, limit: int, items: int, most: int) -> None:
        gauge = Gauge()
        await for_each(gauge.work, range(items), limit=limit)
        assert (gauge.most, gauge.done) == (most, items)

    async def test_items_are_pulled_as_workers_come_free(self) -> None:
        pulled = 0

        def items() -> Iterator[int]:
            nonlocal pulled
            for number in range(100):
                pulled += 1
                yield number

        async def work(number: int) -> None:
            assert pulled <= number + 4
            await asyncio.sleep(0)

        await for_each(work, items(), limit=4)

    async def test_the_first_failure_is_raised_itself_and_stops_the_rest(self) -> None:
        cancelled: list[int] = []
        started: list[int] = []

        async def work(number: int) -> None:
            started.append(number)
            if number == 3:
                raise ValueError("third")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(number)
                raise

        with pytest.raises(ValueError, match="third"):
            await for_each(work, range(1000), limit=4)
        assert (started, sorted(cancelled)) == ([0, 1, 2, 3], [0, 1, 2])

    async def test_a_cancelled_caller_leaves_no_worker(self) -> None:
        gauge = Gauge()

        async def work(_: int) -> None:
            await gauge.work()
            await asyncio.Event().wait()

        caller = asyncio.create_task(for_each(work, range(10), limit=3))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_a_failure_of_the_items_is_raised(self) -> None:
        def items() -> Iterator[int]:
            yield 1
            raise OSError("the list ends here")

        with pytest.raises(OSError, match="ends here"):
            await for_each(Gauge().work, items(), limit=2)


class TestMapBounded:
    async def test_results_are_in_the_order_of_the_items(self) -> None:
        async def work(number: int) -> int:
            for _ in range(10 - number):
                await asyncio.sleep(0)
            return number * 2

        assert await map_bounded(work, range(10), limit=4) == [number * 2 for number in range(10)]
        assert await map_bounded(work, [], limit=4) == []
        assert await map_bounded(work, [7], limit=4) == [14]

    async def test_a_failure_is_raised_itself(self) -> None:
        async def work(number: int) -> int:
            return 10 // number

        with pytest.raises(ZeroDivisionError):
            await map_bounded(work, [1, 0, 2], limit=2)


class TestShielded:
    async def test_it_ends_though_the_caller_is_cancelled(self) -> None:
        steps: list[str] = []
        go_on = asyncio.Event()

        async def cleanup() -> None:
            steps.append("begun")
            await go_on.wait()
            steps.append("ended")

        caller = asyncio.create_task(shielded(cleanup()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert steps == ["begun", "ended"]

    async def test_its_error_is_raised(self) -> None:
        async def cleanup() -> None:
            raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            await shielded(cleanup())

    async def test_it_has_a_deadline(self) -> None:
        async def cleanup() -> None:
            await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            await shielded(cleanup(), deadline_s=0.01)
