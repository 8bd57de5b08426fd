"""Folders full of files: made from a seed, and compared with what arrived somewhere."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import random
import shutil
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

KIB, MIB, GIB = 1024, 1024**2, 1024**3
SMALL_BYTES = 4 * KIB

ALL_HASHED_LIMIT = 5000
"""Files up to which the contents of all are compared; of more, those of a sample."""
SAMPLE = 1000

_SEED = 20261120
FEW = 1000
"""Files that may be removed at any time."""
_KEPT_LIMIT = 1_000_000

_PER_FOLDER = 100
_MEDIAN_BYTES, _SIGMA = 256 * KIB, 2.0
"""Of the lognormal sizes; the mean is seven times the median."""


@dataclass(frozen=True, slots=True)
class Tree:
    """
    A folder with known contents.

    ``files`` has the size and the SHA-256 of each file, by its path in the folder. ``manifest`` is a file beside the
    folder that holds the same, for other processes.
    """

    folder: Path
    files: dict[str, tuple[int, str]]
    manifest: Path

    @property
    def total_bytes(self) -> int:
        """How many bytes the files have."""
        return sum(size for size, _ in self.files.values())

    @classmethod
    def load(cls, manifest: Path) -> Tree:
        """Return the tree that a manifest describes."""
        files = {name: (size, digest) for name, (size, digest) in json.loads(manifest.read_text()).items()}
        return cls(manifest.with_suffix(""), files, manifest)

    def to_hash(self) -> list[str]:
        """Return the files whose contents are compared: all, or a sample that is always the same."""
        names = sorted(self.files)
        return names if len(names) <= ALL_HASHED_LIMIT else random.Random(_SEED).sample(names, SAMPLE)


class Scratch:
    """
    Where folders come and go.

    Many small files are not removed before the end, or before there are far too many of them: ext4 without a journal
    steps over inodes that were freed in the last minutes, one by one, and makes files ten times slower meanwhile.

    Args:
        root: an existing folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._kept: list[Path] = []
        self._kept_files = 0

    def new_folder(self) -> Path:
        """Return the path of a folder that does not exist."""
        return self.root / uuid.uuid4().hex[:12]

    @contextlib.contextmanager
    def copy_of(self, tree: Tree) -> Iterator[Path]:
        """Give the path of a folder that does not exist, for a copy of a tree that is then not needed any more."""
        path = self.new_folder()
        try:
            yield path
        finally:
            if len(tree.files) < FEW:
                shutil.rmtree(path, ignore_errors=True)
            else:
                self._keep(path, len(tree.files))

    def touch_memory(self, size_bytes: int) -> None:
        """
        Use as much memory, and let go of it.

        The host of a virtual machine takes back pages that were free for seconds, but for some; a contender that is the
        first to touch them again would pay for that: writing 5 GB took 1.3 s at once after another, and 6.9 s later.
        """
        path, block = self.new_folder(), bytes(16 * MIB)
        try:
            with path.open("wb", buffering=0) as file:
                for start in range(0, size_bytes, len(block)):
                    file.write(block[: size_bytes - start])
        finally:
            path.unlink()

    def _keep(self, path: Path, files: int) -> None:
        self._kept.append(path)
        self._kept_files += files
        if self._kept_files > _KEPT_LIMIT:
            for kept in self._kept:
                shutil.rmtree(kept, ignore_errors=True)
            self._kept.clear()
            self._kept_files = 0


def write_plainly(tree: Tree, folder: Path) -> None:
    """Make as many files of the same sizes, from nothing: what the disk allows."""
    data = bytes(max(size for size, _ in tree.files.values()))
    for parent in {os.path.dirname(name) for name in tree.files}:
        (folder / parent).mkdir(parents=True, exist_ok=True)
    for name, (size, _) in tree.files.items():
        with open(folder / name, "wb") as file:
            file.write(data[:size])


