"""
Finding out what a server does with conditional writes, ranges and checksums, with one small object.

Requests: 7 where conditions are honoured (create; create again, refused; replace by the right ETag; by a wrong one,
refused; read a range; replace by bytes with a wrong checksum, refused; delete), 8 where ETags must go without their
quotes, 6 where conditions are ignored or answered with an error, 7 or, with ETags without quotes, 9 where one of them
alone is honoured. AWS itself is documented to honour all of it, and is not asked.

obstore sends the conditions, as it will later. The range and the checksum go out through botocore's signer and HTTP
session: obstore cannot send a checksum, and does not tell a range that came with status 200 from a whole object. What
that way does not reach, or an answer leaves open, holds nothing up: ranges count as honoured until a read finds
otherwise, and checksums as ignored.

The object has a name of its own in each probe, since two processes that shared one would refuse each other's writes,
and is deleted afterwards. Where deleting is denied it stays, one from each process, and a warning names it; a bucket
that keeps versions keeps two or three of it, and a lock keeps them until it ends.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import zlib
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, TypeAlias

from asyncstore._core.concurrency import shielded
from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AsyncStoreError,
    ClosedError,
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    UnavailableError,
)
from asyncstore.objects.base import Capabilities, sent_etag

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from asyncstore.objects._s3._requests import Reply
    from asyncstore.objects.base import ETagForm, Ranges

    Put: TypeAlias = Callable[[str, bytes, Any], Awaitable[str]]
    Delete: TypeAlias = Callable[[str], Awaitable[None]]
    Send: TypeAlias = Callable[[str, str, Mapping[str, str], bytes], Awaitable[Reply]]
    Place: TypeAlias = tuple[str, str, str]

__all__ = ["Prober", "known_capabilities", "learn"]

PROBE = b"asyncstore probes what is honoured here"
SPAN = 1, 5
"""The range that is read, end exclusive."""
WRONG_ETAG = '"00000000000000000000000000000000"'
RUN_LIMIT = 4
"""Probes begun anew because a lost answer left in doubt what a refusal meant, before the server counts as down."""

log = logging.getLogger(__name__)


class _Answer(Enum):
    DONE = auto()
    REFUSED = auto()
    """As a condition that does not hold is refused."""
    ODD = auto()
    """Not implemented, a bad request, not allowed: whatever is said to a condition, and not to a plain write."""


class _InDoubtError(UnavailableError):
    """The refusal may be the echo of an earlier attempt."""


@dataclass(slots=True)
class Prober:
    """
    Asks one server.

    Args:
        prefix: what the probe object's key begins with.
        put: makes one attempt to write an object in a mode of obstore's, and returns its ETag.
        delete: deletes an object.
        send: makes one attempt at a request of a method, with a key, headers and body.
        retry: how long to keep trying each request.
        location: the bucket, for messages.
    """

    prefix: str
    put: Put
    delete: Delete
    send: Send
    retry: RetryPolicy
    location: str
    _key: str = field(init=False, default="")
    _etag: str = field(init=False, default="")
    _lost: bool = field(init=False, default=False)
    _there: bool = field(init=False, default=False)

    async def run(self) -> Capabilities:
        """
        Return what the server heeds.

        An answer that a server in trouble gives (5xx, none in time) decides nothing: the request is repeated.

        Raises:
            AccessDeniedError: nothing may be written there.
            UnavailableError: the server was in trouble for too long.
        """
        for left in reversed(range(RUN_LIMIT)):
            self._key = f"{self.prefix}.asyncstore-probe-{secrets.token_hex(8)}"
            self._lost = self._there = False
            try:
                return await self._ask()
            except _InDoubtError:
                if not left:
                    raise
            finally:
                if self._there:
                    await self._clean_up()
        raise AssertionError("the last run returns or raises")

    async def _ask(self) -> Capabilities:
        create = await self._created()
        match = await self._matching(wary=not create)
        return Capabilities(
            create=create,
            match=match is not None,
            etag_form=match or "quoted",
            ranges=await self._ranges(),
            checksums=await self._checksums(match),
        )

    async def _created(self) -> bool:
        """Tell whether a new key can be made, and an old one cannot; either way there is an object then."""
        # Before any plain write, for a policy may demand a condition.
        if await self._put("create") is not _Answer.DONE:
            self._check_doubt()
            # A refusal of this one is about writing, a refusal of the others about their conditions.
            await self._attempts("overwrite")
            return False
        return await self._put("create") is _Answer.REFUSED

    async def _matching(self, *, wary: bool) -> ETagForm | None:
        """Return the form in which the right ETag passes and a wrong one does not, the wrong one first if wary."""
        forms: tuple[ETagForm, ...] = ("quoted", "bare")
        for form in forms:
            if wary and not await self._refuses_wrong(form):
                break
            if await self._put({"e_tag": sent_etag(self._etag, form)}) is not _Answer.DONE:
                self._check_doubt()
                continue
            if wary or await self._refuses_wrong(form):
                return form
            break
        return None

    async def _refuses_wrong(self, form: ETagForm) -> bool:
        return await self._put({"e_tag": sent_etag(WRONG_ETAG, form)}) is _Answer.REFUSED

    async def _ranges(self) -> Ranges:
        start, end = SPAN
        try:
            reply = await self._sent("GET", {"range": f"bytes={start}-{end - 1}"}, b"")
        except AsyncStoreError as error:
            self._leave_open("ranges", error)
            return "proper"
        if (
            reply.headers.get("content-range") != f"bytes {start}-{end - 1}/{len(PROBE)}"
            or len(reply.body) != end - start
        ):
            return "ignored"
        return "proper" if reply.status == 206 else "plain"

    async def _checksums(self, form: ETagForm | None) -> bool:
        wrong = base64.b64encode((zlib.crc32(PROBE) ^ 1).to_bytes(4, "big")).decode()
        headers = {"x-amz-checksum-crc32": wrong}
        if form is not None:
            # A policy may demand a condition.
            headers["if-match"] = sent_etag(self._etag, form)
        try:
            await self._sent("PUT", headers, PROBE)
        except IntegrityError:
            return True
        except AsyncStoreError as error:
            self._leave_open("checksums", error)
        return False

    async def _sent(self, method: str, headers: Mapping[str, str], body: bytes) -> Reply:
        return await retrying(lambda: self.send(method, self._key, headers, body), self.retry)

    def _leave_open(self, what: str, error: AsyncStoreError) -> None:
        if isinstance(error, UnavailableError | ClosedError):
            raise error
        log.info("what becomes of %s in %s was not found out: %s", what, self.location, error)

    def _check_doubt(self) -> None:
        if self._lost:
            raise _InDoubtError(f"probe of {self.location}: answers are lost all the time")

    async def _put(self, mode: Any) -> _Answer:
        try:
            await self._attempts(mode)
        except (AlreadyExistsError, ConflictError, NotFoundError):
            return _Answer.REFUSED
        except AsyncStoreError as error:
            if isinstance(error, ConfigurationError | AccessDeniedError) or type(error) is AsyncStoreError:
                return _Answer.ODD
            raise
        return _Answer.DONE

    async def _attempts(self, mode: Any) -> None:
        async def once() -> None:
            try:
                self._etag = await self.put(self._key, PROBE, mode)
            except UnavailableError as error:
                self._lost = self._lost or error.answer_lost
                self._there = self._there or error.answer_lost
                raise
            except asyncio.CancelledError:
                self._there = True
                raise
            self._there = True

        await retrying(once, self.retry)

    async def _clean_up(self) -> None:
        try:
            await shielded(self.delete(self._key))
        except (AsyncStoreError, TimeoutError) as error:
            log.warning("the probe object %s stays in %s: %s", self._key, self.location, error)


@dataclass(frozen=True, slots=True)
class _Flight:
    """A probe under way; ``landed`` gets what it found, its error, or ``None`` if it was given up."""

    asker: object
    landed: Future[Capabilities | Exception | None] = field(default_factory=Future)


_known: dict[Place, Capabilities] = {}
_flights: dict[Place, _Flight] = {}


def known_capabilities(place: Place) -> Capabilities | None:
    """Return what was found out in this process about a server and bucket."""
    return _known.get(place)


async def learn(place: Place, asker: object, run: Callable[[], Awaitable[Capabilities]]) -> Capabilities:
    """
    Return what ``run`` finds out about ``place`` (endpoint, region, bucket), or found out before in this process.

    One runs at a time in the process, on whichever thread and event loop; the others wait for it. Only success is kept:
    a failure is raised for all calls of the same ``asker`` that waited for it, and another asker, whose permissions may
    differ, tries for itself.
    """
    while (known := _known.get(place)) is None:
        flight = _Flight(asker)
        flight.landed.set_running_or_notify_cancel()
        ahead = _flights.setdefault(place, flight)
        if ahead is flight:
            return await _fly(place, flight, run)
        outcome = await asyncio.wrap_future(ahead.landed)
        if isinstance(outcome, Exception) and ahead.asker is asker:
            raise outcome
    return known


async def _fly(place: Place, flight: _Flight, run: Callable[[], Awaitable[Capabilities]]) -> Capabilities:
    outcome: Capabilities | Exception | None = None
    try:
        # Another may have landed between our look and our start.
        outcome = _known[place] = _known.get(place) or await run()
    except Exception as error:
        outcome = error
        raise
    finally:
        del _flights[place]
        flight.landed.set_result(outcome)
    return outcome
