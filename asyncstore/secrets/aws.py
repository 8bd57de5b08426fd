"""The ``aws-secrets-manager`` provider: secrets are what one secret of AWS Secrets Manager holds."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import re
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies
from pydantic import SecretStr, field_validator, model_validator

from asyncstore._core.retry import retrying
from asyncstore._core.threads import in_thread
from asyncstore.aws._endpoints import refuse_link_local_name
from asyncstore.aws._partitions import dns_suffix_of
from asyncstore.aws.clock import parse_http_date
from asyncstore.aws.credentials import CredentialProvider
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import (
    AccessDeniedError,
    AsyncStoreError,
    ConfigurationError,
    CredentialsError,
    UnavailableError,
)
from asyncstore.objects._http._signing import Signer
from asyncstore.secrets.base import SecretsProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AsyncExitStack

    from asyncstore.aws.credentials import Credentials

__all__ = ["AwsSecretsManagerSecrets", "parse_secret"]

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30

_ARN = re.compile(r"arn:[a-z-]+:secretsmanager:(?P<region>[a-z0-9-]+):\d{12}:secret:(?P<name>[\w/+=.@!-]+)", re.ASCII)
_NAME = re.compile(r"[\w/+=.@!-]{1,512}", re.ASCII)
"""What a secret may be called; those that a service of AWS manages, as RDS does, have a ``!`` after its name."""
_VERSION = re.compile(r"[\w-]*", re.ASCII)
_SUFFIX = re.compile(r"-[A-Za-z0-9]{6}\Z")
"""What Secrets Manager appends to a name in an ARN."""

_BY_CODE: Mapping[str, tuple[type[AsyncStoreError], str]] = {
    "AccessDeniedException": (AccessDeniedError, "allow secretsmanager:GetSecretValue on it"),
    "DecryptionFailure": (AccessDeniedError, "allow kms:Decrypt on the key that it is encrypted with"),
    "ExpiredTokenException": (CredentialsError, "the credentials have expired"),
    "IncompleteSignature": (CredentialsError, "the credentials are not accepted"),
    "InternalServiceError": (UnavailableError, "Secrets Manager has failed"),
    "InvalidClientTokenId": (CredentialsError, "the access key is not known there"),
    "InvalidParameterException": (ConfigurationError, "mend secret_arn or secret_version_id"),
    "InvalidRequestException": (ConfigurationError, "it cannot be read in its state: is it scheduled for deletion?"),
    "InvalidSignatureException": (CredentialsError, "the secret key or this machine's clock is wrong"),
    "MissingAuthenticationTokenException": (CredentialsError, "the credentials are not accepted"),
    "ResourceNotFoundException": (ConfigurationError, "there is none: mend secret_arn, secret_version_id or region"),
    "ThrottlingException": (UnavailableError, "Secrets Manager is busy"),
    "UnrecognizedClientException": (CredentialsError, "the access key is not known there"),
}


_EXPIRED = {"ExpiredTokenException"}
_SKEWED = {"InvalidSignatureException", "RequestExpired", "RequestTimeTooSkewed"}
"""What a wrong clock may be told as."""


class AwsSecretsManagerSettings(AwsSettings):
    """Settings of ``aws-secrets-manager``; those of its keys that are about S3 have no effect."""

    secret_arn: str
    """ARN or name of the secret; an ARN says the region, too, if ``region`` does not."""
    secret_version_id: str = ""
    """Which version; empty means the current one."""

    @field_validator("secret_arn")
    @classmethod
    def _check_secret(cls, value: str) -> str:
        if not (_ARN if value.startswith("arn:") else _NAME).fullmatch(value):
            raise ConfigurationError("it must be the ARN or the name of a secret")
        return value

    @field_validator("secret_version_id")
    @classmethod
    def _check_version(cls, value: str) -> str:
        if not _VERSION.fullmatch(value):
            raise ConfigurationError("it must be the id of a version, of letters, digits and '-'")
        return value

    @model_validator(mode="after")
    def _check_regions(self) -> Self:
        found = _ARN.fullmatch(self.secret_arn)
        if found is not None and "region" in self.model_fields_set and found["region"] != self.region:
            raise ConfigurationError(f"secret_arn is in {found['region']}, and region says {self.region}")
        return self

    @property
    def endpoint(self) -> str:
        """Where Secrets Manager is, spelled out for AWS too; the variables for S3 do not count."""
        named = self.endpoint_url or self.endpoint_for("secrets_manager")
        return named or f"https://secretsmanager.{self.region}.{dns_suffix_of(self.region)}"

    def in_its_region(self) -> Self:
        """Return these settings with the region that the secret is in."""
        found = _ARN.fullmatch(self.secret_arn)
        return self if found is None else self.model_copy(update={"region": found["region"]})


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    code: str
    """Of an error."""
    said_s: float | None
    """The server's time in seconds since the epoch."""
    said: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], content: bytes) -> _Answer:
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        said = found if isinstance(found, dict) else {}
        code = str(said.get("__type") or headers.get("x-amzn-errortype") or "").rpartition("#")[2].partition(":")[0]
        return cls(status, code, parse_http_date(headers.get("date") or ""), said)


