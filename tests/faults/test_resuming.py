"""Uploads that go on where an earlier one was cut off: by a cancellation, an outage, or the death of its process."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import stamina

from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import AccessDeniedError, CredentialsError, UnavailableError
from asyncstore.objects._large import _multipart
from asyncstore.objects.base import Transfer
from asyncstore.objects.bodies import PathBody
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.testing.s3_stub import Fault
from asyncstore.testing.s3_stub._messages import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.s3_stub._messages import Request
    from asyncstore.testing.s3_stub._storage import BucketContent
    from asyncstore.testing.servers import Bucket
    from tests._watched import WatchedStub

MIB = 1024 * 1024
PART = 8 * MIB
PARTS = 6
SIZE = PARTS * PART - 5


@pytest.fixture(autouse=True)
def no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture(autouse=True)
def three_parts_are_worth_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_multipart, "RESUME_WORTH_BYTES", 3 * PART)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "made" / "when needed"


@dataclass
class Put:
    """A put of the file, as often as it is begun."""

    bucket: Bucket
    path: Path
    journals: Path
    limit: int = 1
    advanced: int = 0

    async def __call__(self, *, key: str = "large", fingerprint: str = "abc", **options: Any) -> str:
        self.advanced = 0
        body = replace(await asyncio.to_thread(PathBody.of, self.path), fingerprint=fingerprint)
        transfer = Transfer(advanced=self._advance, limit=self.limit, journals=self.journals)
        settings = AwsSettings(endpoint_url=self.bucket.server.endpoint_url, **options)
        async with S3ObjectStore(self.bucket.name, settings) as store:
            return await store.put_file(key, body, metadata={"sha256": "abc"}, transfer=transfer)

    def _advance(self, size_bytes: int) -> None:
        self.advanced += size_bytes


@pytest.fixture
def put(bucket: Bucket, path: Path, journals: Path) -> Put:
    return Put(bucket, path, journals)


def left(journals: Path) -> list[Path]:
    return sorted(journals.iterdir()) if journals.is_dir() else []


async def cut_off(stub: WatchedStub, put: Put, parts: int = 4) -> None:
    """Put, and cancel when so many parts are there."""
    enough = asyncio.Event()

    def count(request: Request) -> None:
        if request.operation == "UploadPart" and stub.requests["UploadPart"] > parts:
            enough.set()

    stub.after = count
    putting = asyncio.create_task(put())
    await enough.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    stub.after = lambda _: None
    stub.reset()
    stub.seen.clear()


async def check_done(put: Put, content: BucketContent) -> None:
    assert content.objects["large"].body == await asyncio.to_thread(put.path.read_bytes)
    assert content.uploads == {}
    assert await asyncio.to_thread(left, put.journals) == []
    assert put.advanced == SIZE


async def test_what_is_done_leaves_no_journal(put: Put, content: BucketContent) -> None:
    await put()
    await check_done(put, content)


async def test_cancelled_and_resumed(stub: WatchedStub, put: Put, content: BucketContent) -> None:
    await cut_off(stub, put)
    assert len(content.uploads) == 1
    await put()
    await check_done(put, content)
    assert stub.requests["UploadPart"] <= PARTS - 4
    assert stub.requests["CreateMultipartUpload"] == 0


async def test_little_is_not_worth_keeping(stub: WatchedStub, put: Put, content: BucketContent) -> None:
    await cut_off(stub, put, 1)
    assert (content.uploads, await asyncio.to_thread(left, put.journals)) == ({}, [])


async def test_nothing_is_kept_without_a_fingerprint(put: Put, stub: WatchedStub, content: BucketContent) -> None:
    stub.faults = [Fault("internal_error", operation="UploadPart", nth=number) for number in range(5, 20)]
    with pytest.raises(UnavailableError):
        await put(fingerprint="")
    assert (content.uploads, await asyncio.to_thread(left, put.journals)) == ({}, [])


async def test_an_outage(stub: WatchedStub, put: Put, content: BucketContent) -> None:
    stub.faults = [Fault("internal_error", operation="UploadPart", nth=number) for number in range(5, 20)]
    with pytest.raises(UnavailableError):
        await put()
    assert len(content.uploads) == 1
    stub.faults = []
    stub.reset()
    await put()
    await check_done(put, content)
    assert stub.requests["UploadPart"] == PARTS - 4


async def test_an_early_outage_that_forbids_the_abort_too(stub: WatchedStub, put: Put, content: BucketContent) -> None:
    down = [Fault("internal_error", operation="UploadPart", nth=number) for number in range(2, 20)]
    stub.faults = [*down, Fault("internal_error", operation="AbortMultipartUpload")]
    with pytest.raises(UnavailableError):
        await put()
    stub.faults = []
    stub.reset()
    await put()
    await check_done(put, content)
    assert stub.requests["UploadPart"] == PARTS - 1


async def test_keys_that_expire(stub: WatchedStub, put: Put, content: BucketContent) -> None:
    expired = Answer(400, b"<Error><Code>ExpiredToken</Code></Error>")
    stub.answer = lambda _: expired if stub.requests["UploadPart"] == 4 else None
    with pytest.raises(CredentialsError):
        await put()
    assert len(content.uploads) == 1
    stub.answer = lambda _: None
    stub.reset()
    await put()
    await check_done(put, content)
    assert stub.requests["UploadPart"] == PARTS - 4


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken"])
async def test_what_could_not_be_aborted_is_remembered(
    stub: WatchedStub, put: Put, content: BucketContent, code: str
) -> None:
    refusal = Answer(403, f"<Error><Code>{code}</Code></Error>".encode())
    stub.answer = lambda _: refusal if stub.requests["UploadPart"] == 1 else None
    with pytest.raises((AccessDeniedError, CredentialsError)) as caught:
        await put()
    assert "could not be aborted" in caught.value.__notes__[0]
    stub.answer = lambda _: None
    stub.reset()
    await put()
    await check_done(put, content)
    assert stub.requests["UploadPart"] == PARTS - 1


async def test_cancelled_while_the_storage_is_silent(stub: WatchedStub, put: Put, content: BucketContent) -> None:
    stub.faults = [Fault("stall", operation="UploadPart", nth=2), Fault("stall", operation="AbortMultipartUpload")]
    second = asyncio.Event()
    stub.answer = lambda _: second.set() if len(stub.requests_for("UploadPart")) == 2 else None
    putting = asyncio.create_task(put())
    await second.wait()
    putting.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await putting
    assert len(await asyncio.to_thread(left, put.journals)) == 1
    stub.faults = []
    await put()
    await check_done(put, content)


async def test_other_failures_end_the_upload(stub: WatchedStub, put: Put, content: BucketContent) -> None:
    stub.after = lambda request: (
        setattr(stub.behaviour, "denied_operations", ["UploadPart"])
        if request.operation == "UploadPart" and stub.requests["UploadPart"] == 4
        else None
    )
    with pytest.raises(AccessDeniedError):
        await put()
    assert (content.uploads, await asyncio.to_thread(left, put.journals)) == ({}, [])


async def test_the_upload_is_gone(stub: WatchedStub, put: Put, content: BucketContent) -> None:
    await cut_off(stub, put)
    content.uploads.clear()
    await put()
    await check_done(put, content)
    assert stub.requests["UploadPart"] == PARTS


async def test_parts_may_not_be_listed(stub: WatchedStub, put: Put, content: BucketContent) -> None:
    await cut_off(stub, put)
    stub.behaviour.denied_operations = ["ListParts"]
    await put()
    assert stub.requests["UploadPart"] == PARTS
    await check_done(put, content)


async def test_a_part_that_differs_is_sent_anew(stub: WatchedStub, put: Put, content: BucketContent) -> None:
    await cut_off(stub, put)
    [upload] = content.uploads.values()
    upload.parts[1].etag = '"0123"'
    del upload.parts[2]
    upload.parts[3].content = upload.parts[3].content.cut(0, PART - 1)
    await put()
    await check_done(put, content)
    sent = {request.query["partNumber"] for request in stub.requests_for("UploadPart")}
    assert {"1", "2", "3"} <= sent
    assert "4" not in sent


async def test_another_description_wants_another_upload(stub: WatchedStub, put: Put, content: BucketContent) -> None:
    await cut_off(stub, put)
    await put(user_metadata={"team": "blue"})
    await check_done(put, content)
    assert stub.requests["UploadPart"] == PARTS
    assert content.objects["large"].headers["x-amz-meta-team"] == "blue"


@pytest.mark.parametrize("other", [{"key": "other"}, {"fingerprint": "def"}])
async def test_others_do_not_go_on_with_it(
    stub: WatchedStub, put: Put, content: BucketContent, other: dict[str, str]
) -> None:
    await cut_off(stub, put)
    await put(**other)
    assert stub.requests["UploadPart"] == PARTS
    assert len(content.uploads) == len(await asyncio.to_thread(left, put.journals)) == 1


def torn(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes()[:-3])


def without_end(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes()[:-1])


def emptied(journal: Path) -> None:
    journal.write_bytes(b"")


def garbled(journal: Path) -> None:
    journal.write_bytes(os.urandom(1000))


def half_a_header(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes()[:20])


def strange_lines(journal: Path) -> None:
    head, rest = journal.read_text().split("\n", 1)
    lines = ["", "[1]", "{}", '{"number": "1", "etag": 5}', "{", "\x00\udcff".encode(errors="replace").decode()]
    journal.write_text("\n".join([head, *lines, rest]))


def of_another_key(journal: Path) -> None:
    journal.write_text(journal.read_text().replace('"key": "large"', '"key": "other"'))


@pytest.mark.parametrize(
    ("harm", "most"),
    [(torn, 3), (without_end, 3), (strange_lines, 2),
     (emptied, 6), (garbled, 6), (half_a_header, 6), (of_another_key, 6)],
)  # fmt: skip
async def test_journals_that_suffered(
    stub: WatchedStub, put: Put, content: BucketContent, harm: Callable[[Path], None], most: int
) -> None:
    await cut_off(stub, put)
    [journal] = await asyncio.to_thread(left, put.journals)
    await asyncio.to_thread(harm, journal)
    await put()
    assert stub.requests["UploadPart"] <= most
    assert content.objects["large"].body == await asyncio.to_thread(put.path.read_bytes)
    assert await asyncio.to_thread(left, put.journals) == []


async def test_what_follows_a_torn_line_is_whole(stub: WatchedStub, put: Put, content: BucketContent) -> None:
    await cut_off(stub, put, 3)
    [journal] = await asyncio.to_thread(left, put.journals)
    await asyncio.to_thread(torn, journal)
    await cut_off(stub, put, 1)
    await put()
    await check_done(put, content)
    assert stub.requests["UploadPart"] <= PARTS - 4


async def test_a_journal_in_use_is_let_be(stub: WatchedStub, put: Put, content: BucketContent) -> None:
    await cut_off(stub, put)
    [journal] = await asyncio.to_thread(left, put.journals)
    before = await asyncio.to_thread(journal.read_bytes)
    with await asyncio.to_thread(journal.open, "r+b") as held:
        await asyncio.to_thread(fcntl.flock, held, fcntl.LOCK_EX)
        await put()
    assert stub.requests["UploadPart"] == PARTS
    assert await asyncio.to_thread(journal.read_bytes) == before
    assert len(content.uploads) == 1


async def test_two_at_once(stub: WatchedStub, put: Put, content: BucketContent) -> None:
    stub.behaviour.latency_s = 0.01
    async with asyncio.TaskGroup() as group:
        group.create_task(put())
        group.create_task(Put(put.bucket, put.path, put.journals)())
    assert (content.uploads, await asyncio.to_thread(left, put.journals)) == ({}, [])


@pytest.mark.parametrize("obstacle", ["file", "dangling"])
async def test_a_folder_that_cannot_be_used(put: Put, content: BucketContent, tmp_path: Path, obstacle: str) -> None:
    put.journals = tmp_path / "obstacle"
    if obstacle == "file":
        put.journals.write_bytes(b"")
    else:
        put.journals.symlink_to("/proc/nowhere")
    await put()
    assert content.objects["large"].body == await asyncio.to_thread(put.path.read_bytes)


async def test_old_journals_are_removed(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    put.journals.mkdir(parents=True)
    old, young, held = (put.journals / f"{letter * 64}.upload" for letter in "abc")
    others = put.journals / "notes.txt"
    for journal in (old, young, held, others):
        journal.write_text("{}\n")
        if journal is not young:
            os.utime(journal, (1, 1))
    with await asyncio.to_thread(held.open, "r+b") as descriptor:
        await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX)
        await put()
    assert await asyncio.to_thread(left, put.journals) == sorted([young, held, others])


# A process that dies.

DYING = """
import asyncio, json, os, signal, sys
from dataclasses import replace
from pathlib import Path
from asyncstore.aws.settings import AwsSettings
from asyncstore.objects._large import _journal
from asyncstore.objects.base import Transfer
from asyncstore.objects.bodies import PathBody
from asyncstore.objects.s3 import S3ObjectStore

