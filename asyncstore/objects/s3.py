"""
Objects in an S3 bucket, on AWS or any server that speaks its protocol.

obstore carries small objects, deletes and copies. Listings, large files, reads in blocks, whatever needs an upload id
or headers that obstore cannot send, and all the rest where this machine's clock is wrong, go out over a wire of our
own. Both are configured from one :class:`AwsSettings`, take credentials from one provider, and never retry themselves:
the one retry layer is ours.
"""

from __future__ import annotations

import asyncio
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from asyncstore._core.concurrency import shielded
from asyncstore._core.retry import DEFAULT_RETRY, RetryPolicy
from asyncstore._core.threads import in_thread
from asyncstore.aws.credentials import CredentialProvider
from asyncstore.errors import AsyncStoreError, ConfigurationError, ConflictError, IntegrityError
from asyncstore.objects._errors import RangeIgnoredError
from asyncstore.objects._large._copies import COPY_LIMIT_BYTES, Copy
from asyncstore.objects._large._files import FileUpload
from asyncstore.objects._large._multipart import PART_BYTES
from asyncstore.objects._large._uploads import UploadRequests
from asyncstore.objects._listing._pages import Listing
from asyncstore.objects._listing._ranges import listed_at_once
from asyncstore.objects._s3._bucket import (
    bucket_url,
    check_bucket,
    confine,
    make_store,
    may_stray,
    read_ca_bundle,
    write_headers,
)
from asyncstore.objects._s3._endpoint import Endpoint
from asyncstore.objects._s3._leased import LeasedClient
from asyncstore.objects._s3._messages import metadata_headers
from asyncstore.objects._s3._plain import PlainRequests
from asyncstore.objects._s3._probe import Prober
from asyncstore.objects._s3._reading import RangeRead
from asyncstore.objects._s3._requests import NoConnectionError, Request
from asyncstore.objects._s3._signed import SignedObjectStore
from asyncstore.objects._s3._volley import Volley
from asyncstore.objects._s3._wire import Sender, Wire
from asyncstore.objects.base import ALONE, Capabilities, Condition, ObjectMeta, PendingUpload, Transfer
from asyncstore.objects.bodies import PathBody

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
    from contextlib import AsyncExitStack

    from asyncstore.aws.settings import AwsSettings
    from asyncstore.objects._s3._requests import Reply
    from asyncstore.objects.base import Sink
    from asyncstore.objects.bodies import FileBody
    from asyncstore.objects.listed import Listed
    from asyncstore.objects.small import SmallObjects

__all__ = ["S3ObjectStore"]

R = TypeVar("R")

SINGLE_PUT_LIMIT_BYTES = 2 * PART_BYTES
"""Files above this go up in parts."""

SETTLE_DEADLINE_S = 0.5
"""How long an abort waits for parts of its upload that are under way."""


