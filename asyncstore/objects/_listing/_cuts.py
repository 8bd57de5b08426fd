"""
Where a listing may be cut into ranges of keys, that are then asked for at the same time.

Any keys will do where a server lists in their order, as each range ends where the next one begins. Good ones lie
between folders, and a listing by folders tells of up to a thousand of those in one answer, however much they hold.
"""

from __future__ import annotations

from itertools import accumulate, takewhile
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["cuts_between", "folders_around"]

RANGE_KEYS = 900
"""What a range is to hold at least: nearly a page, as what an answer holds beyond its range is of no use."""

MOST_LEVELS = 4


def folders_around(keys: Sequence[str], prefix: str) -> list[str]:
    """
    Return the innermost folders, from the outer to the inner ones, that hold all of a page and folders themselves.

    Args:
        keys: the page's, in order; at least one.
        prefix: of the listing, which is the outermost folder.
    """
    first, last = (key[len(prefix) :].split("/")[:-1] for key in (keys[0], keys[-1]))
    shared = [one for one, other in takewhile(lambda both: both[0] == both[1], zip(first, last, strict=False))]
    folders = list(accumulate((f"{name}/" for name in shared), initial=prefix))
    if not any("/" in key[len(folders[-1]) :] for key in keys):
        folders.pop()
    return folders[-MOST_LEVELS:]


def cuts_between(folder: str, subfolders: Sequence[str], keys: Sequence[str], end: str, *, most: int) -> list[str]:
    """
    Return keys that cut what lies behind a page, in one folder, into ranges of about the same size.

    Args:
        folder: the one, in which the page lies.
        subfolders: its own, as far as they are known.
        keys: the page's, in order.
        end: the last key that matters, empty if all do.
        most: most ranges.
    """
    behind = [sub for sub in subfolders if sub > keys[-1] and (not end or sub < end)]
    begun = {key[len(folder) :].partition("/")[0] for key in keys}
    # The page may show a small part only of a folder that fills it.
    keys_each = len(keys) / (len(begun) - 1) if len(begun) > 1 else RANGE_KEYS
    count = 1 + len(behind)
    ranges = min(most, count, ceil(count * keys_each / RANGE_KEYS))
    return [behind[number * count // ranges - 1] for number in range(1, ranges)]
