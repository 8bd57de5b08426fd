"""
Objects as files under a folder, also one that several machines share.

Our own code instead of obstore's ``LocalStore``: that one has no conditional replace and refuses names such as ``a#1``.
ETags are made of a file's inode, time and size. Of user metadata only ``mode`` is kept, as the file's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from asyncstore._core.files import (
    TEMP_PREFIX,
    atomic_target,
    claim,
    locked,
    remove_empty_parents,
    write_all,
    write_atomically,
)
from asyncstore._core.threads import in_stoppable_thread, in_thread
from asyncstore.errors import (
    AlreadyExistsError,
    AsyncStoreError,
    ClosedError,
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    UnsafePathError,
)
from asyncstore.objects._errors import from_file_error
from asyncstore.objects.base import (
    ALONE,
    ANY,
    Condition,
    Listing,
    ObjectMeta,
    ObjectStore,
    Transfer,
    check_key,
)
from asyncstore.objects.bodies import PathBody
from asyncstore.objects.small import SmallGet, SmallHead, SmallPut, check_size

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from contextlib import AsyncExitStack

    from asyncstore._core.threads import Stop
    from asyncstore.objects.bodies import FileBody
    from asyncstore.objects.small import Job, SmallObjects, SmallVerb

__all__ = ["FolderObjectStore"]

R = TypeVar("R")
T = TypeVar("T")

PAGE = 1000
LOCK_NAME = f"{TEMP_PREFIX}lock"
MODE_KEY = "mode"
"""Metadata key of a file's type and permission bits, in octal."""

_VANISHED_RETRIES = 50
_OCTAL = re.compile(r"[0-7]{3,7}")


