"""The ``file-system`` catalog."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from asyncstore._core.threads import in_thread
from asyncstore.catalog.base import Catalog
from asyncstore.catalog.settings import FolderCatalogSettings
from asyncstore.objects.folder import FolderObjectStore

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

__all__ = ["FileSystemCatalog"]


class FileSystemCatalog(Catalog):
    """
    A catalog in a folder, also one that several machines share.

    Keyword arguments are the keys of :class:`FolderCatalogSettings`. Files are copied to
    ``<catalog_location>/<run_id>/<compute data folder>/<relative path>``. The catalog itself is never put, even where
    it lies in the compute data folder.
    """

    def __init__(self, **options: object) -> None:
        settings = FolderCatalogSettings.parse(options, "catalog 'file-system'")
        super().__init__(
            FolderObjectStore(settings.catalog_location),
            compute_data_folder=settings.compute_data_folder,
            max_concurrency=settings.max_concurrency,
            max_memory_mb=settings.max_memory_mb,
            max_bandwidth_mb_s=settings.max_bandwidth_mb_s,
            layout=settings.layout,
            remember=settings.remember,
        )

    async def _open(self, stack: AsyncExitStack) -> None:
        await stack.enter_async_context(self._store)
        self._own = await in_thread(os.path.realpath, self._store.location)
        await super()._open(stack)
