"""Digests of local files."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import for_each
from asyncstore._core.threads import in_stoppable_thread, in_thread
from asyncstore.catalog._local._body import hash_file
from asyncstore.catalog._local._files import read_file
from asyncstore.catalog._plan import batches
from asyncstore.errors import AsyncStoreError
from asyncstore.objects.bodies import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore._core.threads import Stop
    from asyncstore.catalog._cache._known import Known
    from asyncstore.catalog._local._files import LocalFile, LocalFiles

__all__ = ["HASHERS", "PORTION", "hashed"]

HASHERS = min(8, os.cpu_count() or 1)
"""Hashing fills a core each."""

PORTION = 5000
"""Files that are hashed before it is remembered, so that not all is lost if this is cancelled."""


async def hashed(files: LocalFiles, known: Known | None) -> dict[str, str]:
    """
    Return the SHA-256 of files by name, and remember them, without those that cannot be read or change meanwhile.

    What becomes of these is for the transfer to say, which looks at them again.
    """
    found: dict[str, str] = {}
    names = list(files)
    for start in range(0, len(names), PORTION):
        found |= await _hashed([files[name] for name in names[start : start + PORTION]], known)
    return found


async def _hashed(files: Sequence[LocalFile], known: Known | None) -> dict[str, str]:
    news: list[tuple[LocalFile, str]] = []

    async def hash_batch(batch: Sequence[LocalFile]) -> None:
        news.extend(await in_stoppable_thread(partial(_hash_all, batch)))

    large = [[file] for file in files if file.size_bytes > BLOCK_BYTES]
    small = [file for file in files if file.size_bytes <= BLOCK_BYTES]
    await for_each(hash_batch, [*large, *batches(small, workers=HASHERS)], limit=HASHERS)
    if known is not None:
        await in_thread(known.remember_files, [(file.row, digest) for file, digest in news])
    return {file.name: digest for file, digest in news}


def _hash_all(files: Sequence[LocalFile], stop: Stop) -> list[tuple[LocalFile, str]]:
    found: list[tuple[LocalFile, str]] = []
    for file in files:
        if stop():
            break
        try:
            if file.size_bytes > BLOCK_BYTES:
                found.append((file, hash_file(file, stop).digest))
            else:
                found.append((file, read_file(file)[1]))
        except AsyncStoreError:
            # The transfer reads it again, and says what is wrong with it.
            continue
    return found
