"""What callers are told of files: one entry for each."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Literal, TypeAlias

from asyncstore._core.instances import instances
from asyncstore.models import DataCatalog

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from asyncstore.catalog._paths import Place

__all__ = ["Entries", "Stage", "entries_of"]

Entries: TypeAlias = list[DataCatalog]
Stage: TypeAlias = Literal["get", "put"]

_FIELDS = {"name", "data_hash", "catalog_relative_path", "catalog_handler_location", "stage"}


def entries_of(place: Place, names: Iterable[str], digests: Mapping[str, str], stage: Stage, location: str) -> Entries:
    """
    Return the entries of files of a place.

    Args:
        place: where they lie in the catalog.
        names: of the files, in the order that is wanted.
        digests: their SHA-256, by name.
        stage: how they came to be there.
        location: of the catalog.
    """
    run_id, folder = place.run_id, place.folder
    fields = [
        {
            "name": (full_name := folder + name),
            "data_hash": digests[name],
            "catalog_relative_path": f"{run_id}/{full_name}",
            "catalog_handler_location": location,
            "stage": stage,
        }
        for name in names
    ]
    # All are our own, so nothing is to be checked; and each set of names would take as much room as the values.
    slots: dict[str, Iterable[object]] = {
        "__dict__": fields,
        "__pydantic_extra__": [{} for _ in fields],
        "__pydantic_fields_set__": repeat(_FIELDS),
        "__pydantic_private__": repeat(None),
    }
    return instances(DataCatalog, len(fields), slots)
