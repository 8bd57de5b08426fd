from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from asyncstore.catalog import FileSystemCatalog, S3Catalog
from asyncstore.testing import CatalogContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.catalog import Catalog
    from asyncstore.testing.servers import Bucket


class TestFileSystem(CatalogContract):
    @pytest.fixture
    def make_catalog(self, tmp_path: Path) -> Callable[[], Catalog]:
        return partial(FileSystemCatalog, catalog_location=str(tmp_path / "catalog"))


class TestS3OnMoto(CatalogContract):
    @pytest.fixture
    def make_catalog(self, moto_bucket: Bucket) -> Callable[[], Catalog]:
        return partial(S3Catalog, **moto_bucket.options, prefix="team/catalog")


class TestS3OnRclone(CatalogContract):
    @pytest.fixture
    def make_catalog(self, rclone_bucket: Bucket) -> Callable[[], Catalog]:
        return partial(S3Catalog, **rclone_bucket.options)


class TestPackedFileSystem(CatalogContract):
    @pytest.fixture
    def make_catalog(self, tmp_path: Path) -> Callable[[], Catalog]:
        return partial(FileSystemCatalog, catalog_location=str(tmp_path / "catalog"), layout="packed")


class TestPackedS3OnMoto(CatalogContract):
    @pytest.fixture
    def make_catalog(self, moto_bucket: Bucket) -> Callable[[], Catalog]:
        return partial(S3Catalog, **moto_bucket.options, prefix="team/catalog", layout="packed")


class TestPackedS3OnRclone(CatalogContract):
    @pytest.fixture
    def make_catalog(self, rclone_bucket: Bucket) -> Callable[[], Catalog]:
        return partial(S3Catalog, **rclone_bucket.options, layout="packed")


class TestPackedS3OnTheStub(CatalogContract):
    @pytest.fixture
    def make_catalog(self, stub_bucket: Bucket) -> Callable[[], Catalog]:
        return partial(S3Catalog, **stub_bucket.options, prefix="team/catalog", layout="packed")
