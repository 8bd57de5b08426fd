"""Small files as they are written: whole or not at all, and never outside of the root."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncstore._core.files import TEMP_PREFIX, remove_abandoned, write_all, write_atomically
from asyncstore.catalog._local import _land
from asyncstore.catalog._local._files import IDENTITY, row_of
from asyncstore.catalog._local._folders import Folders
from asyncstore.catalog._local._land import look, make_folder, sweep, write_file
from asyncstore.errors import AccessDeniedError, UnavailableError, UnsafePathError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TEMP = f"{TEMP_PREFIX}0123456789abcdef"


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


def put(root: str, name: str, data: bytes | memoryview, mode: int | None = None, mtime_ns: int | None = None) -> None:
    with Folders(root) as folders:
        write_file(folders, name, data, mode=mode, mtime_ns=mtime_ns)


def tree(root: str) -> dict[str, bytes]:
    """Return all files under a folder."""
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    return {os.path.relpath(path, root): contents(path) for path in paths}


def contents(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


# Writing.


def test_a_file_is_written_with_the_folders_above_it(root: str) -> None:
    put(root, "a/b/c", b"one")
    put(root, "a/b/c", memoryview(b"two"))
    put(root, "empty", b"")
    assert tree(root) == {"a/b/c": b"two", "empty": b""}


@pytest.mark.parametrize(
    ("mode", "expected"), [(None, 0o640), (0o777, 0o777), (0o400, 0o400), (0o0, 0o0), (0o107755, 0o755)]
)
def test_a_file_has_the_mode_that_was_asked_for_or_that_of_new_files(
    root: str, mode: int | None, expected: int
) -> None:
    before = os.umask(0o027)
    try:
        put(root, "a", b"x", mode=mode)
        put(root, "a", b"y", mode=mode)
    finally:
        os.umask(before)
    assert os.stat(f"{root}/a").st_mode & 0o7777 == expected
    assert contents(f"{root}/a") == b"y"


def test_nobody_may_read_a_file_before_it_is_there_who_may_not_then(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []

    def look_then_write(descriptor: int, data: bytes | memoryview) -> None:
        modes.append(os.fstat(descriptor).st_mode & 0o077)
        write_all(descriptor, data)

    monkeypatch.setattr(_land, "write_all", look_then_write)
    put(root, "a", b"x", mode=0o600)
    assert modes == [0]


def test_a_file_has_the_time_that_was_asked_for_to_the_nanosecond(root: str) -> None:
    put(root, "a", b"x", mode=0o444, mtime_ns=1_234_567_890_123_456_789)
    assert os.stat(f"{root}/a").st_mtime_ns == 1_234_567_890_123_456_789


def test_names_may_be_as_long_as_the_file_system_allows(root: str) -> None:
    name = f"{'é' * 127}x"
    assert len(name.encode()) == 255
    put(root, f"{name}/{name}", b"x")
    assert tree(root) == {f"{name}/{name}": b"x"}
    assert set(look(root, [f"{name}/{name}"])) == {f"{name}/{name}"}


def test_a_folder_is_not_replaced_by_a_file(root: str) -> None:
    os.makedirs(f"{root}/a/b")
    with pytest.raises(UnsafePathError, match="is a directory"):
        put(root, "a", b"x")
    assert os.listdir(f"{root}/a") == ["b"]
    assert os.listdir(root) == ["a"]


def test_a_file_on_the_way_is_no_folder(root: str) -> None:
    put(root, "a", b"x")
    with pytest.raises(UnsafePathError, match="not a folder"):
        put(root, "a/b", b"x")
    with pytest.raises(UnsafePathError, match="not a folder"):
        make_folder(root, "a/b")
    assert tree(root) == {"a": b"x"}


@pytest.mark.parametrize("target", ["..", "../outside", "/", "../nowhere", "../root2"])
def test_no_link_leads_out_of_the_root(root: str, tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root2").mkdir()
    os.symlink(target, f"{root}/link")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UnsafePathError, match="leads out"):
        put(root, "link/a", b"x")
    with pytest.raises(UnsafePathError, match="leads out"):
        make_folder(root, "link/b")
    assert set(tmp_path.rglob("*")) == before


def test_a_link_inside_of_the_root_is_followed(root: str) -> None:
    os.makedirs(f"{root}/real/deep")
    os.symlink("real", f"{root}/link")
    put(root, "link/deep/a", b"x")
    put(root, "link/new/b", b"y")
    assert tree(root) == {"real/deep/a": b"x", "real/new/b": b"y"}
    assert set(look(root, ["link/deep/a", "link/new/b"])) == {"link/deep/a", "link/new/b"}


def test_a_link_planted_while_files_are_written_is_not_followed(root: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            # Where the writer was in between, it has made a folder.
            with contextlib.suppress(OSError):
                os.rename(f"{root}/sub", f"{root}/moved{len(os.listdir(root))}")
            with contextlib.suppress(OSError):
                os.symlink(outside, f"{root}/sub")
                for _ in range(20):
                    os.listdir(root)
                os.unlink(f"{root}/sub")

    os.mkdir(f"{root}/sub")
    swapper = threading.Thread(target=swap)
    swapper.start()
    refused = written = 0
    try:
        for number in range(20_000):
            try:
                put(root, f"sub/{number}", b"x")
                written += 1
            except (UnsafePathError, UnavailableError):
                refused += 1
            if min(written, refused) > 50:
                break
    finally:
        stop.set()
        swapper.join()
    assert written
    assert refused, "no link was ever met, so this shows nothing"
    assert os.listdir(outside) == []


def test_a_link_with_a_file_s_name_is_replaced_and_not_followed(root: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"precious")
    os.symlink(tmp_path / "outside", f"{root}/a")
    put(root, "a", b"x")
    assert not os.path.islink(f"{root}/a")
    assert (tmp_path / "outside").read_bytes() == b"precious"


def test_a_full_disk_is_told_and_leaves_what_was_there(small_disk: str) -> None:
    put(small_disk, "a", b"before")
    with pytest.raises(UnavailableError, match="no space left") as caught:
        put(small_disk, "a", bytes(2 * 1024 * 1024))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert tree(small_disk) == {"a": b"before"}
    put(small_disk, "b", bytes(512 * 1024))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable_is_told(root: str) -> None:
    os.chmod(root, 0o500)
    with pytest.raises(AccessDeniedError):
        put(root, "a", b"x")


AS_NOBODY = """
import os, sys
from asyncstore.catalog._local._folders import Folders
from asyncstore.catalog._local._land import look, make_folder, write_file
from asyncstore.catalog._local._landing import Landing
from asyncstore.errors import AccessDeniedError

