"""Processes that move files with a catalog and may not do all that a process usually may."""

from __future__ import annotations

import json
import subprocess
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests._catalog_processes import SCRIPT, open_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from tests._processes import Worker

__all__ = ["confined_process", "mount", "moved_by", "small_disk"]

_CODE = """
import resource, runpy, sys
for name, limit in json.loads(sys.argv.pop(2)).items():
    resource.setrlimit(getattr(resource, name), (limit, limit))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@asynccontextmanager
async def confined_process(options: Mapping[str, Any], limits: Mapping[str, int]) -> AsyncIterator[Worker]:
    """
    Run a process with an S3 catalog open in it within the block; see :func:`tests._catalog_processes.catalog_process`.

    Args:
        options: of the catalog.
        limits: the process' own, by their names in :mod:`resource`.
    """
    code = f"import json, sys; sys.argv[0] = {str(SCRIPT)!r}{_CODE}"
    async with open_process("-c", code, json.dumps(["S3Catalog", dict(options)]), json.dumps(dict(limits))) as worker:
        yield worker


async def moved_by(worker: Worker, verb: str, folder: Path, run_id: str = "run") -> dict[str, Any]:
    """Have a process put or get all, and return what it says of it."""
    await worker.begin(verb, folder=str(folder), run_id=run_id)
    assert await worker.said() == {"begun": verb}
    outcome: dict[str, Any] = await worker.result()
    return outcome


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    """Have a file system of that size in ``folder`` within the block; skip the test where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount(folder, "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def mount(folder: Path, *arguments: str) -> None:
    """Mount something, or what is mounted otherwise; skip the test where that is not allowed."""
    try:
        subprocess.run(["mount", *arguments, str(folder)], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {getattr(error, 'stderr', error)}")