bucket, endpoint, path, journals, limit, dies_at = sys.argv[1:]
path = Path(path)

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def say(size_bytes):
    print(size_bytes, flush=True)

if dies_at == "begun":
    _journal.Journal.begin = die
elif dies_at == "first":
    _journal.Journal.add = die
elif dies_at == "completed":
    _journal.Journal.close = die

async def main():
    body = replace(PathBody.of(path), fingerprint="abc")
    transfer = Transfer(advanced=say, limit=int(limit), journals=Path(journals))
    async with S3ObjectStore(bucket, AwsSettings(endpoint_url=endpoint)) as store:
        await store.put_file("large", body, metadata={"sha256": "abc"}, transfer=transfer)

asyncio.run(main())
"""


async def put_until_killed(bucket: Bucket, put: Put, dies_at: str, parts: int) -> int:
    """Put in a process that is killed when it says that so many parts are there, or by itself; return what it said."""
    command = [sys.executable, "-c", DYING, bucket.name, bucket.server.endpoint_url]
    options = [str(put.path), str(put.journals), str(put.limit), dies_at]
    process = await asyncio.create_subprocess_exec(*command, *options, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    said = 0
    try:
        while line := await process.stdout.readline():
            said += int(line)
            if dies_at == "parts" and said >= parts * PART:
                process.kill()
        assert await process.wait() == -signal.SIGKILL
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize(
    ("dies_at", "parts"), [("begun", 0), ("first", 0), ("parts", 1), ("parts", 3), ("parts", 5), ("completed", 6)]
)
async def test_killed_and_resumed(
    s3_stub: StubServer, stub_bucket: Bucket, path: Path, journals: Path, limit: int, dies_at: str, parts: int
) -> None:
    put = Put(stub_bucket, path, journals, limit)
    s3_stub.configure(latency_s=0.02)
    acknowledged = await put_until_killed(stub_bucket, put, dies_at, parts)
    assert acknowledged >= min(parts * PART, SIZE)
    s3_stub.configure(latency_s=0)
    before = await asyncio.to_thread(lambda: s3_stub.requests)
    await put()
    after = await asyncio.to_thread(lambda: s3_stub.requests)
    # What had been acknowledged is not sent again, and in all no more than what was on its way.
    assert (after["UploadPart"] - before["UploadPart"]) * PART <= -(-(SIZE - acknowledged) // PART) * PART
    assert after["UploadPart"] <= PARTS + limit
    assert put.advanced == SIZE
    assert left(journals) == []
    settings = AwsSettings(endpoint_url=stub_bucket.server.endpoint_url)
    async with S3ObjectStore(stub_bucket.name, settings) as store:
        meta, data = await store.get("large")
        assert data == await asyncio.to_thread(path.read_bytes)
        assert meta.metadata["sha256"] == "abc"
        # Its creation was acknowledged to nobody.
        assert len(await store.list_uploads("")) == (dies_at == "begun")
