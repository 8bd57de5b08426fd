"""
The peers' own S3 clients, set up fairly.

As many connections as tasks, no payload hashing over plain http, and no asking whether a body may be sent, which would
be another round trip.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import aioboto3
from aiobotocore.config import AioConfig
from botocore.handlers import add_expect_header
from obstore.store import S3Store

from harness.work import TASKS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CLIENT_OPTIONS: dict[str, Any] = {
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
    "s3": {"payload_signing_enabled": False, "addressing_style": "path"},
}
"""Of all clients that are made of botocore."""


@contextlib.asynccontextmanager
async def aioboto3_client(endpoint_url: str, region: str) -> AsyncIterator[Any]:
    """Open a client; its keys are those of the environment."""
    config = AioConfig(max_pool_connections=TASKS, **CLIENT_OPTIONS)
    async with aioboto3.Session().client("s3", endpoint_url=endpoint_url, region_name=region, config=config) as client:
        client.meta.events.unregister("before-call.s3", add_expect_header)
        yield client


def obstore_store(endpoint_url: str, region: str, bucket: str) -> S3Store:
    """Return a store; its keys are those of the environment."""
    return S3Store(
        bucket,
        endpoint=endpoint_url,
        region=region,
        access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
