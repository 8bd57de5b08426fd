from __future__ import annotations

import hashlib
import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from asyncstore.catalog._packed._index import NO_PACK, Entry, Index, decode, encode
from asyncstore.catalog._packed._meta import DIGEST, FoundIndex, PackedMeta, merged
from asyncstore.catalog._packed._names import folders_down_to, index_name, pack_name, parse, stamp_of, time_of
from asyncstore.catalog._paths import Place
from asyncstore.errors import ConfigurationError, IntegrityError
from asyncstore.objects.base import ObjectMeta

if TYPE_CHECKING:
    from collections.abc import Sequence

DIGESTS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(4)]
NOW = datetime(2026, 11, 21, 17, 15, 3, 1234, tzinfo=UTC)
ID = "0123456789abcdef"


def index_of(packs: Sequence[str], entries: Sequence[Entry], empty: Sequence[str] = ()) -> Index:
    names, numbers, offsets, sizes, digests, modes, times = zip(*entries, strict=True) if entries else [()] * 7
    return Index(packs, names, numbers, offsets, sizes, "".join(digests), modes, times, empty)


def index(*names: str, pack: str = "a.pack", digest: str = DIGESTS[0], empty: tuple[str, ...] = ()) -> Index:
    return index_of([pack], [Entry(name, 0, 0, 1, digest, 0o644, 5) for name in names], empty)


def found(folder: str, moment: str, content: Index, put_id: str = ID) -> FoundIndex:
    key = f"{folder}.asyncstore/packs/{index_name(moment, put_id)}"
    return FoundIndex(ObjectMeta(key, 1, '"e"', NOW), content)


def body_of(text: bytes, version: int = 1) -> bytes:
    body = zlib.compress(text)
    return f"asyncstore-index {version} {hashlib.sha256(body).hexdigest()}\n".encode() + body


# Names.


def test_stamps_sort_as_times_do_and_come_back() -> None:
    assert stamp_of(NOW) == "20261121T171503001234Z"
    assert time_of(stamp_of(NOW)) == NOW
    assert time_of("20261321T171503001234Z") is None
    assert stamp_of(datetime(2026, 1, 2, tzinfo=UTC)) < stamp_of(datetime(2026, 1, 10, tzinfo=UTC))


@pytest.mark.parametrize("folder", ["", "run/", "team/run/a/b/"])
def test_keys_come_back(folder: str) -> None:
    stamp = stamp_of(NOW)
    pack = parse(f"{folder}.asyncstore/packs/{pack_name(stamp, ID, 12)}")
    assert pack is not None
    assert pack == (stamp, ID, 12, folder)
    one = parse(f"{folder}.asyncstore/packs/{index_name(stamp, ID)}")
    assert one is not None
    assert one == (stamp, ID, None, folder)


@pytest.mark.parametrize(
    "key",
    [
        "run/data/x",
        f"run/.asyncstore/packs/deeper/{index_name(stamp_of(NOW), ID)}",
        f"run/x.asyncstore/packs/{index_name(stamp_of(NOW), ID)}",
        f"run/.asyncstore/{index_name(stamp_of(NOW), ID)}",
        "run/.asyncstore/packs/notes.txt",
        "run/.asyncstore/packs/20261121T171503001234Z-0123456789abcdef.pack",
    ],
)
def test_other_keys_are_no_packs(key: str) -> None:
    assert parse(key) is None


def test_folders_on_the_way() -> None:
    assert list(folders_down_to("")) == [""]
    assert list(folders_down_to("a/b/")) == ["", "a/", "a/b/"]


# Indices.


def test_an_index_comes_back() -> None:
    entries = [
        Entry("a", 0, 0, 3, DIGESTS[0], 0o600, 1_700_000_000_123_456_789),
        Entry("é 🙂", 1, 7, 5, DIGESTS[1], None, None),
        Entry("nothing", NO_PACK, 0, 0, DIGESTS[2], 0o644, -1),
    ]
    again = decode(encode(index_of(["x.pack", "y.pack"], entries, ["hollow"])), "here")
    assert [Entry(*row) for row in again.rows()] == entries
    assert (again.packs, again.empty) == (["x.pack", "y.pack"], ["hollow"])
    assert list(decode(encode(Index([])), "here").rows()) == []


def test_an_index_is_compact() -> None:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(5000)]
    entries = [Entry(f"part/{at:06}.bin", 0, at * 4096, 4096, digest, 0o644, at) for at, digest in enumerate(digests)]
    assert len(encode(index_of(["x.pack"], entries))) < 50 * len(entries)


def test_every_flipped_bit_is_seen() -> None:
    data = encode(index("a", "b"))
    for place in range(len(data)):
        spoilt = bytearray(data)
        spoilt[place] ^= 1
        with pytest.raises((IntegrityError, ConfigurationError), match="here"):
            decode(spoilt, "here")
    for length in range(len(data)):
        with pytest.raises(IntegrityError, match="here"):
            decode(data[:length], "here")


