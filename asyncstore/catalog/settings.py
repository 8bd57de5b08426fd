"""The configuration keys of the catalogs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from asyncstore._core.settings import Settings
from asyncstore.aws.settings import AwsSettings

__all__ = ["FolderCatalogSettings", "S3CatalogSettings"]


class CatalogSettings(Settings):
    """What all catalogs have."""

    compute_data_folder: str = "data/"
    """Where files lie locally, if a call does not say otherwise."""
    max_memory_mb: int = Field(default=64, ge=16)
    """Most bytes held by what is in flight, in MiB; the catalogs of a process share the largest."""
    max_bandwidth_mb_s: float | None = Field(default=None, gt=0)
    """Most bytes a second that one call moves, in MB; no limit without it."""
    layout: Literal["plain", "packed"] = "plain"
    """How files are stored: each as an object of its own, or those up to 4 MiB together in large objects (packs)."""
    remember: bool = True
    """Whether digests and unfinished uploads are remembered in ``ASYNCSTORE_CACHE_DIR`` or else the user's cache."""


class S3CatalogSettings(CatalogSettings, AwsSettings):
    """``s3``."""

    s3_bucket: str
    """The bucket; it must exist."""
    prefix: str = ""
    """Where in the bucket the data lies."""


class FolderCatalogSettings(CatalogSettings):
    """``file-system``."""

    catalog_location: str = ".catalog"
    """The folder that holds the data; it is made with the first write."""
    max_concurrency: int = Field(default=16, ge=1, le=1024)
    """Most files read or written at a time."""
