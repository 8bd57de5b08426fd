"""Links and forms used by plain HTTP, against servers that check what was signed: rclone links, the stub both."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import json
import logging
import re
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

import pytest
import yaml

from asyncstore._core.access import Access
from asyncstore.catalog import Catalog, DoNothingCatalog, FileSystemCatalog, PresignedPost, PresignedUrl, S3Catalog
from asyncstore.catalog._packed._index import Index, encode
from asyncstore.catalog._packed._names import index_name, pack_name
from asyncstore.cli._app import run
from asyncstore.cli._catalog_share import lifetime
from asyncstore.errors import (
    AccessModeError,
    AsyncStoreError,
    ClosedError,
    ConfigurationError,
    InvalidValueError,
    NotFoundError,
    UnsafePathError,
)
from asyncstore.objects.memory import MemoryObjectStore
from tests._aws_clients import aws_client
from tests._http_server import Asked, PlayedServer, serve_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.servers import Bucket, S3Server

HOUR = timedelta(hours=1)
ROLE = "arn:aws:iam::123456789012:role/sharer"
DAY_S = 24 * 3600


@pytest.fixture
def checked_bucket(s3_stub: StubServer, stub_bucket: Bucket) -> Bucket:
    """Return an empty bucket on the stub, which knows the keys and checks signatures."""
    s3_stub.configure(secret_keys={s3_stub.access_key: s3_stub.secret_key})
    return stub_bucket


@pytest.fixture(params=["checked_bucket", "rclone_bucket", "moto_bucket"])
def any_bucket(request: pytest.FixtureRequest) -> Bucket:
    found: Bucket = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["checked_bucket", "rclone_bucket"])
def strict_bucket(request: pytest.FixtureRequest) -> Bucket:
    """Return a bucket where signatures are checked."""
    found: Bucket = request.getfixturevalue(request.param)
    return found


@asynccontextmanager
async def catalog_in(bucket: Bucket, folder: Path, **options: object) -> AsyncIterator[S3Catalog]:
    data = str(folder / "data")
    async with S3Catalog(**{**bucket.options, "prefix": "team", "compute_data_folder": data, **options}) as catalog:
        yield catalog


def make(folder: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class Answered:
    """An answer to a request of somebody who has no keys."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        self.body = answer.read()


def ask(method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answered:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, target, body, dict(headers or {}))
        return Answered(connection.getresponse())
    finally:
        connection.close()


async def asked(method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answered:
    return await asyncio.to_thread(ask, method, url, body, headers)


async def sent(link: PresignedUrl, body: bytes = b"", **headers: str) -> Answered:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await asked(link.method, link.url, body, {**link.headers, **named})


async def posted(
    form: PresignedPost, body: bytes, *, filename: str = "file.txt", fields: Mapping[str, str] | None = None
) -> Answered:
    """Send a form as a browser does."""
    boundary = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
    lines = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (fields or form.fields).items()
    ]
    about = f'Content-Disposition: form-data; name="file"; filename="{filename}"\r\nContent-Type: text/plain'
    head = "".join(lines) + f"--{boundary}\r\n{about}\r\n\r\n"
    content = head.encode() + body + f"\r\n--{boundary}--\r\n".encode()
    return await asked("POST", form.url, content, {"Content-Type": f"multipart/form-data; boundary={boundary}"})


def changed(url: str, **query: str) -> str:
    parts = urlsplit(url)
    said = {**dict(parse_qsl(parts.query)), **{name.replace("_", "-"): value for name, value in query.items()}}
    return parts._replace(query=urlencode(said, quote_via=quote, safe="")).geturl()


def head(bucket: Bucket, key: str) -> Any:
    return aws_client(bucket.server).head_object(Bucket=bucket.name, Key=key)


# Downloads.


async def test_a_link_downloads_the_file(any_bucket: Bucket, tmp_path: Path) -> None:
    content = b"a,b\n" * 1000
    make(tmp_path, {"sub/ü b+c.csv": content})
    async with catalog_in(any_bucket, tmp_path) as catalog:
        await catalog.put("**", "r")
        link = await catalog.presign_get("data/sub/ü b+c.csv", "r", download_name="report ü.csv", content_type="text/x")
    answer = await sent(link)
    assert (answer.status, answer.body) == (200, content)
    assert answer.headers["content-type"] == "text/x"
    disposition = "attachment; filename=\"report _.csv\"; filename*=UTF-8''report%20%C3%BC.csv"
    assert answer.headers["content-disposition"] == disposition
    assert link.location == f"s3://{any_bucket.name}/team/r/data/sub/ü b+c.csv"


