"""Digests of local files: remembered ones, and those of the files themselves."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import for_each
from asyncstore._core.threads import in_stoppable_thread, in_thread
from asyncstore.catalog._body import hash_file
from asyncstore.catalog._plan import batches
from asyncstore.catalog._scan import read_file
from asyncstore.errors import AsyncStoreError
from asyncstore.objects.bodies import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncstore._core.threads import Stop
    from asyncstore.catalog._known import Known
    from asyncstore.catalog._scan import LocalFile, LocalFiles

__all__ = ["HASHERS", "local_digests"]

HASHERS = min(8, os.cpu_count() or 1)
"""Hashing fills a core each."""


async def local_digests(files: LocalFiles, known: Known | None) -> Mapping[str, str]:
    """
    Return the SHA-256 of files by name, without those that cannot be read or change meanwhile.

    What becomes of these is for the transfer to say, which looks at them again.
    """
    found = {} if known is None else await in_thread(known.digests_of, files)
    news: list[tuple[LocalFile, str]] = []

    async def hash_batch(batch: Sequence[LocalFile]) -> None:
        news.extend(await in_stoppable_thread(partial(_hash_all, batch)))

    if len(found) == len(files):
        return found
    missing = [files[name] for name in files if name not in found]
    large = [[file] for file in missing if file.size_bytes > BLOCK_BYTES]
    small = [file for file in missing if file.size_bytes <= BLOCK_BYTES]
    await for_each(hash_batch, [*large, *batches(small, workers=HASHERS)], limit=HASHERS)
    if known is not None and news:
        await in_thread(known.remember_files, news)
    return found | {file.name: digest for file, digest in news}


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
