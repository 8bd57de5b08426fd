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
import os
import random
import threading
import time
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from asyncstore.aws._botocore import NO_PROFILE, translated
from asyncstore.aws._flights import awaited, raise_own, waited
from asyncstore.aws._keys import Credentials
from asyncstore.aws._roles import assume_role
from asyncstore.aws._sources import base_credentials
from asyncstore.aws.clock import ServerClock
from asyncstore.errors import CredentialsError, UnavailableError

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

SETTLED_S = 60.0
"""Credentials that took the place of others in doubt, and that get the same answer within this, are not the reason."""

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
        clock: tells the time of the servers that requests are signed for; default: one of its own.
    """

    def __init__(self, settings: AwsSettings, *, role_arn: str | None = None, clock: ServerClock | None = None) -> None:
        self.clock = clock or ServerClock(ServerClock())
        self._source_clock = self.clock.issuers or ServerClock()
        self._settings = settings
        self._role_arn = settings.role_arn if role_arn is None else role_arn
        self._lock = threading.Lock()
        self._current: Credentials | None = None
        self._given_s = -math.inf
        self._due_s = math.inf
        self._until_s = math.inf
        self._flight: Future[Credentials] | None = None
        self._failure: BaseException | None = None
        self._silent_until_s = -math.inf
        self._in_doubt = self._given_in_doubt = self._trusted = False
        _PROVIDERS.add(self)

    def __repr__(self) -> str:
        role = f" as {self._role_arn}" if self._role_arn else ""
        left_s = self._until_s - self._source_clock.now_s()
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
        return found if isinstance(found, Credentials) else await awaited(found)

    @property
    def at_hand(self) -> Credentials | None:
        """What :meth:`get` would return without a look at anything, if it would."""
        # Keys that last need no look at the clock, which every small request would take.
        due_s = self._due_s
        return self._current if due_s == math.inf or self._source_clock.now_s() < due_s else None

    def wait(self, check: Callable[[], None]) -> Credentials:
        """Do what :meth:`get` does, blocking; ``check`` is called every 0.1 s, and what it raises ends the wait."""
        found = self.at_hand or self._look()
        return found if isinstance(found, Credentials) else waited(found, check)

    async def renew(self, refused: Credentials, *, in_doubt: bool = False) -> Credentials:
        """
        Return others than those that a server has just refused, though it was not time yet.

        They are looked for once, however many tasks and threads were refused; those that come later get what was found.

        Args:
            refused: what signed the request.
            in_doubt: it is not known whether they were the reason. Everybody else goes on with them until there are
                others, and for good if there are none; those are not doubted if they get the same answer.

        Raises:
            CredentialsError: they were given just now, so that others would be refused, too; there are no others; they
                are not the reason; or what :meth:`get` raises.
        """
        found = self._look(refused, in_doubt=in_doubt)
        return _other(refused, found if isinstance(found, Credentials) else await awaited(found))

    def wait_renewed(self, refused: Credentials, check: Callable[[], None], *, in_doubt: bool = False) -> Credentials:
        """Do what :meth:`renew` does, blocking; see :meth:`wait`."""
        found = self._look(refused, in_doubt=in_doubt)
        return _other(refused, found if isinstance(found, Credentials) else waited(found, check))

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
            return self._current, self._due_s - self._source_clock.skew_s

    def seconds_left(self, keys: Credentials) -> float:
        """Return for how long keys go on working, by the clock of whoever gave them; infinity if they do not expire."""
        return math.inf if keys.expires_at is None else keys.expires_at.timestamp() - self._source_clock.now_s()

    async def aclose(self) -> None:
        """Wait a moment for a renewal that is under way; it ends by itself. Credentials can be had as before."""
        flight = self._flight
        if flight is not None:
            # Whoever asks next is told what went wrong.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_DEADLINE_S):
                    await asyncio.wrap_future(flight)

    def _look(self, refused: Credentials | None = None, *, in_doubt: bool = False) -> Credentials | Future[Credentials]:
        """Return credentials that work, or the renewal that will give some; begin one if it is time."""
        with self._lock:
            now_s = self._source_clock.now_s()
            if refused is not None and refused is self._current:
                if in_doubt and now_s < self._until_s:
                    return self._question_current(now_s)
                self._refuse_current(now_s)
            working = self._current if now_s < self._until_s else None
            if working is not None and now_s < self._due_s:
                return working
            if self._flight is None:
                if working is None:
                    self._raise_failure(now_s)
                self._begin()
            assert self._flight is not None
            return working or self._flight

    def _refuse_current(self, now_s: float) -> None:
        if now_s - self._given_s < GIVEN_ANEW_S and now_s < self._until_s:
            raise CredentialsError("AWS credentials were refused as soon as they were given")
        self._due_s = self._until_s = -math.inf

    def _question_current(self, now_s: float) -> Future[Credentials]:
        """Return the renewal that will tell whether others fare better; the current ones stay what everybody uses."""
        assert self._current is not None
        age_s = now_s - self._given_s
        if self._given_in_doubt and age_s < SETTLED_S:
            # Those without an expiry come from where a look costs little, and where somebody may renew them any time.
            self._trusted = self._current.expires_at is not None
        if self._trusted or age_s < GIVEN_ANEW_S:
            raise CredentialsError("the AWS credentials are not the reason: fresh ones are refused as well")
        if self._flight is None:
            self._raise_failure(now_s)
            self._begin()
        assert self._flight is not None
        self._in_doubt = True
        return self._flight

    def _raise_failure(self, now_s: float) -> None:
        if self._failure is not None and now_s < self._silent_until_s:
            raise_own(self._failure)

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
                left_s = self._take_failure(error)
            try:
                # Not under the lock: who writes the log may take his time, or want credentials himself.
                if left_s > 0:
                    log.warning(
                        "AWS credentials could not be renewed early, those at hand last %.0f s: %s", left_s, error
                    )
            finally:
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
        return self._current is not None and self._source_clock.now_s() < self._until_s

    def _take(self, found: Credentials) -> None:
        now_s = self._source_clock.now_s()
        self._current, self._given_s = found, now_s
        self._given_in_doubt, self._in_doubt, self._trusted = self._in_doubt, False, False
        self._flight = self._failure = None
        self._due_s = self._until_s = math.inf
        if found.expires_at is not None:
            self._until_s = found.expires_at.timestamp()
            self._due_s = self._until_s - (self._until_s - now_s) * random.uniform(*EARLY_SHARE)

    def _take_failure(self, error: BaseException) -> float:
        """Return for how many seconds those at hand last all the same."""
        self._flight = None
        now_s = self._source_clock.now_s()
        left_s = self._until_s - now_s if self._current is not None else -math.inf
        if left_s > 0:
            pause_s = min(max(left_s * EARLY_PAUSE_SHARE, EARLY_PAUSE_LEAST_S), EARLY_PAUSE_MOST_S)
            self._due_s = min(now_s + pause_s, self._until_s)
        if left_s <= 0 or self._in_doubt:
            self._failure, self._silent_until_s = error, now_s + FAILED_PAUSE_S
        self._in_doubt = False
        return left_s

    def _forked(self) -> None:
        """Let go of what threads of the parent process held, which do not exist in this one."""
        if self._lock.locked():
            # One of them may have been about to change these.
            self._current = None
        self._lock = threading.Lock()
        self._flight = None
        self._in_doubt = False

    def _find(self) -> Credentials:
        """Look for credentials; blocks, in a thread that does nothing else."""
        found: Credentials = translated(self._find_anywhere, self._source_clock, profile=self._settings.aws_profile)
        if found.expires_at is not None and found.expires_at.timestamp() <= self._source_clock.now_s():
            raise CredentialsError(
                f"the AWS credentials that were given have expired at {found.expires_at:%Y-%m-%d %H:%M:%S} UTC; "
                "renew them where they come from, or set this machine's clock"
            )
        return found

    def _find_anywhere(self) -> Credentials:
        base = base_credentials(self._settings, self._source_clock)
        return assume_role(self._settings, self._role_arn, base, self._source_clock) if self._role_arn else base


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


def _other(refused: Credentials, found: Credentials) -> Credentials:
    if found.access_key_id == refused.access_key_id and found.token == refused.token:
        raise CredentialsError("AWS credentials were refused, and there are no others")
    return found


def _made_anew(kind: type[CredentialProvider], settings: AwsSettings, role_arn: str) -> CredentialProvider:
    return kind(settings, role_arn=role_arn)


def _forget_threads() -> None:
    for provider in list(_PROVIDERS):
        provider._forked()


_PROVIDERS: weakref.WeakSet[CredentialProvider] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
