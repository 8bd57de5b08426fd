"""Where base credentials come from: named variables of the environment, or botocore's chain. Everything here blocks."""

from __future__ import annotations

import os
from datetime import UTC, datetime
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
        # What was fetched just now is not to be fetched again because it lasts less than 15 minutes.
        found._advisory_refresh_timeout = found._mandatory_refresh_timeout = 0
        found._time_fetcher = lambda: datetime.fromtimestamp(clock.now_s(), UTC)
    frozen = found.get_frozen_credentials()
    expires_at: datetime | None = getattr(found, "_expiry_time", None)
    return Credentials(
        frozen.access_key, frozen.secret_key, frozen.token, None if expires_at is None else expires_at.astimezone(UTC)
    )


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
