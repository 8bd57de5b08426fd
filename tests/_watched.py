"""An S3 stub on the loop of the test, which sees each request and may answer in the server's place."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from asyncstore.testing.s3_stub import S3Stub
from asyncstore.testing.s3_stub._messages import encode
from asyncstore.testing.s3_stub._operations import name_operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.testing.s3_stub._messages import Answer, Request
    from asyncstore.testing.s3_stub._protocol import Reply

__all__ = ["WatchedStub"]


class WatchedStub(S3Stub):
    """
    Tells what it is asked.

    Attributes:
        seen: all requests, without their bodies.
        answer: given a request, with its operation, returns what takes the place of the server's answer, or nothing.
        after: called with each request when the server has acted on it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[Request] = []
        self.answer: Callable[[Request], Answer | None] = lambda _: None
        self.after: Callable[[Request], None] = lambda _: None
        self.answering: Counter[str] = Counter()
        self._waiting: dict[str, asyncio.Event] = {}

    def accept(self, request: Request, reply: Reply) -> None:
        """Take a request."""
        operation = request.operation = name_operation(request)
        self.seen.append(request)
        self.answering[operation] += 1

        def replied(data: Any, ends: bool) -> None:
            self.answering[operation] -= 1
            self.after(request)
            request.body = b""
            reply(data, ends)

        if operation in self._waiting:
            self._waiting[operation].set()
        if (instead := self.answer(request)) is not None:
            replied(encode(instead, head_only=request.method == "HEAD"), False)
        else:
            super().accept(request, replied)

    async def asked(self, operation: str) -> None:
        """Wait until it is asked for that, the next time."""
        event = self._waiting[operation] = asyncio.Event()
        await event.wait()

    def requests_for(self, operation: str) -> list[Request]:
        """Return the requests for one operation."""
        return [request for request in self.seen if request.operation == operation]
