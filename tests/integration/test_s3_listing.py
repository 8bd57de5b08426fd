"""Everything under a prefix, listed by ranges of keys: each object once, in order, also where nothing is in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncstore._core.concurrency import map_bounded
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import UnavailableError
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.testing.s3_stub._messages import Answer
from asyncstore.testing.s3_stub._xml import document

if TYPE_CHECKING:
    from asyncstore.testing.s3_stub._messages import Request
    from asyncstore.testing.servers import Bucket
    from tests._watched import WatchedStub

KEYS = [f"run/{number:04d}" for number in range(2300)]


def objects_of(bucket: Bucket) -> S3ObjectStore:
    return S3ObjectStore(bucket.name, AwsSettings(endpoint_url=bucket.server.endpoint_url))


async def fill(store: S3ObjectStore, keys: list[str]) -> None:
    await map_bounded(lambda key: store.put(key, b"x"), keys, limit=32)


@pytest.mark.parametrize(
    ("cuts", "requests"),
    [
        ([], 3),
        (["run/1149"], 4),
        (["run/0999", "run/1999"], 3),
        (["run/0500", "run/0501", "run/0501/x", "run/9"], 6),
        (["a", "z"], 5),
    ],
)
async def test_ranges_make_a_whole(stub: WatchedStub, bucket: Bucket, cuts: list[str], requests: int) -> None:
    async with objects_of(bucket) as store:
        await fill(store, [*KEYS, "run-2/a", "ru"])
        stub.seen.clear()
        found = await store.list_all("run/", cuts=cuts)
        assert [meta.key for meta in found] == KEYS
        assert list(found) == [meta async for page in store.list("run/") for meta in page]
        assert len(stub.seen) == requests + 3


async def test_a_server_that_minds_no_ranges_is_listed_all_the_same(stub: WatchedStub, bucket: Bucket) -> None:
    async with objects_of(bucket) as store:
        await fill(store, KEYS)

        def ignore_the_start(request: Request) -> None:
            request.query.pop("start-after", None)

        stub.answer = ignore_the_start
        assert [meta.key for meta in await store.list_all("run/", cuts=KEYS[500::500])] == KEYS


async def test_a_server_that_lists_in_no_order_is_listed_all_the_same(stub: WatchedStub, bucket: Bucket) -> None:
    shuffled = ["run/5", "run/1", "run/9", "run/3"]
    items = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00Z</LastModified><Size>1</Size></Contents>"
        for key in shuffled
    )

    def answer(request: Request) -> Answer:
        # Those who ask for what comes after a key get what the server takes for that.
        return document("ListBucketResult", items)

    stub.answer = answer
    async with objects_of(bucket) as store:
        assert [meta.key for meta in await store.list_all("run/", cuts=["run/4"])] == shuffled


async def test_a_range_that_fails_fails_the_listing(stub: WatchedStub, bucket: Bucket) -> None:
    async with objects_of(bucket) as store:
        await fill(store, KEYS[:10])
        stub.answer = lambda request: Answer(403) if request.query.get("start-after") else None
        with pytest.raises(Exception, match=r"list s3://") as caught:
            await store.list_all("run/", cuts=["run/0004"])
        assert not isinstance(caught.value, UnavailableError)
