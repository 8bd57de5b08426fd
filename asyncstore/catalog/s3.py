"""The ``s3`` catalog."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from asyncstore.aws.credentials import CredentialProvider
from asyncstore.catalog._paths import normal_prefix
from asyncstore.catalog._sharing._signing_keys import SigningKeys, lifetime_of
from asyncstore.catalog.base import Catalog
from asyncstore.catalog.settings import S3CatalogSettings
from asyncstore.objects._s3._bucket import bucket_url, write_headers
from asyncstore.objects._s3._messages import metadata_headers
from asyncstore.objects._s3._presign import Presigner
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
        self._credentials = credentials = CredentialProvider(settings)
        probe_prefix = normal_prefix(settings.prefix)
        super().__init__(
            S3ObjectStore(settings.s3_bucket, settings, probe_prefix=probe_prefix, credentials=credentials),
            prefix=settings.prefix,
            compute_data_folder=settings.compute_data_folder,
            max_concurrency=settings.max_concurrency,
            max_memory_mb=settings.max_memory_mb,
            max_bandwidth_mb_s=settings.max_bandwidth_mb_s,
            layout=settings.layout,
            remember=settings.remember,
        )
        self._settings = settings
        self._signing_keys = SigningKeys(credentials, settings)

    @property
    def _endpoint(self) -> str:
        """The endpoint: buckets of one name may be on several."""
        return self._settings.service_url

    async def _open(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self._credentials.aclose)
        stack.push_async_callback(self._signing_keys.aclose)
        await stack.enter_async_context(self._store)
        await super()._open(stack)

    async def _presigner(self, lifetime_s: int) -> tuple[Presigner, int]:
        settings = self._settings
        keys = await self._signing_keys.get(lifetime_s)
        now = datetime.fromtimestamp(self._credentials.clock.now_s(), UTC)
        presigner = Presigner(
            bucket_url(settings, settings.s3_bucket),
            settings.s3_bucket,
            settings.region,
            keys,
            now,
            written=write_headers(settings) | metadata_headers(settings.user_metadata),
            tags=settings.object_tags,
        )
        return presigner, lifetime_of(lifetime_s, self._credentials.seconds_left(keys))
