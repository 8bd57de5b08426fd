"""Where a bucket is, by its settings, and obstore's client for it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from obstore.exceptions import BaseError
from obstore.store import S3Store

from asyncstore.aws._endpoints import canonical_host, has_address, is_aws, is_loopback, refuse_link_local_name
from asyncstore.errors import ConfigurationError
from asyncstore.objects._http._connection import CONNECT_TIMEOUT_S, READ_TIMEOUT_S
from asyncstore.objects._http._origin import Proxy, proxy_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.aws.settings import AwsSettings

__all__ = ["bucket_url", "check_bucket", "confine", "make_store", "may_stray", "read_ca_bundle", "write_headers"]

_BUCKET = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9])?")

REQUEST_TIMEOUT_S = 600
"""A whole request with its body; a stalled one is ended by the read timeout long before."""


NOWHERE = "http://127.0.0.1:0"
"""
A proxy that is none, for all hosts but the endpoint's and those under it: nothing ever listens on port 0.

obstore follows redirects to any host, with the session token and without a way to forbid it; so it is left without a
way there. Its errors tell of this address then, and of no other request's. Who needs no proxy is told by host alone,
so redirects to another port of the endpoint's host, or to a host under its name, are followed still.
"""


def make_store(
    settings: AwsSettings,
    bucket: str,
    *,
    credentials: Callable[[], dict[str, Any]],
    root_certificate: bytes | None,
) -> S3Store:
    """
    Return a client of obstore's that never retries by itself.

    Args:
        settings: how to reach the bucket.
        bucket: its name.
        credentials: called in the midst of requests; gives obstore's form of keys that are valid then.
        root_certificate: certificates to trust besides the system's, in PEM.

    Raises:
        ConfigurationError: the certificates are none, or the environment holds what obstore cannot read.
    """
    endpoint = _endpoint(settings, bucket)
    client: dict[str, Any] = {
        **_only_way(endpoint),
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
        "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
    }
    if root_certificate:
        client["root_certificate"] = root_certificate
    # Each of these has a variable that obstore would read otherwise, and that our own wire does not know.
    options: dict[str, Any] = {
        "virtual_hosted_style_request": not settings.path_style(bucket),
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
            bucket,
            client_options=client,  # type: ignore[arg-type]
            retry_config={"max_retries": 0},
            credential_provider=credentials,  # type: ignore[arg-type, unused-ignore]
            **options,
        )
    except BaseException as error:
        if isinstance(error, BaseError | ValueError) or type(error).__module__.startswith("pyo3"):
            raise ConfigurationError(
                f"s3://{bucket}: no client can be made: {str(error).partition(chr(10))[0]}; "
                "mend AWS_CA_BUNDLE, or what else the environment says of AWS"
            ) from error
        raise


def _only_way(endpoint: str) -> dict[str, Any]:
    """
    Return options of obstore's client by which it reaches an endpoint, as our own wire does, and no host elsewhere.

    Other ports of the endpoint's host and hosts under its name stay in reach; :data:`NOWHERE` says why. By a real proxy
    any host can be reached: there, a redirect of an endpoint on TLS cannot lead out of TLS at least.
    """
    way = {"allow_http": endpoint.startswith("http:")}
    if proxy := proxy_for(endpoint):
        Proxy.of(proxy)
        return {**way, "proxy_url": proxy}
    return {**way, "proxy_url": NOWHERE, "proxy_excludes": canonical_host(endpoint)}


def confine(settings: AwsSettings, bucket: str) -> bool:
    """
    Tell whether obstore reaches no host but that of a bucket's endpoint; blocks to look the endpoint's name up.

    Any port of that host counts as it, and so do hosts under its name: whoever runs it is trusted with what is there.
    obstore looks it up again for each connection, so this is no guard against a name that changes its meaning.

    Raises:
        ConfigurationError: its name is that of a link-local address, and ``allow_link_local`` is not set.
    """
    endpoint = _endpoint(settings, bucket)
    if proxy_for(endpoint):
        return False
    if not settings.allow_link_local and not has_address(endpoint) and not is_aws(endpoint):
        refuse_link_local_name(endpoint)
    return True


def may_stray(settings: AwsSettings, bucket: str) -> bool:
    """Tell whether there may be hosts under the endpoint's name that are not AWS' own, to which obstore can be sent."""
    endpoint = _endpoint(settings, bucket)
    return not (has_address(endpoint) or is_aws(endpoint) or is_loopback(urlsplit(endpoint).hostname or ""))


def check_bucket(bucket: str) -> None:
    """
    Do nothing if a bucket can have that name; others would be taken for a part of a host or a path.

    The rules are those of S3 for buckets of any age; other servers have the same or stricter ones.

    Raises:
        ConfigurationError: none can.
    """
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise ConfigurationError(
            f"s3_bucket {bucket!r} is no name of a bucket: letters, digits, '.', '-' and '_', 255 at most, "
            "without 's3://' and without a prefix"
        )


def bucket_url(settings: AwsSettings, bucket: str) -> str:
    """Return what the URLs of a bucket's objects begin with, up to the slash before the key."""
    endpoint = _without_default_port(_endpoint(settings, bucket))
    return f"{endpoint}/{bucket}" if settings.path_style(bucket) else endpoint


def write_headers(settings: AwsSettings) -> dict[str, str]:
    """Return what a write says of encryption, storage class and tags, which a policy may demand."""
    headers = {"x-amz-storage-class": settings.storage_class} if settings.storage_class else {}
    if key := settings.kms_key_arn:
        headers |= {"x-amz-server-side-encryption": "aws:kms", "x-amz-server-side-encryption-aws-kms-key-id": key}
    if settings.object_tags:
        headers["x-amz-tagging"] = urlencode(settings.object_tags, quote_via=quote)
    return headers


def read_ca_bundle(settings: AwsSettings) -> bytes | None:
    """
    Return the certificates to trust besides the system's, if any.

    Raises:
        ConfigurationError: they cannot be read.
    """
    bundle = settings.ca_bundle
    if bundle is None:
        return None
    try:
        return bundle.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"AWS_CA_BUNDLE {bundle} cannot be read: {error.strerror}") from error


def _without_default_port(url: str) -> str:
    # A signature is for the host without it, and a proxy would be told the host with it.
    parts = urlsplit(url)
    default = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    if default and parts.netloc.endswith(default):
        return parts._replace(netloc=parts.netloc.removesuffix(default)).geturl()
    return url


def _endpoint(settings: AwsSettings, bucket: str) -> str:
    url = settings.service_url
    if settings.path_style(bucket):
        return url
    if has_address(url):
        # obstore would panic.
        raise ConfigurationError(
            "addressing_style 'virtual' needs an endpoint with a name: an address has no subdomain"
        )
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{bucket}.{rest}"
