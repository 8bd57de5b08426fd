from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncstore.objects._large._journal import Begun, Journal, journal_name, open_journal
from asyncstore.objects._s3._messages import PartDone

if TYPE_CHECKING:
    from pathlib import Path

BEGUN = Begun("key é", "upload", "put-id", {"x-amz-meta-k": "v"})
PARTS = {number: PartDone(number, f'"{number}"', "AAAA") for number in range(1, 6)}


def written(path: Path) -> bytes:
    journal = Journal.open(path)
    assert journal is not None
    journal.begin(BEGUN)
    for part in PARTS.values():
        journal.add(part)
    journal.close()
    return path.read_bytes()


def reopened(path: Path) -> Journal:
    journal = Journal.open(path)
    assert journal is not None
    return journal


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written(tmp_path / "a")
    journal = reopened(tmp_path / "a")
    assert journal.read() == (BEGUN, PARTS)
    journal.close(remove=True)
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_in_use_or_gone_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "a"
    first = reopened(path)
    assert Journal.open(path) is None
    assert open_journal(tmp_path, "a") is None
    first.begin(BEGUN)
    first.close()
    assert reopened(path).read() == (BEGUN, {})


def test_an_empty_one_is_not_left_behind(tmp_path: Path) -> None:
    reopened(tmp_path / "a").close()
    assert list(tmp_path.iterdir()) == []


def test_a_closed_one_takes_nothing(tmp_path: Path) -> None:
    before = written(tmp_path / "a")
    journal = reopened(tmp_path / "a")
    journal.close()
    journal.add(PartDone(9, '"9"'))
    journal.begin(BEGUN)
    assert (tmp_path / "a").read_bytes() == before
    assert journal.read() is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.integers(min_value=0, max_value=500))
def test_torn_anywhere_it_keeps_what_was_whole(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a"
    path.unlink(missing_ok=True)
    data = written(path)[:kept]
    path.write_bytes(data)
    journal = reopened(path)
    found = journal.read()
    whole = data.count(b"\n")
    assert found == (None if whole == 0 else (BEGUN, {number: PARTS[number] for number in range(1, whole)}))
    if found is not None:
        # What is added now is not taken for the rest of the torn line.
        journal.add(PartDone(9, '"9"'))
        added = journal.read()
        assert added is not None
        assert added[1].keys() >= {*found[1], 9}
    journal.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_garbage_is_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    journal = reopened(path)
    assert journal.read() is None
    journal.begin(BEGUN)
    assert journal.read() == (BEGUN, {})
    journal.close()


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "a").symlink_to(tmp_path / "precious")
    assert open_journal(tmp_path, "a") is None
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    written(tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0


def test_a_full_disk_is_no_error(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    journal = Journal(tmp_path / "a", os.open("/dev/full", os.O_RDWR))
    journal.begin(BEGUN)
    journal.add(PARTS[1])
    journal.close()


def test_names_tell_uploads_apart() -> None:
    names = {journal_name(*what) for what in (("a", "b", 1), ("ab", "", 1), ("a", "b1"), ("a", "b", 2), ("a,b", 1))}
    assert len(names) == 5
    assert all(len(name) == 64 + len(".upload") for name in names)
