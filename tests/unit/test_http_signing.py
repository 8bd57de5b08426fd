"""Signatures, against those that botocore makes of the same requests at the same time."""

from __future__ import annotations

import string
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from botocore.utils import percent_encode
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.aws.credentials import Credentials
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import InvalidValueError
from asyncstore.objects._http._origin import Origin
from asyncstore.objects._http._pool import Pool
from asyncstore.objects._http._signing import EMPTY_HASH, UNSIGNED, Signer
from asyncstore.objects._s3._bucket import bucket_url
from asyncstore.objects._s3._messages import metadata_headers
from asyncstore.objects._s3._requests import Line, Outgoing, Request, Stream
from asyncstore.testing._objects.base import HOSTILE_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = Credentials("access", "secret/+=", None)
MOMENT = 1_795_262_400
LATEST = 4_102_444_800

characters = st.characters(exclude_categories=["Cs"], exclude_characters="".join(map(chr, [*range(32), 127])))
keys = st.one_of(
    st.sampled_from(HOSTILE_KEYS), st.lists(st.text(characters, min_size=1), min_size=1, max_size=3).map("/".join)
)
queries = st.dictionaries(st.text(characters, min_size=1, max_size=9), st.text(characters, max_size=9), max_size=4)
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126))
values = printable.map(str.strip) | st.lists(st.sampled_from(["a", "b", " ", "  ", "   "])).map("".join).map(str.strip)
header_names = st.text(string.ascii_letters + string.digits + "-", min_size=1, max_size=12).map("X-Amz-Meta-{}".format)
headers = st.dictionaries(header_names, values, max_size=4).filter(
    lambda found: len({name.lower() for name in found}) == len(found)
)
secrets = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
signing_keys = st.builds(Credentials, secrets, secrets, st.none() | secrets)
hosts = st.sampled_from(["localhost", "HOST.example", "127.0.0.1", "[::1]", "[fe80::1:2]", "bucket.s3.host", "b_c"])
ports = st.sampled_from(["", ":80", ":443", ":9000", ":65535"])
prefixes = st.sampled_from(["", "/bucket", "/a/b/c", "/with%20space/b", "/~/x.y"])
urls = st.builds("{}://{}{}{}".format, st.sampled_from(["http", "https"]), hosts, ports, prefixes)
seconds = st.integers(0, LATEST)


def line_to(url: str, region: str = "eu-west-1", *, now_s: Callable[[], float] = lambda: MOMENT) -> Line:
    parts = urlsplit(url)
    assert parts.hostname
    origin = Origin(parts.scheme, parts.hostname, parts.port or 80, parts.netloc)
    return Line(url, origin, Pool(origin, 1), Signer(origin.said, region, now_s=now_s))


def head_of(line: Line, request: Request, keys: Credentials = KEYS) -> tuple[str, str, dict[str, str]]:
    """Return method, target and headers, as the server reads them."""
    raw = line._head(request, Outgoing(request, lambda: None), keys, line._signer.now_s())
    assert raw.endswith(b"\r\n\r\n")
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    assert version == "HTTP/1.1"
    found = dict(line.split(": ", 1) for line in lines)
    assert len(found) == len(lines)
    return method, target, found


def oracle(
    url: str, request: Request, sent: dict[str, str], region: str, keys: Credentials, second: float
) -> AWSRequest:
    """Return what botocore makes of it."""
    added = {"host", "x-amz-date", "x-amz-security-token", "authorization", "x-amz-content-sha256", "User-Agent"}
    given = {name: value for name, value in sent.items() if name not in added}
    whole = (
        f"{url}/{percent_encode(request.key, safe='/~')}" if request.key else url if urlsplit(url).path else f"{url}/"
    )
    wanted = AWSRequest(
        request.method,
        whole,
        {**given, "Host": urlsplit(url).netloc},
        b"" if isinstance(request.body, Stream) else bytes(request.body),
        dict(request.query),
    )
    if isinstance(request.body, Stream):
        wanted.context = {"client_config": _Unsigned()}
    moment = datetime.fromtimestamp(int(second), UTC)
    with patch("botocore.auth.get_current_datetime", lambda: moment):
        S3SigV4Auth(BotoCredentials(keys.access_key_id, keys.secret_access_key, keys.token), "s3", region).add_auth(
            wanted
        )
    return wanted


class _Unsigned:
    s3 = {"payload_signing_enabled": False}  # noqa: RUF012


