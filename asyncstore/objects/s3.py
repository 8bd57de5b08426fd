"""
Objects in an S3 bucket, on AWS or any server that speaks its protocol.

obstore carries small objects, reads, listings, deletes and copies; aioboto3 carries multipart uploads, where the upload
id is needed to abort. Both are configured from one :class:`AwsSettings`, take credentials from one provider, and never
retry themselves: the one retry layer is ours.
"""

from __future__ import annotations

import asyncio
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from obstore.exceptions import BaseError
from obstore.store import S3Store

from asyncstore._core.retry import DEFAULT_RETRY, RetryPolicy
from asyncstore.aws.credentials import CredentialProvider
from asyncstore.errors import (
    ConfigurationError,
    ConflictError,
    IntegrityError,
)
from asyncstore.objects._boto import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, call, make_client
from asyncstore.objects._errors import RangeIgnoredError, from_file_error
from asyncstore.objects._multipart import PART_BYTES, MultipartTarget, upload_file
from asyncstore.objects._obstore import ObstoreObjectStore, canonical_etag, check_runtime
from asyncstore.objects._probe import probe
from asyncstore.objects.base import PUT_ID, Capabilities, ObjectMeta, check_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AsyncExitStack
    from pathlib import Path

    from asyncstore.aws.settings import AwsSettings

__all__ = ["S3ObjectStore"]

SINGLE_PUT_LIMIT_BYTES = PART_BYTES
"""Files above this go up in parts."""

REQUEST_TIMEOUT_S = 600
"""A whole request with its body; a stalled one is ended by the read timeout long before."""

_capabilities: dict[tuple[str, str, str], Capabilities] = {}


class S3ObjectStore(ObstoreObjectStore):
    """
    Objects of one bucket.

    Args:
        bucket: the bucket's name; it must exist.
        settings: endpoint, region, credentials, limits.
        probe_prefix: where :meth:`capabilities` may write and delete a probe object, ending in ``/`` or empty.
        retry: how long to keep trying.
    """

    def __init__(
        self, bucket: str, settings: AwsSettings, *, probe_prefix: str = "", retry: RetryPolicy = DEFAULT_RETRY
    ) -> None:
        super().__init__(retry=retry)
        self._bucket = bucket
        self._settings = settings
        self._probe_prefix = probe_prefix
        self._credentials = CredentialProvider(settings)
        self._client: Any = None
        self._client_lock = asyncio.Lock()
        self._probe_lock = asyncio.Lock()
        self._lenient_ranges = False

    @property
    def location(self) -> str:
        """``s3://<bucket>``."""
        return f"s3://{self._bucket}"

    async def _open(self, stack: AsyncExitStack) -> None:
        check_runtime()
        stack.push_async_callback(self._close_client)
        root_certificate = await asyncio.to_thread(_read_ca_bundle, self._settings)
        self._store = self._make_store(root_certificate)
        if self._settings.storage_class:
            self._attributes = {"Storage-Class": self._settings.storage_class}
        # Wrong or missing credentials are told here, not at the first write.
        await self._credentials.get()

    async def capabilities(self) -> Capabilities:
        """Probe the endpoint with one small object, once per process, endpoint and bucket."""
        self._check_open()
        where = (self._settings.endpoint or "", self._settings.region, self._bucket)
        if where not in _capabilities:
            async with self._probe_lock:
                if where not in _capabilities:
                    _capabilities[where] = await probe(self, self._probe_prefix)
        return _capabilities[where]

    async def copy(self, source: str, target: str) -> None:
        """Copy an object; see :meth:`ObjectStore.copy`."""
        if not self._settings.storage_class:
            await super().copy(source, target)
            return
        self._check_open()
        check_key(source)
        check_key(target)
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
        if byte_range is None:
            return await super().get(key, etag=etag)
        if not self._lenient_ranges:
            try:
                return await super().get(key, byte_range=byte_range, etag=etag)
            except RangeIgnoredError:
                self._lenient_ranges = True
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
        self._check_open()
        check_key(key)
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
        if etag:
            parameters["IfMatch"] = etag
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

    def _make_store(self, root_certificate: bytes | None) -> S3Store:
        settings = self._settings
        client: dict[str, Any] = {
            "allow_http": True,
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
            "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
        }
        if root_certificate:
            client["root_certificate"] = root_certificate
        path_style = settings.path_style(self._bucket)
        endpoint = _with_bucket(settings.service_url, "" if path_style else self._bucket)
        # Each of these has a variable that obstore would read otherwise, and that aioboto3 does not know.
        options: dict[str, Any] = {
            "virtual_hosted_style_request": not path_style,
            "region": settings.region,
            "endpoint": endpoint,
            "aws_endpoint_url_s3": endpoint,
            "skip_signature": False,
            "conditional_put": "etag",
            "s3_express": False,
            "unsigned_payload": False,
        }
        if settings.kms_key_arn:
            options |= {"server_side_encryption": "aws:kms", "sse_kms_key_id": settings.kms_key_arn}
        try:
            return S3Store(
                self._bucket,
                client_options=client,  # type: ignore[arg-type]
                retry_config={"max_retries": 0},
                credential_provider=self._obstore_credentials,  # type: ignore[arg-type, unused-ignore]
                **options,
            )
        except BaseException as error:
            if isinstance(error, BaseError | ValueError) or type(error).__module__.startswith("pyo3"):
                raise ConfigurationError(
                    f"{self.location}: no client can be made: {str(error).partition(chr(10))[0]}; "
                    "mend AWS_CA_BUNDLE, or what else the environment says of AWS"
                ) from error
            raise

    async def _obstore_credentials(self) -> dict[str, Any]:
        found = await self._credentials.get()
        return {
            "access_key_id": found.access_key_id,
            "secret_access_key": found.secret_access_key,
            "token": found.token,
            "expires_at": found.expires_at,
        }

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

    async def _close_client(self) -> None:
        async with self._client_lock:
            client, self._client = self._client, None
            if client is not None:
                await client.__aexit__(None, None, None)

    def _at(self, key: str) -> str:
        endpoint = self._settings.endpoint
        return f"{self.location}/{key}" + (f" at {endpoint}" if endpoint else "")


def _with_bucket(endpoint: str, bucket: str) -> str:
    scheme, _, rest = endpoint.partition("://")
    return f"{scheme}://{bucket}.{rest}" if bucket else endpoint


def _read_ca_bundle(settings: AwsSettings) -> bytes | None:
    bundle = settings.ca_bundle
    if bundle is None:
        return None
    try:
        return bundle.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"AWS_CA_BUNDLE {bundle} cannot be read: {error.strerror}") from error
