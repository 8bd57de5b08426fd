"""Whether packed files are what was put: every one read again and hashed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from asyncstore._core.threads import in_stoppable_thread, in_thread
from asyncstore.catalog._local._land import check_digest
from asyncstore.catalog._metadata import DIGEST_KEY
from asyncstore.catalog._packed._read import PIECES_AT_ONCE, bytes_of, digest_of, piece_read
from asyncstore.catalog._packed._shares import pieces
from asyncstore.catalog._packed._turns import all_of, fail_all, in_turns
from asyncstore.errors import AsyncStoreError, ClosedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore._core.threads import Stop
    from asyncstore.catalog._moving._lane import Passage
    from asyncstore.catalog._moving._tally import Tally
    from asyncstore.catalog._packed._meta import PackedMeta
    from asyncstore.catalog._packed._shares import Piece
    from asyncstore.catalog._paths import Place

__all__ = ["PackedVerification"]


class PackedVerification:
    """
    Reads packed files and compares them.

    Args:
        passage: the way to the store.
        place: where the files are.
        tally: told of each file; its failures are the report's.
    """

    def __init__(self, passage: Passage, place: Place, tally: Tally) -> None:
        self._passage = passage
        self._place = place
        self._tally = tally
        self.verified: list[str] = []

    async def run(self, metas: Sequence[PackedMeta]) -> None:
        """Verify all files."""
        await self._compare([meta for meta in metas if not meta.size_bytes], digest_of(memoryview(b"")))
        found = await in_thread(pieces, [meta for meta in metas if meta.size_bytes])
        await all_of([partial(self._verify, piece) for piece in found], limit=PIECES_AT_ONCE)

    async def _verify(self, piece: Piece[PackedMeta]) -> None:
        try:
            async with piece_read(self._passage, piece) as (buffer, _):
                digests = await in_stoppable_thread(partial(_digests, piece, buffer))
        except AsyncStoreError as error:
            fail_all(self._tally, [self._place.name_of(meta.key) for meta in piece.files], error)
        else:
            for meta, digest in zip(piece.files, digests, strict=True):
                await self._compare([meta], digest)

    async def _compare(self, metas: Sequence[PackedMeta], digest: str) -> None:
        async for meta in in_turns(metas):
            name = self._place.name_of(meta.key)
            with self._tally.failing(name):
                check_digest(name, digest, meta.metadata[DIGEST_KEY])
                self.verified.append(name)
                self._tally.done(name)


def _digests(piece: Piece[PackedMeta], buffer: memoryview, stop: Stop) -> list[str]:
    found = []
    for meta in piece.files:
        if stop():
            raise ClosedError("hashing was given up")
        found.append(digest_of(bytes_of(meta, piece, buffer)))
    return found
