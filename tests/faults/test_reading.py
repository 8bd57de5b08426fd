"""Reads in blocks, of answers that are cut off, of another range, or of another object."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import stamina

from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError
from asyncstore.objects.base import Transfer
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.testing.s3_stub import Fault
from asyncstore.testing.s3_stub._messages import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from asyncstore.objects.base import ObjectMeta
    from asyncstore.testing.s3_stub._messages import Request
    from asyncstore.testing.s3_stub._storage import BucketContent
    from asyncstore.testing.servers import Bucket
    from tests._watched import WatchedStub

MIB = 1024 * 1024
DATA = os.urandom(5 * MIB + 3)
SPAN = MIB + 1, 4 * MIB + 5


@pytest.fixture(autouse=True)
def no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=6, cap=True):
        yield


@pytest.fixture
async def store(bucket: Bucket) -> AsyncIterator[S3ObjectStore]:
    async with S3ObjectStore(bucket.name, AwsSettings(endpoint_url=bucket.server.endpoint_url)) as store:
        await store.put("key", DATA, metadata={"k": "v"})
        yield store


class Sink:
    """Takes blocks, which must come in order and without gaps."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.data = bytearray()

    def __call__(self, block: memoryview, offset: int) -> None:
        assert offset == self.start + len(self.data)
        self.data += block


async def read(store: S3ObjectStore, span: tuple[int, int] = SPAN, **options: Any) -> tuple[ObjectMeta, bytes]:
    sink = Sink(span[0])
    meta = await store.read_into("key", span, sink, **options)
    return meta, bytes(sink.data)


@pytest.mark.parametrize("ranges", ["honoured", "plain"])
async def test_a_range(stub: WatchedStub, store: S3ObjectStore, ranges: Any) -> None:
    stub.behaviour.ranges = ranges
    head = await store.head("key")
    meta, data = await read(store, etag=head.etag)
    assert data == DATA[slice(*SPAN)]
    assert (meta.key, meta.size_bytes, meta.etag, meta.metadata["k"]) == ("key", len(DATA), head.etag, "v")
    assert meta.modified_at == head.modified_at
    assert (await read(store, (0, len(DATA))))[1] == DATA


async def test_nothing_of_an_object(store: S3ObjectStore) -> None:
    meta, data = await read(store, (3, 3))
    assert (meta.size_bytes, data) == (len(DATA), b"")
    await store.put("key", b"")
    meta, data = await read(store, (0, 0))
    assert (meta.size_bytes, data) == (0, b"")
    with pytest.raises(ConflictError):
        await read(store, (0, 0), etag='"0"')
    with pytest.raises(NotFoundError):
        await store.read_into("nothing", (0, 0), Sink(0))


async def test_it_goes_on_where_it_was_cut_off(stub: WatchedStub, store: S3ObjectStore) -> None:
    stub.faults = [Fault("truncate", operation="GetObject", times=3)]
    admitted: list[int] = []

    @asynccontextmanager
    async def admit(size_bytes: int) -> AsyncIterator[None]:
        admitted.append(size_bytes)
        yield

    _, data = await read(store, transfer=Transfer(admit=admit))
    assert data == DATA[slice(*SPAN)]
    starts = [int(re.findall(r"\d+", request.headers["range"])[0]) for request in stub.requests_for("GetObject")]
    assert len(starts) == 4
    assert starts == sorted(set(starts))
    assert admitted == [SPAN[1] - start for start in starts]


async def test_what_is_cut_off_all_the_time_is_unavailable(stub: WatchedStub, store: S3ObjectStore) -> None:
    stub.faults = [Fault("truncate", operation="GetObject")]
    with pytest.raises(UnavailableError, match="get s3://"):
        await read(store)


@pytest.mark.parametrize("etag", [True, False])
async def test_two_objects_are_not_mixed(
    stub: WatchedStub, store: S3ObjectStore, content: BucketContent, etag: bool
) -> None:
    def replace(request: Request) -> None:
        if request.operation == "GetObject":
            content.objects["key"].etag = '"another"'

    known = (await store.head("key")).etag
    stub.after = replace
    stub.faults = [Fault("truncate", operation="GetObject", nth=1)]
    with pytest.raises(ConflictError):
        await read(store, etag=known if etag else "")


@pytest.mark.parametrize("honoured", [True, False])
async def test_another_version(stub: WatchedStub, store: S3ObjectStore, honoured: bool) -> None:
    stub.behaviour.ignores_conditions = not honoured
    with pytest.raises(ConflictError):
        await read(store, etag='"0123456789abcdef0123456789abcdef"')


async def test_an_etag_that_wants_no_quotes(stub: WatchedStub, store: S3ObjectStore) -> None:
    stub.behaviour.match_form = "bare"
    head = await store.head("key")
    assert (await read(store, etag=head.etag))[1] == DATA[slice(*SPAN)]


