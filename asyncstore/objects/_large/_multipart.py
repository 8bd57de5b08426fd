"""
Multipart uploads: a pure plan of the parts, and what carries it out, goes on with it later, or ends it.

Limits are S3's: parts of at least 5 MiB but the last, at most 10,000 of them, one PUT or copy of at most 5 GiB
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from asyncstore._core.concurrency import CLEANUP_DEADLINE_S, ended, for_each, shielded
from asyncstore._core.retry import retrying
from asyncstore._core.threads import in_thread
from asyncstore.errors import (
    AsyncStoreError,
    ClosedError,
    ConflictError,
    CredentialsError,
    InvalidValueError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)
from asyncstore.objects._errors import NoSuchUploadError
from asyncstore.objects._large._journal import Begun
from asyncstore.objects._large._uploads import lane_of, sending
from asyncstore.objects._s3._messages import META_PREFIX
from asyncstore.objects.base import PUT_ID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from asyncstore.objects._large._journal import Journal
    from asyncstore.objects._large._uploads import UploadRequests
    from asyncstore.objects._s3._messages import PartDone
    from asyncstore.objects._s3._wire import Sender
    from asyncstore.objects.base import Transfer

    SendPart: TypeAlias = "Callable[[Sender, Part, str], PartDone]"
    """Makes one attempt, in a thread, to get a part to the upload of that id."""
    Settle: TypeAlias = "Callable[[str], Awaitable[None]]"
    """Waits a moment for the requests of that name that are under way though their callers are gone."""

__all__ = ["PART_BYTES", "RESUME_WORTH_BYTES", "Part", "PartwiseUpload", "plan_parts"]

MIB = 1024 * 1024
PART_BYTES = 8 * MIB
PART_LIMIT = 10_000
OBJECT_LIMIT_BYTES = 5 * 1024**4

RESUME_WORTH_BYTES = 256 * MIB
"""How much the storage must have of an upload that is cut off, to leave it there for a later one to go on with."""

CANCELLED_BEGIN_S = 0.6
"""How long a caller that is cancelled waits for the id of its upload, without which nobody can abort it."""
CANCELLED_SETTLE_S = 0.3
"""How long it waits for parts that are under way."""
CANCELLED_ABORT_S = 1.0
"""How long it waits for the abort, with the parts."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an object."""

    number: int
    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        return self.end - self.start


