"""
Trying what stores do with objects: with one small test object, which is removed at the end.

All writes of it have the same bytes, so reads may go on beside them; writes go one after another. Where deleting is
denied no second object is made, and the one that is there stays.
"""

from __future__ import annotations

import base64
import secrets
import zlib
from contextlib import aclosing
from typing import TYPE_CHECKING

from asyncstore.bucket._check_requests import refusal_in
from asyncstore.bucket._check_verdict import OK, Seen
from asyncstore.bucket._check_versions import remove_versions
from asyncstore.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AsyncStoreError,
    ConfigurationError,
    NotFoundError,
)
from asyncstore.objects._errors import from_s3_code
from asyncstore.objects._s3._bucket import write_headers
from asyncstore.objects.base import NEW

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any

    from asyncstore.bucket._check_plan import Plan
    from asyncstore.bucket._check_requests import Answer, Refusal, Requests
    from asyncstore.objects.s3 import S3ObjectStore

    Try = Callable[[str, Callable[[], Coroutine[Any, Any, Seen]]], Coroutine[Any, Any, Seen]]

__all__ = ["NAME", "TestObject", "seen_answer", "seen_error"]

NAME = ".asyncstore-check-"
"""What the names of test objects begin with, below the prefix."""

CONTENT = b"asyncstore checks here what is allowed. This object can be deleted.\n"
SPAN = 11, 17
NO_BUCKET = "NoSuchBucket"
WRONG_ETAG = '"00000000000000000000000000000000"'


