"""Each fault and each way to behave of the S3 stub, as a client sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aioboto3
import obstore
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, PreconditionError
from obstore.store import S3Store

from asyncstore._core.concurrency import map_bounded
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import IntegrityError
from asyncstore.objects.base import NEW, Capabilities
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.testing.s3_stub import Behaviour, Fault, S3Stub, StubServer
from asyncstore.testing.servers import ServerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncstore.testing.servers import Bucket

CONTENT = bytes(range(200))


@pytest.fixture
async def stub() -> AsyncIterator[S3Stub]:
    async with S3Stub() as stub:
        stub.make_bucket("bucket")
        yield stub


def foreign_store(url: str, bucket: str = "bucket", key: str = "any") -> S3Store:
    return S3Store(
        bucket,
        endpoint=url,
        region="eu-west-1",
        access_key_id=key,
        secret_access_key="any",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
        virtual_hosted_style_request=False,
    )


def our_store(stub: S3Stub) -> S3ObjectStore:
    return S3ObjectStore("bucket", AwsSettings(endpoint_url=stub.url, region="eu-west-1"))


async def put(store: S3Store, key: str, **options: Any) -> None:
    await obstore.put_async(store, key, CONTENT, use_multipart=False, **options)


def stored(stub: S3Stub) -> set[str]:
    return set(stub.storage.bucket("bucket").objects)


@pytest.mark.parametrize(
    ("action", "seen", "lands"),
    [
        ("slow_down", "SlowDown", False),
        ("internal_error", "InternalError", False),
        ("conflict", "ConditionalRequestConflict", False),
        ("lose_request", "", False),
        ("lose_answer", "", True),
        ("error_after", "InternalError", True),
    ],
)
async def test_a_write_that_fails(stub: S3Stub, action: Any, seen: str, lands: bool) -> None:
    stub.faults = [Fault(action, method="PUT", nth=2)]
    store = foreign_store(stub.url)
    await put(store, "first")
    with pytest.raises((BaseError, OSError), match=seen or None):
        await put(store, "second")
    await put(store, "third")
    assert stored(stub) == ({"first", "second", "third"} if lands else {"first", "third"})


@pytest.mark.parametrize("options", [{}, {"range": (10, 110)}])
async def test_a_truncated_body_is_an_error(stub: S3Stub, options: Any) -> None:
    store = foreign_store(stub.url)
    await put(store, "key")
    stub.faults = [Fault("truncate", operation="GetObject", times=1)]
    with pytest.raises((BaseError, OSError)):
        await (await obstore.get_async(store, "key", options=options)).bytes_async()
    wanted = CONTENT[slice(*options.get("range", (None,)))]
    assert stub.bytes_out == {"GetObject": len(wanted) // 2}
    assert await (await obstore.get_async(store, "key", options=options)).bytes_async() == wanted


async def test_a_flipped_bit_is_in_the_body_alone(stub: S3Stub) -> None:
    store = foreign_store(stub.url)
    await put(store, "key")
    stub.faults = [Fault("flip_bit", operation="GetObject", times=1)]
    spoilt = await obstore.get_async(store, "key")
    data = bytes(await spoilt.bytes_async())
    assert [n for n in range(200) if data[n] != CONTENT[n]] == [100]
    again = await obstore.get_async(store, "key")
    assert await again.bytes_async() == CONTENT
    assert again.meta["e_tag"] == spoilt.meta["e_tag"]


async def test_a_stalled_request_has_acted(stub: S3Stub) -> None:
    stub.faults = [Fault("stall", method="PUT")]
    task = asyncio.create_task(put(foreign_store(stub.url), "key"))
    # A second request, since the first one's answer does not come.
    while not await obstore.list(foreign_store(stub.url)).collect_async():
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stored(stub) == {"key"}


async def test_rules_fit_by_key_and_chance(stub: S3Stub) -> None:
    async def struck() -> list[int]:
        stub.faults = [Fault("slow_down", key=r"^run/\d+$", probability=0.25, seed=7)]
        failed = []
        for number in range(100):
            await put(store, f"other/{number}")
            try:
                await put(store, f"run/{number}")
            except BaseError:
                failed.append(number)
        return failed

    store = foreign_store(stub.url)
    first = await struck()
    assert 10 < len(first) < 40
    assert await struck() == first


@pytest.mark.parametrize("ranges", ["plain", "ignored"])
async def test_ranges_with_status_200(stub: S3Stub, ranges: Any) -> None:
    stub.behaviour.ranges = ranges
    async with our_store(stub) as store:
        await store.put("key", CONTENT)
        with pytest.raises(BaseError, match=r"NotPartial|partial"):
            await obstore.get_range_async(foreign_store(stub.url), "key", start=5, end=10)
        if ranges == "plain":
            assert (await store.get("key", byte_range=(5, 10)))[1] == CONTENT[5:10]
        else:
            with pytest.raises(IntegrityError, match="the whole object came"):
                await store.get("key", byte_range=(5, 10))


async def test_bare_etags_in_listings(stub: S3Stub) -> None:
    store = foreign_store(stub.url)
    await put(store, "key")
    [quoted] = await obstore.list(store).collect_async()
    stub.behaviour.bare_listing_etags = True
    [bare] = await obstore.list(store).collect_async()
    assert quoted["e_tag"] == f'"{bare["e_tag"]}"'


async def test_conditions_can_be_ignored_and_that_is_found_out(stub: S3Stub) -> None:
    async with our_store(stub) as store:
        assert await store.capabilities() == Capabilities(create=True, match=True)
    async with S3Stub(behaviour=Behaviour(ignores_conditions=True)) as lenient:
        lenient.make_bucket("bucket")
        async with our_store(lenient) as store:
            assert await store.capabilities() == Capabilities(create=False, match=False)
            await store.put("key", b"1", condition=NEW)
            await store.put("key", b"2", condition=NEW)


@pytest.mark.parametrize(
    ("form", "quoted", "bare"), [("any", True, True), ("quoted", True, False), ("bare", False, True)]
)
async def test_forms_of_etags_in_conditions(stub: S3Stub, form: Any, quoted: bool, bare: bool) -> None:
    stub.behaviour.match_form = form
    store = foreign_store(stub.url)
    for given, accepted in (('"{}"', quoted), ("{}", bare)):
        etag = (await obstore.put_async(store, "key", b"old"))["e_tag"] or ""
        mode: Any = {"e_tag": given.format(etag.strip('"'))}
        if accepted:
            await put(store, "key", mode=mode)
        else:
            with pytest.raises(PreconditionError):
                await put(store, "key", mode=mode)


async def test_bytes_can_be_discarded(stub: S3Stub) -> None:
    stub.behaviour.discards = True
    store = foreign_store(stub.url)
    await put(store, "key")
    found = await obstore.get_async(store, "key")
    assert await found.bytes_async() == bytes(200)
    ranged = await obstore.get_async(store, "key", options={"range": (5, 10)})
    assert bytes(await ranged.bytes_async()) == bytes(5)
    with pytest.raises(AlreadyExistsError):
        await put(store, "key", mode="create")


async def test_keys_that_may_not(stub: S3Stub) -> None:
    stub.behaviour = Behaviour(denied=["nobody"], read_only=["reader"])
    await put(foreign_store(stub.url), "key")
    with pytest.raises(PermissionDeniedError):
        await obstore.get_async(foreign_store(stub.url, key="nobody"), "key")
    reader = foreign_store(stub.url, key="reader")
    assert len(await obstore.list(reader).collect_async()) == 1
    with pytest.raises(PermissionDeniedError):
        await put(reader, "other")


async def test_a_body_that_is_not_what_its_checksum_says(stub: S3Stub) -> None:
    config = Config(retries={"total_max_attempts": 1})
    async with aioboto3.Session().client("s3", endpoint_url=stub.url, region_name="eu-west-1", config=config) as client:
        for wrong in ({"ChecksumCRC32": "AAAAAA=="}, {"ContentMD5": "AAAAAAAAAAAAAAAAAAAAAA=="}):
            with pytest.raises(ClientError, match="BadDigest"):
                await client.put_object(Bucket="bucket", Key="key", Body=CONTENT, **wrong)
    assert stored(stub) == set()


async def test_a_stub_in_another_process_is_told_what_to_do(s3_stub: StubServer, stub_bucket: Bucket) -> None:
    store = foreign_store(s3_stub.endpoint_url, stub_bucket.name)
    s3_stub.set_faults([Fault("lose_answer", method="PUT", nth=1)])
    with pytest.raises((BaseError, OSError)):
        await put(store, "key")
    assert (await obstore.head_async(store, "key"))["size"] == 200
    with pytest.raises(ServerError, match="no_such_field"):
        s3_stub.configure(no_such_field=1)
    with pytest.raises(ServerError, match="regular expression"):
        s3_stub.set_faults([Fault("slow_down", key="(")])
    s3_stub.configure(ignores_conditions=True, latency_s=0.001)
    await put(store, "key", mode="create")
    s3_stub.restore()
    with pytest.raises(AlreadyExistsError):
        await put(store, "key", mode="create")
    assert s3_stub.requests == {"PutObject": 1}


async def test_ending_does_not_wait_for_clients() -> None:
    async with S3Stub(faults=[Fault("stall", key="stalled")]) as other:
        other.make_bucket("bucket")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(other.url.rpartition(":")[2]))
        writer.write(b"PUT /bucket/stalled HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        await map_bounded(lambda n: put(foreign_store(other.url), str(n)), range(4), limit=4)
        assert other.connections == 5
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    assert not other._open


async def test_one_rule_strikes_and_each_counts(stub: S3Stub) -> None:
    stub.faults = [Fault("slow_down", method="PUT", times=1), Fault("internal_error", method="PUT", nth=2)]
    store = foreign_store(stub.url)
    for seen in ("SlowDown", "InternalError"):
        with pytest.raises(BaseError, match=seen):
            await put(store, "key")
    await put(store, "key")
