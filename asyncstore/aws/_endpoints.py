"""
Which endpoints are safe to send signed requests to.

Pure but for :func:`refuse_link_local_name`, which looks a name up. An address may be spelled in any way that the
system's resolver takes for one: ``0xa9fea9fe`` and ``::ffff:169.254.169.254`` are both the metadata service.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "canonical_host",
    "checked_endpoint",
    "has_address",
    "is_aws",
    "is_link_local",
    "is_loopback",
    "refuse_link_local",
    "refuse_link_local_name",
]

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"

_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
_VISIBLE = re.compile(r"[!-~]*")

_LINK_LOCAL = tuple(
    ipaddress.ip_network(block)
    for block in (
        "169.254.0.0/16",
        "fe80::/10",
        # AWS' own, where instances and pods find their metadata and credentials over IPv6.
        "fd00:ec2::/32",
    )
)
_HOLDS_IPV4 = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))
"""IPv6 addresses whose last 32 bits are the IPv4 address that is reached: mapped ones, and those of NAT64."""

_METADATA_NAMES = re.compile(r"instance-data(\..+)?|metadata\.google\.internal")
"""What clouds call their metadata services, which have link-local addresses."""


def checked_endpoint(url: str, what: str, *, insecure: bool, allow_link_local: bool) -> str:
    """
    Return an endpoint with its scheme in lower case and without its last slash, if it is safe to use.

    Args:
        url: the endpoint.
        what: what errors call it. They never show the URL itself, which may hold a password.
        insecure: let ``http`` reach other hosts than this one.
        allow_link_local: let it be a link-local address.

    Raises:
        ConfigurationError: it is no URL of ``http`` or ``https``, holds credentials, a query or a fragment, if only
            an empty one, or is unsafe and was not allowed.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        fitting = parts.scheme in {"http", "https"} and parts.port != 0 and _HOST.fullmatch(host)
    except ValueError:
        raise ConfigurationError(f"{what} must be an http:// or https:// URL") from None
    if "@" in parts.netloc:
        raise ConfigurationError(f"{what} must not hold credentials")
    # Of the whole: line ends, tabs and an empty query or fragment are taken out of it when it is split.
    if not fitting or not _VISIBLE.fullmatch(url) or "?" in url or "#" in url:
        raise ConfigurationError(f"{what} must be an http:// or https:// URL")
    if not allow_link_local and (_METADATA_NAMES.fullmatch(host.rstrip(".")) or is_link_local(host)):
        raise ConfigurationError(
            f"{what} is a link-local address, as the metadata services of clouds have; "
            "set allow_link_local: true if that is meant"
        )
    if parts.scheme == "http" and not insecure and not is_loopback(host):
        raise ConfigurationError(
            f"{what} is http:// to another host, where anybody on the way can read and change what is sent: "
            "write https://, or set insecure: true"
        )
    # Not all clients know a scheme in upper case.
    return parts.scheme + url[len(parts.scheme) :].rstrip("/")


def canonical_host(url: str) -> str:
    """Return the host of a URL in the one spelling that all clients understand alike."""
    host = urlsplit(url).hostname or ""
    address = _parsed(host)
    return host if address is None else str(address)


def has_address(url: str) -> bool:
    """Whether the host of a URL is an address, and not a name."""
    return _parsed(urlsplit(url).hostname or "") is not None


def is_aws(url: str) -> bool:
    """Whether a URL is one of AWS' own hosts."""
    return f".{urlsplit(url).hostname}".endswith((".amazonaws.com", ".amazonaws.com.cn"))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by an address or as ``localhost``."""
    address = _address(host)
    return address.is_loopback if address is not None else host.rstrip(".") == "localhost"


def is_link_local(host: str) -> bool:
    """Whether a host is an address that is link-local; a name is not looked up."""
    address = _address(host)
    return address is not None and any(address in block for block in _LINK_LOCAL)


def refuse_link_local(host: str, addresses: Iterable[str]) -> None:
    """
    Do nothing if none of a host's addresses is link-local.

    Raises:
        ConfigurationError: one is.
    """
    if any(map(is_link_local, addresses)):
        raise ConfigurationError(
            f"{host} has a link-local address, as the metadata services of clouds have; "
            "set allow_link_local: true if that is meant"
        )


def refuse_link_local_name(url: str) -> None:
    """
    Look up the host of a URL, and do nothing if none of its addresses is link-local; blocks.

    A name that cannot be looked up is nobody's: whoever connects will say so.

    Raises:
        ConfigurationError: one is.
    """
    host = urlsplit(url).hostname or ""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return
    refuse_link_local(host, [str(address[0]) for *_, address in found])


def _address(host: str) -> Address | None:
    """Return the address by which a host is reached, ``None`` if it is a name."""
    address = _parsed(host)
    if isinstance(address, ipaddress.IPv6Address) and any(address in block for block in _HOLDS_IPV4):
        return ipaddress.IPv4Address(address.packed[-4:])
    return address


def _parsed(host: str) -> Address | None:
    host = host.rstrip(".")
    try:
        # The resolver's own reading of IPv4: fewer than four numbers, and octal and hexadecimal ones.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        pass
    try:
        return ipaddress.IPv6Address(host)
    except ValueError:
        return None
