"""Buckets made ready on real servers: what is there afterwards, what was there before, and who may not."""

from __future__ import annotations

import asyncio
import http.client
import logging
import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from asyncstore.aws.settings import AwsSettings
from asyncstore.bucket import BucketReport, State, WantedBucket, cors_rules, init_bucket
from asyncstore.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AsyncStoreError,
    ConfigurationError,
    CredentialsError,
    UnavailableError,
)
from tests._aws_clients import aws_client
from tests._http_server import Asked, PlayedServer, serve_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncstore.testing.servers import S3Server

ORIGIN = "https://app.example.com"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
WANTED = WantedBucket(origins=(ORIGIN,), expire_days=30, expire_prefix="tmp")
GETS = (
    "get_public_access_block",
    "get_bucket_versioning",
    "get_bucket_encryption",
    "get_bucket_cors",
    "get_bucket_lifecycle_configuration",
    "get_bucket_location",
    "get_bucket_acl",
)


class Moto:
    """One bucket on moto, seen and changed by botocore's own client."""

    def __init__(self, server: S3Server) -> None:
        self.name = f"init-{uuid.uuid4().hex}"
        self.settings = AwsSettings(endpoint_url=server.endpoint_url)
        self.client: Any = aws_client(server)

    def make(self) -> None:
        self.client.create_bucket(Bucket=self.name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})

    def put(self, what: str, **parameters: Any) -> None:
        getattr(self.client, f"put_{what}")(Bucket=self.name, **parameters)

    def all(self) -> dict[str, Any]:
        found = {}
        for get in GETS:
            try:
                found[get] = getattr(self.client, get)(Bucket=self.name)
            except self.client.exceptions.ClientError as error:
                found[get] = {"code": error.response["Error"]["Code"]}
            found[get].pop("ResponseMetadata", None)
        return found

    async def init(self, wanted: WantedBucket = WANTED, **options: Any) -> BucketReport:
        return await init_bucket(self.name, self.settings, wanted, **options)


def states(report: BucketReport) -> dict[str, State]:
    return {setting.setting: setting.state for setting in report.settings}


def rules_in(found: dict[str, Any]) -> list[str]:
    return [rule["ID"] for rule in found["get_bucket_lifecycle_configuration"]["Rules"]]


@pytest.fixture
async def made(moto: S3Server) -> Moto:
    """Return a bucket that is there already."""
    bucket = await asyncio.to_thread(Moto, moto)
    await asyncio.to_thread(bucket.make)
    return bucket


