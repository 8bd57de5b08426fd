"""How botocore is used here: with a clock that may be corrected, without a word of what it sees, and with one table."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import botocore.auth
import botocore.config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigParseError,
    HTTPClientError,
    InvalidConfigError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)
from botocore.parsers import ResponseParserError

from asyncstore.aws.clock import ServerClock, parse_http_date
from asyncstore.errors import AccessDeniedError, AsyncStoreError, ConfigurationError, CredentialsError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["CLIENT_CONFIG", "NO_PROFILE", "looking", "said_time_s", "translated"]

NO_PROFILE: dict[str, Any] = {"profile": (None, None, None, None)}
"""Session variables of botocore with which it does not look for a profile in the environment."""

_SIGNATURE = "v4-asyncstore"
"""botocore takes what comes before the dash for the kind of signature."""

CLIENT_CONFIG = botocore.config.Config(
    signature_version=_SIGNATURE,
    connect_timeout=10,
    read_timeout=20,
    retries={"total_max_attempts": 1},
)
"""Of clients that ask for credentials: they are tried again here, and nobody waits for a minute for one answer."""

_TALKATIVE = ("auth", "client", "credentials", "endpoint", "hooks", "parsers", "tokens", "utils")
"""Modules of botocore that log requests and answers as a whole at DEBUG, secrets and all."""

_DENIED = {"AccessDenied", "AccessDeniedException"}
_BUSY = {
    "InternalError",
    "InternalFailure",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_SKEWED = {"InvalidSignatureException", "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch"}
"""What a wrong clock may be told as; STS calls an expired signature one that does not match."""

_NONSENSE = (AttributeError, LookupError, ResponseParserError, RuntimeError, TypeError, ValueError)
"""What botocore raises where somebody answers it with something else than credentials."""

_TELLTALE = (ConfigParseError, ResponseParserError, ValueError)
"""What holds what it could not read: lines of a file, or the answer of a program."""


class _Looking(threading.local):
    clock: ServerClock | None = None


_looking = _Looking()


class _Silence(logging.Filter):
    """Lets nothing pass at DEBUG in a thread that is looking for credentials."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _looking.clock is None or record.levelno > logging.DEBUG


_SILENCE = _Silence()
for _name in _TALKATIVE:
    logging.getLogger(f"botocore.{_name}").addFilter(_SILENCE)


class _ClockedAuth(botocore.auth.SigV4Auth):  # type: ignore[misc, unused-ignore]
    """Signs by the clock of whoever is looking for credentials in this thread."""

    def _modify_request_before_signing(self, request: Any) -> None:
        if _looking.clock is not None:
            now = datetime.fromtimestamp(_looking.clock.now_s(), UTC)
            request.context["timestamp"] = now.strftime(botocore.auth.SIGV4_TIMESTAMP)
        super()._modify_request_before_signing(request)


botocore.auth.AUTH_TYPE_MAPS[_SIGNATURE] = _ClockedAuth


@contextmanager
def looking(clock: ServerClock) -> Iterator[None]:
    """Let botocore sign by ``clock`` in this thread, within the block, and log no secrets."""
    _looking.clock = clock
    try:
        yield
    finally:
        _looking.clock = None


def said_time_s(response: Mapping[str, Any]) -> float | None:
    """Return the time that an answer says, in seconds since the epoch."""
    metadata = response.get("ResponseMetadata", {})
    return parse_http_date(str(metadata.get("HTTPHeaders", {}).get("date", "")))


def clock_was_wrong(error: ClientError, clock: ServerClock) -> bool:
    """Tell whether a request was refused because of the clock, which is set right then."""
    server_s = said_time_s(error.response)
    return _code(error) in _SKEWED and server_s is not None and clock.learn(server_s)


def translated(find: Callable[[], Any], clock: ServerClock, *, profile: str) -> Any:
    """
    Return what ``find`` returns, which asks botocore; it is called once more if the clock was wrong.

    Args:
        find: finds credentials.
        clock: what signs by; set right by answers that complain of it.
        profile: which one is configured, for errors.

    Raises:
        ConfigurationError: the profile does not exist, or the configuration of AWS is wrong.
        CredentialsError: there are none, or they are not accepted.
        AccessDeniedError: a role may not be assumed.
        UnavailableError: a service cannot be reached, or is busy.
    """
    try:
        with looking(clock):
            return _twice_if_skewed(find, clock)
    except (BotoCoreError, ClientError, OSError, *_NONSENSE) as error:
        if isinstance(error, AsyncStoreError):
            raise
        failure, cause = _error(error, profile, clock), error
    # Not from within the handler, where it would be chained to what must not be seen.
    if any(isinstance(one, _TELLTALE) for one in _chain(cause)):
        raise failure
    raise failure from (_without_answer(cause) if isinstance(cause, ClientError) else cause)


def _twice_if_skewed(find: Callable[[], Any], clock: ServerClock) -> Any:
    try:
        return find()
    except ClientError as error:
        if not clock_was_wrong(error, clock):
            raise
    return find()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _error(error: Exception, profile: str, clock: ServerClock) -> AsyncStoreError:
    match error:
        case ClientError():
            return _client_error(error, clock)
        case ProfileNotFound():
            if profile:
                return ConfigurationError(f"aws_profile {profile!r} does not exist")
            return ConfigurationError("the profile that AWS_PROFILE names in the environment does not exist")
        case ResponseParserError():
            return CredentialsError("no AWS credentials: what gives them answers nonsense")
        case InvalidConfigError() | ConfigParseError():
            return ConfigurationError(f"the configuration of AWS is wrong: {error}")
        case SSOError() | TokenRetrievalError():
            login = f"aws sso login --profile {profile}" if profile else "aws sso login"
            return CredentialsError(f"no AWS credentials: the SSO session is over: run {login!r} [{error}]")
        case BotoConnectionError() | HTTPClientError():
            return UnavailableError(f"credentials service cannot be reached: {error}")
        case BotoCoreError() | OSError():
            return CredentialsError(f"no AWS credentials: {error}")
    return CredentialsError(f"no AWS credentials: what gives them answers nonsense: {type(error).__name__}: {error}")


def _client_error(error: ClientError, clock: ServerClock) -> AsyncStoreError:
    code, said = _code(error), _message(error)
    asked = f"{error.operation_name}: {said} [{code}]"
    if code in _DENIED:
        return AccessDeniedError(
            f"AWS denies {asked}; what may assume a role is said by its trust relationship, and by the policies of "
            "who asks"
        )
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _BUSY or status >= 500 or status == 429:
        return UnavailableError(f"AWS is busy: {asked}")
    if code == "ValidationError":
        advice = "mend session_duration_in_seconds, or let the role have longer sessions: "
        return ConfigurationError(f"AWS refuses {advice if 'DurationSeconds' in said else ''}{asked}")
    skewed = f"; its clock is {clock.skew_s:+.0f} s from this machine's" if clock.skew_s else ""
    return CredentialsError(f"AWS does not accept the credentials: {asked}{skewed}")


def _without_answer(error: ClientError) -> ClientError:
    """Return an error without the rest of the answer: AWS repeats in it what it was told, session tokens too."""
    told = {"Error": {"Code": _code(error), "Message": _message(error)}}
    return ClientError(told, error.operation_name).with_traceback(error.__traceback__)


def _message(error: ClientError) -> str:
    # Where a signature does not match, the request follows, with its headers.
    return str(error.response.get("Error", {}).get("Message", "")).partition("\n")[0]


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