class TestObject:
    """
    The test object, and what is tried with it.

    Args:
        plan: what is to be tried.
        store: does what stores do.
        requests: says what the store has no way to say.
        attempt: notes what was seen of a check, given its name and what tries it.

    Attributes:
        key: the object's.
        no_key: that of an object which does not exist.
        there: whether it may be there.
        leftovers: keys of objects that may be there besides.
        deletable: whether objects can be deleted.
        versioned: whether the bucket is known to keep versions of them.
    """

    __test__ = False

    def __init__(self, plan: Plan, store: S3ObjectStore, requests: Requests, attempt: Try) -> None:
        self.key = f"{plan.prefix}{NAME}{secrets.token_hex(8)}"
        self.no_key = f"{self.key}-nothing"
        self.there = False
        self.leftovers: set[str] = set()
        self.deletable = True
        self.versioned = False
        self._wrote = False
        self._plan = plan
        self._store = store
        self._requests = requests
        self._attempt = attempt
        self._headers = write_headers(plan.settings)

    async def make(self) -> None:
        """Write the test object, remove it, and write it again, now on the condition that it is new."""
        self._wrote = True
        put = await self._attempt("put", self._put)
        self.deletable = (await self._attempt("delete", self._delete)).outcome == "ok"
        if put.outcome == "denied":
            await self._tell_apart()
        created = await self._attempt("conditional create", self._create)
        if not self.there and put.outcome == "ok" and created.outcome != "ok":
            await self._attempt("put", self._put)

    async def read(self) -> None:
        """Read the object in all ways."""
        for name, work in (("head", self._head), ("get", self._get), ("range", self._range), ("kms", self._kms)):
            await self._attempt(name, self._if_there(work))

    async def write(self) -> None:
        """Write it again in all ways."""
        for name, work in (("conditional match", self._match), ("checksum", self._checksum), ("copy", self._copy)):
            await self._attempt(name, self._if_there(work))

    async def look(self) -> None:
        """Ask for what needs no object."""
        await self._attempt("list", self._list)
        await self._attempt("absent key", self._absent)

    async def clean_up(self) -> list[str]:
        """Delete what may be there; return what stays."""
        keys = sorted({*self.leftovers, *({self.key} if self.there else ())})
        left = []
        for key in keys:
            try:
                await self._store.delete([key])
            except AsyncStoreError:
                left.append(key)
        return left

    async def remove_versions(self) -> str:
        """Remove what the bucket may keep of what was replaced and deleted; return what is known to stay."""
        stays = await remove_versions(self._requests, self.key) if self._wrote else ""
        return stays if self.versioned else ""

    def note(self, answer: Answer) -> None:
        """Learn from an answer whether there are versions."""
        if answer.headers.get("x-amz-version-id", "null") != "null":
            self.versioned = True

    async def _send(self, method: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        return await self._requests.send(method, self.key, headers=headers, body=body, answered=self.note)

    def _if_there(self, work: Callable[[], Coroutine[Any, Any, Seen]]) -> Callable[[], Coroutine[Any, Any, Seen]]:
        async def tried() -> Seen:
            return await work() if self.there else Seen("skipped", "there is no test object, as none could be written")

        return tried

    async def _put(self) -> Seen:
        self.there = True
        try:
            await self._store.put(self.key, CONTENT)
        except AccessDeniedError:
            self.there = False
            raise
        return OK

    async def _delete(self) -> Seen:
        await self._store.delete([self.key])
        self.there = False
        return OK

    async def _create(self) -> Seen:
        if not self.there:
            self.there = True
            try:
                await self._store.put(self.key, CONTENT, condition=NEW)
            except AsyncStoreError as error:
                self.there = not isinstance(error, AccessDeniedError | ConfigurationError)
                raise
        try:
            await self._store.put(self.key, CONTENT, condition=NEW)
        except AlreadyExistsError:
            return OK
        return Seen("unsupported", "the server ignores If-None-Match: use the layout 'chunked-s3'")

    async def _tell_apart(self) -> None:
        """Find out what a denied put lacks, by puts that say less."""
        tags = {name: said for name, said in self._headers.items() if name == "x-amz-tagging"}
        key = {name: said for name, said in self._headers.items() if "encryption" in name}
        rest = {name: said for name, said in self._headers.items() if name not in {*tags, *key}}
        for name, headers in (
            ("put without tags and key", rest),
            ("put without key", rest | tags),
            ("put without tags", rest | key),
        ):
            if self._plan.is_wanted(name):
                await self._attempt(name, lambda headers=headers: self._put_saying(headers))  # type: ignore[misc]

    async def _put_saying(self, headers: Mapping[str, str]) -> Seen:
        before, self.there = self.there, True
        answer = await self._send("PUT", headers, CONTENT)
        if answer.denied:
            self.there = before
        return seen_answer(answer)

    async def _list(self) -> Seen:
        async with aclosing(self._store.list(self._plan.prefix)) as pages:
            await anext(pages, None)
        return OK

    async def _head(self) -> Seen:
        found = await self._store.head(self.key)
        return OK if found.size_bytes == len(CONTENT) else Seen("failed", f"it says {found.size_bytes} bytes")

    async def _absent(self) -> Seen:
        try:
            await self._store.head(self.no_key)
        except NotFoundError:
            return OK
        return Seen("failed", "the server describes an object that does not exist")

    async def _get(self) -> Seen:
        _, data = await self._store.get(self.key)
        return OK if data == CONTENT else Seen("failed", "other bytes came than were written")

    async def _range(self) -> Seen:
        _, data = await self._store.get(self.key, byte_range=SPAN)
        return OK if data == CONTENT[slice(*SPAN)] else Seen("failed", "other bytes came than were asked for")

    async def _kms(self) -> Seen:
        answer = await self._send("HEAD")
        if not answer.ok:
            return Seen("skipped", "the object may not be looked at")
        if answer.headers.get("x-amz-server-side-encryption") != "aws:kms":
            return Seen("unsupported", "the server does not say that it encrypts with kms_key_arn")
        used = answer.headers.get("x-amz-server-side-encryption-aws-kms-key-id", "")
        return Seen("ok", f"encrypted with {used}" if used else "")

    async def _match(self) -> Seen:
        etag = (await self._store.head(self.key)).etag
        for form, said in (("", etag), ("without quotes", etag.strip('"'))):
            right = await self._put_if(said)
            if right.denied:
                return seen_answer(right)
            if not right.ok:
                continue
            wrong = await self._put_if(WRONG_ETAG.strip('"') if form else WRONG_ETAG)
            if wrong.ok:
                return Seen("unsupported", "the server ignores If-Match: use the layout 'chunked-s3'")
            return Seen("ok", f"the server wants ETags {form}" if form else "")
        return Seen("unsupported", "the server refuses If-Match with the right ETag: use the layout 'chunked-s3'")

    async def _put_if(self, etag: str) -> Answer:
        return await self._send("PUT", {**self._headers, "if-match": etag}, CONTENT)

    async def _checksum(self) -> Seen:
        wrong = base64.b64encode((zlib.crc32(CONTENT) ^ 1).to_bytes(4, "big")).decode()
        headers = {**self._headers, "x-amz-checksum-crc32": wrong}
        answer = await self._send("PUT", headers, CONTENT)
        if answer.denied:
            return seen_answer(answer)
        if answer.ok:
            return Seen("unsupported", "the server takes a wrong CRC32: bytes are not checked as they arrive")
        if answer.code in {"NotImplemented", "InvalidArgument"} or answer.status == 501:
            return Seen("unsupported", "the server takes no checksums: bytes are not checked as they arrive")
        return OK

    async def _copy(self) -> Seen:
        if not self.deletable:
            return Seen("skipped", "a copy could not be deleted again")
        target = f"{self.key}-copy"
        self.leftovers.add(target)
        await self._store.copy(self.key, target)
        return OK


def seen_answer(answer: Answer) -> Seen:
    """
    Return what an answer means: carried out, denied, not known to the server, or an error.

    Raises:
        ConfigurationError: there is no such bucket.
    """
    if answer.ok:
        return OK
    if answer.denied:
        return _denied(answer.refusal)
    if answer.code == NO_BUCKET:
        raise from_s3_code(NO_BUCKET, answer.status, "the bucket to be checked")
    said = f"{answer.code} ({answer.status})" if answer.code else f"HTTP {answer.status}"
    if answer.code in {"NotImplemented", "MethodNotAllowed"} or answer.status in {405, 501}:
        return Seen("unsupported", f"the server cannot do this: {said}")
    return Seen("failed", said)


def _denied(refusal: Refusal) -> Seen:
    return Seen("denied", action=refusal.action, forbidden_by=refusal.forbidden_by)


def seen_error(error: AsyncStoreError) -> Seen:
    """Return what an error of a store means; that there is no such bucket is raised again."""
    if NO_BUCKET in str(error):
        # Nothing else is worth being tried.
        raise error
    if isinstance(error, AccessDeniedError):
        # obstore keeps what the server said.
        return _denied(refusal_in(str(error.__cause__)))
    if isinstance(error, ConfigurationError) and "the server cannot do this" in str(error):
        return Seen("unsupported", "the server cannot do this")
    return Seen("failed", str(error))
