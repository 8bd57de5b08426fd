"""Closing a store that is in use: reads under way end, later ones are refused, nothing is left."""

from __future__ import annotations

import asyncio
import gc

import pytest

from asyncstore.errors import ClosedError
from asyncstore.models import RunLog, StepLog
from asyncstore.runlog.db import DBRunLogStore


# An aiosqlite connection that outlives its engine says so when it is collected.
@pytest.mark.filterwarnings("error")
async def test_reads_under_way_end_before_the_engine_is_disposed_of(url: str) -> None:
    store = await DBRunLogStore(connection_string=url).open()
    await store.create_run_log("run")
    for number in range(20):
        await store.add_step_log(StepLog(name=f"s{number}", internal_name=f"s{number}"), "run")
    reads = [asyncio.create_task(store.get_run_log_by_id("run")) for _ in range(20)]
    await asyncio.sleep(0.002)
    await store.aclose()
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert all(isinstance(result, RunLog | ClosedError) for result in results)
    assert all(len(result.steps) == 20 for result in results if isinstance(result, RunLog))
    gc.collect()
    with pytest.raises(ClosedError):
        await store.get_run_log_by_id("run")
