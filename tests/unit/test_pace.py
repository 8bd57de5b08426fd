from __future__ import annotations

import pytest

from asyncstore._core.pace import REPEATED_AFTER_TRIALS, TRIAL_COMMITS, Pace

TASKS = 64


def simulate(
    pace: Pace, *, fixed_s: float, each_s: float, work_s: float, commits: int, tasks: int = TASKS
) -> list[bool]:
    """Let tasks write in a closed loop; return for each commit whether it overlapped with their work."""
    now_s = 0.0
    overlapping = False
    chosen = []
    for _ in range(commits):
        items = tasks // 2 if overlapping else tasks
        commit_s = fixed_s + items * each_s
        now_s += max(commit_s, items * work_s) if overlapping else commit_s + items * work_s
        overlapping = pace.overlaps(items, now_s)
        chosen.append(overlapping)
    return chosen


@pytest.mark.parametrize(
    ("fixed_s", "faster"),
    [(0.0001, True), (0.005, False), (0.1, False)],
)
def test_the_faster_way_is_found_and_kept(fixed_s: float, faster: bool) -> None:
    chosen = simulate(Pace(), fixed_s=fixed_s, each_s=15e-6, work_s=15e-6, commits=TRIAL_COMMITS * 200)
    settled = chosen[4 * TRIAL_COMMITS :]
    assert settled.count(faster) / len(settled) > 1 - 2 / REPEATED_AFTER_TRIALS


def test_with_large_batches_a_few_are_enough() -> None:
    chosen = simulate(Pace(), fixed_s=0.0003, each_s=15e-6, work_s=20e-6, commits=40, tasks=1000)
    assert chosen[3:].count(True) >= 30


def test_a_crowd_that_changes_is_measured_anew() -> None:
    pace = Pace()
    few = simulate(pace, fixed_s=0.0013, each_s=10e-6, work_s=20e-6, commits=50 * TRIAL_COMMITS)
    many = simulate(pace, fixed_s=0.0013, each_s=10e-6, work_s=20e-6, commits=40, tasks=1000)
    assert few.count(False) > few.count(True)
    assert many.count(True) >= 25


def test_a_storage_that_changes_is_noticed() -> None:
    pace = Pace()
    simulate(pace, fixed_s=0.0001, each_s=15e-6, work_s=15e-6, commits=TRIAL_COMMITS * 50)
    chosen = simulate(pace, fixed_s=0.01, each_s=15e-6, work_s=15e-6, commits=TRIAL_COMMITS * 50)
    assert not any(chosen[-TRIAL_COMMITS // 2 :]) or chosen.count(False) > chosen.count(True)


def test_small_batches_and_idle_times_are_not_measured() -> None:
    pace = Pace()
    assert not any(pace.overlaps(1, now_s) for now_s in range(1000))
    for now_s in range(TRIAL_COMMITS):
        assert not pace.overlaps(TASKS, now_s)
    pace.rest()
    # The hour that has gone by is nobody's time.
    assert not pace.overlaps(TASKS, 3600)
    assert pace._rates == {}
