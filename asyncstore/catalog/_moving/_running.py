"""Plans carried out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from asyncstore._core.concurrency import side_by_side
from asyncstore._core.threads import in_thread
from asyncstore.catalog._local._land import make_root
from asyncstore.catalog._moving._copy import Copy
from asyncstore.catalog._moving._download import Download
from asyncstore.catalog._moving._lane import Passage
from asyncstore.catalog._moving._tally import Tally
from asyncstore.catalog._moving._upload import Upload
from asyncstore.catalog._moving._verify import Verification, VerifyReport
from asyncstore.catalog._packed._get import PackedGet
from asyncstore.catalog._packed._meta import PackedMeta
from asyncstore.catalog._packed._run import PackedMoves
from asyncstore.catalog._packed._verify import PackedVerification
from asyncstore.catalog._paths import Place, check_names, is_marker, reserved
from asyncstore.catalog._planning._find import find, real_files
from asyncstore.catalog._planning._refusals import check_folding
from asyncstore.errors import NotFoundError, UnsafePathError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore.catalog._moving._lane import Lane
    from asyncstore.catalog._moving._tally import ProgressHook
    from asyncstore.catalog._patterns import Matcher
    from asyncstore.catalog._plan import Decided, PlannedFile, TransferPlan

__all__ = ["check_plan", "run_plan", "verify_run"]

_VERBS = {"put": "put into", "get": "get from", "sync": "copy to"}


async def run_plan(
    lane: Lane,
    prefix: str,
    decided: Decided,
    *,
    bytes_s: float | None,
    keep_times: bool,
    on_progress: ProgressHook | None,
) -> dict[str, str]:
    """
    Do what was decided and return the digests of what is there now, by name.

    Raises:
        TransferError: some files failed.
    """
    plan, same = decided.moves, decided.same
    place = Place.of(prefix, plan.run_id, plan.folder)
    files, sizes = await in_thread(lambda: (plan.by_action(), _sizes_of(plan)))
    tally = Tally(sizes, on_progress, folder=place.folder)
    passage = Passage(lane, bytes_s=bytes_s, on_retry=tally.retry)
    digests = {file.name: file.digest for file in files["skip"] if not is_marker(file.name)}
    tally.skip_all(list(digests))
    if same:
        tally.add_same(len(same), await in_thread(_size_of, same), next(reversed(same)))
    if plan.kind == "get":
        digests |= await _get(passage, decided, files["download"], tally, keep_times=keep_times)
    else:
        upload, copy = Upload(passage, place, tally, top=plan.top), Copy(passage, place, tally)
        packed = await in_thread(PackedMoves, passage, place, tally, plan, files["upload"], files["copy"])
        await side_by_side(lambda: upload.run(packed.uploads), lambda: copy.run(packed.copies), packed.run)
        for moved in (upload.digests, copy.digests, packed.digests):
            digests |= moved
    tally.finish(_VERBS[plan.kind], plan.where, same=same)
    digests.update((name, digest) for name, (_, digest) in same.items())
    return digests


def _sizes_of(plan: TransferPlan) -> dict[str, int]:
    """Return the size of each file by name."""
    return {file.name: file.size_bytes for file in plan.files if not is_marker(file.name)}


def _size_of(same: Mapping[str, tuple[int, str]]) -> int:
    return sum(size_bytes for size_bytes, _ in same.values())


def check_plan(plan: TransferPlan, place: Place) -> None:
    """
    Refuse a plan that refuses a file, or that may come from elsewhere and says what none of ours does.

    Raises:
        UnsafePathError: a file is refused, or a name, or a path to read from, leads out of the compute data folder, or
            cannot be kept.
    """
    refused = [file for file in plan.files if file.action == "refuse"]
    if refused:
        raise UnsafePathError(f"nothing was moved: {'; '.join(f'{file.name!r} {file.reason}' for file in refused[:5])}")
    moved = [file for file in plan.files if file.action != "skip"]
    check_names([file.name for file in moved], place)
    for file in moved:
        path = file.path
        # To make paths normal takes longest; where nothing leads elsewhere it would change nothing that matters.
        plain = path.startswith("/") and "/." not in path and not path.endswith("/")
        if path and not (path if plain else os.path.normpath(path)).startswith(plan.top):
            raise UnsafePathError(f"nothing was moved: {file.path!r} does not lie in {plan.local!r}")


async def _get(
    passage: Passage, decided: Decided, wanted: list[PlannedFile], tally: Tally, *, keep_times: bool
) -> dict[str, str]:
    if not wanted:
        return {}
    root = await in_thread(make_root, decided.moves.local)
    await in_thread(check_folding, root, [*(file.name for file in decided.moves.files), *decided.same])
    download = Download(passage, root=root, keep_times=keep_times, tally=tally)
    unpack = PackedGet(passage, root=root, keep_times=keep_times, tally=tally)
    await side_by_side(
        lambda: download.run([file for file in wanted if not file.pack]),
        lambda: unpack.run([file for file in wanted if file.pack]),
    )
    download.digests |= unpack.digests
    return download.digests


async def verify_run(
    lane: Lane, place: Place, matcher: Matcher, bytes_s: float | None, on_progress: ProgressHook | None
) -> VerifyReport:
    """
    Read the objects of a run that are meant again, and tell which of them are what was put.

    Raises:
        NotFoundError: there are none.
    """
    found = await real_files(lane, await find(lane, place, matcher, None, "always"))
    metas = found.only(lambda name: matcher.matches(name) and not reserved(name)).as_dict()
    if not metas:
        raise NotFoundError(f"nothing in {lane.store.location}/{place.root} is to be verified: is the run id right?")
    tally = Tally({name: meta.size_bytes for name, meta in metas.items()}, on_progress)
    passage = Passage(lane, bytes_s=bytes_s, on_retry=tally.retry)
    verification, packed = Verification(passage, place, tally), PackedVerification(passage, place, tally)
    await side_by_side(
        lambda: verification.run([meta for meta in metas.values() if not isinstance(meta, PackedMeta)]),
        lambda: packed.run([meta for meta in metas.values() if isinstance(meta, PackedMeta)]),
    )
    return VerifyReport(
        sorted(verification.verified + packed.verified), sorted(verification.unverifiable), dict(tally.failed)
    )
