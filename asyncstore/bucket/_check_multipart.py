"""Trying an upload in parts: one that is completed onto the test object, and one that is aborted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from asyncstore.bucket._check_objects import CONTENT, seen_answer
from asyncstore.bucket._check_verdict import OK, Seen
from asyncstore.errors import AsyncStoreError
from asyncstore.objects._s3._bucket import write_headers
from asyncstore.objects._s3._messages import PartDone, completion

if TYPE_CHECKING:
    from asyncstore.bucket._check_objects import TestObject, Try
    from asyncstore.bucket._check_plan import Plan
    from asyncstore.bucket._check_requests import Answer, Requests

__all__ = ["TestUploads"]

_UPLOAD = re.compile(r"<Upload>(.*?)</Upload>", re.DOTALL)
_ID = re.compile(r"<UploadId>([^<]+)</UploadId>")


class TestUploads:
    """
    Uploads to the key of the test object, and what is tried with them.

    Args:
        plan: what is to be tried.
        test_object: where they go.
        requests: sends what uploads consist of, as who uploads in parts.
        attempt: notes what was seen of a check, given its name and what tries it.
    """

    __test__ = False

    def __init__(self, plan: Plan, test_object: TestObject, requests: Requests, attempt: Try) -> None:
        self._plan = plan
        self._object = test_object
        self._requests = requests
        self._attempt = attempt
        self._key = test_object.key
        self._open: set[str] = set()
        self._begun = False
        self._part: PartDone | None = None

    async def run(self) -> None:
        """Try it all, step by step."""
        begun = await self._attempt("multipart create", self._create)
        if begun.outcome == "ok":
            await self._attempt("multipart part", self._send_part)
            await self._attempt("multipart list parts", self._list_parts)
            await self._attempt("multipart complete", self._complete)
            await self._attempt("multipart abort", self._abort_one)
        else:
            for name in ("part", "list parts", "complete", "abort"):
                await self._attempt(f"multipart {name}", self._skip)
        await self._attempt("multipart list", self._list)

    async def clean_up(self) -> list[str]:
        """End what may be open, by completing what may not be aborted; return what stays."""
        if self._begun:
            await self._find()
        return [f"the upload {upload} to {self._key}" for upload in sorted(self._open) if not await self._end(upload)]

    async def _skip(self) -> Seen:
        return Seen("skipped", "no upload could be begun")

    async def _create(self) -> Seen:
        if not self._object.deletable and not self._object.there:
            return Seen("skipped", "what is uploaded could not be deleted again")
        self._begun = True
        answer = await self._requests.send(
            "POST", self._key, {"uploads": ""}, write_headers(self._plan.settings), answered=self._note
        )
        if answer.ok and not self._open:
            return Seen("failed", "the server gives no id for the upload")
        return seen_answer(answer)

    def _note(self, answer: Answer) -> None:
        """Remember an upload, in the thread that learns of it: a caller who is cancelled would not."""
        if answer.ok and (found := _ID.search(answer.text)):
            self._open.add(found[1])

    async def _send_part(self) -> Seen:
        answer = await self._sent_part(self._upload)
        if answer.ok:
            self._part = PartDone(1, answer.headers.get("etag", ""))
        return seen_answer(answer)

    async def _list_parts(self) -> Seen:
        return seen_answer(await self._requests.send("GET", self._key, {"uploadId": self._upload, "max-parts": "1"}))

    async def _complete(self) -> Seen:
        if self._part is None:
            return Seen("skipped", "no part could be sent")
        return seen_answer(await self._completed(self._upload, self._part))

    async def _abort_one(self) -> Seen:
        """Abort the upload if it is still there, or else another one."""
        if not self._open:
            begun = await self._create()
            if begun.outcome != "ok":
                return begun
        return seen_answer(await self._aborted(self._upload))

    async def _list(self) -> Seen:
        asked = {"uploads": "", "prefix": self._key, "max-uploads": "1"}
        answer = await self._requests.send("GET", query=asked)
        # rclone says so of a bucket that has never had one.
        return OK if answer.code == "NoSuchUpload" else seen_answer(answer)

    @property
    def _upload(self) -> str:
        return min(self._open)

    async def _sent_part(self, upload: str) -> Answer:
        return await self._requests.send("PUT", self._key, {"partNumber": "1", "uploadId": upload}, body=CONTENT)

    async def _completed(self, upload: str, part: PartDone) -> Answer:
        self._object.there = True
        answer = await self._requests.send("POST", self._key, {"uploadId": upload}, body=completion([part]))
        self._object.note(answer)
        if answer.ok:
            self._open.discard(upload)
        return answer

    async def _aborted(self, upload: str) -> Answer:
        answer = await self._requests.send("DELETE", self._key, {"uploadId": upload})
        if answer.ok or answer.code == "NoSuchUpload":
            self._open.discard(upload)
        return answer

    async def _end(self, upload: str) -> bool:
        try:
            if (await self._aborted(upload)).denied:
                part = await self._sent_part(upload)
                if part.ok:
                    await self._completed(upload, PartDone(1, part.headers.get("etag", "")))
        except AsyncStoreError:
            return False
        return upload not in self._open

    async def _find(self) -> None:
        """Look for uploads whose ids did not arrive, as when an answer was lost and the request made again."""
        try:
            answer = await self._requests.send("GET", query={"uploads": "", "prefix": self._key})
        except AsyncStoreError:
            return
        if answer.ok:
            for upload in _UPLOAD.findall(answer.text):
                self._open |= {found[1] for found in [_ID.search(upload)] if found}
