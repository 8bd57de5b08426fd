"""The stub in the process and on the event loop of the caller."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Self, TypeAlias

from asyncstore.testing.s3_stub._control import CONTROL_PREFIX, control
from asyncstore.testing.s3_stub._faults import MEDDLING, Fault, FaultPlan, meddle, refusal, spoil
from asyncstore.testing.s3_stub._incoming import incoming
from asyncstore.testing.s3_stub._messages import Behaviour, Outgoing, S3Error, encode
from asyncstore.testing.s3_stub._operations import name_operation, perform
from asyncstore.testing.s3_stub._protocol import StubProtocol
from asyncstore.testing.s3_stub._storage import BucketContent, Storage
from asyncstore.testing.s3_stub._throttle import TokenBucket
from asyncstore.testing.servers import Bucket, S3Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncstore.testing.s3_stub._faults import Action
    from asyncstore.testing.s3_stub._incoming import Incoming
    from asyncstore.testing.s3_stub._messages import Request
    from asyncstore.testing.s3_stub._protocol import Reply

    _Out: TypeAlias = tuple[Outgoing, bool] | None

__all__ = ["S3Stub"]

LOG_LIMIT = 10_000

SEND_BUFFER_BYTES = 512 * 1024
"""
What the system is asked to buffer of a connection's answers, of which Linux makes the double: by itself it takes up to
4 MiB, which have left the processor's cache when the client fetches them. For large answers, server and client together
take 7 to 25 % less processor time so.
"""

BODY_LIMIT_BYTES = 5 * 1024**3
"""Largest body that S3 takes in one request."""

_REFUSALS = {"slow_down", "internal_error", "conflict"}


class S3Stub:
    """
    An S3 server in memory, on the running loop within an ``async with`` block.

    Every request is decided and carried out in one step of one thread, so conditional writes are atomic. Signatures are
    not checked: any keys are let in, unless ``behaviour`` denies them.

    Args:
        behaviour: how it behaves towards every request; change its fields at any time.
        faults: rules for what goes wrong; set :attr:`faults` at any time, which begins counting anew.
        port: where it listens on 127.0.0.1; 0 takes a free one.

    Attributes:
        requests: how many requests came as a whole, by S3's names for them, such as ``PutObject``.
        bytes_in: how many bytes of their bodies came, by the same names, also of requests that broke off; with what
            frames the chunks of those that have some.
        bytes_out: how many bytes of bodies were handed to the system as answers, by the same names.
        throttled: how many of the requests were too many, and got 503 SlowDown.
        log: the method and path of the last 10,000.
        max_in_flight: how many requests were being answered at once; without latency it is 1.
        connections: how many connections were made.
    """

    def __init__(self, *, behaviour: Behaviour | None = None, faults: Sequence[Fault] = (), port: int = 0) -> None:
        self.behaviour = behaviour or Behaviour()
        self.plan = FaultPlan(faults)
        self.storage = Storage()
        self.url = ""
        self.requests: Counter[str] = Counter()
        self.bytes_in: Counter[str] = Counter()
        self.bytes_out: Counter[str] = Counter()
        self.throttled = 0
        self.log: deque[str] = deque(maxlen=LOG_LIMIT)
        self.max_in_flight = 0
        self.connections = 0
        self._in_flight = 0
        self._let_in = 0
        self._tokens = TokenBucket()
        self._port = port
        self._server: asyncio.Server
        self._loop: asyncio.AbstractEventLoop
        self._open: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", self._port, backlog=1024)
        for listening in self._server.sockets:
            # Connections inherit it.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        while self._open:
            for connection in self._open:
                connection.abort()
            await asyncio.wait([connection.closed for connection in self._open])
        await self._server.wait_closed()

    @property
    def faults(self) -> list[Fault]:
        """The rules for what goes wrong."""
        return self.plan.faults

    @faults.setter
    def faults(self, faults: Sequence[Fault]) -> None:
        self.plan = FaultPlan(faults)

    def make_bucket(self, name: str) -> Bucket:
        """Make a bucket, without a request, and return it."""
        self.storage.buckets[name] = BucketContent()
        return Bucket(name, S3Server(self.url))

    def restore(self) -> None:
        """Forget how to behave, faults and what was counted; buckets and objects stay."""
        self.behaviour = Behaviour()
        self.plan = FaultPlan()
        self.reset()

    def reset(self) -> None:
        """Count anew."""
        self.requests.clear()
        self.bytes_in.clear()
        self.bytes_out.clear()
        self.throttled = 0
        self.log.clear()
        self.max_in_flight = self._in_flight
        self.connections = 0

    def connection_opened(self, connection: _Connection) -> None:
        """Take note of a connection."""
        self._open.add(connection)
        self.connections += 1

    def connection_closed(self, connection: _Connection) -> None:
        """Forget a connection."""
        self._open.discard(connection)

    def begin(self, request: Request) -> None:
        """Name a request of which only the head has come; the stub's own ones go without."""
        if not request.path.startswith(CONTROL_PREFIX):
            request.operation = name_operation(request)

    def receive(self, request: Request, size_bytes: int | None) -> Incoming:
        """
        Return where to receive a body.

        Raises:
            S3Error: S3 does not take that much.
        """
        if size_bytes is not None and size_bytes > BODY_LIMIT_BYTES:
            raise S3Error(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
        return incoming(request, size_bytes, self.behaviour)

    def accept(self, request: Request, reply: Reply) -> None:
        """Answer a request, now or after the latency."""
        if not request.operation:
            reply(encode(control(self, request)), False)
            return
        self.requests[request.operation] += 1
        self.log.append(f"{request.method} {request.path}")
        action = self.plan.action_for(request)
        behaviour = self.behaviour
        admitted = not (behaviour.requests_per_s or behaviour.in_flight_limit) or self._admits()
        if not admitted:
            self.throttled += 1
            action = "slow_down"
        latency_s = behaviour.latency_s
        self._let_in += admitted
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        if latency_s:
            # It acts also if the client has gone meanwhile, as a real server does.
            send = partial(self._send, admitted, reply)
            due_s = time.monotonic() + latency_s
            self._loop.call_later(latency_s / 2, self._answer_late, due_s, request, action, send)
        else:
            self._send(admitted, reply, self._outcome(request, action))

    def _admits(self) -> bool:
        limit, rate = self.behaviour.in_flight_limit, self.behaviour.requests_per_s
        if limit and self._let_in >= limit:
            return False
        return not rate or self._tokens.admits(rate, self._loop.time())

    def _answer_late(self, due_s: float, request: Request, action: Action | None, send: Callable[[_Out], None]) -> None:
        outcome = self._outcome(request, action)
        # Loops round to milliseconds: what the first half took too long, the second does not.
        self._loop.call_later(max(0.0, due_s - time.monotonic()), send, outcome)

    def _send(self, admitted: bool, reply: Reply, outcome: _Out) -> None:
        self._in_flight -= 1
        self._let_in -= admitted
        if outcome is not None:
            reply(*outcome)

    def _outcome(self, request: Request, action: Action | None) -> _Out:
        """Act, and return what to send and whether the connection ends then; ``None`` never answers."""
        operation, head_only = request.operation, request.method == "HEAD"
        if action is None:
            return encode(perform(self.storage, self.behaviour, request), operation, head_only), False
        write = partial(encode, operation=operation, head_only=head_only)
        if action in MEDDLING:
            meddle(action, self.storage, request)
        elif action in _REFUSALS:
            return write(refusal(action)), False
        elif action == "lose_request":
            return Outgoing(), True
        answer = perform(self.storage, self.behaviour, request)
        match action:
            case "lose_answer":
                return Outgoing(), True
            case "error_after":
                return write(refusal(action)), False
            case "truncate":
                return write(answer, half=True), True
            case "flip_bit":
                return write(spoil(answer)), False
            case "stall":
                return None
        return write(answer), False


class _Connection(StubProtocol):
    """A connection that its stub can end."""

    def __init__(self, stub: S3Stub) -> None:
        super().__init__(stub)
        self._stub = stub
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._stub.connection_opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set_result(None)
        self._stub.connection_closed(self)

    def abort(self) -> None:
        self._transport.abort()
