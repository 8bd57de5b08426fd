"""The compute data folder as it is read: what a walk finds, and files that change under a reader."""

from __future__ import annotations

import hashlib
import mmap
import os
import socket
import threading
import time
import zlib
from typing import TYPE_CHECKING

import pytest

from asyncstore._core.files import TEMP_PREFIX
from asyncstore.catalog._local._body import LocalBody, hash_file
from asyncstore.catalog._local._files import LocalFile, LocalFiles, read_file, row_of
from asyncstore.catalog._local._scan import Scan, walk
from asyncstore.catalog._packed._fill import fill
from asyncstore.catalog._patterns import Matcher
from asyncstore.catalog._plan import PlannedFile
from asyncstore.errors import ClosedError, IntegrityError, NotFoundError, UnsafePathError
from asyncstore.objects.bodies import BLOCK_BYTES, SummedBody

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

MIB = 1024 * 1024


def write(folder: Path, tree: Mapping[str, bytes]) -> None:
    for name, contents in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)


def seen(path: Path) -> LocalFile:
    return LocalFiles("", {path.name: row_of(path.lstat(), time.time_ns(), str(path))})[path.name]


def scanned(root: Path, names: str | Sequence[str] = "**", exclude: str | Sequence[str] = ()) -> Scan:
    real = os.path.realpath(root)
    found = Scan(LocalFiles.under(real))
    for _ in walk(real, Matcher.of(names, exclude), found):
        pass
    return found


def walked(root: Path, names: str | Sequence[str] = "**", exclude: str | Sequence[str] = ()) -> set[str]:
    """Return the names that a walk finds; those of empty folders end in a slash."""
    found = scanned(root, names, exclude)
    return {*found.files, *(f"{name}/" for name in found.empty)}


# Walking.


def test_a_walk_tells_of_each_file_what_it_is(tmp_path: Path) -> None:
    write(tmp_path, {"sub/a": b"abc"})
    (tmp_path / "sub" / "a").chmod(0o4751)
    before = time.time_ns()
    [file] = scanned(tmp_path).files.values()
    status = (tmp_path / "sub" / "a").stat()
    assert file[:2] == ("sub/a", os.path.realpath(tmp_path / "sub" / "a"))
    assert file.size_bytes == 3
    assert file.mode == 0o751
    assert before <= file.seen_ns <= time.time_ns()
    assert file.identity == (status.st_dev, status.st_ino, 3, status.st_mtime_ns, status.st_ctime_ns)


@pytest.mark.parametrize(
    ("names", "exclude", "expected"),
    [
        ("**", (), {"a.csv", "empty/", "sub/b.csv", "sub/deep/empty/", "sub/deep/c.txt", "full/x"}),
        ("**", "**/*.txt", {"a.csv", "empty/", "sub/b.csv", "sub/deep/empty/", "full/x"}),
        ("**", "sub/", {"a.csv", "empty/", "full/x"}),
        ("**", "sub/**/empty", {"a.csv", "empty/", "sub/b.csv", "sub/deep/empty/", "sub/deep/c.txt", "full/x"}),
        ("**", "sub/**/empty/", {"a.csv", "empty/", "sub/b.csv", "sub/deep/c.txt", "full/x"}),
        ("**/*", (), {"a.csv", "sub/b.csv", "sub/deep/c.txt", "full/x"}),
        ("*", (), {"a.csv"}),
        ("sub/", (), {"sub/b.csv", "sub/deep/empty/", "sub/deep/c.txt"}),
        ("empty/", (), {"empty/"}),
        ("empty", (), set()),
        (["*/**", "a.csv"], (), {"a.csv", "empty/", "sub/b.csv", "sub/deep/empty/", "sub/deep/c.txt", "full/x"}),
        ("*/**", (), {"empty/", "sub/b.csv", "sub/deep/empty/", "sub/deep/c.txt", "full/x"}),
        ("**/deep/**", (), {"sub/deep/empty/", "sub/deep/c.txt"}),
    ],
)
def test_empty_folders_are_found_where_all_of_a_folder_is_meant(
    tmp_path: Path, names: str | list[str], exclude: str, expected: set[str]
) -> None:
    write(tmp_path, {"a.csv": b"", "sub/b.csv": b"", "sub/deep/c.txt": b"", "full/x": b""})
    (tmp_path / "empty").mkdir()
    (tmp_path / "sub" / "deep" / "empty").mkdir()
    assert walked(tmp_path, names, exclude) == expected
    matcher = Matcher.of(names, exclude)
    assert {name for name in expected if not name.endswith("/")} == {
        name for name in ("a.csv", "sub/b.csv", "sub/deep/c.txt", "full/x") if matcher.matches(name)
    }


