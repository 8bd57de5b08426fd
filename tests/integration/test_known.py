"""The cache of digests: exact or nothing, and never in the way."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncstore.catalog._cache import _known
from asyncstore.catalog._cache._known import Known, cache_folder, place_of
from asyncstore.catalog._local._files import Identity, LocalFile, LocalFiles
from asyncstore.catalog._planning._found import Found
from asyncstore.objects.base import ObjectMeta
from asyncstore.objects.listed import Listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND_NS = 1_000_000_000
LONG_AGO_NS = 1_700_000_000 * SECOND_NS
DAY_S = 86_400


def local_file(number: int, **changes: int) -> LocalFile:
    identity = Identity(7, 1000 + number, 10, LONG_AGO_NS + number, LONG_AGO_NS + 1)._replace(**changes)
    return LocalFile(f"f{number}", f"/x/f{number}", identity, 0o644, LONG_AGO_NS + 3 * SECOND_NS)


def digest(number: int) -> str:
    return f"{number:064x}"


def remember(known: Known, pairs: Iterable[tuple[LocalFile, str]]) -> None:
    known.remember_files((file.row, number) for file, number in pairs)


def meta(key: str, etag: str = '"e"', size_bytes: int = 10) -> ObjectMeta:
    return ObjectMeta(key, size_bytes, etag, NOW)


@pytest.fixture
def known(tmp_path: Path) -> Known:
    return Known(tmp_path / "new" / "cache")


# Files.


def test_files_are_known_as_they_are_and_no_others(known: Known) -> None:
    files = [local_file(number) for number in range(5000)]
    assert known.digests_of(files) == {}
    remember(known, [(file, digest(number)) for number, file in enumerate(files)])
    expected = {file.name: digest(number) for number, file in enumerate(files)}
    assert known.digests_of(files) == expected
    assert known.digests_of(files[7:8]) == {"f7": digest(7)}
    assert known.digests_of([]) == {}


@pytest.mark.parametrize("field", Identity._fields)
def test_a_file_of_which_anything_differs_is_not_known(known: Known, field: str) -> None:
    remember(known, [(local_file(1), digest(1))])
    file = local_file(1)
    assert known.digests_of([file])
    other = local_file(1, **{field: getattr(file.identity, field) + 1})
    assert known.digests_of([other]) == {}


def test_the_last_word_on_a_file_stands(known: Known) -> None:
    remember(known, [(local_file(1), digest(1))])
    remember(known, [(local_file(1, size_bytes=11), digest(2))])
    assert known.digests_of([local_file(1)]) == {}
    assert known.digests_of([local_file(1, size_bytes=11)]) == {"f1": digest(2)}


def test_a_file_goes_by_its_identity_and_not_by_its_name(known: Known) -> None:
    remember(known, [(local_file(1), digest(1))])
    assert known.digests_of([local_file(1)._replace(name="other"), local_file(1)]) == {
        "other": digest(1),
        "f1": digest(1),
    }


def test_numbers_of_64_bits_are_kept(known: Known) -> None:
    file = local_file(1, device=2**64 - 1, inode=2**63)
    remember(known, [(file, digest(1))])
    assert known.digests_of([file, local_file(2)]) == {"f1": digest(1)}


@pytest.mark.parametrize("field", ["mtime_ns", "ctime_ns"])
@pytest.mark.parametrize(("age_ns", "kept"), [(2 * SECOND_NS, True), (2 * SECOND_NS - 1, False), (-SECOND_NS, False)])
def test_a_file_that_had_just_changed_when_it_was_seen_is_not_remembered(
    known: Known, field: str, age_ns: int, kept: bool
) -> None:
    file = local_file(1, **{field: LONG_AGO_NS + 3 * SECOND_NS - age_ns})
    remember(known, [(file, digest(1)), (local_file(2), digest(2))])
    assert known.digests_of([file, local_file(2)]) == ({"f1": digest(1)} if kept else {}) | {"f2": digest(2)}


def test_a_file_of_which_nobody_knows_when_it_was_seen_is_taken_for_seen_now(known: Known) -> None:
    fresh = local_file(1, mtime_ns=time.time_ns())._replace(seen_ns=0)
    remember(known, [(fresh, digest(1)), (local_file(2)._replace(seen_ns=0), digest(2))])
    assert known.digests_of([fresh, local_file(2)]) == {"f2": digest(2)}


def test_few_files_among_very_many_are_found(known: Known) -> None:
    remember(known, [(local_file(number), digest(number)) for number in range(20_000)])
    files = [local_file(number) for number in (0, 9_999, 19_999)]
    assert known.digests_of(files) == {file.name: digest(file.identity.inode - 1000) for file in files}
    sparse = [local_file(number) for number in range(0, 20_000, 6)]
    assert len(known.digests_of(sparse)) == len(sparse)


# Objects.


def test_objects_are_known_as_they_are_and_no_others(known: Known) -> None:
    here = place_of("s3://bucket", "http://here")
    keys = [f"run/data/{name}" for name in ("a", "b", "Ω/🙂", "z" * 500, "a b#?%")]
    known.remember_objects(here, [(key, '"e"', 10, digest(number)) for number, key in enumerate(keys)])
    expected = {key: digest(number) for number, key in enumerate(keys)}
    assert known.digests_at(here, [meta(key) for key in keys]) == expected
    assert known.digests_at(here, [meta(key) for key in keys], "run/data/") == expected
    assert known.digests_at(here, [meta(keys[1]), meta("run/data/c")], "run/") == {keys[1]: digest(1)}
    assert known.digests_at(here, [meta(keys[0], etag='"f"'), meta(keys[1], size_bytes=11)]) == {}
    assert known.digests_at(place_of("s3://bucket", "http://there"), [meta(key) for key in keys]) == {}
    assert known.digests_at(here, []) == {}


def test_an_object_without_an_etag_is_never_known(known: Known) -> None:
    known.remember_objects("place", [("a", "", 10, digest(1)), ("b", '"e"', 10, digest(2))])
    assert known.digests_at("place", [meta("a", etag=""), meta("b", etag="")]) == {}
    assert known.digests_at("place", [meta("a", etag=""), meta("b")]) == {"b": digest(2)}


def test_few_objects_among_very_many_are_found(known: Known) -> None:
    known.remember_objects("place", ((f"run/{number:06}", '"e"', 10, digest(number)) for number in range(20_000)))
    metas = [meta(f"run/{number:06}") for number in (0, 9_999, 19_999)]
    for prefix in ("", "run/"):
        assert len(known.digests_at("place", metas, prefix)) == 3


def test_places_differ_by_location_and_endpoint() -> None:
    assert len({place_of("s3://a", ""), place_of("s3://a", "x"), place_of("s3://b", "x"), place_of("s3://ax", "")}) == 4
    assert place_of("s3://a", "x") == place_of("s3://a", "x")


# What may be wrong with it.


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    known = Known(tmp_path / "cache")
    assert known.digests_of([local_file(1)]) == {}
    assert known.digests_at("place", [meta("a")]) == {}
    assert not (tmp_path / "cache").exists()


def test_nobody_else_can_read_it(known: Known) -> None:
    remember(known, [(local_file(1), digest(1))])
    assert known.folder.stat().st_mode & 0o777 == 0o700


def corrupt_head(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"not a database at all")


def corrupt_pages(path: Path) -> None:
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def other_tables(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE files(something)")
    db.close()


def other_columns(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE files RENAME COLUMN sha256 TO md5")
    db.close()


@pytest.mark.parametrize("corrupt", [corrupt_head, corrupt_pages, other_tables, other_columns])
def test_a_corrupt_cache_is_replaced(known: Known, corrupt: Callable[[Path], None]) -> None:
    pairs = [(local_file(number), digest(number)) for number in range(2000)]
    remember(known, pairs)
    corrupt(known.folder / "catalog.db")
    found = known.digests_of([file for file, _ in pairs])
    assert found.items() <= {file.name: number for file, number in pairs}.items()
    remember(known, pairs)
    assert known.digests_of([file for file, _ in pairs]) == {file.name: number for file, number in pairs}


def test_an_empty_file_is_a_new_cache(known: Known) -> None:
    known.folder.mkdir(parents=True)
    (known.folder / "catalog.db").touch()
    assert known.digests_of([local_file(1)]) == {}
    remember(known, [(local_file(1), digest(1))])
    assert known.digests_of([local_file(1)]) == {"f1": digest(1)}


@pytest.mark.parametrize("folder", ["file/cache", "file", "/proc/nope/cache", "/dev/null/x"])
def test_a_folder_that_cannot_be_made_is_no_cache(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    known = Known(tmp_path / folder)
    remember(known, [(local_file(1), digest(1))])
    known.remember_objects("place", [("a", '"e"', 10, digest(1))])
    assert known.digests_of([local_file(1)]) == {}
    assert known.digests_at("place", [meta("a")]) == {}


def test_a_folder_in_place_of_the_file_is_no_cache(known: Known) -> None:
    (known.folder / "catalog.db").mkdir(parents=True)
    remember(known, [(local_file(1), digest(1))])
    assert known.digests_of([local_file(1)]) == {}


def test_a_cache_that_somebody_locks_is_not_waited_for(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(known, [(local_file(1), digest(1))])
    monkeypatch.setattr("asyncstore.catalog._cache._cachefile._PATIENCE_S", 0.05)
    db = sqlite3.connect(known.folder / "catalog.db", isolation_level=None)
    try:
        db.execute("BEGIN EXCLUSIVE")
        remember(known, [(local_file(2), digest(2))])
        assert known.digests_of([local_file(1), local_file(2)]) == {"f1": digest(1)}
    finally:
        db.close()
    remember(known, [(local_file(2), digest(2))])
    assert len(known.digests_of([local_file(1), local_file(2)])) == 2


def test_what_is_known_counts_also_where_its_use_cannot_be_noted(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(known, [(local_file(1), digest(1))])
    later = int(time.time()) // DAY_S + 30
    monkeypatch.setattr(_known, "_today", lambda: later)
    monkeypatch.setattr("asyncstore.catalog._cache._cachefile._PATIENCE_S", 0.05)
    db = sqlite3.connect(known.folder / "catalog.db", isolation_level=None)
    try:
        db.execute("BEGIN IMMEDIATE")
        assert known.digests_of([local_file(1)]) == {"f1": digest(1)}
    finally:
        db.close()


def test_a_name_that_is_no_text_is_not_remembered_and_no_error(known: Known) -> None:
    known.remember_objects("place", [("\udcff", '"e"', 10, digest(1))])
    assert known.digests_at("place", [meta("\udcff")]) == {}


def test_it_may_be_deleted_at_any_time(known: Known) -> None:
    stop = threading.Event()
    wrong: list[object] = []

    def use(first: int) -> None:
        files = [local_file(number) for number in range(first, first + 300)]
        pairs = [(file, digest(file.identity.inode)) for file in files]
        while not stop.is_set():
            remember(known, pairs)
            found = known.digests_of(files)
            wrong.extend(set(found.items()) - {(file.name, number) for file, number in pairs})

    threads = [threading.Thread(target=use, args=(first,)) for first in (0, 200, 400)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            time.sleep(0.02)
            shutil.rmtree(known.folder, ignore_errors=True)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    shutil.rmtree(known.folder, ignore_errors=True)
    remember(known, [(local_file(1), digest(1))])
    assert known.digests_of([local_file(1)]) == {"f1": digest(1)}


def test_no_descriptor_is_left_open(known: Known) -> None:
    remember(known, [(local_file(1), digest(1))])
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        remember(known, [(local_file(1), digest(1))])
        known.digests_of([local_file(1)])
    assert os.listdir("/proc/self/fd") == before


WRITER = """
import sys
from asyncstore.catalog._cache._known import Known

