"""What a storage, or the way to it, may do to a file: it is detected or mended, and the other files are moved."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore._core.retry import RetryPolicy
from asyncstore.catalog import S3Catalog
from asyncstore.catalog._moving import _crew
from asyncstore.errors import (
    AccessDeniedError,
    AsyncStoreError,
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    UnavailableError,
)
from asyncstore.testing.s3_stub import Fault
from asyncstore.testing.s3_stub._content import Content
from asyncstore.testing.s3_stub._messages import Answer, S3Error
from asyncstore.testing.s3_stub._operations import perform
from tests._catalog_trees import KIB, MIB, digests_in, temp_files_in
from tests._catalog_victims import (
    OLD,
    RUN,
    SIZES,
    VICTIM,
    Scene,
    failing,
    random_bytes,
    sha256,
    stored_scene,
    watched_scene,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.catalog import TransferProgress
    from asyncstore.testing.s3_stub import Action
    from asyncstore.testing.s3_stub._messages import Request

KEY = f"{re.escape(VICTIM)}$"
GET = "GetObject"


def asked(scene: Scene, operation: str) -> int:
    """Return how many requests of a kind there were for the victim."""
    return sum(request.key == scene.key() for request in scene.stub.requests_for(operation))


# Downloads.


@pytest.mark.parametrize(
    ("size", "action", "nth", "kind"),
    [
        ("small", "flip_bit", 1, IntegrityError),
        ("medium", "flip_bit", 1, IntegrityError),
        ("large", "flip_bit", 3, IntegrityError),
        ("small", "other_object", 1, IntegrityError),
        ("medium", "other_object", 1, ConflictError),
        ("large", "other_object", 1, ConflictError),
        ("large", "other_object", 3, ConflictError),
        ("large", "whole_for_range", 1, IntegrityError),
        ("medium", "whole_for_range", 1, IntegrityError),
        ("large", "whole_for_range", 3, IntegrityError),
        ("medium", "wrong_range", 1, IntegrityError),
        ("large", "wrong_range", 2, IntegrityError),
    ],
)
async def test_what_is_not_what_was_put_never_appears(
    tmp_path: Path, size: str, action: Action, nth: int, kind: type[Exception]
) -> None:
    async with stored_scene(tmp_path, SIZES[size]) as scene:
        scene.stub.faults = [Fault(action, operation=GET, key=KEY, nth=nth)]
        error = await failing(scene.get(), kind, scene)
        assert VICTIM in str(error)
        scene.check_target(sha256(OLD))
        if action != "other_object":
            # What is wrong for a moment does not stay so.
            scene.stub.faults = []
            await scene.get()
            scene.check_target(scene.digests[VICTIM])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("action", ["truncate", "lose_answer", "lose_request", "error_after", "internal_error"])
async def test_an_answer_that_breaks_off_is_asked_for_again(tmp_path: Path, size: str, action: Action) -> None:
    async with stored_scene(tmp_path, SIZES[size]) as scene:
        scene.stub.faults = [Fault(action, operation=GET, key=KEY, times=2)]
        told: list[TransferProgress] = []
        await scene.get(on_progress=told.append)
        scene.check_target(scene.digests[VICTIM])
        assert asked(scene, GET) == 2 + -(-SIZES[size] // (8 * MIB))
        assert told[-1].retries == 2
        assert (told[-1].bytes_done, told[-1].files_done) == (told[-1].bytes_total, len(scene.tree))


async def test_only_what_is_missing_of_a_range_is_asked_for_again(tmp_path: Path) -> None:
    async with stored_scene(tmp_path, SIZES["large"]) as scene:
        scene.stub.faults = [Fault("truncate", operation=GET, key=KEY, times=3)]
        scene.stub.reset()
        await scene.get()
        others = sum(map(len, scene.tree.values())) - SIZES["large"]
        assert scene.stub.bytes_out[GET] <= SIZES["large"] + others + MIB


def meddling(scene: Scene, change: Callable[[Answer], Answer | None], nth: int) -> Callable[[Request], Answer | None]:
    """Return what changes answers that have bytes of the victim, from the ``nth``."""
    count = 0

    def answer(request: Request) -> Answer | None:
        nonlocal count
        if request.operation != GET or request.key != scene.key():
            return None
        count += 1
        return change(perform(scene.stub.storage, scene.stub.behaviour, request)) if count >= nth else None

    return answer


def other_etag(answer: Answer) -> Answer:
    return Answer(answer.status, answer.body, {**answer.headers, "ETag": '"00000000000000000000000000000000"'})


def other_range(answer: Answer) -> Answer:
    said = answer.headers["Content-Range"]
    first, last, total = map(int, re.findall(r"\d+", said))
    moved = f"bytes {first + 1}-{last + 1}/{total + 1}"
    return Answer(answer.status, answer.body, {**answer.headers, "Content-Range": moved})


def other_total(answer: Answer) -> Answer:
    said = answer.headers["Content-Range"].replace(f"/{SIZES['large']}", f"/{SIZES['large'] + 1}")
    return Answer(answer.status, answer.body, {**answer.headers, "Content-Range": said})


def no_range(answer: Answer) -> Answer:
    headers = {name: value for name, value in answer.headers.items() if name != "Content-Range"}
    return Answer(200, answer.body, headers)


def shorter(answer: Answer) -> Answer:
    body = answer.body if isinstance(answer.body, Content) else Content.of(answer.body)
    return Answer(answer.status, body.cut(0, body.size_bytes - 1), answer.headers)


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (other_etag, ConflictError),
        (other_range, IntegrityError),
        (other_total, ConflictError),
        (no_range, IntegrityError),
        (shorter, IntegrityError),
    ],
)
async def test_an_answer_that_speaks_of_something_else_is_refused(
    tmp_path: Path, change: Callable[[Answer], Answer], kind: type[Exception], nth: int
) -> None:
    async with stored_scene(tmp_path, SIZES["large"]) as scene:
        scene.stub.answer = meddling(scene, change, nth)
        await failing(scene.get(), kind, scene)
        scene.check_target(sha256(OLD))
        scene.stub.answer = lambda _: None
        await scene.get()
        scene.check_target(scene.digests[VICTIM])


async def test_a_small_object_that_comes_short_is_no_file(tmp_path: Path) -> None:
    async with stored_scene(tmp_path, SIZES["small"]) as scene:
        scene.stub.answer = meddling(scene, shorter, 1)
        await failing(scene.get(), IntegrityError, scene)
        scene.check_target(sha256(OLD))


@pytest.mark.parametrize("conditions", [True, False], ids=["heeded", "ignored"])
@pytest.mark.parametrize("after", [1, 2])
async def test_an_object_replaced_in_the_middle_is_not_mixed(tmp_path: Path, after: int, conditions: bool) -> None:
    async with stored_scene(tmp_path, SIZES["large"]) as scene:
        scene.stub.behaviour.ignores_conditions = not conditions
        new = random_bytes(SIZES["large"], seed=1)

        def note(request: Request) -> None:
            if request.operation == GET and request.key == scene.key() and asked(scene, GET) == after:
                replace_victim(scene, new)

        scene.stub.after = note
        await failing(scene.get(), ConflictError, scene)
        scene.check_target(sha256(OLD))
        await scene.get()
        scene.check_target(sha256(new))


@pytest.mark.parametrize("size", SIZES)
async def test_an_object_replaced_before_it_is_read_comes_whole(tmp_path: Path, size: str) -> None:
    async with stored_scene(tmp_path, SIZES[size]) as scene:
        new = random_bytes(SIZES[size] + 5, seed=1)
        plan = await scene.get(dry_run=True)
        replace_victim(scene, new)
        entries = await scene.catalog.run(plan)
        scene.check_target(sha256(new))
        assert {entry.name: entry.data_hash for entry in entries}[f"data/{VICTIM}"] == sha256(new)


@pytest.mark.parametrize("size", SIZES)
async def test_an_object_that_goes_away_before_it_is_read_fails_alone(tmp_path: Path, size: str) -> None:
    async with stored_scene(tmp_path, SIZES[size]) as scene:
        plan = await scene.get(dry_run=True)
        scene.content.delete(scene.key())
        error = await failing(scene.catalog.run(plan), NotFoundError, scene)
        assert scene.key() in str(error)
        scene.check_target(sha256(OLD))


@pytest.mark.parametrize("size_bytes", [4 * KIB, MIB])
async def test_an_object_that_never_comes_fails_alone_if_it_is_the_only_one_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    monkeypatch.setattr(_crew, "PATIENCE", RetryPolicy(attempts=2, initial_delay_s=0.05))
    async with stored_scene(tmp_path, size_bytes) as scene:
        like = [name for name, data in scene.tree.items() if (len(data) < MIB) == (size_bytes < MIB) and name != VICTIM]
        for name in like:
            scene.content.delete(scene.key(name))
            del scene.tree[name]
        scene.stub.faults = [Fault("internal_error", operation=GET, key=KEY)]
        await failing(scene.get(), UnavailableError, scene)
        scene.check_target(sha256(OLD))


async def test_a_file_that_never_goes_fails_alone_beside_empty_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_crew, "PATIENCE", RetryPolicy(attempts=2, initial_delay_s=0.05))
    async with watched_scene(tmp_path, MIB) as scene:
        for name in [name for name in scene.tree if name != VICTIM]:
            (scene.source / name).unlink()
            del scene.tree[name]
        scene.stub.faults = [Fault("internal_error", operation="PutObject", key=KEY)]
        await failing(scene.put(), UnavailableError, scene)
        assert scene.content.objects


def replace_victim(scene: Scene, data: bytes) -> None:
    """Do what another writer would."""
    scene.store(VICTIM, data)


# Uploads.

WRITES = {
    "small": ["PutObject"],
    "medium": ["PutObject"],
    "large": ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"],
}


@pytest.mark.parametrize(("size", "operation"), [(size, write) for size, writes in WRITES.items() for write in writes])
@pytest.mark.parametrize(
    "action", ["truncate", "lose_answer", "lose_request", "error_after", "internal_error", "slow_down", "conflict"]
)
async def test_a_write_that_gets_no_good_answer_is_made_again(
    tmp_path: Path, size: str, operation: str, action: Action
) -> None:
    async with watched_scene(tmp_path, SIZES[size]) as scene:
        scene.stub.faults = [Fault(action, operation=operation, key=KEY, times=2)]
        entries = await scene.put()
        assert {entry.name.removeprefix("data/"): entry.data_hash for entry in entries} == scene.digests
        assert scene.stored() == scene.digests
        # An upload of whose beginning no word came cannot be known; the sweep ends it.
        begun = operation == "CreateMultipartUpload" and action in {"truncate", "lose_answer", "error_after"}
        assert len(scene.content.uploads) <= 2 * begun
        assert not any(upload.parts for upload in scene.content.uploads.values())


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "CompleteMultipartUpload"])
async def test_a_garbled_answer_to_a_write_leaves_the_whole_file_or_none(tmp_path: Path, operation: str) -> None:
    async with watched_scene(tmp_path, SIZES["large"]) as scene:
        scene.stub.faults = [Fault("flip_bit", operation=operation, key=KEY, times=1)]
        with contextlib.suppress(AsyncStoreError):
            await scene.put()
        assert scene.stored().items() <= scene.digests.items()
        scene.stub.faults = []
        await scene.put()
        assert scene.stored() == scene.digests


# What concerns every file.


@pytest.mark.parametrize("verb", ["put", "get"])
@pytest.mark.parametrize("number", [1, 500])
async def test_a_denied_access_stops_at_once(tmp_path: Path, verb: str, number: int) -> None:
    async with stored_scene(tmp_path, SIZES["small"], max_concurrency=8) as scene:
        operation = {"put": "PutObject", "get": GET}[verb]
        write(scene.source, {f"more/{count:03}": b"x" * count for count in range(number)})
        if verb == "get":
            await scene.put()
        scene.stub.reset()
        scene.stub.behaviour.denied_operations = [operation]
        with pytest.raises(AccessDeniedError) as caught:
            await getattr(scene, verb)()
        # One for each request that was in flight, and none again.
        assert scene.stub.requests[operation] <= 2 * 8
        assert "files were done before" in "".join(caught.value.__notes__)
        assert not temp_files_in(scene.target)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("verb", ["put", "get"])
async def test_one_denied_object_stops_all_as_none_can_tell_what_else_is_denied(
    tmp_path: Path, verb: str, size: str
) -> None:
    async with stored_scene(tmp_path, SIZES[size]) as scene:
        if verb == "put":
            for key in list(scene.content.objects):
                scene.content.delete(key)
            denied = {"PutObject", "CreateMultipartUpload"}
        else:
            denied = {GET}
        refusal = S3Error(403, "AccessDenied").answer
        key = scene.key()
        scene.stub.answer = lambda request: refusal if request.operation in denied and request.key == key else None
        with pytest.raises(AccessDeniedError, match=VICTIM):
            await getattr(scene, verb)()
        expected = scene.stored() if verb == "put" else digests_in(scene.target)
        assert (expected.items() - {(VICTIM, sha256(OLD))}) <= scene.digests.items()
        assert not temp_files_in(scene.target)
        assert not scene.content.uploads
        scene.stub.answer = lambda _: None
        await getattr(scene, verb)()
        assert (scene.stored() if verb == "put" else digests_in(scene.target)) == scene.digests


@pytest.mark.parametrize("verb", ["put", "get", "list", "sync", "verify", "delete"])
@pytest.mark.parametrize("number", [1, 300])
async def test_a_bucket_that_is_not_there_is_told_at_once(tmp_path: Path, verb: str, number: int) -> None:
    write(tmp_path / "data", {f"{count:03}": b"x" * KIB for count in range(number)})
    async with watched_scene(tmp_path, 1) as scene:
        async with S3Catalog(**{**scene.options, "s3_bucket": "nowhere"}) as catalog:

            async def listed() -> list[Any]:
                return [entry async for entry in catalog.list(RUN)]

            calls: dict[str, Callable[[], Any]] = {
                "put": lambda: catalog.put("**", RUN, local_folder=tmp_path / "data"),
                "get": lambda: catalog.get("**", RUN, local_folder=tmp_path / "target"),
                "list": listed,
                "sync": lambda: catalog.sync_between_runs(RUN, "other"),
                "verify": lambda: catalog.verify(RUN),
                "delete": lambda: catalog.delete(RUN),
            }
            with pytest.raises(ConfigurationError, match="the bucket does not exist"):
                await calls[verb]()
        assert sum(scene.stub.requests.values()) <= 4
        assert not (tmp_path / "target").exists()


async def test_a_storage_that_goes_away_stops_all_and_leaves_no_temp_file(tmp_path: Path) -> None:
    async with stored_scene(tmp_path, SIZES["large"]) as scene:
        gone = asyncio.Event()

        def lose(request: Request) -> None:
            if asked(scene, GET) and not gone.is_set():
                gone.set()
                scene.stub.behaviour.denied = ["accesskey1"]

        scene.stub.after = lose
        with pytest.raises(AccessDeniedError):
            await scene.get()
        assert gone.is_set()
        assert not temp_files_in(scene.target)
        assert digests_in(scene.target)[VICTIM] == sha256(OLD)