def test_a_folder_without_anything_at_the_top_is_no_empty_folder(tmp_path: Path) -> None:
    assert walked(tmp_path) == set()


def test_what_is_on_its_way_or_our_own_is_left_out(tmp_path: Path) -> None:
    temp = f"{TEMP_PREFIX}0123456789abcdef"
    write(tmp_path, {temp: b"", f"{temp}.part": b"", f"{temp}.csv": b"", ".asyncstore/x": b"", ".hidden": b""})
    assert walked(tmp_path) == {f"{temp}.csv", ".hidden"}


def test_what_lies_in_a_linked_folder_has_a_path_without_the_link(tmp_path: Path) -> None:
    write(tmp_path, {"v1/a": b"a", "v1/deep/b": b"b"})
    (tmp_path / "current").symlink_to("v1")
    (tmp_path / "alias").symlink_to("v1/a")
    files = scanned(tmp_path).files
    real = os.path.realpath(tmp_path)
    assert {name: files[name].path for name in files} == {
        "v1/a": f"{real}/v1/a",
        "v1/deep/b": f"{real}/v1/deep/b",
        "current/a": f"{real}/v1/a",
        "current/deep/b": f"{real}/v1/deep/b",
        "alias": f"{real}/v1/a",
    }


def test_a_link_to_an_empty_folder_is_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert walked(tmp_path) == {"empty/", "link/"}


def test_a_special_file_in_a_folder_that_is_meant_whole_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsafePathError, match="'pipe' is a FIFO"):
        walked(tmp_path)
    assert walked(tmp_path, "**", "pipe") == set()


# Small files.


def test_a_small_file_is_read_with_its_digest(tmp_path: Path) -> None:
    for contents in (b"", b"x", os.urandom(4096), os.urandom(MIB)):
        (tmp_path / "a").write_bytes(contents)
        assert read_file(seen(tmp_path / "a")) == (contents, hashlib.sha256(contents).hexdigest())


def put_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_link(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")


def put_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            # By way of the descriptor, as the path may be longer than the name of a socket can be.
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)


def put_twin(path: Path) -> None:
    """Put another file with the same contents and times in its place."""
    status = path.stat()
    twin = path.with_name("twin")
    twin.write_bytes(path.read_bytes())
    os.utime(twin, ns=(status.st_atime_ns, status.st_mtime_ns))
    twin.replace(path)


