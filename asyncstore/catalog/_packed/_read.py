"""Pieces of packs read into memory."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from asyncstore._core.memory import room_for
from asyncstore._core.traffic import charge_down

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncstore.catalog._moving._lane import Passage
    from asyncstore.catalog._packed._shares import Packed, Piece
    from asyncstore.objects.base import Transfer

__all__ = ["PIECES_AT_ONCE", "bytes_of", "digest_of", "piece_read"]

PIECES_AT_ONCE = 8
"""Pieces that are read or written out at the same time, as far as there is memory for them."""

_REQUEST_BYTES = 1024 * 1024
"""What a request holds besides its payload."""


@asynccontextmanager
async def piece_read(passage: Passage, piece: Piece[Any]) -> AsyncIterator[tuple[memoryview, Transfer]]:
    """
    Give the bytes of a piece, which count as held until the block ends, and how further requests go meanwhile.

    Raises:
        NotFoundError: the pack is gone.
        IntegrityError: the pack ends before the piece does.
    """
    size_bytes = piece.size_bytes
    async with passage.alone(charge_down(size_bytes, size_bytes + _REQUEST_BYTES), size_bytes) as transfer:
        buffer = room_for(size_bytes)

        def take(block: memoryview, offset: int) -> None:
            at = offset - piece.start
            buffer[at : at + len(block)] = block

        if size_bytes:
            await passage.lane.store.read_into(piece.pack, (piece.start, piece.end), take, transfer=transfer)
        yield buffer, transfer


def bytes_of(file: Packed, piece: Piece[Any], buffer: memoryview) -> memoryview:
    """Return the bytes of a file of a piece that was read into ``buffer``."""
    start = file.offset - piece.start
    return buffer[start : start + file.size_bytes]


def digest_of(data: memoryview) -> str:
    """Return the SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()
