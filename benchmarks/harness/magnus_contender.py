"""magnus' run-log stores on S3, as a worker; runs in an environment of magnus' own."""

from __future__ import annotations

import argparse
import asyncio
import importlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness.work import step_fields
from harness.worker import measured, serve

THREADS = 8

CLASSES = {
    "chunked-s3": ("magnus_extensions.datastore.chunked_s3.implementation", "ChunkedS3Store"),
    "s3": ("magnus_extensions.datastore.s3.implementation", "S3Store"),
}


class Magnus:
    """
    One of magnus' stores, used from 8 threads.

    Args:
        kind: which.
        bucket: name of the bucket.
        prefix: what its keys begin with.
    """

    def __init__(self, kind: str, bucket: str, prefix: str) -> None:
        module, name = CLASSES[kind]
        config = {"s3_bucket": bucket, "prefix": prefix, "use_credentials": True}
        self._store: Any = getattr(importlib.import_module(module), name)(config)

    async def create(self, run_id: str) -> None:
        """Create a run that is under way."""
        self._store.create_run_log(run_id, status="PROCESSING")

    async def add(self, run_id: str, count: int) -> dict[str, float]:
        """Add step logs, and tell how many calls came back without an error."""
        steps = [self._step(number) for number in range(count)]
        with measured() as figures, ThreadPoolExecutor(THREADS) as threads:
            futures = [threads.submit(self._store.add_step_log, step, run_id) for step in steps]
        return {**figures, "acknowledged": sum(future.exception() is None for future in futures)}

    async def read(self, run_id: str, count: int) -> dict[str, float]:
        """Read a run in full."""
        with measured() as figures:
            run_log = self._store.get_run_log_by_id(run_id, full=True)
        if len(run_log.steps) > count:
            raise ValueError(f"read {len(run_log.steps)} steps of {count}")
        return figures

    def _step(self, number: int) -> Any:
        fields = step_fields(number)
        step = self._store.create_step_log(fields["name"], fields["internal_name"])
        step.status, step.message = fields["status"], fields["message"]
        return step


def main() -> None:
    """Read the command line and work."""
    parser = argparse.ArgumentParser(prog="python -m harness.magnus_contender")
    parser.add_argument("kind", choices=list(CLASSES))
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--prefix", required=True)
    given = parser.parse_args()
    magnus = Magnus(given.kind, given.bucket, given.prefix)
    asyncio.run(serve({"create": magnus.create, "add": magnus.add, "read": magnus.read}))


if __name__ == "__main__":
    main()
