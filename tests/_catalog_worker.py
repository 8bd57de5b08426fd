"""
A process that moves files with one catalog as it is told: a job a line on stdin, what came of it a line on stdout.

:mod:`tests._catalog_processes` starts it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from asyncstore import catalog
from asyncstore.errors import AsyncStoreError

if TYPE_CHECKING:
    from asyncstore.catalog import Catalog


def say(content: Any) -> None:
    """Write a line at once."""
    sys.stdout.buffer.write(json.dumps(content).encode() + b"\n")
    sys.stdout.buffer.flush()


async def move(catalog: Catalog, verb: str, folder: str, run_id: str) -> dict[str, Any]:
    """Put or get all files; return the digests by name, or what was raised."""
    call = catalog.put if verb == "put" else catalog.get
    say({"begun": verb})
    try:
        entries = await call("**", run_id, local_folder=folder)
    except AsyncStoreError as error:
        failed = {name: repr(cause) for name, cause in getattr(error, "failed", {}).items()}
        return {"error": type(error).__name__, "message": str(error), "failed": failed}
    return {"digests": {entry.name.removeprefix("data/"): entry.data_hash for entry in entries}}


async def main() -> None:
    """Open the catalog and do the jobs."""
    name, options = json.loads(sys.argv[1])
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    async with getattr(catalog, name)(**options) as opened:
        say({"result": "open"})
        while line := await reader.readline():
            verb, arguments = json.loads(line)
            say({"result": await move(opened, verb, **arguments)})


if __name__ == "__main__":
    asyncio.run(main())
