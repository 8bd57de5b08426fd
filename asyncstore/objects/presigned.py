"""What others are given to move an object themselves: links, and forms for browsers. Secret as long as they live."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from asyncstore.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ["ANY_TYPE", "PresignedPost", "PresignedUrl"]

ANY_TYPE = "*/*"
"""A pattern of content types that leaves them to the uploader."""

_UNKNOWN_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class PresignedUrl:
    """
    A link: one method on one object, for whoever has the link, until it ends.

    What it leads to is as secret as the link itself, which is why the link shows in no ``repr``.
    """

    method: Literal["GET", "PUT"]
    url: str = field(repr=False)
    location: str
    """The object, ``s3://<bucket>/<key>``."""
    expires_at: datetime
    """When it ceases to work, UTC; never after the credentials that signed it, as far as these say when they end."""
    shortened: bool = False
    """Whether that is sooner than was asked for, because the credentials end."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What has to be sent with it, exactly so; besides ``Content-Length``, which every client sends by itself."""


@dataclass(frozen=True, slots=True)
class PresignedPost:
    """
    A form for uploads from browsers: a ``POST`` as ``multipart/form-data`` to :attr:`url`.

    It holds the fields of one of :attr:`forms`, and after them the file in a field ``file``.
    """

    url: str
    """The bucket's; it holds no secret."""
    location: str
    """What the objects' names begin with, or the only name there may be: ``s3://<bucket>/<key>``."""
    expires_at: datetime
    """When it ceases to work, UTC; never after the credentials that signed it, as far as these say when they end."""
    shortened: bool = False
    """Whether that is sooner than was asked for, because the credentials end."""
    forms: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    """Fields by the content type that they allow, such as ``text/csv``, ``image/*`` or ``*/*``."""

    @property
    def fields(self) -> dict[str, str]:
        """
        The fields of the one form there is.

        Raises:
            InvalidValueError: there are several, of different content types: :meth:`fields_for` chooses.
        """
        if len(self.forms) > 1:
            raise InvalidValueError(f"there is a form for each of {', '.join(self.forms)}: choose by fields_for()")
        return dict(next(iter(self.forms.values())))

    def fields_for(self, content_type: str) -> dict[str, str]:
        """
        Return the fields for a file of a content type; empty means that it is not known.

        Raises:
            InvalidValueError: no form allows it.
        """
        wanted = content_type or _UNKNOWN_TYPE
        for pattern in (wanted, f"{wanted.partition('/')[0]}/*", ANY_TYPE):
            if pattern in self.forms and "," not in wanted:
                return {**self.forms[pattern], "Content-Type": wanted}
        raise InvalidValueError(f"content type {wanted!r} is not among {', '.join(self.forms)}")