class AwsSecretsManagerSecrets(SecretsProvider):
    """
    Reads one secret of AWS Secrets Manager once, when it opens, and again when :meth:`refresh` is called.

    - A secret that is a JSON object, as the console makes them, holds secrets by name; values that are no strings are
      given as JSON writes them, numbers as they are written there, and ``null`` as if it were not there.
    - Any other text is one secret, under the name that it has in Secrets Manager, or the last segment of that:
      ``prod/db-password`` is found as ``db-password``, too, for a placeholder cannot hold a slash.
    - Bytes are taken for text in UTF-8, and refused if they are none.

    A pickled provider holds its settings alone, and reads the secret where it is used.

    Args:
        options: the keys of :class:`AwsSecretsManagerSettings`; ``secret_arn`` is required.
    """

    def __init__(self, **options: object) -> None:
        super().__init__()
        self._options = options
        self._settings = AwsSecretsManagerSettings.parse(options, "secrets 'aws-secrets-manager'").in_its_region()
        self._credentials = CredentialProvider(self._settings)
        self._values: Mapping[str, SecretStr] = {}
        self._plain = ""
        self._reading: asyncio.Lock
        self._begun = self._done = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._settings.secret_arn} {self._state}>"

    def __reduce__(self) -> tuple[Callable[[], AwsSecretsManagerSecrets], tuple[()]]:
        return partial(type(self), **self._options), ()

    async def refresh(self) -> None:
        """
        Read the secret again: what is asked for from now on is as new as this call.

        Any number of callers share one request where they can. What was read before stays if this fails.

        Raises:
            AsyncStoreError: what opening raises.
        """
        await self.open()
        wanted = self._begun + 1
        async with self._reading:
            if self._done < wanted:
                await self._read()

    @property
    def _where(self) -> str:
        plain = f", which is no JSON object and thus the secret {self._plain!r} as a whole" if self._plain else ""
        return f"in {self._settings.secret_arn}{plain}"

    async def _open(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self._credentials.aclose)
        self._reading = asyncio.Lock()
        await self._read()

    async def _find(self, name: str) -> str | None:
        found = self._values.get(name)
        return None if found is None else found.get_secret_value()

    async def _read(self) -> None:
        self._begun += 1
        number = self._begun
        text, name = await retrying(self._ask)
        values = parse_secret(text.get_secret_value())
        self._plain = "" if values is not None else name
        if values is None:
            values = {name: text, name.rpartition("/")[2]: text}
        self._values = values
        self._done = number

    async def _ask(self) -> tuple[SecretStr, str]:
        provider = self._credentials
        keys = await provider.get()
        answer = await in_thread(self._exchange, keys)
        if answer.code in _EXPIRED:
            # Where there are no others, what was answered says more.
            with contextlib.suppress(CredentialsError):
                answer = await in_thread(self._exchange, await provider.renew(keys))
        elif answer.code in _SKEWED and answer.said_s is not None and provider.clock.learn(answer.said_s):
            answer = await in_thread(self._exchange, keys)
        return self._judged(answer)

    def _exchange(self, keys: Credentials) -> _Answer:
        """Send the request, once; blocks."""
        settings = self._settings
        url = settings.endpoint
        asked = {"SecretId": settings.secret_arn}
        if settings.secret_version_id:
            asked["VersionId"] = settings.secret_version_id
        body = json.dumps(asked).encode()
        # Not through a client of botocore's, which logs answers with all that they hold.
        said = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "secretsmanager.GetSecretValue"}
        parts = urlsplit(url)
        signer = Signer(_host(url), settings.region, "secretsmanager", now_s=self._credentials.clock.now_s)
        headers = signer.signed("POST", parts.path or "/", "", said, sha256(body).hexdigest(), keys)
        request = AWSRequest("POST", url if parts.path else f"{url}/", headers, body).prepare()
        bundle = settings.ca_bundle
        if bundle is not None and not bundle.is_file():
            raise ConfigurationError(f"AWS_CA_BUNDLE {bundle} cannot be read")
        proxies = get_environ_proxies(url)
        if not settings.allow_link_local and not proxies:
            refuse_link_local_name(url)
        session = URLLib3Session(
            verify=str(bundle) if bundle else True,
            proxies=proxies,
            timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
        )
        try:
            answer = session.send(request)
            return _Answer.of(answer.status_code, answer.headers, answer.content)
        except BotoCoreError as error:
            raise UnavailableError(f"{self._what}: it cannot be reached: {error}") from error
        finally:
            session.close()

    def _judged(self, answer: _Answer) -> tuple[SecretStr, str]:
        """Return the secret's text and name."""
        code, status, said = answer.code, answer.status, answer.said
        if status != HTTPStatus.OK:
            default = (UnavailableError, "it has failed") if status >= 500 or status == 429 else None
            kind, advice = _BY_CODE.get(code) or default or (ConfigurationError, "mend endpoint_url")
            raise kind(f"{self._what}: {advice} [{code or 'HTTP'} ({status})]")
        name = str(said.get("Name") or "") or _name_of(self._settings.secret_arn)
        if isinstance(text := said.get("SecretString"), str):
            return SecretStr(text), name
        if not isinstance(coded := said.get("SecretBinary"), str):
            raise ConfigurationError(f"{self._what}: what answers there is not Secrets Manager: mend endpoint_url")
        try:
            return SecretStr(base64.b64decode(coded, validate=True).decode()), name
        except (binascii.Error, UnicodeDecodeError):
            # Without its cause, which holds the bytes.
            raise ConfigurationError(f"{self._what}: it is binary, and no text in UTF-8: store text") from None

    @property
    def _what(self) -> str:
        settings = self._settings
        version = f", version {settings.secret_version_id}" if settings.secret_version_id else ""
        where = f" at {settings.endpoint_url}" if settings.endpoint_url else ""
        return f"get secret {settings.secret_arn}{version} in {settings.region}{where}"


def parse_secret(text: str) -> Mapping[str, SecretStr] | None:
    """Return what a secret holds by name, ``None`` if it is no JSON object."""
    try:
        found = json.loads(text, parse_float=_Number, parse_int=_Number, parse_constant=_Number)
        if not isinstance(found, dict):
            return None
        return {
            name: SecretStr(value if isinstance(value, str) else _written(value))
            for name, value in found.items()
            if value is not None
        }
    except (ValueError, RecursionError):
        return None


class _Number(str):
    """A number as JSON says it: ``1.10`` may be a PIN."""

    __slots__ = ()


def _written(value: Any) -> str:
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join([f"{_written(key)}: {_written(item)}" for key, item in value.items()]) + "}"
    if isinstance(value, list):
        return "[" + ", ".join([_written(item) for item in value]) + "]"
    return json.dumps(value, ensure_ascii=False)


def _name_of(secret: str) -> str:
    found = _ARN.fullmatch(secret)
    return secret if found is None else _SUFFIX.sub("", found["name"])


def _host(url: str) -> str:
    parts = urlsplit(url)
    default = {"http": ":80", "https": ":443"}[parts.scheme]
    return parts.netloc.removesuffix(default)
