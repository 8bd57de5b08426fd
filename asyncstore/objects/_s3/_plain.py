"""Whole objects by our own requests: what obstore does otherwise, which signs by this machine's clock alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncstore.errors import AlreadyExistsError, AsyncStoreError, ConflictError, IntegrityError, NotFoundError
from asyncstore.objects._listing._pages import objects_page
from asyncstore.objects._obstore import canonical_etag
from asyncstore.objects._s3._messages import described, metadata_headers, next_page
from asyncstore.objects._s3._requests import Request
from asyncstore.objects._s3._wire import Errand
from asyncstore.objects.base import Listing, ObjectMeta

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from asyncstore.objects._large._uploads import Run
    from asyncstore.objects._s3._requests import Reply
    from asyncstore.objects._s3._wire import Sender

__all__ = ["PlainRequests"]

DELETES_AT_ONCE = 16

_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


@dataclass(frozen=True, slots=True)
class PlainRequests:
    """
    The requests about whole objects of one bucket, each a single attempt.

    Args:
        run: makes them.
        at: says where a key is, for messages.
        headers: what each write says.
        metadata: what each object gets.
    """

    run: Run
    at: Callable[[str], str]
    headers: Mapping[str, str]
    metadata: Mapping[str, str]

    async def put(self, key: str, data: bytes, mode: Any, metadata: Mapping[str, str] | None) -> str:
        """Write an object, in a mode of obstore's, and return its ETag."""
        condition = {"create": {"if-none-match": "*"}, "overwrite": {}}[mode] if isinstance(mode, str) else _match(mode)
        described_as = metadata_headers({**self.metadata, **(metadata or {})})
        headers = {**self.headers, **described_as, **condition}
        request = Request("PUT", key, f"put {self.at(key)}", headers=headers, body=data)
        try:
            reply = await self.run("put", key, lambda sender: sender.send(request), names=[key])
        except ConflictError as error:
            if mode == "create":
                raise AlreadyExistsError(str(error)) from error
            raise
        return canonical_etag(reply.headers.get("etag"))

    async def get(
        self, key: str, byte_range: tuple[int, int] | None, etag: str, if_match: str
    ) -> tuple[ObjectMeta, bytes]:
        """
        Read an object, or what there is of a range of it.

        Raises:
            ConflictError: it has another ETag than ``etag``, if that is not empty.
            IntegrityError: what came is not what was asked for.
        """
        what = f"get {self.at(key)}"
        headers = {"if-match": if_match} if if_match else {}
        if byte_range is not None:
            headers["range"] = f"bytes={byte_range[0]}-{byte_range[1] - 1}"
        request = Request("GET", key, what, headers=headers)

        def work(sender: Sender) -> tuple[ObjectMeta, bytes]:
            data = bytearray()
            reply = sender.send(request, lambda _: data.extend)
            start, end, size_bytes = _span(reply, byte_range, len(data), what)
            meta = described(key, size_bytes, reply.headers)
            if etag and meta.etag != etag:
                raise ConflictError(f"{what}: it was replaced meanwhile")
            if len(data) != end - start:
                raise IntegrityError(f"{what}: {len(data)} bytes came instead of {end - start}")
            return meta, bytes(data)

        return await self.run("get", key, work)

    async def head(self, key: str) -> ObjectMeta:
        """Describe an object."""
        request = Request("HEAD", key, f"head {self.at(key)}")
        reply = await self.run("head", key, lambda sender: sender.send(request))
        length = reply.headers.get("content-length", "")
        if not _LENGTH.fullmatch(length):
            raise AsyncStoreError(f"{request.what}: the answer does not say how large the object is")
        return described(key, int(length), reply.headers)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; one that is not there is no error."""
        failures: list[AsyncStoreError] = []

        def settle(answer: Reply | AsyncStoreError) -> None:
            if isinstance(answer, AsyncStoreError) and not isinstance(answer, NotFoundError):
                failures.append(answer)

        def work(sender: Sender) -> None:
            errands = (Errand(Request("DELETE", key, f"delete {self.at(key)}"), settle) for key in keys)
            sender.send_many(errands, lambda: DELETES_AT_ONCE)
            if failures:
                raise failures[0]

        await self.run("delete", keys[0], work, names=keys)

    async def list_folder(self, prefix: str) -> Listing:
        """List one level."""
        asked = {"list-type": "2", "delimiter": "/", "prefix": prefix, "encoding-type": "url"}
        what = f"list {self.at(prefix)}"

        def work(sender: Sender) -> Listing:
            folders: list[str] = []
            objects: list[ObjectMeta] = []
            marker: dict[str, str] | None = {}
            while marker is not None:
                page = objects_page(sender.send(Request("GET", "", what, {**asked, **marker})).body, what)
                folders += page.folders
                objects += page.objects
                marker = next_page(marker, page.following, what)
            return Listing(folders, objects)

        return await self.run("list", prefix, work)


def _match(mode: Mapping[str, str]) -> dict[str, str]:
    return {"if-match": mode["e_tag"]}


def _span(reply: Reply, byte_range: tuple[int, int] | None, length: int, what: str) -> tuple[int, int, int]:
    """Return which bytes should have come, and of how many."""
    if byte_range is None:
        return 0, int(reply.headers.get("content-length", length)), length
    found = _RANGE.fullmatch(reply.headers.get("content-range", ""))
    if found is None:
        raise IntegrityError(f"{what}: a range was asked for, and none came")
    start, last, size_bytes = map(int, found.groups())
    if start != byte_range[0] or last + 1 != min(byte_range[1], size_bytes):
        raise IntegrityError(f"{what}: another range came than was asked for")
    return start, last + 1, size_bytes