class FolderObjectStore(ObjectStore):
    """
    Keys are paths under ``root``; the folder is made with the first write.

    Conditional puts lock a file in the key's folder (``flock``), so they hold among processes, and among machines where
    the shared file system locks. Links are not followed: what they point to is neither listed nor read.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__()
        self._root = Path(root)

    @property
    def location(self) -> str:
        """The folder."""
        return str(self._root)

    async def _open(self, stack: AsyncExitStack) -> None:
        self._root = await asyncio.to_thread(lambda: self._root.expanduser().absolute())
        if await asyncio.to_thread(lambda: self._root.exists() and not self._root.is_dir()):
            raise ConfigurationError(f"{self._root} is not a folder")

    async def put(
        self, key: str, data: bytes, *, condition: Condition = ANY, metadata: Mapping[str, str] | None = None
    ) -> str:
        """Write an object; see :meth:`ObjectStore.put`."""
        path, mode = self._path(key), _mode(metadata)

        def write() -> str:
            if condition.etag:
                return _replace(path, data, condition.etag)
            return _etag(write_atomically(path, data, overwrite=not condition.create, mode=mode))

        return await self._in_thread("put", key, lambda _: _despite_removal(write))

    async def get(
        self, key: str, *, byte_range: tuple[int, int] | None = None, etag: str = ""
    ) -> tuple[ObjectMeta, bytes]:
        """Read an object; see :meth:`ObjectStore.get`."""
        path = self._path(key)
        return await self._in_thread("get", key, lambda _: _read(key, path, byte_range, etag))

    async def head(self, key: str) -> ObjectMeta:
        """Describe an object; see :meth:`ObjectStore.head`."""
        path = self._path(key)
        return await self._in_thread("head", key, lambda _: _look(key, path))

    async def list(self, prefix: str) -> AsyncGenerator[Sequence[ObjectMeta], None]:
        """List objects; see :meth:`ObjectStore.list`."""
        folders = [prefix]
        while folders:
            page: list[ObjectMeta] = []
            while folders and len(page) < PAGE:
                listing = await self.list_folder(folders.pop())
                folders += reversed(listing.folders)
                page += listing.objects
            if page:
                yield page

    async def list_folder(self, prefix: str) -> Listing:
        """List one level; see :meth:`ObjectStore.list_folder`."""
        folder = self._path(prefix.rstrip("/")) if prefix else self._root

        def scan(_: Stop) -> Listing:
            folders, objects = [], []
            try:
                with os.scandir(folder) as entries:
                    for entry in sorted(entries, key=lambda entry: entry.name):
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(f"{prefix}{entry.name}/")
                        elif entry.is_file(follow_symlinks=False) and not entry.name.startswith(TEMP_PREFIX):
                            with contextlib.suppress(FileNotFoundError):
                                objects.append(_meta(prefix + entry.name, entry.stat(follow_symlinks=False)))
            except (FileNotFoundError, NotADirectoryError):
                return Listing([], [])
            return Listing(folders, objects)

        return await self._in_thread("list", prefix, scan)

    async def delete(self, keys: Collection[str]) -> None:
        """Delete objects, and the folders that become empty; see :meth:`ObjectStore.delete`."""
        paths = [self._path(key) for key in keys]

        def remove(_: Stop) -> None:
            for key in keys:
                self._refuse_links(key)
            for parent in {path.parent for path in paths}:
                _remove_all([path for path in paths if path.parent == parent], parent / LOCK_NAME)
                remove_empty_parents(parent / "any", self._root)

        if paths:
            await self._in_thread("delete", next(iter(keys)), remove)

    async def copy(
        self, source: str, target: str, *, meta: ObjectMeta | None = None, transfer: Transfer = ALONE
    ) -> None:
        """Copy an object; see :meth:`ObjectStore.copy`."""
        origin, destination = self._path(source), self._path(target)

        def copy(stop: Stop) -> str:
            self._refuse_links(target)
            body = _source(origin)
            return _copy_body(body, destination, stat.S_IMODE(origin.lstat().st_mode), stop)

        async with transfer.admit(0):
            await self._in_thread("copy", source, lambda stop: _despite_removal(lambda: copy(stop)))

    async def put_file(
        self,
        key: str,
        file: Path | FileBody,
        *,
        metadata: Mapping[str, str] | None = None,
        transfer: Transfer = ALONE,
    ) -> str:
        """Write a file; see :meth:`ObjectStore.put_file`."""
        target = self._path(key)
        body = await in_thread(PathBody.of, file) if isinstance(file, Path) else file
        mode = _mode(metadata)
        async with transfer.admit(body.size_bytes):
            etag = await self._in_thread(
                "put", key, lambda stop: _despite_removal(lambda: _copy_body(body, target, mode, stop))
            )
        transfer.advanced(body.size_bytes)
        return etag

    async def together(self, work: Callable[[SmallObjects], R], *, writes: Iterable[str] = ()) -> R:
        """Do small requests; see :meth:`ObjectStore.together`."""
        self._check_open()
        return await in_stoppable_thread(lambda stop: work(_SmallFiles(self, stop)))

    def _path(self, key: str) -> Path:
        self._check_open()
        return self._root.joinpath(*_segments(key))

    async def _in_thread(self, verb: str, key: str, work: Callable[[Stop], T]) -> T:
        self._check_open()
        return await in_stoppable_thread(lambda stop: self._translated(verb, key, lambda: work(stop)))

    def _translated(self, verb: str, key: str, work: Callable[[], T]) -> T:
        try:
            self._refuse_links(key)
            return work()
        except AsyncStoreError:
            raise
        except FileExistsError as error:
            raise AlreadyExistsError(f"{verb} {self._root / key}: it exists already") from error
        except OSError as error:
            raise from_file_error(error, f"{verb} {self._root / key}") from error

    def _refuse_links(self, key: str) -> None:
        """Refuse a key that leads through a link: what lies behind it is somebody else's."""
        folder = self._root
        for segment in key.split("/")[:-1]:
            folder /= segment
            if folder.is_symlink():
                raise UnsafePathError(f"{folder} is a link: the store keeps to its own folder")


def _segments(key: str) -> list[str]:
    segments = check_key(key).split("/")
    if segments[-1].startswith(TEMP_PREFIX):
        raise UnsafePathError(f"key {key!r}: names that begin with {TEMP_PREFIX!r} are kept for files on their way")
    return segments


def _replace(path: Path, data: bytes, etag: str) -> str:
    with locked(path.with_name(LOCK_NAME)):
        if _etag(path.lstat()) != etag:
            raise ConflictError(f"put {path}: it was changed meanwhile")
        return _etag(write_atomically(path, data))


