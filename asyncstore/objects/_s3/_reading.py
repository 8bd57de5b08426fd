"""Ranges of objects in S3, read block by block and checked against what was asked."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore._core.threads import in_thread
from asyncstore.errors import AsyncStoreError, ClosedError, ConflictError, IntegrityError, UnavailableError
from asyncstore.objects._errors import no_answer
from asyncstore.objects._s3._messages import described, ranged
from asyncstore.objects._s3._requests import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.objects._large._uploads import Run
    from asyncstore.objects._s3._requests import Reply
    from asyncstore.objects._s3._wire import Sender
    from asyncstore.objects.base import ObjectMeta, Sink, Transfer

__all__ = ["RangeRead"]


class _SinkError(AsyncStoreError):
    """What the sink raised, on its way past those who would take it for the storage's."""


@dataclass(slots=True)
class RangeRead:
    """
    A range of an object on its way to a sink.

    Args:
        key: which object.
        start: of the range; after a failure, the next byte that is missing.
        end: of the range, exclusive.
        etag: of the version that is wanted; if empty, that of the first answer, so that no two are mixed.
        at: where the key is, for messages.
        sink: takes the blocks.
    """

    key: str
    start: int
    end: int
    etag: str
    at: str
    sink: Sink
    _found: ObjectMeta | None = field(init=False, default=None)
    _gone: bool = field(init=False, default=False)
    _taking: threading.Lock = field(init=False, default_factory=threading.Lock)

    async def run(self, run: Run, if_match: Callable[[str], str], transfer: Transfer, retry: RetryPolicy) -> ObjectMeta:
        """
        Read it and return the object's description; ``if_match`` gives the form in which an ETag is said, if at all.

        The sink is not called any more when this has ended: a caller that is cancelled waits for the block that is
        being taken, not for the storage.

        Raises:
            ConflictError: the object has another ETag.
            IntegrityError: what came is not the range.
        """

        async def once() -> ObjectMeta:
            said = if_match(self.etag) if self.etag else ""
            async with transfer.admit(self.end - self.start):
                return await run("get", self.key, lambda sender: self._attempt(sender, said))

        try:
            return await retrying(once, retry)
        except _SinkError as error:
            cause = error.__cause__
            assert cause is not None
            raise cause from cause.__cause__
        except asyncio.CancelledError:
            if not self._leave(wait=False):
                await in_thread(self._leave)
            raise

    def _attempt(self, sender: Sender, said: str) -> ObjectMeta:
        what = f"get {self.at}"

        def receive(reply: Reply) -> Callable[[memoryview], None]:
            meta = described(self.key, ranged(reply.headers, self.start, self.end, what), reply.headers)
            if self.etag and meta.etag != self.etag:
                raise ConflictError(f"{what}: it was replaced meanwhile")
            self.etag = meta.etag
            self._found = meta
            return self._take

        headers = {"range": f"bytes={self.start}-{self.end - 1}"} | ({"if-match": said} if said else {})
        try:
            sender.send(Request("GET", self.key, what, headers=headers), receive)
        except UnavailableError:
            # Of an answer in chunks, what is lost may be the word that this was all.
            if self.start < self.end:
                raise
        if self._found is None or self.start < self.end:
            raise no_answer(f"{what}: the answer ended {self.end - self.start} bytes early", sent=True)
        return self._found

    def _take(self, block: memoryview) -> None:
        if len(block) > self.end - self.start:
            raise IntegrityError(f"get {self.at}: more came than was asked for")
        with self._taking:
            if self._gone:
                raise ClosedError("nobody waits for this range any more")
            try:
                self.sink(block, self.start)
            except Exception as error:
                raise _SinkError(f"get {self.at}: the sink failed") from error
            self.start += len(block)

    def _leave(self, *, wait: bool = True) -> bool:
        """Let the sink take no further block; return whether that is so, which takes as long as the one it is at."""
        if not self._taking.acquire(blocking=wait):
            return False
        self._gone = True
        self._taking.release()
        return True
