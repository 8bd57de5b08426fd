"""
CORS: which web pages may talk to the bucket, as S3 reads it in XML and as its tools read it in JSON.

Pure. A browser asks before a page's script may send a presigned request to another host; what it asks is answered from
these rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["CorsRule", "check_origin", "cors_document", "cors_rules", "cors_xml"]

RULE_ID = "asyncstore"
"""The name of our rule, by which it is found again among others."""

MAX_AGE_S = 3000
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass(frozen=True, slots=True)
class CorsRule:
    """Requests that pages of some origins may send."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...] = ()
    """Headers that they may send."""
    exposed: tuple[str, ...] = ()
    """Headers that they may read of the answer."""
    max_age_s: int = MAX_AGE_S
    """How long a browser remembers the answer, in seconds."""
    id: str = ""

    @classmethod
    def parse(cls, rule: dict[str, Any]) -> CorsRule:
        """Take a rule as S3 gives it."""
        return cls(
            tuple(rule.get("AllowedOrigins", ())),
            tuple(rule.get("AllowedMethods", ())),
            tuple(rule.get("AllowedHeaders", ())),
            tuple(rule.get("ExposeHeaders", ())),
            int(rule.get("MaxAgeSeconds", 0)),
            str(rule.get("ID", "")),
        )

    def document(self) -> dict[str, Any]:
        """Return it as S3's tools want it."""
        return {
            **({"ID": self.id} if self.id else {}),
            "AllowedOrigins": list(self.origins),
            "AllowedMethods": list(self.methods),
            **({"AllowedHeaders": list(self.headers)} if self.headers else {}),
            **({"ExposeHeaders": list(self.exposed)} if self.exposed else {}),
            **({"MaxAgeSeconds": self.max_age_s} if self.max_age_s else {}),
        }


def cors_rules(origins: Sequence[str], *, full_access: bool = False) -> tuple[CorsRule, ...]:
    """
    Return the rules that let pages of ``origins`` down- and upload by presigned URLs and forms; none without origins.

    Args:
        origins: scheme, host and port of the pages, as :func:`check_origin` returns them.
        full_access: the rules of the older guides instead: pages from anywhere may read, those of ``origins`` may post.
    """
    if not origins:
        return ()
    if full_access:
        sent = ("Authorization",)
        return CorsRule(("*",), ("GET",), sent), CorsRule(tuple(origins), ("POST",), sent)
    methods = ("GET", "HEAD", "POST", "PUT")
    # A part's ETag is what completes an upload in parts.
    return (CorsRule(tuple(origins), methods, ("*",), ("ETag",), MAX_AGE_S, RULE_ID),)


def cors_document(rules: Iterable[CorsRule]) -> dict[str, Any]:
    """Return the rules as ``put-bucket-cors`` wants them; the console wants the list alone."""
    return {"CORSRules": [rule.document() for rule in rules]}


def cors_xml(rules: Iterable[CorsRule]) -> str:
    """Return the rules as S3's API and older consoles want them."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<CORSConfiguration xmlns="{_NAMESPACE}">']
    for rule in rules:
        lines += ["    <CORSRule>", *_elements(rule), "    </CORSRule>"]
    return "\n".join([*lines, "</CORSConfiguration>"])


def check_origin(origin: str) -> str:
    """
    Return an origin as browsers say it: lower case, no path, no port that goes without saying.

    Raises:
        ConfigurationError: it is not ``*``, nor scheme, host and perhaps port.
    """
    if origin == "*":
        return origin
    wrong = ConfigurationError(f"origin {origin!r} must be a scheme and a host: https://app.example.com")
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        raise wrong from None
    host = parts.hostname or ""
    plain = parts.path in {"", "/"} and not parts.query and not parts.fragment and "@" not in parts.netloc
    if parts.scheme not in {"http", "https"} or not host or not plain or not host.isascii() or host.count("*") > 1:
        raise wrong
    named = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{named}" if port in {None, usual} else f"{parts.scheme}://{named}:{port}"


def _elements(rule: CorsRule) -> list[str]:
    said = [
        *(("ID", rule.id) for _ in range(bool(rule.id))),
        *(("AllowedOrigin", origin) for origin in rule.origins),
        *(("AllowedMethod", method) for method in rule.methods),
        *(("MaxAgeSeconds", str(rule.max_age_s)) for _ in range(bool(rule.max_age_s))),
        *(("AllowedHeader", header) for header in rule.headers),
        *(("ExposeHeader", header) for header in rule.exposed),
    ]
    return [f"        <{name}>{escape(text)}</{name}>" for name, text in said]
