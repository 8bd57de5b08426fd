"""Plain clients of AWS' services, by which tests look at a server without asyncstore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import botocore.session

if TYPE_CHECKING:
    from asyncstore.testing.servers import S3Server

__all__ = ["aws_client"]


def aws_client(server: S3Server, service: str = "s3") -> Any:
    """Return a client with the server's own keys, whatever the environment and the user's files say."""
    return botocore.session.Session().create_client(
        service,
        region_name=server.region,
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
