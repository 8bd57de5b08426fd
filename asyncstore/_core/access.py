"""Access modes: what a configuration allows to be done with a store, whatever the storage itself would allow."""

from __future__ import annotations

from dataclasses import dataclass, field

from asyncstore._core.resource import Resource
from asyncstore.errors import AccessModeError, InvalidValueError

__all__ = ["UNRESTRICTED", "Access", "Guarded"]


@dataclass(frozen=True, slots=True)
class Access:
    """
    Whether a store may be read, and whether it may be written.

    To read is to be told what is stored; to write is to add, replace or delete. What a write itself needs to look at, a
    store that may only be written looks at.
    """

    allow_read: bool = True
    allow_write: bool = True
    whose: str = field(default="this store", compare=False)
    """What allows it, for messages."""

    def require(self, *, read: bool = False, write: bool = False) -> None:
        """
        Check that reading, writing or both are allowed.

        Raises:
            AccessModeError: one of them is not.
        """
        if read and not self.allow_read:
            raise AccessModeError(f"{self.whose} does not allow reading: allow_read is false")
        if write and not self.allow_write:
            raise AccessModeError(f"{self.whose} does not allow writing: allow_write is false")

    def __str__(self) -> str:
        if self.allow_read and self.allow_write:
            return "read and write"
        return "read only" if self.allow_read else "write only"


UNRESTRICTED = Access()


class Guarded(Resource):
    """
    A resource with an access mode; each public method that reaches the storage begins with one of the two checks.

    A refused call has made no request.
    """

    _access = UNRESTRICTED

    @property
    def access(self) -> Access:
        """What may be done with it."""
        return self._access

    def restrict(self, access: Access) -> None:
        """
        Set what may be done with it, before it is opened: opening writes nothing where writing is not allowed.

        Raises:
            InvalidValueError: it is open, or was, so that whoever has it could allow himself more.
        """
        if self._state != "new" or (self._opening is not None and self._opening.locked()):
            raise InvalidValueError(f"{type(self).__name__} can be restricted only before it is opened")
        self._access = access

    def _check_readable(self) -> None:
        self._check_open()
        self._access.require(read=True)

    def _check_writable(self) -> None:
        self._check_open()
        self._access.require(write=True)
