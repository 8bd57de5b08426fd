"""
Cursors of a watch: which version of which fragment has been seen. Pure.

A position in time would skip fragments that land late, so a cursor holds which version was seen of every fragment:
exact on every backend, and about 22 characters of text for each fragment of the run.
"""

from __future__ import annotations

import base64
import binascii
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from asyncstore.runlog.fragments import Fragment

__all__ = ["Cursor"]

POLL_FASTEST_S = 0.1
POLL_SLOWEST_S = 5.0

_WIDTH = 8
_HISTORY_LEAST = 1000


class Cursor:
    """The version seen of each of one run's fragments."""

    def __init__(self, run_id: str) -> None:
        self._run = blake2b(run_id.encode(), digest_size=_WIDTH).digest()
        self._versions: dict[bytes, bytes] = {}
        self._history: list[tuple[bytes, bytes]] = []

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
            cursor._note(pairs[start : start + _WIDTH], pairs[start + _WIDTH : start + 2 * _WIDTH])
        return cursor

    def text(self) -> str:
        """Write the cursor as URL-safe text."""
        return _text(self._run, self._versions)

    def here(self) -> Callable[[], str]:
        """Return what writes the cursor as it is now, also later on: the texts are long, and most never asked for."""
        return partial(_text_at, self._run, self._history, len(self._history))

    def is_new(self, fragment: Fragment) -> bool:
        """Tell whether this version of the fragment has not been seen."""
        return self._versions.get(_key_digest(fragment)) != fragment.version

    def add(self, fragment: Fragment) -> None:
        """Note this version of the fragment as seen, in place of the one before."""
        self._note(_key_digest(fragment), fragment.version)

    def _note(self, key: bytes, version: bytes) -> None:
        self._versions[key] = version
        self._history.append((key, version))
        if len(self._history) > 2 * len(self._versions) + _HISTORY_LEAST:
            # A new list, for the old one is still read by positions that were given out.
            self._history = list(self._versions.items())


def _text_at(run: bytes, history: Sequence[tuple[bytes, bytes]], length: int) -> str:
    return _text(run, dict(history[:length]))


def _text(run: bytes, versions: Mapping[bytes, bytes]) -> str:
    pairs = b"".join(key + version for key, version in versions.items())
    return base64.urlsafe_b64encode(run + pairs).decode()


def _key_digest(fragment: Fragment) -> bytes:
    key = "\x00".join((fragment.kind, fragment.scope, fragment.name))
    return blake2b(key.encode(), digest_size=_WIDTH).digest()