def make_small(folder: Path, count: int) -> Tree:
    """Make ``count`` files of 4 KiB, a hundred in a folder, folders in folders."""
    names = (
        f"{number // _PER_FOLDER**2:02}/{number // _PER_FOLDER % _PER_FOLDER:02}/{number:06}.bin"
        for number in range(count)
    )
    return _make(folder, ((name, SMALL_BYTES) for name in names))


def make_equal(folder: Path, count: int, size_bytes: int) -> Tree:
    """Make ``count`` files of one size."""
    return _make(folder, ((f"{number}.bin", size_bytes) for number in range(count)))


def make_mixed(folder: Path, total_bytes: int) -> Tree:
    """Make files of lognormal sizes, ``total_bytes`` together."""
    return _make(folder, _mixed(total_bytes))


def make_sparse(folder: Path, size_bytes: int) -> Tree:
    """Make one file of zeros that takes no room; nobody knows its hash."""
    folder.mkdir(parents=True)
    with (folder / "0.bin").open("wb") as file:
        file.truncate(size_bytes)
    return Tree(folder, {"0.bin": (size_bytes, "")}, folder)


def difference(tree: Tree, sizes: dict[str, int], digests: Iterable[tuple[str, str]]) -> str:
    """
    Tell what is wrong with a copy of a tree; nothing if nothing is.

    Args:
        tree: what should be there.
        sizes: what is there.
        digests: names and hashes of some of it.
    """
    if missing := tree.files.keys() - sizes.keys():
        return f"{len(missing):,} of {len(tree.files):,} files are missing, such as {min(missing)}"
    if extra := sizes.keys() - tree.files.keys():
        return f"{len(extra):,} files are there that should not be, such as {min(extra)}"
    if wrong := [name for name, size in sizes.items() if size != tree.files[name][0]]:
        return f"{len(wrong):,} files have another size, such as {min(wrong)}"
    if wrong := [name for name, digest in digests if digest != tree.files[name][1]]:
        return f"{len(wrong):,} files have other contents, such as {min(wrong)}"
    return ""


def folder_difference(tree: Tree, folder: Path) -> str:
    """Tell what is wrong with a local copy of a tree; nothing if nothing is."""
    sizes = {name: os.stat(folder / name).st_size for name in walk(folder)}
    return difference(tree, sizes, ((name, hash_of(folder / name)) for name in tree.to_hash()))


def walk(folder: Path) -> Iterator[str]:
    """Yield the paths of the files in a folder, as plainly as can be."""
    start = len(str(folder)) + 1
    for parent, _, names in os.walk(folder):
        for name in names:
            yield f"{parent}/{name}"[start:]


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make(folder: Path, files: Iterable[tuple[str, int]]) -> Tree:
    folder.mkdir(parents=True)
    block = random.Random(_SEED).randbytes(MIB)
    # As old as files are that nobody works at: s5cmd looks at times, by the second, and asyncstore mistrusts new ones.
    made = time.time() - 24 * 3600
    found = {}
    for number, (name, size) in enumerate(files):
        path = folder / name
        if not number % _PER_FOLDER:
            path.parent.mkdir(parents=True, exist_ok=True)
        found[name] = (size, _write(path, number, size, block))
        os.utime(path, (made, made))
    manifest = folder.with_suffix(".json")
    manifest.write_text(json.dumps(found))
    return Tree(folder, found, manifest)


def _write(path: Path, number: int, size: int, block: bytes) -> str:
    """Write a file in which every MiB is different, and return its hash."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in range(math.ceil(size / MIB)):
            head = f"{number:08}{piece:08}".encode()
            data = memoryview(head + block[len(head) :])[: size - piece * MIB]
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def _mixed(total_bytes: int) -> Iterator[tuple[str, int]]:
    draw = random.Random(_SEED)
    left = total_bytes
    for number in itertools.count():
        size = min(left, int(draw.lognormvariate(math.log(_MEDIAN_BYTES), _SIGMA)))
        yield f"{number // _PER_FOLDER:03}/{number:06}.bin", size
        left -= size
        if not left:
            return
