"""The ``s3`` catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.catalog._paths import normal_prefix
from asyncstore.catalog.base import Catalog
from asyncstore.catalog.settings import S3CatalogSettings
from asyncstore.objects.s3 import S3ObjectStore

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

__all__ = ["S3Catalog"]


class S3Catalog(Catalog):
    """
    A catalog in a bucket, on AWS or any server that speaks its protocol.

    Keyword arguments are the keys of :class:`S3CatalogSettings`; ``s3_bucket`` is required. Files are the objects
    ``s3://<bucket>/<prefix>/<run_id>/<compute data folder>/<relative path>``, so any S3 tool can read them.
    """

    def __init__(self, **options: object) -> None:
        settings = S3CatalogSettings.parse(options, "catalog 's3'")
        super().__init__(
            S3ObjectStore(settings.s3_bucket, settings, probe_prefix=normal_prefix(settings.prefix)),
            prefix=settings.prefix,
            compute_data_folder=settings.compute_data_folder,
            max_concurrency=settings.max_concurrency,
            max_memory_mb=settings.max_memory_mb,
            max_bandwidth_mb_s=settings.max_bandwidth_mb_s,
            layout=settings.layout,
            remember=settings.remember,
        )
        self._settings = settings

    @property
    def _endpoint(self) -> str:
        """The endpoint: buckets of one name may be on several."""
        return self._settings.service_url

    async def _open(self, stack: AsyncExitStack) -> None:
        await stack.enter_async_context(self._store)
        await super()._open(stack)
