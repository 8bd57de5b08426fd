"""
What a watch is made of: a cursor, which says what has been seen, and a view, which looks.

A position in time would skip fragments that land late, so a cursor holds which version was seen of every fragment:
exact on every backend, and about 22 characters of text for each fragment of the run. So a view may show the same
fragment again: only what it leaves out is lost.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from abc import ABC, abstractmethod
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias

from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from asyncstore.runlog.fragments import Fragment, FragmentKey

__all__ = ["POLL_FASTEST_S", "POLL_SLOWEST_S", "Cursor", "View", "WholeView"]

POLL_FASTEST_S = 0.1
POLL_SLOWEST_S = 5.0

Mark: TypeAlias = tuple[bytes, bytes]
"""Digests of a fragment's key and of its content."""

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
            cursor.add((pairs[start : start + _WIDTH], pairs[start + _WIDTH : start + 2 * _WIDTH]))
        return cursor

    def text(self) -> str:
        """Write the cursor as URL-safe text."""
        return _text(self._run, self._versions)

    def here(self) -> Callable[[], str]:
        """Return what writes the cursor as it is now, also later on: the texts are long, and most never asked for."""
        return partial(_text_at, self._run, self._history, len(self._history))

    def unseen(self, fragments: Iterable[Fragment]) -> list[tuple[Fragment, Mark]]:
        """Return those fragments of which this version has not been seen, each with its mark."""
        marked = ((fragment, (_key_digest(fragment), fragment.version)) for fragment in fragments)
        return [(fragment, mark) for fragment, mark in marked if self._versions.get(mark[0]) != mark[1]]

    def add(self, mark: Mark) -> None:
        """Note this version of the fragment as seen, in place of the one before."""
        key, version = mark
        self._versions[key] = version
        self._history.append((key, version))
        if len(self._history) > 2 * len(self._versions) + _HISTORY_LEAST:
            # A new list, for the old one is still read by positions that were given out.
            self._history = list(self._versions.items())


class View(ABC):
    """What one watch looks at its run with."""

    @abstractmethod
    async def look(self) -> Iterable[Fragment]:
        """
        Return the header, unless there is no such run, and at least what has changed since the look before.

        That is how the run stood at one moment after the call: of two changes, one acknowledged before the other began,
        the later is not seen without the earlier. The first look returns everything.
        """

    async def wait(self, least_s: float, most_s: float) -> None:
        """Wait ``least_s``, and on until there may be something to see, but no longer than ``most_s`` in all."""
        await asyncio.sleep(max(least_s, most_s))

    @abstractmethod
    def close(self) -> None:
        """Note that the watch is over; of a watch that was abandoned this may come late, or never."""


class WholeView(View):
    """
    Looks at the whole run each time.

    Args:
        look: looks at it, given what the look before this one saw.
    """

    def __init__(self, look: Callable[[Mapping[FragmentKey, Fragment]], Awaitable[Sequence[Fragment]]]) -> None:
        self._look = look
        self._known: dict[FragmentKey, Fragment] = {}

    async def look(self) -> Iterable[Fragment]:
        self._known = {fragment.key: fragment for fragment in await self._look(self._known)}
        return self._known.values()

    def close(self) -> None:
        """Nothing is held."""


def _text_at(run: bytes, history: Sequence[tuple[bytes, bytes]], length: int) -> str:
    return _text(run, dict(history[:length]))


def _text(run: bytes, versions: Mapping[bytes, bytes]) -> str:
    pairs = b"".join(key + version for key, version in versions.items())
    return base64.urlsafe_b64encode(run + pairs).decode()


def _key_digest(fragment: Fragment) -> bytes:
    key = "\x00".join((fragment.kind, fragment.scope, fragment.name))
    return blake2b(key.encode(), digest_size=_WIDTH).digest()
