"""A closed store keeps no connection: a program that opens one for each run would come to the end of its files."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncstore.models import StepLog
from asyncstore.runlog.chunked import ChunkedS3RunLogStore
from asyncstore.runlog.document import S3RunLogStore
from asyncstore.testing.s3_stub import S3Stub

DEADLINE_S = 30.0
"""After this a connection stays; one that is closed is gone in a moment."""


class Connections(S3Stub):
    """Counts the connections that clients keep open."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = 0
        self.none_kept = asyncio.Event()

    def connection_opened(self, connection: Any) -> None:
        """Count one more."""
        super().connection_opened(connection)
        self.kept += 1
        self.none_kept.clear()

    def connection_closed(self, connection: Any) -> None:
        """Count one less."""
        super().connection_closed(connection)
        self.kept -= 1
        if not self.kept:
            self.none_kept.set()


@pytest.mark.parametrize("layout", [ChunkedS3RunLogStore, S3RunLogStore])
async def test_none_is_kept_by_a_store_that_is_closed(layout: Any) -> None:
    async with Connections() as stub:
        store = layout(**stub.make_bucket("bucket").options)
        async with store:
            await store.create_run_log("run")
            async with asyncio.TaskGroup() as group:
                for number in range(8):
                    name = f"s{number}"
                    group.create_task(store.add_step_log(StepLog(name=name, internal_name=name), "run"))
            assert len((await store.get_run_log_by_id("run")).steps) == 8
        async with asyncio.timeout(DEADLINE_S):
            await stub.none_kept.wait()
