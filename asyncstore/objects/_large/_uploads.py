"""The requests that multipart uploads are made of, each of them retried alone."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore.errors import AsyncStoreError, NotFoundError, UnavailableError
from asyncstore.objects._errors import DamagedError, NoSuchUploadError, no_answer
from asyncstore.objects._obstore import canonical_etag
from asyncstore.objects._s3._messages import (
    META_PREFIX,
    completed_etag,
    completion,
    next_page,
    parts_page,
    upload_id,
    uploads_page,
)
from asyncstore.objects._s3._requests import Request
from asyncstore.objects.base import PUT_ID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from asyncstore.objects._s3._messages import PartDone
    from asyncstore.objects._s3._requests import Reply
    from asyncstore.objects._s3._wire import Sender
    from asyncstore.objects.base import PendingUpload

__all__ = ["Run", "UploadRequests", "lane_of", "sending"]

R = TypeVar("R")

PAGE = "1000"


class Run(Protocol):
    """Calls ``work`` in a thread, with what sends its requests; if cancelled, ``names`` stay taken until it is over."""

    def __call__(
        self, verb: str, key: str, work: Callable[[Sender], R], *, names: Collection[str] = ()
    ) -> Awaitable[R]:
        """Return what ``work`` returns."""
        ...


@dataclass(frozen=True, slots=True)
class UploadRequests:
    """The requests about the uploads of one bucket."""

    run: Run
    at: Callable[[str], str]
    """Says where a key is, for messages."""
    retry: RetryPolicy

    async def begin(self, key: str, headers: Mapping[str, str], begun: Callable[[str], None]) -> str:
        """Return the id of a new upload; ``begun`` is called with it in the thread that has it first."""

        def work(sender: Sender) -> str:
            what = f"begin to put {self.at(key)}"
            found = upload_id(sender.send(Request("POST", key, what, {"uploads": ""}, headers)).body, what)
            begun(found)
            return found

        return await retrying(lambda: self.run("begin", key, work), self.retry)

    async def parts(self, key: str, upload: str) -> dict[int, PartDone]:
        """
        Return the parts that the storage has, by number.

        Raises:
            NotFoundError: it is over.
        """
        found: dict[int, PartDone] = {}
        what = f"list the parts of {self.at(key)}"
        marker: dict[str, str] | None = {}
        while marker is not None:
            reply = await self._send(Request("GET", key, what, {"uploadId": upload, "max-parts": PAGE, **marker}))
            page, following = parts_page(reply.body, what)
            found |= {part.number: part for part in page}
            marker = next_page(marker, following, what)
        return found

    async def complete_once(self, key: str, upload: str, parts: Sequence[PartDone]) -> str:
        """Make the object of the parts, and return its ETag; a single attempt."""
        what = f"put {self.at(key)}"

        def work(sender: Sender) -> str:
            reply = sender.send(Request("POST", key, what, {"uploadId": upload}, body=completion(parts)))
            return completed_etag(reply.body, what)

        return await self.run("put", key, work, names=[key, lane_of(key, upload)])

    async def abort(self, key: str, upload: str) -> None:
        """End an upload and free its parts; nothing if it is over."""
        with contextlib.suppress(NotFoundError):
            await self._send(Request("DELETE", key, f"abort the upload of {self.at(key)}", {"uploadId": upload}))

    async def list(self, prefix: str) -> list[PendingUpload]:
        """Return the uploads of all keys that begin with ``prefix``."""
        found: list[PendingUpload] = []
        what = f"list the uploads to {self.at(prefix)}"
        asked = {"uploads": "", "prefix": prefix, "max-uploads": PAGE, "encoding-type": "url"}
        marker: dict[str, str] | None = {}
        with contextlib.suppress(NoSuchUploadError):
            # rclone says so of a bucket that has never had one.
            while marker is not None:
                reply = await self._send(Request("GET", "", what, {**asked, **marker}))
                page, following = uploads_page(reply.body, what)
                found += page
                marker = next_page(marker, following, what)
        return found

    async def head(self, key: str) -> Reply:
        """Return what the storage says of an object, in headers."""
        return await self._send(Request("HEAD", key, f"head {self.at(key)}"))

    async def etag_if_marked(self, key: str, put_id: str) -> str:
        """Return the ETag of the object that is there if it bears that mark; if not, or if it cannot be told, none."""
        try:
            reply = await self.head(key)
        except AsyncStoreError:
            return ""
        marks = {name.replace("_", "-"): value for name, value in reply.headers.items()}
        return canonical_etag(reply.headers.get("etag")) if marks.get(f"{META_PREFIX}{PUT_ID}") == put_id else ""

    async def _send(self, request: Request) -> Reply:
        verb = request.what.partition(" ")[0]
        return await retrying(lambda: self.run(verb, request.key, lambda sender: sender.send(request)), self.retry)


async def sending(once: Callable[[], Awaitable[R]], retry: RetryPolicy) -> R:
    """
    Return what ``once()`` returns, which sends bytes of a source that vouches for them; see :func:`retrying`.

    Raises:
        IntegrityError: they arrived damaged at each attempt.
    """

    async def attempt() -> R:
        try:
            return await once()
        except DamagedError as error:
            # It happened on the way.
            raise no_answer(str(error), sent=False) from error

    try:
        return await retrying(attempt, retry)
    except UnavailableError as error:
        if isinstance(error.__cause__, DamagedError):
            raise error.__cause__ from None
        raise


def lane_of(key: str, upload: str) -> str:
    """Return under which name the requests of one upload are known while they are under way."""
    return f"{key}?uploadId={upload}"
