"""Many instances of a class at once."""

from __future__ import annotations

import inspect
from collections import deque
from itertools import repeat
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["instances"]

T = TypeVar("T")


def instances(of: type[T], count: int, slots: Mapping[str, Iterable[object]]) -> list[T]:
    """
    Return instances of a class that keeps its values in slots, as if from pickles: nothing is checked.

    That takes a quarter to a half of what it costs to make them one by one.

    Args:
        of: the class.
        count: how many.
        slots: the values of each of its slots, in the order of the instances; ``repeat(…)`` if all share one.
    """
    found = list(map(object.__new__, repeat(of, count)))
    for name, values in slots.items():
        deque(map(inspect.getattr_static(of, name).__set__, found, values), maxlen=0)
    return found
