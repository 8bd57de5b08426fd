"""What an answer to a listing says: the same whether it is read as most servers put it or as XML."""

from __future__ import annotations

from datetime import UTC, datetime
from xml.sax.saxutils import escape

import pytest

from asyncstore.errors import AccessDeniedError, ConfigurationError, UnavailableError, UnsafePathError
from asyncstore.objects._listing._pages import objects_page
from asyncstore.objects.base import ObjectMeta

WRITTEN = datetime(2026, 11, 21, 20, 17, 11, 250_000, tzinfo=UTC)
STAMP = "2026-11-21T20:17:11.250Z"
OWNER = "<Owner><ID>1</ID><DisplayName>me</DisplayName></Owner>"

DIALECTS = {
    "aws": "<Contents><Key>{key}</Key><LastModified>{stamp}</LastModified><ETag>&quot;{etag}&quot;</ETag>"
    "<ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType><Size>{size}</Size>"
    "<StorageClass>STANDARD</StorageClass></Contents>",
    "owner": '<Contents><Key>{key}</Key><LastModified>{stamp}</LastModified><ETag>"{etag}"</ETag><Size>{size}</Size>'
    f"{OWNER}<StorageClass>STANDARD</StorageClass></Contents>",
    "bare": "<Contents><Key>{key}</Key><LastModified>{stamp}</LastModified><ETag>{etag}</ETag><Size>{size}</Size>"
    "</Contents>",
    "another order": "<Contents>\n <Key>{key}</Key>\n <Size>{size}</Size>\n <ETag>{etag}</ETag>\n"
    " <LastModified>{stamp}</LastModified>\n</Contents>",
    "another namespace": "<x:Contents xmlns:x='urn:x'><x:Key>{key}</x:Key><x:LastModified>{stamp}</x:LastModified>"
    "<x:ETag>{etag}</x:ETag><x:Size>{size}</x:Size></x:Contents>",
}


def item(dialect: str, key: str, *, etag: str = "e", size: int = 3, stamp: str = STAMP) -> str:
    return DIALECTS[dialect].format(key=key, etag=etag, size=size, stamp=stamp)


def answer(*items: str, extra: str = "", encoded: bool = False) -> bytes:
    encoding = "<EncodingType>url</EncodingType>" if encoded else ""
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    return f"{head}<Name>b</Name>{encoding}{extra}{''.join(items)}</ListBucketResult>".encode()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_objects_are_read_in_every_dialect(dialect: str) -> None:
    page = objects_page(answer(item(dialect, "run/a", etag="1"), item(dialect, "run/b c", etag="2", size=0)), "list")
    assert list(page.objects) == [ObjectMeta("run/a", 3, '"1"', WRITTEN), ObjectMeta("run/b c", 0, '"2"', WRITTEN)]
    assert page.keys == ["run/a", "run/b c"]
    assert page.following is None


def test_one_page_may_mix_dialects_and_stays_in_order() -> None:
    items = [item(dialect, f"run/{number}") for number, dialect in enumerate([*DIALECTS, *DIALECTS])]
    assert objects_page(answer(*items), "list").keys == [f"run/{number}" for number in range(len(items))]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("key", ["a+b", "50%", "x%20y", "é/ü", "a&b", "<&lt;>", "]]>", 'say "so"'])
def test_names_arrive_as_they_are(dialect: str, key: str) -> None:
    plain = objects_page(answer(item(dialect, escape(key))), "list")
    quoted = "".join(
        one if one.isalnum() and one.isascii() else "".join(f"%{byte:02X}" for byte in one.encode()) for one in key
    )
    encoded = objects_page(answer(item(dialect, quoted), encoded=True), "list")
    assert plain.keys == encoded.keys == [plain.objects[0].key] == [key]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_missing_etag_is_none(dialect: str) -> None:
    assert objects_page(answer(item(dialect, "a", etag="")), "list").objects[0].etag == ""


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_folders_marker_is_shown_without_its_slash(dialect: str) -> None:
    page = objects_page(answer(item(dialect, "run/"), item(dialect, "run/.hidden")), "list")
    assert [meta.key for meta in page.objects] == ["run", "run/.hidden"]
    assert page.keys == ["run/", "run/.hidden"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("key", ["a//b", "a/../b", "./a", "a/.", "%01", "a//"])
def test_keys_that_are_none_of_ours_are_refused(dialect: str, key: str) -> None:
    with pytest.raises(UnsafePathError):
        objects_page(answer(item(dialect, "fine"), item(dialect, key), encoded=True), "list")


def test_the_next_page_is_asked_for_by_its_token_or_else_by_the_last_key() -> None:
    cut = "<IsTruncated>true</IsTruncated>"
    token = "<NextContinuationToken>a&amp;b</NextContinuationToken>"
    items = [item("aws", "a"), item("aws", "b/")]
    assert objects_page(answer(*items, extra=cut + token), "list").following == {"continuation-token": "a&b"}
    assert objects_page(answer(*items, extra=cut), "list").following == {"start-after": "b/"}
    assert objects_page(answer(*items, extra="<IsTruncated>false</IsTruncated>"), "list").following is None


def test_nothing_is_a_page_too() -> None:
    page = objects_page(answer(), "list")
    assert (list(page.objects), page.keys, page.following) == ([], [], None)


def test_what_is_no_listing_is_an_error() -> None:
    whole = answer(item("aws", "a"), item("aws", "b"))
    for end in range(len(whole) - 200, len(whole)):
        with pytest.raises(UnavailableError):
            objects_page(whole[:end], "list")
    with pytest.raises(AccessDeniedError):
        objects_page(b"<Error><Code>AccessDenied</Code></Error>", "list")
    with pytest.raises(ConfigurationError):
        objects_page(b"<html><body>hello</body></html>", "list")
    with pytest.raises(ValueError, match="isoformat"):
        objects_page(answer(item("aws", "a", stamp="yesterdayZ")), "list")
