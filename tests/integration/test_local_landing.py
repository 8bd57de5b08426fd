"""Large files as they are written: in any order, resumed by whoever comes next, visible whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import zlib
from typing import TYPE_CHECKING

import pytest

from asyncstore._core.files import TEMP_PREFIX, claim
from asyncstore.catalog._local import _landing
from asyncstore.catalog._local._land import look, sweep
from asyncstore.catalog._local._landing import Landing
from asyncstore.errors import IntegrityError, UnavailableError, UnsafePathError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STEP = 100_000
SIZE = 5 * STEP + 123
DATA = bytes(os.urandom(SIZE))


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "root").mkdir()
    return os.path.realpath(tmp_path / "root")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[str]:
    """Give a folder on a file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    yield os.path.realpath(folder)
    subprocess.run(["umount", folder], check=True)


def begin(root: str, name: str = "a/large", size_bytes: int = SIZE, etag: str = '"e"', step: int = STEP) -> Landing:
    return Landing.open(root, name, size_bytes, etag, step=step)


def write_range(landing: Landing, index: int) -> None:
    start, end = index * STEP, min((index + 1) * STEP, SIZE)
    for offset in range(start, end, 30_000):
        landing.write(memoryview(DATA)[offset : min(offset + 30_000, end)], offset)
    landing.finish_range(index, zlib.crc32(DATA[start:end]))


def part_of(root: str, folder: str = "a") -> str:
    """Return the path of the one temp file that can be resumed."""
    [name] = [name for name in os.listdir(f"{root}/{folder}") if name.endswith(".part")]
    return f"{root}/{folder}/{name}"


def contents(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = open_files()
    yield
    assert open_files() == before


def test_a_file_is_written_in_any_order_and_appears_whole(root: str) -> None:
    landing = begin(root)
    assert landing.kept == frozenset()
    assert os.stat(part_of(root)).st_mode & 0o777 == 0o600, "it may be meant for nobody else"
    for index in (5, 0, 3, 1, 4, 2):
        write_range(landing, index)
        assert not os.path.exists(f"{root}/a/large")
    digest = hashlib.sha256()
    for start in range(0, SIZE, 70_000):
        landing.hash_range(start, min(start + 70_000, SIZE), digest)
    assert digest.digest() == hashlib.sha256(DATA).digest()
    landing.commit(0o2640, 1_234_567_890_123_456_789)
    assert contents(f"{root}/a/large") == DATA
    status = os.stat(f"{root}/a/large")
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o640, 1_234_567_890_123_456_789)
    assert os.listdir(f"{root}/a") == ["large"]
    landing.discard()
    landing.close()
    assert os.listdir(f"{root}/a") == ["large"]


def test_a_file_has_the_mode_of_new_files_if_nothing_else_is_said(root: str) -> None:
    before = os.umask(0o027)
    try:
        begin(root, "x", 0).commit()
    finally:
        os.umask(before)
    assert os.stat(f"{root}/x").st_mode & 0o7777 == 0o640
    assert contents(f"{root}/x") == b""


def test_its_room_is_taken_from_the_beginning(root: str) -> None:
    landing = begin(root, size_bytes=1 << 22)
    assert os.stat(part_of(root)).st_blocks * 512 >= 1 << 22
    landing.discard()
    assert os.listdir(f"{root}/a") == []


# Resuming.


def test_what_was_complete_is_kept_for_the_next(root: str) -> None:
    landing = begin(root)
    for index in (1, 5, 2):
        write_range(landing, index)
    landing.write(DATA[:10], 0)
    landing.close()
    again = begin(root)
    assert again.kept == {1, 2, 5}
    assert all(again.check_range(index) for index in again.kept)
    for index in {0, 3, 4}:
        write_range(again, index)
    again.commit()
    assert contents(f"{root}/a/large") == DATA


def test_a_range_that_is_not_what_it_was_is_found_out(root: str) -> None:
    landing = begin(root)
    for index in range(6):
        write_range(landing, index)
    landing.close()
    with open(part_of(root), "r+b") as file:
        file.seek(3 * STEP + 50)
        file.write(b"bitrot")
    again = begin(root)
    assert again.kept == set(range(6))
    assert [index for index in range(6) if not again.check_range(index)] == [3]
    assert not again.check_range(6)
    again.discard()


@pytest.mark.parametrize(
    "other", [{"etag": '"f"'}, {"size_bytes": SIZE + 1}, {"size_bytes": SIZE - STEP}, {"step": STEP * 2}]
)
def test_another_object_begins_anew(root: str, other: dict[str, int | str]) -> None:
    landing = begin(root)
    write_range(landing, 0)
    landing.close()
    again = begin(root, **other)  # type: ignore[arg-type]  # each value has the type of its own key
    assert again.kept == frozenset()
    blocks = hashlib.sha256()
    again.hash_range(0, 1000, blocks)
    assert blocks.digest() == hashlib.sha256(bytes(1000)).digest(), "nothing of the other object may be left"
    again.close()
    assert begin_and_discard(root) == frozenset()


