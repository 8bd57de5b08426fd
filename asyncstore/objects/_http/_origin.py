"""A server, and the way to it: addresses, proxy, TLS."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from asyncstore.aws._endpoints import canonical_host, is_link_local, refuse_link_local
from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Origin", "Proxy", "proxy_for"]

_PORTS = {"http": 80, "https": 443}


def proxy_for(url: str) -> str:
    """
    Return the URL of the proxy that the environment says for a URL, empty if it says none.

    The variables are read as botocore reads them, and besides, ``NO_PROXY`` may name networks (``10.0.0.0/8``), and
    addresses in any spelling, those of IPv6 without brackets too.
    """
    proxies = {} if _is_exempt_address(url) else get_environ_proxies(url)
    found = proxies.get(urlsplit(url).scheme) or proxies.get("all") or ""
    return found if not found or "://" in found else f"http://{found}"


def _is_exempt_address(url: str) -> bool:
    try:
        address = ipaddress.ip_address(canonical_host(url))
    except ValueError:
        return False
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    for named in exempt.split(","):
        with contextlib.suppress(ValueError):
            if address in ipaddress.ip_network(named.strip().strip("[]"), strict=False):
                return True
    return False


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
            parts = urlsplit(url)
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
        allow_link_local: whether its name may turn out to be a link-local address.
    """

    scheme: str
    host: str
    port: int
    said: str
    proxy: Proxy | None = None
    tls: ssl.SSLContext | None = None
    allow_link_local: bool = False

    @classmethod
    def of(cls, url: str, ca_bundle: Path | None, *, allow_link_local: bool = False) -> Origin:
        """
        Return the server of a URL, by the proxy that the environment says; reads certificates, if it has any use.

        Args:
            url: with a scheme, and without a port that is the scheme's own.
            ca_bundle: CA certificates to trust instead of botocore's own.
            allow_link_local: let its name turn out to be a link-local address.

        Raises:
            ConfigurationError: the certificates cannot be read, or there is no way to the proxy.
        """
        parts = urlsplit(url)
        assert parts.hostname is not None
        proxy = proxy_for(url)
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
            # Whoever wrote such an address was asked when the settings were made.
            allow_link_local or is_link_local(parts.hostname),
        )

    def check_addresses(self, addresses: Iterable[str]) -> None:
        """
        Do nothing if these may be connected to, which the host was found to have.

        Raises:
            ConfigurationError: one is link-local. A proxy's may be: it was not named by the endpoint's settings.
        """
        if self.proxy is None and not self.allow_link_local:
            refuse_link_local(self.host, addresses)

    @property
    def target_prefix(self) -> str:
        """What stands before a path in the first line of a request: a proxy is told the whole URL, on plain HTTP."""
        return f"http://{self.said}" if self.proxy is not None and self.tls is None else ""

    @property
    def next_hop(self) -> tuple[str, int]:
        """Host and port that are connected to."""
        return (self.proxy.host, self.proxy.port) if self.proxy is not None else (self.host, self.port)
