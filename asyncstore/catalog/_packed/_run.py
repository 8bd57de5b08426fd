"""The packed part of a plan, carried out."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from asyncstore.catalog._packed._decide import goes_packed
from asyncstore.catalog._packed._names import PACKS
from asyncstore.catalog._packed._put import PackedPut
from asyncstore.catalog._packed._turns import all_of
from asyncstore.catalog._packed._unpack import Unpack
from asyncstore.catalog._paths import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncstore.catalog._moving._lane import Passage
    from asyncstore.catalog._moving._tally import Tally
    from asyncstore.catalog._plan import PlannedFile, TransferPlan

__all__ = ["PackedMoves"]


class PackedMoves:
    """
    Does what a plan of a put or a copy between runs says of packed files, and tells what is left to others.

    Args:
        passage: the way to the store.
        place: what the plan's names are relative to.
        tally: told of each file.
        plan: the plan.
        uploads: files that it uploads.
        copies: files that it copies.
    """

    def __init__(
        self,
        passage: Passage,
        place: Place,
        tally: Tally,
        plan: TransferPlan,
        uploads: list[PlannedFile],
        copies: list[PlannedFile],
    ) -> None:
        self._passage = passage
        self._place = place
        self._tally = tally
        self._plan = plan
        self._uploads, self.uploads = _parted(uploads, lambda file: goes_packed(file, plan.layout))
        """Files that go into packs, and others."""
        self._copies, self.copies = _parted(copies, lambda file: bool(file.pack))
        """Files that come out of packs, and others."""
        self.digests: dict[str, str] = {}
        """Of what is in the target now, by name; failures are in the tally."""

    async def run(self) -> None:
        """Move all that go into packs or come out of them."""
        packed = [file for file in self._copies if not file.plain]
        unpack = Unpack(self._passage, self._place, self._tally)
        calls = [partial(unpack.run, [file for file in self._copies if file.plain])]
        puts: list[PackedPut] = []
        if self._plan.kind == "sync":
            for folder, files in self._by_folder(packed).items():
                place = Place(self._place.prefix, self._place.run_id, folder)
                puts.append(PackedPut(self._passage, place, self._tally, prefix=folder))
                calls.append(partial(puts[-1].run, (), files))
        else:
            puts.append(PackedPut(self._passage, self._place, self._tally, top=self._plan.top))
            calls.append(partial(puts[-1].run, self._uploads, packed))
        await all_of(calls, limit=len(calls))
        self.digests |= unpack.digests
        for put in puts:
            self.digests |= put.digests

    def _by_folder(self, files: Sequence[PlannedFile]) -> dict[str, list[PlannedFile]]:
        """Group files by the folder of the run that their packs are of, which stays the same in the other run."""
        found: dict[str, list[PlannedFile]] = {}
        for file in files:
            run_and_folder = file.pack[len(self._place.prefix) :].rpartition(PACKS)[0]
            folder = run_and_folder.partition("/")[2]
            found.setdefault(folder if file.name.startswith(folder) else "", []).append(file)
        return found


def _parted(
    files: Sequence[PlannedFile], chosen: Callable[[PlannedFile], bool]
) -> tuple[list[PlannedFile], list[PlannedFile]]:
    found: tuple[list[PlannedFile], list[PlannedFile]] = ([], [])
    for file in files:
        found[not chosen(file)].append(file)
    return found
