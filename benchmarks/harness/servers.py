"""The servers, as contenders reach them, and what they spend while they are used."""

from __future__ import annotations

import contextlib
import http.client
import os
import statistics
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from asyncstore.testing.s3_stub import s3_stub_server
from asyncstore.testing.servers import rclone_server
from harness.machine import children, cpu_s
from harness.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.servers import S3Server

BUCKET = "bench"

SERVERS = ("stub", "rclone")

LONE_REQUESTS = 25


@dataclass(frozen=True, slots=True)
class Target:
    """A server with an empty bucket."""

    name: str
    latency_s: float
    endpoint_url: str
    region: str
    environment: dict[str, str]
    """The variables that let any AWS client in."""
    heeds_conditions: bool
    pids: tuple[int, ...]
    """The server's processes; none where the system does not tell."""
    cores: int
    """How many cores it can use."""
    stub: StubServer | None = None
    settle_s: float = 0.0
    """How long to wait from writing to reading, because of what the server remembers wrongly meanwhile."""
    lone_s: float = 0.0
    """What a request takes with no other beside it, where a latency is added: the latency, and what is on top of it."""

    @property
    def slug(self) -> str:
        """A short name."""
        return f"{self.name.split(' ', 1)[0]}+{self.latency_s * 1000:.0f}ms"

    def reset_count(self) -> None:
        """Count requests anew."""
        if self.stub:
            self.stub.reset()

    def request_count(self) -> int | None:
        """Return how many requests came since, ``None`` if the server does not count."""
        return self.stub.requests.total() if self.stub else None

    def cpu_s(self) -> float | None:
        """Return the CPU seconds that the server has spent so far, ``None`` if the system does not tell."""
        return sum(map(cpu_s, self.pids)) if self.pids else None


@contextlib.contextmanager
def serving(name: str, latency_s: float) -> Iterator[Target]:
    """Run the server of that name (see ``SERVERS``) with a latency added to each request."""
    with _stub(latency_s) if name == "stub" else _rclone(latency_s) as target:
        yield replace(target, lone_s=_lone_s(target.endpoint_url)) if latency_s else target


def _lone_s(endpoint_url: str) -> float:
    connection = http.client.HTTPConnection(urlsplit(endpoint_url).netloc)
    taken_s = []
    with contextlib.closing(connection):
        for _ in range(LONE_REQUESTS):
            began_s = time.perf_counter()
            connection.request("GET", "/")
            connection.getresponse().read()
            taken_s.append(time.perf_counter() - began_s)
    return statistics.median(taken_s)


@contextlib.contextmanager
def _stub(latency_s: float) -> Iterator[Target]:
    before = children()
    with s3_stub_server() as server:
        server.configure(latency_s=latency_s)
        target = _target("in-memory stub", server, before, latency_s)
        yield replace(target, heeds_conditions=True, cores=1, stub=server)


@contextlib.contextmanager
def _rclone(latency_s: float) -> Iterator[Target]:
    before = children()
    with rclone_server() as server:
        # It remembers files that were listed or looked for while they were written, for a second.
        target = replace(_target("rclone serve s3", server, before, latency_s), settle_s=1.5)
        if not latency_s:
            yield target
            return
        with Worker("relay", [server.endpoint_url, str(latency_s)]) as relay:
            yield replace(target, name=f"{target.name} behind a delaying relay", endpoint_url=relay.ask("url"))


def _target(name: str, server: S3Server, before: set[int], latency_s: float) -> Target:
    server.make_bucket(BUCKET)
    return Target(
        name=name,
        latency_s=latency_s,
        endpoint_url=server.endpoint_url,
        region=server.region,
        environment=server.environment,
        heeds_conditions=False,
        pids=tuple(children() - before),
        cores=os.cpu_count() or 1,
    )