@given(urls, keys | st.just(""), queries, headers, signing_keys, seconds, st.binary(max_size=9) | st.none())
def test_they_are_those_of_botocore(
    url: str,
    key: str,
    query: dict[str, str],
    said: dict[str, str],
    signing: Credentials,
    second: int,
    body: bytes | None,
) -> None:
    content = Stream(3, lambda: [memoryview(b"abc")]) if body is None else body
    request = Request("PUT", key, "put", query, said, content)
    line = line_to(url, "us-gov-1", now_s=lambda: second + 0.9)
    method, target, sent = head_of(line, request, signing)
    wanted = oracle(url, request, sent, "us-gov-1", signing, second)
    assert sent["authorization"] == wanted.headers["Authorization"]
    assert sent["x-amz-date"] == wanted.headers["X-Amz-Date"]
    assert sent["x-amz-content-sha256"] == wanted.headers["X-Amz-Content-SHA256"]
    assert (sent["x-amz-content-sha256"] == UNSIGNED) == (body is None)
    assert sent.get("x-amz-security-token") == signing.token
    assert sent["host"] == urlsplit(url).netloc
    # What is sent is what was signed, and is what was meant.
    path, _, asked = target.partition("?")
    base = urlsplit(url).path
    assert path.startswith(base)
    assert unquote(path[len(base) :], errors="strict") == (f"/{key}" if key or not base else "")
    pairs = [pair.split("=") for pair in asked.split("&")] if asked else []
    assert {unquote(name): unquote(value) for name, value in pairs} == query
    assert {name.lower(): value for name, value in said.items()}.items() <= sent.items()
    assert method == "PUT"


@given(st.lists(st.tuples(seconds, signing_keys, st.sampled_from(["GET", "PUT", "HEAD", "DELETE"])), min_size=2))
def test_one_signer_follows_days_and_keys(turns: list[tuple[int, Credentials, str]]) -> None:
    now = [0.0]
    line = line_to("http://host/bucket", now_s=lambda: now[0])
    for second, signing, method in turns:
        now[0] = second
        request = Request(method, "key", "ask")
        _, _, sent = head_of(line, request, signing)
        wanted = oracle("http://host/bucket", request, sent, "eu-west-1", signing, second)
        assert sent["authorization"] == wanted.headers["Authorization"]


def test_at_midnight_another_key_signs() -> None:
    midnight = MOMENT // 86_400 * 86_400
    now = [0.0]
    signer = Signer("host", "eu-west-1", now_s=lambda: now[0])
    found = []
    for now[0] in (midnight - 1, midnight - 0.001, midnight, midnight + 0.5, midnight - 1):
        found.append(signer.signed("GET", "/", "", {}, EMPTY_HASH, KEYS)["authorization"])
    assert found[0] == found[1] == found[4]
    assert found[2] == found[3]
    assert [one == other for one, other in pairwise(found)] == [True, False, True, False]
    assert len({said.partition("/")[2][:8] for said in found}) == 2


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://host:80", "host"),
        ("https://host:443/s3", "host"),
        ("http://host:9000", "host:9000"),
        ("http://[::1]:9000", "[::1]:9000"),
        ("http://[::1]:80", "[::1]"),
    ],
)
def test_the_host_that_is_signed_is_the_one_that_is_said(endpoint: str, expected: str) -> None:
    url = bucket_url(AwsSettings(insecure=True, endpoint_url=endpoint), "bucket")
    _, target, sent = head_of(line_to(url), Request("GET", "key", "get"))
    assert sent["host"] == expected
    assert target.endswith("/bucket/key")


def test_names_of_headers_come_in_any_case() -> None:
    heads = [
        head_of(line_to("http://host/b"), Request("GET", "k", "get", headers={name: "bytes=0-1"}))
        for name in ("Range", "range", "RANGE")
    ]
    assert heads[0] == heads[1] == heads[2]


@pytest.mark.parametrize("headers", [{"Range": "a", "range": "b"}, {"Content-Length": "5"}, {"HOST": "other"}])
def test_no_header_is_said_twice(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidValueError, match="two are the same"):
        head_of(line_to("http://host/b"), Request("PUT", "k", "put", headers=headers, body=b"x"))


@pytest.mark.parametrize("value", ["a\tb", "a\r\nx: y", "a\n", "\x00", " a", "a ", "é"])
def test_metadata_that_no_header_can_hold_is_refused(value: str) -> None:
    with pytest.raises(InvalidValueError):
        metadata_headers({"name": value})


@pytest.mark.parametrize(
    "value", ["a\r\nx-evil: 1", "a\nx-evil: 1", "a\rx-evil: 1", "a\x00b", "\u20ac", "a\r\n\r\nGET / "]
)
@pytest.mark.parametrize("place", ["header", "name", "token", "access key", "region"])
def test_nothing_that_is_said_splits_the_head(value: str, place: str) -> None:
    keys = Credentials(value if place == "access key" else "access", "secret", value if place == "token" else None)
    headers = {"if-match": value} if place == "header" else {value: "x"} if place == "name" else {}
    line = line_to("http://host/b", value if place == "region" else "eu-west-1")
    with pytest.raises(InvalidValueError) as caught:
        head_of(line, Request("PUT", "k", "put s3://b/k", headers=headers), keys)
    assert "put s3://b/k" in str(caught.value)
    # A token is a secret.
    assert "evil" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("url", ["http://host/b", "http://host"])
@pytest.mark.parametrize("key", ["a\r\nHost: evil", "a b HTTP/1.1", "?x=y", "#", "a/../b", "%0d%0a"])
def test_no_key_leaves_its_place_in_the_target(url: str, key: str) -> None:
    method, target, sent = head_of(line_to(url), Request("GET", key, "get"))
    assert unquote(target) == f"{urlsplit(url).path}/{key}"
    assert "?" not in target
    assert (method, sent["host"]) == ("GET", "host")
