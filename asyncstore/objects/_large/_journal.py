"""
Journals of unfinished uploads: small files that let a later upload of the same bytes go on where one was cut off.

A journal is a line of JSON about the upload, then one for each part that the storage has acknowledged. It is a hint and
never trusted alone: what the storage lists decides, and a journal that makes no sense means to begin anew. Whoever uses
one holds a lock on it, which ends with the process. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from asyncstore._core.files import claim, remove_abandoned, write_all
from asyncstore.objects._s3._messages import PartDone

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Begun", "Journal", "held_uploads", "journal_name", "open_journal"]

EXPIRY_S = 7 * 24 * 3600
"""A journal that nobody wrote to for so long is removed: by then a bucket's lifecycle rules have its upload."""

_NAME = re.compile(r"[0-9a-f]{64}\.upload")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload that a journal is about."""

    key: str
    upload_id: str
    put_id: str
    """The mark in the object's metadata, by which it is known once it is there."""
    headers: Mapping[str, str]
    """What its creation said of the object, but for the mark."""


def journal_name(*what: object) -> str:
    """Return the name of the journal for an upload that is told from all others by ``what``."""
    return f"{hashlib.sha256(json.dumps([str(item) for item in what]).encode()).hexdigest()}.upload"


def open_journal(folder: Path, name: str) -> Journal | None:
    """
    Return a journal, locked; ``None`` if somebody else has it, or there can be none, which is logged.

    Old journals in the folder, which is made if missing, are removed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_old(folder)
        return Journal.open(folder / name)
    except OSError as error:
        log.info("uploads cannot be resumed later: no journal in %s: %s", folder, error)
        return None


def held_uploads(folder: Path) -> set[str]:
    """Return the ids of the uploads in a folder's journals that somebody on this machine is making now."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _NAME.fullmatch(path.name):
                with contextlib.suppress(OSError), path.open("rb") as file:
                    if not claim(file.fileno()) and (begun := _begun(file.readline().decode(errors="replace"))):
                        found.add(begun.upload_id)
    return found


class Journal:
    """
    An open journal.

    Writing to it is not vital: what fails is logged, once, and the upload goes on without.

    Args:
        path: where it is.
        descriptor: of the file, locked; it is closed with the journal.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """Open and lock a journal, which is made if missing; ``None`` if another has it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # Between our look and our lock, its holder may have removed it: then it is a file without a name.
            if claim(descriptor) and os.fstat(descriptor).st_nlink:
                journal = cls(path, descriptor)
                descriptor = -1
                return journal
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return None

    def read(self) -> tuple[Begun, dict[int, PartDone]] | None:
        """Return the upload and its parts by number, as far as they were written whole; ``None`` if there is none."""
        try:
            text = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0).decode(errors="replace")
        except OSError:
            return None
        head, *lines = text.split("\n")
        begun = _begun(head)
        if begun is None or not lines:
            return None
        # What follows the last line's end was torn off.
        parts = filter(None, map(_part, lines[:-1]))
        return begun, {part.number: part for part in parts}

    def begin(self, begun: Begun) -> None:
        """Forget what was written, and begin with another upload."""
        self._write(asdict(begun), anew=True)

    def add(self, part: PartDone) -> None:
        """Note a part that the storage has; nothing once this is closed."""
        self._write({"number": part.number, "etag": part.etag, "crc32": part.crc32})

    def close(self, *, remove: bool = False) -> None:
        """Unlock the journal and let it be, or remove it; a second call does nothing."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor < 0:
                return
            try:
                # An empty one is about nothing.
                if remove or not os.fstat(descriptor).st_size:
                    with contextlib.suppress(OSError):
                        self._path.unlink()
            finally:
                os.close(descriptor)

    def _write(self, content: dict[str, Any], *, anew: bool = False) -> None:
        line = f"{json.dumps(content)}\n".encode()
        with self._lock:
            if self._descriptor < 0:
                return
            try:
                if anew:
                    os.ftruncate(self._descriptor, 0)
                elif not self._ends_whole():
                    line = b"\n" + line
                write_all(self._descriptor, line)
            except OSError as error:
                log.info("the upload cannot be resumed from here: %s: %s", self._path, error)

    def _ends_whole(self) -> bool:
        size = os.fstat(self._descriptor).st_size
        return os.pread(self._descriptor, 1, size - 1) == b"\n" if size else True


def _begun(line: str) -> Begun | None:
    match _parsed(line):
        case {"key": str(key), "upload_id": str(upload_id), "put_id": str(put_id), "headers": dict(headers)} if (
            upload_id
        ):
            return Begun(key, upload_id, put_id, headers)
    return None


def _part(line: str) -> PartDone | None:
    match _parsed(line):
        case {"number": int(number), "etag": str(etag), "crc32": str(crc32)}:
            return PartDone(number, etag, crc32)
    return None


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _remove_old(folder: Path) -> None:
    limit = time.time_ns() - EXPIRY_S * 10**9
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(descriptor):
            if _NAME.fullmatch(name):
                with contextlib.suppress(OSError):
                    remove_abandoned(name, descriptor, older_than_ns=limit)
    finally:
        os.close(descriptor)
