"""The second S3 engine: aioboto3, for what needs an upload id or more leniency than obstore has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aioboto3
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError

from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore.aws.credentials import NO_PROFILE
from asyncstore.objects._errors import from_s3_code, no_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncstore.aws.credentials import CredentialProvider
    from asyncstore.aws.settings import AwsSettings
    from asyncstore.errors import AsyncStoreError

__all__ = ["call", "make_client"]

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60


async def make_client(settings: AwsSettings, bucket: str, credentials: CredentialProvider) -> Any:
    """Return an S3 client that is still to be entered; it takes credentials from ours and never retries by itself."""
    session = await asyncio.to_thread(_make_session, settings, bucket)
    # botocore has no public way to bring a provider of one's own.
    session._session._credentials = _ProviderCredentials(credentials)
    return _client(session, settings, bucket)


def _make_session(settings: AwsSettings, bucket: str) -> Any:
    """
    Return a session that has made a client before.

    The first client of a session reads configuration and 2 MB of service models, which would block the loop.
    """

    async def make_and_close() -> None:
        async with _client(session, settings, bucket):
            pass

    # Credentials come from our provider, so the environment's profile, which may not even exist, has no say.
    session = aioboto3.Session(botocore_session=AioSession(session_vars=NO_PROFILE))
    asyncio.run(make_and_close())
    return session


def _client(session: Any, settings: AwsSettings, bucket: str) -> Any:
    bundle = settings.ca_bundle
    return session.client(
        "s3",
        region_name=settings.region,
        endpoint_url=settings.endpoint,
        verify=str(bundle) if bundle else None,
        config=AioConfig(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=settings.max_concurrency,
            retries={"total_max_attempts": 1},
            ignore_configured_endpoint_urls=True,
            # Trailing checksums end up inside the object on some servers, and signing a payload hashes it on the loop.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={
                "payload_signing_enabled": False,
                "addressing_style": "path" if settings.path_style(bucket) else "virtual",
            },
        ),
    )


async def call(client: Any, operation: str, what: str, retry: RetryPolicy, **parameters: Any) -> dict[str, Any]:
    """
    Await one operation of the client; ``what`` says in errors what was asked and where.

    A ``Body`` in the answer is read to its end, so that the answer holds bytes and no connection.
    """

    async def once() -> dict[str, Any]:
        verb: Callable[..., Awaitable[dict[str, Any]]] = getattr(client, operation)
        try:
            answer = await verb(**parameters)
            if "Body" in answer:
                async with answer["Body"] as body:
                    answer["Body"] = await body.read()
        except ClientError as error:
            raise _from_client_error(error, what) from error
        except (BotoCoreError, OSError, TimeoutError) as error:
            raise no_answer(f"{what}: the connection failed: {error}", sent=True) from error
        return answer

    return await retrying(once, retry)


class _ProviderCredentials(AioCredentials):  # type: ignore[misc]
    """Lets botocore's signer ask our provider at each request."""

    def __init__(self, provider: CredentialProvider) -> None:
        super().__init__("", "", method="asyncstore")
        self._provider = provider

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        found = await self._provider.get()
        return ReadOnlyCredentials(found.access_key_id, found.secret_access_key, found.token, None)


def _from_client_error(error: ClientError, what: str) -> AsyncStoreError:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(error.response.get("Error", {}).get("Code", ""))
    bodiless = error.operation_name.startswith(("Head", "Delete", "Abort"))
    return from_s3_code("" if code.isdigit() else code, int(status), what, error, bodiless=bodiless)
