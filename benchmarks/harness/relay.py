"""
A TCP relay that holds back every byte, for servers that cannot be told to be slow; a worker of its own.

Each way takes half of the latency, so a request and its answer take all of it, however they are cut into packets.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import deque
from typing import cast
from urllib.parse import urlsplit

from harness.loops import new_runner
from harness.worker import serve


class End(asyncio.Protocol):
    """One end of a relayed connection: what comes in leaves by the other end, later and in order."""

    def __init__(self, delay_s: float) -> None:
        self.other: End
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._held: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to send."""
        self._transport = cast("asyncio.Transport", transport)
        self._release()

    def data_received(self, data: bytes) -> None:
        """Have it sent later."""
        self.other.send_later(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the other end too, after what is still held back for it."""
        self.other.send_later(b"")

    def send_later(self, data: bytes) -> None:
        """Send ``data`` when it is due; nothing means the end."""
        self._held.append((self._loop.time() + self._delay_s, data))
        if self._timer is None:
            self._release()

    def _release(self) -> None:
        self._timer = None
        if self._transport is None:
            return
        while self._held:
            due, data = self._held[0]
            wait_s = due - self._loop.time()
            # Less than half a millisecond is less than timers can tell.
            if wait_s > 0.0005:
                self._timer = self._loop.call_later(wait_s, self._release)
                return
            self._held.popleft()
            if data:
                self._transport.write(data)
            else:
                self._transport.close()


async def relay(upstream: str, latency_s: float) -> None:
    """Relay connections to ``upstream`` until standard input ends."""
    loop = asyncio.get_running_loop()
    host, _, port = urlsplit(upstream).netloc.rpartition(":")
    connecting: set[asyncio.Task[object]] = set()

    def accept() -> End:
        near, far = End(latency_s / 2), End(latency_s / 2)
        near.other, far.other = far, near
        task = loop.create_task(loop.create_connection(lambda: far, host, int(port)))
        connecting.add(task)
        task.add_done_callback(connecting.discard)
        return near

    server = await loop.create_server(accept, "127.0.0.1", 0, backlog=1024)

    async def url() -> str:
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async with server:
        await serve({"url": url})


def main() -> None:
    """Read the command line and relay."""
    parser = argparse.ArgumentParser(prog="python -m harness.relay")
    parser.add_argument("upstream")
    parser.add_argument("latency_s", type=float)
    given = parser.parse_args()
    with new_runner(uvloop=True) as runner:
        runner.run(relay(given.upstream, given.latency_s))


if __name__ == "__main__":
    main()
