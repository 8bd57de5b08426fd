from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from asyncstore.aws.settings import AwsSettings
from asyncstore.objects.folder import FolderObjectStore
from asyncstore.objects.memory import MemoryObjectStore
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.testing import ObjectStoreContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.objects.base import ObjectStore
    from asyncstore.testing.servers import Bucket


def settings(bucket: Bucket) -> AwsSettings:
    return AwsSettings(endpoint_url=bucket.server.endpoint_url, region=bucket.server.region)


class TestMemory(ObjectStoreContract):
    shared = False

    @pytest.fixture
    def make_store(self) -> Callable[[], ObjectStore]:
        return MemoryObjectStore


class TestFolder(ObjectStoreContract):
    keeps_metadata = False

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[[], ObjectStore]:
        return partial(FolderObjectStore, tmp_path / "objects")


class TestMoto(ObjectStoreContract):
    @pytest.fixture
    def make_store(self, moto_bucket: Bucket) -> Callable[[], ObjectStore]:
        return partial(S3ObjectStore, moto_bucket.name, settings(moto_bucket))


class TestRclone(ObjectStoreContract):
    @pytest.fixture
    def make_store(self, rclone_bucket: Bucket) -> Callable[[], ObjectStore]:
        return partial(S3ObjectStore, rclone_bucket.name, settings(rclone_bucket))


class TestStub(ObjectStoreContract):
    @pytest.fixture
    def make_store(self, stub_bucket: Bucket) -> Callable[[], ObjectStore]:
        return partial(S3ObjectStore, stub_bucket.name, settings(stub_bucket))
