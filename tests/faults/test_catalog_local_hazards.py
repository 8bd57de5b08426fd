"""What may happen to the local side while a transfer goes on: each is told, and nothing is torn or leads out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import mmap
import os
import shutil
import socket
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.catalog._local._body import hash_file
from asyncstore.catalog._moving import _upload
from asyncstore.errors import IntegrityError, NotFoundError, TransferError, UnavailableError, UnsafePathError
from asyncstore.testing.s3_stub import CHEAP
from asyncstore.testing.s3_stub._control import changed
from tests._catalog_confined import confined_process, mount, moved_by, small_disk
from tests._catalog_trees import KIB, MIB, digests_in, temp_files_in
from tests._catalog_victims import (
    OLD,
    SIZES,
    VICTIM,
    Scene,
    failing,
    random_bytes,
    sha256,
    stored_scene,
    watched_scene,
    write,
)
from tests._processes import short_or_full

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.catalog._local._body import Hashed
    from asyncstore.catalog._local._files import LocalFile
    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.s3_stub._messages import Request
    from asyncstore.testing.servers import Bucket

GET = "GetObject"


# No room, no right, no descriptors.


@pytest.mark.parametrize("size", ["small", "large"])
async def test_a_full_disk_stops_all_and_leaves_whole_files(tmp_path: Path, size: str) -> None:
    room = 3 * MIB
    with small_disk(tmp_path / "target", room):
        async with watched_scene(tmp_path, SIZES[size]) as scene:
            for number in range(400):
                scene.tree[f"many/{number:03}"] = random_bytes(8 * KIB, number)
            for name, data in scene.tree.items():
                scene.store(name, data)
            with pytest.raises(UnavailableError, match="no space left on device") as caught:
                await scene.get()
            assert "files were done before" in "".join(caught.value.__notes__)
            found = digests_in(scene.target)
            assert found.items() <= scene.digests.items()
            assert not temp_files_in(scene.target)
            # Where there is room again it goes on.
            mount(scene.target, "-o", f"remount,size={64 * MIB}")
            scene.stub.reset()
            await scene.get()
            assert digests_in(scene.target) == scene.digests
            if size == "small":
                assert scene.stub.requests[GET] == len(scene.tree) - len(found)


async def test_a_file_that_may_not_be_so_large_fails_alone(
    s3_stub: StubServer, stub_bucket: Bucket, tmp_path: Path
) -> None:
    sizes = {"a": 10, "b/large": 20 * MIB, "b/medium": 5 * MIB, "c": MIB}
    write(tmp_path / "source", {name: random_bytes(size) for name, size in sizes.items()})
    async with confined_process(stub_bucket.options, {"RLIMIT_FSIZE": 8 * MIB}) as worker:
        digests = (await moved_by(worker, "put", tmp_path / "source"))["digests"]
        outcome = await moved_by(worker, "get", tmp_path / "target")
    assert outcome["error"] == "TransferError"
    assert list(outcome["failed"]) == ["data/b/large"]
    assert os.strerror(errno.EFBIG).lower() in outcome["message"]
    assert digests_in(tmp_path / "target") == {name: digests[name] for name in sizes if name != "b/large"}


@pytest.mark.parametrize("size", SIZES)
async def test_a_folder_that_is_read_only_fails_its_files_alone(tmp_path: Path, size: str) -> None:
    async with stored_scene(tmp_path, SIZES[size]) as scene:
        for name in list(scene.tree):
            if name.startswith("sub/") and name != VICTIM:
                scene.content.delete(scene.key(name))
                del scene.tree[name]
        with read_only(scene.target / "sub"):
            error = await failing(scene.get(), Exception, scene)
            assert type(error).__name__ == "AccessDeniedError"
            assert str(scene.target / VICTIM) in str(error)
            victim = scene.target / VICTIM
            assert not victim.exists() or victim.read_bytes() == OLD
        assert {name: digest for name, digest in digests_in(scene.target).items() if name != VICTIM} == {
            name: digest for name, digest in scene.digests.items() if name != VICTIM
        }


@contextlib.contextmanager
def read_only(folder: Path) -> Any:
    """Let nobody write into a folder within the block."""
    if os.geteuid():
        mode = folder.stat().st_mode
        folder.chmod(0o555)
        yield
        folder.chmod(mode)
        return
    # Nothing else stops root.
    with small_disk(folder, MIB):
        mount(folder, "-o", "remount,ro")
        yield


async def test_few_descriptors_are_enough(s3_stub: StubServer, stub_bucket: Bucket, tmp_path: Path) -> None:
    tree = {f"{number % 100}/{number}": random_bytes(4 * KIB, number) for number in range(500)}
    tree |= {f"large-{number}": random_bytes(20 * MIB, number) for number in range(2)}
    write(tmp_path / "source", tree)
    expected = {name: sha256(data) for name, data in tree.items()}
    s3_stub.configure(latency_s=0.005)
    async with confined_process(stub_bucket.options, {"RLIMIT_NOFILE": 64}) as worker:
        assert await moved_by(worker, "put", tmp_path / "source") == {"digests": expected}
        assert await moved_by(worker, "get", tmp_path / "target") == {"digests": expected}
    assert digests_in(tmp_path / "target") == expected


# What is put is no file, or does not stay as it was.


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    # Its name may be short only.
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)


def make_device(path: Path) -> None:
    try:
        os.mknod(path, 0o20666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("devices are made by root only")


@pytest.mark.parametrize(("make", "kind"), [(make_fifo, "FIFO"), (make_socket, "socket"), (make_device, "device")])
async def test_what_is_no_file_is_refused_before_anything_moves(
    tmp_path: Path, make: Callable[[Path], None], kind: str
) -> None:
    async with watched_scene(tmp_path, SIZES["small"]) as scene:
        make(scene.source / "sub" / "odd")
        with pytest.raises(UnsafePathError, match=f"'sub/odd' is a {kind}"):
            await scene.put()
        assert not scene.content.objects
        await scene.put(exclude="**/odd")
        assert scene.stored() == scene.digests
        # Nor is it written to.
        (scene.target / "sub").mkdir(parents=True)
        make(scene.target / VICTIM)
        scene.stub.reset()
        with pytest.raises(UnsafePathError, match="special file"):
            await scene.get()
        assert not scene.stub.requests[GET]
        assert os.listdir(scene.target) == ["sub"]


def vanish(path: Path) -> None:
    path.unlink()


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def rewrite(path: Path) -> None:
    """Change a byte, and put the times back."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        file.write(b"\xff")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path) -> None:
    """Put another file of the same size and times in its place."""
    status = path.stat()
    other = path.with_name("other")
    with other.open("wb") as file:
        file.truncate(status.st_size)
        file.write(b"\xff")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)


