"""Whether what a run has in the catalog is what was put: every object read again and hashed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncstore._core.traffic import charge_down
from asyncstore.catalog._metadata import stored_digest
from asyncstore.catalog._mover import Mover, Outcome
from asyncstore.catalog._plan import SMALL_BYTES, ranges
from asyncstore.errors import AsyncStoreError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.catalog._lane import Passage
    from asyncstore.catalog._paths import Place
    from asyncstore.catalog._tally import Tally
    from asyncstore.objects.base import BlockingObjects, ObjectMeta

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
        mover = Mover(
            self._passage,
            self._tally,
            name_of=self._name_of,
            charge=charge_down,
            move=_hash,
            note=lambda _, hashed: self._compare(*hashed),
            move_large=self._verify_large,
        )
        await mover.run(metas)

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


def _hash(listed: ObjectMeta, objects: BlockingObjects) -> Outcome[tuple[ObjectMeta, str]]:
    try:
        meta, data = objects.get(listed.key, SMALL_BYTES)
    except AsyncStoreError as error:
        return error
    return meta, hashlib.sha256(data).hexdigest()
