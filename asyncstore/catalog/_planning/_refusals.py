"""What is refused before the first byte moves, beyond what names alone tell."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from asyncstore._core.threads import in_thread
from asyncstore.catalog._local._land import folds_names
from asyncstore.catalog._paths import RESERVED, clashes, fold, is_marker, reserved
from asyncstore.catalog._planning._find import real_files
from asyncstore.catalog._planning._found import Found
from asyncstore.errors import UnsafePathError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from asyncstore.catalog._moving._lane import Lane
    from asyncstore.objects.base import ObjectMeta

__all__ = ["check_beside", "check_folding", "check_root", "check_targets"]


async def check_beside(lane: Lane, names: Iterable[str], existing: Mapping[str, ObjectMeta]) -> None:
    """
    Refuse names that would make one name both a file and a folder of a run.

    Raises:
        UnsafePathError: naming the first such pair.
    """
    mine = set(names)
    found = await in_thread(_clashes_of, mine, existing)
    doubtful = Found.of({one: existing[one] for one, _ in found if one not in mine})
    real = await real_files(lane, doubtful)
    for one, other in found:
        if one in mine or one in real:
            raise UnsafePathError(
                f"nothing was moved: the run would have {one!r} both as a file and as a folder of {other!r}"
            )


def check_folding(root: str, names: Iterable[str]) -> None:
    """Refuse names that differ only in what the file system of ``root`` (a real path) ignores; blocks."""
    clash = next(clashes(names, fold), None)
    if clash is not None and folds_names(root):
        raise UnsafePathError(
            f"nothing was moved: {clash[0]!r} and {clash[1]!r} are one name to the file system of {root!r}"
        )


def check_root(root: str, own: str) -> None:
    """Refuse a compute data folder (a real path) that is asyncstore's own, or lies in the catalog, at ``own``."""
    if reserved(os.path.basename(root)):
        raise UnsafePathError(f"{root!r} cannot be a compute data folder: {RESERVED!r} is asyncstore's own")
    if _within(root, own):
        raise UnsafePathError(f"{root!r} cannot be a compute data folder: it lies in the catalog itself, {own!r}")


def check_targets(root: str, names: Iterable[str], own: str) -> None:
    """Refuse names that a folder or a link in ``root`` leads to what is asyncstore's own; blocks."""
    for folder in {name.rpartition("/")[0] for name in names}:
        parent = os.path.join(root, folder)
        real = os.path.realpath(parent)
        if _within(real, root) and reserved(os.path.relpath(real, root)):
            raise UnsafePathError(f"nothing was moved: {parent!r} leads into a folder {RESERVED!r}, asyncstore's own")
        if _within(real, own):
            raise UnsafePathError(f"nothing was moved: {parent!r} leads into the catalog itself, {own!r}")


def _clashes_of(mine: set[str], existing: Mapping[str, ObjectMeta]) -> list[tuple[str, str]]:
    together = [*mine, *(name for name in existing if name not in mine)]
    return [(one, other) for one, other in clashes(together) if (one in mine or other in mine) and not is_marker(other)]


def _within(path: str, folder: str) -> bool:
    return bool(folder) and f"{path}/".startswith(f"{folder.rstrip('/')}/")
