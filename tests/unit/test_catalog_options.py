"""What people write for sizes, rates and parts, and how fast a transfer is said to go."""

from __future__ import annotations

import pytest
import typer

from asyncstore.catalog import PlannedFile, TransferPlan, TransferProgress
from asyncstore.cli._catalog_options import limits, rate, size
from asyncstore.cli._catalog_plan import Part
from asyncstore.cli._progress import Speed, _Noted

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("64MiB", 64 * MIB),
        ("64 mib", 64 * MIB),
        ("64Mi", 64 * MIB),
        ("200MB", 200_000_000),
        ("500k", 500_000),
        ("500K", 500_000),
        ("1.5G", 1_500_000_000),
        (".5GiB", 512 * MIB),
        ("2TB", 2_000_000_000_000),
        ("123", 123),
        ("123B", 123),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1.2.3M", "12 apples", "1e9", "5iB4", "٣MB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no size: write 64MiB"):
        size(text)


@pytest.mark.parametrize(
    ("text", "bytes_s"),
    [
        ("50MB/s", 50_000_000),
        ("50 MB / s", 50_000_000),
        ("50MBps", 50_000_000),
        ("2MiB/sec", 2 * MIB),
        ("500k", 500_000),
        ("1000", 1000),
    ],
)
def test_rates(text: str, bytes_s: int) -> None:
    assert rate(text) == bytes_s


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("50Mbit/s", "reads like bits"),
        ("50Mbps", "reads like bits"),
        ("50Mb", "reads like bits"),
        ("fast", "is no rate: write 50MB/s"),
        ("50MB/h", "is no rate: write 50MB/s"),
        ("/s", "is no rate: write 50MB/s"),
        ("0", "write 1kB/s at least"),
        ("999B/s", "write 1kB/s at least"),
    ],
)
def test_what_is_no_rate(text: str, why: str) -> None:
    with pytest.raises(typer.BadParameter, match=why):
        rate(text)


def test_limits_are_those_given() -> None:
    assert limits(None, None, None) == {}
    assert limits(64 * MIB, 50_000_000, 8) == {"max_memory_mb": 64, "max_bandwidth_mb_s": 50.0, "max_concurrency": 8}


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "a/b", "1/4/4", "-1/4"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no part"):
        Part.parse(text)


def test_parts_are_the_whole_plan_once() -> None:
    files = tuple(PlannedFile(f"{number}.bin", "upload", number * MIB, "new") for number in range(3))
    plan = TransferPlan("put", "r", "data/", "/data", "s3://b/r/data/", files)
    parts = [Part.parse(f"{number}/5").of(plan) for number in range(1, 6)]
    assert [len(part.files) for part in parts] == [1, 1, 1, 0, 0]
    assert {file.name for part in parts for file in part.files} == {file.name for file in files}
    assert all(part.where == plan.where for part in parts)


def test_speed_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    assert speed.at(0.0, 0) == 0.0
    assert speed.at(1.0, 1000) == 1000.0
    for second in range(2, 20):
        last = speed.at(float(second), 1000)
    assert last == 0.0
    assert speed.at(20.0, 6000) == 1000.0


def test_what_is_there_already_says_nothing_about_the_speed() -> None:
    noted = _Noted("putting")
    progress = [
        TransferProgress("a", 1, 4, 5000, 12_000, files_skipped=1),
        TransferProgress("b", 2, 4, 10_000, 12_000, files_skipped=2),
    ]
    for step in progress:
        noted.note(step)
    assert noted.pace(progress[-1], 0.0).bytes_s == 0.0
    last = TransferProgress("c", 3, 4, 11_000, 12_000, files_skipped=2)
    noted.note(last)
    pace = noted.pace(last, 1.0)
    assert (pace.bytes_s, pace.left_s) == (1000.0, 1.0)
    assert 0.74 < pace.share < 0.80
