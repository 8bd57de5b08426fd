"""What becomes of each file, decided without I/O."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

import pytest

from asyncstore.catalog import TransferPlan
from asyncstore.catalog._local._files import Identity, LocalFile, LocalFiles
from asyncstore.catalog._packed._meta import PackedFiles, PackedMeta, located, located_all
from asyncstore.catalog._plan import PlannedFile
from asyncstore.catalog._planning._decide import (
    NEW,
    Sides,
    decide_get,
    decide_new,
    decide_put,
    decide_puts,
    decide_sync,
    doubts_of_put,
    same_on_both_sides,
)
from asyncstore.catalog._planning._found import Found
from asyncstore.errors import InvalidValueError
from asyncstore.objects.base import ObjectMeta
from asyncstore.objects.listed import Listed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from asyncstore.catalog._packed._meta import PackedRow

KnownOf: TypeAlias = "Callable[[Mapping[str, ObjectMeta]], Mapping[str, ObjectMeta]]"

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def local(name: str = "a", size: int = 3) -> LocalFile:
    return LocalFile(name, f"/data/{name}", Identity(1, 2, size, 3, 4), 0o644, 5)


def locals_of(*names: str, **sizes: int) -> LocalFiles:
    return LocalFiles.of([*map(local, names), *(local(name, size) for name, size in sizes.items())])


def stored(name: str = "a", size: int = 3, run: str = "run") -> ObjectMeta:
    return ObjectMeta(f"{run}/data/{name}", size, '"e"', NOW)


def listed(objects: Mapping[str, ObjectMeta]) -> Found:
    return Found(dict(zip(objects, Listed.of(objects.values()).rows, strict=True)))


def mixed(objects: Mapping[str, ObjectMeta]) -> Found:
    names = list(objects)
    return listed({name: objects[name] for name in names[::2]}) | {name: objects[name] for name in names[1::2]}


def packed(objects: Mapping[str, ObjectMeta], digests: Mapping[str, str] | None = None) -> Found:
    """Return objects as packed ones."""
    rows: dict[str, PackedRow] = {
        name: (meta.size_bytes, (digests or {}).get(name, ""), NOW, (f"pack-{at}", 7 * at, 0o600 + at, 99))
        for at, (name, meta) in enumerate(objects.items())
    }
    root = next((meta.key.removesuffix(name) for name, meta in objects.items()), "")
    return Found(packed=PackedFiles(root, rows))


# Putting.


@pytest.mark.parametrize(
    ("sides", "action", "reason"),
    [
        (Sides(), "upload", "not there yet"),
        (Sides({"a": stored(size=4)}), "upload", "other contents"),
        (Sides({"a": stored()}, local={"a": "x"}, remote={"run/data/a": "x"}), "skip", "same contents"),
        (Sides({"a": stored()}, local={"a": "x"}, remote={"run/data/a": "y"}), "upload", "other contents"),
        # Neither digest is known: that is no reason to leave it alone.
        (Sides({"a": stored()}), "upload", "other contents"),
        (Sides({"a": stored(size=9)}, synced={"a": "x"}, local={"a": "x"}), "skip", "as it was synced"),
        (Sides({"a": stored(size=9)}, synced={"a": "y"}, local={"a": "x"}), "upload", "other contents"),
        # What was synced and is gone is put again.
        (Sides(synced={"a": "x"}, local={"a": "x"}), "upload", "not there yet"),
        (
            Sides(base={"a": stored(run="base")}, local={"a": "x"}, remote={"base/data/a": "x"}),
            "copy",
            "same contents in the base run",
        ),
        (Sides(base={"a": stored(run="base")}, local={"a": "x"}, remote={"base/data/a": "y"}), "upload", "not there"),
    ],
)
def test_what_becomes_of_a_local_file(sides: Sides, action: str, reason: str) -> None:
    planned = decide_put("a", local().row, sides)
    assert planned.action == action
    assert reason in planned.reason
    if action == "upload":
        assert (planned.path, planned.identity, planned.mode) == ("/data/a", local().identity, 0o644)
    if action == "copy":
        assert (planned.source, planned.etag) == ("base/data/a", '"e"')


def test_only_what_decides_is_looked_into() -> None:
    files = locals_of("new", "other-size", "same-size", "synced", "in-base")
    sides = Sides(
        {"other-size": stored("other-size", 9), "same-size": stored("same-size"), "synced": stored("synced", 9)},
        {"in-base": stored("in-base", run="base"), "other-size": stored("other-size", 8, run="base")},
        {"synced": "x", "new": "x"},
    )
    doubts = doubts_of_put(files, sides)
    assert [*doubts.files] == ["same-size", "synced", "in-base"]
    assert [meta.key for meta in doubts.objects] == ["run/data/same-size", "base/data/in-base"]


# Getting, and copying between runs.


def test_what_becomes_of_an_object_that_is_wanted() -> None:
    same = Sides(local={"a": "x"}, remote={"run/data/a": "x"})
    assert decide_get("a", stored(), {}, same).action == "download"
    assert decide_get("a", stored(), {"a": local()}, same).action == "skip"
    assert decide_get("a", stored(), {"a": local(size=4)}, same).action == "download"
    assert decide_get("a", stored(), {"a": local()}, Sides(local={"a": "y"}, remote={"run/data/a": "x"})).action == (
        "download"
    )
    assert decide_get("a", stored(), {"a": local()}, Sides()).action == "download"


def test_what_stays_with_the_run_that_wrote_it() -> None:
    assert decide_sync("data/step.execution.log", stored(), Sides()) is None
    assert decide_sync("data/.asyncstore/x", stored(), Sides()) is None
    marker = decide_sync("data/empty/.asyncstore", stored(size=0), Sides())
    assert marker is not None
    assert marker.action == "copy"


# Plans.


def plan(*files: PlannedFile) -> TransferPlan:
    return TransferPlan("put", "run", "data/", "/data", "s3://b/run/data/", files)


def test_a_plan_survives_json_and_pickle() -> None:
    files = LocalFiles("/data/", {"a": (1, 2, 3, 3, 4, 0o644, 5, ""), "linked": (1, 2, 3, 3, 4, 0o644, 5, "/data/b")})
    uploads = [decide_put(name, row, Sides()) for name, row in files.rows.items()]
    made = plan(*uploads, PlannedFile("b", "skip", 1, "same contents", digest="x"))
    told = json.loads(json.dumps(made.to_json()))
    assert TransferPlan.from_json(told) == made
    assert [file["path"] for file in told["files"]] == ["/data/a", "/data/b", ""]
    assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(InvalidValueError, match="no plan"):
        TransferPlan.from_json({"files": [{"name": "a"}]})
    for change in ({"local": 1}, {"files": [{"name": "a"}]}, {"files": 1}, {"more": 1}):
        with pytest.raises(InvalidValueError, match="no plan"):
            TransferPlan.from_json({**told, **change})


def test_a_plan_is_split_into_shares_of_about_the_same_size() -> None:
    files = [PlannedFile(f"{number:03}", "upload", size, "") for number, size in enumerate([100, 1, 50, 50, 2] * 20)]
    made = plan(*files)
    parts = made.split(4)
    assert sorted(file for part in parts for file in part.files) == sorted(files)
    assert max(len(part.files) for part in parts) - min(len(part.files) for part in parts) <= 1
    large = plan(*(PlannedFile(str(number), "upload", number * 10**9, "") for number in range(1, 9)))
    loads = [part.moved_bytes for part in large.split(3)]
    assert max(loads) <= 1.25 * min(loads)
    assert len(plan(*files[:2]).split(9)) == 2
    with pytest.raises(InvalidValueError):
        made.split(0)


def test_a_plan_is_summed_up() -> None:
    made = plan(PlannedFile("a", "upload", 5, ""), PlannedFile("b", "skip", 7, ""), PlannedFile("c", "upload", 1, ""))
    assert made.counts() == {"upload": 2, "skip": 1}
    assert made.moved_bytes == 6


def packed_with_digests(objects: Mapping[str, ObjectMeta]) -> Found:
    return packed(objects, {"a": "x", "b": "y", "c": "x"})


@pytest.mark.parametrize("known_of", [dict, listed, mixed, packed_with_digests])
def test_what_is_the_same_on_both_sides_is_what_would_be_skipped(known_of: KnownOf) -> None:
    described = {name: stored(name, size=size) for name, size in (("a", 3), ("b", 3), ("c", 4), ("d", 3))}
    objects = known_of(described)
    files = locals_of("a", "b", "c", "d", "e")
    digests = dict.fromkeys("abcd", "x")
    known = Sides(objects, local=digests, remote={objects["a"].key: "x", objects["b"].key: "y", objects["c"].key: "x"})
    same = same_on_both_sides(files, objects, known)
    assert same == {"a": (3, "x")}
    assert [name for name, file in files.items() if decide_put(name, file.row, known).action == "skip"] == [*same]
    wanted = [decide_get(name, meta, files, known) for name, meta in objects.items()]
    assert [file.name for file in wanted if file.action == "skip"] == [*same]
    assert same_on_both_sides(files, objects, Sides(objects, local={"a": ""}, remote={objects["a"].key: ""})) == {}


@pytest.mark.parametrize("known_of", [dict, listed, mixed, packed])
def test_doubts_are_the_same_with_and_without_a_base(known_of: KnownOf) -> None:
    files = locals_of("same", "alike", "new", larger=9)
    existing = known_of({name: stored(name) for name in ("alike", "larger", "gone", "same")})
    expected = doubts_of_put(files, Sides(existing, {"other": stored("other")}, {}))
    found = doubts_of_put(files, Sides(existing))
    assert {**found.files} == {**expected.files} == {name: files[name] for name in ("same", "alike")}
    assert sorted(meta.key for meta in found.objects) == sorted(meta.key for meta in expected.objects)
    assert {meta.key for meta in found.objects} == {"run/data/alike", "run/data/same"}


# Names of many.


def test_objects_by_name_are_the_same_whether_they_were_listed_or_described() -> None:
    described = {name: stored(name) for name in "abcd"}
    for found in (Found.of(described), listed(described), mixed(described)):
        assert {**found} == dict(found.items()) == found.as_dict() == described
        assert (len(found), "a" in found, "x" in found, found.get("x")) == (4, True, False, None)
        assert {**found.only(lambda name: name in "bc")} == {name: described[name] for name in "bc"}
        more = {"a": stored("a", 9), "x": stored("x")}
        assert {**(found | more)} == described | more
        assert {**(found | {})} == described


def test_packed_files_by_name_are_described_when_they_are_asked_for() -> None:
    alone = listed({name: stored(name) for name in "ab"})
    files = packed({name: stored(name, 4) for name in "bcd"}).packed
    found = alone.beside(files)
    assert {name: (meta.size_bytes, type(meta)) for name, meta in found.items()} == {
        "a": (3, ObjectMeta),
        "b": (3, ObjectMeta),
        "c": (4, PackedMeta),
        "d": (4, PackedMeta),
    }
    assert {**found} == found.as_dict()
    assert (len(found), "c" in found, "x" in found, found.get("x")) == (4, True, False, None)
    with pytest.raises(KeyError):
        found["x"]
    assert [*found.only(lambda name: name in "bc")] == ["b", "c"]
    assert [*found.only(lambda name: name in "bc").packed] == ["c"]
    assert (found["c"].key, files["c"].pack, "b" in files, len(files)) == ("run/data/c", "pack-1", True, 3)
    joined = found | {"c": stored("c", 9)}
    assert {name: meta.size_bytes for name, meta in joined.items()} == {"a": 3, "b": 3, "c": 9, "d": 4}
    again = joined | Found(packed=files)
    assert {name: meta.size_bytes for name, meta in again.items()} == {"a": 3, "b": 4, "c": 4, "d": 4}


def test_listed_objects_are_a_sequence_of_described_ones() -> None:
    described = [stored(name, size) for size, name in enumerate("abc")]
    listed = Listed.of(described)
    assert list(listed) == described == [listed[index] for index in range(3)]
    assert list(listed[1:]) == described[1:]
    assert list(reversed(listed)) == described[::-1]
    assert (len(listed), list(Listed([])), Listed.of(listed) is listed) == (3, [], True)


def test_local_files_are_what_was_put_in() -> None:
    files = [local(name) for name in "abc"]
    found = LocalFiles.of(files)
    assert list(found.values()) == files
    assert list(found.some(["c", "a"]).values()) == [files[2], files[0]]
    assert found.some(["a", "b", "c"]) is found
    plain = LocalFiles("/data/", {"a": (1, 2, 3, 3, 4, 0o644, 5, ""), "b": (1, 2, 3, 3, 4, 0o644, 5, "/elsewhere")})
    assert plain["a"] == local("a")
    assert plain["b"] == local("b")._replace(path="/elsewhere")


# Many at once.

NAMES = ("a", "b", "c/d", "linked")


@pytest.mark.parametrize("kind", [dict, listed, mixed, packed])
@pytest.mark.parametrize("known", [(), ("b",), NAMES])
def test_many_are_put_like_each(kind: KnownOf, known: tuple[str, ...]) -> None:
    files = LocalFiles.of([*map(local, NAMES[:-1]), local("linked")._replace(path="/data/elsewhere")])
    files = LocalFiles(
        "/data/", {name: (*row[:-1], "" if name != "linked" else row[-1]) for name, row in files.rows.items()}
    )
    digests = {"b": "x"} if "b" in known else {}
    for sides in (
        Sides(kind({name: stored(name) for name in known}), local=digests, remote={"run/data/b": "x"}),
        Sides(base=kind({name: stored(name, run="old") for name in known}), local=digests, remote={"old/data/b": "x"}),
    ):
        new, others = decide_puts(files, sides)
        assert sorted(new + others) == sorted(decide_put(name, files.rows[name], sides) for name in NAMES)
        assert [file.name for file in new] == [name for name in NAMES if name not in known]


def test_many_are_got_like_each() -> None:
    objects = listed({name: stored(name, size) for size, name in enumerate(NAMES)})
    each = [decide_get(name, objects[name], LocalFiles(), Sides()) for name in NAMES]
    assert decide_new(NAMES, objects) == each
    assert decide_new((), objects) == []


def test_many_come_out_of_packs_like_each() -> None:
    objects = packed({name: stored(name, size) for size, name in enumerate(NAMES)})
    each = [located(decide_get(name, meta, LocalFiles(), Sides()), meta) for name, meta in objects.items()]
    assert located_all(NAMES, objects.packed, NEW) == each
    assert {file.pack for file in each} == {"pack-0", "pack-1", "pack-2", "pack-3"}
