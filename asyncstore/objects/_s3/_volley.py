"""Small requests to S3: many at once in one thread, each an attempt."""

from __future__ import annotations

import contextlib
import re
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncstore.errors import AsyncStoreError, ClosedError, IntegrityError
from asyncstore.objects._obstore import canonical_etag
from asyncstore.objects._s3._messages import described, metadata_headers
from asyncstore.objects._s3._requests import Reply, Request
from asyncstore.objects._s3._wire import Errand
from asyncstore.objects.base import check_key
from asyncstore.objects.small import SmallGet, SmallHead, SmallPut, check_size

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from asyncstore.objects._s3._wire import Sender
    from asyncstore.objects.base import ObjectMeta
    from asyncstore.objects.small import Answer, Job, SmallVerb

__all__ = ["Volley"]

_SIZE = re.compile(r"[0-9]{1,18}")


class Volley:
    """
    The small requests of one call; see :class:`asyncstore.objects.small.SmallObjects`.

    Args:
        sender: what sends them.
        at: says where a key is, for messages.
        headers: what each write says.
        metadata: what each object gets.
    """

    def __init__(
        self, sender: Sender, at: Callable[[str], str], headers: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        self._sender = sender
        self._at = at
        self._headers = {**headers, **metadata_headers(metadata)}
        self._landing = threading.Lock()
        self._abandoned = False
        self._writing: dict[str, int] = {}

    @property
    def writing(self) -> Collection[str]:
        """Keys of objects on their way."""
        return tuple(self._writing)

    def run(self, jobs: Iterator[Job], at_once: Callable[[], int]) -> None:
        """Do jobs; see :class:`SmallObjects`."""
        self._sender.send_many(self._errands(jobs), at_once)

    @contextlib.contextmanager
    def landing(self) -> Iterator[None]:
        """Do what must not happen late; see :class:`SmallObjects`."""
        with self._landing:
            self._check()
            yield

    def abandon(self) -> None:
        """Let no more requests be made and nothing more land; waits for what is landing."""
        self._sender.hang_up()
        with self._landing:
            self._abandoned = True

    def _check(self) -> None:
        if self._abandoned:
            raise ClosedError("the caller was cancelled")

    def _errands(self, jobs: Iterator[Job]) -> Iterator[Errand]:
        for job in jobs:
            try:
                yield self._errand(job)
            except AsyncStoreError as error:
                job.settle(error)
                if self._abandoned:
                    # All further ones would be refused like this one.
                    return

    def _errand(self, job: Job) -> Errand:
        verb, key = job.verb, check_key(job.verb.key)
        settle = partial(self._settle, job)
        match verb:
            case SmallPut(_, data, metadata, digest):
                headers = {**self._headers, **metadata_headers(metadata)}
                request = Request("PUT", key, f"put {self._at(key)}", headers=headers, body=data, body_hash=digest)
                with self._landing:
                    self._check()
                    self._writing[key] = self._writing.get(key, 0) + 1
                return Errand(request, settle)
            case SmallGet(_, most_bytes):
                return Errand(Request("GET", key, f"get {self._at(key)}"), settle, most_bytes)
            case SmallHead():
                return Errand(Request("HEAD", key, f"head {self._at(key)}"), settle)

    def _settle(self, job: Job, reply: Reply | AsyncStoreError) -> None:
        answer: Any = reply
        if isinstance(reply, Reply):
            try:
                answer = _understood(job.verb, reply)
            except AsyncStoreError as error:
                answer = error
        job.settle(answer)
        if isinstance(job.verb, SmallPut):
            key = job.verb.key
            left = self._writing[key] = self._writing[key] - 1
            if not left:
                del self._writing[key]


def _understood(verb: SmallVerb, reply: Reply) -> Answer:
    match verb:
        case SmallPut():
            return canonical_etag(reply.headers.get("etag"))
        case SmallGet(key, most_bytes):
            meta = _described(key, reply, len(reply.data))
            check_size(meta, most_bytes)
            return meta, reply.data
        case SmallHead(key):
            return _described(key, reply, None)


def _described(key: str, reply: Reply, received: int | None) -> ObjectMeta:
    if received is not None and "content-length" not in reply.headers:
        return described(key, received, reply.headers)
    said = reply.headers.get("content-length", "")
    if not _SIZE.fullmatch(said):
        raise IntegrityError(f"head {key}: the server does not say how large it is")
    return described(key, int(said), reply.headers)
