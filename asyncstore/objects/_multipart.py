"""
Multipart uploads: a pure plan of the parts, and a small executor that aborts what it cannot finish.

Limits are S3's: parts of at least 5 MiB but the last, at most 10,000 of them, one PUT of at most 5 GiB
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncstore._core.concurrency import map_bounded, shielded
from asyncstore._core.retry import DEFAULT_RETRY, NO_RETRY, RetryPolicy, retrying
from asyncstore.errors import (
    AsyncStoreError,
    IntegrityError,
    InvalidValueError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)
from asyncstore.objects._boto import call
from asyncstore.objects._errors import from_file_error
from asyncstore.objects.base import PUT_ID

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["MultipartTarget", "Part", "plan_parts", "upload_file"]

MIB = 1024 * 1024
PART_BYTES = 8 * MIB
PART_LIMIT = 10_000
OBJECT_LIMIT_BYTES = 5 * 1024**4


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a file."""

    number: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class MultipartTarget:
    """Where an upload goes and with which parameters of CreateMultipartUpload."""

    client: Any
    bucket: str
    key: str
    create: Mapping[str, Any]
    """Its ``Metadata`` hold a put-id."""

    @property
    def what(self) -> str:
        """What is being done, for messages."""
        return f"put s3://{self.bucket}/{self.key}"


def plan_parts(size_bytes: int, *, part_bytes: int = PART_BYTES) -> list[Part]:
    """
    Cut a file into parts of ``part_bytes``, or of as many MiB more as keep their count within the limit.

    Raises:
        InvalidValueError: it is larger than an S3 object can be.
    """
    if size_bytes > OBJECT_LIMIT_BYTES:
        raise InvalidValueError(f"{size_bytes:,} bytes are more than the 5 TiB that an S3 object can hold")
    least = -(-size_bytes // PART_LIMIT)
    step = max(part_bytes, -(-least // MIB) * MIB)
    starts = range(0, max(size_bytes, 1), step)
    return [Part(number, start, min(start + step, size_bytes)) for number, start in enumerate(starts, 1)]


async def upload_file(
    target: MultipartTarget,
    path: Path,
    *,
    limit: int,
    retry: RetryPolicy = DEFAULT_RETRY,
    verify: Callable[[], None] | None = None,
) -> str:
    """
    Upload ``path`` in parts, at most ``limit`` at a time, and return the object's ETag.

    Each part is read, signed and retried alone. ``verify`` is called in a thread when all parts are up and none can be
    seen. Whatever stops the upload, cancellation too, aborts it on the server.

    Raises:
        IntegrityError: the file changed while it was read.
        OutcomeUnknownError: the answer to the completion was lost, and the object cannot be asked.
    """
    before = await asyncio.to_thread(_stat, path)
    upload_id = await _begin(target, retry)
    try:

        async def upload(part: Part) -> dict[str, Any]:
            body = await asyncio.to_thread(_read_part, path, part)
            answer = await _call(target, "upload_part", retry, UploadId=upload_id, PartNumber=part.number, Body=body)
            return {"PartNumber": part.number, "ETag": answer["ETag"]}

        parts = await map_bounded(upload, plan_parts(before.st_size), limit=limit)
        await asyncio.to_thread(_check_unchanged, path, before)
        if verify is not None:
            await asyncio.to_thread(verify)
        return await _complete(target, upload_id, parts, retry)
    except OutcomeUnknownError:
        # It may be about to land: aborting now could take it away again.
        raise
    except BaseException as error:
        await _abort(target, upload_id, error)
        raise


async def _begin(target: MultipartTarget, retry: RetryPolicy) -> str:
    """Return a new upload's id; if cancelled meanwhile, wait for the id and abort."""
    beginning = asyncio.create_task(_call(target, "create_multipart_upload", retry, **target.create))
    try:
        return str((await asyncio.shield(beginning))["UploadId"])
    except asyncio.CancelledError as error:
        with contextlib.suppress(AsyncStoreError, TimeoutError):
            await shielded(_settled(beginning))
        if beginning.done() and not beginning.cancelled() and beginning.exception() is None:
            await _abort(target, beginning.result()["UploadId"], error)
        raise


async def _settled(task: asyncio.Task[dict[str, Any]]) -> None:
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        raise


async def _complete(target: MultipartTarget, upload_id: str, parts: list[dict[str, Any]], retry: RetryPolicy) -> str:
    lost = False

    async def once() -> str:
        nonlocal lost
        try:
            answer = await _call(
                target, "complete_multipart_upload", NO_RETRY, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )
        except UnavailableError as error:
            lost = lost or error.answer_lost
            raise
        except NotFoundError:
            # No such upload: perhaps because an earlier attempt, whose answer was lost, has completed it.
            if lost and (etag := await _etag_if_mine(target, retry)):
                return etag
            raise
        return str(answer.get("ETag", ""))

    try:
        return await retrying(once, retry)
    except UnavailableError as error:
        if not lost:
            raise
        raise OutcomeUnknownError(f"{error}; the upload may have landed", target.key) from error


async def _etag_if_mine(target: MultipartTarget, retry: RetryPolicy) -> str | None:
    try:
        found = await _call(target, "head_object", retry)
    except NotFoundError:
        return None
    mine = found.get("Metadata", {}).get(PUT_ID) == target.create["Metadata"][PUT_ID]
    return str(found["ETag"]) if mine else None


async def _abort(target: MultipartTarget, upload_id: str, cause: BaseException) -> None:
    """Abort an upload; if that fails too, say so on ``cause``, which is what the caller needs to know first."""
    try:
        await shielded(_abort_once(target, upload_id))
    except (AsyncStoreError, TimeoutError) as error:
        cause.add_note(f"the multipart upload {upload_id} could not be aborted and keeps its parts: {error}")


async def _abort_once(target: MultipartTarget, upload_id: str) -> None:
    with contextlib.suppress(NotFoundError):
        await _call(target, "abort_multipart_upload", DEFAULT_RETRY, UploadId=upload_id)


async def _call(target: MultipartTarget, operation: str, retry: RetryPolicy, **parameters: Any) -> dict[str, Any]:
    return await call(target.client, operation, target.what, retry, Bucket=target.bucket, Key=target.key, **parameters)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise from_file_error(error, f"read {path}") from error


def _check_unchanged(path: Path, before: os.stat_result) -> None:
    after = _stat(path)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise IntegrityError(f"{path} changed while it was uploaded")


def _read_part(path: Path, part: Part) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(part.start)
            data = file.read(part.end - part.start)
    except OSError as error:
        raise from_file_error(error, f"read {path}") from error
    if len(data) != part.end - part.start:
        raise IntegrityError(f"{path} became shorter while it was uploaded")
    return data
