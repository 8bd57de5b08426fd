"""Ranges of objects in S3, read block by block and checked against what was asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore.errors import AsyncStoreError, ConflictError, IntegrityError
from asyncstore.objects._errors import no_answer
from asyncstore.objects._messages import described, ranged
from asyncstore.objects._wire import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.objects._uploads import Run
    from asyncstore.objects._wire import Reply, Sender
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

    async def run(self, run: Run, if_match: Callable[[str], str], transfer: Transfer, retry: RetryPolicy) -> ObjectMeta:
        """
        Read it and return the object's description; ``if_match`` gives the form in which an ETag is said, if at all.

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

    def _attempt(self, sender: Sender, said: str) -> ObjectMeta:
        what = f"get {self.at}"
        found: list[ObjectMeta] = []

        def receive(reply: Reply) -> Callable[[memoryview], None]:
            meta = described(self.key, ranged(reply.headers, self.start, self.end, what), reply.headers)
            if self.etag and meta.etag != self.etag:
                raise ConflictError(f"{what}: it was replaced meanwhile")
            self.etag = meta.etag
            found.append(meta)
            return self._take

        headers = {"Range": f"bytes={self.start}-{self.end - 1}"} | ({"If-Match": said} if said else {})
        if self.start < self.end:
            sender.send(Request("GET", self.key, what, headers=headers), receive)
        if self.start < self.end:
            raise no_answer(f"{what}: the answer ended {self.end - self.start} bytes early", sent=True)
        return found[0]

    def _take(self, block: memoryview) -> None:
        if len(block) > self.end - self.start:
            raise IntegrityError(f"get {self.at}: more came than was asked for")
        try:
            self.sink(block, self.start)
        except Exception as error:
            raise _SinkError(f"get {self.at}: the sink failed") from error
        self.start += len(block)