CHANGES = [vanish, grow, shrink, rewrite, replace]


@pytest.mark.parametrize("size", ["small", "medium"])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_file_that_is_not_as_it_was_planned_fails_alone(
    tmp_path: Path, change: Callable[[Path], None], size: str
) -> None:
    async with watched_scene(tmp_path, SIZES[size]) as scene:
        plan = await scene.put(dry_run=True)
        change(scene.source / VICTIM)
        kind = NotFoundError if change is vanish else IntegrityError
        await failing(scene.catalog.run(plan), kind, scene)
        scene.check_stored(None)


def dirty(path: Path) -> mmap.mmap:
    """Map a file and write to its last page, whose further changes do not touch the file's times."""
    with path.open("r+b") as opened:
        mapped = mmap.mmap(opened.fileno(), 0)
    mapped[-9] ^= 1
    return mapped


@pytest.mark.parametrize("size", ["medium", "large"])
@pytest.mark.parametrize("checksums", ["checked", "ignored"])
async def test_a_change_that_the_times_do_not_show_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, checksums: str
) -> None:
    async with watched_scene(tmp_path, SIZES[size]) as scene:
        path = scene.source / VICTIM
        scene.stub.behaviour = changed(scene.stub.behaviour, {"checksums": checksums})
        with await asyncio.to_thread(dirty, path) as mapped:
            seen = path.stat()

            def hash_then_change(file: LocalFile, stop: Callable[[], bool], *, summed: bool) -> Hashed:
                hashed = hash_file(file, stop, summed=summed)
                if file.path == str(path):
                    mapped[-9] ^= 1
                return hashed

            monkeypatch.setattr(_upload, "hash_file", hash_then_change)
            error = await failing(scene.put(), IntegrityError, scene)
            assert path.stat().st_mtime_ns == seen.st_mtime_ns, "this change is to be one that only the bytes show"
        assert f"{str(path)!r} changed while it was read" in str(error)
        scene.check_stored(None)
        assert not scene.content.uploads


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("after", [1, 3])
async def test_a_large_file_that_changes_on_its_way_fails_alone(
    tmp_path: Path, change: Callable[[Path], None], after: int
) -> None:
    async with watched_scene(tmp_path, 1, max_concurrency=4) as scene:
        path = scene.source / VICTIM
        os.truncate(path, short_or_full(48, 300) * MIB)
        scene.store(VICTIM, OLD)
        scene.stub.behaviour = changed(scene.stub.behaviour, {**CHEAP, "discards": True})
        parts = 0

        def note(request: Request) -> None:
            nonlocal parts
            parts += request.operation == "UploadPart"
            if parts == after and request.operation == "UploadPart":
                change(path)

        scene.stub.after = note
        # One that has vanished while it was open shows that by its count of links.
        error = await failing(
            scene.put(), (NotFoundError, IntegrityError) if change is vanish else IntegrityError, scene
        )
        assert str(path) in str(error)
        # What was there stays, and nothing is left of the rest.
        assert scene.content.get(scene.key()).body == OLD
        assert not scene.content.uploads
        scene.stub.after = lambda _: None
        if change is not vanish:
            await scene.put()
            assert scene.content.get(scene.key()).size_bytes == path.stat().st_size


