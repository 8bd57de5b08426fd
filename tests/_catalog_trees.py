"""Folders of files for the catalog's tests, and what is to be found of them afterwards."""

from __future__ import annotations

import hashlib
import os
import random
from typing import TYPE_CHECKING

from asyncstore._core.files import TEMP_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["KIB", "MIB", "digest_of", "digests_in", "etag_of", "make_tree", "shown_in", "temp_files_in"]

KIB = 1024
MIB = 1024 * KIB

PART_BYTES = 8 * MIB

FOLDERS = ("", "a/", "a/b/", "c d/")


def make_tree(folder: Path, *, small: int, large_bytes: int = 0, seed: int = 0) -> dict[str, str]:
    """Fill a folder with ``small`` files of 4 to 64 KiB and a large one, and return their SHA-256 by name."""
    chance = random.Random(seed)
    names = [f"{FOLDERS[number % len(FOLDERS)]}{number:05}" for number in range(small)]
    for name in names:
        _write(folder / name, [chance.randbytes(chance.randint(4 * KIB, 64 * KIB))])
    if large_bytes:
        sizes = [min(MIB, large_bytes - start) for start in range(0, large_bytes, MIB)]
        _write(folder / "large", (chance.randbytes(size) for size in sizes))
    return digests_in(folder)


def digests_in(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all files at any depth, hidden ones and those on their way included, by name."""
    return {str(path.relative_to(folder)): digest_of(path) for path in _files_in(folder)}


def temp_files_in(folder: Path) -> list[Path]:
    """Return the files on their way."""
    return [path for path in _files_in(folder) if path.name.startswith(TEMP_PREFIX)]


def shown_in(folder: Path) -> Iterator[Path]:
    """Yield the files that are not on their way."""
    return (path for path in _files_in(folder) if not path.name.startswith(TEMP_PREFIX))


def etag_of(path: Path) -> str:
    """Return the ETag that S3 gives to the bytes of a file that was put in one piece, or else in parts of 8 MiB."""
    with path.open("rb") as file:
        parts = [hashlib.md5(part, usedforsecurity=False) for part in iter(lambda: file.read(PART_BYTES), b"")]
    if path.stat().st_size <= 2 * PART_BYTES:
        return f'"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}"'
    together = hashlib.md5(b"".join(part.digest() for part in parts), usedforsecurity=False)
    return f'"{together.hexdigest()}-{len(parts)}"'


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_in(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield folder.joinpath(parent, name)


def _write(path: Path, blocks: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.writelines(blocks)