def rewrite_with_same_times(path: Path) -> None:
    status = path.stat()
    with open(path, "r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(b"grown much larger"),
    lambda path: os.truncate(path, 3),
    lambda path: os.truncate(path, 0),
    lambda path: os.utime(path, (1, 1)),
    rewrite_with_same_times,
    put_twin,
    put_link,
    put_fifo,
    put_folder,
    put_socket,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("reader", ["read", "hash", "body"])
def test_a_file_that_is_not_the_one_that_was_seen_is_refused(
    tmp_path: Path, change: Callable[[Path], object], reader: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"contents")
    file = seen(path)
    change(path)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        read_with(reader, file)


@pytest.mark.parametrize("contents", [b"", b"contents", bytes(2 * MIB)])
@pytest.mark.parametrize("reader", ["read", "hash", "body", "pack"])
def test_nothing_is_taken_out_of_a_fifo_that_has_come_in_between(tmp_path: Path, contents: bytes, reader: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(contents)
    file = seen(path)
    put_fifo(path)
    ends = [os.open(path, os.O_RDONLY | os.O_NONBLOCK), os.open(path, os.O_WRONLY)]
    try:
        os.write(ends[1], b"of another")
        if reader == "pack":
            filled = fill([PlannedFile.upload(file.name, file.row, "", "")], "", lambda: False)
            assert [type(error.error) for _, error in filled.failed] == [IntegrityError]
        else:
            with pytest.raises(IntegrityError, match="changed while it was read"):
                read_with(reader, file)
        assert os.read(ends[0], 100) == b"of another"
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.parametrize("reader", ["read", "hash", "body"])
def test_a_file_that_has_vanished_is_not_found(tmp_path: Path, reader: str) -> None:
    (tmp_path / "a").write_bytes(b"contents")
    file = seen(tmp_path / "a")
    (tmp_path / "a").unlink()
    with pytest.raises(NotFoundError, match="no such file"):
        read_with(reader, file)


def test_a_file_may_be_read_on_a_machine_that_numbers_its_devices_otherwise(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"contents")
    file = seen(tmp_path / "a")
    moved = file._replace(identity=file.identity._replace(device=file.identity.device + 1))
    assert read_file(moved)[0] == b"contents"


def read_with(reader: str, file: LocalFile) -> object:
    match reader:
        case "read":
            return read_file(file)
        case "hash":
            return hash_file(file, lambda: False)
        case _:
            return sum(len(block) for block in LocalBody(file, "").blocks(0, file.size_bytes))


# Large files.


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(5 * MIB + 7))
    return path


def test_a_large_file_is_hashed(large: Path) -> None:
    contents = large.read_bytes()
    for size_bytes in (5 * MIB + 7, 5 * MIB, 4 * MIB, MIB + 1, MIB, 1):
        os.truncate(large, size_bytes)
        hashed = hash_file(seen(large), lambda: False, summed=True)
        assert hashed.digest == hashlib.sha256(contents[:size_bytes]).hexdigest()
        blocks = [contents[start : min(start + MIB, size_bytes)] for start in range(0, size_bytes, MIB)]
        assert list(hashed.sums) == [zlib.crc32(block) for block in blocks]


def test_an_empty_file_is_hashed_too(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    file = seen(tmp_path / "a")
    digest, sums = hash_file(file, lambda: False, summed=True)
    assert (digest, list(sums)) == (hashlib.sha256().hexdigest(), [])
    assert list(LocalBody(file, "").blocks(0, 0)) == []


def test_sums_are_made_if_they_are_wanted_only(large: Path) -> None:
    assert len(hash_file(seen(large), lambda: False, summed=True).sums) == -(-large.stat().st_size // BLOCK_BYTES)
    assert not hash_file(seen(large), lambda: False).sums


def test_nothing_is_left_of_hashing_that_failed(large: Path) -> None:
    def give_up() -> bool:
        raise ZeroDivisionError

    file = seen(large)
    os.truncate(large, 4 * MIB)
    before = threading.enumerate(), os.listdir("/proc/self/fd")
    with pytest.raises(IntegrityError):
        hash_file(file, lambda: False)
    with pytest.raises(ZeroDivisionError):
        hash_file(seen(large), give_up)
    assert (threading.enumerate(), os.listdir("/proc/self/fd")) == before


def test_a_file_that_ends_while_it_is_hashed_is_refused(large: Path) -> None:
    file = seen(large)
    blocks = 0

    def cut_then_go_on() -> bool:
        nonlocal blocks
        blocks += 1
        if blocks == 1:
            os.truncate(large, MIB)
        return False

    with pytest.raises(IntegrityError, match="changed while it was read"):
        hash_file(file, cut_then_go_on)


@pytest.mark.parametrize(
    ("start", "end"), [(0, 5 * MIB + 7), (0, 2 * MIB), (MIB, 4 * MIB), (5 * MIB, 5 * MIB + 7), (3 * MIB, 3 * MIB)]
)
def test_the_crc32_of_parts_is_known_of_whole_blocks(large: Path, start: int, end: int) -> None:
    file = seen(large)
    body = LocalBody(file, *hash_file(file, lambda: False, summed=True))
    assert isinstance(body, SummedBody)
    assert body.crc32(start, end) == zlib.crc32(large.read_bytes()[start:end])
    assert LocalBody(file, "").crc32(start, end) is None


@pytest.mark.parametrize(("start", "end"), [(1, MIB), (0, MIB - 1), (MIB, 5 * MIB + 6)])
def test_the_crc32_of_other_parts_is_not_known(large: Path, start: int, end: int) -> None:
    file = seen(large)
    assert LocalBody(file, *hash_file(file, lambda: False, summed=True)).crc32(start, end) is None


def test_bytes_that_somebody_else_compares_are_not_compared_here(large: Path) -> None:
    file = seen(large)
    body = LocalBody(file, "", [0] * 6)
    assert b"".join(map(bytes, body.unchecked_blocks(0, file.size_bytes))) == large.read_bytes()
    with pytest.raises(IntegrityError, match="changed while it was read"):
        next(body.blocks(0, file.size_bytes))


def test_hashing_is_given_up_after_any_block(large: Path) -> None:
    for blocks in range(6):
        asked: list[None] = []

        def stop(asked: list[None] = asked, blocks: int = blocks) -> bool:
            asked.append(None)
            return len(asked) > blocks

        with pytest.raises(ClosedError, match="given up"):
            hash_file(seen(large), stop)
        assert len(asked) == blocks + 1


@pytest.mark.parametrize("change", [lambda file: file.write(b"x"), lambda file: file.truncate(2 * MIB)])
def test_a_file_that_changes_while_it_is_hashed_is_refused(large: Path, change: Callable[[object], object]) -> None:
    calls: list[None] = []

    def change_then_go_on() -> bool:
        calls.append(None)
        if len(calls) == 4:
            with open(large, "r+b") as file:
                change(file)
        return False

    with pytest.raises(IntegrityError, match="changed while it was read"):
        hash_file(seen(large), change_then_go_on)


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 5 * MIB + 7), (0, 10), (MIB - 1, MIB + 1), (2 * MIB, 4 * MIB), (5 * MIB, 5 * MIB + 7), (3, 3 * MIB + 1)],
)
@pytest.mark.parametrize("summed", [True, False])
def test_any_part_of_a_large_file_can_be_read(large: Path, start: int, end: int, summed: bool) -> None:
    file = seen(large)
    hashed = hash_file(file, lambda: False, summed=summed)
    body = LocalBody(file, *hashed)
    assert (body.name, body.size_bytes, body.fingerprint) == (str(large), 5 * MIB + 7, hashed.digest)
    for _ in range(2):
        blocks = [bytes(block) for block in body.blocks(start, end)]
        assert b"".join(blocks) == large.read_bytes()[start:end]
        assert max(map(len, blocks)) <= MIB


