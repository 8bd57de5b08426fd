"""
Large files on their way from the catalog: written in ranges, in any order, under a temp name that outlives the writer.

Behind its last byte the temp file keeps a trailer, which says what it is going to be and which of its ranges are
complete. So a transfer that comes after one that died has only to fetch the others; it takes no range for good whose
bytes it has not read again. The functions here block; callers run them in threads, several at a time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import struct
import threading
import zlib
from typing import TYPE_CHECKING

from asyncstore._core.files import TEMP_PREFIX, claim, new_temp_name
from asyncstore._core.memory import room_for
from asyncstore.catalog._local._folders import NEW_FILE, Folders, base_of, parent_of, translated
from asyncstore.catalog._local._room import reserve
from asyncstore.errors import ClosedError, IntegrityError, UnavailableError, UnsafePathError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Landing"]

_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK_BYTES = 1024 * 1024

_PRIVATE = 0o600
"""Until it is known who may read it, nobody else may."""

_MAGIC = b"asyncst1"
_HEADER_BYTES = len(_MAGIC) + hashlib.sha256().digest_size
_SLOT = struct.Struct("<II")
"""CRC32 of a range, and a CRC32 over that and the range's index: zeros are no valid slot."""

_TRIES = 20
_NOT_OURS = {errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EPERM}
"""What opening the shared temp file fails with if something else is in its place; a new name still may do."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Landing:
    """
    A large file that is being written, begun by :meth:`open`.

    It holds one descriptor until :meth:`commit`, :meth:`discard` or :meth:`close`, and with it a lock: nobody else
    writes the same temp file.

    Attributes:
        name: of the file, relative to ``root``.
        kept: the ranges that an earlier writer has completed; :meth:`check_range` tells whether that is so.
    """

    def __init__(self, root: str, name: str, temp: str, descriptor: int, trailer: _Trailer, *, lasting: bool) -> None:
        self.root = root
        self.name = name
        self.kept: frozenset[int] = frozenset()
        self._temp = temp
        self._descriptor = descriptor
        self._trailer = trailer
        self._lasting = lasting
        self._sums: dict[int, int] = {}
        self._users = 0
        self._users_changed = threading.Condition()

    def __repr__(self) -> str:
        state = "closed" if self._descriptor < 0 else f"{len(self.kept)} of {self._trailer.count} ranges kept"
        return f"<Landing {self.name!r} in {self.root!r}, {state}>"

    @classmethod
    def open(cls, root: str, name: str, size_bytes: int, etag: str, *, step: int) -> Landing:
        """
        Begin to write a file, or go on where another writer of the same object stopped.

        The temp file has all its room from the beginning; in memory, :func:`reserve` only looks whether it is there.
        While another process or thread is writing the same file this one is written under a name of its own, and
        nothing of it is kept.

        Args:
            root: a real path.
            name: of the file, relative to it; folders above it are made.
            size_bytes: how large the file is going to be.
            etag: of the object; without one nothing is kept.
            step: bytes of each range but the last.

        Raises:
            UnsafePathError: a link on the way leads out of the root, or something on the way is not a folder.
            AccessDeniedError: the folder cannot be written.
            UnavailableError: the disk has no room for it, or there are too many open files.
        """
        trailer = _Trailer(size_bytes, etag, step)
        with translated(name, root), Folders(root) as folders:
            folder = folders.get(parent_of(name), make=True)
            temp, descriptor = _open_temp(folder, base_of(name), lasting=bool(etag))
            landing = cls(root, name, temp, descriptor, trailer, lasting=temp.endswith(_PART))
            try:
                landing._begin()
            except BaseException as error:
                os.close(descriptor)
                # What is kept of it may still be of use, but not if it is the very room that is missing.
                if not landing.kept or getattr(error, "errno", None) in _NO_ROOM:
                    with contextlib.suppress(OSError):
                        os.unlink(temp, dir_fd=folder)
                raise
        return landing

    def write(self, block: memoryview | bytes, offset: int) -> None:
        """
        Write bytes; several threads may, at different offsets.

        Raises:
            IntegrityError: they lie beyond the end of the file.
            UnavailableError: the disk is full.
        """
        view = memoryview(block)
        if offset < 0 or offset + len(view) > self._trailer.size_bytes:
            raise IntegrityError(f"{self.name!r} would become larger than {self._trailer.size_bytes} bytes")
        with self._in_use() as descriptor, translated(self.name, self.root):
            _write_at(descriptor, view, offset)

    def finish_range(self, index: int, crc32: int) -> None:
        """Note for a later writer that a range is complete, and the CRC32 of its bytes."""
        self._sums[index] = crc32
        with self._in_use() as descriptor, translated(self.name, self.root):
            _write_at(descriptor, self._trailer.slot(index, crc32), self._trailer.offset_of(index))

    def check_range(self, index: int) -> bool:
        """Read a kept range again and return whether it is as it was when it was completed."""
        if index not in self._sums:
            return False
        total = 0
        with translated(self.name, self.root, "read"):
            for block in self._blocks(*self._trailer.range_of(index)):
                total = zlib.crc32(block, total)
        return total == self._sums[index]

    def hash_range(self, start: int, end: int, digest: hashlib._Hash) -> None:
        """
        Feed bytes that are written to ``digest``.

        Raises:
            IntegrityError: they are not there any more.
        """
        with translated(self.name, self.root, "read"):
            for block in self._blocks(start, end):
                digest.update(block)

    def commit(self, mode: int | None = None, mtime_ns: int | None = None) -> None:
        """
        Give the file its name, in place of what had it, and close it.

        Args:
            mode: permission bits, of which none but 0o777 count; by default those that the process gives new files.
            mtime_ns: time of modification since the epoch, by default now.

        Raises:
            UnsafePathError: its name is a folder by now, or a link on the way leads out of the root.
            UnavailableError: the temp file is gone.
        """
        with translated(self.name, self.root), Folders(self.root) as folders:
            folder = folders.get(parent_of(self.name))
            if not self._is_there(folder):
                raise UnavailableError(f"the temp file of {self.name!r} in {self.root!r} is gone: get it again")
            if _is_folder(base_of(self.name), folder):
                raise UnsafePathError(f"{self.name!r} is a folder in {self.root!r}, so no file can be written there")
            os.fchmod(self._descriptor, _mode_of_new(folder) if mode is None else mode & 0o777)
            os.ftruncate(self._descriptor, self._trailer.size_bytes)
            if mtime_ns is not None:
                os.utime(self._descriptor, ns=(mtime_ns, mtime_ns))
            os.rename(self._temp, base_of(self.name), src_dir_fd=folder, dst_dir_fd=folder)
        self._close()

    def discard(self) -> None:
        """Remove the temp file, if it is there, and close it."""
        if self._descriptor < 0:
            return
        # What is in its place by now is not ours to remove; and where the folder is denied, no removing helps.
        with contextlib.suppress(OSError, UnsafePathError), Folders(self.root) as folders:
            folder = folders.get(parent_of(self.name))
            if self._is_there(folder):
                os.unlink(self._temp, dir_fd=folder)
        self._close()

    def close(self) -> None:
        """Close it and leave the temp file for a later writer to go on with, if one can."""
        if self._lasting:
            self._close()
        else:
            self.discard()

    def _begin(self) -> None:
        kept = self._trailer.read(self._descriptor)
        if kept is not None:
            self._sums = kept
            self.kept = frozenset(kept)
            return
        os.ftruncate(self._descriptor, 0)
        reserve(self._descriptor, self._trailer.end)
        _write_at(self._descriptor, self._trailer.header, self._trailer.size_bytes)

    def _blocks(self, start: int, end: int) -> Iterator[memoryview]:
        buffer = room_for(min(_BLOCK_BYTES, max(1, end - start)))
        while start < end:
            read = os.preadv(self._descriptor, [buffer[: end - start]], start)
            if not read:
                raise IntegrityError(f"the temp file of {self.name!r} in {self.root!r} was cut short meanwhile")
            yield buffer[:read]
            start += read

    def _is_there(self, folder: int) -> bool:
        return _is_called(self._descriptor, self._temp, folder)

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[int]:
        """Give the descriptor, which is not closed within the block: its number may be another file's then."""
        with self._users_changed:
            if self._descriptor < 0:
                raise ClosedError(f"{self.name!r} in {self.root!r} is not being written any more")
            self._users += 1
        try:
            yield self._descriptor
        finally:
            with self._users_changed:
                self._users -= 1
                self._users_changed.notify_all()

    def _close(self) -> None:
        with self._users_changed:
            self._users_changed.wait_for(lambda: not self._users)
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _Trailer:
    """What stands behind the last byte of a file on its way: what object it is of, and the complete ranges."""

    def __init__(self, size_bytes: int, etag: str, step: int) -> None:
        self.size_bytes = size_bytes
        self.count = max(1, -(-size_bytes // step))
        self.header = _MAGIC + hashlib.sha256(f"{size_bytes}\n{step}\n{etag}".encode()).digest()
        self._step = step

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.offset_of(self.count)

    def offset_of(self, index: int) -> int:
        """Return where the slot of a range is."""
        return self.size_bytes + _HEADER_BYTES + index * _SLOT.size

    def range_of(self, index: int) -> tuple[int, int]:
        """Return where a range starts and ends."""
        return index * self._step, min((index + 1) * self._step, self.size_bytes)

    def slot(self, index: int, crc32: int) -> bytes:
        """Return what is written for a complete range."""
        return _SLOT.pack(crc32, _mark(index, crc32))

    def read(self, descriptor: int) -> dict[int, int] | None:
        """Return the CRC32 of each complete range, ``None`` if this is not the trailer of that file."""
        if os.fstat(descriptor).st_size != self.end:
            return None
        found = os.pread(descriptor, self.end - self.size_bytes, self.size_bytes)
        if len(found) != self.end - self.size_bytes or not found.startswith(self.header):
            return None
        slots = enumerate(_SLOT.iter_unpack(found[_HEADER_BYTES:]))
        return {index: crc32 for index, (crc32, mark) in slots if mark == _mark(index, crc32)}


_PART = ".part"


def _open_temp(folder: int, base: str, *, lasting: bool) -> tuple[str, int]:
    """Return a temp file's name and a descriptor of it that holds the lock."""
    if lasting:
        name = f"{TEMP_PREFIX}{hashlib.sha256(os.fsencode(base)).hexdigest()[:16]}{_PART}"
        descriptor = _open_lasting(name, folder)
        if descriptor is not None:
            return name, descriptor
    for _ in range(_TRIES):
        name = new_temp_name()
        descriptor = os.open(name, NEW_FILE, _PRIVATE, dir_fd=folder)
        if claim(descriptor) and _is_called(descriptor, name, folder):
            return name, descriptor
        # A sweeper took it for abandoned before it was locked.
        os.close(descriptor)
    raise UnavailableError(f"temp files for {base!r} are removed as fast as they are made")


def _open_lasting(name: str, folder: int) -> int | None:
    """Return a locked descriptor of the temp file that writers of one target share, ``None`` if it cannot be had."""
    for _ in range(_TRIES):
        try:
            descriptor = os.open(name, _OPEN, _PRIVATE, dir_fd=folder)
        except OSError as error:
            if error.errno in _NOT_OURS:
                return None
            raise
        if not claim(descriptor, strict=True) or not _is_ours(descriptor):
            os.close(descriptor)
            return None
        if _is_called(descriptor, name, folder):
            return descriptor
        # Another writer has given it its final name before it was ours.
        os.close(descriptor)
    return None


def _is_ours(descriptor: int) -> bool:
    """Tell whether nothing but this name changes when the file is written."""
    status = os.fstat(descriptor)
    return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1 and status.st_uid == os.geteuid()


def _is_called(descriptor: int, name: str, folder: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _is_folder(base: str, folder: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(base, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _mode_of_new(folder: int) -> int:
    """Return the permission bits that a new file gets here; to ask for the umask would be to change it."""
    name = new_temp_name()
    descriptor = os.open(name, NEW_FILE, 0o666, dir_fd=folder)
    try:
        os.unlink(name, dir_fd=folder)
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)


def _write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _mark(index: int, crc32: int) -> int:
    # Never zero, which is what slots hold that nobody has written.
    return zlib.crc32(_SLOT.pack(index, crc32)) or 1