# The target changes while files are on their way.


def on_get(scene: Scene, name: str, act: Callable[[], object]) -> None:
    """Have something happen when the first bytes of a file have been sent, and it is not written yet."""
    done = False

    def note(request: Request) -> None:
        nonlocal done
        if request.operation == GET and request.key == scene.key(name) and not done:
            done = True
            act()

    scene.stub.after = note


@pytest.mark.parametrize("size", SIZES)
async def test_a_link_planted_in_the_place_of_a_file_is_replaced(tmp_path: Path, size: str) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    async with stored_scene(tmp_path, SIZES[size]) as scene:

        def plant() -> None:
            (scene.target / VICTIM).unlink()
            (scene.target / VICTIM).symlink_to(outside)

        on_get(scene, VICTIM, plant)
        await scene.get()
        assert not (scene.target / VICTIM).is_symlink()
        scene.check_target(scene.digests[VICTIM])
    assert outside.read_bytes() == b"secret"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kept", [True, False], ids=["moved", "removed"])
async def test_a_link_planted_in_the_place_of_a_folder_does_not_lead_out(tmp_path: Path, size: str, kept: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    async with stored_scene(tmp_path, SIZES[size]) as scene:
        scene.content.delete(scene.key("sub/b"))
        del scene.tree["sub/b"]

        def plant() -> None:
            (scene.target / "sub").rename(tmp_path / "moved")
            if not kept:
                shutil.rmtree(tmp_path / "moved")
            (scene.target / "sub").symlink_to(outside)

        on_get(scene, VICTIM, plant)
        error = await failing(scene.get(), UnsafePathError, scene)
        assert "leads out" in str(error)
        assert not list(outside.iterdir())
        assert {*digests_in(scene.target)} == {name for name in scene.tree if name != VICTIM}
        # Not so the one that was there before, which leads nowhere else.
        (scene.target / "sub").unlink()
        await scene.get()
        scene.check_target(scene.digests[VICTIM])


@pytest.mark.parametrize("size", SIZES)
async def test_a_folder_that_is_removed_is_made_again_or_its_file_fails_alone(tmp_path: Path, size: str) -> None:
    async with stored_scene(tmp_path, SIZES[size]) as scene:
        scene.content.delete(scene.key("sub/b"))
        del scene.tree["sub/b"]
        on_get(scene, VICTIM, lambda: shutil.rmtree(scene.target / "sub"))
        if size == "small":
            await scene.get()
        else:
            # Its temp file went with the folder.
            await failing(scene.get(), Exception, scene)
            scene.check_target(None)
            await scene.get()
        scene.check_target(scene.digests[VICTIM])


@pytest.mark.parametrize("size", SIZES)
async def test_a_target_that_is_moved_away_is_told(tmp_path: Path, size: str) -> None:
    async with stored_scene(tmp_path, SIZES[size]) as scene:
        on_get(scene, VICTIM, lambda: scene.target.rename(tmp_path / "moved"))
        with pytest.raises(TransferError) as caught:
            await scene.get()
        failed = caught.value.failed
        assert {type(error) for error in failed.values()} == {NotFoundError}
        # A small one in a folder that was looked up just before may go along with it, whole.
        landed = digests_in(tmp_path / "moved")
        assert (f"data/{VICTIM}" in failed) != (landed.get(VICTIM) == scene.digests[VICTIM])
        assert not scene.target.exists()
        await scene.get()
        scene.check_target(scene.digests[VICTIM])


async def test_a_folder_in_the_place_of_a_file_fails_it_alone(tmp_path: Path) -> None:
    async with stored_scene(tmp_path, SIZES["large"]) as scene:

        def plant() -> None:
            (scene.target / VICTIM).unlink()
            (scene.target / VICTIM / "x").mkdir(parents=True)

        on_get(scene, VICTIM, plant)
        await failing(scene.get(), UnsafePathError, scene)
        scene.check_target(None)
