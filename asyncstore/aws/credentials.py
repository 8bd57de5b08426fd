"""
Credentials: where they come from, and how they stay fresh.

One provider serves both engines. botocore's own chain finds the base credentials; it blocks (files, IMDS, STS), so it
runs in a thread.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import botocore.config
import botocore.session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    ProfileNotFound,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)

from asyncstore._core.retry import retrying
from asyncstore.errors import AccessDeniedError, ConfigurationError, CredentialsError, UnavailableError

if TYPE_CHECKING:
    from asyncstore.aws.settings import AwsSettings

__all__ = ["CredentialProvider", "Credentials"]

REFRESH_SHARE = 0.2
"""Renew when less than this share of the lifetime is left."""

NO_PROFILE: dict[str, Any] = {"profile": (None, None, None, None)}
"""Session variables of botocore with which it does not look for a profile in the environment."""

_DENIED = {"AccessDenied", "AccessDeniedException"}
_BUSY = {"Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable", "InternalError"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys for one moment; secrets stay out of ``repr``."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    """When they cease to work, UTC; ``None`` means not foreseeably."""


class CredentialProvider:
    """
    Gives credentials that are valid now; one refresh at a time, however many tasks wait for it.

    They are renewed early; while the old ones still work, a renewal that fails is tried again later and harms nobody.
    """

    def __init__(self, settings: AwsSettings, *, role_arn: str | None = None) -> None:
        self._settings = settings
        self._role_arn = settings.role_arn if role_arn is None else role_arn
        self._session: Any = None
        self._current: Credentials | None = None
        self._refresh_at: datetime | None = None
        self._lock: asyncio.Lock | None = None

    def __repr__(self) -> str:
        role = f" as {self._role_arn}" if self._role_arn else ""
        return f"<CredentialProvider {self._settings.aws_profile or 'default chain'}{role}>"

    @property
    def current(self) -> Credentials:
        """
        What :meth:`get` returned last.

        Raises:
            CredentialsError: it has not been awaited yet.
        """
        if self._current is None:
            raise CredentialsError("no credentials have been looked for yet")
        return self._current

    async def get(self) -> Credentials:
        """
        Return credentials that are valid now.

        Raises:
            CredentialsError: none are configured, or STS refuses those that are.
            ConfigurationError: the profile does not exist.
            AccessDeniedError: the role may not be assumed.
            UnavailableError: STS or the metadata service cannot be reached.
        """
        if self._current is not None and not _due(self._refresh_at):
            return self._current
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            if self._current is None or _due(self._refresh_at):
                await self._refresh()
        return self.current

    async def _refresh(self) -> None:
        try:
            fresh = await retrying(lambda: asyncio.to_thread(self._find))
        except (UnavailableError, CredentialsError, AccessDeniedError):
            if self._current is None or _due(self._current.expires_at):
                raise
            self._refresh_at = datetime.now(UTC) + timedelta(seconds=10)
            return
        self._current = fresh
        self._refresh_at = None
        if fresh.expires_at is not None:
            now = datetime.now(UTC)
            self._refresh_at = now + (fresh.expires_at - now) * (1 - REFRESH_SHARE)

    def _find(self) -> Credentials:
        try:
            base = self._from_environment() if self._settings.use_credentials else self._from_chain()
            return self._assume_role(base) if self._role_arn else base
        except ProfileNotFound as error:
            raise ConfigurationError(self._no_profile()) from error
        except ClientError as error:
            raise _client_error(error, self._role_arn) from error
        except (BotoConnectionError, HTTPClientError) as error:
            raise UnavailableError(f"credentials service cannot be reached: {error}") from error
        except BotoCoreError as error:
            raise CredentialsError(f"no AWS credentials: {error}") from error

    def _no_profile(self) -> str:
        if self._settings.aws_profile:
            return f"aws_profile {self._settings.aws_profile!r} does not exist"
        return "the profile that AWS_PROFILE names in the environment does not exist"

    def _from_environment(self) -> Credentials:
        settings = self._settings
        names = (settings.aws_access_key_name, settings.aws_secret_access_key_name)
        missing = [name for name in names if not os.environ.get(name)]
        if missing:
            raise CredentialsError(f"use_credentials is set, but the environment lacks {' and '.join(missing)}")
        return Credentials(
            os.environ[names[0]], os.environ[names[1]], os.environ.get(settings.aws_session_key_name) or None
        )

    def _from_chain(self) -> Credentials:
        if self._session is None:
            session = botocore.session.Session(profile=self._settings.aws_profile or None)
            if "aws_credentials_file" in self._settings.model_fields_set:
                session.set_config_variable("credentials_file", self._settings.aws_credentials_file)
            session.set_config_variable("region", self._settings.region)
            self._session = session
        found = self._session.get_credentials()
        if found is None:
            raise CredentialsError(
                "no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name an aws_profile, "
                "or run where a role is attached"
            )
        frozen = found.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token, getattr(found, "_expiry_time", None))

    def _assume_role(self, base: Credentials) -> Credentials:
        settings = self._settings
        client = botocore.session.Session(session_vars=NO_PROFILE).create_client(
            "sts",
            region_name=settings.region,
            endpoint_url=settings.sts_endpoint,
            aws_access_key_id=base.access_key_id,
            aws_secret_access_key=base.secret_access_key,
            aws_session_token=base.token,
            config=botocore.config.Config(retries={"total_max_attempts": 1}, ignore_configured_endpoint_urls=True),
        )
        try:
            answer = client.assume_role(
                RoleArn=self._role_arn,
                RoleSessionName=f"asyncstore-{socket.gethostname()}"[:64],
                DurationSeconds=settings.session_duration_in_seconds,
            )["Credentials"]
        finally:
            client.close()
        return Credentials(
            answer["AccessKeyId"], answer["SecretAccessKey"], answer["SessionToken"], answer["Expiration"]
        )


def _due(time: datetime | None) -> bool:
    return time is not None and datetime.now(UTC) >= time


def _client_error(error: ClientError, role_arn: str) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in _DENIED:
        return AccessDeniedError(
            f"role {role_arn} may not be assumed with these credentials: see its trust relationship"
        )
    if code in _BUSY:
        return UnavailableError(f"STS is busy: {code}")
    return CredentialsError(f"AWS does not accept the credentials for assuming {role_arn}: {code}")
