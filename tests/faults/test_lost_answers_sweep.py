"""
Each request of a whole run goes wrong in each way: the log is the clean one, and nobody is told of a false conflict.

The short form takes every so many requests, another share of them for each way; the full form takes them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import stamina

from asyncstore.models import PROCESSING, SUCCESS, StepAttempt
from asyncstore.runlog.chunked import ChunkedS3RunLogStore
from asyncstore.runlog.document import S3RunLogStore
from asyncstore.testing.s3_stub import Behaviour, Fault, S3Stub
from tests._processes import FULL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncstore.models import RunLog
    from asyncstore.runlog.base import RunLogStore
    from asyncstore.testing.s3_stub import Action

STEPS = 50
SHARE = 1 if FULL else 37
"""Of how many requests one is taken."""

LAYOUTS: list[Any] = [ChunkedS3RunLogStore, S3RunLogStore]

WAYS: dict[str, Sequence[Action]] = {
    "the answer is lost after the server has stored": ["lose_answer"],
    "the answers to two requests in a row are lost": ["lose_answer", "lose_answer"],
    "the request is lost": ["lose_request"],
    "the request is lost and then the answer": ["lose_request", "lose_answer"],
    "the answer is lost and then the request": ["lose_answer", "lose_request"],
    "the connection ends in the middle of the answer": ["truncate"],
    "500 although the server has stored": ["error_after"],
    "500 twice although the server has stored": ["error_after", "error_after"],
    "500 after an answer that was lost": ["lose_answer", "internal_error"],
    "503": ["slow_down"],
    "409": ["conflict"],
    "409 after an answer that was lost": ["lose_answer", "conflict"],
}


@pytest.fixture(autouse=True)
def no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=6, cap=True):
        yield


async def record(store: RunLogStore) -> RunLog:
    """Record a run as an orchestrator does, and read it while it runs and after its end."""
    await store.create_run_log("run", dag_hash="abc", tag="lossy")
    await store.update_run_log_status("run", PROCESSING)
    await store.set_run_config("run", {"executor": "local"})
    for number in range(STEPS):
        step = store.create_step_log(f"s{number}", f"s{number}")
        step.status = PROCESSING
        if number % 2:
            step.attempts.append(StepAttempt(attempt_number=number, status=SUCCESS, message="done"))
            step.user_defined_metrics = {"loss": number / 7, "name": f"s{number}"}
        await store.add_step_log(step, "run")
        if number % 10 == 0:
            step.status = SUCCESS
            await store.add_step_log(step, "run")
        if number % 16 == 0:
            await store.add_branch_log(store.create_branch_log(f"s{number}.a"), "run")
            await store.add_step_log(store.create_step_log("inner", f"s{number}.a.inner"), "run")
            await store.set_parameters("run", {"x": number}, f"s{number}.a")
        if number % 20 == 0:
            await store.set_parameters("run", {f"p{number}": number, "last": number, "list": [number]})
    live = await store.get_run_log_by_id("run")
    await store.update_run_log_status("run", SUCCESS)
    assert live.status == PROCESSING
    return await store.get_run_log_by_id("run")


async def record_with(stub: S3Stub, layout: Any, bucket: str, faults: Sequence[Fault]) -> list[RunLog]:
    """Record in a new bucket, so that what the store asks of a server it does not know goes wrong too."""
    options = stub.make_bucket(bucket).options
    stub.reset()
    stub.faults = faults
    async with layout(**options) as store:
        told = await record(store)
        stub.faults = []
        async with layout(**options) as reader:
            return [told, await store.get_run_log_by_id("run"), await reader.get_run_log_by_id("run")]


async def check_every_request(stub: S3Stub, layout: Any, way: str) -> None:
    [expected, *others] = await record_with(stub, layout, "clean", [])
    assert others == [expected, expected]
    requests = stub.requests.total()
    assert len(expected.steps) == STEPS < requests
    for number in range(1 + list(WAYS).index(way) % SHARE, requests + 1, SHARE):
        faults = [Fault(action, nth=number + later) for later, action in enumerate(WAYS[way])]
        found = await record_with(stub, layout, f"bucket-{number}", faults)
        assert found == [expected] * 3, f"{way}: at request {number} of {requests}"


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_whatever_request_goes_wrong_the_log_is_the_same(layout: Any, way: str) -> None:
    async with S3Stub() as stub:
        await check_every_request(stub, layout, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", list(WAYS)[:3])
async def test_whatever_request_goes_wrong_where_conditions_are_ignored(way: str) -> None:
    async with S3Stub(behaviour=Behaviour(ignores_conditions=True)) as stub:
        await check_every_request(stub, ChunkedS3RunLogStore, way)
