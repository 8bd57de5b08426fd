"""Checking a folder that a run log or a catalog lies in, or will lie in."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from asyncstore._core.findings import Finding, disk_finding
from asyncstore._core.threads import in_thread
from asyncstore.errors import AsyncStoreError, ConflictError
from asyncstore.objects.base import NEW, Condition
from asyncstore.objects.folder import FolderObjectStore

if TYPE_CHECKING:
    from asyncstore._core.access import Access

__all__ = ["check_folder"]


async def check_folder(folder: str | os.PathLike[str], access: Access) -> list[Finding]:
    """Return what was found of a folder: an object is written there on conditions, renamed into place, and removed."""
    path = await in_thread(lambda: Path(folder).expanduser().absolute())
    place = await in_thread(_place_finding, path, access)
    findings = [place]
    if place.state == "ok" and access.allow_write and await in_thread(path.is_dir):
        findings += await _tried(path)
    if not place.is_problem:
        findings.append(await in_thread(disk_finding, str(path)))
    return findings


async def _tried(path: Path) -> list[Finding]:
    key = f".asyncstore-check-{secrets.token_hex(8)}"
    findings = []
    async with FolderObjectStore(path) as store:
        try:
            etag = await store.put(key, b"asyncstore", condition=NEW)
            findings.append(Finding("write", "ok", "written beside, and renamed into place"))
            findings.append(await _conditional(store, key, etag))
        except AsyncStoreError as error:
            findings.append(Finding("write", "failed", str(error)))
        finally:
            await store.delete([key])
    return findings


async def _conditional(store: FolderObjectStore, key: str, etag: str) -> Finding:
    try:
        await store.put(key, b"other", condition=Condition(etag=etag))
        await store.put(key, b"third", condition=Condition(etag=etag))
    except ConflictError:
        return Finding("conditional match", "ok", "files are locked while they are replaced")
    except AsyncStoreError as error:
        return Finding("conditional match", "failed", str(error))
    return Finding("conditional match", "failed", "a file was replaced though it had changed")


def _place_finding(path: Path, access: Access) -> Finding:
    """Say whether a folder can be used, or made; blocks."""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir():
        return Finding("folder", "missing", f"{there} is not a folder")
    wanted = os.R_OK | os.X_OK | (os.W_OK if access.allow_write else 0)
    if not os.access(there, wanted):
        return Finding("folder", "missing", f"{there} is not {'writable' if access.allow_write else 'readable'}")
    return Finding("folder", "ok", str(path) if there == path else f"{path} is made with the first write")
