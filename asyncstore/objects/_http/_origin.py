"""A server, and the way to it: addresses, proxy, TLS."""

from __future__ import annotations

import base64
import contextlib
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Origin", "Proxy"]

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """What passes requests on."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)
    """Value of the header by which it knows us."""

    @classmethod
    def of(cls, url: str) -> Proxy:
        """
        Return the proxy at a URL, which may hold a name and a password.

        Raises:
            ConfigurationError: it is not reached over plain HTTP, or the URL is none.
        """
        parts, host, port = urlsplit(""), None, None
        # What it says of a URL that is none may hold the password.
        with contextlib.suppress(ValueError):
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        if parts.scheme != "http" or not host:
            raise ConfigurationError("the proxy that the environment names must be an http:// URL with a host")
        said = ""
        if parts.username is not None:
            name = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            said = f"Basic {base64.b64encode(name.encode()).decode()}"
        return cls(host, port or _PORTS["http"], said)


@dataclass(frozen=True, slots=True)
class Origin:
    """
    A server, and how connections to it are made.

    Attributes:
        scheme: ``http`` or ``https``.
        host: name or address.
        port: where it listens.
        said: what the ``Host`` header says.
        proxy: what is between, if anything.
        tls: what TLS connections are made by, none on plain HTTP.
    """

    scheme: str
    host: str
    port: int
    said: str
    proxy: Proxy | None = None
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, url: str, ca_bundle: Path | None) -> Origin:
        """
        Return the server of a URL, by the proxy that the environment says; reads certificates, if it has any use.

        Args:
            url: with a scheme, and without a port that is the scheme's own.
            ca_bundle: CA certificates to trust instead of botocore's own.

        Raises:
            ConfigurationError: the certificates cannot be read, or there is no way to the proxy.
        """
        parts = urlsplit(url)
        assert parts.hostname is not None
        proxies = get_environ_proxies(url)
        proxy = proxies.get(parts.scheme) or proxies.get("all")
        tls = None
        if parts.scheme == "https":
            path = str(ca_bundle) if ca_bundle else get_cert_path(True)
            try:
                tls = ssl.create_default_context(cafile=path)
            except (OSError, ssl.SSLError) as error:
                raise ConfigurationError(f"the CA certificates in {path!r} cannot be read: {error}") from error
            # As before Python 3.13: certificates of private authorities often lack what RFC 5280 wants of them.
            tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
            tls.set_alpn_protocols(["http/1.1"])
        return cls(
            parts.scheme,
            parts.hostname,
            parts.port or _PORTS[parts.scheme],
            parts.netloc.rpartition("@")[2],
            Proxy.of(proxy) if proxy else None,
            tls,
        )

    @property
    def target_prefix(self) -> str:
        """What stands before a path in the first line of a request: a proxy is told the whole URL, on plain HTTP."""
        return f"http://{self.said}" if self.proxy is not None and self.tls is None else ""

    @property
    def next_hop(self) -> tuple[str, int]:
        """Host and port that are connected to."""
        return (self.proxy.host, self.proxy.port) if self.proxy is not None else (self.host, self.port)
