"""Which files share a pack, and which bytes of packs are read together. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from asyncstore.catalog._plan import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncstore.catalog._plan import PlannedFile

__all__ = ["GAP_BYTES", "PACKED_BYTES", "PACK_BYTES", "PIECE_BYTES", "Packed", "Piece", "packs_of", "pieces"]

PACKED_BYTES = 4 * MIB
"""Files up to this size are packed."""

PACK_BYTES = 16 * MIB
"""How large packs become at most: what one request sends whole, and so that three of them fit in memory at once."""

GAP_BYTES = 256 * 1024
"""To read so much in vain is cheaper than another request."""

PIECE_BYTES = 8 * MIB
"""How much one request reads."""


class Packed(Protocol):
    """What lies in a pack."""

    @property
    def pack(self) -> str:
        """Key of the pack."""
        ...

    @property
    def offset(self) -> int:
        """Where it begins there."""
        ...

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        ...


P = TypeVar("P", bound=Packed)


@dataclass(frozen=True, slots=True)
class Piece(Generic[P]):
    """A part of a pack that one request reads, and the files in it."""

    pack: str
    """Key of the pack."""
    start: int
    end: int
    """Exclusive."""
    files: Sequence[P]

    @property
    def size_bytes(self) -> int:
        """How much it is."""
        return self.end - self.start


def packs_of(files: Sequence[PlannedFile], limit_bytes: int = PACK_BYTES) -> Iterator[list[PlannedFile]]:
    """Cut files, in their order, into packs of at most ``limit_bytes``, but at least a file each."""
    pack: list[PlannedFile] = []
    filled = 0
    for file in files:
        if pack and filled + file.size_bytes > limit_bytes:
            yield pack
            pack, filled = [], 0
        pack.append(file)
        filled += file.size_bytes
    if pack:
        yield pack


def pieces(files: Sequence[P], *, gap_bytes: int = GAP_BYTES, limit_bytes: int = PIECE_BYTES) -> list[Piece[P]]:
    """
    Return what to read so that each of the files, none of them empty, is in one piece.

    Neighbours share a piece if less than ``gap_bytes`` lie between them and it does not become larger than
    ``limit_bytes``; files that share bytes always do. A file that is larger is a piece by itself.
    """
    found: list[Piece[P]] = []
    group: list[P] = []
    pack, start, end = "", 0, 0
    for file in sorted(files, key=attrgetter("pack", "offset")):
        file_end = file.offset + file.size_bytes
        near = group and file.pack == pack and file.offset - end <= gap_bytes
        if near and (max(end, file_end) - start <= limit_bytes or file_end <= end):
            group.append(file)
            end = max(end, file_end)
            continue
        if group:
            found.append(Piece(pack, start, end, group))
        group, pack, start, end = [file], file.pack, file.offset, file_end
    if group:
        found.append(Piece(pack, start, end, group))
    return found
