"""
Run the stub until it is told to end; it prints its URL, and takes any keys.

    python -m asyncstore.testing.s3_stub --port 9000 --bucket data
    python -m asyncstore.testing.s3_stub --set latency_s=0.02 --set etags=random --set discards=true

Fields of Behaviour are set with --set, as JSON or as plain text, and changed later with
``curl -d '{"latency_s": 0.1}' URL/_stub/config``; ``--cheap`` spares all hashing. Faults are set with
``curl -d '[{"do": "slow_down", "probability": 0.3}]' URL/_stub/faults``, counts are read from ``URL/_stub/requests``,
``URL/_stub/bytes_in`` and ``URL/_stub/bytes_out``, and reset by ``curl -d '' URL/_stub/reset``.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import signal
import sys
from typing import TYPE_CHECKING, Any

from asyncstore.testing.s3_stub import CHEAP, Behaviour, S3Stub
from asyncstore.testing.s3_stub._control import changed

if TYPE_CHECKING:
    from collections.abc import Sequence


async def serve(port: int, behaviour: Behaviour, buckets: Sequence[str]) -> None:
    """Run the stub until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with S3Stub(behaviour=behaviour, port=port) as stub:
        for bucket in buckets:
            stub.make_bucket(bucket)
        sys.stdout.write(f"{stub.url}\n")
        sys.stdout.flush()
        await ended.wait()


def setting(given: str) -> tuple[str, Any]:
    """Return the name and value of NAME=VALUE."""
    name, _, value = given.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main() -> None:
    """Read the command line and serve."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m asyncstore.testing.s3_stub", description=__doc__, formatter_class=form)
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1; 0 takes a free port")
    parser.add_argument("--bucket", action="append", default=[], metavar="NAME", help="a bucket to begin with")
    parser.add_argument("--latency-s", type=float, default=0.0, help="time added to each request")
    parser.add_argument("--cheap", action="store_true", help="hash nothing, for benchmarks")
    parser.add_argument("--set", action="append", default=[], type=setting, metavar="NAME=VALUE", dest="fields")
    parser.add_argument("--no-uvloop", action="store_true", help="use asyncio's own loop even if uvloop is there")
    given = parser.parse_args()
    fast = not given.no_uvloop and importlib.util.find_spec("uvloop") is not None
    factory = importlib.import_module("uvloop").new_event_loop if fast else None
    with asyncio.Runner(loop_factory=factory) as runner:
        fields = {"latency_s": given.latency_s, **(CHEAP if given.cheap else {}), **dict(given.fields)}
        runner.run(serve(given.port, changed(Behaviour(), fields), given.bucket))


main()