def test_a_newer_index_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"here has version 2.*update"):
        decode(body_of(b"{}", version=2), "here")


def test_an_index_inflates_to_what_one_may_have_and_no_more() -> None:
    def bomb(size_bytes: int) -> bytes:
        return body_of(b'{"packs":["' + b"a" * size_bytes + b'"],' + GOOD.partition(b",")[2])

    assert len(decode(bomb(500_000), "here").packs[0]) == 500_000
    with pytest.raises(IntegrityError, match=r"here .* inflate to over [0-9,]+ bytes"):
        decode(bomb(20_000_000), "here")


def test_an_index_that_is_all_alike_can_be_read() -> None:
    folder = "/".join(["x" * 250] * 3)
    for size_bytes in (0, 1 << 40):
        entries = [Entry(f"{folder}/{at}", 0, 0, size_bytes, DIGESTS[0], 0o644, 5) for at in range(20_000)]
        assert [Entry(*row) for row in decode(encode(index_of(["x.pack"], entries)), "here").rows()] == entries
    # Nobody has names such as these, and yet what is written can be read.
    whole = index_of(["x" * 50_000_000], [])
    assert decode(encode(whole), "here").packs == whole.packs


GOOD = (
    b'{"packs":["x"],"name":["a"],"pack":[0],"offset":[0],"size":[1],"sha256":"%s","mode":[420],'
    b'"mtime_ns":[1],"empty":[]}' % DIGESTS[0].encode()
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"pack":[0]', b'"pack":[1]'),
        (b'"pack":[0]', b'"pack":[-2]'),
        (b'"pack":[0]', b'"pack":[true]'),
        (b'"pack":[0]', b'"pack":[]'),
        (b'"offset":[0]', b'"offset":[-1]'),
        (b'"size":[1]', b'"size":["1"]'),
        (b'"name":["a"]', b'"name":"a"'),
        (b'"name":["a"]', b'"name":["a","b"]'),
        (b'"sha256":"', b'"sha256":"Z'),
        (DIGESTS[0].encode(), DIGESTS[0].upper().encode()),
        (b'"empty":[]', b'"empty":[1]'),
        (GOOD, b"[]"),
        (GOOD, b"{}"),
        (GOOD, b"nonsense"),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(old: bytes, new: bytes) -> None:
    assert [Entry(*row) for row in decode(body_of(GOOD), "here").rows()] == [Entry("a", 0, 0, 1, DIGESTS[0], 420, 1)]
    assert old in GOOD
    with pytest.raises(IntegrityError, match="here is damaged"):
        decode(body_of(GOOD.replace(old, new)), "here")


# Several of them.


def test_the_latest_index_counts_and_of_two_with_one_stamp_the_greater_id() -> None:
    place = Place.of("", "run", "data/")
    found_ones = [
        found("run/data/", "20261121T000000000002Z", index("a", "b", digest=DIGESTS[2])),
        found("run/data/", "20261121T000000000001Z", index("a", "c", digest=DIGESTS[1])),
        found("run/data/", "20261121T000000000002Z", index("b", digest=DIGESTS[3]), put_id="f" * 16),
    ]
    for order in (found_ones, found_ones[::-1]):
        files = merged(place, order)
        assert {name: row[DIGEST] for name, row in files.rows.items()} == {
            "a": DIGESTS[2],
            "b": DIGESTS[3],
            "c": DIGESTS[1],
        }


def test_names_are_relative_to_where_one_looks() -> None:
    above = found("team/run/", "20261121T000000000001Z", index("data/sub/a", "other/b", empty=("data/hollow", "data")))
    beside = found("team/run/data/sub/", "20261121T000000000002Z", index("c"))
    neighbour = found("team/run2/data/", "20261121T000000000003Z", index("d"))
    ones = [above, beside, neighbour]
    assert set(merged(Place.of("team/", "run"), ones)) == {
        "data/sub/a",
        "other/b",
        "data/sub/c",
        "data/hollow/.asyncstore",
        "data/.asyncstore",
    }
    files = merged(Place.of("team/", "run", "data/"), ones)
    assert set(files) == {"sub/a", "sub/c", "hollow/.asyncstore"}
    assert files["sub/a"].key == "team/run/data/sub/a"
    assert files["sub/a"].pack == "team/run/.asyncstore/packs/a.pack"
    assert files["sub/c"].pack == "team/run/data/sub/.asyncstore/packs/a.pack"
    assert set(merged(Place.of("team/", "run", "data/"), ones, {"sub/c"}.__contains__)) == {"sub/c"}


def test_a_packed_file_is_described_as_an_object_would_be() -> None:
    [meta] = merged(Place.of("", "run"), [found("run/", "20261121T000000000001Z", index("a"))]).values()
    assert type(meta) is PackedMeta
    assert (meta.key, meta.size_bytes, meta.metadata, meta.mode, meta.mtime_ns) == (
        "run/a",
        1,
        {"sha256": DIGESTS[0]},
        0o644,
        5,
    )
