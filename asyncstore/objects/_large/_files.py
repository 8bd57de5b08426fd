"""Local files on their way to S3: whole in one request, or in parts that a later upload can go on with."""

from __future__ import annotations

import base64
import zlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from asyncstore._core.threads import in_thread
from asyncstore.errors import ConfigurationError, IntegrityError
from asyncstore.objects._errors import DamagedError
from asyncstore.objects._large._journal import journal_name, open_journal
from asyncstore.objects._large._multipart import Part, PartwiseUpload, plan_parts
from asyncstore.objects._large._uploads import sending
from asyncstore.objects._obstore import canonical_etag
from asyncstore.objects._s3._messages import PartDone
from asyncstore.objects._s3._requests import Request, Stream
from asyncstore.objects.bodies import SummedBody

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from asyncstore.objects._large._journal import Journal
    from asyncstore.objects._large._multipart import Settle
    from asyncstore.objects._large._uploads import Run, UploadRequests
    from asyncstore.objects._s3._requests import Reply
    from asyncstore.objects._s3._wire import Sender
    from asyncstore.objects.base import Transfer
    from asyncstore.objects.bodies import FileBody

__all__ = ["FileUpload"]

CRC32 = "x-amz-checksum-crc32"


@dataclass(slots=True)
class FileUpload:
    """
    A file on its way to a key.

    Args:
        key: where it goes.
        file: what is sent.
        headers: what is said of the object.
        at: where the key is, for messages.
        checksums: whether the storage compares checksums; if so, each request brings one: that which the file is known
            to have had, or else one that is computed beforehand.
        transfer: how the requests fit in with others.
    """

    key: str
    file: FileBody
    headers: Mapping[str, str]
    at: str
    checksums: bool
    transfer: Transfer
    _sums: dict[int, str] = field(init=False, default_factory=dict)

    async def whole(self, requests: UploadRequests, run: Run) -> str:
        """Put it in one request, and return its ETag."""
        size_bytes = self.file.size_bytes
        everything = Part(1, 0, size_bytes)

        def work(sender: Sender) -> str:
            headers = {**self.headers, **self._checksum(sender, everything)}
            reply = self._put(sender, everything, f"put {self.at}", {}, headers)
            return canonical_etag(reply.headers.get("etag"))

        async def once() -> str:
            async with self.transfer.admit(size_bytes):
                return await run("put", self.key, work, names=[self.key])

        etag = await sending(once, requests.retry)
        self.transfer.advanced(size_bytes)
        return etag

    async def in_parts(self, requests: UploadRequests, settle: Settle, *place: str) -> str:
        """Put it in parts, and return its ETag; ``place`` tells the storage from all others, for the journal."""
        parts = plan_parts(self.file.size_bytes)
        checksums = {"x-amz-checksum-algorithm": "CRC32"} if self.checksums else {}
        async with self._journal(*place, parts[0].size_bytes) as journal:
            upload = PartwiseUpload(
                requests,
                self.key,
                parts,
                self._send,
                {**self.headers, **checksums},
                self.transfer,
                settle,
                journal=journal,
            )
            return await upload.run()

    @asynccontextmanager
    async def _journal(self, *what: object) -> AsyncIterator[Journal | None]:
        folder = self.transfer.journals
        if folder is None or not self.file.fingerprint:
            yield None
            return
        name = journal_name(*what, self.key, self.file.fingerprint, self.file.size_bytes)
        opened: list[Journal] = []
        try:
            await in_thread(_open_into, opened, folder, name)
            yield opened[0] if opened else None
        finally:
            for journal in opened:
                await in_thread(journal.close)

    def _send(self, sender: Sender, part: Part, upload_id: str) -> PartDone:
        headers = self._checksum(sender, part)
        what = f"put part {part.number} of {self.at}"
        query = {"partNumber": str(part.number), "uploadId": upload_id}
        reply = self._put(sender, part, what, query, headers)
        if not (etag := canonical_etag(reply.headers.get("etag"))):
            raise ConfigurationError(f"{what}: the server does not say the ETag that is needed to complete the upload")
        return PartDone(part.number, etag, headers.get(CRC32, ""))

    def _put(
        self, sender: Sender, part: Part, what: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> Reply:
        blocks = self.file.blocks
        if CRC32 in headers and self._known_sum(part) is not None:
            assert isinstance(self.file, SummedBody)
            # The storage compares what arrives with what was hashed.
            blocks = self.file.unchecked_blocks
        body = Stream(part.size_bytes, partial(blocks, part.start, part.end))
        try:
            return sender.send(Request("PUT", self.key, what, query, headers, body))
        except DamagedError:
            # On its way, or in the file; if it was the file, no other attempt is of use.
            if CRC32 in headers and _encoded(self._read(sender, part)) != headers[CRC32]:
                raise IntegrityError(f"{self.file.name} changed while it was read") from None
            raise

    def _checksum(self, sender: Sender, part: Part) -> dict[str, str]:
        if not self.checksums:
            return {}
        if part.number not in self._sums:
            known = self._known_sum(part)
            self._sums[part.number] = _encoded(self._read(sender, part) if known is None else known)
        return {CRC32: self._sums[part.number]}

    def _known_sum(self, part: Part) -> int | None:
        return self.file.crc32(part.start, part.end) if isinstance(self.file, SummedBody) else None

    def _read(self, sender: Sender, part: Part) -> int:
        """Return the CRC32 of a part as it is now; a file that has changed is an error."""
        checksum = 0
        for block in self.file.blocks(part.start, part.end):
            sender.check()
            checksum = zlib.crc32(block, checksum)
        return checksum


def _encoded(crc32: int) -> str:
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


def _open_into(opened: list[Journal], folder: Path, name: str) -> None:
    # A caller that is cancelled meanwhile finds it here, and closes it.
    if (journal := open_journal(folder, name)) is not None:
        opened.append(journal)