root = sys.argv[1]
os.setgid(65534)
os.setuid(65534)

def write():
    with Folders(root) as folders:
        write_file(folders, "a", b"x", mode=None, mtime_ns=None)

for refused in (write, lambda: make_folder(root, "b"), lambda: Landing.open(root, "c", 10, "e", step=4)):
    try:
        refused()
    except AccessDeniedError:
        print("denied")
assert set(look(root, ["there", "missing", "closed/x"])) == {"there"}
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Under a folder of its own, as those of tests are closed to others.
    folder = f"/dev/shm/{tmp_path_factory.mktemp('x').name}-{os.getpid()}"
    os.makedirs(f"{folder}/closed", exist_ok=True)
    try:
        put(folder, "there", b"x")
        put(folder, "closed/x", b"x")
        os.chmod(f"{folder}/closed", 0o700)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, folder], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.stdout.split() == ["denied"] * 3, done.stderr
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(["rm", "-r", folder], check=True)


def test_few_descriptors_are_enough_for_many_folders(root: str) -> None:
    names = [f"{a}/{b}/{c}/file" for a in range(6) for b in range(6) for c in range(6)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, hard))
    try:
        with Folders(root) as folders:
            for name in names:
                write_file(folders, name, b"x")
                assert len(os.listdir("/proc/self/fd")) <= used + 4
        assert set(look(root, names)) == set(names)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == used


def test_a_folder_that_somebody_removes_is_made_again(root: str) -> None:
    with Folders(root) as folders:
        write_file(folders, "a/b", b"x")
        os.unlink(f"{root}/a/b")
        os.rmdir(f"{root}/a")
        write_file(folders, "a/b", b"y")
    assert tree(root) == {"a/b": b"y"}


