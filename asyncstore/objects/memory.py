"""Objects in this process' memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obstore.store import MemoryStore

from asyncstore.objects._obstore import ObstoreObjectStore

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

__all__ = ["MemoryObjectStore"]


class MemoryObjectStore(ObstoreObjectStore):
    """Keeps objects in memory until the object is gone; for tests and throw-away work."""

    def __init__(self) -> None:
        super().__init__()
        self._store = MemoryStore()

    @property
    def location(self) -> str:
        """Where the objects lie, for messages."""
        return "memory:"

    async def _open(self, stack: AsyncExitStack) -> None:
        pass
