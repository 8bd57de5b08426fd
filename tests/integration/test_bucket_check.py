from __future__ import annotations

import asyncio
import json
import logging
import signal
import subprocess
import sys
from email.utils import formatdate
from time import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from asyncstore._core.access import Access
from asyncstore.aws.settings import AwsSettings
from asyncstore.bucket import check as checking
from asyncstore.bucket._check_plan import plan_checks
from asyncstore.bucket.check import check_bucket, granting
from asyncstore.bucket.documents import (
    PERMISSIONS,
    BucketAccess,
    multipart_role_policy,
    permissions_of,
    role_policy,
    statement_for,
    user_policy,
)
from asyncstore.cli._app import run
from asyncstore.errors import ConfigurationError, CredentialsError, UnavailableError
from asyncstore.testing.s3_stub import Fault
from asyncstore.testing.s3_stub._messages import Answer
from tests._aws_clients import aws_client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore._core.findings import Finding
    from asyncstore.testing.s3_stub._messages import Request
    from asyncstore.testing.s3_stub._storage import BucketContent
    from asyncstore.testing.servers import Bucket, S3Server
    from tests._watched import WatchedStub

KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ROLE = "arn:aws:iam::123456789012:role/uploads"
ORIGIN = "https://app.example.com"
EXTRAS: dict[str, Any] = {"kms_key_arn": KEY, "object_tags": {"team": "a"}}

ALL_ACTIONS = [
    permission.action
    for permission in permissions_of(BucketAccess(bucket="b", kms_keys=(KEY,), object_tags=True))
    if permission.action.partition(":")[0] != "sts"
]


def settings(bucket: Bucket, **more: object) -> AwsSettings:
    server = bucket.server
    return AwsSettings.parse({"endpoint_url": server.endpoint_url, "region": server.region, **more}, "test")


def access(bucket: Bucket, prefix: str = "", **more: Any) -> BucketAccess:
    return BucketAccess(bucket=bucket.name, prefixes=(prefix,), region=bucket.server.region, **more)


def without(action: str, document: dict[str, Any]) -> dict[str, Any]:
    """Return a policy that does not grant one action."""
    statements = [
        {**statement, "Action": [known for known in statement["Action"] if known != action]}
        for statement in document["Statement"]
    ]
    return {**document, "Statement": [statement for statement in statements if statement["Action"]]}


def states(findings: list[Finding], *wanted: str) -> dict[str, str]:
    return {finding.check: finding.state for finding in findings if not wanted or finding.state in wanted}


def find(findings: list[Finding], check: str) -> Finding:
    return next(finding for finding in findings if finding.check == check)


def problems(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.is_problem]


def left_in(content: BucketContent) -> tuple[list[str], int]:
    return list(content.objects), len(content.uploads)


async def test_everything_is_allowed(bucket: Bucket, content: BucketContent) -> None:
    findings = await check_bucket(bucket.name, settings(bucket), prefix="team/")
    assert problems(findings) == []
    assert states(findings, "unsupported", "note") == {"lifecycle": "note"}
    assert states(findings, "skipped").keys() == {
        *("assume role", "assume multipart role", "kms", "cors"),
        # The stub says neither.
        *("region", "clock"),
    }
    assert left_in(content) == ([], 0)


async def test_the_first_thing_is_a_small_test_object(stub: WatchedStub, bucket: Bucket) -> None:
    await check_bucket(bucket.name, settings(bucket), prefix="team/")
    asked = [(request.operation, request.key) for request in stub.seen]
    operations = [operation for operation, _ in asked if operation not in {"HeadBucket", "GetBucketLocation"}]
    assert operations[:2] == ["PutObject", "DeleteObjects"]
    assert all(key.startswith("team/.asyncstore-check-") for _, key in asked if key)


