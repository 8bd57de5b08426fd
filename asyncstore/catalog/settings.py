"""The configuration keys of the catalogs."""

from __future__ import annotations

from pydantic import Field

from asyncstore._core.settings import Settings
from asyncstore.aws.settings import AwsSettings

__all__ = ["FolderCatalogSettings", "S3CatalogSettings"]


class S3CatalogSettings(AwsSettings):
    """``s3``."""

    s3_bucket: str
    """The bucket; it must exist."""
    prefix: str = ""
    """Where in the bucket the data lies."""
    compute_data_folder: str = "data/"
    """Where files lie locally, if a call does not say otherwise."""


class FolderCatalogSettings(Settings):
    """``file-system``."""

    catalog_location: str = ".catalog"
    """The folder that holds the data; it is made with the first write."""
    compute_data_folder: str = "data/"
    """Where files lie locally, if a call does not say otherwise."""
    max_concurrency: int = Field(default=16, ge=1, le=1024)
    """Most files read or written at a time."""
    max_memory_mb: int = Field(default=128, ge=16)
    """Most bytes in flight, in MiB."""
