"""
Credentials that stay fresh.

One provider serves both engines, tasks and threads alike. What finds credentials blocks (files, metadata services,
STS), so it runs in a thread, which the provider starts when it is time and which ends by itself: nobody whose
credentials still work waits for it, and whoever waits may be cancelled without harm to the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import threading
import time
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import TYPE_CHECKING, Any

from asyncstore.aws._botocore import NO_PROFILE, translated
from asyncstore.aws._keys import Credentials
from asyncstore.aws._roles import assume_role
from asyncstore.aws._sources import base_credentials
from asyncstore.aws.clock import ServerClock
from asyncstore.errors import AsyncStoreError, CredentialsError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.aws.settings import AwsSettings

__all__ = ["NO_PROFILE", "CredentialProvider", "Credentials", "GivenCredentials"]

EARLY_SHARE = (0.2, 0.35)
"""Renew when so much of the lifetime is left, at random in between, so that processes begun together do not agree."""

DELAYS_S = (0.1, 0.2, 0.4, *(0.8,) * 6)
"""Between attempts of a renewal for which somebody waits, half of each at random, ..."""
PATIENCE_S = 30.0
"""... the last of which begins when so much time has passed at most."""

EARLY_PAUSE_SHARE = 0.2
"""After an early renewal that failed, the next one begins when so much of what is left has passed, ..."""
EARLY_PAUSE_LEAST_S, EARLY_PAUSE_MOST_S = 0.2, 60.0
"""... but neither sooner nor later than these."""

FAILED_PAUSE_S = 1.0
"""For so long after a renewal that failed, whoever wants credentials is told so at once: there may be hundreds."""

GIVEN_ANEW_S = 1.0
"""Credentials that are refused within this are not renewed for that: the next ones would be no better."""

CHECK_S = 0.1
"""How often a thread that waits asks whether it should."""

CLOSE_DEADLINE_S = 0.5

log = logging.getLogger(__name__)


class CredentialProvider:
    """
    Gives credentials that are valid now; one renewal at a time, however many tasks and threads want them.

    They are renewed early, while everybody goes on with the old ones; a renewal that fails then harms nobody, and is
    tried again. Credentials that a server refuses can be renewed at once.

    A provider belongs to no event loop. Pickled, it is its settings.

    Args:
        settings: where credentials come from.
        role_arn: a role to assume with them; default: that of the settings, and none if it is empty.
        clock: what tells the servers' time; default: one of its own.
    """

    def __init__(self, settings: AwsSettings, *, role_arn: str | None = None, clock: ServerClock | None = None) -> None:
        self.clock = clock or ServerClock()
        self._settings = settings
        self._role_arn = settings.role_arn if role_arn is None else role_arn
        self._lock = threading.Lock()
        self._current: Credentials | None = None
        self._given_s = -math.inf
        self._due_s = math.inf
        self._until_s = math.inf
        self._flight: Future[Credentials] | None = None
        self._failure: AsyncStoreError | None = None
        self._silent_until_s = -math.inf

    def __repr__(self) -> str:
        role = f" as {self._role_arn}" if self._role_arn else ""
        left_s = self._until_s - self.clock.now_s()
        state = "none yet" if self._current is None else "lasting" if left_s == math.inf else f"{left_s:.0f} s left"
        return f"<{type(self).__name__} {self._settings.aws_profile or 'default chain'}{role}: {state}>"

    def __reduce__(self) -> tuple[Callable[..., CredentialProvider], tuple[Any, ...]]:
        return _made_anew, (type(self), self._settings, self._role_arn)

    async def get(self) -> Credentials:
        """
        Return credentials that are valid now.

        Raises:
            CredentialsError: none are configured, or STS refuses those that are.
            ConfigurationError: the profile does not exist.
            AccessDeniedError: the role may not be assumed.
            UnavailableError: STS or the metadata service cannot be reached.
        """
        found = self.at_hand or self._look()
        return found if isinstance(found, Credentials) else await asyncio.wrap_future(found)

    @property
    def at_hand(self) -> Credentials | None:
        """What :meth:`get` would return without a look at anything, if it would."""
        return self._current if self.clock.now_s() < self._due_s else None

    def wait(self, check: Callable[[], None]) -> Credentials:
        """Do what :meth:`get` does, blocking; ``check`` is called every 0.1 s, and what it raises ends the wait."""
        found = self.at_hand or self._look()
        return found if isinstance(found, Credentials) else _waited(found, check)

    async def renew(self, refused: Credentials) -> Credentials:
        """
        Return others than those that a server has just refused, though it was not time yet.

        They are looked for once, however many tasks and threads were refused; those that come later get what was found.

        Raises:
            CredentialsError: they were given just now, so that others would be refused, too; there are no others; or
                what :meth:`get` raises.
        """
        found = self._look(refused)
        return _other(refused, found if isinstance(found, Credentials) else await asyncio.wrap_future(found))

    def wait_renewed(self, refused: Credentials, check: Callable[[], None]) -> Credentials:
        """Do what :meth:`renew` does, blocking; see :meth:`wait`."""
        found = self._look(refused)
        return _other(refused, found if isinstance(found, Credentials) else _waited(found, check))

    @property
    def latest(self) -> tuple[Credentials, float]:
        """
        What was found last, and until when this is worth keeping, by this machine's clock; without waiting.

        They may have expired if nobody has asked for credentials meanwhile.

        Raises:
            CredentialsError: nothing has been found yet.
        """
        with self._lock:
            if self._current is None:
                raise CredentialsError("no credentials have been looked for yet")
            return self._current, self._due_s - self.clock.skew_s

    async def aclose(self) -> None:
        """Wait a moment for a renewal that is under way; it ends by itself. Credentials can be had as before."""
        flight = self._flight
        if flight is not None:
            with contextlib.suppress(AsyncStoreError, TimeoutError):
                async with asyncio.timeout(CLOSE_DEADLINE_S):
                    await asyncio.wrap_future(flight)

    def _look(self, refused: Credentials | None = None) -> Credentials | Future[Credentials]:
        """Return credentials that work, or the renewal that will give some; begin one if it is time."""
        with self._lock:
            if refused is not None and refused is self._current:
                self._refuse_current()
            now_s = self.clock.now_s()
            working = self._current if now_s < self._until_s else None
            if working is not None and now_s < self._due_s:
                return working
            if self._flight is None:
                if working is None and self._failure is not None and now_s < self._silent_until_s:
                    raise type(self._failure)(str(self._failure)) from self._failure
                self._begin()
            assert self._flight is not None
            return working or self._flight

    def _refuse_current(self) -> None:
        now_s = self.clock.now_s()
        if now_s - self._given_s < GIVEN_ANEW_S and now_s < self._until_s:
            raise CredentialsError("AWS credentials were refused as soon as they were given")
        self._due_s = self._until_s = -math.inf

    def _begin(self) -> None:
        flight: Future[Credentials] = Future()
        flight.set_running_or_notify_cancel()
        self._flight = flight
        thread = threading.Thread(target=self._fly, args=(flight,), name="asyncstore-credentials", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._flight = None
            raise UnavailableError(f"credentials cannot be looked for: {error}") from error

    def _fly(self, flight: Future[Credentials]) -> None:
        """Renew, in a thread of its own."""
        try:
            found = self._found()
        except BaseException as error:
            with self._lock:
                self._take_failure(error)
            flight.set_exception(error)
        else:
            with self._lock:
                self._take(found)
            flight.set_result(found)

    def _found(self) -> Credentials:
        give_up_s = time.monotonic() + PATIENCE_S
        for delay_s in DELAYS_S:
            try:
                return self._find()
            except UnavailableError:
                if self._works() or time.monotonic() > give_up_s:
                    raise
            # In a thread that does nothing else, and whom nobody waits for in vain: those who do may leave.
            time.sleep(delay_s * random.uniform(0.5, 1.0))
        return self._find()

    def _works(self) -> bool:
        return self._current is not None and self.clock.now_s() < self._until_s

    def _take(self, found: Credentials) -> None:
        now_s = self.clock.now_s()
        self._current, self._given_s = found, now_s
        self._flight = self._failure = None
        self._due_s = self._until_s = math.inf
        if found.expires_at is not None:
            self._until_s = found.expires_at.timestamp()
            self._due_s = self._until_s - (self._until_s - now_s) * random.uniform(*EARLY_SHARE)

    def _take_failure(self, error: BaseException) -> None:
        self._flight = None
        now_s = self.clock.now_s()
        if self._works():
            left_s = self._until_s - now_s
            self._due_s = now_s + min(max(left_s * EARLY_PAUSE_SHARE, EARLY_PAUSE_LEAST_S), EARLY_PAUSE_MOST_S)
            log.warning("AWS credentials could not be renewed early, those at hand last %.0f s: %s", left_s, error)
        elif isinstance(error, AsyncStoreError):
            self._failure, self._silent_until_s = error, now_s + FAILED_PAUSE_S

    def _find(self) -> Credentials:
        """Look for credentials; blocks, in a thread that does nothing else."""
        found: Credentials = translated(self._find_anywhere, self.clock, profile=self._settings.aws_profile)
        if found.expires_at is not None and found.expires_at.timestamp() <= self.clock.now_s():
            raise CredentialsError(
                f"the AWS credentials that were given have expired at {found.expires_at:%Y-%m-%d %H:%M:%S} UTC; "
                "renew them where they come from, or set this machine's clock"
            )
        return found

    def _find_anywhere(self) -> Credentials:
        base = base_credentials(self._settings, self.clock)
        return assume_role(self._settings, self._role_arn, base, self.clock) if self._role_arn else base


class GivenCredentials(CredentialProvider):
    """
    Gives the credentials that it was given, until they expire.

    Args:
        settings: as for any other.
        credentials: what to give.
    """

    def __init__(self, settings: AwsSettings, credentials: Credentials) -> None:
        super().__init__(settings, role_arn="")
        self._given = credentials
        self._take(credentials)

    def __reduce__(self) -> Any:
        raise TypeError("given credentials are not pickled")

    def _find_anywhere(self) -> Credentials:
        return self._given


def _waited(flight: Future[Credentials], check: Callable[[], None]) -> Credentials:
    while not flight.done():
        check()
        wait_for([flight], CHECK_S)
    return flight.result()


def _other(refused: Credentials, found: Credentials) -> Credentials:
    if found.access_key_id == refused.access_key_id and found.token == refused.token:
        raise CredentialsError("AWS credentials were refused, and there are no others")
    return found


def _made_anew(kind: type[CredentialProvider], settings: AwsSettings, role_arn: str) -> CredentialProvider:
    return kind(settings, role_arn=role_arn)