def _open_regular(path: str, flags: int) -> int:
    """Open a file without following links, and without waiting for the other end of a FIFO."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    except NotADirectoryError as error:
        raise FileNotFoundError(errno.ENOENT, "no such file", path) from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, "not a regular file", path)


def _read(
    key: str, path: Path, byte_range: tuple[int, int] | None, etag: str, most_bytes: int = sys.maxsize
) -> tuple[ObjectMeta, bytes]:
    with open(path, "rb", opener=_open_regular) as file:
        meta = _meta(key, os.fstat(file.fileno()))
        check_size(meta, most_bytes)
        if etag and meta.etag != etag:
            raise ConflictError(f"get {path}: it was replaced meanwhile")
        start, end = byte_range or (0, meta.size_bytes)
        file.seek(start)
        return meta, file.read(end - start)


def _look(key: str, path: Path) -> ObjectMeta:
    with contextlib.suppress(NotADirectoryError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            return _meta(key, status)
    raise NotFoundError(f"head {path}: not found")


def _source(path: Path) -> PathBody:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return PathBody.of(path)


def _copy_body(body: FileBody, target: Path, mode: int | None, stop: Stop) -> str:
    with atomic_target(target) as temp:
        descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            claim(descriptor)
            for block in body.blocks(0, body.size_bytes):
                if stop():
                    raise ClosedError(f"copying {body.name} to {target} was given up")
                write_all(descriptor, block)
            if mode is not None:
                os.fchmod(descriptor, mode)
            written = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if written.st_size != body.size_bytes:
            raise IntegrityError(f"{body.name} changed while it was read")
    return _etag(written)


def _despite_removal(work: Callable[[], T]) -> T:
    """Do ``work`` again where somebody else removed the empty folder that it was about to write into."""
    for _ in range(_VANISHED_RETRIES):
        with contextlib.suppress(FileNotFoundError):
            return work()
    return work()


def _remove_all(paths: Sequence[Path], lock: Path) -> None:
    """Remove files of one folder, and its lock if nothing else is left; who replaces one of them now is let finish."""
    with locked(lock) if lock.exists() else contextlib.nullcontext():
        for path in paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                path.unlink()
        with contextlib.suppress(OSError):
            if [entry.name for entry in lock.parent.iterdir()] == [LOCK_NAME]:
                lock.unlink()


def _etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def _meta(key: str, status: os.stat_result) -> ObjectMeta:
    modified = datetime.fromtimestamp(status.st_mtime_ns / 1e9, UTC)
    return ObjectMeta(key, status.st_size, _etag(status), modified, {MODE_KEY: f"{status.st_mode:o}"})


def _mode(metadata: Mapping[str, str] | None) -> int | None:
    """Return the permission bits that metadata name."""
    said = (metadata or {}).get(MODE_KEY, "")
    return int(said, 8) & 0o777 if _OCTAL.fullmatch(said) else None


class _SmallFiles:
    """Small requests made one after another in a thread."""

    __slots__ = ("_stop", "_store")

    def __init__(self, store: FolderObjectStore, stop: Stop) -> None:
        self._store = store
        self._stop = stop

    def run(self, jobs: Iterator[Job], at_once: Callable[[], int]) -> None:
        while not self._stop() and (job := next(jobs, None)) is not None:
            if self._store._state == "closed":
                raise ClosedError(f"{self._store.location} was closed")
            try:
                answer = self._do(job.verb)
            except AsyncStoreError as error:
                job.settle(error)
            else:
                job.settle(answer)

    @contextlib.contextmanager
    def landing(self) -> Iterator[None]:
        # The caller waits for the thread.
        if self._stop():
            raise ClosedError("the caller was cancelled")
        yield

    def _do(self, verb: SmallVerb) -> Any:
        store, key = self._store, verb.key
        path = store._root.joinpath(*_segments(key))
        match verb:
            case SmallPut(_, data, metadata):
                mode = _mode(metadata)
                return store._translated(
                    "put", key, lambda: _despite_removal(lambda: _etag(write_atomically(path, data, mode=mode)))
                )
            case SmallGet(_, most_bytes):
                return store._translated("get", key, lambda: _read(key, path, None, "", most_bytes))
            case SmallHead():
                return store._translated("head", key, lambda: _look(key, path))
