"""Where base credentials come from: named variables of the environment, or botocore's chain. Everything here blocks."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import botocore.session

from asyncstore.aws._botocore import CLIENT_CONFIG, said_time_s
from asyncstore.aws._keys import Credentials
from asyncstore.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore.aws.clock import ServerClock
    from asyncstore.aws.settings import AwsSettings

__all__ = ["base_credentials"]

STALE_LIFETIME = timedelta(minutes=5)
"""For how long keys of an instance's role are used that have expired and are given nevertheless."""

_INSTANCE = "iam-role"
"""What botocore calls the way by which the metadata service of an instance gives keys."""
_LONG_AGO = datetime.fromtimestamp(0, UTC)

log = logging.getLogger(__name__)


def base_credentials(settings: AwsSettings, clock: ServerClock) -> Credentials:
    """
    Look for credentials where the settings say, anew each time; answers of STS on the way set the clock right.

    Raises:
        CredentialsError: there are none.
        BotoCoreError: as botocore finds; see :func:`asyncstore.aws._botocore.translated`.
    """
    return _from_environment(settings) if settings.use_credentials else _from_chain(settings, clock)


def _from_environment(settings: AwsSettings) -> Credentials:
    names = (settings.aws_access_key_name, settings.aws_secret_access_key_name)
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise CredentialsError(f"use_credentials is set, but the environment lacks {' and '.join(missing)}")
    return Credentials(
        os.environ[names[0]], os.environ[names[1]], os.environ.get(settings.aws_session_key_name) or None
    )


def _from_chain(settings: AwsSettings, clock: ServerClock) -> Credentials:
    # A new one each time: an old one remembers files, and keeps roles that it has assumed while they have more than 15
    # minutes left, and only then.
    session = botocore.session.Session(profile=settings.aws_profile or None)
    if "aws_credentials_file" in settings.model_fields_set:
        session.set_config_variable("credentials_file", settings.aws_credentials_file)
    session.set_config_variable("region", settings.region)
    session.set_default_client_config(CLIENT_CONFIG)
    session.register("after-call.sts", partial(_learn, clock))
    for provider in session.get_component("credential_provider").providers:
        _adapt(provider)
    found = session.get_credentials()
    if found is None:
        raise CredentialsError(
            "no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name an aws_profile, "
            "or run where a role is attached"
        )
    if hasattr(found, "refresh_needed"):
        # What was fetched just now is not to be fetched again, however short it lasts.
        found._time_fetcher = lambda: _LONG_AGO
    frozen = found.get_frozen_credentials()
    expires_at: datetime | None = getattr(found, "_expiry_time", None)
    if expires_at is not None:
        expires_at = expires_at.astimezone(UTC)
        if found.method == _INSTANCE:
            expires_at = _put_off(expires_at, datetime.fromtimestamp(clock.now_s(), UTC))
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token, expires_at)


def _put_off(expires_at: datetime, now: datetime) -> datetime:
    """Return when to look again at the latest for the keys of an instance's role."""
    if expires_at > now:
        return expires_at
    # AWS goes on accepting what it goes on handing out, where it cannot make new ones.
    log.warning(
        "the metadata service of this instance gives AWS credentials that expired at %s UTC; they are used for now",
        f"{expires_at:%Y-%m-%d %H:%M:%S}",
    )
    return now + STALE_LIFETIME


def _learn(clock: ServerClock, parsed: Mapping[str, Any], **_: object) -> None:
    # What a refusal says is looked at by whoever may try again.
    if "Error" not in parsed and (server_s := said_time_s(parsed)) is not None:
        clock.learn(server_s)


def _adapt(provider: Any) -> None:
    """Let one of botocore's providers ask nobody at the keyboard, and say when credentials really expire."""
    if hasattr(provider, "_prompter"):
        provider._prompter = _ask_nobody
    if hasattr(provider, "_role_fetcher"):
        # It puts the expiry of an instance's role off when that comes near.
        provider._role_fetcher._evaluate_expiration = lambda credentials: None


def _ask_nobody(_: str) -> NoReturn:
    raise CredentialsError(
        "the profile wants an MFA code, and nobody can be asked for it: get a session by 'aws sts get-session-token' "
        "or 'aws sso login', and name the profile that it is in"
    )
