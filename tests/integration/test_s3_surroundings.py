"""S3 in trying surroundings: policies, servers that lack things, no S3 at all, the environment, forks."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import AccessDeniedError, ConfigurationError, NotFoundError
from asyncstore.objects.base import ANY, NEW, Capabilities, Condition
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.testing.proxy import LossyProxy, lossy_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from asyncstore.testing.servers import Bucket

    Answer = Callable[[bytes], bytes | None]


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(17 * 1024 * 1024))
    return path


def objects_of(bucket: Bucket, **options: Any) -> S3ObjectStore:
    return S3ObjectStore(bucket.name, AwsSettings(endpoint_url=bucket.server.endpoint_url, **options))


@asynccontextmanager
async def answering(upstream: str, answer: Answer) -> AsyncIterator[LossyProxy]:
    """Run a proxy that gives ``answer``'s answers, and the server's where it has none."""
    async with lossy_proxy(upstream, lambda *_: False) as proxy:
        forward = proxy._forward

        async def answer_or_forward(request: bytes) -> bytes:
            return answer(request) or await forward(request)

        proxy._forward = answer_or_forward  # type: ignore[method-assign]
        yield proxy


def reply(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def deny_deletes(request: bytes) -> bytes | None:
    key = re.search(rb"<Key>(.*?)</Key>", request)
    if not request.startswith(b"POST ") or key is None:
        return None
    error = f"<Error><Key>{key[1].decode()}</Key><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    return reply("200 OK", f'<?xml version="1.0"?><DeleteResult>{error}</DeleteResult>')


def deny_writes(request: bytes) -> bytes | None:
    denied = reply("403 Forbidden", "<Error><Code>AccessDenied</Code></Error>")
    return denied if request.startswith(b"PUT ") else None


def refuse_conditions(status: str, code: str) -> Answer:
    def answer(request: bytes) -> bytes | None:
        refused = reply(status, f"<Error><Code>{code}</Code></Error>")
        return refused if request.startswith(b"PUT ") and b"\r\nif-" in request.lower() else None

    return answer


async def test_denied_delete_is_told_and_does_not_spoil_the_probe(
    moto_bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        answering(moto_bucket.server.endpoint_url, deny_deletes) as proxy,
        S3ObjectStore(moto_bucket.name, AwsSettings(endpoint_url=proxy.url)) as store,
    ):
        assert await store.capabilities() == Capabilities(create=True, match=True, checksums=False)
        assert "the probe object .asyncstore-probe-" in caplog.text
        await store.put("key", b"")
        with pytest.raises(AccessDeniedError, match="a permission is missing"):
            await store.delete(["key"])
    assert sum("delete" in line for line in proxy.requests) == 2


async def test_the_write_itself_tells_that_nothing_may_be_written(moto_bucket: Bucket) -> None:
    async with (
        answering(moto_bucket.server.endpoint_url, deny_writes) as proxy,
        S3ObjectStore(moto_bucket.name, AwsSettings(endpoint_url=proxy.url)) as store,
    ):
        await store.capabilities()
        for condition in (ANY, NEW, Condition(etag='"0"')):
            with pytest.raises(
                AccessDeniedError, match=f"put s3://{moto_bucket.name}/some/key.* a permission is missing"
            ):
                await store.put("some/key", b"", condition=condition)
    assert not any("DELETE" in line or "delete" in line for line in proxy.requests)


@pytest.mark.parametrize(
    ("status", "code"), [("501 Not Implemented", "NotImplemented"), ("400 Bad Request", "InvalidArgument")]
)
async def test_refused_conditions_are_a_missing_capability(moto_bucket: Bucket, status: str, code: str) -> None:
    async with (
        answering(moto_bucket.server.endpoint_url, refuse_conditions(status, code)) as proxy,
        S3ObjectStore(moto_bucket.name, AwsSettings(endpoint_url=proxy.url)) as store,
    ):
        assert await store.capabilities() == Capabilities(create=False, match=False, checksums=False)
    assert sum(line.startswith("PUT") for line in proxy.requests) == 4


async def test_tasks_share_one_probe(moto_bucket: Bucket) -> None:
    async with (
        lossy_proxy(moto_bucket.server.endpoint_url, lambda *_: False) as proxy,
        S3ObjectStore(moto_bucket.name, AwsSettings(endpoint_url=proxy.url)) as store,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(20):
            group.create_task(store.capabilities())
    assert sum(line.startswith("PUT") for line in proxy.requests) == 5


async def test_a_web_server_is_not_taken_for_an_empty_bucket(moto_bucket: Bucket, large_file: Path) -> None:
    page = reply("404 Not Found", "<html>no</html>")
    async with (
        answering(moto_bucket.server.endpoint_url, lambda request: None if request[:5] == b"HEAD " else page) as proxy,
        S3ObjectStore(moto_bucket.name, AwsSettings(endpoint_url=proxy.url)) as store,
    ):
        for asked in (
            store.get("key"),
            store.put("key", b""),
            store.put_file("key", large_file),
            store.copy("key", "other"),
            store.list_folder(""),
            anext(store.list("")),
        ):
            with pytest.raises(ConfigurationError, match="does not answer like S3: mend endpoint_url"):
                await asked
        with pytest.raises(NotFoundError):
            await store.head("key")


async def test_environment_does_not_override_settings(
    moto_bucket: Bucket, large_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("", "_URL", "_URL_S3", "_URL_STS"):
        monkeypatch.setenv(f"AWS_ENDPOINT{name}", "http://127.0.0.1:9")
    for name, value in {
        "AWS_REGION": "mars-north-1",
        "AWS_DEFAULT_REGION": "mars-north-1",
        "AWS_BUCKET": "another",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_CONDITIONAL_PUT": "disabled",
        "AWS_S3_EXPRESS": "true",
        "AWS_PROFILE": "nobody",
    }.items():
        monkeypatch.setenv(name, value)
    async with objects_of(moto_bucket, use_credentials=True) as store:
        await store.put("small", b"1")
        await store.put_file("large", large_file)
        await store.capabilities()
        assert [item.key for item in (await store.list_folder("")).objects] == ["large", "small"]


@pytest.mark.parametrize("url", ["not a url", "http://user:hunter2@127.0.0.1:9"])
async def test_wrong_endpoint_of_the_environment_is_told_at_open(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(ConfigurationError, match="AWS_ENDPOINT_URL must") as caught:
        await S3ObjectStore("bucket", AwsSettings()).open()
    assert "hunter2" not in str(caught.value)


async def test_certificates_that_are_none_are_told_at_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with pytest.raises(ConfigurationError, match="AWS_CA_BUNDLE"):
        await S3ObjectStore("bucket", AwsSettings()).open()


async def test_copies_keep_metadata_and_get_the_storage_class(moto_bucket: Bucket) -> None:
    async with objects_of(moto_bucket, storage_class="STANDARD_IA") as store:
        await store.put("a é", b"1", metadata={"k": "v"})
        await store.copy("a é", "b")
        found = (await store._requests.head("b")).headers
        assert (found["x-amz-storage-class"], found["x-amz-meta-k"]) == ("STANDARD_IA", "v")
        with pytest.raises(NotFoundError):
            await store.copy("missing", "c")


async def test_multipart_uploads_have_a_role_of_their_own(moto_bucket: Bucket, large_file: Path) -> None:
    users: dict[str, set[str]] = {}

    def note(request: bytes) -> None:
        line = request.partition(b"\r\n")[0].decode()
        if (user := re.search(rb"Credential=(\w+)/", request)) and "/s3/" in request.decode(errors="replace"):
            users.setdefault("parts" if "uploads=" in line or "uploadId=" in line else "others", set()).add(
                user[1].decode()
            )

    async with answering(moto_bucket.server.endpoint_url, note) as proxy:
        settings = AwsSettings(endpoint_url=proxy.url, multipart_upload_role_arn="arn:aws:iam::123456789012:role/up")
        async with S3ObjectStore(moto_bucket.name, settings) as store:
            await store.put_file("large", large_file)
            await store.read_into("large", (0, 10), lambda *_: None)
            await store.list_uploads("")
    assert users["others"] == {"accesskey1"}
    [role_user] = users["parts"]
    assert role_user.startswith("ASIA")


FORKING = """
import asyncio, os, sys
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import ClosedError
from asyncstore.objects.s3 import S3ObjectStore

async def use():
    async with S3ObjectStore(sys.argv[1], AwsSettings(endpoint_url=sys.argv[2])) as store:
        await store.put("key", b"")

asyncio.run(use())
child = os.fork()
if child == 0:
    try:
        asyncio.run(use())
    except ClosedError as error:
        os._exit(7 if "spawn or forkserver" in str(error) else 8)
    os._exit(9)
asyncio.run(use())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


async def test_a_forked_process_is_refused_instead_of_left_hanging(moto_bucket: Bucket) -> None:
    command = [sys.executable, "-c", FORKING, moto_bucket.name, moto_bucket.server.endpoint_url]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        async with asyncio.timeout(60):
            assert await process.wait() == 7
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
