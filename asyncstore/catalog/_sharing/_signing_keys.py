"""Credentials that last as long as what they sign is to be good for, as far as there are any."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from asyncstore.aws.credentials import CredentialProvider
from asyncstore.errors import AsyncStoreError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.aws.credentials import Credentials
    from asyncstore.aws.settings import AwsSettings

__all__ = ["SigningKeys", "lifetime_of", "session_lengths"]

SPARE_S = 60
"""How much longer than what it signs a session is asked for: the answer takes its time, and so may the caller."""

LONGEST_SESSION_S = 12 * 3600
"""Longest session that STS gives."""

FRESH_SHARE = 0.9
"""A session that is shorter than wanted is used while so much of it is left."""

USUAL_LIMIT_S = 3600
"""What a role allows unless somebody has changed that, and the longest session of a role that assumes another."""


class SigningKeys:
    """
    Gives credentials for signatures that are given away.

    Args:
        provider: what the catalog itself works with.
        settings: by which the role, if there is one, is assumed for longer.
    """

    def __init__(self, provider: CredentialProvider, settings: AwsSettings) -> None:
        self._provider = provider
        self._settings = settings
        self._longer: CredentialProvider | None = None
        self._refused_s = LONGEST_SESSION_S + 1
        self._lock: asyncio.Lock | None = None

    async def get(self, lifetime_s: int) -> Credentials:
        """
        Return what lasts for ``lifetime_s`` seconds, or else what lasts longest.

        Raises:
            AsyncStoreError: there are none at all; see :meth:`CredentialProvider.get`.
        """
        best = await self._provider.get()
        if self._suffice(best, lifetime_s) or not self._settings.role_arn:
            return best
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            return await self._get_longer(lifetime_s) or best

    async def aclose(self) -> None:
        """Wait a moment for a renewal that is under way."""
        if self._longer is not None:
            await self._longer.aclose()

    async def _get_longer(self, lifetime_s: int) -> Credentials | None:
        for length_s in session_lengths(lifetime_s, self._settings.session_duration_in_seconds):
            if length_s >= self._refused_s:
                continue
            # Where none lasts that long, not each signature is worth another session.
            enough_s = lifetime_s if length_s > lifetime_s else min(lifetime_s, int(length_s * FRESH_SHARE))
            if self._longer is not None and self._suffice(found := await self._longer.get(), enough_s):
                return found
            asked = self._settings.model_copy(update={"session_duration_in_seconds": length_s})
            longer = CredentialProvider(asked, clock=self._provider.clock)
            try:
                found = await longer.get()
            except ConfigurationError:
                # The role allows no session of that length.
                self._refused_s = length_s
            except AsyncStoreError:
                return None
            else:
                self._longer = longer
                return found
        return None

    def _suffice(self, keys: Credentials, lifetime_s: int) -> bool:
        return lifetime_of(lifetime_s, self._provider.seconds_left(keys)) == lifetime_s


def session_lengths(lifetime_s: int, configured_s: int) -> Iterator[int]:
    """Yield how long sessions of a role may be asked for, the fitting one first."""
    fitting = min(max(lifetime_s + SPARE_S, configured_s), LONGEST_SESSION_S)
    yield fitting
    if configured_s < USUAL_LIMIT_S < fitting:
        yield USUAL_LIMIT_S
    if configured_s < fitting:
        yield configured_s


def lifetime_of(wanted_s: int, left_s: float) -> int:
    """Return for how many seconds what keys with so many left sign is good for, ``wanted_s`` at most and 1 at least."""
    return max(1, math.floor(min(wanted_s, left_s)))
