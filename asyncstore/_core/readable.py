"""Text for people: names that can be said aloud, and what went wrong in one line."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

__all__ = ["describe_error", "readable_id"]

MESSAGE_LIMIT = 4000
"""Longest description of an error in characters; what is beyond is cut."""

LEAVES_SHOWN = 3
"""Most errors of a group that its description names."""

_QUALITIES = (
    "amber bold brisk calm clear coral deft early fair fleet fond glad keen kind lucid mild neat plain quick quiet"
)
_CREATURES = "badger crane dove finch fox hare heron ibex jay kite lark lynx mole newt otter owl robin seal swift wren"


def readable_id(now: datetime | None = None) -> str:
    """Return a new name like ``20261121-140312-calm-otter-3f9a``; names sort by time (UTC, to the second)."""
    now = now or datetime.now(UTC)
    words = f"{secrets.choice(_QUALITIES.split())}-{secrets.choice(_CREATURES.split())}"
    return f"{now:%Y%m%d-%H%M%S}-{words}-{secrets.token_hex(2)}"


def describe_error(error: BaseException) -> str:
    """
    Return ``TypeName: message``, and for a group also its first members; any store can hold the text.

    NUL and lone surrogates are escaped, and over-long messages are cut.
    """
    text = _name_and_message(error)
    if isinstance(error, BaseExceptionGroup):
        leaves = list(_leaves(error))
        more = f" and {len(leaves) - LEAVES_SHOWN} more" if len(leaves) > LEAVES_SHOWN else ""
        text = f"{text}: {'; '.join(_name_and_message(leaf) for leaf in leaves[:LEAVES_SHOWN])}{more}"
    text = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]}…"


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending = [*error.exceptions, *pending]
        else:
            leaves.append(error)
    return leaves


def _name_and_message(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be shown)"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
