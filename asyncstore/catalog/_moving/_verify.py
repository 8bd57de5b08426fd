"""Whether what a run has in the catalog is what was put: every object read again and hashed."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncstore._core.traffic import charge_down
from asyncstore.catalog._metadata import stored_digest
from asyncstore.catalog._moving._crew import SmallMoves
from asyncstore.catalog._moving._mover import Mover
from asyncstore.catalog._plan import SMALL_BYTES, ranges
from asyncstore.errors import IntegrityError
from asyncstore.objects.small import SmallGet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.catalog._moving._lane import Passage
    from asyncstore.catalog._moving._tally import Tally
    from asyncstore.catalog._paths import Place
    from asyncstore.objects.base import ObjectMeta

__all__ = ["Verification", "VerifyReport"]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What became of each file, ``<compute data folder>/<relative path>``."""

    verified: list[str] = field(default_factory=list)
    """Whose bytes have the SHA-256 that was stored with them."""
    unverifiable: list[str] = field(default_factory=list)
    """That were stored without one: a folder's, or another tool's."""
    failed: dict[str, Exception] = field(default_factory=dict)
    """Whose bytes have another one, or could not be read."""

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed


class Verification:
    """
    Reads objects and compares them.

    Args:
        passage: the way to the store.
        place: where the objects are.
        tally: told of each file; its failures are the report's.
    """

    def __init__(self, passage: Passage, place: Place, tally: Tally) -> None:
        self._passage = passage
        self._place = place
        self._tally = tally
        self.verified: list[str] = []
        self.unverifiable: list[str] = []

    async def run(self, metas: Sequence[ObjectMeta]) -> None:
        """Verify all objects."""
        small: SmallMoves[ObjectMeta, tuple[ObjectMeta, str]] = SmallMoves(
            hands=lambda _: nullcontext(self),
            note=lambda _, hashed: self._compare(*hashed),
            name_of=self._name_of,
            charge=charge_down,
        )
        await Mover(self._passage, self._tally, small, self._verify_large).run(metas)

    def begin(self, listed: ObjectMeta) -> SmallGet:
        """Ask for a small object; see :class:`Hands`."""
        return SmallGet(listed.key, SMALL_BYTES)

    def end(self, _: ObjectMeta, __: SmallGet, answer: tuple[ObjectMeta, bytes | memoryview]) -> tuple[ObjectMeta, str]:
        """Hash it; see :class:`Hands`."""
        meta, data = answer
        return meta, hashlib.sha256(data).hexdigest()

    async def _verify_large(self, listed: ObjectMeta) -> None:
        meta = await self._passage.lane.head(listed.key)
        digest = hashlib.sha256()
        for start, end in ranges(meta.size_bytes):
            await self._passage.lane.store.read_into(
                meta.key,
                (start, end),
                lambda block, _: digest.update(block),
                etag=meta.etag,
                transfer=self._passage.downloads(),
            )
            self._tally.advance(self._name_of(listed), end - start)
        self._compare(meta, digest.hexdigest())

    def _compare(self, meta: ObjectMeta, digest: str) -> None:
        name, expected = self._name_of(meta), stored_digest(meta)
        if expected and digest != expected:
            raise IntegrityError(f"{name!r} is not what was put: its SHA-256 is {digest}, and should be {expected}")
        (self.verified if expected else self.unverifiable).append(name)
        self._tally.done(name)

    def _name_of(self, meta: ObjectMeta) -> str:
        return self._place.name_of(meta.key)
