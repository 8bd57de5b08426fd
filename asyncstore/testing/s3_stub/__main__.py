"""Run the stub until it is told to end: ``python -m asyncstore.testing.s3_stub --port 0`` prints its URL."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import signal
import sys

from asyncstore.testing.s3_stub import Behaviour, S3Stub


async def serve(port: int, latency_s: float) -> None:
    """Run the stub until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with S3Stub(behaviour=Behaviour(latency_s=latency_s), port=port) as stub:
        sys.stdout.write(f"{stub.url}\n")
        sys.stdout.flush()
        await ended.wait()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m asyncstore.testing.s3_stub", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1; 0 takes a free port")
    parser.add_argument("--latency-s", type=float, default=0.0, help="time added to each request")
    parser.add_argument("--no-uvloop", action="store_true", help="use asyncio's own loop even if uvloop is there")
    given = parser.parse_args()
    fast = not given.no_uvloop and importlib.util.find_spec("uvloop") is not None
    factory = importlib.import_module("uvloop").new_event_loop if fast else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(given.port, given.latency_s))


main()
