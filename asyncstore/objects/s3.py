"""
Objects in an S3 bucket, on AWS or any server that speaks its protocol.

obstore carries small objects, reads, listings, deletes and copies; aioboto3 carries multipart uploads, where the upload
id is needed to abort. Both are configured from one :class:`AwsSettings`, take credentials from one provider, and never
retry themselves: the one retry layer is ours.
"""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncstore._core.retry import DEFAULT_RETRY, RetryPolicy
from asyncstore.aws.credentials import CredentialProvider
from asyncstore.errors import (
    ConflictError,
    IntegrityError,
)
from asyncstore.objects._boto import call, make_client
from asyncstore.objects._bucket import bucket_url, make_store, read_ca_bundle, write_headers
from asyncstore.objects._endpoint import Endpoint
from asyncstore.objects._errors import RangeIgnoredError, from_file_error
from asyncstore.objects._multipart import PART_BYTES, MultipartTarget, upload_file
from asyncstore.objects._obstore import ObstoreObjectStore, canonical_etag
from asyncstore.objects._probe import Prober
from asyncstore.objects._signed import SignedRequests
from asyncstore.objects.base import PUT_ID, Capabilities, Condition, ObjectMeta

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AsyncExitStack
    from pathlib import Path

    from asyncstore.aws.settings import AwsSettings
    from asyncstore.objects._signed import Reply

__all__ = ["S3ObjectStore"]

SINGLE_PUT_LIMIT_BYTES = PART_BYTES
"""Files above this go up in parts."""


