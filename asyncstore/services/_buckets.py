"""Which buckets the services of a configuration use, and how."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asyncstore._core.access import UNRESTRICTED
from asyncstore.services._making import load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore._core.access import Access
    from asyncstore.aws.settings import AwsSettings

__all__ = ["BucketUse", "bucket_use", "is_on_s3"]

_SETTINGS: Mapping[tuple[str, str], str] = {
    ("run_log_store", "chunked-s3"): "asyncstore.runlog.settings:S3RunLogSettings",
    ("run_log_store", "s3"): "asyncstore.runlog.settings:S3RunLogSettings",
    ("catalog", "s3"): "asyncstore.catalog.settings:S3CatalogSettings",
}


@dataclass(frozen=True, slots=True)
class BucketUse:
    """What one service does with a bucket."""

    service: str
    bucket: str
    prefix: str
    """What its keys begin with: empty, or ending in ``/``."""
    settings: AwsSettings
    access: Access = field(default=UNRESTRICTED)

    @property
    def place(self) -> str:
        """What is the same for uses of one bucket and prefix that AWS cannot tell apart."""
        keys = load("asyncstore.aws.settings:AwsSettings").model_fields
        # How much is done at a time makes no difference to what is allowed; nor do a service's own keys.
        said = {name: getattr(self.settings, name) for name in keys if not name.startswith("max_")}
        return repr((self.bucket, self.prefix, said))

    @property
    def location(self) -> str:
        """Where that is, for people."""
        at = f" at {self.settings.endpoint}" if self.settings.endpoint else ""
        return f"s3://{self.bucket}/{self.prefix}{at}"


def is_on_s3(service: str, kind: str) -> bool:
    """Tell whether a service of that type keeps its objects in a bucket."""
    return (service, kind) in _SETTINGS


async def bucket_use(service: str, kind: str, options: Mapping[str, Any], where: str, access: Access) -> BucketUse:
    """
    Return what a service that is on S3 does with its bucket; imports its settings.

    Args:
        service: ``run_log_store`` or ``catalog``.
        kind: its type.
        options: its keys, with placeholders filled.
        where: what errors call it.
        access: what may be done with it.

    Raises:
        ConfigurationError: a key is wrong.
    """
    settings = (await asyncio.to_thread(load, _SETTINGS[service, kind])).parse(options, where)
    if service == "catalog":
        prefix = (await asyncio.to_thread(load, "asyncstore.catalog._paths:normal_prefix"))(settings.prefix)
    else:
        prefix = (await asyncio.to_thread(load, "asyncstore.runlog._keys:RunKeys")).under(settings.prefix).prefix
    return BucketUse(service, settings.s3_bucket, prefix, settings, access)