def test_a_body_of_a_file_that_is_cut_short_ends_with_an_error_instead_of_ending(large: Path) -> None:
    blocks = LocalBody(seen(large), "").blocks(0, 5 * MIB + 7)
    assert len(next(blocks)) == MIB
    os.truncate(large, 2 * MIB)
    with pytest.raises(IntegrityError):
        for _ in blocks:
            pass


def test_a_body_whose_file_changes_raises_after_its_last_block_at_the_latest(large: Path) -> None:
    blocks = LocalBody(seen(large), "").blocks(0, 2 * MIB)
    next(blocks)
    next(blocks)
    with open(large, "r+b") as file:
        file.write(b"changed")
    with pytest.raises(IntegrityError):
        next(blocks)


def test_a_body_that_is_left_early_closes_its_descriptor(large: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    blocks = LocalBody(seen(large), "").blocks(0, 2 * MIB)
    next(blocks)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    blocks.close()  # type: ignore[attr-defined]  # all iterators here are generators
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_change_that_the_times_do_not_show_is_seen_by_the_sums(large: Path) -> None:
    # A page that is mapped and dirty changes without its file's times.
    with open(large, "r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        mapped[3 * MIB + 5] = (mapped[3 * MIB + 5] + 1) % 256
        file = seen(large)
        hashed = hash_file(file, lambda: False, summed=True)
        mapped[3 * MIB + 5] = (mapped[3 * MIB + 5] + 1) % 256
        assert seen(large).identity == file.identity, "this change is to be one that only the bytes show"
        body = LocalBody(file, *hashed)
        blocks = body.blocks(0, file.size_bytes)
        assert [len(next(blocks)) for _ in range(3)] == [MIB] * 3
        with pytest.raises(IntegrityError):
            next(blocks)
