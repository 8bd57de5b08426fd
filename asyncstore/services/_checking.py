"""
Checking services: what each of them needs of its bucket, database or folder is tried once.

What is the same for two services, a bucket with the same prefix and settings, is tried once for both.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from asyncstore._core.findings import Finding
from asyncstore.errors import AsyncStoreError
from asyncstore.services._buckets import bucket_use, is_on_s3
from asyncstore.services._making import embedded_catalog, embedded_database, filled, load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore._core.findings import State
    from asyncstore._core.placeholders import SecretSource
    from asyncstore.services._buckets import BucketUse
    from asyncstore.services.configuration import Configuration, ServiceConfiguration

__all__ = ["Checker", "ServiceCheck", "check_services"]

_FOLDERS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("run_log_store", "chunked-fs"): ("asyncstore.runlog.settings:FolderRunLogSettings", "log_folder"),
    ("run_log_store", "file-system"): ("asyncstore.runlog.settings:FolderRunLogSettings", "log_folder"),
    ("catalog", "file-system"): ("asyncstore.catalog.settings:FolderCatalogSettings", "catalog_location"),
}
_CONDITIONS = {"conditional create", "conditional match"}


@dataclass(frozen=True, slots=True)
class ServiceCheck:
    """What one check of a service has found; see :class:`Finding`."""

    service: str
    """``run_log_store`` or ``catalog``."""
    check: str
    """What was tried, such as ``put``."""
    state: State
    """``ok``, ``note``, ``missing``, ``unsupported``, ``skipped`` or ``failed``."""
    detail: str = ""
    """In words for people."""
    permission: str = ""
    """The permission that is missing, if one is."""
    statement: Mapping[str, Any] | None = None
    """What grants it."""
    role: str = ""
    """The role whose policy is to grant it; empty if that is who has the credentials."""


async def check_services(configuration: Configuration, secrets: SecretSource) -> list[ServiceCheck]:
    """Return what was found of the run-log store and the catalog of a configuration; what fails is a finding too."""
    checker = Checker(secrets)
    return [
        ServiceCheck(service, **asdict(finding))
        for service in ("run_log_store", "catalog")
        for finding in await checker.findings(configuration, service)
    ]


class Checker:
    """
    Checks services, and remembers what it has found of each bucket.

    Args:
        secrets: fills placeholders.
    """

    def __init__(self, secrets: SecretSource) -> None:
        self._secrets = secrets
        self._known: dict[tuple[str, bool, bool], list[Finding]] = {}

    async def findings(self, configuration: Configuration, service: str) -> list[Finding]:
        """Return what was found of one service; an error that stops it is the only finding, and it has failed."""
        try:
            return await self._findings(configuration, service)
        except (AsyncStoreError, TimeoutError) as error:
            return [Finding("reach", "failed", str(error) or "no answer in time")]

    async def _findings(self, configuration: Configuration, service: str) -> list[Finding]:
        wanted: ServiceConfiguration | None = getattr(configuration, service)
        embedded = wanted is None
        if wanted is None:
            make = embedded_database if service == "run_log_store" else embedded_catalog
            wanted = await make(configuration)
        access, kind = configuration.access, (service, wanted.type)
        if wanted.type == "db":
            check_database = await asyncio.to_thread(load, "asyncstore.runlog.db._checking:check_database")
            found: list[Finding] = await check_database(wanted.options, self._secrets, access)
            return found
        options = wanted.options if embedded else await filled(wanted.options, self._secrets)
        if is_on_s3(*kind):
            use = await bucket_use(service, wanted.type, options, service, access)
            return _fit_for(wanted.type, service, await self._bucket(use))
        if kind in _FOLDERS:
            home, name = _FOLDERS[kind]
            settings = (await asyncio.to_thread(load, home)).parse(options, service)
            check_folder = await asyncio.to_thread(load, "asyncstore.services._folder_check:check_folder")
            on_disk: list[Finding] = await check_folder(getattr(settings, name), access)
            return on_disk
        return []

    async def _bucket(self, use: BucketUse) -> list[Finding]:
        check_bucket = await asyncio.to_thread(load, "asyncstore.bucket.check:check_bucket")
        key = (use.place, use.access.allow_read, use.access.allow_write)
        if key not in self._known:
            self._known[key] = await check_bucket(use.bucket, use.settings, prefix=use.prefix, access=use.access)
        return self._known[key]


def _fit_for(layout: str, service: str, findings: list[Finding]) -> list[Finding]:
    """Take for a failure what a layout cannot do without."""
    if (service, layout) != ("run_log_store", "s3"):
        return findings
    return [
        replace(finding, state="failed") if finding.check in _CONDITIONS and finding.state == "unsupported" else finding
        for finding in findings
    ]
