"""Processes of their own that move files with a catalog, driven over pipes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncstore
from tests._processes import LINE_LIMIT_BYTES, Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from asyncstore.catalog import Catalog

__all__ = ["SCRIPT", "catalog_process", "open_process"]

SCRIPT = Path(__file__).with_name("_catalog_worker.py")


@asynccontextmanager
async def catalog_process(catalog: type[Catalog], options: Mapping[str, Any]) -> AsyncIterator[Worker]:
    """Run a process with a catalog open in it within the block; its jobs are ``put`` and ``get``."""
    async with open_process(str(SCRIPT), json.dumps([catalog.__name__, dict(options)])) as worker:
        yield worker


@asynccontextmanager
async def open_process(*arguments: str) -> AsyncIterator[Worker]:
    """Run an interpreter with these arguments within the block, which says that its catalog is open."""
    # The package that is tested, installed or not, whatever folder the tests are run from.
    folders = [Path(asyncstore.__file__).parents[1], Path(__file__).parents[1]]
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-W", "error", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
            limit=LINE_LIMIT_BYTES,
        )
        worker = Worker(process, errors)
        try:
            assert await worker.result() == "open"
            yield worker
            if process.returncode is None:
                await worker.end()
        finally:
            await worker.abandon()