async def test_a_whole_object_is_no_range(stub: WatchedStub, store: S3ObjectStore) -> None:
    stub.behaviour.ranges = "ignored"
    with pytest.raises(IntegrityError, match="the whole object came"):
        await read(store)


async def test_beyond_the_end(store: S3ObjectStore) -> None:
    for span in ((0, len(DATA) + 1), (len(DATA), len(DATA) + 1)):
        with pytest.raises(IntegrityError):
            await read(store, span)
    with pytest.raises(NotFoundError):
        await store.read_into("nothing", (0, 1), Sink(0))


HEADERS = {"ETag": '"e"', "Last-Modified": "Mon, 02 Jan 2023 10:00:00 GMT"}


@pytest.mark.parametrize(
    ("status", "said", "length"),
    [
        (206, "bytes 0-9/100", 9),
        (206, "bytes 0-8/100", 10),
        (206, "bytes 1-10/100", 10),
        (206, "bytes 0-9/*", 10),
        (206, "bytes 0-9/5", 10),
        (206, "", 10),
        (206, "bytes 0-9/100", 11),
        (200, "bytes 0-9/100", 100),
        (200, "", 10),
    ],
)
async def test_an_answer_that_is_not_what_was_asked(
    stub: WatchedStub, store: S3ObjectStore, status: int, said: str, length: int
) -> None:
    headers = HEADERS | ({"Content-Range": said} if said else {})
    stub.answer = lambda request: Answer(status, bytes(length), headers) if request.method == "GET" else None
    with pytest.raises(IntegrityError):
        await read(store, (0, 10))


async def test_an_answer_of_another_object(stub: WatchedStub, store: S3ObjectStore) -> None:
    headers = HEADERS | {"Content-Range": "bytes 0-9/100"}
    stub.answer = lambda request: Answer(206, bytes(10), headers) if request.method == "GET" else None
    with pytest.raises(ConflictError):
        await read(store, (0, 10), etag='"f"')
    assert (await read(store, (0, 10), etag='"e"'))[1] == bytes(10)


class FullError(OSError):
    pass


@pytest.mark.parametrize("kind", [FullError, ValueError, UnavailableError])
async def test_what_the_sink_raises_is_raised_itself(
    stub: WatchedStub, store: S3ObjectStore, kind: type[Exception]
) -> None:
    def sink(block: memoryview, offset: int) -> None:
        raise kind(errno.ENOSPC, "no space left")

    with pytest.raises(kind, match="no space left"):
        await store.read_into("key", SPAN, sink)
    assert stub.requests["GetObject"] == 1
    # The rest of the answer is not taken for the next one's.
    assert (await read(store))[1] == DATA[slice(*SPAN)]


async def test_cancelled_it_ends_at_the_next_block(store: S3ObjectStore) -> None:
    began, go_on = threading.Event(), threading.Event()
    begun: list[int] = []
    ended: list[int] = []

    def sink(block: memoryview, offset: int) -> None:
        begun.append(offset)
        began.set()
        go_on.wait(30)
        ended.append(offset)

    reading = asyncio.create_task(store.read_into("key", (0, len(DATA)), sink))
    await asyncio.to_thread(began.wait, 30)
    for _ in range(2):
        reading.cancel()
        # What the sink writes to may be gone as soon as this ends, so it waits for the block.
        await asyncio.wait([reading], timeout=0.1)
        assert not reading.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert begun == ended == [0]
    await store.aclose()
    assert begun == [0]


async def test_cancelled_it_does_not_wait_for_the_storage(stub: WatchedStub, store: S3ObjectStore) -> None:
    stub.faults = [Fault("stall", operation="GetObject")]
    reading = asyncio.create_task(store.read_into("key", SPAN, Sink(SPAN[0])))
    await stub.asked("GetObject")
    reading.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_the_end_of_an_answer_that_is_lost_when_all_bytes_came() -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        said = {**HEADERS, "Content-Range": f"bytes 0-{MIB - 1}/{len(DATA)}", "Transfer-Encoding": "chunked"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
        # What is missing is the empty chunk.
        writer.write(f"HTTP/1.1 206 Partial Content\r\n{lines}\r\n{MIB:x}\r\n".encode() + DATA[:MIB] + b"\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = "http://{}:{}".format(*server.sockets[0].getsockname())
    sink = Sink(0)
    async with server, S3ObjectStore("bucket", AwsSettings(endpoint_url=url)) as store:
        meta = await store.read_into("key", (0, MIB), sink)
    assert (meta.size_bytes, meta.etag, bytes(sink.data)) == (len(DATA), '"e"', DATA[:MIB])
    assert len(asked) == 1
