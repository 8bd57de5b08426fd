"""Copies inside of S3 that obstore has no way to make: with a storage class, a key, tags, or above 5 GiB."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from asyncstore._core.retry import retrying
from asyncstore.errors import ConflictError
from asyncstore.objects._errors import NoSuchUploadError
from asyncstore.objects._large._multipart import MIB, Part, PartwiseUpload, plan_parts
from asyncstore.objects._obstore import canonical_etag
from asyncstore.objects._s3._messages import (
    PartDone,
    copied_etag,
    copy_source,
    kept_headers,
    metadata_headers,
    tags_header,
)
from asyncstore.objects._s3._requests import Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from asyncstore.errors import AsyncStoreError
    from asyncstore.objects._large._multipart import Settle
    from asyncstore.objects._large._uploads import Run, UploadRequests
    from asyncstore.objects._s3._wire import Sender
    from asyncstore.objects.base import Transfer

__all__ = ["COPY_LIMIT_BYTES", "Copy"]

COPY_LIMIT_BYTES = 5 * 1024 * MIB
"""Objects above this are copied in parts: no server takes more at once."""
COPY_PART_BYTES = 1024 * MIB

TOO_LARGE = ("InvalidRequest", "EntityTooLarge")
"""What a server answers to a copy of more than it takes at once."""


@dataclass(frozen=True, slots=True)
class Copy:
    """
    A copy inside of a bucket.

    Args:
        bucket: its name.
        source: what is copied.
        target: the copy's key.
        at: where a key is, for messages.
        if_match: the form in which an ETag is said, if at all.
        headers: what every write says of its object.
        metadata: user metadata that every object gets, over that of the source.
        transfer: how the requests fit in with others.
    """

    bucket: str
    source: str
    target: str
    at: Callable[[str], str]
    if_match: Callable[[str], str]
    headers: Mapping[str, str]
    metadata: Mapping[str, str]
    transfer: Transfer

    async def whole(self, requests: UploadRequests, run: Run) -> None:
        """
        Copy it in one request.

        Raises:
            NotFoundError: no such source.
        """
        headers = {**self.headers, "x-amz-copy-source": copy_source(self.bucket, self.source)}
        found: Mapping[str, str] = {}
        if self.metadata:
            found = (await requests.head(self.source)).headers
            headers |= self._described(found) | {"x-amz-metadata-directive": "REPLACE"}
        if "x-amz-tagging" in headers:
            headers["x-amz-tagging-directive"] = "REPLACE"

        def work(unless: Mapping[str, str], sender: Sender) -> str:
            request = Request("PUT", self.target, self._what, headers={**headers, **unless})
            return copied_etag(sender.send(request).body, self._what)

        async def once(unless: Mapping[str, str]) -> None:
            async with self.transfer.admit(0):
                await run("copy", self.source, partial(work, unless), names=[self.target])

        await self._unless_replaced(requests, found, lambda unless: retrying(partial(once, unless), requests.retry))

    async def in_parts(self, requests: UploadRequests, settle: Settle) -> None:
        """
        Copy it in ranges, at the same time.

        Raises:
            NotFoundError: no such source.
            ConflictError: it was replaced meanwhile.
        """
        found = (await requests.head(self.source)).headers
        headers = {**self._described(found), **self.headers}
        if found.get("x-amz-tagging-count", "0") != "0" and "x-amz-tagging" not in headers:
            headers["x-amz-tagging"] = await self._tags(requests)
        parts = plan_parts(int(found["content-length"]), part_bytes=COPY_PART_BYTES)

        async def copy(unless: Mapping[str, str]) -> None:
            upload = PartwiseUpload(
                requests,
                self.target,
                parts,
                partial(self._send, unless),
                headers,
                self.transfer,
                settle,
                confirm=partial(self._check_source, requests, found),
                moves=False,
            )
            await upload.run()

        await self._unless_replaced(requests, found, copy)

    async def was_too_large(self, requests: UploadRequests, error: AsyncStoreError) -> bool:
        """Tell whether a copy in one request failed with ``error`` because the source is too large for that."""
        if not any(code in str(error) for code in TOO_LARGE):
            return False
        return int((await requests.head(self.source)).headers["content-length"]) > COPY_LIMIT_BYTES

    def _send(self, unless: Mapping[str, str], sender: Sender, part: Part, upload_id: str) -> PartDone:
        headers = {
            **unless,
            "x-amz-copy-source": copy_source(self.bucket, self.source),
            "x-amz-copy-source-range": f"bytes={part.start}-{part.end - 1}",
        }
        query = {"partNumber": str(part.number), "uploadId": upload_id}
        reply = sender.send(Request("PUT", self.target, self._what, query, headers))
        return PartDone(part.number, copied_etag(reply.body, self._what))

    async def _check_source(self, requests: UploadRequests, found: Mapping[str, str]) -> None:
        """
        Do nothing if the source is still the version of these headers.

        Raises:
            ConflictError: it is not; servers that ignore conditions have made parts of both.
        """
        if _version((await requests.head(self.source)).headers) != _version(found):
            raise ConflictError(f"{self._what}: it was replaced meanwhile")

    async def _unless_replaced(
        self,
        requests: UploadRequests,
        found: Mapping[str, str],
        copy: Callable[[Mapping[str, str]], Awaitable[None]],
    ) -> None:
        """Copy, saying which version is meant; but without a word of it where that is refused though it is right."""
        etag = canonical_etag(found.get("etag"))
        # Said also where it is known that reads and puts ignore it: copies may not.
        unless = {"x-amz-copy-source-if-match": self.if_match(etag) or etag} if etag else {}
        try:
            await copy(unless)
        except ConflictError as error:
            if not unless or isinstance(error.__cause__, NoSuchUploadError):
                raise
            # Perhaps it was said in a form that this server does not know.
            await self._check_source(requests, found)
            await copy({})

    async def _tags(self, requests: UploadRequests) -> str:
        what = f"read the tags of {self.at(self.source)}"

        def work(sender: Sender) -> str:
            return tags_header(sender.send(Request("GET", self.source, what, {"tagging": ""})).body, what)

        return await retrying(lambda: requests.run("read", self.source, work), requests.retry)

    def _described(self, found: Mapping[str, str]) -> dict[str, str]:
        """Return what makes the copy like its source, and ours besides."""
        return kept_headers(found) | metadata_headers(self.metadata)

    @property
    def _what(self) -> str:
        return f"copy {self.at(self.source)}"


def _version(found: Mapping[str, str]) -> str:
    return canonical_etag(found.get("etag")) or f"{found.get('last-modified')} {found['content-length']}"