@pytest.mark.parametrize("prefix", ["", "team/logs/"])
@pytest.mark.parametrize("action", ALL_ACTIONS)
async def test_each_missing_action_is_named_and_no_other(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, action: str, prefix: str
) -> None:
    allowed = access(bucket, prefix, kms_keys=(KEY,), object_tags=True)
    stub.behaviour.policies = {"*": without(action, user_policy(allowed))}
    findings = await check_bucket(bucket.name, settings(bucket, **EXTRAS), prefix=prefix)
    assert {finding.permission for finding in problems(findings)} == {action}
    assert {str(finding.statement) for finding in problems(findings)} == {str(statement_for(action, allowed))}
    objects, uploads = left_in(content)
    assert uploads == 0
    if action == "s3:DeleteObject":
        assert find(findings, "clean up").detail.endswith(objects[0])
        assert len(objects) == 1
    else:
        assert objects == []
    # What it says grants it, does.
    whole = without(action, user_policy(allowed))
    whole["Statement"] += granting(findings)
    stub.behaviour.policies = {"*": whole}
    assert problems(await check_bucket(bucket.name, settings(bucket, **EXTRAS), prefix=prefix)) == []


@pytest.mark.parametrize("pair", [("s3:DeleteObject", "s3:AbortMultipartUpload"), ("s3:GetObject", "s3:ListBucket")])
async def test_two_missing_actions(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, pair: tuple[str, str]
) -> None:
    document = user_policy(access(bucket))
    stub.behaviour.policies = {"*": without(pair[1], without(pair[0], document))}
    findings = await check_bucket(bucket.name, settings(bucket))
    assert {finding.permission for finding in problems(findings)} == set(pair)
    assert left_in(content)[1] == 0


async def test_nothing_is_allowed(stub: WatchedStub, bucket: Bucket, content: BucketContent) -> None:
    stub.behaviour.policies = {
        "*": {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}
    }
    findings = await check_bucket(bucket.name, settings(bucket))
    named = {finding.permission for finding in problems(findings)}
    assert named == {
        *("s3:PutObject", "s3:DeleteObject", "s3:ListBucket", "s3:ListBucketMultipartUploads"),
        # Both are missing, and of the second nothing can be told without an object.
        "s3:ListBucket",
    }
    assert left_in(content) == ([], 0)


async def test_settings_that_may_not_be_read_are_no_failure(stub: WatchedStub, bucket: Bucket) -> None:
    stub.behaviour.policies = {"*": user_policy(access(bucket))}
    findings = await check_bucket(bucket.name, settings(bucket))
    assert problems(findings) == []
    assert "s3:GetBucketVersioning" in find(findings, "versioning").detail
    assert states(findings, "note") == {"versioning": "note", "lifecycle": "note"}


async def test_a_server_that_names_the_action_is_believed(stub: WatchedStub, bucket: Bucket) -> None:
    said = (
        "User: arn:aws:iam::1:user/a is not authorized to perform: kms:GenerateDataKey on resource: x because no "
        "resource-based policy allows the kms:GenerateDataKey action"
    )

    def deny(request: Request) -> Answer | None:
        if request.operation != "CreateMultipartUpload":
            return None
        return Answer(403, f"<Error><Code>AccessDenied</Code><Message>{said}</Message></Error>".encode())

    stub.answer = deny
    findings = await check_bucket(bucket.name, settings(bucket, kms_key_arn=KEY))
    assert find(findings, "multipart create").permission == "kms:GenerateDataKey"


@pytest.mark.parametrize(
    ("words", "by"),
    [
        ("with an explicit deny in an identity-based policy: arn:aws:iam::1:policy/p", "an identity-based policy"),
        ("with an explicit deny in a VPC endpoint policy", "a VPC endpoint policy"),
        ("with an explicit deny", "a policy"),
    ],
)
async def test_an_explicit_deny_is_told_and_nothing_promised(
    stub: WatchedStub, bucket: Bucket, words: str, by: str
) -> None:
    said = f"User: arn:aws:iam::1:user/a is not authorized to perform: s3:PutObject on resource: x {words}"

    def deny(request: Request) -> Answer | None:
        if request.operation not in {"PutObject", "CreateMultipartUpload"}:
            return None
        return Answer(403, f"<Error><Code>AccessDenied</Code><Message>{said}</Message></Error>".encode())

    stub.answer = deny
    findings = await check_bucket(bucket.name, settings(bucket))
    for check in ("put", "conditional create", "multipart create"):
        found = find(findings, check)
        assert (found.permission, found.statement) == ("s3:PutObject", None)
        assert f"is denied explicitly, by {by}: no grant helps" in found.detail
    assert granting(findings) == []


