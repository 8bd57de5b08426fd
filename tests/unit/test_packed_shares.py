from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.catalog._packed._decide import goes_packed, settled, usable_base
from asyncstore.catalog._packed._meta import PackedFiles, PackedMeta
from asyncstore.catalog._packed._shares import PACKED_BYTES, packs_of, pieces
from asyncstore.catalog._plan import PlannedFile, TransferPlan
from asyncstore.catalog._planning._found import Found
from asyncstore.objects.base import ObjectMeta
from tests.unit.test_packed_index import DIGESTS, NOW


class Bytes(NamedTuple):
    pack: str
    offset: int
    size_bytes: int


def upload(size_bytes: int, name: str = "a") -> PlannedFile:
    return PlannedFile(name, "upload", size_bytes, "new")


def alone(key: str) -> ObjectMeta:
    return ObjectMeta(key, 1, '"e"', NOW)


def packed_files(*names: str) -> PackedFiles:
    at = ("run/.asyncstore/packs/p.pack", 7, 0o600, 9)
    return PackedFiles("run/", dict.fromkeys(names, (1, DIGESTS[0], NOW, at)))


def packed(name: str) -> PackedMeta:
    return packed_files(name)[name]


@given(st.lists(st.integers(0, 30)), st.integers(1, 40))
def test_packs_keep_order_and_limit(sizes: list[int], limit: int) -> None:
    files = [upload(size, f"{at}") for at, size in enumerate(sizes)]
    packs = list(packs_of(files, limit))
    assert [file for pack in packs for file in pack] == files
    for pack in packs:
        assert len(pack) == 1 or sum(file.size_bytes for file in pack) <= limit
    for one, other in itertools.pairwise(packs):
        assert sum(file.size_bytes for file in [*one, other[0]]) > limit


@given(
    st.lists(st.builds(Bytes, st.sampled_from("ab"), st.integers(0, 200), st.integers(1, 30))),
    st.integers(0, 20),
    st.integers(1, 60),
)
def test_each_file_is_in_one_piece_and_little_is_read_in_vain(files: list[Bytes], gap: int, limit: int) -> None:
    found = pieces(files, gap_bytes=gap, limit_bytes=limit)
    assert sorted(file for piece in found for file in piece.files) == sorted(files)
    for piece in found:
        assert piece.size_bytes <= limit or len({*piece.files}) == 1 or _overlap(piece.files)
        read = piece.start
        for file in piece.files:
            assert file.pack == piece.pack
            assert piece.start <= file.offset
            assert file.offset + file.size_bytes <= piece.end
            assert file.offset - read <= gap
            read = max(read, file.offset + file.size_bytes)
        assert read == piece.end


def _overlap(files: object) -> bool:
    listed: list[Bytes] = sorted(files)  # type: ignore[call-overload]
    return any(b.offset < a.offset + a.size_bytes for a, b in itertools.pairwise(listed))


def test_a_folder_of_neighbours_is_one_piece() -> None:
    files = [Bytes("a", at * 4096, 4096) for at in range(1024)]
    assert [(piece.start, piece.end) for piece in pieces(files)] == [(0, 1024 * 4096)]
    assert len(pieces(files[::50])) == 1
    assert len(pieces(files[::100])) == 11
    assert pieces([]) == []


@pytest.mark.parametrize(
    ("size_bytes", "layout", "expected"),
    [(0, "packed", True), (PACKED_BYTES, "packed", True), (PACKED_BYTES + 1, "packed", False), (1, "plain", False)],
)
def test_what_is_packed(size_bytes: int, layout: str, expected: bool) -> None:
    assert goes_packed(upload(size_bytes), layout) is expected  # type: ignore[arg-type]


def test_an_object_stays_one() -> None:
    [new, there, known] = settled(
        [upload(1, "new"), upload(1, "there"), upload(1, "known")],
        {},
        {"there": alone("there"), "known": packed("known")},
        "packed",
    )
    assert [goes_packed(file, "packed") for file in (new, there, known)] == [True, False, True]


def test_a_copy_out_of_a_pack_says_where_from() -> None:
    copies = [PlannedFile(name, "copy", 1, "", digest=DIGESTS[0], source=name) for name in ("a", "b")]
    first, second = settled(copies, {"a": packed("a"), "b": packed("b")}, {"b": alone("b")}, "plain")
    assert (first.pack, first.offset, first.mode, first.mtime_ns) == ("run/.asyncstore/packs/p.pack", 7, 0o600, 9)
    assert goes_packed(first, "plain")
    assert second.pack
    assert not goes_packed(second, "plain")
    marker = PlannedFile("e/.asyncstore", "copy", 0, "", source="x")
    [skipped] = settled([marker], {marker.name: packed("x")}, {marker.name: packed("y")}, "plain")
    assert skipped.action == "skip"


def test_a_base_in_packs_is_of_use_to_packs_only() -> None:
    base = Found(None, {"c": alone("c")}, packed_files("a", "b"))
    assert set(usable_base(base, {}, "plain")) == {"c"}
    assert set(usable_base(base, {"b": alone("b")}, "packed")) == {"a", "c"}


def test_plans_come_back_from_json() -> None:
    file = PlannedFile("a", "download", 1, "", packed=("p", 3, None, 4), plain=True)
    plan = TransferPlan("put", "run", "data/", "/x", "s3://b/run/data/", (file,), "packed")
    assert TransferPlan.from_json(plan.to_json()) == plan
    assert [part.layout for part in plan.split(2)] == ["packed"]
