"""Everything under a prefix, listed by ranges of keys: each object once, in order, also where nothing is in order."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from asyncstore._core.concurrency import map_bounded
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import UnavailableError
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.testing.s3_stub._content import Content
from asyncstore.testing.s3_stub._messages import Answer
from asyncstore.testing.s3_stub._storage import StoredObject
from asyncstore.testing.s3_stub._xml import document

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.testing.s3_stub._messages import Request
    from asyncstore.testing.s3_stub._storage import BucketContent
    from asyncstore.testing.servers import Bucket
    from tests._watched import WatchedStub

NO_BUCKET = b"<Error><Code>NoSuchBucket</Code><Message>gone</Message></Error>"
KEYS = [f"run/{number:04d}" for number in range(2300)]


def objects_of(bucket: Bucket) -> S3ObjectStore:
    return S3ObjectStore(bucket.name, AwsSettings(endpoint_url=bucket.server.endpoint_url))


def keep(content: BucketContent, keys: list[str]) -> None:
    for key in keys:
        content.put(key, StoredObject(Content.of(b"x"), '"e"'))


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


SHAPES = {
    "flat": (sorted(f"run/{number:05}" for number in range(7300)), 8),
    "folders in folders": ([f"run/{n // 6000:02}/{n // 100 % 60:02}/{n:06}" for n in range(15_000)], 40),
    "all far down": ([f"run/a/b/c/d/e/{n // 100:03}/{n:06}" for n in range(7300)], 20),
    "a folder for each": ([f"run/{n:05}/x" for n in range(7300)], 12),
    "two in a folder": ([f"run/{n // 2:05}/{n}" for n in range(1000, 8300)], 18),
    "one large among small ones": (
        sorted([f"run/{n:02}/{n}" for n in range(90)] + [f"run/50/{n:05}" for n in range(7000)]),
        24,
    ),
    "a large one behind many files": (
        sorted([f"run/a{n:04}" for n in range(2500)] + [f"run/b/{n // 50:03}/{n:05}" for n in range(5000)]),
        18,
    ),
    "folders just above a page": ([f"run/{n // 1001:02}/{n:06}" for n in range(12 * 1001)], 40),
    "signs around the slash": (
        sorted(f"run/{'!-.0 é😀'[n % 7]}x{n // 700}/{n:05}" for n in range(7300)),
        30,
    ),
    "two pages": ([f"run/{n // 400}/{n:04}" for n in range(2000)], 4),
    "a page": ([f"run/{n // 100}/{n:04}" for n in range(1000)], 1),
    "nothing": ([], 1),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_much_is_listed_by_ranges_that_are_found_on_the_way(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, shape: str
) -> None:
    keys, most_requests = SHAPES[shape]
    keep(content, [*keys, "ru", "run", "run.", "run0", "s/a/b"])
    async with objects_of(bucket) as store:
        found = await store.list_all("run/")
        assert [meta.key for meta in found] == keys
        assert len(stub.seen) <= most_requests
        everything = await store.list_all("")
        assert [meta.key for meta in everything] == sorted([*keys, "ru", "run", "run.", "run0", "s/a/b"])


@pytest.mark.parametrize("shape", ["folders in folders", "folders just above a page"])
async def test_ranges_are_asked_for_at_the_same_time(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, shape: str
) -> None:
    keys, _ = SHAPES[shape]
    keep(content, keys)
    stub.behaviour.latency_s = 0.05
    async with objects_of(bucket) as store:
        assert [meta.key for meta in await store.list_all("run/")] == keys
    assert 4 <= stub.max_in_flight <= 8


@pytest.mark.parametrize("answer", [Answer(403), Answer(501), Answer(503), Answer(404, NO_BUCKET), Answer(200, b"x")])
async def test_where_folders_cannot_be_listed_pages_are(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, answer: Answer
) -> None:
    keys, _ = SHAPES["folders in folders"]
    keep(content, keys)
    stub.answer = lambda request: answer if "delimiter" in request.query else None
    async with objects_of(bucket) as store:
        assert [meta.key for meta in await store.list_all("run/")] == keys
    assert 1 <= sum("delimiter" in request.query for request in stub.seen) <= 8


@pytest.mark.parametrize("status", [400, 501])
async def test_where_ranges_are_refused_pages_are_listed(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, status: int
) -> None:
    keys, _ = SHAPES["folders in folders"]
    keep(content, keys)
    refused = f"<Error><Code>NotImplemented</Code><Message>{status}</Message></Error>".encode()
    stub.answer = lambda request: (
        Answer(status, refused) if "start-after" in request.query and "delimiter" not in request.query else None
    )
    async with objects_of(bucket) as store:
        assert [meta.key for meta in await store.list_all("run/")] == keys
        assert [meta.key for meta in await store.list_all("run/", cuts=[keys[5000]])] == keys


ORDERS: dict[str, Callable[[str], Any]] = {
    "through folders": lambda key: key.split("/"),
    "UTF-16": lambda key: key.encode("utf-16-be"),
    "without case": str.lower,
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("known", [False, True])
async def test_nothing_is_lost_where_a_server_has_another_order(
    stub: WatchedStub, bucket: Bucket, order: str, known: bool
) -> None:
    folders = [f"s{number:02}" for number in range(12)]
    for odd in [["s05-old"], ["S07"], ["\U0001f600", "\uff58"]]:
        keys = [f"run/{folder}/{number:05}" for folder in [*folders, *odd] for number in range(900)]
        stub.answer = _answering(sorted(keys, key=ORDERS[order]), ORDERS[order])
        async with objects_of(bucket) as store:
            cuts = [f"run/{folder}/" for folder in sorted([*folders[::4], odd[0]])] if known else ()
            found = [meta.key for meta in await store.list_all("run/", cuts=cuts)]
        assert sorted(found) == sorted(keys), odd[0]


def _answering(keys: list[str], order: Callable[[str], Any]) -> Callable[[Request], Answer]:
    """Answer as a server would that goes on from where it was, in its own order."""

    def answer(request: Request) -> Answer:
        query = request.query
        start = int(query.get("continuation-token", 0)) or bisect_right(
            keys, order(query.get("start-after", "")), key=order
        )
        listed = list(dict.fromkeys(_shown(key, query) for key in keys[start:] if key.startswith(query["prefix"])))
        page, more = listed[:1000], len(listed) > 1000
        parts = [f"<IsTruncated>{str(more).lower()}</IsTruncated><EncodingType>url</EncodingType>"]
        parts += [f"<NextContinuationToken>{start + 1000}</NextContinuationToken>"] if more else []
        for name in map(quote, page):
            stamp = "<LastModified>2026-01-01T00:00:00Z</LastModified><Size>1</Size>"
            folder = f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"
            parts.append(folder if name.endswith("/") else f"<Contents><Key>{name}</Key>{stamp}</Contents>")
        return document("ListBucketResult", "".join(parts))

    return answer


def _shown(key: str, query: dict[str, str]) -> str:
    inside = key[len(query["prefix"]) :]
    folder, slash, _ = inside.partition("/")
    return f"{query['prefix']}{folder}/" if slash and "delimiter" in query else key


@pytest.mark.parametrize("ignored", [("delimiter",), ("start-after",), ("delimiter", "start-after")])
async def test_a_server_that_minds_not_everything_is_listed_all_the_same(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, ignored: tuple[str, ...]
) -> None:
    keys, _ = SHAPES["folders in folders"]
    keep(content, keys)

    def ignore(request: Request) -> None:
        for name in ignored:
            request.query.pop(name, None)

    stub.answer = ignore
    async with objects_of(bucket) as store:
        assert [meta.key for meta in await store.list_all("run/")] == keys


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
