"""What headers and settings say, and what they must not be able to."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import AsyncStoreError, ConfigurationError, IntegrityError
from asyncstore.objects._s3._messages import described, ranged
from asyncstore.objects.s3 import S3ObjectStore


@pytest.mark.parametrize("said", ["Sat, 21 Nov 2026 10:00:00 GMT", "Sat, 21 Nov 2026 10:00:00 -0000"])
def test_times_of_objects_are_aware(said: str) -> None:
    assert described("key", 1, {"last-modified": said}).modified_at == datetime(2026, 11, 21, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "said", ["", "now", f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT", f"Sat, 21 Nov 2026 00:00:00 +{'9' * 20}"]
)
def test_times_that_are_none_are_told(said: str) -> None:
    with pytest.raises(AsyncStoreError, match="does not say when"):
        described("key", 1, {"last-modified": said})


@pytest.mark.parametrize("said", ["", "bytes 0-1/*", f"bytes 0-1/{'9' * 5000}", "bytes 1-1/2", "0-1/2"])
def test_ranges_that_are_not_those_asked_for_are_told(said: str) -> None:
    with pytest.raises(IntegrityError):
        ranged({"content-range": said}, 0, 2, "get")


@pytest.mark.parametrize("bucket", ["", "a?b", "a/b", "a#b", "s3://b", "a b", "a@b", "a:1", "-a", "a..b", "b" * 256])
def test_names_that_no_bucket_has_are_refused(bucket: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name of a bucket"):
        S3ObjectStore(bucket, AwsSettings())


@pytest.mark.parametrize("bucket", ["b", "my-bucket.example", "Old_Bucket", "b" * 255])
def test_names_that_buckets_have_are_taken(bucket: str) -> None:
    assert S3ObjectStore(bucket, AwsSettings()).location == f"s3://{bucket}"