async def test_a_policy_that_forbids_what_is_granted(stub: WatchedStub, bucket: Bucket, content: BucketContent) -> None:
    stub.behaviour.demands_conditions = True
    findings = await check_bucket(bucket.name, settings(bucket))
    assert find(findings, "conditional create").state == "ok"
    put = find(findings, "put")
    assert (put.state, put.permission) == ("missing", "")
    assert "policy" in put.detail
    assert left_in(content) == ([], 0)


@pytest.mark.parametrize(
    "operation",
    [
        *("HeadBucket", "PutObject", "DeleteObjects", "HeadObject", "GetObject", "ListObjectsV2", "CopyObject"),
        *("CreateMultipartUpload", "UploadPart", "ListParts", "CompleteMultipartUpload", "AbortMultipartUpload"),
        *("ListMultipartUploads", "GetBucketVersioning"),
    ],
)
async def test_nothing_is_left_by_who_is_cancelled(
    stub: WatchedStub, bucket: Bucket, content: BucketContent, operation: str
) -> None:
    stub.behaviour.latency_s = 0.02
    asked = asyncio.create_task(stub.asked(operation))
    await asyncio.sleep(0)
    task = asyncio.create_task(check_bucket(bucket.name, settings(bucket), prefix="team/"))
    await asked
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left_in(content) == ([], 0)


async def test_an_upload_whose_id_was_lost_is_found_and_aborted(
    stub: WatchedStub, bucket: Bucket, content: BucketContent
) -> None:
    stub.faults = [Fault("lose_answer", operation="CreateMultipartUpload", times=1)]
    findings = await check_bucket(bucket.name, settings(bucket))
    assert problems(findings) == []
    assert left_in(content) == ([], 0)


async def test_what_fails_stops_no_other(stub: WatchedStub, bucket: Bucket, content: BucketContent) -> None:
    stub.faults = [Fault("internal_error", operation="GetObject"), Fault("internal_error", operation="CopyObject")]
    findings = await check_bucket(bucket.name, settings(bucket))
    assert states(problems(findings)) == {"get": "failed", "range": "failed", "copy": "failed"}
    assert left_in(content) == ([], 0)


async def test_what_gets_no_answer_has_failed(
    stub: WatchedStub, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "CHECK_TIMEOUT_S", 0.5)
    stub.faults = [Fault("stall", operation="ListObjectsV2")]
    findings = await check_bucket(bucket.name, settings(bucket))
    assert states(problems(findings)) == {"list": "failed"}
    assert "no answer within" in find(findings, "list").detail


async def test_no_secret_is_told(
    stub: WatchedStub, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, f"canary-{name}")
    caplog.set_level(logging.DEBUG)
    stub.faults = [Fault("lose_request", operation="UploadPart"), Fault("internal_error", operation="GetObject")]
    findings = await check_bucket(bucket.name, settings(bucket))
    assert len(problems(findings)) >= 3
    assert stub.requests_for("ListParts")[0].headers["x-amz-security-token"] == "canary-AWS_SESSION_TOKEN"
    assert "canary" not in repr(findings) + caplog.text