class S3ObjectStore(ObstoreObjectStore):
    """
    Objects of one bucket.

    Args:
        bucket: the bucket's name; it must exist.
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
        super().__init__(limit=settings.max_concurrency, retry=retry)
        self._bucket = bucket
        self._settings = settings
        self._probe_prefix = probe_prefix
        self._credentials = credentials or CredentialProvider(settings)
        self._client: Any = None
        self._client_lock = asyncio.Lock()
        self._endpoint: Endpoint

    @property
    def location(self) -> str:
        """``s3://<bucket>``."""
        return f"s3://{self._bucket}"

    async def _open(self, stack: AsyncExitStack) -> None:
        # First in, last out: nothing is asked any more when the client goes.
        stack.callback(self._drop_store)
        await super()._open(stack)
        stack.push_async_callback(self._close_client)
        settings = self._settings
        self._store = make_store(
            settings,
            self._bucket,
            credentials=partial(_current_credentials, self._credentials),
            root_certificate=await asyncio.to_thread(read_ca_bundle, settings),
        )
        self._endpoint = Endpoint(
            settings.endpoint or "",
            settings.region,
            self._bucket,
            prefix=self._probe_prefix,
            probe=self._probe,
        )
        if settings.storage_class:
            self._attributes = {"Storage-Class": settings.storage_class}
        # Wrong or missing credentials are told here, not at the first write.
        await self._credentials.get()

    async def capabilities(self) -> Capabilities:
        """Probe the endpoint, unless it is AWS itself, with one small object once per process, endpoint and bucket."""
        self._check_open()
        return await self._endpoint.capabilities()

    async def copy(self, source: str, target: str) -> None:
        """Copy an object; see :meth:`ObjectStore.copy`."""
        if not self._settings.storage_class:
            await super().copy(source, target)
            return
        await self._begin(source, target, writes=True)
        # obstore's copy has no way to say a storage class, and without one the copy gets the bucket's.
        parameters = {
            "Bucket": self._bucket,
            "Key": target,
            "CopySource": {"Bucket": self._bucket, "Key": source},
            "MetadataDirective": "COPY",
            "StorageClass": self._settings.storage_class,
        }
        await call(
            await self._boto(),
            "copy_object",
            f"copy {self._at(source)}",
            self._retry,
            **self._encryption(),
            **parameters,
        )

    async def get(
        self, key: str, *, byte_range: tuple[int, int] | None = None, etag: str = ""
    ) -> tuple[ObjectMeta, bytes]:
        """Read an object; see :meth:`ObjectStore.get`."""
        self._check_open()
        said = self._if_match(etag) if etag else ""
        try:
            found = await self._get(key, byte_range, etag)
        except ConflictError:
            # Perhaps the right ETag in the wrong form, which cannot be found out here by writing.
            if not said or self._endpoint.reads_match or (await self.head(key)).etag != etag:
                raise
            self._endpoint.reads_match = False
            return await self._get(key, byte_range, etag)
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

    async def put_file(
        self,
        key: str,
        path: Path,
        *,
        metadata: Mapping[str, str] | None = None,
        verify: Callable[[], None] | None = None,
    ) -> str:
        """Write a file, in parts above 8 MiB; see :meth:`ObjectStore.put_file`."""
        await self._begin(key, writes=True)
        try:
            size_bytes = (await asyncio.to_thread(path.stat)).st_size
        except OSError as error:
            raise from_file_error(error, f"read {path}") from error
        if size_bytes <= SINGLE_PUT_LIMIT_BYTES:
            return await super().put_file(key, path, metadata=metadata, verify=verify)
        target = MultipartTarget(await self._boto(), self._bucket, key, self._create_parameters(metadata))
        # A part is held twice while it is sent: as it was read, and in the connection's buffers.
        fitting = self._settings.max_memory_mb * 1024 * 1024 // (2 * PART_BYTES)
        limit = max(1, min(self._settings.max_concurrency, fitting))
        return canonical_etag(await upload_file(target, path, limit=limit, retry=self._retry, verify=verify))

    async def _get_leniently(self, key: str, byte_range: tuple[int, int], etag: str) -> tuple[ObjectMeta, bytes]:
        """Read a range from a server that sends it with status 200, which obstore refuses (rclone does so)."""
        self._check_open()
        start, end = byte_range
        parameters = {"Bucket": self._bucket, "Key": key, "Range": f"bytes={start}-{end - 1}"}
        if etag and (said := self._if_match(etag)):
            parameters["IfMatch"] = said
        what = f"get {self._at(key)}"
        answer = await call(await self._boto(), "get_object", what, self._retry, **parameters)
        sent, _, total = str(answer.get("ContentRange", "")).partition("/")
        if sent != f"bytes {start}-{end - 1}" or len(answer["Body"]) != end - start:
            raise IntegrityError(f"{what}: bytes {start}-{end - 1} were asked for, {sent or 'the whole object'} came")
        found_etag = canonical_etag(answer["ETag"])
        if etag and found_etag != etag:
            raise ConflictError(f"{what}: it was replaced meanwhile")
        meta = ObjectMeta(key, int(total), found_etag, answer["LastModified"], answer.get("Metadata", {}))
        return meta, answer["Body"]

    async def _probe(self, prefix: str) -> Capabilities:
        async def put(key: str, data: bytes, mode: Any) -> str:
            await self._begin(key)
            return await self._put_once(key, data, mode, None)

        async def send(method: str, key: str, headers: Mapping[str, str], body: bytes) -> Reply:
            await self._begin(key)
            given = headers if method == "GET" else {**write_headers(settings), **headers}
            ask = partial(signed.send, method, key, given, body, self._credentials.current, f"probe {self._at(key)}")
            return await self._called("probe", key, ask, writes=[key])

        settings = self._settings
        with SignedRequests(bucket_url(settings, self._bucket), settings.region, settings.ca_bundle) as signed:
            return await Prober(prefix, put, lambda key: self.delete([key]), send, self._retry, self.location).run()

    async def _mode(self, key: str, condition: Condition) -> Any:
        return await self._endpoint.mode(key, condition)

    def _if_match(self, etag: str) -> str:
        return self._endpoint.if_match(etag)

    async def _begin(self, *keys: str, writes: bool = False) -> None:
        await super()._begin(*keys, writes=writes)
        await self._credentials.get()

    def _create_parameters(self, metadata: Mapping[str, str] | None) -> dict[str, Any]:
        parameters: dict[str, Any] = {"Metadata": {**(metadata or {}), PUT_ID: secrets.token_hex(16)}}
        if self._settings.storage_class:
            parameters["StorageClass"] = self._settings.storage_class
        return parameters | self._encryption()

    def _encryption(self) -> dict[str, str]:
        key = self._settings.kms_key_arn
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}

    async def _boto(self) -> Any:
        async with self._client_lock:
            self._check_open()
            if self._client is None:
                role = self._settings.multipart_upload_role_arn
                provider = CredentialProvider(self._settings, role_arn=role) if role else self._credentials
                self._client = await (await make_client(self._settings, self._bucket, provider)).__aenter__()
            # Closing waits for the lock, so a client made meanwhile is closed too.
            self._check_open()
            return self._client

    def _drop_store(self) -> None:
        # Its connections close when nobody holds it any more, and whoever has closed us may go on holding us.
        vars(self).pop("_store", None)

    async def _close_client(self) -> None:
        async with self._client_lock:
            client, self._client = self._client, None
            if client is not None:
                await client.__aexit__(None, None, None)

    def _at(self, key: str) -> str:
        endpoint = self._settings.endpoint
        return f"{self.location}/{key}" + (f" at {endpoint}" if endpoint else "")


def _current_credentials(provider: CredentialProvider) -> dict[str, Any]:
    # Called in the midst of requests, where nothing may block: each has seen to it that these are valid. It must not
    # know the store, for obstore's garbage is not collected where it is part of a cycle.
    found = provider.current
    return {
        "access_key_id": found.access_key_id,
        "secret_access_key": found.secret_access_key,
        "token": found.token,
        "expires_at": found.expires_at,
    }
