"""What the contenders at the catalog's work share: their command line, their operations, and the shape of keys."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from harness.worker import serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

Figures = dict[str, float]

PART_BYTES = 16 * 1024**2
PARTS_IN_FLIGHT = 16
"""Of the peers that cut large files themselves: a GiB of buffers, 64 parts, makes none of them faster."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender works."""

    kind: str
    bucket: str
    endpoint_url: str
    region: str
    uvloop: bool


class Contender(Protocol):
    """Somebody who moves folders; both operations return what :func:`harness.worker.measured` found."""

    async def up(self, folder: str, key: str, options: Mapping[str, str]) -> Figures:
        """Put the files of a folder under ``<key>/<relative path>``."""

    async def down(self, folder: str, key: str, options: Mapping[str, str]) -> Figures:
        """Get the files below ``<key>/`` into a folder, which need not exist."""


def arguments_of(place: Place) -> list[str]:
    """Return a place as a command line."""
    given = [place.kind, "--bucket", place.bucket, "--endpoint-url", place.endpoint_url, "--region", place.region]
    return [*given, *(["--uvloop"] if place.uvloop else [])]


def read_place(name: str) -> Place:
    """Read a place from the command line of the module of that name."""
    parser = argparse.ArgumentParser(prog=f"python -m harness.{name}")
    parser.add_argument("kind")
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--endpoint-url", required=True)
    parser.add_argument("--region", required=True)
    parser.add_argument("--uvloop", action="store_true")
    given = parser.parse_args()
    return Place(given.kind, given.bucket, given.endpoint_url, given.region, given.uvloop)


async def serve_contender(contender: Contender, **others: Callable[..., Awaitable[object]]) -> None:
    """Carry out what is asked for: both directions, and other operations by their names."""
    await serve({"up": contender.up, "down": contender.down, **others})
