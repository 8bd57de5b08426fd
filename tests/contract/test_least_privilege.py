"""The contract of everything on S3 holds with the policy that asyncstore prints, and with nothing more."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

import pytest

from asyncstore.aws.settings import AwsSettings
from asyncstore.bucket.documents import BucketAccess, user_policy
from asyncstore.catalog import S3Catalog
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.runlog.chunked import ChunkedS3RunLogStore
from asyncstore.runlog.document import S3RunLogStore
from asyncstore.testing import CatalogContract, ObjectStoreContract, RunLogStoreContract

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.catalog import Catalog
    from asyncstore.objects.base import ObjectStore
    from asyncstore.runlog.base import RunLogStore
    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.servers import Bucket

KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ALIAS = "arn:aws:kms:eu-west-1:123456789012:alias/logs"


class Denying:
    """The bucket of a server that allows what the printed policy allows."""

    prefix = ""
    kms_key_arn = ""
    object_tags: ClassVar[dict[str, str]] = {}

    @pytest.fixture
    def options(self, s3_stub: StubServer, stub_bucket: Bucket) -> dict[str, object]:
        access = BucketAccess(
            bucket=stub_bucket.name,
            prefixes=(f"{self.prefix}/" if self.prefix else "",),
            region=stub_bucket.server.region,
            kms_keys=(self.kms_key_arn,) if self.kms_key_arn else (),
            object_tags=bool(self.object_tags),
        )
        s3_stub.configure(policies={"*": user_policy(access)})
        extras: dict[str, object] = {"kms_key_arn": self.kms_key_arn, "object_tags": self.object_tags}
        return {**stub_bucket.options, "prefix": self.prefix, **extras}


class TestObjects(Denying, ObjectStoreContract):
    @pytest.fixture
    def make_store(self, options: dict[str, object]) -> Callable[[], ObjectStore]:
        bucket, prefix = str(options.pop("s3_bucket")), str(options.pop("prefix"))
        return partial(S3ObjectStore, bucket, AwsSettings.parse(options, "test"), probe_prefix=prefix and f"{prefix}/")


class TestObjectsWithKeyAndTags(TestObjects):
    kms_key_arn = KEY
    object_tags: ClassVar[dict[str, str]] = {"team": "a", "stage": "b"}


class TestDocuments(Denying, RunLogStoreContract):
    @pytest.fixture
    def make_store(self, options: dict[str, object]) -> Callable[[], RunLogStore]:
        return partial(S3RunLogStore, **options)


class TestDocumentsBelowAPrefix(TestDocuments):
    prefix = "team/logs"
    kms_key_arn = ALIAS


class TestFragments(Denying, RunLogStoreContract):
    @pytest.fixture
    def make_store(self, options: dict[str, object]) -> Callable[[], RunLogStore]:
        return partial(ChunkedS3RunLogStore, **options)


class TestFragmentsBelowAPrefix(TestFragments):
    prefix = "team/*/logs"
    object_tags: ClassVar[dict[str, str]] = {"team": "a"}


class TestFiles(Denying, CatalogContract):
    @pytest.fixture
    def make_catalog(self, options: dict[str, object]) -> Callable[[], Catalog]:
        return partial(S3Catalog, **options)


class TestFilesBelowAPrefix(TestFiles):
    prefix = "team/data"
    kms_key_arn = KEY
    object_tags: ClassVar[dict[str, str]] = {"team": "a"}


class TestPackedFilesBelowAPrefix(Denying, CatalogContract):
    prefix = "team/data"

    @pytest.fixture
    def make_catalog(self, options: dict[str, object]) -> Callable[[], Catalog]:
        return partial(S3Catalog, **options, layout="packed")