async def test_a_bucket_is_made_and_a_second_run_changes_nothing(moto: S3Server) -> None:
    bucket = await asyncio.to_thread(Moto, moto)
    first = await bucket.init()
    there = await asyncio.to_thread(bucket.all)
    assert (first.existed, first.changes, first.failures) == (False, 6, [])
    assert there["get_public_access_block"]["PublicAccessBlockConfiguration"] == {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": True,
        "RestrictPublicBuckets": True,
    }
    assert there["get_bucket_location"] == {"LocationConstraint": "eu-west-1"}
    assert there["get_bucket_versioning"] == {}
    (encryption,) = there["get_bucket_encryption"]["ServerSideEncryptionConfiguration"]["Rules"]
    assert encryption["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    assert there["get_bucket_cors"]["CORSRules"] == [cors_rules([ORIGIN])[0].document()]
    abort, expire = there["get_bucket_lifecycle_configuration"]["Rules"]
    assert (abort["AbortIncompleteMultipartUpload"], abort["Filter"]) == ({"DaysAfterInitiation": 7}, {"Prefix": ""})
    assert (expire["Expiration"], expire["Filter"]) == ({"Days": 30}, {"Prefix": "tmp/"})

    second = await bucket.init()
    assert (second.existed, second.changes) == (True, 0)
    assert set(states(second).values()) == {State.FINE}
    assert await asyncio.to_thread(bucket.all) == there


async def test_a_dry_run_changes_nothing_and_says_what_it_would(moto: S3Server, made: Moto) -> None:
    before = await asyncio.to_thread(made.all)
    report = await made.init(dry_run=True)
    assert (report.changes, await asyncio.to_thread(made.all)) == (5, before)
    assert {setting.setting for setting in report.settings if setting.state is State.TO_CHANGE} == {
        *("public access", "encryption", "CORS", "unfinished uploads", "expiry")
    }
    absent = await asyncio.to_thread(Moto, moto)
    assert (await absent.init(dry_run=True)).changes == 6
    assert "NoSuchBucket" in str(await asyncio.to_thread(absent.all))


async def test_us_east_1_is_made_without_its_name(moto: S3Server) -> None:
    bucket = await asyncio.to_thread(Moto, moto)
    bucket.settings = AwsSettings(endpoint_url=moto.endpoint_url, region="us-east-1")
    assert not (await bucket.init()).failures
    assert (await asyncio.to_thread(bucket.all))["get_bucket_location"] == {"LocationConstraint": None}


async def test_objects_are_encrypted_by_a_key(made: Moto) -> None:
    report = await made.init(WantedBucket(kms_key=KEY))
    assert states(report)["encryption"] is State.CHANGED
    there = (await asyncio.to_thread(made.all))["get_bucket_encryption"]
    assert there["ServerSideEncryptionConfiguration"]["Rules"] == [
        {
            "ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY},
            "BucketKeyEnabled": True,
        }
    ]
    kept = await made.init(WantedBucket())
    assert states(kept)["encryption"] is State.KEPT
    assert (await asyncio.to_thread(made.all))["get_bucket_encryption"] == there
    assert states(await made.init(WantedBucket(), force=True))["encryption"] is State.CHANGED


async def test_versions_are_kept_until_it_is_forced(made: Moto) -> None:
    await asyncio.to_thread(made.put, "bucket_versioning", VersioningConfiguration={"Status": "Enabled"})
    report = await made.init()
    assert states(report)["versioning"] is State.KEPT
    assert (await asyncio.to_thread(made.all))["get_bucket_versioning"]["Status"] == "Enabled"
    assert states(await made.init(force=True))["versioning"] is State.CHANGED
    assert (await asyncio.to_thread(made.all))["get_bucket_versioning"]["Status"] == "Suspended"


async def test_a_locked_bucket_keeps_its_versions_whatever_is_forced(moto: S3Server) -> None:
    bucket = await asyncio.to_thread(Moto, moto)
    where = {"LocationConstraint": "eu-west-1"}
    await asyncio.to_thread(
        bucket.client.create_bucket,
        Bucket=bucket.name,
        CreateBucketConfiguration=where,
        ObjectLockEnabledForBucket=True,
    )
    report = await bucket.init(force=True)
    assert states(report) | {"object lock": State.KEPT, "versioning": State.KEPT} == states(report)
    assert (await asyncio.to_thread(bucket.all))["get_bucket_versioning"]["Status"] == "Enabled"


async def test_rules_of_others_stay(made: Moto) -> None:
    site = {"ID": "site", "AllowedOrigins": ["https://b.example"], "AllowedMethods": ["GET"]}
    days = {"DaysAfterInitiation": 2}
    transitions = [{"Days": 90, "StorageClass": "GLACIER"}]
    lifecycle = [
        {"ID": "sooner", "Status": "Enabled", "Filter": {"Prefix": ""}, "AbortIncompleteMultipartUpload": days},
        {"ID": "archive", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 400}}
        | {"Transitions": transitions},
    ]
    await asyncio.to_thread(made.put, "bucket_cors", CORSConfiguration={"CORSRules": [site]})
    await asyncio.to_thread(made.put, "bucket_lifecycle_configuration", LifecycleConfiguration={"Rules": lifecycle})
    before = await asyncio.to_thread(made.all)
    report = await made.init()
    after = await asyncio.to_thread(made.all)
    assert states(report)["expiry"] is State.KEPT
    assert states(report)["unfinished uploads"] is State.FINE
    assert after["get_bucket_lifecycle_configuration"] == before["get_bucket_lifecycle_configuration"]
    assert [rule["ID"] for rule in after["get_bucket_cors"]["CORSRules"]] == ["site", "asyncstore"]
    assert after["get_bucket_cors"]["CORSRules"][0] == before["get_bucket_cors"]["CORSRules"][0]

    await made.init(force=True)
    forced = (await asyncio.to_thread(made.all))["get_bucket_lifecycle_configuration"]["Rules"]
    assert [rule["ID"] for rule in forced] == ["sooner", "archive"]
    assert forced[1]["Expiration"] == {"Days": 30}
    assert forced[1]["Transitions"] == transitions


