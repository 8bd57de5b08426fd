"""
Everything that asyncstore raises, in families by what the caller can do about it.

Foreign errors (botocore, obstore, SQLAlchemy, asyncpg, sqlite3, OSError) are translated where they enter, by one table
per adapter, and stay reachable as ``__cause__``. Messages say what was asked, where, and what to do next; they never
hold a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "AccessDeniedError",
    "AccessModeError",
    "AlreadyExistsError",
    "AsyncStoreError",
    "BranchLogNotFoundError",
    "ClosedError",
    "ConfigurationError",
    "ConflictError",
    "CredentialsError",
    "IntegrityError",
    "InvalidValueError",
    "JobLogNotFoundError",
    "NotFoundError",
    "OutcomeUnknownError",
    "RunLogExistsError",
    "RunLogNotFoundError",
    "StepLogNotFoundError",
    "TransferError",
    "UnavailableError",
    "UnsafePathError",
]


class AsyncStoreError(Exception):
    """The root of every error that asyncstore raises on purpose."""


class ConfigurationError(AsyncStoreError, ValueError):
    """The configuration is wrong or incomplete: mend it, retrying cannot help."""


class InvalidValueError(AsyncStoreError, ValueError):
    """A value or name that cannot be stored faithfully on every backend: NUL, NaN, a lone surrogate, too large."""


class NotFoundError(AsyncStoreError, FileNotFoundError):
    """What was asked for is not there, and the storage was reachable enough to know."""

    # OSError fills __str__ from errno and strerror; our message is the only argument.
    def __str__(self) -> str:
        return str(self.args[0]) if self.args else type(self).__doc__ or ""


class RunLogNotFoundError(NotFoundError):
    """No run of that id is in this store."""

    def __init__(self, run_id: str, where: str = "") -> None:
        super().__init__(f"run log {run_id!r} not found{_in(where)}")
        self.run_id = run_id
        self.where = where

    def __reduce__(self) -> tuple[type[RunLogNotFoundError], tuple[str, str]]:
        return type(self), (self.run_id, self.where)


class StepLogNotFoundError(NotFoundError):
    """The run is there, but no step of that internal name."""

    def __init__(self, run_id: str, step_name: str, where: str = "") -> None:
        super().__init__(f"step log {step_name!r} of run {run_id!r} not found{_in(where)}")
        self.run_id = run_id
        self.step_name = step_name
        self.where = where

    def __reduce__(self) -> tuple[type[StepLogNotFoundError], tuple[str, str, str]]:
        return type(self), (self.run_id, self.step_name, self.where)


class BranchLogNotFoundError(NotFoundError):
    """The run is there, but no branch of that internal name."""

    def __init__(self, run_id: str, branch_name: str, where: str = "") -> None:
        super().__init__(f"branch log {branch_name!r} of run {run_id!r} not found{_in(where)}")
        self.run_id = run_id
        self.branch_name = branch_name
        self.where = where

    def __reduce__(self) -> tuple[type[BranchLogNotFoundError], tuple[str, str, str]]:
        return type(self), (self.run_id, self.branch_name, self.where)


class JobLogNotFoundError(NotFoundError):
    """The run is there, but it has no job log."""

    def __init__(self, run_id: str, where: str = "") -> None:
        super().__init__(f"job log of run {run_id!r} not found{_in(where)}")
        self.run_id = run_id
        self.where = where

    def __reduce__(self) -> tuple[type[JobLogNotFoundError], tuple[str, str]]:
        return type(self), (self.run_id, self.where)


class AlreadyExistsError(AsyncStoreError):
    """Something of that name is there already, and the call promised not to replace it."""


class RunLogExistsError(AlreadyExistsError):
    """A run of that id exists: choose another id, or delete the old run first."""

    def __init__(self, run_id: str, where: str = "") -> None:
        super().__init__(f"run log {run_id!r} already exists{_in(where)}")
        self.run_id = run_id
        self.where = where

    def __reduce__(self) -> tuple[type[RunLogExistsError], tuple[str, str]]:
        return type(self), (self.run_id, self.where)


class ConflictError(AsyncStoreError):
    """Somebody else changed it since it was read: read again and decide anew."""


class AccessDeniedError(AsyncStoreError):
    """The storage knows who asks and refuses: a permission is missing."""


class AccessModeError(AccessDeniedError):
    """The configuration says that this store is not to be read, or not to be written; no request was made."""


class CredentialsError(AsyncStoreError):
    """No credentials were found, or the storage does not accept those given."""


class UnavailableError(AsyncStoreError):
    """
    The storage could not be reached or could not serve the request now: worth retrying later.

    Attributes:
        answer_lost: the request was sent and no answer came, so the storage may have done it all the same.
        throttled: the storage has refused it because too many come at once (S3's SlowDown); with fewer it will do.
    """

    answer_lost = False
    throttled = False


class OutcomeUnknownError(AsyncStoreError):
    """The answer was lost and nothing can tell whether the write landed; ``key`` says where to look."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key

    def __reduce__(self) -> tuple[type[OutcomeUnknownError], tuple[str, str]]:
        return type(self), (str(self.args[0]), self.key)


class IntegrityError(AsyncStoreError):
    """Bytes differ from their checksum or length: what arrived is not what was stored."""


class UnsafePathError(AsyncStoreError, ValueError):
    """A name that would leave its folder, or that no file system can hold faithfully."""


class ClosedError(AsyncStoreError):
    """The object is not open: enter it with ``async with``, and use it on the loop and in the process of opening."""


class TransferError(AsyncStoreError):
    """
    Some files of a transfer failed; the others are done.

    Attributes:
        done: names transferred, in the order they finished.
        skipped: names that were there already, unchanged.
        failed: name → the error that stopped it.
    """

    def __init__(
        self, message: str, *, done: Sequence[str] = (), skipped: Sequence[str] = (), failed: Mapping[str, Exception]
    ) -> None:
        super().__init__(message)
        self.done = tuple(done)
        self.skipped = tuple(skipped)
        self.failed = dict(failed)


def _in(where: str) -> str:
    return f" in {where}" if where else ""
