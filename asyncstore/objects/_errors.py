"""The one table of what obstore's and botocore's errors mean, and the one for files."""

from __future__ import annotations

import errno
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING

from obstore import exceptions as obs

from asyncstore.aws.clock import parse_http_date
from asyncstore.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AsyncStoreError,
    ConfigurationError,
    ConflictError,
    CredentialsError,
    IntegrityError,
    NotFoundError,
    UnavailableError,
    UnsafePathError,
)
from asyncstore.objects._s3._bucket import NOWHERE

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BODILESS",
    "DamagedError",
    "NoSuchUploadError",
    "RangeIgnoredError",
    "RedirectedError",
    "RefusedKeysError",
    "SkewedError",
    "UnexplainedError",
    "code_in",
    "from_file_error",
    "from_obstore",
    "from_s3_code",
    "no_answer",
    "region_in",
    "server_time_s",
    "shows_secrets",
    "transport_reason",
]


class RangeIgnoredError(IntegrityError):
    """A range was asked for, and the answer does not say that it is one."""


class DamagedError(IntegrityError):
    """The bytes that arrived are not those of their checksum."""


class NoSuchUploadError(NotFoundError):
    """A multipart upload that was never begun, or is over."""


class RedirectedError(ConfigurationError):
    """The server sends its clients elsewhere, where signed requests do not go."""


class RefusedKeysError(CredentialsError):
    """The keys have expired, or are not known there any more: others may do."""


class UnexplainedError(AsyncStoreError):
    """A bad request, and an answer without a body that could say why: so keys are refused to a HEAD, too."""


class SkewedError(CredentialsError):
    """
    The server does not take the time of a signature for the present.

    Attributes:
        server_s: the present by the server's clock, in seconds since the epoch, if it has said it.
    """

    server_s: float | None = None


_STATUS = re.compile(r"status code: (\d{3})")
_METHOD = re.compile(r"Error performing ([A-Z]+) ")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_SECRET = re.compile(r"<Token|<CanonicalRequest|security-token|proxy-authorization", re.IGNORECASE)
_REGION = re.compile(r"<Region>([\w-]+)</Region>|<Endpoint>(?:[\w.-]*\.)?s3[.-]([a-z0-9-]+)\.amazonaws\.com")
_SERVER_TIME = re.compile(r"<ServerTime>([^<]+)</ServerTime>")
_BULK_CODE = re.compile(r"\(code: (\w+)\)$")
"""How a bulk delete ends its first line, when it was answered and a key was refused."""

_BY_CODE: Mapping[str, type[AsyncStoreError]] = {
    "AccessDenied": AccessDeniedError,
    "AllAccessDisabled": AccessDeniedError,
    "AuthorizationHeaderMalformed": ConfigurationError,
    "BadDigest": DamagedError,
    "ConditionalRequestConflict": UnavailableError,
    "ExpiredToken": RefusedKeysError,
    "ExpiredTokenException": RefusedKeysError,
    "IncompleteBody": UnavailableError,
    "InternalError": UnavailableError,
    "InvalidAccessKeyId": RefusedKeysError,
    "InvalidBucketName": ConfigurationError,
    "InvalidRange": IntegrityError,
    "InvalidDigest": IntegrityError,
    "InvalidToken": RefusedKeysError,
    "NoSuchBucket": ConfigurationError,
    "NoSuchKey": NotFoundError,
    "NoSuchUpload": NoSuchUploadError,
    "NotImplemented": ConfigurationError,
    "OperationAborted": UnavailableError,
    "PermanentRedirect": RedirectedError,
    "PreconditionFailed": ConflictError,
    "RequestExpired": SkewedError,
    "RequestTimeTooSkewed": SkewedError,
    "RequestTimeout": UnavailableError,
    "ServiceUnavailable": UnavailableError,
    "SignatureDoesNotMatch": CredentialsError,
    "SlowDown": UnavailableError,
    "TokenRefreshRequired": RefusedKeysError,
    "TemporaryRedirect": RedirectedError,
    "XAmzContentChecksumMismatch": DamagedError,
}
_BY_STATUS: Mapping[int, type[AsyncStoreError]] = {
    301: RedirectedError,
    302: RedirectedError,
    303: RedirectedError,
    307: RedirectedError,
    308: RedirectedError,
    400: AsyncStoreError,
    401: CredentialsError,
    403: AccessDeniedError,
    404: NotFoundError,
    408: UnavailableError,
    409: UnavailableError,
    412: ConflictError,
    416: IntegrityError,
    429: UnavailableError,
    500: UnavailableError,
    501: ConfigurationError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}
