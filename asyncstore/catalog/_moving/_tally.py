"""How a transfer goes: what is done, skipped and failed, told to whoever wants to know."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from asyncstore.errors import (
    AccessDeniedError,
    AsyncStoreError,
    ClosedError,
    ConfigurationError,
    CredentialsError,
    TransferError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["FileError", "ProgressHook", "Tally", "TransferProgress", "of_one_file"]

HOPELESS = (AccessDeniedError, ClosedError, ConfigurationError, CredentialsError, UnavailableError)
"""What would stop every other file as well, so it stops the transfer."""

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_SHOWN = 3


class FileError(Exception):
    """
    An error of the local side: whatever its kind, it is one file's own. It never leaves the transfer.

    Attributes:
        error: what went wrong.
        concerns_all: the disk is full, which is no file's own.
    """

    def __init__(self, error: AsyncStoreError, *, alone: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.concerns_all = not alone and getattr(error.__cause__, "errno", None) in _DISK_FULL


@contextlib.contextmanager
def of_one_file(*, alone: bool = False) -> Iterator[None]:
    """
    Make an error in the block, of local files only, one file's own.

    A full disk concerns all unless ``alone``: where room for a large file is asked for, smaller ones may still fit.
    """
    try:
        yield
    except AsyncStoreError as error:
        raise FileError(error, alone=alone) from error


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """How far a transfer is, told after each file and after each range of a large one."""

    name: str
    """The file that moved last, ``<compute data folder>/<relative path>``."""
    files_done: int
    """Files moved, left as they were because they are the same already, or failed."""
    files_total: int
    bytes_done: int
    bytes_total: int
    files_skipped: int = 0
    """Files of those done that were left as they were."""
    files_failed: int = 0
    """Files of those done that could not be moved."""
    retries: int = 0
    """Requests that failed and were made again."""


class ProgressHook(Protocol):
    """What is called as a transfer goes on: on the event loop, so it must be quick."""

    def __call__(self, progress: TransferProgress, /) -> None:
        """Take note."""
        ...


class Tally:
    """
    Counts one transfer.

    Args:
        sizes: name → bytes of everything that is to be moved.
        on_progress: told of each step.
        folder: what comes before names where they are told, empty or ending in ``/``; there may be very many, so
            names are held without it, as in the plan.
    """

    def __init__(self, sizes: Mapping[str, int], on_progress: ProgressHook | None = None, *, folder: str = "") -> None:
        self._sizes = sizes
        self._folder = folder
        self._on_progress = on_progress
        self._partly: dict[str, int] = {}
        self._bytes_total = sum(sizes.values())
        self._bytes_done = 0
        self._ahead = 0
        self._done: list[str] = []
        self._skipped: list[str] = []
        self._same = 0
        self._failed: dict[str, Exception] = {}
        self._retries = 0
        self._last = ""
        self.settled = 0
        """How many objects were moved, or have failed."""

    def __repr__(self) -> str:
        return (
            f"<Tally {len(self._done)} done, {len(self._skipped) + self._same} skipped, {len(self._failed)} failed "
            f"of {self._total} files, {self._bytes_done}/{self._bytes_total} bytes>"
        )

    @property
    def failed(self) -> Mapping[str, Exception]:
        """What could not be moved, and why."""
        return self._failed

    @property
    def _total(self) -> int:
        return len(self._sizes) + self._same

    def done(self, name: str) -> None:
        """Note a file as moved; what is no file, such as an empty folder, does not count but in :attr:`settled`."""
        self.settled += 1
        if name in self._sizes:
            self._done.append(name)
            self._settle(name)

    def done_all(self, names: Sequence[str]) -> None:
        """Note many as :meth:`done` does, and tell of them at once."""
        self.settled += len(names)
        files = [name for name in names if name in self._sizes]
        if files:
            self._done += files
            size_bytes = sum(map(self._sizes.__getitem__, files))
            ahead = min(self._ahead, size_bytes)
            self._ahead -= ahead
            self._bytes_done += size_bytes - ahead
            self._tell(files[-1])

    def advance_all(self, size_bytes: int, last: str) -> None:
        """Note that so many bytes of files moved that :meth:`done_all` will be told of, ``last`` the last of them."""
        self._ahead += size_bytes
        self._bytes_done += size_bytes
        self._tell(last)

    def skip(self, name: str) -> None:
        """Note a file as there already, unchanged."""
        self._skipped.append(name)
        self._settle(name)

    def skip_all(self, names: Sequence[str]) -> None:
        """Note files as there already, unchanged, and tell of them at once."""
        if names:
            self._skipped += names
            self._bytes_done += sum(map(self._sizes.__getitem__, names))
            self._tell(names[-1])

    def add_same(self, count: int, size_bytes: int, last: str) -> None:
        """Note further files as there already, unchanged, the last of them by its name, and tell of them at once."""
        self._same += count
        self._bytes_total += size_bytes
        self._bytes_done += size_bytes
        self._tell(last)

    def fail(self, name: str, error: Exception) -> None:
        """Note that a file could not be moved."""
        self.settled += 1
        self._failed[name] = error
        self._settle(name)

    def advance(self, name: str, size_bytes: int) -> None:
        """Note that a part of a file moved."""
        self._partly[name] = self._partly.get(name, 0) + size_bytes
        self._bytes_done += size_bytes
        self._tell(name)

    def retry(self) -> None:
        """Note that a request failed and is made again."""
        self._retries += 1
        self._tell(self._last)

    @contextlib.contextmanager
    def failing(self, name: str) -> Iterator[None]:
        """Note an error of one file in the block and go on; see :meth:`fail_alone`."""
        try:
            yield
        except (AsyncStoreError, FileError) as error:
            self.fail_alone(name, error)

    def fail_alone(self, name: str, error: AsyncStoreError | FileError) -> None:
        """Note an error as that of one file; raise one that would stop every file."""
        if isinstance(error, FileError):
            if error.concerns_all:
                self._add_note(error.error)
                raise error.error from error.error.__cause__
            error = error.error
        elif isinstance(error, HOPELESS):
            self._add_note(error)
            raise error
        self.fail(name, error)

    def finish(self, verb: str, where: str, *, same: Iterable[str] = ()) -> None:
        """
        Raise :class:`TransferError` if any file failed.

        Args:
            verb: what was going on.
            where: to or from where.
            same: names of what :meth:`add_same` was told of.

        Raises:
            TransferError: with everything that is known of each file.
        """
        if not self._failed:
            return
        skipped = sorted([*self._skipped, *same]) if self._same else self._skipped
        failed = {f"{self._folder}{name}": error for name, error in self._failed.items()}
        shown = [f"{name!r}: {error}" for name, error in list(failed.items())[:_SHOWN]]
        more = len(failed) - len(shown)
        raise TransferError(
            f"{len(failed)} of {self._total} files failed to {verb} {where}, the others are done: "
            f"{'; '.join(shown)}{f'; and {more} more' if more else ''}",
            done=[self._folder + name for name in self._done],
            skipped=[self._folder + name for name in skipped],
            failed=failed,
        )

    def _add_note(self, error: AsyncStoreError) -> None:
        done = len(self._done) + len(self._skipped) + self._same
        error.add_note(f"{done} of {self._total} files were done before")

    def _settle(self, name: str) -> None:
        self._bytes_done += self._sizes.get(name, 0) - self._partly.pop(name, 0)
        self._tell(name)

    def _tell(self, name: str) -> None:
        self._last = name
        if self._on_progress is None:
            return
        skipped, failed = len(self._skipped) + self._same, len(self._failed)
        self._on_progress(
            TransferProgress(
                self._folder + name if name else "",
                len(self._done) + skipped + failed,
                self._total,
                self._bytes_done,
                self._bytes_total,
                skipped,
                failed,
                self._retries,
            )
        )