async def test_a_server_that_is_down_is_one_error(bucket: Bucket, stub: WatchedStub) -> None:
    nowhere = AwsSettings(endpoint_url="http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="connection refused"):
        await check_bucket(bucket.name, nowhere)


async def test_a_bucket_that_does_not_exist_is_one_error(stub: WatchedStub, bucket: Bucket) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        await check_bucket("no-such-bucket", settings(bucket))


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
async def test_keys_that_are_not_accepted_are_one_error(stub: WatchedStub, bucket: Bucket, code: str) -> None:
    stub.answer = lambda _: Answer(403, f"<Error><Code>{code}</Code></Error>".encode())
    with pytest.raises(CredentialsError, match=code):
        await check_bucket(bucket.name, settings(bucket))


async def test_no_keys_at_all_are_one_error(stub: WatchedStub, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(CredentialsError):
        await check_bucket(bucket.name, settings(bucket))
    assert stub.seen == []


def in_region(region: str, status: int) -> Any:
    """Return what answers HeadBucket as a bucket does that is in another region than what is asked."""

    def answer(request: Request) -> Answer | None:
        if request.operation == "HeadBucket":
            return Answer(status, b"", {"x-amz-bucket-region": region})
        return None

    return answer


async def test_the_region(stub: WatchedStub, bucket: Bucket) -> None:
    stub.answer = in_region("eu-west-1", 403)
    findings = await check_bucket(bucket.name, settings(bucket))
    assert (find(findings, "region").state, find(findings, "region").detail) == ("ok", "eu-west-1")
    stub.answer = in_region("eu-north-1", 301)
    findings = await check_bucket(bucket.name, settings(bucket))
    region = find(findings, "region")
    assert (region.state, region.permission) == ("missing", "")
    assert "set 'region: eu-north-1' in place of eu-west-1" in region.detail
    # The others are tried where the bucket is.
    assert "/eu-north-1/s3/" in stub.requests_for("CopyObject")[-1].headers["authorization"]
    assert [finding.check for finding in problems(findings)] == ["region"]


@pytest.mark.parametrize(
    ("ahead_s", "state", "words"), [(5, "ok", "apart"), (3600, "note", "behind"), (-90, "note", "ahead")]
)
async def test_the_clock(stub: WatchedStub, bucket: Bucket, ahead_s: int, state: str, words: str) -> None:
    def answer(request: Request) -> Answer | None:
        if request.operation != "HeadBucket":
            return None
        return Answer(200, b"", {"Date": formatdate(time() + ahead_s, usegmt=True)})

    stub.answer = answer
    clock = find(await check_bucket(bucket.name, settings(bucket)), "clock")
    assert clock.state == state
    assert words in clock.detail
    assert any(f"{abs(ahead_s) + off} s" in clock.detail for off in (-1, 0, 1))


async def test_a_key_and_tags(stub: WatchedStub, bucket: Bucket) -> None:
    stub.behaviour.demanded_kms_key = KEY
    stub.behaviour.demanded_tag = "team=a"
    findings = await check_bucket(bucket.name, settings(bucket, **EXTRAS))
    assert problems(findings) == []
    assert find(findings, "kms").detail == f"encrypted with {KEY}"
    stub.answer = lambda request: Answer() if request.operation == "HeadObject" else None
    assert find(await check_bucket(bucket.name, settings(bucket, **EXTRAS)), "kms").state == "unsupported"


async def test_what_a_server_ignores_or_refuses_is_unsupported(stub: WatchedStub, bucket: Bucket) -> None:
    stub.behaviour.ignores_conditions = True
    stub.behaviour.checksums = "ignored"
    findings = await check_bucket(bucket.name, settings(bucket))
    ignored = {"conditional create": "unsupported", "conditional match": "unsupported", "checksum": "unsupported"}
    assert states(findings, "unsupported") == ignored
    assert problems(findings) == []
    stub.behaviour.ignores_conditions = False
    stub.behaviour.conditions_status = 501
    stub.behaviour.checksums = "refused"
    findings = await check_bucket(bucket.name, settings(bucket))
    assert states(findings, "unsupported") == ignored
    assert states(findings)["get"] == "ok"


async def test_etags_without_quotes(stub: WatchedStub, bucket: Bucket) -> None:
    stub.behaviour.match_form = "bare"
    found = find(await check_bucket(bucket.name, settings(bucket)), "conditional match")
    assert (found.state, found.detail) == ("ok", "the server wants ETags without quotes")
    stub.behaviour.match_form = "none"
    assert find(await check_bucket(bucket.name, settings(bucket)), "conditional match").state == "unsupported"


def preflight(methods: str, status: int = 200) -> Any:
    def answer(request: Request) -> Answer | None:
        if request.method != "OPTIONS":
            return None
        assert request.headers["origin"] == ORIGIN
        assert "authorization" not in request.headers
        given = {"Access-Control-Allow-Origin": ORIGIN, "Access-Control-Allow-Methods": methods}
        return Answer(status, b"", given)

    return answer


@pytest.mark.parametrize(
    ("methods", "status", "state", "words"),
    [
        ("GET, PUT, POST", 200, "ok", "may GET, PUT, POST"),
        ("*", 200, "ok", "may GET, PUT, POST"),
        ("GET", 200, "missing", "may not PUT, POST"),
        ("GET, PUT, POST", 403, "missing", "may not GET, PUT, POST"),
        ("", 405, "unsupported", "no preflight"),
    ],
)
async def test_cors(stub: WatchedStub, bucket: Bucket, methods: str, status: int, state: str, words: str) -> None:
    stub.answer = preflight(methods, status)
    found = find(await check_bucket(bucket.name, settings(bucket), origin=ORIGIN), "cors")
    assert found.state == state
    assert words in found.detail
    if state == "missing":
        assert found.statement is not None
        assert found.statement["CORSRules"][0]["AllowedOrigins"] == [ORIGIN]


LIFECYCLE = """
<LifecycleConfiguration><Rule><ID>a</ID><Status>{status}</Status><Filter>{scope}</Filter>
<AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload>
</Rule></LifecycleConfiguration>
"""


@pytest.mark.parametrize(
    ("status", "scope", "state"),
    [
        ("Enabled", "<Prefix></Prefix>", "ok"),
        ("Enabled", "<Prefix>te</Prefix>", "ok"),
        ("Enabled", "<Prefix>other/</Prefix>", "note"),
        ("Enabled", "<Tag><Key>a</Key><Value>b</Value></Tag>", "note"),
        ("Disabled", "<Prefix></Prefix>", "note"),
    ],
)
async def test_lifecycle(stub: WatchedStub, bucket: Bucket, status: str, scope: str, state: str) -> None:
    body = LIFECYCLE.format(status=status, scope=scope).encode()
    stub.answer = lambda request: Answer(200, body) if request.operation == "GetBucketLifecycleConfiguration" else None
    found = find(await check_bucket(bucket.name, settings(bucket), prefix="team/"), "lifecycle")
    assert found.state == state
    assert ("after 7 days" if state == "ok" else "asyncstore bucket init") in found.detail


async def test_only_what_the_configuration_allows_is_tried(
    stub: WatchedStub, bucket: Bucket, content: BucketContent
) -> None:
    findings = await check_bucket(bucket.name, settings(bucket), access=Access(allow_write=False))
    assert problems(findings) == []
    assert all(request.method in {"GET", "HEAD"} for request in stub.seen)
    stub.seen.clear()
    findings = await check_bucket(bucket.name, settings(bucket), access=Access(allow_read=False))
    assert problems(findings) == []
    assert not stub.requests_for("ListObjectsV2")
    assert not stub.requests_for("GetObject")
    assert left_in(content) == ([], 0)


class TestRoles:
    @pytest.fixture(autouse=True)
    def sts(self, moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.endpoint_url)

    async def test_what_a_role_lacks_is_named(self, stub: WatchedStub, bucket: Bucket) -> None:
        allowed = access(bucket, role_arn=ROLE)
        stub.behaviour.policies = {"ASIA*": without("s3:DeleteObject", role_policy(allowed)), "*": user_policy(allowed)}
        findings = await check_bucket(bucket.name, settings(bucket, role_arn=ROLE))
        assert find(findings, "assume role").state == "ok"
        assert {finding.permission for finding in problems(findings)} == {"s3:DeleteObject"}

    async def test_the_multipart_role_is_checked_by_itself(self, stub: WatchedStub, bucket: Bucket) -> None:
        allowed = access(bucket, "team/", multipart_role_arn=ROLE)
        policies = {"ASIA*": multipart_role_policy(allowed), "*": user_policy(allowed)}
        stub.behaviour.policies = policies
        options = settings(bucket, multipart_upload_role_arn=ROLE)
        assert problems(await check_bucket(bucket.name, options, prefix="team/")) == []
        stub.behaviour.policies = {**policies, "ASIA*": without("s3:ListMultipartUploadParts", policies["ASIA*"])}
        (found,) = problems(await check_bucket(bucket.name, options, prefix="team/"))
        assert found.permission == "s3:ListMultipartUploadParts"
        assert "the multipart role lacks" in found.detail

    async def test_without_sts_everything_else_is_checked(
        self, stub: WatchedStub, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
        findings = await check_bucket(bucket.name, settings(bucket, multipart_upload_role_arn=ROLE))
        assert states(problems(findings)) == {"assume multipart role": "failed"}
        assert find(findings, "copy").state == "ok"
        assert "without the multipart role" in find(findings, "multipart create").detail

    @pytest.mark.parametrize("key", ["role_arn", "multipart_upload_role_arn"])
    async def test_a_role_that_may_not_be_assumed(
        self, stub: WatchedStub, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, key: str
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", stub.url)

        def refuse(request: Request) -> Answer | None:
            if request.bucket:
                return None
            body = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>"
            return Answer(403, body, {"Content-Type": "text/xml"})

        stub.answer = refuse
        findings = await check_bucket(bucket.name, settings(bucket, **{key: ROLE}))
        name = "assume role" if key == "role_arn" else "assume multipart role"
        (found,) = problems(findings)
        assert (found.check, found.permission) == (name, "sts:AssumeRole")
        assert found.statement is not None
        assert found.statement["Resource"] == [ROLE]
        assert "trust" in found.detail
        untried = {finding.check for finding in findings if finding.state == "skipped"}
        assert {"put", "multipart create"} & untried == (
            {"put", "multipart create"} if key == "role_arn" else {"multipart create"}
        )


async def test_moto(moto_bucket: Bucket) -> None:
    client = aws_client(moto_bucket.server)
    rule = {"AllowedOrigins": [ORIGIN], "AllowedMethods": ["GET", "PUT", "POST"]}

    def configure() -> None:
        client.put_bucket_cors(Bucket=moto_bucket.name, CORSConfiguration={"CORSRules": [rule]})
        client.put_bucket_versioning(Bucket=moto_bucket.name, VersioningConfiguration={"Status": "Enabled"})

    def listed() -> tuple[list[Any], list[Any]]:
        versions = client.list_object_versions(Bucket=moto_bucket.name)
        objects = [*versions.get("Versions", []), *versions.get("DeleteMarkers", [])]
        return objects, client.list_multipart_uploads(Bucket=moto_bucket.name).get("Uploads", [])

    findings = await check_bucket(moto_bucket.name, settings(moto_bucket), prefix="team/", origin=ORIGIN)
    assert problems(findings) == []
    assert states(findings, "unsupported", "note") == {"checksum": "unsupported", "lifecycle": "note"}
    assert states(findings)["versioning"] == "ok"
    await asyncio.to_thread(configure)
    findings = await check_bucket(moto_bucket.name, settings(moto_bucket), prefix="team/", origin=ORIGIN)
    assert (find(findings, "cors").state, find(findings, "versioning").state) == ("ok", "note")
    other = await check_bucket(moto_bucket.name, settings(moto_bucket), origin="https://other.example.com")
    assert find(other, "cors").state == "missing"
    assert await asyncio.to_thread(listed) == ([], [])


class TestVersions:
    @pytest.fixture
    def client(self, moto_bucket: Bucket) -> Any:
        return aws_client(moto_bucket.server)

    def kept(self, client: Any, bucket: Bucket) -> list[str]:
        said = client.list_object_versions(Bucket=bucket.name)
        return [item["Key"] for item in [*said.get("Versions", []), *said.get("DeleteMarkers", [])]]

    @pytest.mark.parametrize("status", ["Enabled", "Suspended"])
    async def test_no_version_is_left(self, moto_bucket: Bucket, client: Any, status: str) -> None:
        put = client.put_bucket_versioning
        await asyncio.to_thread(put, Bucket=moto_bucket.name, VersioningConfiguration={"Status": "Enabled"})
        await asyncio.to_thread(put, Bucket=moto_bucket.name, VersioningConfiguration={"Status": status})
        await asyncio.to_thread(client.put_object, Bucket=moto_bucket.name, Key="te&am/theirs", Body=b"1")
        findings = await check_bucket(moto_bucket.name, settings(moto_bucket), prefix="te&am/")
        assert problems(findings) == []
        assert "clean up" not in states(findings)
        assert await asyncio.to_thread(self.kept, client, moto_bucket) == ["te&am/theirs"]

    @pytest.mark.parametrize("action", ["s3:ListBucketVersions", "s3:DeleteObjectVersion"])
    async def test_versions_that_may_not_be_removed_are_told(
        self, stub: WatchedStub, bucket: Bucket, action: str
    ) -> None:
        denied = Answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        removed: list[tuple[str, str]] = []

        def answer(request: Request) -> Answer | None:
            if request.operation == "GetBucketVersioning":
                return Answer(200, b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
            if "versions" in request.query:
                return denied if action == "s3:ListBucketVersions" else Answer(200, versions_of(request))
            if "versionId" in request.query:
                removed.append((request.key, request.query["versionId"]))
                return Answer(204) if request.query["versionId"] == "1" else denied
            return None

        def versions_of(request: Request) -> bytes:
            # A server that does not heed the prefix.
            keys = ("a/theirs", f"{request.query['prefix']}-copy")
            said = "".join(
                f"<Version><Key>{key}</Key><VersionId>1</VersionId></Version>"
                f"<DeleteMarker><Key>{key}</Key><VersionId>2</VersionId></DeleteMarker>"
                for key in keys
            )
            return f"<ListVersionsResult>{said}</ListVersionsResult>".encode()

        stub.answer = answer
        findings = await check_bucket(bucket.name, settings(bucket), prefix="team/")
        assert problems(findings) == []
        found = find(findings, "clean up")
        assert found.state == "note"
        assert "old versions of team/.asyncstore-check-" in found.detail
        assert f"{action} is not granted" in found.detail
        if action == "s3:DeleteObjectVersion":
            assert ", 1 in number: " in found.detail
            assert [(key.endswith("-copy"), version) for key, version in removed] == [(True, "1"), (True, "2")]


async def test_rclone(rclone_bucket: Bucket) -> None:
    findings = await check_bucket(rclone_bucket.name, settings(rclone_bucket), prefix="team/", origin=ORIGIN)
    assert problems(findings) == []
    assert states(findings, "unsupported").keys() == {
        *("conditional create", "conditional match", "checksum", "lifecycle", "cors"),
    }
    folder = rclone_bucket.server.folder
    assert folder is not None
    assert (
        await asyncio.to_thread(lambda: [path for path in (folder / rclone_bucket.name).rglob("*") if path.is_file()])
        == []
    )


def test_every_action_of_the_table_is_about_a_check() -> None:
    extras = {**EXTRAS, "role_arn": ROLE, "multipart_upload_role_arn": ROLE}
    plan = plan_checks("b", "", AwsSettings.parse(extras, "test"), origin="", access=Access())
    needed = {action for step in plan.steps for action in step.needs}
    # What only others' tags need, no configuration of ours does.
    assert needed == PERMISSIONS.keys() - {"s3:GetObjectTagging"}


class TestCommand:
    @pytest.fixture
    def config(self, tmp_path: Path) -> Callable[[dict[str, Any]], str]:
        def write(document: dict[str, Any]) -> str:
            path = tmp_path / "asyncstore.yaml"
            path.write_text(yaml.safe_dump(document))
            return str(path)

        return write

    def test_a_named_bucket(self, stub_bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
        server = stub_bucket.server
        command = ["bucket", "check", stub_bucket.name, "--prefix", "team", "--endpoint-url", server.endpoint_url]
        assert run(command) == 0
        out, err = capsys.readouterr()
        assert out.startswith(f"s3://{stub_bucket.name}/team/ at {server.endpoint_url}\n\nCHECK ")
        assert "18 ok, 1 note, 6 skipped" in out
        assert err == ""

    def test_what_is_missing(
        self, stub_bucket: Bucket, s3_stub: Any, config: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = {**stub_bucket.options, "prefix": "team"}
        path = config(
            {"run_log_store": {"type": "chunked-s3", "config": options}, "catalog": {"type": "s3", "config": options}}
        )
        s3_stub.configure(policies={"*": without("s3:GetObject", user_policy(access(stub_bucket, "team/")))})
        assert run(["bucket", "check", "--config", path]) == 4
        out, err = capsys.readouterr()
        # One place for both services, so one table.
        assert out.count("CHECK ") == 1
        assert "✗ missing" in out
        assert "s3:GetObject" in err
        pasted = json.loads(out[out.index("{") :])
        assert pasted["Statement"][0]["Action"] == ["s3:GetObject"]
        assert run(["bucket", "check", "--config", path, "--json"]) == 4
        (document,) = json.loads(capsys.readouterr().out)
        assert (document["bucket"], document["prefix"], document["ok"]) == (stub_bucket.name, "team/", False)
        named = {check["permission"] for check in document["checks"] if check["state"] == "missing"}
        assert named == {"s3:GetObject"}

    @pytest.mark.parametrize("options", [[], ["--region", "eu-west-1"], ["--endpoint-url", ""]])
    def test_options_leave_the_access_mode_and_the_prefix_as_they_are(
        self, stub_bucket: Bucket, s3_stub: Any, config: Any, options: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        catalog = {"type": "s3", "config": {**stub_bucket.options, "prefix": "team"}}
        path = config({"allow_write": False, "catalog": catalog})
        reader = user_policy(access(stub_bucket, "team/", writes=False))
        s3_stub.configure(policies={"*": reader})
        said = [option or s3_stub.endpoint_url for option in options]
        assert run(["bucket", "check", "--config", path, "--json", *said]) == 0
        (document,) = json.loads(capsys.readouterr().out)
        assert document["prefix"] == "team/"
        found = {check["check"]: check["state"] for check in document["checks"]}
        assert (found["put"], found["list"]) == ("skipped", "ok")

    def test_every_store_is_checked_or_the_one_that_is_named(
        self, stub_bucket: Bucket, config: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def store(prefix: str, **more: Any) -> dict[str, Any]:
            return {"catalog": {"type": "s3", "config": {**stub_bucket.options, "prefix": prefix}}, **more}

        stores = {
            "main": store("a", default=True),
            "archive": store("b", allow_write=False),
            "reader-of-main": store("a", allow_write=False),
        }
        path = config({"stores": stores})

        def checked(*words: str) -> list[tuple[str, str]]:
            assert run(["bucket", "check", "--config", path, "--json", *words]) == 0
            documents = json.loads(capsys.readouterr().out)
            return [
                (document["prefix"], next(c["state"] for c in document["checks"] if c["check"] == "put"))
                for document in documents
            ]

        assert checked() == [("b/", "skipped"), ("a/", "ok")]
        assert checked(stub_bucket.name, "--region", "eu-west-1") == [("b/", "skipped"), ("a/", "ok")]
        assert checked("--store", "reader-of-main") == [("a/", "skipped")]

    def test_a_setting_that_is_missing_is_2(self, moto_bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
        server = moto_bucket.server
        client = aws_client(server)
        rule = {"AllowedOrigins": ["https://other.example.com"], "AllowedMethods": ["GET"]}
        client.put_bucket_cors(Bucket=moto_bucket.name, CORSConfiguration={"CORSRules": [rule]})
        command = ["bucket", "check", moto_bucket.name, "--endpoint-url", server.endpoint_url, "--origin", ORIGIN]
        assert run(command) == 2
        assert f'"{ORIGIN}"' in capsys.readouterr().out

    async def test_ctrl_c_leaves_nothing(self, stub: WatchedStub, bucket: Bucket, content: BucketContent) -> None:
        stub.behaviour.latency_s = 0.05
        asked = asyncio.create_task(stub.asked("UploadPart"))
        command = ["-m", "asyncstore.cli", "bucket", "check", bucket.name, "--endpoint-url", stub.url]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        await asked
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert (process.returncode, out) == (130, b"")
        assert b"interrupted: the test object and its uploads were removed" in err
        assert left_in(content) == ([], 0)

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["no-such-bucket"], 2, "does not exist"),
            (["b", "--endpoint-url", "http://127.0.0.1:9"], 5, "connection refused"),
            ([], 2, "name a bucket"),
            (["b", "--origin", "nonsense"], 2, "origin"),
            (["s3://b"], 2, "no name of a bucket"),
        ],
    )
    def test_one_clear_error(
        self, s3_stub: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
    ) -> None:
        given = arguments if "--endpoint-url" in arguments else [*arguments, "--endpoint-url", s3_stub.endpoint_url]
        assert run(["bucket", "check", *given]) == code
        out, err = capsys.readouterr()
        assert words in err
        assert out == ""
