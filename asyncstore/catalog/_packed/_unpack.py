"""Packed files that become objects of their own in another run, because that has such an object of their name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from asyncstore._core.threads import in_thread
from asyncstore.catalog._local._land import check_digest
from asyncstore.catalog._metadata import file_metadata
from asyncstore.catalog._packed._fill import MemoryBody
from asyncstore.catalog._packed._read import PIECES_AT_ONCE, digest_of, piece_read
from asyncstore.catalog._packed._shares import Piece
from asyncstore.catalog._packed._turns import all_of
from asyncstore.catalog._paths import is_marker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.catalog._moving._lane import Passage
    from asyncstore.catalog._moving._tally import Tally
    from asyncstore.catalog._paths import Place
    from asyncstore.catalog._plan import PlannedFile

__all__ = ["Unpack"]


class Unpack:
    """
    Reads packed files and puts them as objects.

    Args:
        passage: the way to the store.
        target: where the objects go.
        tally: told of each file.
    """

    def __init__(self, passage: Passage, target: Place, tally: Tally) -> None:
        self._passage = passage
        self._target = target
        self._tally = tally
        self.digests: dict[str, str] = {}
        """Of what is in the target now, by name; failures are in the tally."""

    async def run(self, files: Sequence[PlannedFile]) -> None:
        """Put all files."""
        await all_of([partial(self._move, file) for file in files], limit=PIECES_AT_ONCE)

    async def _move(self, file: PlannedFile) -> None:
        with self._tally.failing(file.name):
            piece = Piece(file.pack, file.offset, file.offset + file.size_bytes, [file])
            async with piece_read(self._passage, piece) as (buffer, transfer):
                digest = await in_thread(digest_of, buffer)
                check_digest(file.name, digest, file.digest)
                body = MemoryBody(file.name, buffer, digest)
                await self._passage.lane.store.put_file(
                    self._target.key(file.name), body, metadata=_metadata(file), transfer=transfer
                )
            if not is_marker(file.name):
                self.digests[file.name] = digest
            self._tally.done(file.name)


def _metadata(file: PlannedFile) -> dict[str, str]:
    return {} if is_marker(file.name) else dict(file_metadata(file, file.digest))
