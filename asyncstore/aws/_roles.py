"""Roles: how they are assumed, and what their sessions are called. Everything here but the names blocks."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import botocore.config
import botocore.session
from botocore.utils import get_environ_proxies

from asyncstore.aws._botocore import CLIENT_CONFIG, NO_PROFILE, said_time_s
from asyncstore.aws._endpoints import refuse_link_local_name
from asyncstore.aws._keys import Credentials

if TYPE_CHECKING:
    from asyncstore.aws.clock import ServerClock
    from asyncstore.aws.settings import AwsSettings

__all__ = ["assume_role", "session_name"]

_CONFIG = CLIENT_CONFIG.merge(botocore.config.Config(ignore_configured_endpoint_urls=True))
_FOREIGN = re.compile(r"[^\w+=,.@-]", re.ASCII)
NAME_LIMIT = 64


def session_name(settings: AwsSettings) -> str:
    """Return what a session is called in CloudTrail: as configured, or by the host, in letters that STS takes."""
    return settings.role_session_name or _FOREIGN.sub("-", f"asyncstore-{socket.gethostname()}")[:NAME_LIMIT]


def assume_role(settings: AwsSettings, role_arn: str, base: Credentials, clock: ServerClock) -> Credentials:
    """
    Return credentials of a role, which ``base`` may assume; the answer sets the clock right.

    Raises:
        BotoCoreError: see :func:`asyncstore.aws._botocore.translated`.
        ClientError: STS refuses.
    """
    endpoint = settings.sts_endpoint
    if endpoint and not settings.allow_link_local and not get_environ_proxies(endpoint):
        refuse_link_local_name(endpoint)
    client = botocore.session.Session(session_vars=NO_PROFILE).create_client(
        "sts",
        region_name=settings.region,
        endpoint_url=endpoint,
        aws_access_key_id=base.access_key_id,
        aws_secret_access_key=base.secret_access_key,
        aws_session_token=base.token,
        config=_CONFIG,
    )
    try:
        answer = client.assume_role(
            RoleArn=role_arn,
            RoleSessionName=session_name(settings),
            DurationSeconds=settings.session_duration_in_seconds,
        )
    finally:
        client.close()
    if (server_s := said_time_s(answer)) is not None:
        clock.learn(server_s)
    given = answer["Credentials"]
    return Credentials(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], given["Expiration"])
