"""
Cursors of a watch: which version of which fragment has been seen. Pure.

A position in time would skip fragments that land late, so a cursor is the set of all versions seen, 8 bytes each: exact
on every backend, and about 11 characters of text for each fragment of the run.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from hashlib import blake2b
from typing import TYPE_CHECKING

from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from asyncstore.runlog.fragments import Fragment, FragmentKey

__all__ = ["Cursor"]

POLL_FASTEST_S = 0.1
POLL_SLOWEST_S = 5.0

_WIDTH = 8


class Cursor:
    """The versions seen of one run's fragments."""

    def __init__(self, run_id: str, versions: set[bytes]) -> None:
        self._run = blake2b(run_id.encode(), digest_size=_WIDTH).digest()
        self._versions = versions
        self._by_key: dict[FragmentKey, bytes] = {}

    @classmethod
    def parse(cls, text: str | None, run_id: str) -> Cursor:
        """
        Read what :meth:`text` wrote; ``None`` is the beginning.

        Raises:
            ConfigurationError: it is no cursor, or one of another run.
        """
        cursor = cls(run_id, set())
        if text is None:
            return cursor
        try:
            raw = zlib.decompress(base64.urlsafe_b64decode(text.encode()))
        except (ValueError, binascii.Error, zlib.error) as error:
            raise ConfigurationError("this is not a cursor that watch gave out") from error
        if len(raw) % _WIDTH or raw[:_WIDTH] != cursor._run:
            raise ConfigurationError(f"this is not a cursor of run {run_id!r}")
        cursor._versions = {raw[start : start + _WIDTH] for start in range(_WIDTH, len(raw), _WIDTH)}
        return cursor

    def text(self) -> str:
        """Write the cursor as URL-safe text."""
        return base64.urlsafe_b64encode(zlib.compress(self._run + b"".join(sorted(self._versions)), 1)).decode()

    def is_new(self, fragment: Fragment) -> bool:
        """Tell whether this version of the fragment has not been seen."""
        version = fragment.version
        if version in self._versions:
            self._by_key[fragment.key] = version
            return False
        return True

    def add(self, fragment: Fragment) -> None:
        """Note this version of the fragment as seen, in place of the one before."""
        old = self._by_key.get(fragment.key)
        if old is not None:
            self._versions.discard(old)
        self._by_key[fragment.key] = fragment.version
        self._versions.add(fragment.version)
