"""
Signatures of requests to S3: AWS Signature Version 4, in a header.

The rules are those of "Authenticating Requests: Using the Authorization Header" in the S3 API reference.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from asyncstore.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["EMPTY_HASH", "UNSIGNED", "Keys", "Signer", "header_lines"]

ALGORITHM = "AWS4-HMAC-SHA256"
EMPTY_HASH = hashlib.sha256().hexdigest()

UNSIGNED = "UNSIGNED-PAYLOAD"
"""Said instead of a payload's hash where that is not known beforehand."""


class Keys(Protocol):
    """What signs."""

    @property
    def access_key_id(self) -> str:
        """Which key."""
        ...

    @property
    def secret_access_key(self) -> str:
        """The key."""
        ...

    @property
    def token(self) -> str | None:
        """Comes with keys that expire."""
        ...


class Signer:
    """
    Signs requests to one host. Any thread may use it.

    Args:
        host: as the ``Host`` header says it.
        region: the host's.
        service: the host's.
        now_s: tells seconds since the epoch by the host's clock.
    """

    def __init__(self, host: str, region: str, service: str = "s3", *, now_s: Callable[[], float] = time.time) -> None:
        self._host = host
        self._region = region
        self._service = service
        self.now_s = now_s
        self._moment = (-1, "")
        self._derived: tuple[str, str, hmac.HMAC] | None = None

    def signed(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        payload_hash: str,
        keys: Keys,
        at_s: float | None = None,
    ) -> dict[str, str]:
        """
        Return all headers of a request, with its signature.

        Args:
            method: in upper case.
            path: quoted.
            query: quoted, its parameters sorted, each with a ``=``.
            headers: beside those that are added here.
            payload_hash: SHA-256 of the payload in hex, or :data:`UNSIGNED`.
            keys: what signs.
            at_s: when, in seconds since the epoch by the host's clock; now without it.

        Raises:
            InvalidValueError: two headers have the same name, perhaps one in upper case.
        """
        at = self._stamp(self.now_s() if at_s is None else at_s)
        said = {**headers, "host": self._host, "x-amz-content-sha256": payload_hash, "x-amz-date": at}
        if keys.token:
            said["x-amz-security-token"] = keys.token
        layout = _layout(tuple(said))
        lines = layout.signed % _trimmed(layout.values(said))
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{layout.names}\n{payload_hash}"
        scope = f"{at[:8]}/{self._region}/{self._service}/aws4_request"
        to_sign = f"{ALGORITHM}\n{at}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        # A copy of a state, as hmac.digest lets go of the interpreter's lock for what takes a microsecond.
        mac = self._mac(keys.secret_access_key, at[:8]).copy()
        mac.update(to_sign.encode())
        credential = f"Credential={keys.access_key_id}/{scope}"
        signature = f"SignedHeaders={layout.names}, Signature={mac.hexdigest()}"
        said["authorization"] = f"{ALGORITHM} {credential}, {signature}"
        return said

    def _stamp(self, at_s: float) -> str:
        """Return a time in UTC as signatures say it."""
        second = int(at_s)
        known, stamp = self._moment
        if second != known:
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
            self._moment = (second, stamp)
        return stamp

    def _mac(self, secret: str, day: str) -> hmac.HMAC:
        """Return what signs on a day, fed with nothing; it is to be copied."""
        known = self._derived
        if known is None or known[:2] != (secret, day):
            key = f"AWS4{secret}".encode()
            for said in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, said.encode(), "sha256")
            known = self._derived = (secret, day, hmac.new(key, digestmod="sha256"))
        return known[2]


def header_lines(headers: Mapping[str, str]) -> str:
    """Return headers as lines of a request's head, sorted, under names in lower case."""
    layout = _layout(tuple(headers))
    return layout.lines % layout.values(headers)


class _Layout(NamedTuple):
    """How headers of some names are written: found once for the many requests that have the same."""

    values: Callable[[Mapping[str, str]], tuple[Any, ...]]
    """Takes the values out of the headers, in the order of their names."""
    names: str
    """Sorted, in lower case."""
    signed: str
    """Takes the values, trimmed."""
    lines: str
    """Takes the values."""


@lru_cache(maxsize=256)
def _layout(names: tuple[str, ...]) -> _Layout:
    ordered = sorted(names, key=str.lower)
    lower = [name.lower() for name in ordered]
    if len(set(lower)) < len(lower):
        raise InvalidValueError(f"of the headers {', '.join(ordered)} two are the same")
    escaped = [name.replace("%", "%%") for name in lower]
    signed, lines = ("".join(form.format(name) for name in escaped) for form in ("{}:%s\n", "{}: %s\r\n"))
    return _Layout(itemgetter(*ordered), ";".join(lower), signed, lines)


def _trimmed(values: tuple[str, ...]) -> tuple[str, ...]:
    if "  " not in "".join(values) and values == tuple(map(str.strip, values)):
        return values
    return tuple(" ".join(said.split()) if "  " in said or said != said.strip() else said for said in values)
