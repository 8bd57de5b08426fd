"""The configuration keys of the run-log stores on S3 and in folders."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from asyncstore._core.settings import Settings
from asyncstore.aws.settings import AwsSettings

__all__ = ["FolderRunLogSettings", "S3RunLogSettings"]


class S3RunLogSettings(AwsSettings):
    """``chunked-s3`` and ``s3``."""

    s3_bucket: str
    """The bucket; it must exist."""
    prefix: str = ""
    """Where in the bucket the logs lie."""


class FolderRunLogSettings(Settings):
    """``chunked-fs`` and ``file-system``."""

    log_folder: Path = Path(".run_log_store")
    """The folder that holds the logs; it is made with the first write."""
    max_concurrency: int = Field(default=16, ge=1)
    """Most files read or written at a time by one operation."""
