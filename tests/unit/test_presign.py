"""What is signed for others to use: against the examples of AWS' documentation, and against botocore."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import botocore.auth
import botocore.session
import pytest

from asyncstore.aws.credentials import Credentials
from asyncstore.aws.settings import AwsSettings
from asyncstore.catalog import PresignedPost, PresignedUrl
from asyncstore.catalog._sharing._presigning import _disposition, _seconds
from asyncstore.catalog._sharing._signing_keys import lifetime_of, session_lengths
from asyncstore.errors import InvalidValueError
from asyncstore.objects._s3._bucket import bucket_url
from asyncstore.objects._s3._presign import Presigner

if TYPE_CHECKING:
    from collections.abc import Mapping

# The keys and the moment of https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
DOCUMENTED = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
MOMENT = datetime(2013, 5, 24, tzinfo=UTC)
EXAMPLE = Presigner("https://examplebucket.s3.amazonaws.com", "examplebucket", "us-east-1", DOCUMENTED, MOMENT)

NOW = datetime(2026, 11, 21, 12, 30, 15, tzinfo=UTC)
KEYS = Credentials("id", "canary-secret", "canary-token+/=")


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def policy_of(fields: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(fields["policy"]))
    return found


def test_the_example_of_the_documentation() -> None:
    url = EXAMPLE.signed_url("GET", "test.txt", 86_400)
    query = query_of(url)
    assert url.startswith("https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&")
    assert query["X-Amz-Credential"] == "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"
    assert query["X-Amz-Signature"] == "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"


@pytest.fixture
def now_in_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: NOW.replace(tzinfo=None))
    # Where awscrt is installed, botocore signs by it, and by its clock.
    monkeypatch.setitem(botocore.auth.AUTH_TYPE_MAPS, "s3v4-query", botocore.auth.S3SigV4QueryAuth)


def client(settings: AwsSettings, keys: Credentials = KEYS) -> Any:
    style = "path" if settings.path_style("bucket") else "virtual"
    config = botocore.config.Config(signature_version="s3v4", s3={"addressing_style": style})
    session = botocore.session.Session()
    return session.create_client(
        "s3",
        region_name=settings.region,
        endpoint_url=settings.service_url,
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
        aws_session_token=keys.token,
        config=config,
    )


def presigner(settings: AwsSettings, keys: Credentials = KEYS) -> Presigner:
    return Presigner(bucket_url(settings, "bucket"), "bucket", settings.region, keys, NOW)


SETTINGS = [
    AwsSettings(region="eu-central-1"),
    AwsSettings(region="eu-central-1", addressing_style="path"),
    AwsSettings(endpoint_url="http://localhost:9000"),
    AwsSettings(endpoint_url="https://s3.example.org:443"),
    AwsSettings(endpoint_url="https://example.org/behind/s3"),
    AwsSettings(endpoint_url="https://example.org", addressing_style="virtual"),
]


@pytest.mark.usefixtures("now_in_botocore")
@pytest.mark.parametrize("keys", [KEYS, replace(KEYS, token=None)], ids=["session", "lasting"])
@pytest.mark.parametrize(
    "settings", SETTINGS, ids=lambda settings: f"{settings.service_url} {settings.addressing_style}"
)
@pytest.mark.parametrize("key", ["run/data/a.csv", "run/data/ü b+c&d=e?f#g%20'(~).csv", "🙂"])
def test_links_are_those_of_botocore(settings: AwsSettings, key: str, keys: Credentials) -> None:
    disposition = "attachment; filename=\"a b\"; filename*=UTF-8''a%20b"
    ours = presigner(settings, keys).signed_url("GET", key, 60, query={"response-content-disposition": disposition})
    asked = {"Bucket": "bucket", "Key": key, "ResponseContentDisposition": disposition}
    theirs = client(settings, keys).generate_presigned_url("get_object", asked, ExpiresIn=60)
    assert urlsplit(ours).path == urlsplit(theirs).path
    assert urlsplit(ours).netloc == urlsplit(theirs).netloc.removesuffix(":443")
    assert query_of(ours) == query_of(theirs)


@pytest.mark.usefixtures("now_in_botocore")
def test_signed_headers_are_those_of_botocore() -> None:
    settings = SETTINGS[0]
    asked = {
        "Bucket": "bucket",
        "Key": "k",
        "ContentType": "text/csv",
        "StorageClass": "STANDARD_IA",
        "Tagging": "a=b%20c",
        "ChecksumSHA256": "abc=",
    }
    theirs = client(settings).generate_presigned_url("put_object", asked, ExpiresIn=60)
    headers = {
        "content-type": "text/csv",
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-tagging": "a=b%20c",
        "x-amz-checksum-sha256": "abc=",
    }
    ours = presigner(settings).signed_url("PUT", "k", 60, headers=headers)
    names = query_of(ours)["X-Amz-SignedHeaders"].split(";")
    assert names == sorted(["host", *headers])
    assert query_of(ours) == query_of(theirs)


@pytest.mark.usefixtures("now_in_botocore")
@pytest.mark.parametrize("keys", [KEYS, replace(KEYS, token=None)], ids=["session", "lasting"])
def test_forms_are_signed_as_by_botocore(keys: Credentials) -> None:
    ours = presigner(SETTINGS[2], keys).form(
        "run/${filename}", 60, conditions=[["starts-with", "$key", "run/"], ["content-length-range", 1, 5]], fields={}
    )
    request = botocore.awsrequest.AWSRequest("POST", "http://localhost:9000/bucket")
    policy = policy_of(ours)
    stated = [condition for condition in policy["conditions"] if not _is_signing(condition)]
    request.context["s3-presign-post-policy"] = {"expiration": policy["expiration"], "conditions": stated}
    credentials = botocore.credentials.Credentials(keys.access_key_id, keys.secret_access_key, keys.token)
    botocore.auth.S3SigV4PostAuth(credentials, "s3", "eu-west-1").add_auth(request)
    theirs = request.context["s3-presign-post-fields"]
    assert {**theirs, "key": "run/${filename}"} == ours
    assert policy["expiration"] == "2026-11-21T12:31:15Z"


def _is_signing(condition: object) -> bool:
    return isinstance(condition, dict) and next(iter(condition)).startswith("x-amz-")


def test_a_policy_speaks_of_every_field() -> None:
    written = {"x-amz-storage-class": "GLACIER", "x-amz-tagging": "team=a%26b", "x-amz-meta-owner": "x"}
    signer = replace(presigner(SETTINGS[0]), written=written, tags={"team": "a&b"})
    conditions: list[list[Any]] = [
        ["starts-with", "$key", "run/"],
        ["content-length-range", 0, 5],
        ["eq", "$Content-Type", "text/csv"],
    ]
    fields = signer.form("run/${filename}", 60, conditions=conditions, fields={"Content-Type": "text/csv"})
    assert fields["tagging"] == ("<Tagging><TagSet><Tag><Key>team</Key><Value>a&amp;b</Value></Tag></TagSet></Tagging>")
    assert "x-amz-tagging" not in fields
    stated = policy_of(fields)["conditions"]
    exact = {name: value for one in stated if isinstance(one, dict) for name, value in one.items()}
    assert exact.pop("bucket") == "bucket"
    assert exact == {
        name: value
        for name, value in fields.items()
        if name not in {"key", "policy", "x-amz-signature", "Content-Type"}
    }
    assert exact["x-amz-security-token"] == KEYS.token
    assert [one for one in stated if isinstance(one, list)] == conditions


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("report.csv", "attachment; filename=\"report.csv\"; filename*=UTF-8''report.csv"),
        ('a "b"; c.csv', "attachment; filename=\"a _b_; c.csv\"; filename*=UTF-8''a%20%22b%22%3B%20c.csv"),
        (
            "Übersicht 50%.csv",
            "attachment; filename=\"_bersicht 50_.csv\"; filename*=UTF-8''%C3%9Cbersicht%2050%25.csv",
        ),
    ],
)
def test_download_names(name: str, said: str) -> None:
    assert _disposition(name) == said


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a\r\nX: y", "\ud800"])
def test_names_that_no_download_can_have(name: str) -> None:
    with pytest.raises(InvalidValueError, match="cannot be the name of a file"):
        _disposition(name)


@pytest.mark.parametrize(("expires", "seconds"), [(1, 1), (90.9, 90), (timedelta(days=7), 604_800)])
def test_lifetimes(expires: timedelta | float, seconds: int) -> None:
    assert _seconds(expires) == seconds


@pytest.mark.parametrize("expires", [0, 0.5, -1, float("nan"), float("inf"), timedelta(days=7, seconds=1)])
def test_lifetimes_that_no_signature_can_have(expires: timedelta | float) -> None:
    with pytest.raises(InvalidValueError, match="expires must be 1 second at least and 7 days"):
        _seconds(expires)


@pytest.mark.parametrize(
    ("left_s", "wanted_s", "found_s"), [(math.inf, 60, 60), (100, 60, 60), (59.9, 60, 59), (-5, 60, 1)]
)
def test_nothing_outlives_what_signed_it(left_s: float, wanted_s: int, found_s: int) -> None:
    assert lifetime_of(wanted_s, left_s) == found_s


@pytest.mark.parametrize(
    ("lifetime_s", "configured_s", "lengths"),
    [
        (60, 900, [900]),
        (1000, 900, [1060, 900]),
        (3600, 900, [3660, 3600, 900]),
        (604_800, 3600, [43_200, 3600]),
        (604_800, 43_200, [43_200]),
    ],
)
def test_how_long_sessions_are_asked_for(lifetime_s: int, configured_s: int, lengths: list[int]) -> None:
    assert list(session_lengths(lifetime_s, configured_s)) == lengths


def test_no_repr_shows_what_was_signed() -> None:
    signer = presigner(SETTINGS[0])
    url = signer.signed_url("GET", "k", 60)
    fields = signer.form("k", 60, conditions=[], fields={})
    link = PresignedUrl("GET", url, "s3://bucket/k", NOW)
    form = PresignedPost(signer.url, "s3://bucket/k", NOW, forms={"*/*": fields})
    assert link.url == url
    for shown in (repr(link), str(link), repr(form), str(form), repr(signer)):
        assert not re.search("canary|X-Amz-Sig|x-amz-sig|policy", shown)


def test_forms_by_content_type() -> None:
    form = PresignedPost("u", "s3://b/k", NOW, forms={"image/*": {"a": "1"}, "text/csv": {"a": "2"}})
    assert form.fields_for("image/png") == {"a": "1", "Content-Type": "image/png"}
    assert form.fields_for("text/csv") == {"a": "2", "Content-Type": "text/csv"}
    for wrong in ("text/html", "", "image/png,text/html"):
        with pytest.raises(InvalidValueError, match=r"is not among image/\*, text/csv"):
            form.fields_for(wrong)
    with pytest.raises(InvalidValueError, match="a form for each of"):
        _ = form.fields
    assert replace(form, forms={"*/*": {"a": "3"}}).fields_for("") == {
        "a": "3",
        "Content-Type": "application/octet-stream",
    }
