"""
Requests to S3 by our own HTTP: small ones many at once in a thread, and whatever obstore has no way to say.

Bodies go through in blocks, both ways, so memory does not grow with them. Everything here blocks, and may be called
from any thread.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from asyncstore.errors import AsyncStoreError, ClosedError, UnavailableError
from asyncstore.objects._http._driving import run, run_many
from asyncstore.objects._http._origin import Origin
from asyncstore.objects._http._pool import Pool
from asyncstore.objects._http._signing import Signer
from asyncstore.objects._s3._renewing import ATTEMPTS, REFUSALS, asks_for_keys, is_doubtful
from asyncstore.objects._s3._requests import READS, Line, Outgoing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from asyncstore.aws.credentials import CredentialProvider, Credentials
    from asyncstore.objects._http._connection import Connection, Wait
    from asyncstore.objects._s3._renewing import Refusal
    from asyncstore.objects._s3._requests import Receive, Reply, Request

__all__ = ["Errand", "Sender", "Wire"]


class Errand(NamedTuple):
    """One of many requests."""

    request: Request
    settle: Callable[[Reply | AsyncStoreError], None]
    """Told what became of it, in the thread that made it."""
    most_bytes: int | None = None
    """A larger body is not received, and the answer that comes is without it."""


class Wire:
    """
    Sends requests about one bucket and its objects over connections that it keeps.

    Args:
        url: the bucket's; the environment says by which proxy it is reached.
        region: the bucket's.
        ca_bundle: CA certificates to trust instead of botocore's own.
        connections: most connections that are kept.
        now_s: tells the server's time, in seconds since the epoch.
        allow_link_local: let the host's name turn out to be a link-local address.
    """

    def __init__(
        self,
        url: str,
        region: str,
        ca_bundle: Path | None,
        *,
        connections: int,
        now_s: Callable[[], float] = time.time,
        allow_link_local: bool = False,
    ) -> None:
        self._now_s = now_s
        self._allow_link_local = allow_link_local
        self._url = url
        self._region = region
        self._ca_bundle = ca_bundle
        self._most = connections
        self._lock = threading.Lock()
        self._line: Line | None = None
        self._closed = False

    def send(
        self, request: Request, keys: Credentials, *, check: Callable[[], None], receive: Receive | None = None
    ) -> Reply:
        """
        Send one request, once.

        Args:
            request: what to ask.
            keys: what signs it.
            check: called every now and then while the request can still be taken back, and between blocks; what it
                raises ends the request and closes its connection.
            receive: takes the body of the answer in blocks; what it raises does so too.

        Raises:
            AsyncStoreError: what S3's answer means, by the table of :mod:`asyncstore.objects._errors`.
            UnavailableError: no answer came, or less than a whole one.
            ClosedError: this was closed.
        """
        line = self._open()
        check()
        outgoing = Outgoing(request, check)

        def receive_checked(reply: Reply) -> Callable[[memoryview], None]:
            assert receive is not None
            take = receive(reply)

            def take_checked(block: memoryview) -> None:
                self.check_open()
                check()
                take(block)

            return take_checked

        def look() -> None:
            self.check_open()
            if request.method in READS or not outgoing.gone:
                check()

        connection = line.pool.take()
        try:
            return run(line.exchange(connection, request, outgoing, keys, receive and receive_checked), look)
        finally:
            line.pool.give_back(connection)

    def send_many(
        self,
        errands: Iterator[Errand],
        keys: Callable[[], Credentials],
        at_once: Callable[[], int],
        heed: Callable[[Credentials, Refusal], None] | None = None,
    ) -> None:
        """
        Send many requests, each to be done once, ``at_once()`` of them at the same time, until there are no more.

        What a function given here raises is raised when those that are under way are settled: none lands later.

        Args:
            errands: asked for the next one whenever there is room.
            keys: gives what signs at this moment.
            at_once: most at the same time at this moment; one is under way in any case.
            heed: told which keys were refused and how, raises what becomes of the request, or lets it be made again.

        Raises:
            ClosedError: this was closed; no errand is settled any more.
        """
        line = self._open()
        ended = False
        under_way = 0
        failures: list[Exception] = []

        def exchange(connection: Connection, errand: Errand, used: Credentials) -> Wait[Reply]:
            outgoing = Outgoing(errand.request, self.check_open)
            return line.exchange(connection, errand.request, outgoing, used, most_bytes=errand.most_bytes)

        def exchange_again(connection: Connection, errand: Errand, used: Credentials, refusal: Refusal) -> Wait[Reply]:
            for _ in range(ATTEMPTS - 1):
                if heed is None:
                    break
                heed(used, refusal)
                used = keys()
                try:
                    return (yield from exchange(connection, errand, used))
                except REFUSALS as error:
                    refusal = error
            raise refusal

        def serve(errand: Errand | None) -> Wait[None]:
            nonlocal ended, under_way
            connection = line.pool.take()
            try:
                while errand is not None:
                    outcome: Reply | AsyncStoreError
                    try:
                        used = keys()
                        try:
                            outcome = yield from exchange(connection, errand, used)
                        except REFUSALS as refusal:
                            outcome = yield from exchange_again(connection, errand, used, refusal)
                    except AsyncStoreError as error:
                        outcome = error
                    errand.settle(outcome)
                    # Where nothing has to be waited for, as without an address, nobody else asks.
                    self.check_open()
                    if under_way > at_once():
                        return
                    errand = None if ended else next(errands, None)
                    ended = ended or errand is None
            except Exception as error:
                failures.append(error)
                ended = True
            finally:
                under_way -= 1
                line.pool.give_back(connection)

        def begin(count: int) -> Wait[None] | None:
            nonlocal ended, under_way
            try:
                if ended or (count and count >= at_once()):
                    return None
                errand = next(errands, None)
            except Exception as error:
                failures.append(error)
                errand = None
            ended = errand is None
            if ended:
                return None
            under_way += 1
            return serve(errand)

        run_many(begin, self.check_open)
        if failures:
            raise failures[0]

    def close(self) -> None:
        """Close all connections that are idle, and each other one when its request is over."""
        with self._lock:
            self._closed = True
            if self._line is not None:
                self._line.pool.close()

    def check_open(self) -> None:
        """
        Do nothing if requests can be sent.

        Raises:
            ClosedError: this was closed.
        """
        if self._closed:
            raise ClosedError(f"the connections to {self._url} were closed")

    def _open(self) -> Line:
        with self._lock:
            self.check_open()
            if self._line is None:
                origin = Origin.of(self._url, self._ca_bundle, allow_link_local=self._allow_link_local)
                self._line = Line(
                    self._url, origin, Pool(origin, self._most), Signer(origin.said, self._region, now_s=self._now_s)
                )
            return self._line


class Sender:
    """
    Sends the requests of one call to a thread, which may hang up meanwhile.

    Each is signed by keys that are valid at its moment, for which it may have to wait. One whose keys or whose time is
    refused is made again, with others.

    Args:
        wire: what sends them.
        provider: gives the keys.
    """

    def __init__(self, wire: Wire, provider: CredentialProvider) -> None:
        self._wire = wire
        self._provider = provider
        self._gone = False

    def send(self, request: Request, receive: Receive | None = None) -> Reply:
        """Send one request, to be carried out once; see :meth:`Wire.send`."""
        for left in reversed(range(ATTEMPTS)):
            used = self._keys()
            try:
                return self._wire.send(request, used, check=self.check, receive=receive)
            except REFUSALS as refusal:
                if not left:
                    raise
                self._heed(used, refusal)
        raise AssertionError("the last attempt returns or raises")

    def send_many(self, errands: Iterator[Errand], at_once: Callable[[], int]) -> None:
        """
        Send many requests; see :meth:`Wire.send_many`.

        Those that are under way when the caller hangs up are settled, and no further ones are sent.
        """
        self._wire.send_many(self._wanted(errands), self._keys, at_once, self._heed)

    def check(self) -> None:
        """
        Do nothing if somebody still wants what is being done.

        Raises:
            ClosedError: the caller is gone, or the wire was closed.
        """
        if self._gone:
            raise ClosedError("nobody waits for this request any more")
        self._wire.check_open()

    def hang_up(self) -> None:
        """Let what is under way end at its next block."""
        self._gone = True

    def _keys(self) -> Credentials:
        return self._provider.wait(self.check)

    def _heed(self, used: Credentials, refusal: Refusal) -> None:
        if not asks_for_keys(refusal, used, self._provider.clock):
            return
        try:
            self._provider.wait_renewed(used, self.check, in_doubt=is_doubtful(refusal))
        except (UnavailableError, ClosedError):
            raise
        except AsyncStoreError as error:
            raise refusal from error

    def _wanted(self, errands: Iterator[Errand]) -> Iterator[Errand]:
        while not self._gone and (errand := next(errands, None)) is not None:
            yield errand
