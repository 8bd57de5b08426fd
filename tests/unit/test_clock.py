from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from asyncstore._core.clock import HybridClock

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def test_it_tells_the_time() -> None:
    assert abs(HybridClock().now() - datetime.now(UTC)) < timedelta(minutes=1)


def test_it_never_repeats_or_goes_back() -> None:
    readings = iter([1000, 1000, 1000, 500, 2000])
    clock = HybridClock(lambda: next(readings))
    assert [(clock.now() - EPOCH) // timedelta(microseconds=1) for _ in range(5)] == [1000, 1001, 1002, 1003, 2000]


def test_it_does_not_fall_behind_what_was_read() -> None:
    clock = HybridClock(lambda: 1000)
    ahead = EPOCH + timedelta(days=1)
    clock.witness(ahead)
    assert clock.now() == ahead + timedelta(microseconds=1)
    clock.witness(EPOCH)
    assert clock.now() == ahead + timedelta(microseconds=2)


def test_threads_share_it() -> None:
    clock = HybridClock(lambda: 1000)
    with ThreadPoolExecutor(8) as pool:
        stamps = list(pool.map(lambda _: clock.now(), range(2000)))
    assert len(set(stamps)) == 2000
