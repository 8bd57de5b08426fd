"""Which files are packed, and which come out of packs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.catalog._packed._meta import PackedMeta, located
from asyncstore.catalog._packed._shares import PACKED_BYTES
from asyncstore.catalog._paths import is_marker
from asyncstore.catalog._plan import PlannedFile
from asyncstore.catalog._planning._found import Found

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from asyncstore.catalog._plan import Layout
    from asyncstore.objects.base import ObjectMeta

__all__ = ["goes_packed", "settled", "usable_base"]


def usable_base(
    base: Mapping[str, ObjectMeta], existing: Mapping[str, ObjectMeta], layout: Layout
) -> Mapping[str, ObjectMeta]:
    """Return what may be copied of a base run: a file in a pack only into a pack."""
    found = Found.of(base)
    if not found.packed:
        return base
    packing = layout == "packed"
    return found.only(lambda name: name not in found.packed or (packing and not _is_alone(existing.get(name))))


def settled(
    files: Iterable[PlannedFile], sources: Mapping[str, ObjectMeta], existing: Mapping[str, ObjectMeta], layout: Layout
) -> list[PlannedFile]:
    """
    Return planned files with where they come from, and whether they are packed.

    What is an object of its own stays one, as such an object counts before a packed file of its name.

    Args:
        files: as they were decided.
        sources: what is copied, by name.
        existing: what the target has, by name.
        layout: how uploaded files are stored.
    """
    return [_settled(file, sources.get(file.name), existing.get(file.name), layout) for file in files]


def goes_packed(file: PlannedFile, layout: Layout) -> bool:
    """Tell whether a file that is uploaded or copied goes into a pack."""
    if file.plain:
        return False
    return bool(file.pack) if file.action == "copy" else layout == "packed" and file.size_bytes <= PACKED_BYTES


def _settled(file: PlannedFile, source: ObjectMeta | None, there: ObjectMeta | None, layout: Layout) -> PlannedFile:
    if file.action == "upload":
        return file._replace(plain=True) if layout == "packed" and _is_alone(there) else file
    if file.action != "copy" or type(source) is not PackedMeta:
        return file
    if there is not None and is_marker(file.name):
        return PlannedFile(file.name, "skip", 0, "the empty folder is known")
    found = located(file, source)
    return found._replace(plain=True) if _is_alone(there) else found


def _is_alone(meta: ObjectMeta | None) -> bool:
    return meta is not None and type(meta) is not PackedMeta
