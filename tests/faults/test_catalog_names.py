"""Names of files: every one that can be kept goes round, every other one is refused before the first byte moves."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from hypothesis import strategies as st

from asyncstore.catalog import S3Catalog
from asyncstore.errors import UnsafePathError
from asyncstore.testing.s3_stub._content import Content
from asyncstore.testing.s3_stub._storage import StoredObject
from tests._catalog_victims import sha256, write
from tests._processes import short_or_full
from tests._watched import WatchedStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

RUN = "run"
KEY_LIMIT_BYTES = 1024
SEGMENT_LIMIT_BYTES = 255

ODD = [
    *"%#?+&=;:@!$'()*[]{}|~^`\"<>, .-_é",
    "e\u0301",
    "ß",
    "SS",
    "İ",
    "日本",
    "🙂",
    "\u200b",
    "\u202e",
    "\u00a0",
    "\x80",
]
WORDS = [
    "a",
    "A",
    "data",
    "Data",
    "CON",
    "nul.txt",
    ".hidden",
    "..a",
    "a..",
    "-rf",
    "~",
    "~root",
    "%2F",
    "%00",
    "asyncstore",
    ".git",
]

segments = st.one_of(
    st.sampled_from(WORDS),
    st.lists(
        st.one_of(st.sampled_from(ODD), st.characters(exclude_categories=["Cs", "Cc"])), min_size=1, max_size=12
    ).map("".join),
    st.sampled_from(["x" * SEGMENT_LIMIT_BYTES, "é" * 127, "🙂" * 63]),
).filter(lambda segment: segment not in {".", ".."} and not {"/", "\\"} & set(segment))

names = (
    st.lists(segments, min_size=1, max_size=5)
    .map("/".join)
    .filter(lambda name: len(f"{RUN}/data/{name}".encode()) <= KEY_LIMIT_BYTES and name[1:2] != ":")
)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, bytes]:
    """Files of odd names, none of which is a folder of another one."""
    found: dict[str, bytes] = {}
    for name in draw(st.lists(names, min_size=1, max_size=12)):
        beside = any(f"{other}/".startswith(f"{name}/") or f"{name}/".startswith(f"{other}/") for other in found)
        too_long = any(len(segment.encode()) > SEGMENT_LIMIT_BYTES for segment in name.split("/"))
        if not beside and not too_long:
            found[name] = draw(st.binary(max_size=20))
    return found


@asynccontextmanager
async def catalog_on(stub: WatchedStub) -> AsyncIterator[S3Catalog]:
    """Give a catalog on an empty bucket."""
    async with S3Catalog(**stub.make_bucket("data").options, max_concurrency=8) as catalog:
        yield catalog


def read(folder: Path) -> dict[str, bytes]:
    """Read all files."""
    paths = [Path(parent, name) for parent, _, bases in os.walk(folder) for name in bases]
    return {os.path.relpath(path, folder): path.read_bytes() for path in paths}


@hypothesis.settings(max_examples=short_or_full(25, 400))
@hypothesis.given(trees())
@hypothesis.example({"a/B": b"1", "A/b": b"2", "a/b": b"3", "A/B": b""})
@hypothesis.example({"/".join(["x" * 250] * 4 + ["y" * 10]): b"long"})
async def test_all_names_that_can_be_kept_go_round(tree: Mapping[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write(folder / "source", tree)
        (folder / "source").mkdir(exist_ok=True)
        digests = {f"data/{name}": sha256(contents) for name, contents in tree.items()}
        async with WatchedStub() as stub, catalog_on(stub) as catalog:
            put = await catalog.put("**", RUN, local_folder=folder / "source", allow_no_match=not tree)
            assert {entry.name: entry.data_hash for entry in put} == digests
            stored = stub.storage.bucket("data").objects
            assert {key: one.body for key, one in stored.items()} == {f"{RUN}/data/{k}": v for k, v in tree.items()}
            if not tree:
                return
            assert {entry.name: entry.data_hash async for entry in catalog.list(RUN)} == digests
            await catalog.get("**", RUN, local_folder=folder / "target")
            assert read(folder / "target") == tree
            assert (await catalog.verify(RUN)).verified == sorted(digests)
            synced = await catalog.sync_between_runs(RUN, "two")
            assert {entry.name for entry in synced} == {name for name in digests if not name.endswith(".execution.log")}
            await catalog.get("**", "two", local_folder=folder / "again")
            assert read(folder / "again") == tree
            await catalog.delete(RUN)
            assert {key for key in stored if key.startswith(f"{RUN}/")} == set()
            assert len(stored) == len(tree)


LONG = "/".join(["x" * 200] * 4)

UNSAFE_HERE = [
    "back\\slash",
    "C:drive",
    "tab\there",
    "new\nline",
    "sub/bell\x07",
    "\x7f",
    ".~asyncstore-0123456789abcdef0",
    "sub/.~asyncstore-x/file",
    os.fsdecode(b"\xff\xfe"),
    f"{LONG}/{'y' * 212}",
]


@pytest.mark.parametrize("name", UNSAFE_HERE, ids=ascii)
@pytest.mark.parametrize("dry", [True, False])
async def test_a_name_that_cannot_be_kept_is_refused_before_anything_is_put(
    tmp_path: Path, name: str, dry: bool
) -> None:
    write(tmp_path / "source", {"a": b"a", "z/z": b"z"})
    write(tmp_path / "source", {name: b"bad"})
    async with WatchedStub() as stub, catalog_on(stub) as catalog:
        if dry:
            plan = await catalog.put("**", RUN, local_folder=tmp_path / "source", dry_run=True)
            assert [file.name for file in plan.files if file.action == "refuse"] == [name]
            with pytest.raises(UnsafePathError, match="nothing was moved"):
                await catalog.run(plan)
        else:
            with pytest.raises(UnsafePathError, match="nothing was moved"):
                await catalog.put("**", RUN, local_folder=tmp_path / "source")
        assert not stub.storage.bucket("data").objects
        # Its neighbours may go without it.
        await catalog.put(["a", "z/*"], RUN, local_folder=tmp_path / "source")
        assert len(stub.storage.bucket("data").objects) == 2


UNSAFE_THERE = [
    "../out",
    "sub/../../out",
    "sub/..",
    "./here",
    "sub//empty",
    "/absolute",
    "C:\\drive",
    "c:drive",
    "back\\slash",
    "tab\there",
    "sub/bell\x07",
    ".~asyncstore-0123456789abcdef",
    f"sub/{'x' * 256}",
    f"{'é' * 128}",
    "a/below a file",
]


@pytest.mark.parametrize("name", UNSAFE_THERE, ids=ascii)
@pytest.mark.parametrize("verb", ["get", "dry", "verify", "sync"])
async def test_a_key_that_makes_no_safe_name_is_refused_before_anything_is_got(
    tmp_path: Path, name: str, verb: str
) -> None:
    async with WatchedStub() as stub, catalog_on(stub) as catalog:
        content = stub.storage.bucket("data")
        for key in ("a", name):
            content.put(f"{RUN}/data/{key}", StoredObject(Content.of(b"x"), '"e"'))
        if verb == "get":
            with pytest.raises(UnsafePathError):
                await catalog.get("**", RUN, local_folder=tmp_path / "target")
        elif verb == "dry":
            try:
                plan = await catalog.get("**", RUN, local_folder=tmp_path / "target", dry_run=True)
            except UnsafePathError:
                # The listing itself may be refused.
                pass
            else:
                assert [file.name for file in plan.files if file.action == "refuse"]
                with pytest.raises(UnsafePathError):
                    await catalog.run(plan)
        assert not stub.requests_for("GetObject")
        assert not os.listdir(tmp_path)


async def test_names_that_differ_in_case_only_are_two_files_here(tmp_path: Path) -> None:
    tree = {"a/x": b"1", "A/x": b"2", "a/X": b"3", "é": b"4", "e\u0301": b"5", "ß": b"6", "ss": b"7"}
    write(tmp_path / "source", tree)
    if read(tmp_path / "source") != tree:
        pytest.skip("this file system takes some of these names for one")
    async with WatchedStub() as stub, catalog_on(stub) as catalog:
        await catalog.put("**", RUN, local_folder=tmp_path / "source")
        await catalog.get("**", RUN, local_folder=tmp_path / "target")
        assert read(tmp_path / "target") == tree
        shutil.rmtree(tmp_path / "target")
        await catalog.get("a/*", RUN, local_folder=tmp_path / "target")
        assert read(tmp_path / "target") == {"a/x": b"1", "a/X": b"3"}


@pytest.mark.parametrize("size", [KEY_LIMIT_BYTES, KEY_LIMIT_BYTES + 1])
async def test_the_longest_key(tmp_path: Path, size: int) -> None:
    room = size - len(f"{RUN}/data/{LONG}/")
    name = f"{LONG}/{'é' * (room // 2)}{'y' * (room % 2)}"
    write(tmp_path / "source", {name: b"x"})
    async with WatchedStub() as stub, catalog_on(stub) as catalog:
        if size > KEY_LIMIT_BYTES:
            with pytest.raises(UnsafePathError, match=f"a key of {size} bytes"):
                await catalog.put("**", RUN, local_folder=tmp_path / "source")
            return
        await catalog.put("**", RUN, local_folder=tmp_path / "source")
        await catalog.get("**", RUN, local_folder=tmp_path / "target")
        assert read(tmp_path / "target") == {name: b"x"}
        # The other run's name is longer, and would make the key too long.
        with pytest.raises(UnsafePathError, match="a key of"):
            await catalog.sync_between_runs(RUN, f"{RUN}-other")


@pytest.mark.parametrize(
    "name", ["back\\slash", "tab\there", "C:drive", "sub/\x7f/deep", os.fsdecode(b"\xff")], ids=ascii
)
async def test_an_empty_folder_that_cannot_be_kept_is_refused_like_a_file(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"a": b"a"})
    (tmp_path / name).mkdir(parents=True)
    async with WatchedStub() as stub, catalog_on(stub) as catalog:
        plan = await catalog.put("**", RUN, local_folder=tmp_path, dry_run=True)
        assert [file.name for file in plan.files if file.action == "refuse"] == [f"{name}/.asyncstore"]
        for call in (catalog.run(plan), catalog.put("**", RUN, local_folder=tmp_path)):
            with pytest.raises(UnsafePathError, match="nothing was moved"):
                await call
        assert not stub.storage.bucket("data").objects