class S3ObjectStore(SignedObjectStore):
    """
    Objects of one bucket.

    Args:
        bucket: the bucket's name; it must exist. :class:`ConfigurationError` if no bucket can be called so.
        settings: endpoint, region, credentials, limits.
        probe_prefix: where :meth:`capabilities` may write and delete a probe object, ending in ``/`` or empty.
        retry: how long to keep trying.
        credentials: gives the keys, for all but what ``multipart_upload_role_arn`` does; default: what the settings
            and the environment say.
    """

    def __init__(
        self,
        bucket: str,
        settings: AwsSettings,
        *,
        probe_prefix: str = "",
        retry: RetryPolicy = DEFAULT_RETRY,
        credentials: CredentialProvider | None = None,
    ) -> None:
        own = [] if credentials else [CredentialProvider(settings)]
        credentials = credentials or own[0]
        super().__init__(limit=settings.max_concurrency, retry=retry, credentials=credentials)
        check_bucket(bucket)
        self._bucket = bucket
        self._settings = settings
        self._probe_prefix = probe_prefix
        self._multipart = credentials
        if role := settings.multipart_upload_role_arn:
            self._multipart = CredentialProvider(settings, role_arn=role, clock=credentials.clock)
            own.append(self._multipart)
        self._own_credentials = own
        self._run = partial(self._run_as, credentials)
        self._plain = PlainRequests(self._run, self._at, write_headers(settings), settings.user_metadata)
        self._requests = UploadRequests(self._run, self._at, retry)
        self._uploads = UploadRequests(partial(self._run_as, self._multipart), self._at, retry)
        self._endpoint: Endpoint
        self._wire: Wire

    @property
    def location(self) -> str:
        """``s3://<bucket>``."""
        return f"s3://{self._bucket}"

    async def _open(self, stack: AsyncExitStack) -> None:
        # First in, last out: nothing is asked any more when the client goes.
        stack.callback(self._drop_store)
        for provider in self._own_credentials:
            stack.push_async_callback(provider.aclose)
        await super()._open(stack)
        settings = self._settings
        url, connections = bucket_url(settings, self._bucket), settings.max_concurrency
        now_s = self._credentials.clock.now_s
        self._wire = Wire(
            url,
            settings.region,
            settings.ca_bundle,
            connections=connections,
            now_s=now_s,
            allow_link_local=settings.allow_link_local,
        )
        # Before the threads are waited for: they end when they see it.
        stack.callback(self._wire.close)
        bucket, certificates = self._bucket, await asyncio.to_thread(read_ca_bundle, settings)
        self._confined = await asyncio.to_thread(confine, settings, bucket)
        self._strays = may_stray(settings, bucket)
        self._client = LeasedClient(
            lambda keys: make_store(settings, bucket, credentials=keys, root_certificate=certificates),
            self._credentials,
        )
        self._store = self._client.store
        self._endpoint = Endpoint(
            settings.endpoint or "",
            settings.region,
            self._bucket,
            prefix=self._probe_prefix,
            probe=self._probe,
        )
        storage_class = {"Storage-Class": settings.storage_class} if settings.storage_class else {}
        self._attributes = {**storage_class, **settings.user_metadata}
        self._tags = dict(settings.object_tags) or None
        # Wrong or missing credentials are told here, not at the first write.
        await self._credentials.get()

    async def capabilities(self) -> Capabilities:
        """Probe the endpoint, unless it is AWS itself, with one small object once per process, endpoint and bucket."""
        self._check_open()
        return await self._endpoint.capabilities()

    async def copy(
        self, source: str, target: str, *, meta: ObjectMeta | None = None, transfer: Transfer = ALONE
    ) -> None:
        """Copy an object, in parts above 5 GiB, and onto itself not at all; see :meth:`ObjectStore.copy`."""
        settings = self._settings
        said = write_headers(settings)
        copy = Copy(self._bucket, source, target, self._at, self._if_match, said, settings.user_metadata, transfer)
        await self._begin(source, target, writes=True)
        if source == target:
            # S3 refuses it, unless something about the object changes.
            await self.head(source)
            return
        if meta is None or meta.size_bytes <= COPY_LIMIT_BYTES:
            try:
                # obstore's copy has no way to say these, and without them the copy gets the bucket's.
                if said or settings.user_metadata:
                    await copy.whole(self._requests, self._run)
                else:
                    through = super().copy
                    await self._either(
                        lambda: through(source, target, meta=meta, transfer=transfer),
                        lambda: copy.whole(self._requests, self._run),
                    )
            except AsyncStoreError as error:
                if not await copy.was_too_large(self._requests, error):
                    raise
            else:
                return
        await copy.in_parts(self._uploads, self._settle)

    async def get(
        self, key: str, *, byte_range: tuple[int, int] | None = None, etag: str = ""
    ) -> tuple[ObjectMeta, bytes]:
        """Read an object, or what there is of a range that ends behind its end; see :meth:`ObjectStore.get`."""
        self._check_open()
        if byte_range is not None and byte_range[0] >= byte_range[1]:
            return await self._read_nothing(key, etag), b""
        return await self._matching(key, etag, lambda: self._get(key, byte_range, etag))

    async def read_into(
        self, key: str, byte_range: tuple[int, int], sink: Sink, *, etag: str = "", transfer: Transfer = ALONE
    ) -> ObjectMeta:
        """Read a range of an object in blocks; see :meth:`ObjectStore.read_into`."""
        await self._begin(key)
        start, end = byte_range
        if start < end:
            read = RangeRead(key, start, end, etag, self._at(key), sink)
            return await self._matching(key, etag, lambda: read.run(self._run, self._if_match, transfer, self._retry))
        return await self._read_nothing(key, etag)

    async def _read_nothing(self, key: str, etag: str) -> ObjectMeta:
        """Do what a read of an empty range does, which no request can ask for."""
        meta = await self.head(key)
        if etag and meta.etag != etag:
            raise ConflictError(f"get {self._at(key)}: it was replaced meanwhile")
        return meta

    async def _matching(self, key: str, etag: str, read: Callable[[], Awaitable[R]]) -> R:
        said = self._if_match(etag) if etag else ""
        try:
            found = await read()
        except ConflictError:
            # Perhaps the right ETag in the wrong form, which cannot be found out here by writing.
            if not said or self._endpoint.reads_match or (await self.head(key)).etag != etag:
                raise
            self._endpoint.reads_match = False
            return await read()
        if said and self._endpoint.reads_match is None:
            self._endpoint.reads_match = True
        return found

    async def _get(self, key: str, byte_range: tuple[int, int] | None, etag: str) -> tuple[ObjectMeta, bytes]:
        if byte_range is None:
            return await super().get(key, etag=etag)
        if not self._endpoint.lenient_ranges:
            try:
                return await super().get(key, byte_range=byte_range, etag=etag)
            except RangeIgnoredError:
                self._endpoint.ranges_seen_plain = True
        return await self._get_leniently(key, byte_range, etag)

    def list(self, prefix: str) -> AsyncGenerator[Sequence[ObjectMeta], None]:
        """List objects; see :meth:`ObjectStore.list`."""
        return self._listing(prefix).objects()

    async def list_all(self, prefix: str, *, cuts: Sequence[str] = ()) -> Listed:
        """List all objects at once; see :meth:`ObjectStore.list_all`."""
        return await listed_at_once(self._listing(prefix), cuts)

    def _listing(self, prefix: str) -> Listing:
        return Listing(self._run, prefix, f"list {self._at(prefix)}", self._retry)

    async def put_file(
        self,
        key: str,
        file: Path | FileBody,
        *,
        metadata: Mapping[str, str] | None = None,
        transfer: Transfer = ALONE,
    ) -> str:
        """
        Write a file, in parts above 16 MiB; see :meth:`ObjectStore.put_file`.

        A failure or cancellation aborts what was begun in parts. What cannot be aborted stays until it is swept: an
        upload whose creation the storage has carried out, but not answered, and one whose abort got no answer in time,
        of which a note on the error tells.
        """
        await self._begin(key, writes=True)
        settings = self._settings
        body = await in_thread(PathBody.of, file) if isinstance(file, Path) else file
        headers = write_headers(settings) | metadata_headers({**settings.user_metadata, **(metadata or {})})
        checksums = (await self.capabilities()).checksums
        upload = FileUpload(key, body, headers, self._at(key), checksums, transfer)
        if body.size_bytes <= SINGLE_PUT_LIMIT_BYTES:
            return await upload.whole(self._requests, self._run)
        return await upload.in_parts(self._uploads, self._settle, self.location, settings.endpoint or "")

    async def together(self, work: Callable[[SmallObjects], R], *, writes: Iterable[str] = ()) -> R:
        """Do small requests, many at once in one thread; see :meth:`ObjectStore.together`."""
        self._check_open()
        if self._abandoned:
            # None of these may land after what is written now.
            for key in writes:
                await self._begin(key, writes=True)
        await self._credentials.get()
        settings = self._settings
        sender = Sender(self._wire, self._credentials)
        volley = Volley(sender, self._at, write_headers(settings), settings.user_metadata)
        call = self._pool.call(lambda: work(volley))
        try:
            return await call
        except asyncio.CancelledError:
            sender.hang_up()
            end = self._pool.abandon(call)
            try:
                # It waits for a file that is being written, and not for the storage.
                await shielded(in_thread(volley.abandon))
            finally:
                if end is not None:
                    self._abandon(volley.writing, end)
            raise

    async def list_uploads(self, prefix: str) -> Sequence[PendingUpload]:
        """List unfinished uploads; see :meth:`ObjectStore.list_uploads`."""
        await self._begin()
        return await self._uploads.list(prefix)

    async def abort_upload(self, upload: PendingUpload) -> None:
        """Abort an upload; see :meth:`ObjectStore.abort_upload`."""
        await self._begin()
        await self._uploads.abort(upload.key, upload.upload_id)

    async def _get_leniently(self, key: str, byte_range: tuple[int, int], etag: str) -> tuple[ObjectMeta, bytes]:
        """Read a range from a server that sends it with status 200, which obstore refuses (rclone does so)."""
        await self._begin(key)
        start, end = byte_range
        try:
            return await self._get_exactly(key, start, end, etag)
        except RangeIgnoredError:
            raise
        except IntegrityError:
            size_bytes = (await self.head(key)).size_bytes
            if not start < size_bytes < end:
                raise
            return await self._get_exactly(key, start, size_bytes, etag)

    async def _get_exactly(self, key: str, start: int, end: int, etag: str) -> tuple[ObjectMeta, bytes]:
        data = bytearray()
        read = RangeRead(key, start, end, etag, self._at(key), lambda block, _: data.extend(block))
        return await read.run(self._run, self._if_match, ALONE, self._retry), bytes(data)

    async def _run_as(
        self,
        provider: CredentialProvider,
        verb: str,
        key: str,
        work: Callable[[Sender], R],
        *,
        names: Collection[str] = (),
    ) -> R:
        """Call ``work`` in a thread, with what signs its requests by the provider's keys; see :class:`Run`."""
        self._check_open()
        # So that no thread has to wait for them, but in the rarest case.
        await provider.get()
        sender = Sender(self._wire, provider)
        try:
            return await self._called_with_own(verb, key, lambda: work(sender), writes=names)
        except asyncio.CancelledError:
            sender.hang_up()
            raise

    async def _settle(self, name: str) -> None:
        if ends := self._abandoned.get(name):
            await asyncio.wait(ends, timeout=SETTLE_DEADLINE_S)

    async def _probe(self, prefix: str) -> Capabilities:
        async def put(key: str, data: bytes, mode: Any) -> str:
            await self._begin(key)
            return await self._put_once(key, data, mode, None)

        async def send(method: str, key: str, headers: Mapping[str, str], body: bytes) -> Reply:
            await self._begin(key)
            given = headers if method == "GET" else {**write_headers(self._settings), **headers}
            request = Request(method, key, f"probe {self._at(key)}", headers=given, body=body)
            try:
                return await self._run("probe", key, lambda sender: sender.send(request), names=[key])
            except NoConnectionError as error:
                # obstore has a way: the two differ in which certificates they trust, and in how they read proxies'
                # variables.
                raise ConfigurationError(str(error)) from error

        return await Prober(prefix, put, lambda key: self.delete([key]), send, self._retry, self.location).run()

    async def _mode(self, key: str, condition: Condition) -> Any:
        return await self._endpoint.mode(key, condition)

    def _if_match(self, etag: str) -> str:
        return self._endpoint.if_match(etag)

    def _drop_store(self) -> None:
        # Its connections close when nobody holds it any more, and whoever has closed us may go on holding us.
        vars(self).pop("_store", None)
        if "_client" in vars(self):
            self._client.drop()

    def _at(self, key: str) -> str:
        return f"{self.location}/{key}{self._at_endpoint}"

    @cached_property
    def _at_endpoint(self) -> str:
        endpoint = self._settings.endpoint
        return f" at {endpoint}" if endpoint else ""
