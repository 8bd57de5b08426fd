"""
Cursors of a watch: which version of which fragment has been seen. Pure.

A position in time would skip fragments that land late, so a cursor holds which version was seen of every fragment:
exact on every backend, and about 22 characters of text for each fragment of the run.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import blake2b
from typing import TYPE_CHECKING

from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from asyncstore.runlog.fragments import Fragment

__all__ = ["Cursor"]

POLL_FASTEST_S = 0.1
POLL_SLOWEST_S = 5.0

_WIDTH = 8


class Cursor:
    """The version seen of each of one run's fragments."""

    def __init__(self, run_id: str) -> None:
        self._run = blake2b(run_id.encode(), digest_size=_WIDTH).digest()
        self._versions: dict[bytes, bytes] = {}

    @classmethod
    def parse(cls, text: str | None, run_id: str) -> Cursor:
        """
        Read what :meth:`text` wrote; ``None`` is the beginning.

        Raises:
            ConfigurationError: it is no cursor, or one of another run.
        """
        cursor = cls(run_id)
        if text is None:
            return cursor
        try:
            raw = base64.b64decode(text.encode(), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error) as error:
            raise ConfigurationError("this is not a cursor that watch gave out") from error
        pairs = raw[_WIDTH:]
        if len(pairs) % (2 * _WIDTH) or raw[:_WIDTH] != cursor._run:
            raise ConfigurationError(f"this is not a cursor of run {run_id!r}")
        for start in range(0, len(pairs), 2 * _WIDTH):
            cursor._versions[pairs[start : start + _WIDTH]] = pairs[start + _WIDTH : start + 2 * _WIDTH]
        return cursor

    def text(self) -> str:
        """Write the cursor as URL-safe text."""
        pairs = b"".join(key + version for key, version in self._versions.items())
        return base64.urlsafe_b64encode(self._run + pairs).decode()

    def is_new(self, fragment: Fragment) -> bool:
        """Tell whether this version of the fragment has not been seen."""
        return self._versions.get(_key_digest(fragment)) != fragment.version

    def add(self, fragment: Fragment) -> None:
        """Note this version of the fragment as seen, in place of the one before."""
        self._versions[_key_digest(fragment)] = fragment.version


def _key_digest(fragment: Fragment) -> bytes:
    key = "\x00".join((fragment.kind, fragment.scope, fragment.name))
    return blake2b(key.encode(), digest_size=_WIDTH).digest()