def test_writers_and_sweepers_do_not_hinder_each_other(root: str) -> None:
    stop = threading.Event()
    removed: list[str] = []

    def sweep_all() -> None:
        while not stop.is_set():
            for name in os.listdir(root):
                if name.startswith(TEMP_PREFIX):
                    folder = os.open(root, os.O_RDONLY)
                    try:
                        if remove_abandoned(name, folder):
                            removed.append(name)
                    finally:
                        os.close(folder)

    sweepers = [threading.Thread(target=sweep_all) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        for number in range(100):
            put(root, f"f{number % 10}", b"%d" % number)
            write_atomically(Path(root, f"g{number % 10}"), b"%d" % number)
    finally:
        stop.set()
        for sweeper in sweepers:
            sweeper.join()
    assert tree(root) == {f"{kind}{n}": b"%d" % (90 + n) for n in range(10) for kind in "fg"}


# Looking.


def test_looking_tells_what_is_there(root: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"x")
    put(root, "a", b"A", mode=0o640)
    put(root, "sub/b", b"BB")
    os.symlink("sub/b", f"{root}/inside")
    os.symlink(tmp_path / "outside", f"{root}/leads-out")
    os.symlink("nowhere", f"{root}/leads-nowhere")
    before = time.time_ns()
    names = ["a", "sub/b", "sub/missing", "missing/x", "missing/y/z", "inside", "leads-out", "leads-nowhere"]
    found = look(root, names)
    assert set(found) == {"a", "sub/b", "inside"}
    assert found["a"][:4] == ("a", f"{root}/a", row_of(os.stat(f"{root}/a"), 0)[:IDENTITY], 0o640)
    assert found["inside"].path == f"{root}/sub/b"
    assert before <= found["a"].seen_ns <= time.time_ns()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_no_file_can_replace_is_refused(root: str, make: type) -> None:
    make(f"{root}/a")
    with pytest.raises(UnsafePathError, match="no file can be written there"):
        look(root, ["a"])


def test_looking_for_something_in_a_file_is_refused(root: str) -> None:
    put(root, "a", b"x")
    with pytest.raises(UnsafePathError, match="not a folder"):
        look(root, ["a/b/c"])


def test_looking_removes_what_killed_writers_have_left(root: str) -> None:
    abandoned = {TEMP: b"", f"sub/{TEMP}": b"half"}
    kept = {f"{TEMP}.part": b"", f"{TEMP}0": b"", f"{TEMP[:-1]}": b"", f"{TEMP[:-1]}X": b"", f"elsewhere/{TEMP}": b""}
    lay(root, abandoned | kept | {"a": b"A", "sub/b": b"B"})
    held = f"{TEMP_PREFIX}{'f' * 16}"
    lay(root, {held: b"being written"})
    with open(f"{root}/{held}", "rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert set(look(root, ["a", "sub/b", "sub/c"])) == {"a", "sub/b"}
        assert tree(root) == {**kept, "a": b"A", "sub/b": b"B", held: b"being written"}
    look(root, ["a"])
    assert not os.path.exists(f"{root}/{held}")


def test_looking_does_not_touch_links_and_fifos_with_the_name_of_a_temp_file(root: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"x")
    os.symlink(tmp_path / "outside", f"{root}/{TEMP}")
    os.mkfifo(f"{root}/{TEMP[:-1]}0")
    look(root, ["a"])
    assert sorted(os.listdir(root)) == sorted([TEMP, f"{TEMP[:-1]}0"])
    assert (tmp_path / "outside").exists()


def lay(root: str, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        os.makedirs(os.path.dirname(f"{root}/{name}"), exist_ok=True)
        with open(f"{root}/{name}", "wb") as file:
            file.write(data)


WRITER = """
import itertools, sys
from asyncstore.catalog._local._folders import Folders
from asyncstore.catalog._local._land import write_file

with Folders(sys.argv[1]) as folders:
    for number in itertools.count():
        write_file(folders, f"f{number % 50}", bytes([number % 256]) * 300_000)
        if number == 20:
            print("going", flush=True)
"""


def test_a_killed_writer_leaves_whole_files_and_what_the_next_look_removes(root: str) -> None:
    for delay_s in (0.0, 0.003, 0.007):
        with subprocess.Popen([sys.executable, "-c", WRITER, root], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"going\n"
            time.sleep(delay_s)
            writer.send_signal(signal.SIGKILL)
        look(root, ["f0"])
        found = tree(root)
        assert not [name for name in found if name.startswith(TEMP_PREFIX)]
        assert all(len(data) == 300_000 and len(set(data)) == 1 for data in found.values())


# Sweeping, and folders.


def test_a_sweep_removes_old_files_that_nobody_holds(root: str, tmp_path: Path) -> None:
    old, part = f"sub/{TEMP}", f"sub/deep/{TEMP}.part"
    lay(root, {old: b"x", part: b"x", TEMP: b"young", f"{TEMP}0.part": b"other", ".asyncstore/" + TEMP: b"", "a": b""})
    lay(str(tmp_path / "outside"), {TEMP: b""})
    os.symlink(tmp_path / "outside", f"{root}/link")
    held = f"sub/{TEMP_PREFIX}{'f' * 16}.part"
    lay(root, {held: b""})
    for folder in (root, str(tmp_path / "outside")):
        for name in tree(folder):
            if name != TEMP or folder != root:
                os.utime(f"{folder}/{name}", (1, 1))
    kept = tree(root).keys() - {old, part}
    with open(f"{root}/{held}", "rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert sorted(sweep(root, 3600)) == sorted([old, part])
    assert tree(root).keys() == kept
    assert (tmp_path / "outside" / TEMP).exists()
    assert sorted(sweep(root, -1)) == sorted([TEMP, held])


def test_folders_are_made_and_may_be_there(root: str) -> None:
    make_folder(root, "a/b/c")
    make_folder(root, "a/b/c")
    make_folder(root, "a/d")
    assert sorted(os.listdir(f"{root}/a")) == ["b", "d"]
