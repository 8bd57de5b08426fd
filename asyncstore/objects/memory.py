"""Objects in this process' memory."""

from __future__ import annotations

from obstore.store import MemoryStore

from asyncstore.objects._obstore import ObstoreObjectStore

__all__ = ["MemoryObjectStore"]

THREADS = 2
"""There is nothing to wait for, so more would only wait for each other."""


class MemoryObjectStore(ObstoreObjectStore):
    """Keeps objects in memory until the object is gone; for tests and throw-away work."""

    lasting = False

    def __init__(self) -> None:
        super().__init__(limit=THREADS)
        self._store = MemoryStore()

    @property
    def location(self) -> str:
        """Where the objects lie, for messages."""
        return "memory:"
