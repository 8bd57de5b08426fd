"""Answers lost after the server has stored: nothing is lost, doubled, or reported as somebody else's."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import stamina

from asyncstore._core.retry import RetryPolicy
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import AlreadyExistsError, OutcomeUnknownError, RunLogExistsError
from asyncstore.objects.base import NEW, Condition
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.runlog.chunked import ChunkedS3RunLogStore
from asyncstore.runlog.document import S3RunLogStore
from asyncstore.testing.proxy import lossy_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.testing.servers import Bucket

LAYOUTS: list[Any] = [ChunkedS3RunLogStore, S3RunLogStore]


@pytest.fixture(autouse=True)
def no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=6, cap=True):
        yield


def is_number(wanted: int, number: int, _: str) -> bool:
    return number == wanted


async def record(store: Any) -> None:
    await store.create_run_log("run", tag="lossy")
    for number in range(5):
        await store.add_step_log(store.create_step_log(f"s{number}", f"s{number}"), "run")
    await store.set_parameters("run", {"a": 1, "b": 2})
    await store.update_run_log_status("run", "SUCCESS")


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_losing_any_one_answer_changes_nothing(layout: Any, moto_bucket: Bucket) -> None:
    async with layout(**moto_bucket.options, prefix="clean") as clean:
        await record(clean)
        expected = await clean.get_run_log_by_id("run")
    lost = 1
    while True:
        async with lossy_proxy(moto_bucket.server.endpoint_url, partial(is_number, lost)) as proxy:
            options = {**moto_bucket.options, "endpoint_url": proxy.url, "prefix": f"lost-{lost}"}
            async with layout(**options) as store:
                await record(store)
                assert await store.get_run_log_by_id("run") == expected, f"answer {lost} was lost"
            if len(proxy.requests) < lost:
                break
        lost += 1
    assert lost > 10


async def test_a_create_whose_answer_was_lost_is_not_reported_as_existing(moto_bucket: Bucket) -> None:
    settings = AwsSettings(endpoint_url=moto_bucket.server.endpoint_url)
    async with (
        lossy_proxy(moto_bucket.server.endpoint_url, lambda number, _: number == 1) as proxy,
        S3ObjectStore(moto_bucket.name, AwsSettings(endpoint_url=proxy.url)) as store,
    ):
        etag = await store.put("key", b"mine", condition=NEW)
        with pytest.raises(AlreadyExistsError):
            await store.put("key", b"other", condition=NEW)
    async with S3ObjectStore(moto_bucket.name, settings) as direct:
        meta, data = await direct.get("key")
    assert (meta.etag, data) == (etag, b"mine")


async def test_a_run_that_exists_is_still_reported_when_answers_are_lost(moto_bucket: Bucket) -> None:
    async with ChunkedS3RunLogStore(**moto_bucket.options) as store:
        await store.create_run_log("run")
    lossy = lossy_proxy(moto_bucket.server.endpoint_url, lambda number, line: number % 2 == 1 and "PUT" in line)
    async with lossy as proxy, ChunkedS3RunLogStore(**{**moto_bucket.options, "endpoint_url": proxy.url}) as store:
        with pytest.raises(RunLogExistsError):
            await store.create_run_log("run")


async def test_when_every_answer_is_lost_the_outcome_is_unknown_and_the_key_named(moto_bucket: Bucket) -> None:
    async with lossy_proxy(moto_bucket.server.endpoint_url, lambda number, _: True) as proxy:
        settings = AwsSettings(endpoint_url=proxy.url)
        async with S3ObjectStore(moto_bucket.name, settings, retry=RetryPolicy(attempts=2)) as store:
            with pytest.raises(OutcomeUnknownError) as caught:
                await store.put("some/key", b"data", condition=Condition(create=True))
    assert caught.value.key == "some/key"
