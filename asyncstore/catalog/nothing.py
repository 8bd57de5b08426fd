"""The ``do-nothing`` catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncstore._core.settings import Settings
from asyncstore.catalog._plan import TransferPlan
from asyncstore.catalog.base import Catalog
from asyncstore.objects.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncstore.catalog._entries import Entries
    from asyncstore.catalog._plan import Kind
    from asyncstore.models import DataCatalog

__all__ = ["DoNothingCatalog"]


class DoNothingSettings(Settings):
    """``do-nothing`` has no keys."""


class DoNothingCatalog(Catalog):
    """A catalog that takes everything and keeps nothing, for runs whose data is no matter."""

    def __init__(self, **options: object) -> None:
        DoNothingSettings.parse(options, "catalog 'do-nothing'")
        super().__init__(MemoryObjectStore(), remember=False)

    @property
    def location(self) -> str:
        """Nowhere."""
        return ""

    async def put(self, *_: Any, dry_run: bool = False, **__: Any) -> Any:
        """Put nothing."""
        return self._nothing("put", dry_run)

    async def get(self, *_: Any, dry_run: bool = False, **__: Any) -> Any:
        """Get nothing."""
        return self._nothing("get", dry_run)

    async def list(self, run_id: str) -> AsyncIterator[DataCatalog]:
        """Yield nothing."""
        self._check_readable()
        nothing: list[DataCatalog] = []
        for entry in nothing:
            yield entry

    async def sync_between_runs(self, *_: Any, dry_run: bool = False, **__: Any) -> Any:
        """Copy nothing."""
        return self._nothing("sync", dry_run)

    async def run(self, plan: TransferPlan, **_: Any) -> Entries:
        """Do nothing."""
        self._check_allowed(plan.kind)
        return []

    async def delete(self, run_id: str) -> None:
        """Delete nothing."""
        self._check_writable()

    def _nothing(self, kind: Kind, dry_run: bool) -> Entries | TransferPlan:
        self._check_allowed(kind)
        return TransferPlan(kind, "", "", "", "", ()) if dry_run else []
