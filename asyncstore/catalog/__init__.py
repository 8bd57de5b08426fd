"""
Catalogs: one class over any object store (:mod:`asyncstore.catalog.base`), a thin subclass for each backend.

A transfer is planned (``_planning``) and carried out (``_moving``) between the compute data folder (``_local``) and an
object store; many small files may be packed (``_packed``), digests are remembered (``_cache``), and links and forms are
given to those who have no keys (``_sharing``).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from asyncstore.catalog._moving._sweep import SweepReport
from asyncstore.catalog._moving._tally import ProgressHook, TransferProgress
from asyncstore.catalog._moving._verify import VerifyReport
from asyncstore.catalog._plan import PlannedFile, TransferPlan
from asyncstore.catalog.base import Catalog
from asyncstore.catalog.folder import FileSystemCatalog
from asyncstore.catalog.nothing import DoNothingCatalog
from asyncstore.objects.presigned import PresignedPost, PresignedUrl

if TYPE_CHECKING:
    from asyncstore.catalog.s3 import S3Catalog

__all__ = [
    "Catalog",
    "DoNothingCatalog",
    "FileSystemCatalog",
    "PlannedFile",
    "PresignedPost",
    "PresignedUrl",
    "ProgressHook",
    "S3Catalog",
    "SweepReport",
    "TransferPlan",
    "TransferProgress",
    "VerifyReport",
]


def __getattr__(name: str) -> Any:
    # The AWS libraries take half a second to import: who keeps data in a folder need not wait for them.
    if name == "S3Catalog":
        return importlib.import_module("asyncstore.catalog.s3").S3Catalog
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
