from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from asyncstore.runlog.buffered import BufferedRunLogStore
from asyncstore.runlog.chunked import ChunkedFileSystemRunLogStore, ChunkedS3RunLogStore
from asyncstore.runlog.document import FileSystemRunLogStore, S3RunLogStore
from asyncstore.testing import RunLogStoreContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.runlog.base import RunLogStore
    from asyncstore.testing.servers import Bucket


class TestBuffered(RunLogStoreContract):
    shared = False

    @pytest.fixture
    def make_store(self) -> Callable[[], RunLogStore]:
        return BufferedRunLogStore


class TestFileSystem(RunLogStoreContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[[], RunLogStore]:
        return partial(FileSystemRunLogStore, log_folder=str(tmp_path / "logs"))


class TestChunkedFileSystem(RunLogStoreContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[[], RunLogStore]:
        return partial(ChunkedFileSystemRunLogStore, log_folder=str(tmp_path / "logs"))


class TestS3OnMoto(RunLogStoreContract):
    @pytest.fixture
    def make_store(self, moto_bucket: Bucket) -> Callable[[], RunLogStore]:
        return partial(S3RunLogStore, **moto_bucket.options, prefix="team/logs")


class TestChunkedS3OnMoto(RunLogStoreContract):
    @pytest.fixture
    def make_store(self, moto_bucket: Bucket) -> Callable[[], RunLogStore]:
        return partial(ChunkedS3RunLogStore, **moto_bucket.options, prefix="team/logs")


class TestChunkedS3OnRclone(RunLogStoreContract):
    @pytest.fixture
    def make_store(self, rclone_bucket: Bucket) -> Callable[[], RunLogStore]:
        return partial(ChunkedS3RunLogStore, **rclone_bucket.options)


class TestS3OnStub(RunLogStoreContract):
    @pytest.fixture
    def make_store(self, stub_bucket: Bucket) -> Callable[[], RunLogStore]:
        return partial(S3RunLogStore, **stub_bucket.options, prefix="team/logs")


class TestChunkedS3OnStub(RunLogStoreContract):
    @pytest.fixture
    def make_store(self, stub_bucket: Bucket) -> Callable[[], RunLogStore]:
        return partial(ChunkedS3RunLogStore, **stub_bucket.options, prefix="team/logs")