def begin_and_discard(root: str) -> frozenset[int]:
    landing = begin(root)
    landing.discard()
    return landing.kept


def cut(path: str) -> None:
    os.truncate(path, SIZE)


def garble_header(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(SIZE + 3)
        file.write(b"?")


def garble_slots(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(SIZE + 40)
        file.write(os.urandom(48))


def grow(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def empty(path: str) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("harm", [cut, garble_header, garble_slots, grow, empty])
def test_a_trailer_that_does_not_fit_is_not_believed(root: str, harm: Callable[[str], None]) -> None:
    landing = begin(root)
    for index in range(6):
        write_range(landing, index)
    landing.close()
    harm(part_of(root))
    again = begin(root)
    assert again.kept == frozenset()
    for index in range(6):
        write_range(again, index)
    again.commit()
    assert contents(f"{root}/a/large") == DATA


def test_without_an_etag_nothing_is_kept(root: str) -> None:
    landing = begin(root, etag="")
    write_range(landing, 0)
    [temp] = os.listdir(f"{root}/a")
    assert temp.startswith(TEMP_PREFIX)
    assert not temp.endswith(".part")
    landing.close()
    assert os.listdir(f"{root}/a") == []


def test_bytes_beyond_the_end_are_refused(root: str) -> None:
    landing = begin(root)
    with pytest.raises(IntegrityError, match="larger"):
        landing.write(b"xy", SIZE - 1)
    landing.write(b"x", SIZE - 1)
    landing.discard()


# Others at work.


def test_a_second_writer_of_a_file_has_a_temp_file_of_its_own(root: str) -> None:
    first, second = begin(root), begin(root)
    assert len(os.listdir(f"{root}/a")) == 2
    for index in range(6):
        write_range(first, index)
    for index in range(6):
        write_range(second, index)
    second.commit()
    assert contents(f"{root}/a/large") == DATA
    os.unlink(f"{root}/a/large")
    first.commit()
    assert contents(f"{root}/a/large") == DATA
    assert os.listdir(f"{root}/a") == ["large"]


def test_a_temp_file_that_gets_its_name_before_it_is_locked_is_not_written_to(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begin(root)
    write_range(first, 0)
    first.close()
    temp = part_of(root)
    before = contents(temp)

    def commit_elsewhere_then_claim(descriptor: int, **options: bool) -> bool:
        if not os.path.exists(f"{root}/a/large"):
            os.rename(temp, f"{root}/a/large")
        return claim(descriptor, **options)

    monkeypatch.setattr(_landing, "claim", commit_elsewhere_then_claim)
    second = begin(root)
    assert second.kept == frozenset()
    second.write(b"x" * STEP, 0)
    second.discard()
    assert contents(f"{root}/a/large") == before


def test_neither_looks_nor_sweeps_touch_a_file_that_is_being_written(root: str) -> None:
    first, second = begin(root), begin(root)
    for name in os.listdir(f"{root}/a"):
        os.utime(f"{root}/a/{name}", (1, 1))
    assert look(root, ["a/large"]) == {}
    assert sweep(root, 0) == []
    first.close()
    assert look(root, ["a/large"]) == {}
    assert sweep(root, 0) == [f"a/{os.path.basename(part)}" for part in [shared_name(root)]]
    for index in range(6):
        write_range(second, index)
    second.commit()
    assert contents(f"{root}/a/large") == DATA


def shared_name(root: str) -> str:
    return f"{TEMP_PREFIX}{hashlib.sha256(b'large').hexdigest()[:16]}.part"


@pytest.mark.parametrize("planted", ["link", "hard link", "fifo", "folder"])
def test_what_is_planted_at_the_temp_name_is_not_written_to(root: str, tmp_path: Path, planted: str) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    os.mkdir(f"{root}/a")
    temp = f"{root}/a/{shared_name(root)}"
    match planted:
        case "link":
            os.symlink(tmp_path / "precious", temp)
        case "hard link":
            os.link(tmp_path / "precious", temp)
        case "fifo":
            os.mkfifo(temp)
        case _:
            os.mkdir(temp)
    landing = begin(root)
    for index in range(6):
        write_range(landing, index)
    landing.commit()
    assert contents(f"{root}/a/large") == DATA
    assert (tmp_path / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("target", ["inside", "outside"])
def test_a_link_planted_above_the_file_while_it_is_written_is_not_followed(
    root: str, tmp_path: Path, target: str
) -> None:
    os.mkdir(f"{root}/inside")
    (tmp_path / "outside").mkdir()
    landing = begin(root)
    for index in range(6):
        write_range(landing, index)
    os.rename(f"{root}/a", f"{root}/moved")
    os.symlink(f"{root}/inside" if target == "inside" else tmp_path / "outside", f"{root}/a")
    with pytest.raises((UnsafePathError, UnavailableError)):
        landing.commit()
    landing.discard()
    assert os.listdir(f"{root}/inside") == os.listdir(tmp_path / "outside") == []


def test_a_temp_file_that_somebody_replaced_is_not_given_the_name(root: str) -> None:
    landing = begin(root)
    temp = part_of(root)
    os.unlink(temp)
    with open(temp, "wb") as file:
        file.write(b"forged")
    with pytest.raises(UnavailableError, match="is gone"):
        landing.commit()
    landing.discard()
    assert contents(temp) == b"forged"
    assert not os.path.exists(f"{root}/a/large")


def test_a_folder_in_the_file_s_place_is_told_and_left(root: str) -> None:
    landing = begin(root)
    os.makedirs(f"{root}/a/large/x")
    with pytest.raises(UnsafePathError, match="is a folder"):
        landing.commit()
    landing.discard()
    assert os.listdir(f"{root}/a/large") == ["x"]


def test_a_temp_file_that_is_cut_short_meanwhile_is_told(root: str) -> None:
    landing = begin(root)
    os.truncate(part_of(root), 1000)
    with pytest.raises(IntegrityError, match="cut short"):
        landing.hash_range(0, SIZE, hashlib.sha256())
    landing.discard()


def test_names_may_be_as_long_as_the_file_system_allows(root: str) -> None:
    name = "é" * 127 + "x"
    landing = begin(root, f"{name}/{name}", 10)
    landing.write(b"0123456789", 0)
    landing.close()
    begin(root, f"{name}/{name}", 10).commit()
    assert contents(f"{root}/{name}/{name}") == b"0123456789"


# No room.


def test_a_disk_without_the_room_is_told_at_once(small_disk: str) -> None:
    with pytest.raises(UnavailableError, match="no space left") as caught:
        begin(small_disk, size_bytes=2 << 20)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert os.listdir(f"{small_disk}/a") == []
    begin(small_disk, size_bytes=1 << 19).discard()


def test_in_memory_room_is_not_taken_before_the_bytes_come(small_disk: str) -> None:
    landing = begin(small_disk, size_bytes=1 << 19, step=1 << 19)
    [temp] = os.scandir(f"{small_disk}/a")
    assert temp.stat().st_size > 1 << 19 > temp.stat().st_blocks * 512
    # What others take meanwhile is missed when it is wanted.
    with open(f"{small_disk}/other", "wb") as other:
        other.write(bytes((1 << 20) - (1 << 17)))
    with pytest.raises(UnavailableError, match="no space left"):
        landing.write(bytes(1 << 19), 0)
    landing.discard()


def test_a_file_beyond_the_limit_of_the_process_is_told(root: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(UnavailableError, match="file too large"):
            begin(root, size_bytes=2 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(f"{root}/a") == []


# Killed.


WRITER = """
import os, random, sys, threading, time, zlib
from asyncstore.catalog._local._landing import Landing

root, seed, step, count = sys.argv[1], int(sys.argv[2]), 100_000, 50
landing = Landing.open(root, "large", step * count, '"e"', step=step)
checked = {index for index in landing.kept if landing.check_range(index)}
assert checked == landing.kept, "the page cache outlives a process"
print(len(checked), flush=True)
todo = [index for index in range(count) if index not in checked]
random.Random(seed).shuffle(todo)

def work():
    while todo:
        try:
            index = todo.pop()
        except IndexError:
            return
        data = bytes([index]) * step
        for start in range(0, step, 25_000):
            landing.write(memoryview(data)[start : start + 25_000], index * step + start)
            time.sleep(0.0005)
        landing.finish_range(index, zlib.crc32(data))
        os.write(1, b"range\\n")

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
landing.commit()
print("done", flush=True)
"""


def test_killed_writers_lose_no_range_that_was_complete(root: str) -> None:
    """Each takes over what the one before it had told of, until one is let finish."""
    told = 0
    for seed in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, root, str(seed)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            kept = int(writer.stdout.readline())
            assert kept >= told, "a range that was complete is gone"
            for _ in range(8):
                assert writer.stdout.readline() == b"range\n"
            writer.send_signal(signal.SIGKILL)
            told = kept + 8 + writer.stdout.read().count(b"range\n")
        assert "large" not in os.listdir(root)
        assert look(root, ["large"]) == {}
    done = subprocess.run([sys.executable, "-c", WRITER, root, "9"], capture_output=True, check=True, timeout=60)
    assert int(done.stdout.split()[0]) >= told >= 24
    assert contents(f"{root}/large") == b"".join(bytes([index]) * 100_000 for index in range(50))
    assert os.listdir(root) == ["large"]


def test_three_processes_write_one_file_side_by_side(root: str) -> None:
    seen: set[bytes] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            if os.path.exists(f"{root}/large"):
                seen.add(hashlib.sha256(contents(f"{root}/large")).digest())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, root, str(seed)], stdout=subprocess.PIPE) for seed in range(3)
    ]
    try:
        for writer in writers:
            said, _ = writer.communicate(timeout=60)
            assert said.endswith(b"done\n")
    finally:
        stop.set()
        watcher.join()
    whole = b"".join(bytes([index]) * 100_000 for index in range(50))
    assert contents(f"{root}/large") == whole
    assert seen <= {hashlib.sha256(whole).digest()}
    assert os.listdir(root) == ["large"]