async def test_what_others_changed_in_our_rules_stays(made: Moto) -> None:
    await made.init()
    (cors,) = (await asyncio.to_thread(made.all))["get_bucket_cors"]["CORSRules"]
    cors["AllowedMethods"].append("DELETE")
    cdn = {"ID": "cdn", "AllowedOrigins": ["*"], "AllowedMethods": ["GET"]}
    abort, expire = (await asyncio.to_thread(made.all))["get_bucket_lifecycle_configuration"]["Rules"]
    theirs = [
        abort | {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 30}},
        expire | {"Status": "Disabled", "NoncurrentVersionExpiration": {"NoncurrentDays": 90}},
    ]
    await asyncio.to_thread(made.put, "bucket_cors", CORSConfiguration={"CORSRules": [cors, cdn]})
    await asyncio.to_thread(made.put, "bucket_lifecycle_configuration", LifecycleConfiguration={"Rules": theirs})
    before = await asyncio.to_thread(made.all)
    report = await made.init(WantedBucket(origins=("https://b.example",), expire_days=30, expire_prefix="tmp"))
    after = await asyncio.to_thread(made.all)
    assert states(report)["unfinished uploads"] is states(report)["expiry"] is State.KEPT
    assert after["get_bucket_lifecycle_configuration"] == before["get_bucket_lifecycle_configuration"]
    cors["AllowedOrigins"].append("https://b.example")
    assert after["get_bucket_cors"]["CORSRules"] == [cors, cdn]

    forced = await made.init(force=True)
    assert states(forced)["unfinished uploads"] is states(forced)["expiry"] is State.CHANGED
    rules = (await asyncio.to_thread(made.all))["get_bucket_lifecycle_configuration"]["Rules"]
    assert rules == [abort, theirs[1], expire | {"ID": f"{expire['ID']}-2"}]
    assert (await made.init(force=True)).changes == 0


async def test_a_key_of_somebody_stays(made: Moto) -> None:
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY}}
    theirs = {"Rules": [{**rule, "BucketKeyEnabled": False}]}
    await asyncio.to_thread(made.put, "bucket_encryption", ServerSideEncryptionConfiguration=theirs)
    before = (await asyncio.to_thread(made.all))["get_bucket_encryption"]
    for key in (KEY, KEY.replace("1234abcd", "9999abcd")):
        report = await made.init(WantedBucket(kms_key=key))
        assert states(report)["encryption"] is State.KEPT
        assert (await asyncio.to_thread(made.all))["get_bucket_encryption"] == before
    assert states(await made.init(WantedBucket(kms_key=key), force=True))["encryption"] is State.CHANGED
    assert key in str((await asyncio.to_thread(made.all))["get_bucket_encryption"])


async def test_a_second_origin_joins_the_first(made: Moto) -> None:
    await made.init(WantedBucket(origins=(ORIGIN,)))
    await made.init(WantedBucket(origins=("https://b.example",)))
    (rule,) = (await asyncio.to_thread(made.all))["get_bucket_cors"]["CORSRules"]
    assert rule["AllowedOrigins"] == [ORIGIN, "https://b.example"]


async def test_browsers_are_let_in_from_the_origin_alone(made: Moto) -> None:
    await made.init()
    for method in ("GET", "PUT", "POST"):
        status, headers = await asyncio.to_thread(preflight, made, ORIGIN, method)
        assert (status, headers["access-control-allow-origin"]) == (200, ORIGIN)
        assert method in headers["access-control-allow-methods"]
        assert headers["access-control-expose-headers"] == "ETag"
    for origin, method in (("https://evil.example", "PUT"), (ORIGIN, "DELETE")):
        status, headers = await asyncio.to_thread(preflight, made, origin, method)
        allowed = headers.get("access-control-allow-methods", "") if status == 200 else ""
        assert method not in allowed, f"{method} from {origin}"
    await made.init(WantedBucket(origins=("https://b.example",)), force=True)
    assert (await asyncio.to_thread(preflight, made, ORIGIN, "PUT"))[0] == 403


