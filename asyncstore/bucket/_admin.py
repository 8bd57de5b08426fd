"""
botocore's clients for what is done to buckets, users and roles: rare requests, each in a thread of its own.

Settings and credentials are those of the stores; the one retry layer is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import botocore.config
import botocore.session
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ParamValidationError
from botocore.exceptions import ConnectionError as BotoConnectionError

from asyncstore._core.resource import Resource
from asyncstore._core.retry import retrying
from asyncstore._core.threads import in_thread
from asyncstore.aws._botocore import NO_PROFILE, looking
from asyncstore.aws._endpoints import refuse_link_local_name
from asyncstore.aws.credentials import CredentialProvider
from asyncstore.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AsyncStoreError,
    ConfigurationError,
    CredentialsError,
    NotFoundError,
    UnavailableError,
)
from asyncstore.objects._errors import from_s3_code, no_answer, transport_reason

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AsyncExitStack

    from asyncstore.aws.settings import AwsSettings

__all__ = ["CONCERNS_ALL", "Admin", "answer_in", "code_of", "is_unsupported", "region_in"]

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0

_KINDS: Mapping[str, type[AsyncStoreError]] = {
    "AccessDenied": AccessDeniedError,
    "AccessDeniedException": AccessDeniedError,
    "BucketAlreadyExists": AlreadyExistsError,
    "BucketAlreadyOwnedByYou": AlreadyExistsError,
    "ConcurrentModification": UnavailableError,
    "EntityAlreadyExists": AlreadyExistsError,
    "ExpiredTokenException": CredentialsError,
    "IllegalLocationConstraintException": ConfigurationError,
    "InvalidArgument": ConfigurationError,
    "InvalidClientTokenId": CredentialsError,
    "InvalidInput": ConfigurationError,
    "InvalidLocationConstraint": ConfigurationError,
    "InvalidRequest": ConfigurationError,
    "LimitExceeded": ConfigurationError,
    "MalformedPolicyDocument": ConfigurationError,
    "MalformedXML": ConfigurationError,
    "NoSuchEntity": NotFoundError,
    "UnmodifiableEntity": ConfigurationError,
    "UnrecognizedClientException": CredentialsError,
    "ValidationError": ConfigurationError,
}
"""What codes mean here; others mean what they mean to objects."""

_SPEAKING = (AccessDeniedError, AlreadyExistsError, ConfigurationError)
"""Kinds of errors of which the server's own words say more: which action, which resource, which limit."""

CONCERNS_ALL = (CredentialsError, UnavailableError)
"""Errors after which nothing else needs to be tried."""

_UNSUPPORTED_CODES = {"BucketAlreadyExists", "BucketAlreadyOwnedByYou", "MethodNotAllowed", "NotImplemented"}
"""
What servers answer that do not know a setting.

To some, a request to change one is a request to create the bucket.
"""


class Admin(Resource):
    """
    A client of one of AWS' services.

    Args:
        service: ``s3``, ``iam`` or ``sts``.
        settings: region, endpoint and where credentials come from.
        role_arn: the role to take on in place of the settings'; empty for none.
    """

    def __init__(self, service: str, settings: AwsSettings, *, role_arn: str | None = None) -> None:
        super().__init__()
        self._service = service
        self._settings = settings
        self._credentials = CredentialProvider(settings, role_arn=role_arn)
        self._client: Any = None

    async def _open(self, stack: AsyncExitStack) -> None:
        keys = await self._credentials.get()
        session = {
            "aws_access_key_id": keys.access_key_id,
            "aws_secret_access_key": keys.secret_access_key,
            "aws_session_token": keys.token,
        }
        self._client = await in_thread(self._make, session)
        stack.push_async_callback(in_thread, self._client.close)

    async def call(self, operation: str, what: str, **parameters: Any) -> dict[str, Any]:
        """
        Return what a request is answered, without the headers, which are under ``ResponseMetadata``.

        Args:
            operation: as botocore's methods are called.
            what: what is done and to what, for errors.
            parameters: botocore's.

        Raises:
            AsyncStoreError: of the kind that the answer means; :func:`code_of` tells the server's own code.
        """
        self._check_open()

        async def once() -> dict[str, Any]:
            answer: dict[str, Any] = await in_thread(self._call, operation, what, parameters)
            return answer

        return await retrying(once)

    def _make(self, keys: Mapping[str, Any]) -> Any:
        settings = self._settings
        url = settings.endpoint if self._service == "s3" else settings.endpoint_for(self._service)
        if url and not settings.allow_link_local:
            refuse_link_local_name(url)
        config = botocore.config.Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": settings.addressing_style} if settings.addressing_style != "auto" else None,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            ignore_configured_endpoint_urls=True,
        )
        try:
            return botocore.session.Session(session_vars=NO_PROFILE).create_client(
                self._service,
                region_name=settings.region,
                endpoint_url=url,
                config=config,
                **keys,
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(f"no client for {self._service} can be made: {error}") from error

    def _call(self, operation: str, what: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        try:
            # botocore logs the session token at DEBUG.
            with looking(self._credentials.clock):
                return dict(getattr(self._client, operation)(**parameters))
        except ClientError as error:
            raise _translated(error, what, bodiless=operation.startswith("head_")) from error
        except ParamValidationError as error:
            reason = str(error).partition("\n")[2] or str(error)
            raise ConfigurationError(f"{what}: {reason}") from error
        except (BotoConnectionError, HTTPClientError) as error:
            raise no_answer(f"{what}: {transport_reason(str(error))}", sent=True) from error
        except BotoCoreError as error:
            raise ConfigurationError(f"{what}: {error}") from error


def answer_in(error: AsyncStoreError) -> Mapping[str, Any]:
    """Return what a server answered in place of what was asked, empty if it did not answer."""
    answer: Mapping[str, Any] = getattr(error.__cause__, "response", None) or {}
    return answer


def code_of(error: AsyncStoreError) -> str:
    """Return the code in a server's answer, empty if there was none."""
    return str(answer_in(error).get("Error", {}).get("Code", ""))


def is_unsupported(error: AsyncStoreError) -> bool:
    """Tell whether a server refuses to read or change a setting because it does not know it."""
    status = answer_in(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in {405, 501} or code_of(error) in _UNSUPPORTED_CODES


def region_in(answer: Mapping[str, Any]) -> str:
    """Return the region of a bucket that an answer's headers name, empty if they name none."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region", ""))


def _translated(error: ClientError, what: str, *, bodiless: bool) -> AsyncStoreError:
    said = error.response.get("Error", {})
    code = str(said.get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code.isdecimal():
        # botocore's stand-in for the code that an answer without a body lacks.
        code = ""
    kind = _KINDS.get(code)
    found = kind(f"{what}: [{code} ({status})]") if kind else from_s3_code(code, status, what, error, bodiless=bodiless)
    message = str(said.get("Message", "")).strip().rstrip(".")
    if isinstance(found, _SPEAKING) and message and message != code and not bodiless:
        return type(found)(f"{what}: {message} [{code} ({status})]")
    return found