BODILESS = {"HEAD", "DELETE"}
"""Methods whose 404 need not say a code; that of others does, if S3 speaks."""

_UNDONE = {409, 429, 503}
"""Statuses of requests that are worth retrying and were not carried out."""

_UNDONE_CODES = {"IncompleteBody", "OperationAborted"}

_THROTTLED = {"RequestLimitExceeded", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException"}

_ADVICE: Mapping[str, str] = {
    "AccessDenied": "a permission is missing",
    "AuthorizationHeaderMalformed": "the region is probably wrong",
    "ExpiredToken": "the credentials have expired",
    "InvalidAccessKeyId": "the access key is not known there",
    "NotImplemented": "the server cannot do this",
    "NoSuchBucket": "the bucket does not exist: create it, or mend s3_bucket",
    "PermanentRedirect": "the bucket is in another region: mend region or endpoint_url",
    "TemporaryRedirect": "the bucket is in another region: mend region or endpoint_url",
    "InvalidToken": "the session token is not accepted",
    "TokenRefreshRequired": "the credentials have expired",
    "SignatureDoesNotMatch": "the secret key is wrong",
}


_ELSEWHERE = "the server redirects to another host, which is not followed: mend endpoint_url or region"


def from_obstore(error: Exception, what: str) -> AsyncStoreError:
    """Return our error for one of obstore's; ``what`` says what was asked and where ("put s3://bucket/key")."""
    text = str(error)
    status = _STATUS.search(text)
    code = _CODE.search(text) or (None if status else _BULK_CODE.search(_first_line(text)))
    if code or status:
        method = _METHOD.search(text)
        bodiless = method is not None and method[1] in BODILESS
        found, number = code[1] if code else "", int(status[1]) if status else 0
        server_s, region = server_time_s(text), region_in(text)
        return from_s3_code(found, number, what, error, bodiless=bodiless, server_s=server_s, region=region)
    if NOWHERE.removeprefix("http://") in text:
        return RedirectedError(f"{what}: {_ELSEWHERE}")
    match error:
        case FileNotFoundError():
            return NotFoundError(f"{what}: not found")
        case obs.AlreadyExistsError():
            return AlreadyExistsError(f"{what}: it exists already")
        case obs.PreconditionError() | obs.NotModifiedError():
            return ConflictError(f"{what}: it was changed meanwhile")
        case obs.PermissionDeniedError():
            return AccessDeniedError(f"{what}: denied")
        case obs.UnauthenticatedError():
            return CredentialsError(f"{what}: the credentials are not accepted")
        case obs.InvalidPathError():
            return UnsafePathError(f"{what}: {_first_line(text)}")
        case obs.UnknownConfigurationKeyError() | NotImplementedError() | ValueError():
            return ConfigurationError(f"{what}: {_first_line(text)}")
    if "NotPartial" in text:
        return RangeIgnoredError(f"{what}: the server does not mark its answer as a range")
    if "Content-Length Header missing" in text:
        return AsyncStoreError(f"{what}: the answer does not say how large the object is")
    unsent = "(Connect)" in text or "ConnectError" in text or "dns error" in text
    return no_answer(f"{what}: {transport_reason(text)}", sent=not unsent)


def shows_secrets(error: Exception) -> bool:
    """Whether one of obstore's errors shows the session token, which servers that refuse it send back."""
    return _SECRET.search(str(error)) is not None


def code_in(body: str) -> str:
    """Return S3's code in the body of an error, empty if it names none."""
    found = _CODE.search(body)
    return found[1] if found else ""


def region_in(body: str) -> str:
    """Return the region that the body of an error names, empty if it names none."""
    found = _REGION.search(body)
    return (found[1] or found[2]) if found else ""


def server_time_s(body: str, date: str = "") -> float | None:
    """Return the time that a refusal says in its body, or else in its ``Date`` header, in seconds since the epoch."""
    found = _SERVER_TIME.search(body)
    try:
        return datetime.fromisoformat(found[1]).timestamp() if found else parse_http_date(date)
    except (ValueError, OverflowError):
        return parse_http_date(date)


def from_s3_code(
    code: str,
    status: int,
    what: str,
    error: Exception | None = None,
    *,
    bodiless: bool = False,
    server_s: float | None = None,
    region: str = "",
) -> AsyncStoreError:
    """
    Return our error for an S3 error code and HTTP status, either of which may be missing.

    ``bodiless`` says that the answer has no body where a code could stand, ``server_s`` what time it was there, and
    ``region`` which region it named.
    """
    if status == 404 and not code and not bodiless:
        return ConfigurationError(f"{what}: what answers there does not answer like S3: mend endpoint_url [HTTP 404]")
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status) or (UnavailableError if status >= 500 else AsyncStoreError)
    if kind is ConflictError and isinstance(error, obs.AlreadyExistsError):
        kind = AlreadyExistsError
    said = f"{code} ({status})" if code and status else code or f"HTTP {status}"
    if kind is SkewedError:
        return _skewed(what, said, server_s)
    if status == 400 and not code and bodiless:
        kind = UnexplainedError
    advice = _ADVICE.get(code) or (_ELSEWHERE if kind is RedirectedError else None)
    if region and (kind is RedirectedError or code == "AuthorizationHeaderMalformed"):
        advice = f"the bucket is in region {region}: set region to that"
    message = f"{what}: {advice} [{said}]" if advice else f"{what}: {said}"
    if kind is not UnavailableError:
        return kind(message)
    unavailable = no_answer(message, sent=status not in _UNDONE and code not in _UNDONE_CODES)
    unavailable.throttled = code in _THROTTLED or (not code and status in {429, 503})
    return unavailable