def preflight(bucket: Moto, origin: str, method: str) -> tuple[int, dict[str, str]]:
    """Ask what a browser asks before a page of ``origin`` may send such a request."""
    connection = http.client.HTTPConnection(urlsplit(bucket.settings.service_url).netloc, timeout=30)
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "content-type"}
    try:
        connection.request("OPTIONS", f"/{bucket.name}/tmp/a.csv", headers={"Origin": origin, **asked})
        answer = connection.getresponse()
        answer.read()
        return answer.status, {name.lower(): said for name, said in answer.getheaders()}
    finally:
        connection.close()


# Other servers, and other people's buckets.


async def test_what_a_server_does_not_know_is_told_and_stops_nothing(rclone: S3Server) -> None:
    settings = AwsSettings(endpoint_url=rclone.endpoint_url)
    name = f"init-{uuid.uuid4().hex}"
    for existed in (False, True):
        report = await init_bucket(name, settings, WANTED)
        assert (report.existed, report.failures) == (existed, [])
        unsupported = {"public access", "encryption", "CORS", "unfinished uploads", "expiry"}
        assert {name for name, state in states(report).items() if state is State.UNSUPPORTED} == unsupported
        assert states(report)["versioning"] is State.FINE


def said(status: int, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>it says why</Message></Error>".encode()
    head = "x-amz-bucket-region: us-west-2\r\nContent-Type: application/xml\r\n"
    return f"HTTP/1.1 {status} Other\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def without_body(status: int, *, region: str = "us-west-2") -> bytes:
    head = f"x-amz-bucket-region: {region}\r\n" if region else ""
    return f"HTTP/1.1 {status} Other\r\n{head}Content-Length: 0\r\n\r\n".encode()


@contextmanager
def playing(answer: Callable[[Asked], bytes]) -> Iterator[tuple[AwsSettings, list[Asked]]]:
    """Run a server that answers each request so; give settings that lead to it, and what it is asked."""
    with PlayedServer(serve_all(answer)) as server:
        yield AwsSettings(endpoint_url=f"http://127.0.0.1:{server.port}"), server.asked


@pytest.mark.parametrize(
    ("head", "other", "kind", "words"),
    [
        (301, "PermanentRedirect", ConfigurationError, "is in us-west-2 and not in eu-west-1: say so by --region"),
        (400, "AuthorizationHeaderMalformed", ConfigurationError, "is in us-west-2 and not in eu-west-1"),
        (403, "AccessDenied", AccessDeniedError, "it belongs to somebody else, or s3:ListBucket is missing"),
        (404, "BucketAlreadyExists", AlreadyExistsError, "belongs to somebody else: all accounts"),
        (404, "AccessDenied", AccessDeniedError, "create s3://data: it says why"),
        (404, "IllegalLocationConstraintException", ConfigurationError, "it says why"),
        (404, "InvalidAccessKeyId", CredentialsError, "access key is not known"),
    ],
)
async def test_buckets_that_cannot_be_had(head: int, other: str, kind: type[AsyncStoreError], words: str) -> None:
    def answer(asked: Asked) -> bytes:
        return without_body(head) if asked.method == "HEAD" else said(409 if "Exists" in other else head, other)

    with playing(answer) as (settings, asked):
        with pytest.raises(kind, match=words):
            await init_bucket("data", settings, WANTED)
        assert [request.target for request in asked if request.method == "PUT"] == ["/data"] * (head == 404)


@pytest.mark.parametrize("code", ["BucketAlreadyOwnedByYou", "BucketAlreadyExists"])
async def test_a_bucket_that_somebody_made_meanwhile_is_made_ready(made: Moto, moto: S3Server, code: str) -> None:
    looked: list[str] = []

    def answer(asked: Asked) -> bytes:
        if asked.method == "HEAD":
            looked.append(asked.target)
            return without_body(404, region="") if len(looked) == 1 else forwarded(moto, asked)
        return said(409, code) if asked.target == f"/{made.name}" else forwarded(moto, asked)

    with playing(answer) as (made.settings, _):
        report = await made.init()
    assert (report.failures, states(report)["CORS"]) == ([], State.CHANGED)


async def test_a_cancelled_run_asks_for_nothing_more(made: Moto, moto: S3Server) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def answer(asked: Asked) -> bytes:
        if asked.method == "PUT" and "?encryption" in asked.target:
            reached.set()
            go_on.wait(30)
        return forwarded(moto, asked)

    with playing(answer) as (made.settings, asked):
        run = asyncio.create_task(made.init())
        await asyncio.to_thread(reached.wait, 30)
        run.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await run
        changed = [request.target for request in asked if request.method == "PUT"]
    assert changed == [f"/{made.name}?publicAccessBlock", f"/{made.name}?encryption"]


async def test_a_name_that_is_none_is_refused_before_anything_is_asked() -> None:
    settings = AwsSettings(endpoint_url="http://127.0.0.1:9")
    with pytest.raises(ConfigurationError, match="no name of a bucket"):
        await init_bucket("s3://data", settings)


async def test_a_denied_setting_is_told_and_does_not_stop_the_others(moto: S3Server) -> None:
    bucket = await asyncio.to_thread(Moto, moto)

    def answer(asked: Asked) -> bytes:
        denied = any(f"?{name}" in asked.target for name in ("cors", "encryption"))
        return said(403, "AccessDenied") if denied else forwarded(moto, asked)

    with playing(answer) as (bucket.settings, _):
        report = await bucket.init()
    assert {name for name, state in states(report).items() if state is State.FAILED} == {"CORS", "encryption"}
    assert [type(failure) for failure in report.failures] == [AccessDeniedError, AccessDeniedError]
    assert "it says why" in str(report.failures[0])
    assert rules_in(await asyncio.to_thread(bucket.all)) == [
        "asyncstore-abort-unfinished-uploads",
        "asyncstore-expire-tmp/",
    ]


async def test_a_setting_that_a_server_takes_and_forgets_is_told(moto: S3Server) -> None:
    bucket = await asyncio.to_thread(Moto, moto)

    def answer(asked: Asked) -> bytes:
        if asked.method == "PUT" and "?lifecycle" in asked.target:
            return without_body(200, region="")
        return forwarded(moto, asked)

    with playing(answer) as (bucket.settings, _):
        report = await bucket.init()
    ignored = {name for name, state in states(report).items() if state is State.IGNORED}
    assert ignored == {"unfinished uploads", "expiry"}
    assert states(report)["CORS"] is State.CHANGED


async def test_a_setting_that_a_server_shows_otherwise_is_told(made: Moto, moto: S3Server) -> None:
    def answer(asked: Asked) -> bytes:
        # A server that knows no bucket keys.
        return forwarded(moto, asked).replace(b"BucketKeyEnabled>", b"BucketKeyUnknown>")

    with playing(answer) as (made.settings, _):
        report = await made.init(WantedBucket(kms_key=KEY))
    assert states(report)["encryption"] is State.IGNORED


def forwarded(server: S3Server, asked: Asked) -> bytes:
    """Send a request on, and return the answer's bytes."""
    connection = http.client.HTTPConnection(urlsplit(server.endpoint_url).netloc, timeout=30)
    try:
        connection.request(asked.method, asked.target, asked.body or None, asked.headers)
        answer = connection.getresponse()
        body = answer.read()
        kept = {name: said for name, said in answer.getheaders() if name.lower().startswith(("x-amz", "content-type"))}
        head = "".join(f"{name}: {said}\r\n" for name, said in kept.items())
        return f"HTTP/1.1 {answer.status} Said\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    finally:
        connection.close()


async def test_a_server_that_is_down_is_told() -> None:
    with pytest.raises(UnavailableError, match="connection"):
        await init_bucket("data", AwsSettings(endpoint_url="http://127.0.0.1:9"))


async def test_no_secret_is_logged(
    made: Moto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-the-key")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-of-the-token")
    caplog.set_level(logging.DEBUG)
    report = await made.init()
    assert report.changes == 5
    assert "canary" not in caplog.text + repr(report)
