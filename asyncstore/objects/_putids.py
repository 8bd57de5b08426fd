"""
Put-ids: how a conditional write whose answer was lost is told from others' writes.

The mark in the object's metadata is a token, fixed over a write's attempts, and what the write replaced: nothing, or
the object of an ETag. So a refused attempt finds out by one HEAD that it is its own echo, or that another write has
taken the very place it wanted; where it can find out neither, the outcome is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import TYPE_CHECKING

from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore.errors import AsyncStoreError, NotFoundError, OutcomeUnknownError, UnavailableError
from asyncstore.objects.base import CLOCK_SKEW, PUT_ID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from asyncstore.objects.base import Condition, ObjectMeta

__all__ = ["MarkedPut", "Whose", "put_marked"]

NOTHING = "new"


class Whose(Enum):
    """What is under a key now tells of a write to that key."""

    OURS = auto()
    """The write has landed, and stands."""
    ANOTHERS = auto()
    """The write has not landed: another one was there before."""
    UNKNOWN = auto()
    """The write has not landed, or it has, and was replaced or deleted since."""


@dataclass(frozen=True, slots=True)
class MarkedPut:
    """A conditional write under way; ``token`` is no other write's."""

    key: str
    condition: Condition
    token: str
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def mark(self) -> str:
        """What goes into the object's metadata as its put-id."""
        return f"{self.token}:{self._replaced}"

    def whose(self, found: ObjectMeta | None) -> Whose:
        """
        Decide whose write ``found`` is, the object that is there now, or ``None`` where there is none.

        A key deleted and made anew meanwhile, or an ETag that comes back with its content, counts as another's write.
        """
        if found is None:
            return Whose.UNKNOWN
        token, _, replaced = _put_id(found.metadata).partition(":")
        if token == self.token:
            return Whose.OURS
        # Had ours landed first, the other would have been refused, or have replaced ours.
        took_our_place = bool(token) and replaced == self._replaced
        # An object keeps its time until it is replaced, and ours would be younger.
        is_older = found.modified_at < self.began_at - CLOCK_SKEW
        return Whose.ANOTHERS if took_our_place or is_older else Whose.UNKNOWN

    @property
    def _replaced(self) -> str:
        return NOTHING if self.condition.create else self.condition.etag.strip('"')


async def put_marked(
    write: MarkedPut, put: Callable[[], Awaitable[str]], head: Callable[[], Awaitable[ObjectMeta]], retry: RetryPolicy
) -> str:
    """
    Return the ETag of what ``put`` writes in one or more attempts; ``head`` describes what is there, if need be.

    Raises:
        OutcomeUnknownError: an answer was lost, and it cannot be told whether that attempt has landed.
    """
    lost = False

    async def attempt() -> str:
        nonlocal lost
        try:
            return await put()
        except UnavailableError as error:
            lost = lost or error.answer_lost
            raise

    try:
        return await retrying(attempt, retry)
    except AsyncStoreError as error:
        if not lost:
            raise
        # A refusal may be the echo of an attempt that has landed; any other error tells nothing of that attempt.
        found = await _look(head, error)
        whose = write.whose(found)
        if found is not None and whose is Whose.OURS:
            return found.etag
        if whose is Whose.ANOTHERS and not isinstance(error, UnavailableError):
            raise
        raise OutcomeUnknownError(f"{error}; an attempt whose answer was lost may have landed", write.key) from error


async def _look(head: Callable[[], Awaitable[ObjectMeta]], error: AsyncStoreError) -> ObjectMeta | None:
    try:
        return await head()
    except NotFoundError:
        return None
    except AsyncStoreError as failure:
        error.add_note(f"what is there now could not be asked: {failure}")
        return None


def _put_id(metadata: Mapping[str, str]) -> str:
    """Return an object's put-id, also from a server that writes names in capitals or with underscores."""
    for name, value in metadata.items():
        if name.lower().replace("_", "-") == PUT_ID:
            return value
    return ""
