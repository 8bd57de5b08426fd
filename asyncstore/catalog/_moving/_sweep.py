"""What transfers that died have left behind, found and removed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import for_each
from asyncstore._core.threads import in_thread
from asyncstore.catalog._local._land import sweep
from asyncstore.objects._large._journal import held_uploads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from asyncstore.catalog._moving._lane import Lane
    from asyncstore.objects.base import PendingUpload

__all__ = ["SweepReport", "sweep_folders", "sweep_uploads"]


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What was removed, or would be."""

    uploads: list[PendingUpload] = field(default_factory=list)
    """Multipart uploads that were aborted; their parts cost money until then."""
    temp_files: list[str] = field(default_factory=list)
    """Paths of files that were on their way."""
    packs: list[str] = field(default_factory=list)
    """Keys of packs that no index names."""


async def sweep_uploads(lane: Lane, prefix: str, older_than: timedelta, *, dry_run: bool) -> list[PendingUpload]:
    """
    Abort uploads of keys under ``prefix`` that were begun ``older_than`` ago or earlier, and return them.

    Those that somebody on this machine is making, as their journals tell, are left alone.
    """
    until = datetime.now(UTC) - older_than
    listed = await lane.store.list_uploads(prefix)
    held = set() if lane.journals is None else await in_thread(held_uploads, lane.journals)
    old = [upload for upload in listed if upload.begun_at <= until and upload.upload_id not in held]
    if old and not dry_run:
        await for_each(lane.store.abort_upload, old, limit=min(lane.workers, len(old)))
    return old


async def sweep_folders(folders: Sequence[str], older_than: timedelta, *, dry_run: bool) -> list[str]:
    """Remove files on their way that nobody has written to for ``older_than``, and return their paths."""
    found: list[str] = []
    for folder in folders:
        root = await in_thread(os.path.realpath, folder)
        if await in_thread(os.path.isdir, root):
            names = await in_thread(partial(sweep, root, older_than.total_seconds(), dry_run=dry_run))
            found += [os.path.join(root, name) for name in names]
    return found
