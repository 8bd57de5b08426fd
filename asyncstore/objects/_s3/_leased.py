"""A client of obstore's, and the keys that it has: it keeps them until they expire, and cannot be told to drop them."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from asyncstore._core.threads import in_thread
from asyncstore.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore.store import S3Store

    from asyncstore.aws.credentials import CredentialProvider, Credentials

__all__ = ["LeasedClient"]

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class _Lease:
    """
    Gives the keys of the moment to one client.

    It must not know the client, for obstore's garbage is not collected where it is part of a cycle.
    """

    def __init__(self, provider: CredentialProvider) -> None:
        self._provider = provider
        self.given: Credentials | None = None
        self.until_s = -math.inf

    def __call__(self) -> dict[str, Any]:
        # Called in the midst of requests, where nothing may block: each has seen to it that there are valid ones.
        found, until_s = self._provider.latest
        self.until_s, self.given = until_s, found
        expires_at = _LONG_AGO if until_s < 0 else None if until_s == math.inf else datetime.fromtimestamp(until_s, UTC)
        return {
            "access_key_id": found.access_key_id,
            "secret_access_key": found.secret_access_key,
            "token": found.token,
            "expires_at": expires_at,
        }


class LeasedClient:
    """
    A client of obstore's that has keys from a provider, as they are renewed.

    Args:
        make: makes one, given what it asks for keys; may block.
        provider: gives them.
    """

    def __init__(self, make: Callable[[Callable[[], dict[str, Any]]], S3Store], provider: CredentialProvider) -> None:
        self._make = make
        self._provider = provider
        self._replacing = asyncio.Lock()
        self._dropped = False
        self._lease = _Lease(provider)
        self.store: S3Store = make(self._lease)

    def has(self, keys: Credentials) -> bool:
        """Tell whether its next request is signed by these keys, or by younger ones."""
        lease = self._lease
        return lease.given is keys or lease.given is None or time.time() >= lease.until_s

    async def take(self, keys: Credentials) -> None:
        """
        See to it that its next request is signed by these keys, or by younger ones; others were refused early.

        Raises:
            ClosedError: it was dropped, perhaps meanwhile.
        """
        async with self._replacing:
            self._check_kept()
            if not self.has(keys):
                lease = _Lease(self._provider)
                store = await in_thread(self._make, lease)
                self._check_kept()
                self.store, self._lease = store, lease

    def drop(self) -> None:
        """Let go of it: its connections close when nobody holds it any more."""
        self._dropped = True
        del self.store

    def _check_kept(self) -> None:
        if self._dropped:
            raise ClosedError("the store was closed")