first, known = int(sys.argv[2]), Known(sys.argv[1])
print("ready", flush=True)
for start in range(first, first + 1_000_000, 500):
    rows = [(7, n, 10, n, n, 0o644, 1 << 60, "/x") for n in range(start, start + 500)]
    known.remember_files([(row, f"{row[1]:064x}") for row in rows])
    print(start + 500, flush=True)
"""


def test_writers_that_are_killed_leave_what_they_had_remembered(known: Known) -> None:
    firsts = (0, 2_000_000)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, known.folder, str(first)], stdout=subprocess.PIPE, text=True)
        for first in firsts
    ]
    ends: list[int] = []
    try:
        for writer in writers:
            assert writer.stdout is not None
            for _ in range(6):
                assert writer.stdout.readline()
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
    for writer in writers:
        said, _ = writer.communicate()
        ends.append(int(said.split()[-1]) if said.split() else 0)
    for first, end in zip(firsts, ends, strict=True):
        numbers = range(first, max(end, first + 2500))
        files = [LocalFile(f"f{number}", "/x", Identity(7, number, 10, number, number), 0o644) for number in numbers]
        found = known.digests_of(files)
        assert found.items() <= {f"f{number}": digest(number) for number in numbers}.items()
        assert len(found) >= 2500


# Its size.


def test_rows_that_nobody_asks_for_are_removed(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    today = int(time.time()) // DAY_S

    def go_to(day: int) -> None:
        monkeypatch.setattr(_known, "_today", lambda: today + day)

    remember(known, [(local_file(1), digest(1)), (local_file(2), digest(2))])
    go_to(80)
    assert len(known.digests_of([local_file(1)])) == 1
    go_to(95)
    remember(known, [(local_file(3), digest(3))])
    assert known.digests_of([local_file(number) for number in (1, 2, 3)]) == {"f1": digest(1), "f3": digest(3)}


def test_there_are_never_much_more_rows_than_the_limit(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_known, "ROWS_LIMIT", 1000)
    monkeypatch.setattr(_known, "SIZE_LIMIT_BYTES", 0)
    for start in range(0, 3000, 300):
        known.remember_objects("place", [(f"{start + n:05}", '"e"', 1, digest(n)) for n in range(300)])
        remember(known, [(local_file(start + n), digest(n)) for n in range(300)])
        with sqlite3.connect(known.folder / "catalog.db") as db:
            for table in ("files", "objects"):
                [(count,)] = db.execute(f"SELECT count(*) FROM {table}")
                assert min(start + 300, 900) <= count <= 1000
        db.close()


# What was the same on both sides.


def sides(count: int) -> tuple[dict[str, tuple[int, str]], LocalFiles, Found]:
    files = LocalFiles.of(local_file(number) for number in range(count))
    objects = {name: meta(f"run/{name}") for name in files}
    same = {name: (10, digest(number)) for number, name in enumerate(files)}
    return same, files, Found(dict(zip(objects, Listed.of(objects.values()).rows, strict=True)))


def test_what_was_the_same_is_told_of_its_pair_alone(known: Known) -> None:
    same, files, objects = sides(2500)
    assert known.same_as_before("pair", files, objects) == {}
    known.remember_same("pair", same, files, objects)
    assert known.same_as_before("pair", files, objects) == same
    assert known.same_as_before("other", files, objects) == {}
    known.remember_same("other", same, files, objects)
    fewer = {name: same[name] for name in ("f1", "f7")}
    known.remember_same("pair", fewer, files, objects)
    assert known.same_as_before("pair", files, objects) == fewer
    assert known.same_as_before("other", files, objects) == same
    (known.folder / "catalog.db").write_bytes(b"no database")
    assert known.same_as_before("pair", files, objects) == {}


def test_what_was_told_long_ago_is_looked_up_file_by_file_and_told_anew(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = int(time.time()) // DAY_S
    same, files, objects = sides(3)
    known.remember_same("pair", same, files, objects)
    for day, expected in ((7, same), (8, {})):
        monkeypatch.setattr(_known, "_today", lambda day=day: today + day)
        assert known.same_as_before("pair", files, objects) == expected
    known.remember_same("pair", same, files, objects)
    assert known.same_as_before("pair", files, objects) == same


def test_pairs_that_nobody_asks_for_and_those_beyond_the_limit_are_removed(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_known, "ROWS_LIMIT", 10_000)
    monkeypatch.setattr(_known, "SIZE_LIMIT_BYTES", 0)
    same, files, objects = sides(1001)
    for number in range(20):
        known.remember_same(f"pair-{number}", same, files, objects)
        with sqlite3.connect(known.folder / "catalog.db") as db:
            [(count,)] = db.execute("SELECT count(*) FROM pairs")
        db.close()
        assert min(2 * number + 2, 9) <= count <= 10
    today = int(time.time()) // DAY_S
    monkeypatch.setattr(_known, "_today", lambda: today + 91)
    known.remember_same("last", same, files, objects)
    with sqlite3.connect(known.folder / "catalog.db") as db:
        assert {pair for (pair,) in db.execute("SELECT pair FROM pairs")} == {"last"}
    db.close()


def test_the_folder_is_the_user_s_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("ASYNCSTORE_CACHE_DIR", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "asyncstore"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "asyncstore"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "asyncstore"
    monkeypatch.setenv("ASYNCSTORE_CACHE_DIR", "~/mine")
    assert cache_folder() == Known().folder == tmp_path / "mine"
    monkeypatch.setenv("ASYNCSTORE_CACHE_DIR", "mine")
    assert cache_folder() == Path.cwd() / "mine"


def test_keys_that_cut_what_is_known_into_ranges(known: Known) -> None:
    assert known.cuts_at("place", "run/", least=10, most=4) == []
    keys = [f"run/{number:03d}" for number in range(100)]
    objects = [(key, '"e"', 10, digest(1)) for key in [*keys, "rum", "run", "run-2/a", "ruo"]]
    known.remember_objects("place", objects)
    assert known.cuts_at("place", "run/", least=100, most=4) == []
    assert known.cuts_at("place", "run/", least=99, most=4) == ["run/098"]
    assert known.cuts_at("place", "run/", least=25, most=4) == ["run/024", "run/049", "run/074"]
    assert known.cuts_at("place", "run/", least=10, most=4) == ["run/029", "run/059", "run/089"]
    assert known.cuts_at("elsewhere", "run/", least=10, most=4) == []


def test_a_file_under_many_names_is_known_under_each(known: Known) -> None:
    names = [f"f{number}" for number in range(2000)]
    twins = [local_file(1)._replace(name=name) for name in names]
    remember(known, [(twins[0], digest(1))])
    assert known.digests_of(twins) == dict.fromkeys(names, digest(1))
    other = local_file(1, size_bytes=11)._replace(name="other")
    assert known.digests_of([*twins, other]) == dict.fromkeys(names, digest(1))
