"""
How other tools lay out their run logs, told from the names of files or objects. Pure functions.

What the tools write, below the folder or prefix that their configuration names (magnus 0.4.22 with magnus-extensions
0.2.13, runnable 0.50.0):

- ``<run_id>.json``: magnus ``s3`` and ``file-system``, runnable ``file-system``.
- ``<run_id>/<run_id>.json``, JSON text within a JSON string: runnable ``minio``.
- ``<run_id>/RunLog``, ``StepLog-<internal name>-<ns>``, ``BranchLog-<internal name>-<ns>``, ``Parameter-<key>``, where
  ``ns`` is the time of the first write in nanoseconds: magnus ``chunked-s3``, and with ``.json`` at the end
  ``chunked-fs``.
- ``<run_id>/RunLog``, ``BranchLog-<internal name>``, steps and parameters inside: runnable ``chunked-minio``, and with
  ``.json`` at the end (unless the name ends in ``json`` anyway) ``chunked-fs``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from asyncstore.runlog.fragments import Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["LAYOUTS", "SUFFIX", "ChunkName", "Layout", "detect", "parse_name"]

SUFFIX = ".json"

_CREATED = re.compile(r"-(\d{18,20})$")
_OWN_FOLDERS = tuple(f"{kind}/" for kind in Kind)


class Layout(StrEnum):
    """What a run looks like in a folder or bucket."""

    DOCUMENT = "document"
    """One document beside others."""
    MINIO = "runnable-minio"
    """One document, quoted once more, in a folder of its own."""
    MAGNUS_CHUNKED = "magnus-chunked"
    """An object for each step, branch and parameter."""
    RUNNABLE_CHUNKED = "runnable-chunked"
    """An object for the run, and one for each branch."""
    ASYNCSTORE = "asyncstore-chunked"
    """asyncstore's own, for which there are stores."""


LAYOUTS: Mapping[str, Layout] = {
    "magnus-s3": Layout.DOCUMENT,
    "magnus-file-system": Layout.DOCUMENT,
    "magnus-chunked-s3": Layout.MAGNUS_CHUNKED,
    "magnus-chunked-fs": Layout.MAGNUS_CHUNKED,
    "runnable-file-system": Layout.DOCUMENT,
    "runnable-chunked-fs": Layout.RUNNABLE_CHUNKED,
    "runnable-minio": Layout.MINIO,
    "runnable-chunked-minio": Layout.RUNNABLE_CHUNKED,
}
"""By tool and type of its run-log store."""


@dataclass(frozen=True, slots=True)
class ChunkName:
    """What the name of one object in a run's folder says."""

    kind: Kind | None
    """``None`` where magnus cut the name at a slash: what it is can be told from its contents alone."""
    name: str
    created_ns: int | None = None
    """When magnus first wrote it."""


def detect(run_id: str, names: Collection[str]) -> Layout | None:
    """Tell the layout of a run's folder from the names in it, ``None`` if it is no run."""
    if any(name.startswith(_OWN_FOLDERS) and name.endswith(SUFFIX) for name in names):
        return Layout.ASYNCSTORE
    chunks = [chunk for chunk in map(parse_name, names) if chunk.kind is not None]
    if any(
        chunk.kind in {Kind.STEP_LOG, Kind.PARAMETER} or (chunk.kind is Kind.BRANCH_LOG and chunk.created_ns)
        for chunk in chunks
    ):
        return Layout.MAGNUS_CHUNKED
    if chunks:
        return Layout.RUNNABLE_CHUNKED
    return Layout.MINIO if f"{run_id}{SUFFIX}" in names else None


def parse_name(name: str) -> ChunkName:
    """Read the name of an object in a run's folder."""
    stem = name.removesuffix(SUFFIX)
    if stem == Kind.RUN_LOG:
        return ChunkName(Kind.RUN_LOG, "")
    prefix, dash, rest = stem.partition("-")
    if not dash or prefix not in {Kind.STEP_LOG, Kind.BRANCH_LOG, Kind.PARAMETER}:
        found = _CREATED.search(stem)
        return ChunkName(None, stem[: found.start()], int(found[1])) if found else ChunkName(None, stem)
    kind = Kind(prefix)
    if kind is Kind.PARAMETER:
        return ChunkName(kind, rest)
    found = _CREATED.search(rest)
    return ChunkName(kind, rest[: found.start()], int(found[1])) if found else ChunkName(kind, rest)
