"""Answers on their way out: no more at once than the client takes, and no faster than it may."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from asyncstore.testing.s3_stub._content import BLOCK_BYTES

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

    from asyncstore.testing.s3_stub._messages import Outgoing

__all__ = ["Pace", "Sender"]

_STEPS_PER_S = 50
_LEAST_STEP_BYTES = 1024
_LOOK_AGAIN_S = 0.1
"""The rate may change meanwhile."""


class Pace:
    """
    When the bytes of one direction of a connection may move.

    Args:
        rate: bytes per second at the moment; 0 is without limit.
    """

    def __init__(self, rate: Callable[[], float]) -> None:
        self._rate = rate
        self._loop = asyncio.get_running_loop()
        self._free_at = 0.0

    def step_bytes(self) -> int:
        """Return how many bytes should be moved at once at most."""
        rate = self._rate()
        return max(_LEAST_STEP_BYTES, min(BLOCK_BYTES, int(rate / _STEPS_PER_S))) if rate else BLOCK_BYTES

    def moved(self, size_bytes: int) -> None:
        """Take note of bytes that were moved."""
        if rate := self._rate():
            self._free_at = max(self._free_at, self._loop.time()) + size_bytes / rate

    def wait_s(self) -> float:
        """Return how many seconds to wait before asking again; 0 if bytes may be moved."""
        if not self._rate():
            return 0.0
        return min(max(self._free_at - self._loop.time(), 0.0), _LOOK_AGAIN_S)


class Sender:
    """
    Sends one answer at a time.

    Args:
        transport: where to.
        pace: how fast.
        counter: where bytes of bodies are added to, by operation, when they are handed to the system.
        sent: called when an answer is out as a whole.

    Attributes:
        congested: whether the client does not read.
    """

    def __init__(
        self, transport: asyncio.Transport, pace: Pace, counter: Counter[str], sent: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._pace = pace
        self._counter = counter
        self._sent = sent
        self._blocks: Iterator[memoryview] | None = None
        self._operation = ""
        self._timer: asyncio.TimerHandle | None = None
        self.congested = False

    def pause(self) -> None:
        """Wait until the client reads."""
        self.congested = True

    def resume(self) -> None:
        """Go on."""
        self.congested = False
        if self._blocks is not None and self._timer is None:
            self._go_on()

    def send(self, answer: Outgoing) -> None:
        """Send an answer."""
        if answer.head:
            self._transport.write(answer.head)
        if answer.body is None:
            if answer.size_bytes and answer.operation:
                self._counter[answer.operation] += answer.size_bytes
            self._sent()
            return
        self._operation = answer.operation
        self._blocks = answer.body.blocks(self._pace.step_bytes())
        self._go_on()

    def cancel(self) -> None:
        """Send no more."""
        self._blocks = None
        if self._timer is not None:
            self._timer.cancel()

    def _go_on(self) -> None:
        self._timer = None
        while self._blocks is not None and not self.congested:
            if wait_s := self._pace.wait_s():
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._go_on)
                return
            block = next(self._blocks, None)
            if block is None:
                self._blocks = None
                self._sent()
                return
            self._counter[self._operation] += len(block)
            self._transport.write(block)
            self._pace.moved(len(block))