def plan_parts(size_bytes: int, *, part_bytes: int = PART_BYTES) -> list[Part]:
    """
    Cut an object into parts of ``part_bytes``, or of as many MiB more as keep their count within the limit.

    Raises:
        InvalidValueError: it is larger than an S3 object can be.
    """
    if size_bytes > OBJECT_LIMIT_BYTES:
        raise InvalidValueError(f"{size_bytes:,} bytes are more than the 5 TiB that an S3 object can hold")
    least = -(-size_bytes // PART_LIMIT)
    step = max(part_bytes, -(-least // MIB) * MIB)
    starts = range(0, max(size_bytes, 1), step)
    return [Part(number, start, min(start + step, size_bytes)) for number, start in enumerate(starts, 1)]


@dataclass(slots=True)
class PartwiseUpload:
    """
    One object on its way to the storage in parts.

    Args:
        requests: what is asked of the storage.
        key: where the object goes.
        parts: what it consists of.
        send: gets one of them there.
        headers: what its creation says of it.
        transfer: how the requests fit in with others.
        settle: waits for requests that are under way.
        confirm: called before the completion; what it raises prevents it.
        moves: whether the bytes of parts pass through here, and are admitted as such.
        journal: remembers the upload, so that a later one can go on with it.
    """

    requests: UploadRequests
    key: str
    parts: Sequence[Part]
    send: SendPart
    headers: Mapping[str, str]
    transfer: Transfer
    settle: Settle
    confirm: Callable[[], Awaitable[None]] | None = None
    moves: bool = True
    journal: Journal | None = None
    _upload_id: str = field(init=False, default="")
    _put_id: str = field(init=False, default="")
    _done: dict[int, PartDone] = field(init=False, default_factory=dict)
    _done_bytes: int = field(init=False, default=0)

    async def run(self) -> str:
        """
        Put the object there and return its ETag, beginning with what the journal and the storage have of it already.

        Each part is sent and retried alone. What stops this aborts the upload; but if much of it is there, the cause
        is one that passes, and there is a journal, then the upload stays for a later one to go on with. A caller that
        is cancelled waits for the abort no longer than about a second; a note on the error says what may stay.

        Raises:
            ConflictError: somebody else has ended the upload.
            OutcomeUnknownError: the answer to the completion was lost, and whether the object was written cannot be
                told; it may have been, and replaced since.
        """
        landed = await self._resume()
        if not landed:
            try:
                landed = await self._put()
            except OutcomeUnknownError:
                # It may be about to land: aborting now could take it away again.
                raise
            except BaseException as error:
                await self._give_up(error)
                raise
        await self._forget()
        return landed

    async def _put(self) -> str:
        if not self._upload_id:
            await self._begin_patiently()
        missing = [part for part in self.parts if part.number not in self._done]
        try:
            await for_each(self._send, missing, limit=max(1, min(self.transfer.limit, len(missing))))
            if self.confirm is not None:
                await self.confirm()
            return await self._complete()
        except NoSuchUploadError as error:
            raise ConflictError(f"{error}: somebody else has ended the upload") from error

    async def _begin_patiently(self) -> None:
        """Begin; a caller cancelled meanwhile waits a moment for the id, which nobody else will ever know."""
        beginning = asyncio.ensure_future(self._begin())
        try:
            await asyncio.shield(beginning)
        except asyncio.CancelledError as error:
            try:
                await shielded(ended(beginning), deadline_s=CANCELLED_BEGIN_S)
            except TimeoutError:
                error.add_note(
                    f"{self.key}: whether an upload in parts was begun is not known; if so, it stays until it is swept"
                )
            raise
        finally:
            if not beginning.done():
                beginning.cancel()
                await asyncio.wait([beginning])

    async def _begin(self) -> None:
        put_id = secrets.token_hex(16)

        def note(upload_id: str) -> None:
            if self.journal is not None:
                self.journal.begin(Begun(self.key, upload_id, put_id, self.headers))

        headers = {**self.headers, f"{META_PREFIX}{PUT_ID}": put_id}
        self._put_id = put_id
        self._upload_id = await self.requests.begin(self.key, headers, note)

    async def _send(self, part: Part) -> None:
        def work(sender: Sender) -> PartDone:
            done = self.send(sender, part, self._upload_id)
            if self.journal is not None:
                self.journal.add(done)
            return done

        async def once() -> PartDone:
            async with self.transfer.admit(part.size_bytes if self.moves else 0):
                return await self.requests.run("put", self.key, work, names=[self._lane])

        self._note(part, await sending(once, self.requests.retry))

    def _note(self, part: Part, done: PartDone) -> None:
        self._done[part.number] = done
        self._done_bytes += part.size_bytes
        self.transfer.advanced(part.size_bytes)

    async def _complete(self) -> str:
        parts = [self._done[part.number] for part in self.parts]
        lost = False

        async def once() -> str:
            nonlocal lost
            try:
                return await self.requests.complete_once(self.key, self._upload_id, parts)
            except UnavailableError as error:
                lost = lost or error.answer_lost
                raise

        try:
            return await retrying(once, self.requests.retry)
        except AsyncStoreError as error:
            if not lost and not isinstance(error, NoSuchUploadError):
                raise
            # A refusal may be the echo of an attempt that has landed, also of one that was said to have failed.
            if etag := await self.requests.etag_if_marked(self.key, self._put_id):
                return etag
            if not lost:
                raise
            raise OutcomeUnknownError(f"{error}; an attempt whose answer was lost may have landed", self.key) from error

    async def _resume(self) -> str:
        """Take over what an earlier upload has left; return the ETag if that was all of it."""
        left = await in_thread(self.journal.read) if self.journal is not None else None
        if left is None:
            return ""
        begun, noted = left
        if begun.key != self.key:
            return ""
        if begun.headers != self.headers:
            # Its object would not be as it is wanted now.
            await self._drop(begun)
            return ""
        try:
            found = await self.requests.parts(self.key, begun.upload_id)
        except NotFoundError:
            # It is over: perhaps because it was completed, and nobody was left to take note.
            etag = await self.requests.etag_if_marked(self.key, begun.put_id)
            if etag:
                self.transfer.advanced(sum(part.size_bytes for part in self.parts))
            return etag
        except (UnavailableError, ClosedError, CredentialsError):
            raise
        except AsyncStoreError:
            # Whatever there is cannot be looked at, so it cannot be gone on with.
            await self._drop(begun)
            return ""
        self._upload_id, self._put_id = begun.upload_id, begun.put_id
        for part in self.parts:
            mine, theirs = noted.get(part.number), found.get(part.number)
            if mine and theirs and (mine.etag, part.size_bytes) == (theirs.etag, theirs.size_bytes):
                self._note(part, mine)
        return ""

    async def _drop(self, begun: Begun) -> None:
        """Abort an earlier upload, if that can be done: the journal is about to forget it."""
        with contextlib.suppress(AsyncStoreError):
            await self.requests.abort(self.key, begun.upload_id)

    async def _give_up(self, cause: BaseException) -> None:
        """Abort the upload, unless it is worth going on with; ``cause`` is told if that fails."""
        cancelled = not isinstance(cause, Exception)
        passes = cancelled or isinstance(cause, UnavailableError | ClosedError | CredentialsError)
        if not self._upload_id or (passes and self.journal is not None and self._done_bytes >= RESUME_WORTH_BYTES):
            return
        try:
            deadline_s = CANCELLED_ABORT_S if cancelled else CLEANUP_DEADLINE_S
            await shielded(self._abort(hurry=cancelled), deadline_s=deadline_s)
        except (AsyncStoreError, TimeoutError) as error:
            # What the caller needs to know first is the cause.
            why = str(error) or "no answer in time"
            cause.add_note(f"the multipart upload {self._upload_id} could not be aborted and keeps its parts: {why}")

    async def _abort(self, *, hurry: bool) -> None:
        # A part that arrived after the abort would stay.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCELLED_SETTLE_S if hurry else None):
                await self.settle(self._lane)
        await self.requests.abort(self.key, self._upload_id)
        # Only now: whoever goes on with the upload, or ends it, needs its id.
        await self._forget()

    async def _forget(self) -> None:
        if self.journal is not None:
            await in_thread(partial(self.journal.close, remove=True))

    @property
    def _lane(self) -> str:
        return lane_of(self.key, self._upload_id)