async def test_a_link_is_for_one_file_and_one_method(strict_bucket: Bucket, tmp_path: Path) -> None:
    make(tmp_path, {"a": b"a", "b": b"b"})
    async with catalog_in(strict_bucket, tmp_path) as catalog:
        await catalog.put("**", "r")
        link = await catalog.presign_get("data/a", "r", download_name="a.txt")
    assert (await sent(link)).status == 200
    other = link.url.replace("/data/a?", "/data/b?")
    assert other != link.url
    assert (await asked("GET", other)).status == 403
    assert (await asked("PUT", link.url, b"x")).status == 403
    assert (await asked("DELETE", link.url)).status == 403
    assert (await asked("GET", changed(link.url, response_content_disposition="inline"))).status == 403
    assert (await asked("GET", changed(link.url, X_Amz_Expires="604800"))).status == 403
    async with catalog_in(strict_bucket, tmp_path) as catalog:
        await catalog.get("**", "r")
    assert (tmp_path / "data/a").read_bytes() == b"a"


async def test_a_link_ends(strict_bucket: Bucket, tmp_path: Path) -> None:
    make(tmp_path, {"a": b"a"})
    async with catalog_in(strict_bucket, tmp_path) as catalog:
        await catalog.put("**", "r")
        presigner, _ = await catalog._presigner(DAY_S)
    signed_then = replace(presigner, now=presigner.now - timedelta(days=1, minutes=1))
    lasting, ended = (signed_then.signed_url("GET", "team/r/data/a", days * DAY_S) for days in (2, 1))
    assert (await asked("GET", lasting)).status == 200
    assert (await asked("GET", ended)).status in (400, 403)


async def test_one_request_finds_out_whether_the_file_is_there(
    s3_stub: StubServer, checked_bucket: Bucket, tmp_path: Path
) -> None:
    make(tmp_path, {"a": b"a"})
    async with catalog_in(checked_bucket, tmp_path) as catalog:
        await catalog.put("**", "r")
        s3_stub.reset()
        await catalog.presign_get("data/a", "r")
        await catalog.presign_put("data/b", "r")
        await catalog.presign_post("data", "r", max_size=1)
    assert s3_stub.requests == {"HeadObject": 1}