def _skewed(what: str, said: str, server_s: float | None) -> SkewedError:
    wrong = "this machine's clock is wrong"
    if server_s is not None:
        off_s = time.time() - server_s
        wrong = f"this machine's clock is {abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} the server's"
    skewed = SkewedError(f"{what}: {wrong} [{said}]")
    skewed.server_s = server_s
    return skewed


def no_answer(message: str, *, sent: bool) -> UnavailableError:
    """Return the error for a request that got no useful answer; ``sent`` if it may have been carried out."""
    error = UnavailableError(message)
    error.answer_lost = sent
    return error


_BY_ERRNO: Mapping[int, type[AsyncStoreError]] = {
    errno.ENOENT: NotFoundError,
    errno.EEXIST: AlreadyExistsError,
    errno.EACCES: AccessDeniedError,
    errno.EPERM: AccessDeniedError,
    errno.EROFS: AccessDeniedError,
    errno.ENAMETOOLONG: UnsafePathError,
    errno.EINVAL: UnsafePathError,
    errno.EISDIR: UnsafePathError,
    errno.ENOTDIR: UnsafePathError,
    errno.ELOOP: UnsafePathError,
    errno.EILSEQ: UnsafePathError,
}


def from_file_error(error: OSError, what: str) -> AsyncStoreError:
    """Return our error for one of the file system's; what is not in the table may pass (no space, too many files)."""
    kind = _BY_ERRNO.get(error.errno or 0, UnavailableError)
    return kind(f"{what}: {(error.strerror or str(error)).lower()}")


def _first_line(text: str) -> str:
    return text.splitlines()[0][:300] if text else "no reason given"


def transport_reason(text: str) -> str:
    """Return in one line why no answer came, from what a driver says of it."""
    for sign, reason in (
        ("Connection refused", "connection refused: is the endpoint right, and the server up?"),
        ("dns error", "the host name of the endpoint cannot be resolved"),
        ("NameResolutionError", "the host name of the endpoint cannot be resolved"),
        ("TimedOut", "no answer in time"),
        ("timed out", "no answer in time"),
        ("ertificate", "the server's TLS certificate is not trusted"),
        ("CERTIFICATE_VERIFY_FAILED", "the server's TLS certificate is not trusted"),
    ):
        if sign in text:
            return reason
    return f"the connection failed: {_first_line(text)}"
