"""Listings that stop early: they find what reading every run would find."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.models import RunSummary
from asyncstore.objects.base import CLOCK_SKEW as SKEW
from asyncstore.objects.memory import MemoryObjectStore
from asyncstore.runlog._queries import Candidate, RunQuery
from asyncstore.runlog.chunked import ChunkedRunLogStore

EPOCH = datetime(2026, 11, 21, tzinfo=UTC)


@dataclass(frozen=True)
class Run:
    summary: RunSummary
    written_at: datetime | None


@st.composite
def stored_runs(draw: st.DrawFn) -> list[Run]:
    """Make runs that were written some time after they were created, by writers whose clocks are off."""
    runs = []
    for number in range(draw(st.integers(0, 12))):
        minute = draw(st.integers(0, 100))
        lasted = draw(st.integers(0, 60))
        skew = draw(st.integers(-15, 15))
        written = draw(st.booleans())
        summary = RunSummary(
            run_id=f"r{number}",
            status=draw(st.sampled_from(["SUCCESS", "FAIL"])),
            created_at=EPOCH + timedelta(minutes=minute),
        )
        runs.append(Run(summary, EPOCH + timedelta(minutes=minute + skew + lasted) if written else None))
    return runs


@given(
    stored_runs(),
    st.one_of(st.none(), st.integers(0, 5)),
    st.sampled_from([None, "FAIL"]),
    st.one_of(st.none(), st.integers(0, 120)),
    st.integers(1, 4),
)
async def test_what_is_looked_at_is_enough(
    runs: list[Run], limit: int | None, status: str | None, since: int | None, at_once: int
) -> None:
    query = RunQuery(status=status, since=None if since is None else EPOCH + timedelta(minutes=since), limit=limit)
    stored = {run.summary.run_id: run for run in runs}
    store = ChunkedRunLogStore(MemoryObjectStore(), limit=at_once, skew=SKEW)

    async def load(candidate: Candidate) -> RunSummary:
        return stored[candidate.run_id].summary

    candidates = [Candidate(run.summary.run_id, run.written_at) for run in runs]
    found = await store._load_newest(candidates, query, load)
    assert query.select(found) == query.select([run.summary for run in runs])


async def test_no_more_is_looked_at_than_it_takes() -> None:
    looked = []
    store = ChunkedRunLogStore(MemoryObjectStore(), limit=10, skew=SKEW)

    async def load(candidate: Candidate) -> RunSummary:
        looked.append(candidate.run_id)
        assert candidate.written_at is not None
        return RunSummary(run_id=candidate.run_id, status="SUCCESS", created_at=candidate.written_at)

    candidates = [Candidate(f"r{number}", EPOCH + number * SKEW) for number in range(1000)]
    found = await store._load_newest(candidates, RunQuery(limit=10), load)
    assert [summary.run_id for summary in RunQuery(limit=10).select(found)] == [
        f"r{999 - number}" for number in range(10)
    ]
    assert len(looked) == 20


@pytest.mark.parametrize("minutes", [-1, 16])
def test_a_run_that_was_last_written_before_the_time_asked_for_is_not_looked_at(minutes: int) -> None:
    query = RunQuery(since=EPOCH)
    candidate = Candidate("r", EPOCH - timedelta(minutes=minutes), SKEW)
    assert query.in_order([candidate]) == ([candidate] if minutes < 15 else [])