async def test_when_a_link_ends_is_told(checked_bucket: Bucket, tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    async with catalog_in(checked_bucket, tmp_path) as catalog:
        link = await catalog.presign_put("data/a", "r", expires=90)
    assert before + timedelta(seconds=90) <= link.expires_at <= datetime.now(UTC) + timedelta(seconds=90)
    assert parse_qs(urlsplit(link.url).query)["X-Amz-Expires"] == ["90"]
    assert not link.shortened


async def test_the_servers_clock_counts(checked_bucket: Bucket, tmp_path: Path) -> None:
    async with catalog_in(checked_bucket, tmp_path) as catalog:
        catalog._credentials.clock.skew_s = 7200.0
        link = await catalog.presign_put("data/a", "r", expires=60)
    assert link.expires_at > datetime.now(UTC) + timedelta(seconds=7000)
    assert (await sent(link, b"x")).status == 403


# Uploads by link.


async def test_what_was_uploaded_by_link_is_listed_and_got(any_bucket: Bucket, tmp_path: Path) -> None:
    content = b"uploaded\n" * 100
    async with catalog_in(any_bucket, tmp_path) as catalog:
        link = await catalog.presign_put("data/in/up.csv", "r", content_type="text/csv")
        assert (await sent(link, content)).status == 200
        assert (await sent(link, content)).status == 200
        listed = [(entry.name, entry.data_hash) async for entry in catalog.list("r")]
        await catalog.get("**", "r")
    assert listed == [("data/in/up.csv", hashlib.sha256(content).hexdigest())]
    assert (tmp_path / "data/in/up.csv").read_bytes() == content


async def test_an_upload_is_of_the_type_that_was_signed(strict_bucket: Bucket, tmp_path: Path) -> None:
    async with catalog_in(strict_bucket, tmp_path) as catalog:
        link = await catalog.presign_put("data/a", "r", content_type="text/csv")
        assert link.headers == {"content-type": "text/csv"}
        for headers in ({"content-type": "text/html"}, {}):
            assert (await asked("PUT", link.url, b"x", headers)).status == 403
        assert [entry async for entry in catalog.list("r")] == []
        assert (await sent(link, b"x")).status == 200


async def test_an_upload_is_of_the_size_that_was_signed(strict_bucket: Bucket, tmp_path: Path) -> None:
    async with catalog_in(strict_bucket, tmp_path) as catalog:
        link = await catalog.presign_put("data/a", "r", size_bytes=5)
        for body in (b"123456", b"1234", b""):
            assert (await sent(link, body)).status == 403
        assert (await sent(link, b"12345")).status == 200


async def test_an_upload_has_the_contents_that_were_signed(
    s3_stub: StubServer, checked_bucket: Bucket, tmp_path: Path
) -> None:
    content = b"as announced"
    digest = hashlib.sha256(content).hexdigest()
    async with catalog_in(checked_bucket, tmp_path) as catalog:
        link = await catalog.presign_put("data/a", "r", sha256=digest)
        assert (await sent(link, b"something else")).status == 400
        other = base64.b64encode(hashlib.sha256(b"else").digest()).decode()
        assert (await sent(link, b"else", x_amz_checksum_sha256=other)).status == 403
        assert (await sent(link, content)).status == 200
        # The catalog knows the digest without reading the file.
        assert [entry.data_hash async for entry in catalog.list("r")] == [digest]
    assert s3_stub.requests["GetObject"] == 0


async def test_uploads_are_written_as_configured(s3_stub: StubServer, checked_bucket: Bucket, tmp_path: Path) -> None:
    key = "arn:aws:kms:eu-west-1:123456789012:key/k"
    s3_stub.configure(demanded_kms_key=key, demanded_tag="team=a b+c")
    options = {
        "kms_key_arn": key,
        "storage_class": "STANDARD_IA",
        "object_tags": {"team": "a b+c"},
        "user_metadata": {"owner": "x"},
    }
    async with catalog_in(checked_bucket, tmp_path, **options) as catalog:
        link = await catalog.presign_put("data/link", "r")
        assert (await asked("PUT", link.url, b"x")).status == 403
        assert (await sent(link, b"x")).status == 200
        form = await catalog.presign_post("data", "r", max_size=10, name="form")
        for name in form.fields:
            if name.startswith(("x-amz-server", "x-amz-storage", "x-amz-meta", "tagging")):
                without = {one: value for one, value in form.fields.items() if one != name}
                assert (await posted(form, b"x", fields=without)).status == 403
        assert (await posted(form, b"x")).status == 201
    for name in ("link", "form"):
        found = head(checked_bucket, f"team/r/data/{name}")
        assert (found["SSEKMSKeyId"], found["StorageClass"]) == (key, "STANDARD_IA")
        assert found["Metadata"] == {"owner": "x"}
        tags = aws_client(checked_bucket.server).get_object_tagging(
            Bucket=checked_bucket.name, Key=f"team/r/data/{name}"
        )
        assert tags["TagSet"] == [{"Key": "team", "Value": "a b+c"}]


async def test_headers_that_were_not_signed_are_refused(checked_bucket: Bucket, tmp_path: Path) -> None:
    async with catalog_in(checked_bucket, tmp_path) as catalog:
        link = await catalog.presign_put("data/a", "r")
    assert (await sent(link, b"x", x_amz_meta_sha256="0" * 64)).status == 403


# Uploads by form.


@pytest.mark.parametrize("server", ["checked_bucket", "moto_bucket"])
async def test_what_was_uploaded_by_form_is_listed_and_got(
    server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bucket = request.getfixturevalue(server)
    content = b"\r\n--\r\nbinary\x00\xff" * 10
    async with catalog_in(bucket, tmp_path) as catalog:
        form = await catalog.presign_post("data/in/", "r", max_size=1000, content_types=["text/csv"])
        own = form.location.rpartition("/")[2]
        assert re.fullmatch(r"upload-[0-9a-f]{16}-", own)
        assert (await posted(form, content, filename="a b.csv")).status == 201
        exact = await catalog.presign_post("data/in", "r", max_size=1000, name="sub/only.csv")
        assert (await posted(exact, b"two", filename="other.csv")).status == 201
        listed = {entry.name: entry.data_hash async for entry in catalog.list("r")}
        await catalog.get("**", "r")
    assert listed == {
        f"data/in/{own}a b.csv": hashlib.sha256(content).hexdigest(),
        "data/in/sub/only.csv": hashlib.sha256(b"two").hexdigest(),
    }
    assert (tmp_path / f"data/in/{own}a b.csv").read_bytes() == content
    assert head(bucket, f"team/r/data/in/{own}a b.csv")["ContentType"] == "text/csv"
    assert form.location == f"s3://{bucket.name}/team/r/data/in/{own}"
    assert exact.location == f"s3://{bucket.name}/team/r/data/in/sub/only.csv"


async def test_a_form_is_for_its_folder_sizes_and_type(checked_bucket: Bucket, tmp_path: Path) -> None:
    async with catalog_in(checked_bucket, tmp_path) as catalog:
        form = await catalog.presign_post(
            "data/in", "r", max_size=10, min_size=2, content_types=["text/csv", "image/*"]
        )
        own = form.fields_for("text/csv")
        pictures = form.fields_for("image/png")
        wrong = [
            (403, b"12345", {**own, "key": "team/r/data/other/${filename}"}),
            (403, b"12345", {**own, "key": "team/r/data/in/${filename}"}),
            (403, b"12345", {**own, "key": "team/r/data/in/.asyncstore/packs/${filename}"}),
            (403, b"12345", {**own, "key": "team/r/data/in2/${filename}"}),
            (403, b"12345", {**own, "key": "team/s/data/in/${filename}"}),
            (403, b"12345", {**own, "Content-Type": "text/html"}),
            (403, b"12345", {**pictures, "Content-Type": "text/html"}),
            (403, b"12345", {**pictures, "Content-Type": "image/png,text/html"}),
            (403, b"12345", {**own, "x-amz-meta-sha256": "0" * 64}),
            (403, b"12345", {**own, "acl": "public-read"}),
            (403, b"12345", {**own, "x-amz-signature": "0" * 64}),
            (403, b"12345", {**own, "policy": pictures["policy"]}),
            (403, b"12345", {name: value for name, value in own.items() if name != "policy"}),
            (400, b"12345678901", own),
            (400, b"1", own),
        ]
        for status, body, fields in wrong:
            assert (await posted(form, body, fields=fields)).status == status, fields
        assert [entry async for entry in catalog.list("r")] == []
        for fields in (own, pictures):
            assert (await posted(form, b"1234567890", fields=fields)).status == 201


async def test_a_form_is_for_its_only_name(checked_bucket: Bucket, tmp_path: Path) -> None:
    async with catalog_in(checked_bucket, tmp_path) as catalog:
        form = await catalog.presign_post("data", "r", max_size=10, name="a.csv")
    assert (await posted(form, b"x", fields={**form.fields, "key": "team/r/data/a.csv2"})).status == 403
    assert (await posted(form, b"x")).status == 201


async def test_a_form_is_for_its_bucket(s3_stub: StubServer, checked_bucket: Bucket, tmp_path: Path) -> None:
    other = s3_stub.make_bucket(f"{checked_bucket.name}-2")
    async with catalog_in(checked_bucket, tmp_path) as catalog:
        form = await catalog.presign_post("data", "r", max_size=10)
    moved = PresignedPost(f"{s3_stub.endpoint_url}/{other.name}", "", form.expires_at, forms=form.forms)
    assert (await posted(moved, b"x")).status == 403


async def test_a_form_ends(checked_bucket: Bucket, tmp_path: Path) -> None:
    async with catalog_in(checked_bucket, tmp_path) as catalog:
        catalog._credentials.clock.skew_s = -3660.0
        form = await catalog.presign_post("data", "r", max_size=10)
    answer = await posted(form, b"x")
    assert (answer.status, b"Policy expired" in answer.body) == (403, True)


async def test_the_uploader_cannot_leave_the_folder_by_the_files_name(checked_bucket: Bucket, tmp_path: Path) -> None:
    async with catalog_in(checked_bucket, tmp_path) as catalog:
        form = await catalog.presign_post("data/in", "r", max_size=10)
        # To S3 a key is no path; the name is what comes after the last slash.
        assert (await posted(form, b"x", filename="../../evil.txt")).status == 201
        start = form.location.partition("/team/r/")[2]
        assert [entry.name async for entry in catalog.list("r")] == [f"{start}evil.txt"]
        # A program may send any key that begins so: it is refused where it would become a path.
        fields = {**form.fields, "key": f"team/r/{start}/../../../evil"}
        assert (await posted(form, b"x", fields=fields)).status == 201
        with pytest.raises(UnsafePathError, match="evil"):
            await catalog.get("**", "r")


async def test_forms_of_one_folder_have_names_of_their_own(checked_bucket: Bucket, tmp_path: Path) -> None:
    make(tmp_path, {"a.txt": b"ours"})
    async with catalog_in(checked_bucket, tmp_path) as catalog:
        await catalog.put("**", "r")
        forms = [await catalog.presign_post("data", "r", max_size=10) for _ in range(2)]
        for form in forms:
            assert (await posted(form, b"theirs", filename="a.txt")).status == 201
        assert len([entry async for entry in catalog.list("r")]) == 3
        await catalog.get("**", "r")
    assert (tmp_path / "data/a.txt").read_bytes() == b"ours"


@pytest.mark.parametrize("filename", [".asyncstore", "..", ".", "", "a/.asyncstore", "C:\\a\\..", "é 🙂"])
async def test_whatever_a_browser_calls_its_file_it_is_one(
    checked_bucket: Bucket, tmp_path: Path, filename: str
) -> None:
    async with catalog_in(checked_bucket, tmp_path) as catalog:
        form = await catalog.presign_post("data", "r", max_size=10)
        assert (await posted(form, b"x", filename=filename)).status == 201
        assert len(await catalog.get("**", "r")) == 1


EVIL = b"#!/bin/sh"


async def forge(form: PresignedPost, folder: str, name: str, run_folder: str = "team/r/") -> list[int]:
    """Send a pack of one file and its index into a folder of the run by a form; return the answers' statuses."""
    stamp, put_id = "20991231T000000000000Z", "00000000000000ff"
    pack = pack_name(stamp, put_id, 0)
    index = Index([pack], [name], [0], [0], [len(EVIL)], hashlib.sha256(EVIL).hexdigest(), [0o4755], [None])
    contents = {pack: EVIL, index_name(stamp, put_id): encode(index)}
    keys = {f"{run_folder}{folder}.asyncstore/packs/{one}": content for one, content in contents.items()}
    return [(await posted(form, content, fields={**form.fields, "key": key})).status for key, content in keys.items()]


@pytest.mark.parametrize("layout", ["plain", "packed"])
async def test_no_form_for_a_folder_makes_packs(checked_bucket: Bucket, tmp_path: Path, layout: str) -> None:
    make(tmp_path, {"good.txt": b"good", "in/other.txt": b"other"})
    async with catalog_in(checked_bucket, tmp_path, layout=layout) as catalog:
        before = await catalog.put("**", "r")
        for prefix in ("data/in", "data", ""):
            form = await catalog.presign_post(prefix, "r", max_size=1000)
            folder = f"{prefix}/" if prefix else ""
            assert await forge(form, folder, "good.txt" if prefix else "data/good.txt") == [403, 403]
            # A program may send what only looks like packs, into a folder below the name that is its own.
            own = form.location.partition("/team/r/")[2]
            for below in (f"{own}x/", f"{own}x/y/", f"{own}/"):
                assert await forge(form, below, "run.sh") == [201, 201]
                assert await forge(form, below, "../good.txt") == [201, 201]
    async with catalog_in(checked_bucket, tmp_path, layout=layout) as catalog:
        listed = [entry async for entry in catalog.list("r")]
        assert sorted(entry.name for entry in listed) == [entry.name for entry in before]
        await asyncio.to_thread((tmp_path / "data/good.txt").unlink)
        assert [entry.name for entry in await catalog.get("**", "r")] == [entry.name for entry in before]
        assert [entry.name for entry in await catalog.sync_between_runs("r", "s")] == [entry.name for entry in before]
        assert (await catalog.verify("r")).ok
        await catalog.put("**", "r")
        await catalog.delete("r")
        assert [entry async for entry in catalog.list("r")] == []
    assert (tmp_path / "data/good.txt").read_bytes() == b"good"
    assert not await asyncio.to_thread(lambda: list(tmp_path.rglob("run.sh")))


async def test_a_folder_that_is_called_as_forms_call_files_is_not_put(stub_bucket: Bucket, tmp_path: Path) -> None:
    make(tmp_path, {"upload-0123456789abcdef-x/a": b"a"})
    named = "data/upload-0123456789abcdef-x"
    async with catalog_in(stub_bucket, tmp_path, layout="packed") as catalog:
        with pytest.raises(UnsafePathError, match="uploads by form"):
            await catalog.put("**", "r", named, local_folder=tmp_path / named)
        # Of the folder above, packs count.
        assert [entry.name for entry in await catalog.put("**", "r")] == [f"{named}/a"]
        assert [entry.name async for entry in catalog.list("r")] == [f"{named}/a"]


async def test_runs_and_prefixes_may_be_called_as_forms_call_files(stub_bucket: Bucket, tmp_path: Path) -> None:
    make(tmp_path, {"a": b"a"})
    name = "upload-0123456789abcdef-x"
    async with catalog_in(stub_bucket, tmp_path, layout="packed", prefix=name) as catalog:
        await catalog.put("**", name)
        assert [entry.name async for entry in catalog.list(name)] == ["data/a"]


# What is refused before anything is signed.

BAD_NAMES = [
    "",
    "/data/a",
    "data/../a",
    "../s/data/a",
    "data//a",
    "data/",
    "data/a\\b",
    "data/a\nb",
    "data/.asyncstore",
    "data/.asyncstore/packs/x",
    "data/.AsyncStore/x",
    "C:/a",
    "data/" + "a" * 300,
    "\ud800",
]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_names_that_no_file_can_have(s3_stub: StubServer, stub_bucket: Bucket, tmp_path: Path, name: str) -> None:
    async with catalog_in(stub_bucket, tmp_path) as catalog:
        with pytest.raises(UnsafePathError):
            await catalog.presign_get(name, "r")
        with pytest.raises(UnsafePathError):
            await catalog.presign_put(name, "r")
        if name not in {"", "data/"}:
            with pytest.raises(UnsafePathError):
                await catalog.presign_post(name, "r", max_size=1)
    assert s3_stub.requests.total() == 0


@pytest.mark.parametrize(("prefix", "name"), [("data//", ""), ("data/$x", ""), ("data", "${filename}"), ("data", "..")])
async def test_folders_that_no_form_can_be_for(stub_bucket: Bucket, tmp_path: Path, prefix: str, name: str) -> None:
    async with catalog_in(stub_bucket, tmp_path) as catalog:
        with pytest.raises(UnsafePathError):
            await catalog.presign_post(prefix, "r", max_size=1, name=name)


@pytest.mark.parametrize("run_id", ["", "..", "a/b", "a\n"])
async def test_runs_that_cannot_be(stub_bucket: Bucket, tmp_path: Path, run_id: str) -> None:
    async with catalog_in(stub_bucket, tmp_path) as catalog:
        for signing in (
            catalog.presign_get("data/a", run_id),
            catalog.presign_put("data/a", run_id),
            catalog.presign_post("data", run_id, max_size=1),
        ):
            with pytest.raises(ValueError, match="run id"):
                await signing


async def test_values_that_cannot_be(stub_bucket: Bucket, tmp_path: Path) -> None:
    async with catalog_in(stub_bucket, tmp_path) as catalog:
        for signing in (
            catalog.presign_get("data/a", "r", expires=timedelta(days=8)),
            catalog.presign_put("data/a", "r", expires=0),
            catalog.presign_get("data/a", "r", content_type="text/csv\r\nX: y"),
            catalog.presign_get("data/a", "r", content_type="csv"),
            catalog.presign_put("data/a", "r", sha256="abc"),
            catalog.presign_put("data/a", "r", size_bytes=5 * 1024**3 + 1),
            catalog.presign_post("data", "r", max_size=5 * 1024**3 + 1),
            catalog.presign_post("data", "r", max_size=-1),
            catalog.presign_post("data", "r", max_size=1, min_size=2),
            catalog.presign_post("data", "r", max_size=1, content_types=["*/csv"]),
            catalog.presign_post("data", "r", max_size=1, content_types=["image/p*"]),
        ):
            with pytest.raises(InvalidValueError):
                await signing


async def test_a_file_that_is_not_there(checked_bucket: Bucket, tmp_path: Path) -> None:
    async with catalog_in(checked_bucket, tmp_path) as catalog:
        where = re.escape(f"there is no s3://{checked_bucket.name}/team/r/data/a")
        with pytest.raises(NotFoundError, match=f"run 'r' has no file 'data/a': {where}"):
            await catalog.presign_get("data/a", "r")


async def test_a_packed_file_has_no_link_of_its_own(checked_bucket: Bucket, tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": b"a", "b.csv": b"b"})
    async with catalog_in(checked_bucket, tmp_path, layout="packed") as catalog:
        await catalog.put("**", "r")
        with pytest.raises(ConfigurationError, match=r"file 'data/a.csv' of run 'r' has no object .*layout 'plain'"):
            await catalog.presign_get("data/a.csv", "r")
        # An object of its own counts before what is packed.
        assert (await sent(await catalog.presign_put("data/a.csv", "r"), b"new")).status == 200
        assert (await sent(await catalog.presign_get("data/a.csv", "r"))).body == b"new"


@pytest.mark.parametrize("kind", ["folder", "nothing", "memory"])
async def test_where_there_are_no_links(kind: str, tmp_path: Path) -> None:
    memory = MemoryObjectStore()
    catalogs: dict[str, Catalog] = {
        "folder": FileSystemCatalog(catalog_location=tmp_path / "c", compute_data_folder=tmp_path / "data"),
        "nothing": DoNothingCatalog(),
        "memory": Catalog(memory, compute_data_folder=tmp_path / "data"),
    }
    make(tmp_path, {"a": b"a"})
    async with memory, catalogs[kind] as catalog:
        await catalog.put("**", "r")
        for signing in (
            catalog.presign_get("data/a", "r"),
            catalog.presign_put("data/a", "r"),
            catalog.presign_post("data", "r", max_size=1),
        ):
            with pytest.raises(ConfigurationError, match="is in no bucket, so there are no links"):
                await signing


async def test_the_access_mode_counts_before_anything_is_signed(
    s3_stub: StubServer, stub_bucket: Bucket, tmp_path: Path
) -> None:
    for allowed in ("read", "write"):
        catalog = S3Catalog(**stub_bucket.options, compute_data_folder=tmp_path)
        catalog.restrict(Access(allow_read=allowed == "read", allow_write=allowed == "write"))
        async with catalog:
            refused: list[Any] = [catalog.presign_get("data/a", "r")]
            if allowed == "read":
                refused[0].close()
                refused = [catalog.presign_put("data/a", "r"), catalog.presign_post("data", "r", max_size=1)]
            for signing in refused:
                with pytest.raises(AccessModeError):
                    await signing
    assert s3_stub.requests.total() == 0


async def test_a_closed_catalog_signs_nothing(stub_bucket: Bucket, tmp_path: Path) -> None:
    async with catalog_in(stub_bucket, tmp_path) as catalog:
        pass
    for signing in (
        catalog.presign_get("data/a", "r"),
        catalog.presign_put("data/a", "r"),
        catalog.presign_post("data", "r", max_size=1),
    ):
        with pytest.raises(ClosedError):
            await signing


# Sessions that end.


@pytest.fixture
def longest_session_s() -> int:
    """Return the longest session that the role of :func:`sts` allows, in seconds."""
    return 43_200


@pytest.fixture
def sts(moto: S3Server, longest_session_s: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Give moto's STS with a limit, and the lengths of the sessions that it was asked for."""
    lengths: list[int] = []

    def pass_on(asked: Asked) -> bytes:
        lengths.append(int(parse_qs(asked.body.decode())["DurationSeconds"][0]))
        if lengths[-1] > longest_session_s:
            told = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
            error = f"<Error><Type>Sender</Type><Code>ValidationError</Code><Message>{told}</Message></Error>"
            body = f"<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>".encode()
            return f"HTTP/1.1 400 X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        answer = ask(asked.method, moto.endpoint_url + asked.target, asked.body, asked.headers)
        return f"HTTP/1.1 {answer.status} X\r\nContent-Length: {len(answer.body)}\r\n\r\n".encode() + answer.body

    with PlayedServer(serve_all(pass_on)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url.removesuffix("/bucket"))
        yield lengths


async def test_a_role_is_assumed_for_as_long_as_its_links_are_good(
    moto_bucket: Bucket, sts: list[int], tmp_path: Path
) -> None:
    make(tmp_path, {"a": b"a"})
    async with catalog_in(moto_bucket, tmp_path, role_arn=ROLE) as catalog:
        await catalog.put("**", "r")
        async with asyncio.TaskGroup() as group:
            signing = [group.create_task(catalog.presign_get("data/a", "r", expires=HOUR)) for _ in range(20)]
        links = [one.result() for one in signing]
        brief = await catalog.presign_get("data/a", "r", expires=60)
        # What one server says of the time holds for all that is signed.
        assert catalog._signing_keys._longer is not None
        assert catalog._signing_keys._longer.clock is catalog._credentials.clock
    assert sts == [900, 3660]
    assert not any(link.shortened for link in [*links, brief])
    assert links[0].expires_at > datetime.now(UTC) + timedelta(minutes=59)
    assert parse_qs(urlsplit(brief.url).query)["X-Amz-Security-Token"] != parse_qs(urlsplit(links[0].url).query).get(
        "X-Amz-Security-Token"
    )
    assert (await sent(links[0])).body == b"a"


@pytest.mark.parametrize(
    ("longest_session_s", "lengths", "least_s"), [(3600, [900, 7260, 3600], 3500), (900, [900, 7260, 3600, 900], 800)]
)
async def test_a_link_promises_no_more_than_its_credentials(
    moto_bucket: Bucket, sts: list[int], tmp_path: Path, longest_session_s: int, lengths: list[int], least_s: int
) -> None:
    async with catalog_in(moto_bucket, tmp_path, role_arn=ROLE) as catalog:
        link = await catalog.presign_put("data/a", "r", expires=2 * HOUR)
        form = await catalog.presign_post("data", "r", max_size=1, expires=2 * HOUR)
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(catalog.presign_put("data/a", "r", expires=2 * HOUR))
    assert sts == lengths
    query = parse_qs(urlsplit(link.url).query)
    for expires_at, shortened in ((link.expires_at, link.shortened), (form.expires_at, form.shortened)):
        left_s = (expires_at - datetime.now(UTC)).total_seconds()
        assert least_s < left_s <= longest_session_s
        assert shortened
    assert least_s < int(query["X-Amz-Expires"][0]) <= longest_session_s
    policy = json.loads(base64.b64decode(form.fields["policy"]))
    assert datetime.fromisoformat(policy["expiration"]) == form.expires_at.replace(microsecond=0)
    assert form.fields["x-amz-security-token"]


async def test_a_session_of_the_environment_is_part_of_what_is_signed(
    moto_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the+token/=")
    async with catalog_in(moto_bucket, tmp_path, use_credentials=True) as catalog:
        link = await catalog.presign_put("data/a", "r")
        form = await catalog.presign_post("data", "r", max_size=1)
    assert parse_qs(urlsplit(link.url).query)["X-Amz-Security-Token"] == ["the+token/="]
    assert form.fields["x-amz-security-token"] == "the+token/="


# Secrets, and the command.


async def test_links_are_in_no_log_and_no_repr(
    checked_bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-token")
    caplog.set_level(logging.DEBUG)
    make(tmp_path, {"a": b"a"})
    async with catalog_in(checked_bucket, tmp_path) as catalog:
        await catalog.put("**", "r")
        links = [await catalog.presign_get("data/a", "r"), await catalog.presign_put("data/a", "r")]
        form = await catalog.presign_post("data", "r", max_size=1)
    secrets = [parse_qs(urlsplit(link.url).query)["X-Amz-Signature"][0] for link in links]
    secrets += [form.fields["x-amz-signature"], form.fields["policy"], "canary-token", checked_bucket.server.secret_key]
    shown = f"{caplog.text}{links!r}{form!r}{form}{catalog!r}"
    assert [secret for secret in secrets if secret in shown] == []


@pytest.fixture
def shared(moto_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Put a file of run r into a configured catalog."""
    monkeypatch.chdir(tmp_path)
    config = {"catalog": {"type": "s3", "config": {**moto_bucket.options, "prefix": "team"}}}
    Path("asyncstore.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("ASYNCSTORE_CONFIG", "asyncstore.yaml")
    make(tmp_path, {"a.csv": b"shared"})
    assert run(["catalog", "put", "r"]) == 0
    return moto_bucket


def test_the_command_prints_the_link_alone(shared: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["catalog", "share", "r", "data/a.csv", "--expires", "30min", "--as", "report.csv"]) == 0
    out, error = capsys.readouterr()
    (url,) = out.splitlines()
    answer = ask("GET", url)
    assert (answer.body, 'filename="report.csv"' in answer.headers["content-disposition"]) == (b"shared", True)
    until = r"until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"
    where = re.escape(f"s3://{shared.name}/team/r/data/a.csv")
    assert re.fullmatch(f"anybody can download {where} by it {until}", error.strip())
    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == ["1800"]


def test_the_command_prints_json(shared: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["--json", "catalog", "share", "r", "data/a.csv"]) == 0
    out, error = capsys.readouterr()
    told = json.loads(out)
    assert set(told) == {"url", "method", "location", "expires_at", "shortened"}
    assert (told["method"], told["shortened"], error) == ("GET", False, "")
    left_s = datetime.fromisoformat(told["expires_at"]).timestamp() - time.time()
    assert 3500 < left_s <= 3600
    assert ask("GET", told["url"]).body == b"shared"


def test_the_command_tells_that_a_link_ends_with_its_session(
    shared: Bucket, sts: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(Path("asyncstore.yaml").read_text())
    config["catalog"]["config"]["role_arn"] = ROLE
    Path("asyncstore.yaml").write_text(yaml.safe_dump(config))
    capsys.readouterr()
    assert run(["catalog", "share", "r", "data/a.csv", "--expires", "7d"]) == 0
    _, error = capsys.readouterr()
    assert error.rstrip().endswith(", sooner than asked for: the credentials in use end then")
    assert sts == [900, 43_200]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["data/b.csv"], 3, "run 'r' has no file 'data/b.csv'"),
        (["../x"], 2, "'../x' has '..' as a segment"),
        (["data/a.csv", "--expires", "8d"], 2, "expires must be"),
        (["data/a.csv", "--expires", "soon"], 2, "'soon' is no time"),
        (["data/a.csv", "--as", "a/b"], 2, "cannot be the name of a file"),
    ],
)
def test_the_command_says_what_is_wrong(
    shared: Bucket, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, told: str
) -> None:
    capsys.readouterr()
    assert run(["catalog", "share", "r", *arguments]) == code
    out, error = capsys.readouterr()
    assert (out, told in error) == ("", True)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h", 3600), ("30min", 1800), ("30 m", 1800), ("90", 90), ("1.5h", 5400), ("7D", 604_800)]
)
def test_times_of_the_command(text: str, seconds: int) -> None:
    assert lifetime(text) == timedelta(seconds=seconds)


async def test_every_error_is_ours(stub_bucket: Bucket, s3_stub: StubServer, tmp_path: Path) -> None:
    s3_stub.configure(denied_operations=["HeadObject", "ListObjectsV2"])
    async with catalog_in(stub_bucket, tmp_path) as catalog:
        with pytest.raises(AsyncStoreError, match="AccessDenied"):
            await catalog.presign_get("data/a", "r")
